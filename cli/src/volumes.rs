//! Volumes.

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{self, Owner, VolumeCreate, VolumeDelete, VolumeList, VolumeShow};
use serde::Serialize;
use serde_json::json;
use shell::admin::Admin;

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
    inodes: u64,
    size_bytes: u64,
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

pub(crate) async fn show(admin: &Admin, name: &str) -> Result<Done, Failure> {
    let op = Op::VolumeShow(VolumeShow {
        name: name.to_owned(),
    });
    let Reply::Volumes(volumes) = admin.ask_leader(op).await? else {
        return Err(odd());
    };
    let volume = volumes.volumes.first();
    let volume = volume.ok_or_else(|| Failure::failed(format!("there is no volume {name:?}")))?;
    Ok(render::one(&Volume::from(volume)))
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
