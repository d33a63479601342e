//! Volumes.

use std::time::{Duration, Instant};

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{self, Owner, VolumeCreate, VolumeDelete, VolumeList, VolumeSet, VolumeShow};
use serde::Serialize;
use serde_json::json;
use shell::admin::Admin;
use types::{Quorum, WritePolicy};

use crate::arguments;
use crate::lists::odd;
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

/// A volume as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Volume {
    name: String,
    id: u64,
    replicas: u32,
    placement_groups: u32,
    write_policy: String,
    quorum: String,
    policy_version: u64,
    inodes: u64,
    size_bytes: u64,
}

impl Volume {
    /// Replicas that every object should have.
    pub(crate) const fn replicas(&self) -> u32 {
        self.replicas
    }
}

impl From<&mrc::Volume> for Volume {
    fn from(volume: &mrc::Volume) -> Self {
        Self {
            name: volume.name.clone(),
            id: volume.volume,
            replicas: volume.replicas,
            placement_groups: volume.pgs,
            write_policy: volume.write_policy.clone(),
            quorum: volume.quorum.clone(),
            policy_version: volume.policy_version,
            inodes: volume.inode_count,
            size_bytes: volume.size_bytes,
        }
    }
}

impl Row for Volume {
    const HEADINGS: &'static [&'static str] = &[
        "volume", "id", "replicas", "pgs", "policy", "quorum", "inodes", "size",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.id.to_string(),
            self.replicas.to_string(),
            self.placement_groups.to_string(),
            self.write_policy.clone(),
            self.quorum.clone(),
            self.inodes.to_string(),
            render::bytes(self.size_bytes),
        ]
    }
}

pub(crate) async fn create(
    admin: &Admin,
    wanted: &arguments::VolumeCreate,
) -> Result<Done, Failure> {
    let op = Op::VolumeCreate(VolumeCreate {
        name: wanted.name.clone(),
        // 0 is the default.
        replicas: wanted.replicas.unwrap_or(0),
        pgs: wanted.pgs.unwrap_or(0),
        root_owner: Some(Owner {
            uid: wanted.uid,
            gid: wanted.gid,
        }),
        root_mode: wanted.mode,
        write_policy: word(wanted.policy.map(WritePolicy::from)),
        quorum: word(wanted.quorum.map(Quorum::from)),
        // Never 0.
        nonce: rand::random::<u64>() | 1,
    });
    admin.ask_leader(op).await?;
    show(admin, &wanted.name).await
}

pub(crate) async fn list(admin: &Admin) -> Result<Done, Failure> {
    let reply = admin.ask_leader(Op::VolumeList(VolumeList {})).await?;
    let Reply::Volumes(volumes) = reply else {
        return Err(odd());
    };
    let rows: Vec<Volume> = volumes.volumes.iter().map(Volume::from).collect();
    Ok(render::list(&rows))
}

/// The word of a choice; none means the default, or no change.
fn word(choice: Option<impl ToString>) -> String {
    choice.map_or_else(String::new, |choice| choice.to_string())
}

/// How long to wait for object servers to say that they know a policy. 5 s: ten of their reports.
const TOLD_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks. 100 ms: short for a person.
const TOLD_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn set(admin: &Admin, wanted: &arguments::VolumeSet) -> Result<Done, Failure> {
    let op = Op::VolumeSet(VolumeSet {
        name: wanted.name.clone(),
        write_policy: word(wanted.policy.map(WritePolicy::from)),
        quorum: word(wanted.quorum.map(Quorum::from)),
        replicas: wanted.replicas.unwrap_or_default(),
    });
    admin.ask_leader(op).await?;
    let give_up = Instant::now() + TOLD_WAIT_MAX;
    loop {
        let volume = find(admin, &wanted.name).await?;
        if volume.outdated_osds.is_empty() || Instant::now() >= give_up {
            let mut done = render::one(&Volume::from(&volume));
            done.missing = volume.outdated_osds.iter().map(not_told).collect();
            return Ok(done);
        }
        tokio::time::sleep(TOLD_PAUSE).await;
    }
}

fn not_told(osd: &u64) -> String {
    format!(
        "object server {osd} has not said that it knows the policy; if it runs, it goes by the old one \
         until it reaches a metadata server, so look at it or stop it"
    )
}

pub(crate) async fn show(admin: &Admin, name: &str) -> Result<Done, Failure> {
    let volume = find(admin, name).await?;
    Ok(render::one(&Volume::from(&volume)))
}

async fn find(admin: &Admin, name: &str) -> Result<mrc::Volume, Failure> {
    let op = Op::VolumeShow(VolumeShow {
        name: name.to_owned(),
    });
    let Reply::Volumes(volumes) = admin.ask_leader(op).await? else {
        return Err(odd());
    };
    let volume = volumes.volumes.into_iter().next();
    volume.ok_or_else(|| Failure::failed(format!("there is no volume {name:?}")))
}

pub(crate) async fn delete(admin: &Admin, name: &str) -> Result<Done, Failure> {
    let op = Op::VolumeDelete(VolumeDelete {
        name: name.to_owned(),
        nonce: rand::random::<u64>() | 1,
    });
    admin.ask_leader(op).await?;
    Ok(Done {
        text: format!("deleted volume {name}"),
        json: json!({ "deleted": name }).to_string(),
        missing: Vec::new(),
    })
}
