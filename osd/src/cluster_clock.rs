//! What time it is at the metadata cluster, by which capabilities end.
//!
//! This machine's own wall clock may be hours off, and every capability would seem to have ended then, new
//! ones too. So the leader's time is taken from its answers to heartbeats, and goes on with this
//! machine's monotonic clock in between.

use std::sync::atomic::{AtomicI64, Ordering};

use shell::clock::{boottime, wall};
use types::{Instant, UnixNanos};

/// Nothing was heard yet.
const UNKNOWN: i64 = i64::MIN;

/// The time of the metadata leader that was heard last.
#[derive(Debug)]
pub(crate) struct ClusterClock {
    /// Its wall clock less this machine's time since start, in nanoseconds.
    ahead_ns: AtomicI64,
}

impl Default for ClusterClock {
    fn default() -> Self {
        Self {
            ahead_ns: AtomicI64::new(UNKNOWN),
        }
    }
}

impl ClusterClock {
    /// An answer said what time it was at the leader. It was on its way for less than its deadline, and
    /// by so much this clock is late: a capability lives longer by that, never shorter.
    pub(crate) fn heard(&self, leader: UnixNanos) {
        self.heard_at(leader, boottime());
    }

    fn heard_at(&self, leader: UnixNanos, now: Instant) {
        // 0: not told.
        if leader.0 != 0 {
            let ahead_ns = leader.0.saturating_sub(nanos(now));
            self.ahead_ns.store(ahead_ns, Ordering::Relaxed);
        }
    }

    /// Now; by this machine's wall clock as long as nothing was heard.
    pub(crate) fn now(&self) -> UnixNanos {
        self.at(boottime()).unwrap_or_else(wall)
    }

    fn at(&self, now: Instant) -> Option<UnixNanos> {
        let ahead_ns = self.ahead_ns.load(Ordering::Relaxed);
        (ahead_ns != UNKNOWN).then(|| UnixNanos(nanos(now).saturating_add(ahead_ns)))
    }
}

fn nanos(instant: Instant) -> i64 {
    i64::try_from(instant.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_by_what_the_leader_said_last() {
        let clock = ClusterClock::default();
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        assert_eq!(clock.at(at(5)), None);

        clock.heard_at(UnixNanos(1_000_000_000_000), at(5));
        clock.heard_at(UnixNanos(0), at(6));
        let later = clock.at(at(7));
        clock.heard_at(UnixNanos(9_000_000_000), at(8));

        assert_eq!(later, Some(UnixNanos(1_002_000_000_000)));
        assert_eq!(clock.at(at(8)), Some(UnixNanos(9_000_000_000)));
    }
}
