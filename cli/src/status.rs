//! `status`: every server by its own words, its leader's, or what this machine knows of it.

mod health;
mod troubles;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{self, ClusterStatus};
use serde::Serialize;
use shell::admin::Admin;
use shell::link::CallError;
use shell::local::LocalCluster;

use crate::find::Found;
use crate::numbers::{Asked, Asker, sessions};
use crate::osds::Osd;
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};
use crate::volumes::Volume;
use crate::{jobs, lists, scrub};

/// How long one metadata server may take to answer before it counts as down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a leader is waited for: an election takes a second or two.
const ELECTION_PATIENCE: Duration = Duration::from_secs(3);

/// Pause before everyone is asked again.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// What each metadata server said.
pub(crate) type Answers = Vec<(String, Result<ClusterStatus, CallError>)>;

/// A server or mount as it is shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Server {
    role: String,
    id: u64,
    /// 0 if it does not run.
    pid: u64,
    address: String,
    state: String,
    dir: String,
}

impl Row for Server {
    const HEADINGS: &'static [&'static str] = &["server", "pid", "address", "state", "directory"];

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{}-{}", self.role, self.id),
            if self.pid == 0 {
                "-".to_owned()
            } else {
                self.pid.to_string()
            },
            self.address.clone(),
            self.state.clone(),
            self.dir.clone(),
        ]
    }
}

#[derive(Debug, Default, Serialize)]
struct Groups {
    total: u64,
    full: u64,
    degraded: u64,
}

#[derive(Debug, Serialize)]
struct Status {
    servers: Vec<Server>,
    volumes: Vec<Volume>,
    placement_groups: Groups,
    /// What needs somebody, a sentence each.
    wrong: Vec<String>,
}

/// What this machine knows of a server or mount of a local cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Local {
    role: String,
    id: u64,
    process: Known,
    address: String,
    dir: String,
}

/// What this machine knows of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    /// It runs.
    Running(u64),
    /// It was started and does not run any more.
    Dead,
    /// It was not started by `oxfs up` or `oxfs start`.
    Nothing,
}

pub(crate) async fn run(admin: &Admin, found: &Found) -> Result<Done, Failure> {
    let answers = ask(admin, found).await;
    let local = found.local.as_ref().map(local_servers);
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|(address, answer)| {
            let error = answer.as_ref().err()?.to_string();
            Some(if error.contains(address) {
                error
            } else {
                format!("{address}: {error}")
            })
        })
        .collect();
    if silent.len() == answers.len() {
        let said = silent.join("; ");
        return Err(Failure::failed(match &found.local {
            Some(local) => format!(
                "no metadata server of {} answers ({said}); if it is not running, start it with \
                 `oxfs up --dir {} --mount MNT`",
                local.dir().display(),
                local.dir().display()
            ),
            None => format!(
                "no metadata server answers ({said}); start the cluster, or check the addresses"
            ),
        }));
    }
    let has_leader = leader(&answers).is_some();
    let status = merge(&answers, local.as_deref());
    let pgs = degraded(admin, &status, has_leader).await;
    let known = troubles::Knowledge {
        has_leader,
        dir: found.local.as_ref().map(LocalCluster::dir),
        local: local.as_deref().unwrap_or_default(),
    };
    let mut wrong = troubles::sentences(&status.servers, &pgs, known);
    wrong.extend(scrub::troubles(admin, &running_osds(&status)).await);
    wrong.extend(of_health(admin, &status, has_leader).await);
    let status = Status { wrong, ..status };
    let mut done = show(&status);
    if !has_leader {
        done.missing.push(format!(
            "no metadata server leads, so object servers, volumes and placement groups may be out \
             of date; a majority of the metadata servers must run{}",
            if silent.is_empty() {
                String::new()
            } else {
                format!(" ({})", silent.join("; "))
            }
        ));
    }
    Ok(done)
}

/// What servers and the leader say of pools, disks, clocks, releases and replicas. Who does not answer is noticed
/// otherwise.
async fn of_health(admin: &Admin, status: &Status, has_leader: bool) -> Vec<String> {
    let running = status.servers.iter();
    let running = running.filter(|server| server.role != "mount" && server.state != "down");
    let running: Vec<Asked> = running.map(Asked::from).collect();
    let mut asker = Asker::default();
    let answers = asker.ask(admin, &running).await.into_iter();
    let heard: Vec<_> = answers
        .filter_map(|(server, said)| Some((server, said.ok()?)))
        .collect();
    let mut wrong = health::stores(&heard);
    wrong.extend(health::clocks(&heard));
    if !has_leader {
        wrong.extend(health::disks(&[], &heard));
        wrong.extend(health::releases(&heard, &[]));
        return wrong;
    }
    let (osds, jobs, mounts) =
        tokio::join!(lists::osds_known(admin), jobs::ask(admin), sessions(admin));
    let (osds, jobs) = (osds.unwrap_or_default(), jobs.unwrap_or_default());
    let told = mounts.unwrap_or_default().into_iter().filter_map(|mount| {
        let release = mount.numbers?.release;
        Some((format!("mount-{}", mount.session), release))
    });
    let replicas = status.volumes.iter().map(Volume::replicas).max();
    wrong.extend(health::pools(&osds));
    wrong.extend(health::disks(&osds, &heard));
    wrong.extend(health::releases(&heard, &told.collect::<Vec<_>>()));
    wrong.extend(health::rescue(&jobs, &osds, replicas.unwrap_or(1)));
    wrong
}

impl From<&Server> for Asked {
    fn from(server: &Server) -> Self {
        Self {
            role: server.role.clone(),
            id: server.id,
            address: server.address.clone(),
        }
    }
}

/// Servers that anybody knows, metadata servers first.
pub(crate) fn known_servers(answers: &Answers, found: &Found) -> Vec<Asked> {
    let local = found.local.as_ref().map(local_servers);
    let status = merge(answers, local.as_deref());
    let mut seen = BTreeSet::new();
    let servers = status.servers.iter();
    let servers = servers.filter(|server| server.role != "mount" && !server.address.is_empty());
    servers
        .map(Asked::from)
        .filter(|server| seen.insert(server.name()))
        .collect()
}

/// Object servers that can be asked.
fn running_osds(status: &Status) -> Vec<Osd> {
    let servers = status.servers.iter();
    let up = servers.filter(|server| server.role == "osd" && server.state == "up");
    up.map(|server| Osd {
        id: server.id,
        address: server.address.clone(),
    })
    .collect()
}

/// Placement groups, if some of them are degraded.
async fn degraded(admin: &Admin, status: &Status, has_leader: bool) -> Vec<mrc::Pg> {
    if status.placement_groups.degraded == 0 || !has_leader {
        return Vec::new();
    }
    match admin.ask_leader(Op::PgList(mrc::PgList::default())).await {
        Ok(Reply::Pgs(pgs)) => pgs.pgs,
        // The numbers of the status say it in short.
        _ => Vec::new(),
    }
}

/// Asks all metadata servers, those that others name included, until one of them leads.
pub(crate) async fn ask(admin: &Admin, found: &Found) -> Answers {
    let begun = Instant::now();
    let mut addresses = found.addresses.clone();
    loop {
        let answers = admin.statuses(&addresses, ANSWER_TIMEOUT).await;
        let mut learnt = false;
        for (_, answer) in &answers {
            for server in answer.iter().flat_map(|status| &status.servers) {
                if server.role == "mrc" && !addresses.contains(&server.address) {
                    addresses.push(server.address.clone());
                    learnt = true;
                }
            }
        }
        let somebody = answers.iter().any(|(_, answer)| answer.is_ok());
        let enough = leader(&answers).is_some() || !somebody;
        if (enough && !learnt) || begun.elapsed() > ELECTION_PATIENCE {
            return answers;
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

pub(crate) fn leader(answers: &Answers) -> Option<&ClusterStatus> {
    answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
        .find(|status| status.answered_by_leader)
}

/// Puts together what the leader, each metadata server and this machine say.
fn merge(answers: &Answers, local: Option<&[Local]>) -> Status {
    let heard = || {
        answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
    };
    let base = leader(answers).or_else(|| heard().max_by_key(|status| status.servers.len()));
    let mut servers: Vec<Server> = base
        .iter()
        .flat_map(|status| &status.servers)
        .map(server_of)
        .collect();
    // Metadata servers speak for themselves, or are down.
    for server in servers.iter_mut().filter(|server| server.role == "mrc") {
        match own_words(answers, &server.address) {
            Some(own) => *server = own,
            None => down(server),
        }
    }
    for (address, _) in answers {
        if let Some(own) = own_words(answers, address)
            && !servers
                .iter()
                .any(|server| server.role == own.role && server.id == own.id)
        {
            servers.push(own);
        }
    }
    if let Some(local) = local {
        correct(&mut servers, local);
    }
    servers.sort_by_key(|server| (role_order(&server.role), server.id));
    Status {
        servers,
        volumes: base
            .iter()
            .flat_map(|status| &status.volumes)
            .map(Volume::from)
            .collect(),
        placement_groups: base.map_or_else(Groups::default, |status| Groups {
            total: status.pgs_total,
            full: status.pgs_full,
            degraded: status.pgs_degraded,
        }),
        wrong: Vec::new(),
    }
}

fn role_order(role: &str) -> u32 {
    match role {
        "mrc" => 0,
        "osd" => 1,
        _ => 2,
    }
}

fn server_of(server: &mrc::Server) -> Server {
    Server {
        role: server.role.clone(),
        id: server.id,
        pid: server.pid,
        address: server.address.clone(),
        state: server.state.clone(),
        dir: server.dir.clone(),
    }
}

fn own_words(answers: &Answers, address: &str) -> Option<Server> {
    let (_, answer) = answers.iter().find(|(asked, _)| asked == address)?;
    let status = answer.as_ref().ok()?;
    let own = status
        .servers
        .iter()
        .find(|server| server.role == "mrc" && server.address == address)?;
    Some(server_of(own))
}

fn down(server: &mut Server) {
    "down".clone_into(&mut server.state);
    server.pid = 0;
}

/// What this machine knows for sure: who does not run, who is missing, and whose pid is whose.
fn correct(servers: &mut Vec<Server>, local: &[Local]) {
    for known in local.iter().filter(|known| known.role != "mount") {
        let found = servers
            .iter_mut()
            .find(|server| server.role == known.role && server.id == known.id);
        let mut found = found;
        // Nobody else knows the directory of a metadata server that is down.
        if let Some(server) = &mut found
            && server.dir.is_empty()
        {
            server.dir.clone_from(&known.dir);
        }
        match (found, known.process) {
            (Some(server), Known::Running(pid)) => server.pid = pid,
            (Some(server), Known::Dead) => down(server),
            (Some(_), Known::Nothing) => {}
            (None, process) => servers.push(Server {
                role: known.role.clone(),
                id: known.id,
                pid: if let Known::Running(pid) = process {
                    pid
                } else {
                    0
                },
                address: known.address.clone(),
                state: match process {
                    Known::Running(_) => "starting",
                    Known::Dead | Known::Nothing => "down",
                }
                .to_owned(),
                dir: known.dir.clone(),
            }),
        }
    }
    // A mount that was killed has a session until that times out, but it is no mount any more, and
    // its pid may be somebody else's.
    servers.retain(|server| server.role != "mount" || is_mount(server.pid, local));
}

fn is_mount(pid: u64, local: &[Local]) -> bool {
    let recorded = local
        .iter()
        .find(|known| known.role == "mount" && known.id == pid);
    match recorded {
        Some(known) => matches!(known.process, Known::Running(_)),
        // Made with --secret-file instead of --dir, so there is no record of it.
        None => std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "oxfs"),
    }
}

/// Servers of the cluster's description, and mounts that were remembered.
fn local_servers(cluster: &LocalCluster) -> Vec<Local> {
    let processes = cluster.processes();
    let known = |name: &str| match processes.iter().find(|process| process.name == name) {
        Some(process) if process.process.is_running() => {
            Known::Running(u64::from(process.process.pid))
        }
        Some(_) => Known::Dead,
        None => Known::Nothing,
    };
    let servers = cluster.servers().into_iter().map(|server| Local {
        role: server.role.name().to_owned(),
        id: server.id,
        process: known(&server.name()),
        dir: cluster.state_dir(&server.name()).display().to_string(),
        address: server.address,
    });
    let mounts = processes
        .iter()
        .filter(|process| process.role == "mount")
        .map(|process| Local {
            role: process.role.clone(),
            id: process.id,
            process: known(&process.name),
            address: process.address.clone(),
            dir: process.dir.display().to_string(),
        });
    servers.chain(mounts).collect()
}

fn show(status: &Status) -> Done {
    let groups = &status.placement_groups;
    let mut text = format!(
        "{}\n\n{}\n\nplacement groups: {} in all, {} full, {} degraded",
        render::table(&status.servers),
        render::table(&status.volumes),
        groups.total,
        groups.full,
        groups.degraded
    );
    if !status.wrong.is_empty() {
        text.push_str("\n\nwhat is wrong:");
        for sentence in &status.wrong {
            text.push_str("\n- ");
            text.push_str(sentence);
        }
    }
    Done {
        text,
        json: render::json(status),
        missing: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
