//! What the cluster knows: object servers, metadata servers, placement groups, sessions.

use std::collections::HashMap;
use std::time::Duration;

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{self, MrcList, OsdList, PgList, SessionList, VolumeList};
use serde::Serialize;
use shell::admin::Admin;

use crate::find::Found;
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

/// How long one server may take to speak for itself.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A reply to another question.
pub(crate) fn odd() -> Failure {
    Failure::failed("the cluster answered another question; run the same release everywhere")
}

/// How the pool of a store on ZFS is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pool {
    pub(crate) dataset: String,
    pub(crate) state: String,
    pub(crate) healthy: bool,
    pub(crate) problem: String,
    pub(crate) scan: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Osd {
    id: u64,
    address: String,
    state: String,
    pid: u64,
    capacity_bytes: u64,
    free_bytes: u64,
    objects_behind: u64,
    placement_groups: u64,
    draining: bool,
    location: String,
    heartbeat_age_ms: u64,
    store_uuid: String,
    dir: String,
    pub(crate) pool: Option<Pool>,
    pub(crate) seedings: Vec<Seeding>,
}

/// A replica that a server receives as a whole.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Seeding {
    pub(crate) osd: u64,
    pub(crate) volume: u64,
    pub(crate) pg: u32,
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
}

impl Seeding {
    /// How far it is.
    pub(crate) fn progress(&self) -> String {
        format!(
            "{} of about {}",
            render::bytes(self.done_bytes),
            render::bytes(self.total_bytes)
        )
    }
}

impl From<&mrc::Seeding> for Seeding {
    fn from(one: &mrc::Seeding) -> Self {
        Self {
            osd: one.osd,
            volume: one.volume,
            pg: one.pg,
            done_bytes: one.done_bytes,
            total_bytes: one.total_bytes,
        }
    }
}

impl Row for Osd {
    const HEADINGS: &'static [&'static str] = &[
        "osd",
        "address",
        "state",
        "pid",
        "capacity",
        "free",
        "behind",
        "pgs",
        "heard",
        "location",
        "directory",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match self.draining {
            true => format!("{}, draining", self.state),
            false => self.state.clone(),
        };
        vec![
            self.id.to_string(),
            self.address.clone(),
            state,
            self.pid.to_string(),
            render::bytes(self.capacity_bytes),
            render::bytes(self.free_bytes),
            self.objects_behind.to_string(),
            self.placement_groups.to_string(),
            format!("{} ago", render::millis(self.heartbeat_age_ms)),
            self.location.clone(),
            self.dir.clone(),
        ]
    }
}

/// All object servers as the leader knows them.
pub(crate) async fn osds_known(admin: &Admin) -> Result<Vec<mrc::Osd>, Failure> {
    match admin.ask_leader(Op::OsdList(OsdList {})).await? {
        Reply::Osds(osds) => Ok(osds.osds),
        _ => Err(odd()),
    }
}

pub(crate) async fn osds(admin: &Admin) -> Result<Done, Failure> {
    let osds = osds_known(admin).await?;
    let rows: Vec<Osd> = osds.into_iter().map(Osd::from).collect();
    Ok(render::list(&rows))
}

impl From<mrc::Osd> for Osd {
    fn from(osd: mrc::Osd) -> Self {
        Self {
            id: osd.osd,
            address: osd.address,
            state: osd.state,
            pid: osd.pid,
            capacity_bytes: osd.capacity_bytes,
            free_bytes: osd.free_bytes,
            objects_behind: osd.objects_behind,
            placement_groups: osd.pgs,
            draining: osd.draining,
            location: osd.location,
            heartbeat_age_ms: osd.heartbeat_age_ms,
            store_uuid: osd.store_uuid,
            dir: osd.dir,
            pool: osd.pool.map(|pool| Pool {
                dataset: pool.dataset,
                state: pool.state,
                healthy: pool.healthy,
                problem: pool.problem,
                scan: pool.scan,
            }),
            seedings: osd.seedings.iter().map(Seeding::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Mrc {
    id: u64,
    address: String,
    state: String,
    pid: u64,
    term: Option<u64>,
    last_log_index: Option<u64>,
    applied_index: Option<u64>,
    checkpoint_index: Option<u64>,
    /// Whether it counts for majorities, as the leader says.
    voter: Option<bool>,
    /// Entries of the log that it lacks, as far as the leader knows.
    lag_entries: Option<u64>,
    /// Since it last answered the leader.
    heard_ms: Option<u64>,
    dir: String,
}

impl Row for Mrc {
    const HEADINGS: &'static [&'static str] = &[
        "mrc",
        "address",
        "state",
        "pid",
        "term",
        "log",
        "applied",
        "checkpoint",
        "votes",
        "lag",
        "heard",
        "directory",
    ];

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<u64>| {
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        vec![
            self.id.to_string(),
            self.address.clone(),
            self.state.clone(),
            self.pid.to_string(),
            number(self.term),
            number(self.last_log_index),
            number(self.applied_index),
            number(self.checkpoint_index),
            match self.voter {
                Some(true) => "yes",
                Some(false) => "no",
                None => "-",
            }
            .to_owned(),
            number(self.lag_entries),
            self.heard_ms.map_or_else(
                || "-".to_owned(),
                |heard| format!("{} ago", render::millis(heard)),
            ),
            self.dir.clone(),
        ]
    }
}

/// Asks one for the members, then each for itself.
pub(crate) async fn mrcs(admin: &Admin, found: &Found) -> Result<Done, Failure> {
    let mut known: Vec<mrc::Server> = Vec::new();
    let mut addresses = found.addresses.clone();
    let mut rows: Vec<Mrc> = Vec::new();
    let mut members: Vec<mrc::MrcMember> = Vec::new();
    let mut missing = Vec::new();
    let mut next = 0;
    // Addresses are added while we go.
    while let Some(address) = addresses.get(next).cloned() {
        next += 1;
        match admin
            .ask(&address, Op::MrcList(MrcList {}), ANSWER_TIMEOUT)
            .await
        {
            Ok(Some(Reply::Mrcs(mrcs))) => {
                for server in &mrcs.servers {
                    if !addresses.contains(&server.address) {
                        addresses.push(server.address.clone());
                    }
                }
                rows.extend(own_words(&address, &mrcs));
                known.extend(mrcs.servers);
                if !mrcs.members.is_empty() {
                    members = mrcs.members;
                }
            }
            Ok(_) => return Err(odd()),
            Err(error) => missing.push(format!("{address}: {error}")),
        }
    }
    if rows.is_empty() {
        let said = missing.join("; ");
        return Err(Failure::failed(format!(
            "no metadata server answers ({said})"
        )));
    }
    for server in known {
        if rows.iter().all(|row| row.id != server.id) {
            rows.push(row_of(&server, "down"));
        }
    }
    for row in &mut rows {
        let member = members.iter().find(|member| member.id == row.id);
        row.voter = member.map(|member| member.voter);
        row.lag_entries = member.and_then(|member| member.lag_entries);
        row.heard_ms = member.and_then(|member| member.heard_ms);
    }
    rows.sort_by_key(|row| row.id);
    let mut done = render::list(&rows);
    done.missing = missing;
    Ok(done)
}

fn own_words(address: &str, mrcs: &mrc::Mrcs) -> Option<Mrc> {
    let own = mrcs
        .servers
        .iter()
        .find(|server| server.address == address)?;
    Some(Mrc {
        term: Some(mrcs.term),
        last_log_index: Some(mrcs.last_log_index),
        applied_index: Some(mrcs.applied_index),
        checkpoint_index: Some(mrcs.checkpoint_index),
        ..row_of(own, &own.state)
    })
}

fn row_of(server: &mrc::Server, state: &str) -> Mrc {
    Mrc {
        id: server.id,
        address: server.address.clone(),
        state: state.to_owned(),
        pid: server.pid,
        term: None,
        last_log_index: None,
        applied_index: None,
        checkpoint_index: None,
        voter: None,
        lag_entries: None,
        heard_ms: None,
        dir: server.dir.clone(),
    }
}

#[derive(Debug, Serialize)]
struct Pg {
    volume: String,
    pg: u32,
    view: u64,
    osds: Vec<u64>,
    /// The set before, while it changes.
    previous: Vec<u64>,
    /// Who has not said yet that it knows of the change and has everything.
    settling: Vec<u64>,
    incomplete: Vec<u64>,
    full_replicas: u32,
    state: String,
    /// Of the largest replica; null before one was counted.
    bytes: Option<u64>,
    objects: Option<u64>,
    lags: Vec<Lag>,
}

/// What a replica lacks of changes that primaries made.
#[derive(Debug, Serialize)]
struct Lag {
    osd: u64,
    bytes: u64,
    age_ms: u64,
}

impl Row for Pg {
    const HEADINGS: &'static [&'static str] = &[
        "volume",
        "pg",
        "view",
        "osds",
        "changes from",
        "settling",
        "incomplete",
        "full",
        "state",
        "size",
        "objects",
        "lag",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.volume.clone(),
            self.pg.to_string(),
            self.view.to_string(),
            render::numbers(&self.osds),
            render::numbers(&self.previous),
            render::numbers(&self.settling),
            render::numbers(&self.incomplete),
            format!("{}/{}", self.full_replicas, self.osds.len()),
            self.state.clone(),
            self.bytes.map_or_else(|| "-".to_owned(), render::bytes),
            self.objects
                .map_or_else(|| "-".to_owned(), |it| it.to_string()),
            lags(&self.lags),
        ]
    }
}

impl From<mrc::ReplicaLag> for Lag {
    fn from(lag: mrc::ReplicaLag) -> Self {
        Self {
            osd: lag.osd,
            bytes: lag.bytes,
            age_ms: lag.age_ms,
        }
    }
}

/// As in `2: 1.5 MiB, 30 ms`; a dash if nobody is behind.
fn lags(lags: &[Lag]) -> String {
    let one = |lag: &Lag| {
        let (bytes, age) = (render::bytes(lag.bytes), render::millis(lag.age_ms));
        format!("{}: {bytes}, {age}", lag.osd)
    };
    match lags {
        [] => "-".to_owned(),
        lags => lags.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

async fn pgs_known(admin: &Admin, volume: Option<&str>) -> Result<Vec<Pg>, Failure> {
    let Reply::Volumes(volumes) = admin.ask_leader(Op::VolumeList(VolumeList {})).await? else {
        return Err(odd());
    };
    let names: HashMap<u64, String> = volumes
        .volumes
        .into_iter()
        .map(|volume| (volume.volume, volume.name))
        .collect();
    if let Some(wanted) = volume
        && !names.values().any(|name| name == wanted)
    {
        return Err(Failure::failed(format!(
            "there is no volume {wanted:?}; `xfs-admin volume list` shows those there are"
        )));
    }
    let op = Op::PgList(PgList {
        volume: volume.unwrap_or_default().to_owned(),
    });
    let Reply::Pgs(pgs) = admin.ask_leader(op).await? else {
        return Err(odd());
    };
    let rows = pgs.pgs.into_iter().map(|pg| Pg {
        volume: names
            .get(&pg.volume)
            .cloned()
            .unwrap_or_else(|| pg.volume.to_string()),
        pg: pg.pg,
        view: pg.view,
        osds: pg.osds,
        previous: pg.previous,
        settling: pg.settling,
        incomplete: pg.incomplete,
        full_replicas: pg.full_replicas,
        state: pg.state,
        bytes: pg.size.map(|size| size.bytes),
        objects: pg.size.map(|size| size.objects),
        lags: pg.lags.into_iter().map(Lag::from).collect(),
    });
    Ok(rows.collect())
}

pub(crate) async fn pgs(admin: &Admin, volume: Option<&str>) -> Result<Done, Failure> {
    Ok(render::list(&pgs_known(admin, volume).await?))
}

pub(crate) async fn pg(admin: &Admin, volume: &str, number: u32) -> Result<Done, Failure> {
    let pgs = pgs_known(admin, Some(volume)).await?;
    let count = pgs.len();
    let found = pgs.into_iter().find(|pg| pg.pg == number);
    let pg = found.ok_or_else(|| {
        Failure::failed(format!(
            "volume {volume:?} has no placement group {number}; it has {count}, from 0 on"
        ))
    })?;
    Ok(render::one(&pg))
}

#[derive(Debug, Serialize)]
struct Session {
    id: u64,
    volume: u64,
    client: String,
    pid: u64,
    mount_point: String,
    state: String,
    idle_ms: u64,
    open_inodes: u64,
}

impl Row for Session {
    const HEADINGS: &'static [&'static str] = &[
        "session",
        "volume",
        "client",
        "pid",
        "mounted on",
        "state",
        "idle",
        "open files",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.volume.to_string(),
            self.client.clone(),
            self.pid.to_string(),
            self.mount_point.clone(),
            self.state.clone(),
            render::millis(self.idle_ms),
            self.open_inodes.to_string(),
        ]
    }
}

pub(crate) async fn sessions(admin: &Admin) -> Result<Done, Failure> {
    let reply = admin.ask_leader(Op::SessionList(SessionList {})).await?;
    let Reply::Sessions(sessions) = reply else {
        return Err(odd());
    };
    let rows: Vec<Session> = sessions
        .sessions
        .into_iter()
        .map(|session| Session {
            id: session.session,
            volume: session.volume,
            client: session.client,
            pid: session.pid,
            mount_point: session.mount_point,
            state: session.state,
            idle_ms: session.idle_ms,
            open_inodes: session.open_inodes,
        })
        .collect();
    Ok(render::list(&rows))
}
