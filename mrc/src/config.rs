//! Settings of a metadata server and the limits of this crate.

/// Bytes of recent log entries kept in memory. 32 MiB: followers that keep up and the state
/// machine read their entries from there; whoever is further behind reads the disk.
pub(crate) const LOG_CACHE_BYTES_MAX: usize = 32 << 20;

/// Bytes of entries sent to a follower at once. 1 MiB: amortises a round trip, delays a heartbeat
/// behind it by a few milliseconds only.
pub(crate) const LOG_READ_BYTES_MAX: usize = 1 << 20;
