//! Reports to the metadata cluster's leader, and gets the map from it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::mrc;
use shell::link::CallError;
use tokio::sync::{Notify, mpsc};
use types::{PgId, PgKey, UnixNanos, VolumeId};

use crate::board::Board;
use crate::cluster::Wall;
use crate::cluster_clock::ClusterClock;
use crate::metadata::MetadataClient;
use crate::pacer::Pacer;
use crate::store_root::{PoolHealth, Root};

/// Sends the reports.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    pub(crate) osd: types::OsdId,
    pub(crate) address: String,
    pub(crate) store_uuid: String,
    pub(crate) dir: PathBuf,
    pub(crate) location: String,
    pub(crate) interval: Duration,
    pub(crate) root: Arc<Root>,
    pub(crate) board: Arc<Board>,
    pub(crate) wall: Arc<Wall>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) pacer: Pacer,
    /// Report at once.
    pub(crate) wanted: Arc<Notify>,
}

impl Heartbeats {
    /// Reports until the id turns out to be another server's, and returns why; new maps go to
    /// `maps`.
    pub(crate) async fn run(
        self,
        mut client: MetadataClient,
        maps: mpsc::Sender<mrc::OsdMap>,
    ) -> String {
        let file_system = match self.root.pool_health() {
            Some(pool) => file_system_of_pool(&pool.dataset),
            None => file_system(&self.dir),
        };
        let (mut quiet, mut known) = (false, false);
        loop {
            match client.ask(&self.request(&file_system)).await {
                Ok(response) => {
                    if std::mem::take(&mut quiet) && known {
                        tracing::info!("metadata cluster answers again");
                    }
                    if !std::mem::replace(&mut known, true) {
                        tracing::info!("registered with the metadata servers");
                    }
                    if let Some(mrc::response::Reply::OsdMap(map)) = response.reply {
                        self.clock.heard(UnixNanos(map.wall_ns));
                        client.told(&map.mrcs);
                        if let Some(pace) = &map.pace {
                            self.pacer.told(pace);
                        }
                        if map.changed && maps.send(map).await.is_err() {
                            return "nobody takes maps any more".to_owned();
                        }
                    }
                }
                Err(CallError::Fault(fault)) if fault.errno == libc::EEXIST => {
                    return fault.message;
                }
                Err(CallError::Refused(why)) if !quiet => {
                    quiet = true;
                    tracing::error!(%why, "the metadata servers refuse this object server; it is asked for again");
                }
                Err(error) if !quiet => {
                    quiet = true;
                    let waiting = match known {
                        true => "no metadata server answers; going on with the map at hand",
                        false => {
                            "waiting for the metadata servers: none of them that leads answers"
                        }
                    };
                    tracing::warn!(%error, "{waiting}");
                }
                Err(_) => {}
            }
            let _ = tokio::time::timeout(self.interval, self.wanted.notified()).await;
        }
    }

    fn request(&self, file_system: &str) -> mrc::Request {
        let cluster = self.wall.newest();
        let (capacity_bytes, free_bytes) = self.root.space().unwrap_or_default();
        // A poisoned store takes no more data.
        let free_bytes = match self.root.is_poisoned() {
            true => 0,
            false => free_bytes,
        };
        let ours: BTreeSet<PgKey> = cluster.map.groups_of(self.osd).into_iter().collect();
        let sizes = self.root.sizes();
        let mut pgs = self.board.reports(self.osd, &cluster.map);
        for report in &mut pgs {
            let group = PgKey {
                volume: VolumeId(report.volume),
                pg: PgId(report.pg),
            };
            report.size = sizes.of(group).map(|size| mrc::ReplicaSize {
                bytes: size.bytes,
                objects: size.objects,
            });
        }
        mrc::Request {
            op: Some(mrc::request::Op::OsdHeartbeat(mrc::OsdHeartbeat {
                osd: self.osd.0,
                address: self.address.clone(),
                store_uuid: self.store_uuid.clone(),
                capacity_bytes,
                free_bytes,
                map_version: cluster.map.version,
                pgs,
                pid: u64::from(std::process::id()),
                dir: self.dir.display().to_string(),
                file_system: file_system.to_owned(),
                location: self.location.clone(),
                repaired_bytes: self.pacer.sent_bytes(),
                pool: self.root.pool_health().map(to_wire),
                leftover_bytes: sizes.bytes_of_others(|group| ours.contains(&group)),
                store_failed: self.root.is_poisoned(),
            })),
            ..mrc::Request::default()
        }
    }
}

fn to_wire(pool: PoolHealth) -> mrc::PoolState {
    mrc::PoolState {
        dataset: pool.dataset,
        state: pool.state,
        healthy: pool.is_healthy,
        problem: pool.problem,
        scan: pool.scan,
    }
}

/// The same of the pool that a dataset is in.
fn file_system_of_pool(dataset: &str) -> String {
    let pool = dataset.split('/').next().unwrap_or_default();
    let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    machine.map_or_else(
        |_| String::new(),
        |machine| format!("{}-zfs-{pool}", machine.trim()),
    )
}

/// Names the file system a directory is on, the same for every server of this machine; empty if it
/// can't be found out.
fn file_system(dir: &Path) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    match (machine, std::fs::metadata(dir)) {
        (Ok(machine), Ok(metadata)) => format!("{}-{:x}", machine.trim(), metadata.dev()),
        _ => String::new(),
    }
}
