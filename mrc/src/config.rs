//! Settings of a metadata server and the limits of this crate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shell::config::{PublicAddress, check_listen, is_host_and_port};
use shell::link::{Wire, WireError};
use shell::reload::Reload;
use shell::telemetry::{DEFAULT_LOG, LogError};
use types::{ClusterId, IdError};

/// Settings read once at start-up; unknown keys are refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Cluster id, 32 hexadecimal digits.
    pub cluster: String,
    /// File with the cluster's secret, 64 hexadecimal digits.
    pub secret_file: PathBuf,
    /// Number of this metadata server, from 1; one of `members`.
    pub id: u64,
    /// Address the server listens on.
    pub listen: SocketAddr,
    /// Directory of the log and the index.
    pub dir: PathBuf,
    /// All metadata servers with the addresses they are reached at, this one included.
    pub members: Vec<MemberAddress>,
    /// Address at which numbers about the server are served over HTTP, at `/metrics`, in the format of
    /// OpenMetrics (Prometheus). Anyone who reaches it can read them. Default: none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
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
    /// Time between the leader's heartbeats, in milliseconds; the same on all servers. Default 100:
    /// six may be lost before a lease ends.
    #[serde(default = "defaults::heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// How long the leader's lease lasts and the most a follower waits on top of it before it
    /// stands for election, in milliseconds; the same on all servers. Default 600: a frozen leader
    /// is replaced within 1.3 s, a busy one survives pauses of half a second.
    #[serde(default = "defaults::election_ms")]
    pub election_ms: u64,
    /// How long a mount may be silent before its session ends, in milliseconds. Default 30000:
    /// longer than a fail-over and a machine's short freeze, shorter than a user's patience with
    /// locks of a dead machine.
    #[serde(default = "defaults::session_timeout_ms")]
    pub session_timeout_ms: u64,
    /// How long an object server may be silent before it counts as down, in milliseconds.
    /// Default 3000: six of its heartbeats.
    #[serde(default = "defaults::osd_timeout_ms")]
    pub osd_timeout_ms: u64,
    /// How long an object server may be down before what it held is brought to others, in milliseconds.
    /// Default 600000: longer than a restart of the machine, shorter than it takes another one to die.
    #[serde(default = "defaults::rescue_grace_ms")]
    pub rescue_grace_ms: u64,
    /// Whether placement groups move from full object servers to empty ones. Default true.
    #[serde(default = "defaults::rebalance")]
    pub rebalance: bool,
    /// Memory for pages of the index, in bytes. Default 256 MiB: a million files with room.
    #[serde(default = "defaults::index_cache_bytes")]
    pub index_cache_bytes: usize,
    /// Time between flushes of the index, in milliseconds. Default 5000: a restart repeats some
    /// seconds' work.
    #[serde(default = "defaults::flush_ms")]
    pub flush_ms: u64,
    /// Entries applied until a checkpoint lets the log be purged. Default 20000: some megabytes of
    /// log.
    #[serde(default = "defaults::checkpoint_entries")]
    pub checkpoint_entries: u64,
    /// Entries kept behind a checkpoint. Default 50000: a follower that was away for minutes needs
    /// no checkpoint.
    #[serde(default = "defaults::log_keep_entries")]
    pub log_keep_entries: u64,
    /// Bytes of one file of the log. Default 16 MiB: written full once in a tenth of a second, and
    /// purged as a whole.
    #[serde(default = "defaults::log_segment_bytes")]
    pub log_segment_bytes: u32,
}

/// A metadata server and where it is reached.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemberAddress {
    /// Its number.
    pub id: u64,
    /// Its address, `host:port`.
    pub address: String,
}

mod defaults {
    pub(super) fn log() -> String {
        super::DEFAULT_LOG.to_owned()
    }
    pub(super) const fn heartbeat_ms() -> u64 {
        100
    }
    pub(super) const fn election_ms() -> u64 {
        600
    }
    pub(super) const fn session_timeout_ms() -> u64 {
        30_000
    }
    pub(super) const fn osd_timeout_ms() -> u64 {
        3_000
    }
    pub(super) const fn rescue_grace_ms() -> u64 {
        600_000
    }
    pub(super) const fn rebalance() -> bool {
        true
    }
    pub(super) const fn index_cache_bytes() -> usize {
        256 << 20
    }
    pub(super) const fn flush_ms() -> u64 {
        5_000
    }
    pub(super) const fn checkpoint_entries() -> u64 {
        20_000
    }
    pub(super) const fn log_keep_entries() -> u64 {
        50_000
    }
    pub(super) const fn log_segment_bytes() -> u32 {
        16 << 20
    }
}

impl Reload for Config {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn log(&self) -> &str {
        &self.log
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
    /// Heartbeats come too seldom to keep a lease.
    #[error(
        "`heartbeat_ms` is {heartbeat_ms}; it must be at most a third of `election_ms`, which is {election_ms}"
    )]
    Heartbeat {
        /// Heartbeat found.
        heartbeat_ms: u64,
        /// Election time found.
        election_ms: u64,
    },
    /// This server is not in the list.
    #[error("`members` does not list this server, `id` {id}")]
    NotAMember {
        /// Its number.
        id: u64,
    },
    /// A number or an address is there twice.
    #[error("`members` lists {what} twice")]
    Twice {
        /// The number or address.
        what: MemberPart,
    },
    /// The address of a member has no host or no port.
    #[error(
        "`members` gives server {id} the address {address:?}; give HOST:PORT, such as \"10.0.0.1:7000\" or \"[::1]:7000\""
    )]
    Address {
        /// Its number.
        id: u64,
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

/// What of a member is repeated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MemberPart {
    /// Its number.
    Id(u64),
    /// Its address.
    Address(String),
}

impl std::fmt::Display for MemberPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id {id}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
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
            // 0 would be "nobody" on the wire.
            ("id", self.id, 1, u64::from(u32::MAX)),
            ("heartbeat_ms", self.heartbeat_ms, 10, 10_000),
            ("election_ms", self.election_ms, 50, 60_000),
            (
                "session_timeout_ms",
                self.session_timeout_ms,
                100,
                3_600_000,
            ),
            ("osd_timeout_ms", self.osd_timeout_ms, 100, 600_000),
            // A week: longer is never.
            ("rescue_grace_ms", self.rescue_grace_ms, 0, 604_800_000),
            (
                "index_cache_bytes",
                self.index_cache_bytes as u64,
                1 << 20,
                1 << 40,
            ),
            ("flush_ms", self.flush_ms, 10, 600_000),
            (
                "checkpoint_entries",
                self.checkpoint_entries,
                10,
                10_000_000,
            ),
            ("log_keep_entries", self.log_keep_entries, 0, 10_000_000),
            // An entry must fit: the longest carries an xattr of 64 KiB.
            (
                "log_segment_bytes",
                u64::from(self.log_segment_bytes),
                1 << 20,
                1 << 30,
            ),
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
        if self.heartbeat_ms * 3 > self.election_ms {
            return Err(ConfigError::Heartbeat {
                heartbeat_ms: self.heartbeat_ms,
                election_ms: self.election_ms,
            });
        }
        self.check_members()?;
        let addresses = [
            ("listen", Some(self.listen)),
            ("metrics_listen", self.metrics_listen),
        ];
        check_listen(&addresses, self.insecure_network)?;
        self.wire.get().check()?;
        shell::telemetry::check(&self.log)?;
        Ok(self)
    }

    fn check_members(&self) -> Result<(), ConfigError> {
        if !self.members.iter().any(|member| member.id == self.id) {
            return Err(ConfigError::NotAMember { id: self.id });
        }
        let odd = |member: &&MemberAddress| !is_host_and_port(&member.address);
        if let Some(member) = self.members.iter().find(odd) {
            return Err(ConfigError::Address {
                id: member.id,
                address: member.address.clone(),
            });
        }
        for (at, member) in self.members.iter().enumerate() {
            for other in self.members.iter().skip(at + 1) {
                let what = if other.id == member.id {
                    MemberPart::Id(member.id)
                } else if other.address == member.address {
                    MemberPart::Address(member.address.clone())
                } else {
                    continue;
                };
                return Err(ConfigError::Twice { what });
            }
        }
        Ok(())
    }

    /// The cluster's id.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Cluster`] if the text is none.
    pub fn cluster_id(&self) -> Result<ClusterId, ConfigError> {
        Ok(self.cluster.parse()?)
    }

    /// Addresses by number.
    pub(crate) fn addresses(&self) -> BTreeMap<u64, String> {
        self.members
            .iter()
            .map(|member| (member.id, member.address.clone()))
            .collect()
    }

    pub(crate) const fn lease(&self) -> Duration {
        Duration::from_millis(self.election_ms)
    }

    pub(crate) const fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms)
    }

    pub(crate) const fn osd_timeout(&self) -> Duration {
        Duration::from_millis(self.osd_timeout_ms)
    }
}

/// Bytes of recent log entries kept in memory. 32 MiB: followers that keep up and the state
/// machine read their entries from there; whoever is further behind reads the disk.
pub(crate) const LOG_CACHE_BYTES_MAX: usize = 32 << 20;

/// Bytes of entries sent to a follower at once. 1 MiB: amortises a round trip, delays a heartbeat
/// behind it by a few milliseconds only.
pub(crate) const LOG_READ_BYTES_MAX: usize = 1 << 20;

/// Log entries applied as one batch of the index engine. 1024: a few milliseconds of one server's
/// time, after which replies leave.
pub(crate) const APPLY_ENTRIES_MAX: usize = 1024;

/// Bytes of commands applied until the index is flushed. 64 MiB: what a restart repeats at most,
/// some seconds' work.
pub(crate) const FLUSH_BYTES: u64 = 64 << 20;

/// Bytes of one part of a checkpoint. 1 MiB: amortises a round trip, stays far below the largest
/// message, and a record is never longer than a part by much.
pub(crate) const CHECKPOINT_PART_BYTES: usize = 1 << 20;

/// Appends sent to one follower before the first of them is answered. 4: hides a round trip and an
/// fdatasync; more would only delay what a lagging follower is told next.
pub(crate) const APPENDS_IN_FLIGHT_MAX: usize = 4;

/// How long a follower may take to store entries. 2 s: a disk that takes longer is as good as
/// dead; a broken connection is noticed at once, without this.
pub(crate) const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a follower may take for one part of a checkpoint. 10 s: a megabyte on a very busy disk.
pub(crate) const CHECKPOINT_PART_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a follower may take to replace its index by a checkpoint. 30 min: 100 million records
/// at a modest 60,000 per second.
pub(crate) const CHECKPOINT_INSTALL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Commands proposed and not yet applied. 8192: some hundred mounts with full queues; beyond it the
/// log grows faster than it can be applied.
pub(crate) const PROPOSALS_IN_FLIGHT_MAX: usize = 8192;

/// How long a read waits for the leader to prove that it still leads, when its lease has run out.
/// 2 s: longer than an election.
pub(crate) const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(2);

/// How long another metadata server may take to introduce itself. 500 ms: a status shows it as
/// down then.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause between two looks at the other servers while there is no membership yet. 100 ms: forming a
/// cluster is not what a start-up waits for.
pub(crate) const BOOTSTRAP_PAUSE: Duration = Duration::from_millis(100);

/// How long there may be no leader at the start until it is said that one is waited for. 2 s: longer
/// than an election.
pub(crate) const LEADER_SOON: Duration = Duration::from_secs(2);

/// Pause between two looks of a member whether it still is one. 1 s: it only ends a server that was
/// removed, or finds one that moved.
pub(crate) const MEMBER_PAUSE: Duration = Duration::from_secs(1);

/// How long one step of a change of the metadata servers may take until it is said that it is under
/// way. 1 s: shorter than administrators wait for an answer.
pub(crate) const MEMBER_STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// Metadata servers named in one change. 16: all old ones and all new ones.
pub(crate) const MRC_CHANGE_MAX: usize = 16;

/// Requests of a leader waiting for this follower's Raft. 64: a leader sends a few at once.
pub(crate) const APPENDS_QUEUED_MAX: usize = 64;

/// How long the leader may take to answer what a follower passed on. 1 s: as long as mounts wait.
pub(crate) const FORWARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Links to leaders of what is passed on. 16: more servers than a cluster has.
pub(crate) const FORWARD_LINKS_MAX: usize = 16;

/// How long a capability is good for. 10 min: a mount that lost its session keeps no right for
/// longer, and renewing costs one request per file and that time.
pub(crate) const CAPABILITY_LIFETIME: Duration = Duration::from_secs(600);

/// How long before its end a capability should be renewed. 1 min: clocks of servers may differ by
/// some seconds, and a fail-over may delay the renewal.
pub(crate) const CAPABILITY_MARGIN: Duration = Duration::from_secs(60);

/// Time between rounds of the janitor when nothing happens. 1 s: how much later than its timeout a
/// session may end.
pub(crate) const JANITOR_INTERVAL: Duration = Duration::from_secs(1);

/// Least pause between two rounds. 100 ms: what many unlinks leave is collected together.
pub(crate) const JANITOR_PAUSE: Duration = Duration::from_millis(100);

/// How long a removed file can still be opened by who had looked up its name before. 1 s: opening a
/// name that others replace all the time never fails then, as on a local file system, unless the
/// two requests of an open(2) are further apart.
pub(crate) const ORPHAN_GRACE: Duration = Duration::from_secs(1);

/// Time between two looks of the leader at the replicas when there was nothing to do. 1 s: what servers
/// report comes twice as often.
pub(crate) const PLAN_INTERVAL: Duration = Duration::from_secs(1);

/// How long a server that is up may make no progress at least, until it is taken for ill. 1 min: comparing
/// a large group with a cold disk takes less, and a short time of grace for dead servers must not count
/// busy ones out.
pub(crate) const ILL_PATIENCE_LEAST: types::Duration = types::Duration::from_secs(60);

/// The same while one changes. 200 ms: the servers concerned say at once that they have everything.
pub(crate) const PLAN_AFTER_ACT: Duration = Duration::from_millis(200);

/// Bytes per second that each object server sends to bring copies up, if no limit was set. 32 MiB: a quarter
/// of a link of 1 Gbit/s, which leaves room for clients.
pub(crate) const REPAIR_BYTES_PER_S_EACH: u64 = 32 << 20;

/// Least part of a limit that one object server gets, in bytes per second. 256 KiB: some repairs each
/// second, so that none waits for a minute.
pub(crate) const PACE_LEAST_BYTES_PER_S: u64 = 256 << 10;

/// Time over which the rate of copying is measured. 10 s: long enough for servers that report twice per
/// second, short enough to see what a new limit does.
pub(crate) const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Changes of replica sets begun or ended in one look. 64: each is a command of the log, and clients'
/// changes wait behind them.
pub(crate) const PLANNED_ACTS_MAX: usize = 64;

/// Pages of one kind in one round. 16: after some 16,000 orphans other work gets its turn.
pub(crate) const JANITOR_ROUNDS_MAX: usize = 16;

/// Inodes of one Reap; the core allows as many.
pub(crate) const REAP_INODES_MAX: usize = mrc_core::config::REAP_INODES_MAX;

/// Objects of one request to delete. 1024: some milliseconds of an object server's time.
pub(crate) const DELETE_OBJECTS_MAX: usize = 1024;

/// Records of garbage that an object server may fail to delete in one round before the round goes
/// on with others. 64: one page is tried within some rounds, and each costs a request.
pub(crate) const GARBAGE_FAILURES_MAX: usize = 64;

/// Object servers that delete at the same time. 8: one that is slow does not keep the others
/// waiting, and the leader has other work, too.
pub(crate) const GARBAGE_SERVERS_AT_ONCE_MAX: usize = 8;

/// Sizes asked for at once. 128: of files that nobody has open each costs an object server syncs, which it does
/// together for all that wait; more would keep requests of mounts waiting.
pub(crate) const SETTLE_AT_ONCE_MAX: usize = 128;

/// How long an object server may take to answer the janitor. 5 s: longer than a change of primary.
pub(crate) const OSD_TIMEOUT: Duration = Duration::from_secs(5);

/// Links to object servers kept. 1024: one for each server a cluster can have.
pub(crate) const OSD_LINKS_MAX: usize = mrc_core::config::OSDS_MAX;

/// How long one round begins to settle further sizes. 4 s: the last ones have their answers, or none, before
/// [`SETTLE_ROUND_TIMEOUT`] is over, and what else the janitor does has its turn in between.
pub(crate) const SETTLE_TAKE_TIME: Duration = Duration::from_secs(4);

/// How long one round may settle sizes. 10 s: two rounds of questions to servers that are silent.
pub(crate) const SETTLE_ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of one command. 256 KiB: the longest, an xattr, has 64 KiB, and it must fit into the
/// smallest segment of the log with room.
pub(crate) const PROPOSAL_BYTES_MAX: usize = 256 << 10;

/// Bytes of changes buffered in front of the index engine until it gets them. 1 MiB: some thousand
/// changes share the cost of one commit of the engine.
pub(crate) const DRAIN_BYTES: usize = 1 << 20;

/// Time after which the engine gets what is buffered, however little. 100 ms: ten commits per
/// second cost nothing.
pub(crate) const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes buffered at most; then applying waits for the engine. 64 MiB: seconds of a flush.
pub(crate) const BUFFER_BYTES_MAX: usize = 64 << 20;

/// How long a pause of [`JANITOR_INTERVAL`] lasts when the server was frozen. 5 s: a busy machine is
/// late by less.
pub(crate) const JANITOR_LATE: Duration = Duration::from_secs(5);

/// Bytes of one copy of a log's promises. 4096: a block of its own, so that a write torn by a power
/// failure leaves the other copy alone.
pub(crate) const PROMISES_COPY_BYTES: usize = 4096;

/// Bytes kept free on the disk of a metadata server, at most; on a small disk it is an eighth.
/// 256 MiB: what other programs write between two looks, and some segments of the log.
pub(crate) const DISK_RESERVE_BYTES_MAX: u64 = 256 << 20;

/// Time between two looks at the free space. 500 ms: a busy disk takes some ten megabytes in it.
pub(crate) const DISK_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes of the file that the index uses up when the disk is full, at most; on a small disk it is a
/// sixteenth. 64 MiB: new pages for what is deleted between two flushes.
pub(crate) const CUSHION_BYTES_MAX: u64 = 64 << 20;

/// Bytes taken off that file at once. 1 MiB: pages of one batch of changes.
pub(crate) const CUSHION_PIECE_BYTES: u64 = 1 << 20;

/// Dumps of the metadata that one server hands out at a time. 2: a nightly one and an administrator's; each
/// keeps the index's file from reusing room.
pub(crate) const DUMPS_MAX: usize = 2;

/// How long a dump is kept that nobody asks about. 60 s: a stalled disk at the other end, not a crash.
pub(crate) const DUMP_IDLE: Duration = Duration::from_secs(60);

/// Bytes of records and keys on one page of a dump. 512 KiB: as a page of a directory.
pub(crate) const DUMP_PAGE_BYTES: usize = 512 << 10;

/// Files that somebody waits for after a restore, which are compared with their objects before others. 1024:
/// more than programs open at a time; one that is left out has its turn later.
pub(crate) const SETTLE_FIRST_MAX: usize = 1024;
