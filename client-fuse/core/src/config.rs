//! Limits of the decisions made here, each with its unit and its reason.

use types::Duration;

/// First wait before a server is asked again. 20 ms: a lease changes hands within that time when
/// nobody died.
pub const ROUTE_BACKOFF_MIN: Duration = Duration::from_millis(20);

/// Longest wait before a server is asked again. 200 ms: a small part of the 1.5 s a dead server's
/// lease still runs, so that the new primary is found soon after.
pub const ROUTE_BACKOFF_MAX: Duration = Duration::from_millis(200);

/// How often a server that says "try again" is asked before another one is. 4: with the growing
/// waits some 300 ms, longer than any server that makes progress needs.
pub const ROUTE_TRIES_SAME_SERVER: u32 = 4;

/// Failures in a row after which a replica set is asked for anew. 30: some 6 s, longer than a primary's fail-over
/// takes, during which the metadata cluster need not be reached.
pub(crate) const ROUTE_RENEW_AFTER: u32 = 30;

/// How long a server may be silent that others say is the primary, until it is asked through them.
/// 2 s: longer than the default lease (1.5 s), which a server that is frozen or dead does not renew;
/// so it lives and only this mount does not reach it.
pub const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// Limits of the changes of one open file.
#[derive(Clone, Copy, Debug)]
pub struct ChangeLimits {
    /// Largest write that is sent. Default 1 MiB: the kernel's largest write, and long enough
    /// that its round trip costs less than moving its bytes.
    pub chunk_bytes: u64,
    /// How long bytes wait for more to be gathered with while others are on their way. Default 50 ms:
    /// short enough that a log file followed from another mount does not lag for the eye, and
    /// reached only if the primary takes as long to answer.
    pub gather_time: Duration,
    /// Bytes sent and not acknowledged, per file. Default 16 MiB: hides 10 ms at 1.6 GB/s.
    pub in_flight_bytes_max: u64,
    /// Changes sent and not acknowledged, per file. Default 64: small random writes stay
    /// pipelined, and sending all of them again after a fail-over stays cheap.
    pub in_flight_max: usize,
    /// How long the primary may take before another replica is asked who the primary is.
    /// Default 500 ms: a third of the default lease time.
    pub patience: Duration,
    /// How long the oldest change may wait before the stall is reported. Default 1 s.
    pub stall_report: Duration,
}

impl Default for ChangeLimits {
    fn default() -> Self {
        Self {
            chunk_bytes: 1 << 20,
            gather_time: Duration::from_millis(50),
            in_flight_bytes_max: 16 << 20,
            in_flight_max: 64,
            patience: Duration::from_millis(500),
            stall_report: Duration::from_secs(1),
        }
    }
}

/// Limits of reading ahead.
#[derive(Clone, Copy, Debug)]
pub struct ReadAheadLimits {
    /// Bytes asked for at once. Default 1 MiB: the kernel's largest read.
    pub window_bytes: u64,
    /// Windows asked for beyond what was read. Default 4: hides 4 ms at 1 GB/s.
    pub windows_max: usize,
    /// Age at which bytes read ahead are thrown away. Default 100 ms: a program that reads on
    /// consumes a window in a few milliseconds; this bounds what it may miss of another mount's
    /// writes.
    pub age_max: Duration,
}

impl Default for ReadAheadLimits {
    fn default() -> Self {
        Self {
            window_bytes: 1 << 20,
            windows_max: 4,
            age_max: Duration::from_millis(100),
        }
    }
}
