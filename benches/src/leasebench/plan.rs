//! How long and how often everything is measured.

use std::time::Duration;

/// The extent of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Running before the counters are read for the first time.
    pub(crate) warm_up: Duration,
    /// The same for servers that compile themselves while they run.
    pub(crate) java_warm_up: Duration,
    /// Between the two readings of the counters.
    pub(crate) window: Duration,
    /// How long leases are kept alive.
    pub(crate) hold: Duration,
    /// Lease times at which they are.
    pub(crate) hold_lease: Vec<Duration>,
    /// Largest number of leases tried.
    pub(crate) hold_max: u64,
    /// Steps of the search between the largest number that worked and the smallest that did not.
    pub(crate) hold_bisections: u32,
    /// How often a holder is killed, and frozen.
    pub(crate) fail_overs: usize,
    /// How often all members want the same lease at the same moment.
    pub(crate) contentions: usize,
    /// Numbers of lease servers.
    pub(crate) members: Vec<usize>,
    /// Acquisitions under way at a time.
    pub(crate) outstanding: Vec<usize>,
}

impl Plan {
    /// What the published numbers need.
    pub(crate) fn full() -> Self {
        Self {
            warm_up: Duration::from_secs(2),
            java_warm_up: Duration::from_secs(12),
            window: Duration::from_secs(3),
            hold: Duration::from_secs(60),
            hold_lease: [1, 5, 10].map(Duration::from_secs).to_vec(),
            hold_max: 1_000_000,
            hold_bisections: 1,
            fail_overs: 50,
            contentions: 200,
            members: vec![3, 5, 10, 30],
            outstanding: vec![1, 16, 256, 4096],
        }
    }

    /// Acquisitions under way at a time, and whether idle processors are kept from sleeping. With one under way
    /// all but one processor sleep at any moment, so it is measured both ways.
    pub(crate) fn loads(&self) -> Vec<(usize, bool)> {
        let plain = self
            .outstanding
            .iter()
            .map(|outstanding| (*outstanding, false));
        let awake = self
            .outstanding
            .iter()
            .filter(|outstanding| **outstanding == 1);
        plain
            .chain(awake.map(|outstanding| (*outstanding, true)))
            .collect()
    }

    /// Everything once, in a few minutes.
    pub(crate) fn quick() -> Self {
        Self {
            warm_up: Duration::from_millis(500),
            java_warm_up: Duration::from_secs(10),
            window: Duration::from_secs(1),
            hold: Duration::from_secs(6),
            hold_lease: [1, 5].map(Duration::from_secs).to_vec(),
            hold_max: 100_000,
            hold_bisections: 0,
            fail_overs: 5,
            contentions: 20,
            members: vec![3, 30],
            ..Self::full()
        }
    }
}
