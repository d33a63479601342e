//! Settings of an object server, and the limits of everything in it that waits or grows.

mod bounds;
mod error;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shell::config::{check_listen, is_host_and_port};
use shell::link::Wire;
use shell::reload::Reload;
use shell::telemetry::DEFAULT_LOG;
use types::{ClusterId, Duration, OsdId};
use zfs_driver::DatasetName;

pub(crate) use self::bounds::*;
pub use self::error::ConfigError;

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
