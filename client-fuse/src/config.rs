//! Limits of a mount, each with its unit and its reason.

use std::time::Duration;

/// How long a metadata server may take before another one is asked. 1 s: three times what an
/// election takes.
pub(crate) const METADATA_PATIENCE: Duration = Duration::from_secs(1);

/// Waits between rounds of asking all metadata servers, doubled with each. From 10 ms, because an
/// election is short, to 200 ms, so that a new leader is found soon.
pub(crate) const METADATA_BACKOFF_MIN: Duration = Duration::from_millis(10);
/// See [`METADATA_BACKOFF_MIN`].
pub(crate) const METADATA_BACKOFF_MAX: Duration = Duration::from_millis(200);

/// Nonces that a mount draws until it has a session. 100: each more is drawn only after a session that it did
/// not hear of has ended by the clock, half a minute each with the default timeout.
pub(crate) const SESSION_NONCES_MAX: u32 = 100;

/// How long connecting to the cluster may take before a mount is given up. 15 s: a cluster that
/// is just starting has elected a leader long before.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// After how long a request that waits is reported.
pub(crate) const STALL_REPORT: Duration = Duration::from_secs(1);

/// How long an object server may take to answer a read before another replica is asked, too.
/// 500 ms: a third of the default lease time.
pub(crate) const READ_PATIENCE: Duration = Duration::from_millis(500);

/// For how long a server that was silent is not the first to be asked about other files. 3 s: it
/// costs one file in that time the wait for its answer, and a server that woke is used soon.
pub(crate) const SILENT_TIME: types::Duration = types::Duration::from_secs(3);

/// For how long a server that is cut off from this mount alone is asked through another one. 10 s:
/// until then the link has noticed that it leads nowhere, and says when it leads somewhere again.
pub(crate) const CUT_TIME: types::Duration = types::Duration::from_secs(10);

/// How long an object server may take to answer at all. 30 s: longer than any disk that works;
/// long before, other replicas have been asked.
pub(crate) const OBJECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes written by programs and not acknowledged by object servers, per mount. 256 MiB: two
/// seconds of a fast network, and not much of any server's memory.
pub(crate) const DIRTY_BYTES_MAX: u64 = 256 << 20;

/// Largest read or write the kernel sends. 1 MiB: its own limit (`fs.fuse.max_pages_limit`).
pub(crate) const KERNEL_IO_BYTES: u32 = 1 << 20;

/// Requests the kernel sends without a program waiting for each (readahead, asynchronous I/O).
/// 64: enough to fill the pipe with 1 MiB reads.
pub(crate) const KERNEL_BACKGROUND: u16 = 64;

/// Threads that take requests from the kernel: one per CPU, between these.
pub(crate) const KERNEL_THREADS_MIN: usize = 2;
/// See [`KERNEL_THREADS_MIN`]. 8: each only copies and hands on.
pub(crate) const KERNEL_THREADS_MAX: usize = 8;

/// Directory entries asked for at once. 1,000: one message of some 100 KiB.
pub(crate) const LIST_PAGE: u32 = 1_000;

/// Open inodes told to a new leader, in one message. 400,000: at most 4 MiB, the largest message.
pub(crate) const REGISTER_MAX: usize = 400_000;

/// Leaders that are told in a row what is open here. 8: each of them was elected while the one before
/// was told; the next sign of life goes on.
pub(crate) const REGISTRATIONS_MAX: u32 = 8;

/// How often the metadata cluster is told a file's size, if another mount truncated it meanwhile.
/// 32: each time another mount has been faster than two round trips.
pub(crate) const SIZE_TRIES_MAX: u32 = 32;

/// Largest range whose hole is punched by writing zeros. 1 GiB: more would take too long for a
/// call that programs expect to be cheap.
pub(crate) const PUNCH_BYTES_MAX: u64 = 1 << 30;

/// A grant is renewed when less than this part of its time is left.
pub(crate) const GRANT_RENEW_DIVISOR: u32 = 4;

/// How long a mount waits for programs to let go of it after it was detached. 5 s.
pub(crate) const DETACH_TIMEOUT: Duration = Duration::from_secs(5);

/// While files grow, how often the leader is asked for the volume's quota, and told how long they are if
/// there is one. 1 s: one message for all files, and what several mounts write beyond a quota is bounded by
/// what they write in two of these.
pub(crate) const QUOTA_INTERVAL: Duration = Duration::from_secs(1);

/// After how long the leader is asked once more before a program is refused for a quota. 50 ms: that a file
/// was closed, which may be removed already, is told behind the back of close(2); and a program that repeats
/// a refused write asks at most twenty times per second.
pub(crate) const QUOTA_SECOND_LOOK: Duration = Duration::from_millis(50);

/// How often the leader is asked before a program is refused for a quota. 32: each time another report of
/// this mount's files was under way, which takes some milliseconds.
pub(crate) const QUOTA_QUESTIONS_MAX: u32 = 32;

/// Files whose sizes are reported at once for a quota, those that grew most. 64: as many changes as a session
/// may have under way.
pub(crate) const QUOTA_REPORTS_MAX: usize = 64;

/// How long unmounting waits until what was written is acknowledged. 20 s: several fail-overs.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the writes of a file are not taken before the primary has them, after it had no space
/// left. 10 s: a program that goes on writing learns from write(2) itself, and space that somebody
/// made is soon used at full speed.
pub(crate) const WRITE_THROUGH: types::Duration = types::Duration::from_secs(10);
