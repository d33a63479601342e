//! Times and limits of an object replica, each with its reason.

use types::Duration;

/// Settings of every replica of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// How long a new primary waits for replicas that did not crash before it decides with those
    /// that did. Default 3 s: longer than a server needs to restart, and than most freezes.
    pub trust_grace: Duration,
    /// How long a backup may keep quiet before writes go on without it, and a new primary's disk before
    /// others take its place. Default 1 s: shorter than a lease, so that a frozen backup stalls writers
    /// less than a frozen primary.
    pub backup_timeout: Duration,
    /// Time between attempts to bring up a replica that was left behind. Default 500 ms.
    pub catch_up_retry: Duration,
    /// Time between attempts with a replica that is not connected. Default 2 s: its reconnection is
    /// reported anyway, this only covers a report that was missed.
    pub absent_retry: Duration,
    /// Time without requests after which an object is made clean and its lease released. Default
    /// 10 s: covers the pauses of programs, and keeps the leases of files that were only copied few.
    pub idle_after: Duration,
    /// Time without a primary after which a backup makes its copy clean by itself. Default 30 s:
    /// three times `idle_after`, since the primary normally does it.
    pub backup_idle_after: Duration,
    /// Longest time a request waits here before it is answered with "retry". Default 5 s: a lease
    /// time and `trust_grace` together, so that an ordinary fail-over is one wait.
    pub request_timeout: Duration,
    /// Longest time to wait for a durable record or the answer to one catch-up step. Default 10 s: a
    /// disk that needs longer is as good as dead.
    pub step_timeout: Duration,
    /// How long an answer "somebody else is primary" is repeated without asking again, at most.
    /// Default 250 ms: far below a lease, so that a released one is noticed soon.
    pub hint_max: Duration,
    /// Pause before asking for the lease again after an attempt failed. Default 50 ms: the lease
    /// protocol has its own longer back-off.
    pub acquire_retry: Duration,
    /// How long the primary of a new object waits for a majority that has never heard of it before it
    /// takes the long way. Default 300 ms: many round trips; members that just started never agree.
    pub newborn_patience: Duration,
    /// Time between requests to be brought up. Default 1 s: a large object takes longer, and asking
    /// again does not start it anew.
    pub recover_retry: Duration,
    /// Bytes that a volume with the policy `async` may have acknowledged and no quorum has, per object.
    /// Default 16 MiB: 16 of the largest writes, a hundredth of a second of a fast network.
    pub async_lag_bytes_max: u64,
    /// How old the oldest of them may be. Default 1 s: as long as a backup may keep quiet.
    pub async_lag_max: Duration,
    /// How long a block that a loss of power may have torn waits for a replica that may have it and
    /// keeps quiet, before it is taken as it is. Default 10 min: machines boot within that when power
    /// returns; one that does not must not withhold the object for ever.
    pub doubt_wait: Duration,
    /// A deliberate wrong edit.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_grace: Duration::from_secs(3),
            backup_timeout: Duration::from_secs(1),
            catch_up_retry: Duration::from_millis(500),
            absent_retry: Duration::from_secs(2),
            idle_after: Duration::from_secs(10),
            backup_idle_after: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            step_timeout: Duration::from_secs(10),
            hint_max: Duration::from_millis(250),
            acquire_retry: Duration::from_millis(50),
            newborn_patience: Duration::from_millis(300),
            recover_retry: Duration::from_secs(1),
            async_lag_bytes_max: 16 << 20,
            async_lag_max: Duration::from_secs(1),
            doubt_wait: Duration::from_secs(600),
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// How long ago the lease may have been denied for the next request to wait for the same thing. 10 s:
/// callers ask again within a second of being told to.
pub(crate) const DENIAL_REMEMBERED: Duration = Duration::from_secs(10);

/// Requests of one object that wait for a lease, an activation or room. 1024: four mounts with 256
/// requests each, the most a link has in flight.
pub const WAITING_REQUESTS_MAX: usize = 1024;

/// Bytes of written data in those requests. 64 MiB: what a slow quorum may pin per object.
pub const WAITING_BYTES_MAX: u64 = 64 << 20;

/// Changes of one object that wait for a quorum. 512: two full links.
pub const IN_FLIGHT_MAX: usize = 512;

/// Changes counted one by one that a replica has not applied. Equal to [`IN_FLIGHT_MAX`]: more are
/// under way only while it is left behind.
pub(crate) const UNAPPLIED_CHANGES_MAX: usize = IN_FLIGHT_MAX;

/// Largest read. 4 MiB: four times what the kernel asks for at once.
pub const READ_BYTES_MAX: u32 = 4 << 20;

/// Longest object. It may hold a whole file.
pub const OBJECT_BYTES_MAX: u64 = types::FILE_BYTES_MAX;

/// Sessions whose newest change is remembered per object. 32: they fit the header of the object's
/// file; more sessions than that do not write to one file at a time.
pub const MARKS_MAX: usize = 32;

/// Blocks of [`types::SUM_BYTES`] compared in one step. 32: 2 MiB, some 0.5 ms of reading, so other
/// objects of the thread are not held up.
pub const SUMS_WINDOW: u32 = 32;

/// Repairs under way to one replica. 32: 2 MiB fill a link of 10 Gbit/s at 1 ms.
pub const REPAIRS_MAX: usize = 32;

/// Changes remembered so that a replica that missed a few need not be compared as a whole. 256: what
/// a link has in flight when its sender dies.
pub const RECENT_CHANGES_MAX: usize = 256;

/// Ranges in one answer about recent changes. Equal to [`RECENT_CHANGES_MAX`].
pub const CHANGED_RANGES_MAX: usize = RECENT_CHANGES_MAX;

/// Requests of peers that wait for the disk of this replica. 64: one primary has one activation and
/// one sync under way; the rest is left over from broken connections.
pub const DURABLE_WAITING_MAX: usize = 64;

/// Members of a replica set. 31: what the lease protocol takes, and bits of a word.
pub const MEMBERS_MAX: usize = 31;

/// Findings a scrub remembers. 1000: more than anybody repairs by hand, 60 KB of its file.
pub const SCRUB_FINDINGS_MAX: usize = 1000;
