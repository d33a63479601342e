//! Settings of a metadata server and the limits of this crate.

use std::time::Duration;

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
