//! Settings of an object server, and the limits of everything in it that waits or grows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shell::config::{PublicAddress, check_listen, is_host_and_port};
use shell::link::{Wire, WireError};
use shell::reload::Reload;
use shell::telemetry::{DEFAULT_LOG, LogError};
use types::{ClusterId, Duration, IdError, OsdId};
use zfs_driver::DatasetName;

/// Settings read once at start-up; unknown keys are refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Cluster id, 32 hexadecimal digits.
    pub cluster: String,
    /// File with the cluster's secret, 64 hexadecimal digits.
    pub secret_file: PathBuf,
    /// Number of this object server, from 1, unique in the cluster.
    pub id: u64,
    /// Address the server listens on and is reached at.
    pub listen: SocketAddr,
    /// Directory of the store.
    pub dir: PathBuf,
    /// What the store is made of. Default: directories.
    #[serde(default)]
    pub store: StoreKind,
    /// Dataset of a store on ZFS, such as "tank/oxfs/osd-1", for this server alone; made with the store.
    /// Default: none.
    #[serde(default)]
    pub zfs_dataset: Option<String>,
    /// Whether a placement group that this server has nothing of may come as a whole, by `zfs send`, before its objects
    /// are compared. Default false: on zfs-fuse, the only ZFS it was measured on, that takes longer.
    #[serde(default)]
    pub zfs_seed: bool,
    /// Bytes that such a group must have. Default 67,108,864 (64 MiB): with less, the commands take longer than
    /// copying its objects.
    #[serde(default = "defaults::zfs_seed_min_bytes")]
    pub zfs_seed_min_bytes: u64,
    /// What this server shares fate with, from the widest on, as "site/rack/host": replicas go to places
    /// as different as possible. Default: empty, which shares with nobody.
    #[serde(default)]
    pub location: String,
    /// Addresses of the metadata servers, any order.
    pub mrc: Vec<String>,
    /// Listen on an address that is not loopback although messages travel in the clear.
    /// Default false: there is no TLS yet.
    #[serde(default)]
    pub insecure_network: bool,
    /// How the links to others behave; all clones share it.
    #[serde(default)]
    pub wire: Wire,
    /// What is logged, unless `RUST_LOG` says so: a level, or levels of modules. Default
    /// `info,openraft=error`: changes of state and worse.
    #[serde(default = "defaults::log")]
    pub log: String,
    /// Address at which numbers about the server are served over HTTP, at `/metrics`, in the format of
    /// OpenMetrics (Prometheus). Anyone who reaches it can read them. Default: none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// How long a primary may go on without hearing from a majority, in milliseconds; the same on
    /// all servers. Default 1500: with what follows, the pause after a primary died stays below 3 s.
    #[serde(default = "defaults::lease_ttl_ms")]
    pub lease_ttl_ms: u64,
    /// Time between reports to the metadata cluster, in milliseconds. Default 500: a new map or a
    /// death is known within a second.
    #[serde(default = "defaults::heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// How long a new primary waits for replicas that did not crash before it decides without them,
    /// in milliseconds. Default 3000: longer than a server needs to restart.
    #[serde(default = "defaults::trust_grace_ms")]
    pub trust_grace_ms: u64,
    /// How long a backup may keep quiet before writes go on without it, in milliseconds. Default
    /// 1000: shorter than a lease.
    #[serde(default = "defaults::backup_timeout_ms")]
    pub backup_timeout_ms: u64,
    /// Time without requests after which an object is made clean and its lease given back, in
    /// milliseconds; longer than `trust_grace_ms`. Default 10,000: covers the pauses of programs.
    #[serde(default = "defaults::idle_ms")]
    pub idle_ms: u64,
    /// Time between two rounds in which the metadata servers are asked which objects are left over from
    /// files that are gone, in milliseconds; one that is still there a round later is deleted. Default
    /// 3,600,000, an hour: such objects are rare, and a round asks about all.
    #[serde(default = "defaults::leftovers_ms")]
    pub leftovers_ms: u64,
    /// Days from the beginning of one scrub to that of the next, in which everything here is read, verified and compared
    /// with the other replicas; 0: only when `xfs-admin scrub start` asks for it. Default 7: what rots on one disk is
    /// found before its like on another is probable, and a round has the quiet hours of each day of the week.
    #[serde(default = "defaults::scrub_days")]
    pub scrub_days: u32,
    /// Most that a scrub reads, in bytes per second. Default 33,554,432 (32 MiB/s): a fifth of what one hard disk gives,
    /// and 18 TiB in a week.
    #[serde(default = "defaults::scrub_bytes_per_s")]
    pub scrub_bytes_per_s: u64,
    /// The two above as they are by now; all clones share it.
    #[serde(skip)]
    pub(crate) scrub_now: ScrubNow,
    /// Threads that serve objects. Default 4: memory copies of two cores are saturated by two, the
    /// rest covers blocking reads.
    #[serde(default = "defaults::shards")]
    pub shards: usize,
    /// Threads that wait for disks. Default 8: a journal commits for all that wait at once.
    #[serde(default = "defaults::sync_threads")]
    pub sync_threads: usize,
    /// Limits that are no settings.
    #[serde(skip)]
    pub(crate) limits: Limits,
}

/// What a store is made of.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Directories on whatever file system `dir` is on.
    #[default]
    Directory,
    /// A ZFS dataset for each placement group.
    Zfs,
}

/// Limits that only tests change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Payload bytes of clients' requests that are not answered yet, on the whole server.
    pub(crate) request_bytes_max: u64,
    /// Bytes that the objects of a group must have on average for it to come as a whole.
    pub(crate) seed_object_bytes_min: u64,
    /// How long a stream of a group takes at least for one of what changed meanwhile to follow.
    pub(crate) seed_increment_after: std::time::Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: REQUEST_BYTES_MAX,
            seed_object_bytes_min: SEED_OBJECT_BYTES_MIN,
            seed_increment_after: SEED_INCREMENT_AFTER,
        }
    }
}

mod defaults {
    pub(super) fn log() -> String {
        super::DEFAULT_LOG.to_owned()
    }
    pub(super) const fn zfs_seed_min_bytes() -> u64 {
        64 << 20
    }
    pub(super) const fn lease_ttl_ms() -> u64 {
        1500
    }
    pub(super) const fn heartbeat_ms() -> u64 {
        500
    }
    pub(super) const fn trust_grace_ms() -> u64 {
        3000
    }
    pub(super) const fn backup_timeout_ms() -> u64 {
        1000
    }
    pub(super) const fn idle_ms() -> u64 {
        10_000
    }
    pub(super) const fn leftovers_ms() -> u64 {
        3_600_000
    }
    pub(super) const fn scrub_days() -> u32 {
        7
    }
    pub(super) const fn scrub_bytes_per_s() -> u64 {
        32 << 20
    }
    pub(super) const fn shards() -> usize {
        4
    }
    pub(super) const fn sync_threads() -> usize {
        8
    }
}

impl Reload for Config {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn log(&self) -> &str {
        &self.log
    }

    fn take_over(&self, newer: &Self) {
        self.scrub_now
            .set(newer.scrub_days, newer.scrub_bytes_per_s);
    }
}

/// How often and how fast is scrubbed, if the file was read again since the start. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScrubNow(Arc<Mutex<Option<(u32, u64)>>>);

impl ScrubNow {
    fn set(&self, days: u32, bytes_per_s: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((days, bytes_per_s));
    }

    /// Days and bytes per second; those of the start if nothing was read since.
    pub(crate) fn get(&self, started_with: (u32, u64)) -> (u32, u64) {
        let now = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.unwrap_or(started_with)
    }
}

/// A setting whose value can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `cluster` is no cluster id.
    #[error("`cluster`: {0}")]
    Cluster(#[from] IdError),
    /// A number is outside its range.
    #[error("`{key}` is {value}; it must be between {min} and {max}")]
    Range {
        /// The setting.
        key: &'static str,
        /// Value found.
        value: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A new primary would give up before it may decide.
    #[error(
        "`idle_ms` is {idle_ms}, which is not above `trust_grace_ms` ({trust_grace_ms}); raise it"
    )]
    IdleTooShort {
        /// Value found.
        idle_ms: u64,
        /// What it must exceed.
        trust_grace_ms: u64,
    },
    /// A store on ZFS without a dataset.
    #[error(
        "`store` is \"zfs\" and there is no `zfs_dataset`; give a dataset for this server alone, such as \
         \"tank/oxfs/osd-1\""
    )]
    NoDataset,
    /// A dataset without a store on ZFS.
    #[error(
        "`zfs_dataset` is {dataset:?} and `store` is \"directory\"; set `store = \"zfs\"` or leave it out"
    )]
    UnusedDataset {
        /// Value found.
        dataset: String,
    },
    /// `zfs_dataset` is no dataset's name.
    #[error("`zfs_dataset`: {0}")]
    Dataset(zfs_driver::Error),
    /// No metadata server is named.
    #[error("`mrc` names no metadata server; give at least one address")]
    NoMrc,
    /// The address of a metadata server has no host or no port.
    #[error("`mrc` names {address:?}; give HOST:PORT, such as \"10.0.0.1:7000\" or \"[::1]:7000\"")]
    MrcAddress {
        /// Text found.
        address: String,
    },
    /// Messages would travel in the clear over a network.
    #[error(transparent)]
    Network(#[from] PublicAddress),
    /// `log` says nothing that could be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A wire option can't be used.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Config {
    /// Checks every value and the relations between them.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the key, its value and what is allowed.
    pub fn validated(self) -> Result<Self, ConfigError> {
        self.cluster_id()?;
        let ranges = [
            // Lease members are told apart by it; 0 would be "nobody" on the wire.
            ("id", self.id, 1, u64::from(u32::MAX)),
            ("lease_ttl_ms", self.lease_ttl_ms, 100, 60_000),
            ("heartbeat_ms", self.heartbeat_ms, 10, 10_000),
            ("trust_grace_ms", self.trust_grace_ms, 10, 600_000),
            ("backup_timeout_ms", self.backup_timeout_ms, 10, 60_000),
            ("idle_ms", self.idle_ms, 100, 3_600_000),
            ("leftovers_ms", self.leftovers_ms, 10, 604_800_000),
            ("scrub_days", self.scrub_days.into(), 0, 365),
            (
                "scrub_bytes_per_s",
                self.scrub_bytes_per_s,
                1 << 16,
                1 << 40,
            ),
            ("zfs_seed_min_bytes", self.zfs_seed_min_bytes, 0, 1 << 60),
            ("shards", self.shards as u64, 1, 256),
            ("sync_threads", self.sync_threads as u64, 1, 256),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        if self.idle_ms <= self.trust_grace_ms {
            return Err(ConfigError::IdleTooShort {
                idle_ms: self.idle_ms,
                trust_grace_ms: self.trust_grace_ms,
            });
        }
        self.dataset()?;
        if self.mrc.is_empty() {
            return Err(ConfigError::NoMrc);
        }
        if let Some(address) = self.mrc.iter().find(|address| !is_host_and_port(address)) {
            return Err(ConfigError::MrcAddress {
                address: address.clone(),
            });
        }
        let addresses = [
            ("listen", Some(self.listen)),
            ("metrics_listen", self.metrics_listen),
        ];
        check_listen(&addresses, self.insecure_network)?;
        self.wire.get().check()?;
        shell::telemetry::check(&self.log)?;
        Ok(self)
    }

    /// The cluster's id.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Cluster`] if the text is none.
    pub fn cluster_id(&self) -> Result<ClusterId, ConfigError> {
        Ok(self.cluster.parse()?)
    }

    /// The dataset of a store on ZFS; none for a directory store.
    ///
    /// # Errors
    ///
    /// If `store` and `zfs_dataset` don't fit, or the latter is no dataset's name.
    pub(crate) fn dataset(&self) -> Result<Option<DatasetName>, ConfigError> {
        match (self.store, &self.zfs_dataset) {
            (StoreKind::Directory, None) => Ok(None),
            (StoreKind::Directory, Some(dataset)) => Err(ConfigError::UnusedDataset {
                dataset: dataset.clone(),
            }),
            (StoreKind::Zfs, None) => Err(ConfigError::NoDataset),
            (StoreKind::Zfs, Some(dataset)) => DatasetName::new(dataset)
                .map(Some)
                .map_err(ConfigError::Dataset),
        }
    }

    /// This server's number.
    #[must_use]
    pub const fn osd(&self) -> OsdId {
        OsdId(self.id)
    }

    /// How long a shard with something to do may give no sign of life before its leases are left to
    /// run out. A lease time: a frozen server loses its leases after that, too.
    pub(crate) const fn shard_patience(&self) -> Duration {
        self.lease_ttl()
    }

    pub(crate) const fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.lease_ttl_ms)
    }

    pub(crate) fn replica(&self) -> osd_core::Config {
        osd_core::Config {
            trust_grace: Duration::from_millis(self.trust_grace_ms),
            backup_timeout: Duration::from_millis(self.backup_timeout_ms),
            idle_after: Duration::from_millis(self.idle_ms),
            backup_idle_after: Duration::from_millis(self.idle_ms.saturating_mul(3)),
            ..osd_core::Config::default()
        }
    }
}

/// Tables of sums an object may keep in memory. 1024 of 4 KiB: 4 GiB of a file at a time.
pub(crate) const TABLES_MAX: usize = 1024;
/// Blocks of an object that are known not to fit their sums after the machine went down. 65,536: 256 MiB
/// changed between a note and its way to the disk; of more, reads find the rest.
pub(crate) const UNFIT_MAX: usize = 65_536;
/// Descriptors of object files open at once, per shard. 1024: four shards stay well below the usual
/// limit of a service once it is raised, and reopening costs a few microseconds.
pub(crate) const DESCRIPTORS_MAX: usize = 1024;

/// Part of the file system that new data leaves free, in percent: records, checksums, directories, the
/// journal's metadata and the count of starts always find space in it. 5: that is 2 MB of a disk of 48 MB, which a few
/// hundred directories and extents fit into.
pub(crate) const RESERVE_PERCENT: u64 = 5;
/// And that part at most. 64 MiB: more than what metadata servers on the same file system write between
/// two looks, so that data is refused before the cluster's metadata is.
pub(crate) const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Room below which other replicas are told that there is none. 1 MiB: the largest write of a mount.
pub(crate) const FULL_BYTES: u64 = 1 << 20;
/// Inodes left free, at most. 64: new files of the servers on the file system, such as logs.
pub(crate) const RESERVE_INODES_MAX: u64 = 64;
/// How long what a look at the file system has granted may be used. 100 ms: others fill it, too, and in that
/// time metadata servers write less than the reserve.
pub(crate) const ROOM_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);
/// Servers that may take room of one file system between two looks without touching the reserve. 8: more
/// than one machine runs; each look grants a part in so many of what is left.
pub(crate) const ROOM_SHARES: u64 = 8;
/// Bytes that a new object takes: its header, and a directory or two above it.
pub(crate) const CREATE_BYTES: u64 = 3 * types::BLOCK_BYTES;

/// Bytes of zeros written at once where a hole can't be made. 1 MiB: as the largest write of a mount.
pub(crate) const ZEROS_BYTES: usize = 1 << 20;

/// Time between two looks at the pool of a store on ZFS. 5 s: each runs two commands, and a pool that failed
/// is noticed by the next write anyway.
pub(crate) const POOL_LOOK: std::time::Duration = std::time::Duration::from_secs(5);
/// Age of the newest look at a pool from which on it counts as silent. 60 s: what a command that asks may take.
pub(crate) const POOL_SILENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// Requests of one shard that wait for datasets. 8192: as many as may wait for the shard itself.
pub(crate) const PARKED_MAX: usize = 8192;

/// Bytes that the objects of a group must have on average for it to come as a whole. 64 KiB: with smaller ones, comparing
/// them takes longer than copying them would.
pub(crate) const SEED_OBJECT_BYTES_MIN: u64 = 64 << 10;

/// How long a stream of a group takes at least for one of what changed meanwhile to follow. 60 s: a snapshot, two
/// commands and a transaction group or two take seconds, and what changes in a minute is brought by the recovery.
pub(crate) const SEED_INCREMENT_AFTER: std::time::Duration = std::time::Duration::from_secs(60);

/// Looks at a file for the next data or hole; what is not found then counts as data. 256: each costs a
/// microsecond or two, and is needed for 4 MiB that have checksums but no data.
pub(crate) const SEEK_STEPS_MAX: usize = 256;

/// Addresses of metadata servers that are tried. 16: clusters have 1, 3 or 5 of them.
pub(crate) const MRC_ADDRESSES_MAX: usize = 16;
/// How long a primary may take to answer what another replica passed on to it. 10 s: longer than a
/// new primary needs to serve, shorter than mounts wait.
pub(crate) const FORWARD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a metadata server may take to answer. 1 s: a frozen one is passed by before its lease
/// as leader ends.
pub(crate) const MRC_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
/// Payload bytes of clients' requests that are not answered yet, on the whole server. 512 MiB: half a
/// second of a 10 Gbit/s network, and what a small server has to spare.
pub(crate) const REQUEST_BYTES_MAX: u64 = 512 << 20;
/// Requests that may wait for one shard. 8192: more than the objects of a busy shard have in flight,
/// each of them small.
pub(crate) const INBOX_ITEMS_MAX: usize = 8192;
/// Payload bytes that may wait for one shard. 64 MiB: a tenth of a second of copying.
pub(crate) const INBOX_BYTES_MAX: usize = 64 << 20;
/// Unanswered requests to one peer. 16,384: as many as clients may have in flight here.
pub(crate) const PEER_IN_FLIGHT_MAX: usize = 16_384;
/// Bytes queued for one peer. 64 MiB: one that falls further behind is treated as lost and brought
/// up later, instead of holding up the others.
pub(crate) const PEER_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Waiting syncs that each go alone; with more, the whole file system is synced at once. 8: then two
/// syncs of everything cost less than sixteen of single files.
pub(crate) const SYNC_ALONE_MAX: usize = 8;
/// Replicas per shard beyond which idle ones are not kept. 10,000: some 20 MB.
pub(crate) const IDLE_REPLICAS_MAX: usize = 10_000;
/// Directories that are synced one by one after files in them were removed; with more, the whole file
/// system is synced at once. 16: as for single files.
pub(crate) const SYNC_DIRS_MAX: usize = 16;
/// How long a sync nobody waits for waits for company. 20 ms: objects that became idle together are
/// made clean together.
pub(crate) const LAZY_GATHER: std::time::Duration = std::time::Duration::from_millis(20);
/// Bytes per second sent to bring copies of others up while the metadata leader has not said how many. 32 MiB:
/// a quarter of a link of 1 Gbit/s, which leaves room for clients.
pub(crate) const REPAIR_BYTES_PER_S: u64 = 32 << 20;
/// What comparing a block of 64 KiB counts as, in bytes sent. 8 KiB: it is read on two servers, but hardly
/// anything is sent.
pub(crate) const COMPARE_COST_BYTES: u64 = 8 << 10;
/// Copies of groups that are held that are passed over in one look for others. 1024: some
/// microseconds.
pub(crate) const HELD_SKIPPED_MAX: usize = 1024;
/// Copies being brought up at a time. 32: each moves up to 2 MiB at a time, and clients want room.
pub(crate) const RECOVERIES_MAX: usize = 32;
/// Objects noted of which one other server lacks changes. 10,000: 2 MB; a server that was away for
/// longer is compared with, group by group.
pub(crate) const BEHIND_MAX: usize = 10_000;
/// How often it is looked whether a group is new here and has to be counted. 1 s: twice a heartbeat.
pub(crate) const COUNT_LOOK: std::time::Duration = std::time::Duration::from_secs(1);
/// Age of a count from which on it is made again. 6 h: what changed while it was made is wrong by as much
/// until then, and a million objects take some seconds of it.
pub(crate) const COUNT_AGAIN: std::time::Duration = std::time::Duration::from_secs(6 * 3600);
/// Counting waits for so many times as long as the last group took. 4: it takes a fifth of the time at most.
pub(crate) const COUNT_SHARE: u32 = 4;
/// Time between two attempts to bring up the replicas of an idle object. 500 ms: an attempt that finds
/// somebody else's lease costs a round trip.
pub(crate) const BRING_UP_PAUSE: Duration = Duration::from_millis(500);
/// Placement groups being compared at a time. 2: listing is disk work beside the clients'.
pub(crate) const COMPARES_MAX: usize = 2;
/// Objects in one page of a listing. 4096: about 200 KB.
pub(crate) const LIST_PAGE_MAX: usize = 4096;
/// Listings whose names are remembered. 1024: each of some peers lists a few groups at a time.
pub(crate) const LISTINGS_MAX: usize = 1024;
/// How long a page of a listing may take. 30 s: a cold disk reads 4096 headers.
pub(crate) const LIST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How often recovery looks whether a silent member was waited for long enough.
pub(crate) const RECOVERY_LOOK: std::time::Duration = std::time::Duration::from_millis(500);
/// Pause before a round of leftovers when a placement group moved away, and before what it found is
/// reported. 5 s: groups move in numbers, and share the rounds.
pub(crate) const LEFTOVERS_SOON: std::time::Duration = std::time::Duration::from_secs(5);
/// Such rounds after the last group that moved. 4: found, reported, deleted, and once in vain.
pub(crate) const LEFTOVERS_SOON_ROUNDS: u32 = 4;
/// Copies of a group that moved away that are deleted at once. 1000: removed together, their names are made
/// stable together.
pub(crate) const MOVED_BATCH_MAX: usize = 1000;
/// Between two such batches there is a pause of so many times as long as the last one took. 1: deletions take
/// half of the time at most.
pub(crate) const MOVED_SHARE: u32 = 1;
/// How long such a batch may take. 1 min: files of many gigabytes take milliseconds each.
pub(crate) const MOVED_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// A comparison of a group that has to be repeated waits for so many times as long as it took. 4: it takes
/// a fifth of the time at most.
pub(crate) const COMPARE_SHARE: u32 = 4;
/// Objects the metadata servers are asked about at once. 1000: what they take, 20 KB.
pub(crate) const LEFTOVERS_PAGE_MAX: usize = 1000;
/// Time between two such questions. 1 s: a round over ten million objects takes three hours, and a hundred
/// servers ask the leader for 100,000 records per second.
pub(crate) const LEFTOVERS_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Leftovers remembered until the next round. 100,000: 2 MB; of more, later rounds find the rest.
pub(crate) const LEFTOVERS_MAX: usize = 100_000;
/// Leftovers in one request to have them deleted. 256: what the metadata servers take.
pub(crate) const LEFTOVERS_BATCH_MAX: usize = 256;
/// How long a deleted object is remembered. 10 minutes: longer than any request or catch-up.
pub(crate) const TOMBSTONE_TIME: Duration = Duration::from_secs(600);
/// Deleted objects remembered per shard. 100,000: 10 MB.
pub(crate) const TOMBSTONES_MAX: usize = 100_000;
/// Objects in one request to delete. 10,000: what the metadata cluster collects at once.
pub(crate) const DELETE_MAX: usize = 10_000;
/// Leases in one answer to an administrator. 10,000: about 400 KB.
pub(crate) const LEASE_LIST_MAX: usize = 10_000;
/// Objects with requests that wait, in one answer to an administrator. 1000: more than anybody reads.
pub(crate) const STALLS_MAX: usize = 1000;
/// Waiting that is not worth mention. 100 ms: a disk that is busy for a moment.
pub(crate) const STALL_NOTED: Duration = Duration::from_millis(100);
/// How long replicas may take to become clean when the server stops. 5 s: `oxfs down` waits 10.
pub(crate) const SHUTDOWN_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// Maps on their way from the metadata cluster. 4: only the newest counts.
pub(crate) const MAPS_MAX: usize = 4;
/// Members of a replica set. 31: what the lease protocol takes.
pub(crate) const PG_MEMBERS_MAX: usize = 31;

/// Time between looks at how far backups are behind. 500 ms: as often as it is reported.
pub(crate) const LAG_NOTE_INTERVAL: Duration = Duration::from_millis(500);

/// Lags in one report. 32,768: one of each placement group a cluster can have, 0.6 MiB.
pub(crate) const LAGS_REPORTED_MAX: usize = 32_768;

/// Blocks a scrub reads in one step. 256: 1 MiB, so that it never keeps a disk from others for more than some 10 ms.
pub(crate) const SCRUB_STEP_BLOCKS: u64 = 256;
/// What a scrub pays for an object at least, in bytes. 256 KiB: as long as a hard disk needs to find a file, at
/// the default rate, so that small files don't take the disk for themselves.
pub(crate) const SCRUB_OBJECT_BYTES_MIN: u64 = 256 << 10;
/// How long another server may take to answer a scrub. 10 s: it may be busy, and nobody waits.
pub(crate) const SCRUB_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// How long other replicas are waited for before a copy is brought up without their answer. 1 s: longer than a busy disk
/// takes, and a frozen server does not hold up much.
pub(crate) const OUTVOTED_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
/// Looks of other servers' scrubs at copies here, at a time. 4: each reads 64 KiB at most.
pub(crate) const INSPECTIONS_MAX: usize = 4;
/// Time between two attempts at what could not be repaired. 1 h: whoever could not be asked may be back.
pub(crate) const SCRUB_RETRY: Duration = Duration::from_secs(3600);
/// Time between two writes of a scrub's progress. 30 s: so much is read again after a restart.
pub(crate) const SCRUB_SAVE: Duration = Duration::from_secs(30);
/// Time between looks at whether a round is due, or a copy was brought up. 500 ms.
pub(crate) const SCRUB_LOOK: std::time::Duration = std::time::Duration::from_millis(500);
/// Wait before a server's first scrub, times its number (modulo 24). 1 h: servers that were set up together don't
/// scrub together.
pub(crate) const SCRUB_FIRST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        cluster = "00000000000000000000000000000007"
        secret_file = "secret"
        id = 2
        listen = "127.0.0.1:7001"
        dir = "data"
        mrc = ["127.0.0.1:7000"]
    "#;

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str::<Config>(text)
            .map_err(|error| error.to_string())?
            .validated()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn minimal_configuration_gets_the_defaults() {
        let config = parse(TEXT).unwrap();

        assert_eq!(config.osd(), OsdId(2));
        assert_eq!(config.lease_ttl(), Duration::from_millis(1500));
    }

    #[test]
    fn each_bad_value_is_refused_with_its_key() {
        let bad = [
            ("mystery = 1", "mystery"),
            ("lease_ttl_ms = \"1s\"", "lease_ttl_ms"),
            ("lease_ttl_ms = 5", "lease_ttl_ms"),
            ("shards = 0", "shards"),
            ("idle_ms = 2000", "trust_grace_ms"),
            ("metrics_listen = \"10.0.0.1:9\"", "metrics_listen"),
            ("store = \"zfs\"", "zfs_dataset"),
            ("store = \"btrfs\"", "store"),
            ("zfs_dataset = \"tank/oxfs\"", "store"),
            ("store = \"zfs\"\nzfs_dataset = \"tank\"", "zfs_dataset"),
            ("store = \"zfs\"\nzfs_dataset = \"tank/-r\"", "zfs_dataset"),
        ];
        for (line, key) in bad {
            let error = parse(&format!("{TEXT}\n{line}")).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        let error = parse(&TEXT.replace("127.0.0.1:7001", "10.0.0.1:7001")).unwrap_err();
        assert!(error.contains("insecure_network"), "{error}");
        let error = parse(&TEXT.replace("0007", "07")).unwrap_err();
        assert!(error.contains("cluster"), "{error}");
        let error = parse(&TEXT.replace("[\"127.0.0.1:7000\"]", "[]")).unwrap_err();
        assert!(error.contains("mrc"), "{error}");
        for address in [
            "x",
            "x:",
            ":7000",
            "x:0",
            "x:70000",
            "::1:7000",
            "http://x:7000",
        ] {
            let error = parse(&TEXT.replace("127.0.0.1:7000", address)).unwrap_err();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
        for address in ["x:1", "mrc-1.example.org:7000", "[::1]:7000"] {
            parse(&TEXT.replace("127.0.0.1:7000", address)).unwrap();
        }
    }
}
