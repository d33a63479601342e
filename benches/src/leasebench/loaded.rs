//! A closed loop of clients, of whatever system, and what it counts.

use crate::stats::Histogram;

/// What clients counted so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) pairs: u64,
    pub(crate) failures: u64,
    /// From asking for a lease to being told that one has it.
    pub(crate) acquire: Histogram,
    /// From asking for a lease to being told that it is given back.
    pub(crate) pair: Histogram,
    /// Loops still running.
    pub(crate) pending: usize,
}

impl Counts {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.failures += other.failures;
        self.acquire.merge(&other.acquire);
        self.pair.merge(&other.pair);
        self.pending += other.pending;
    }

    /// What happened since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            pairs: self.pairs.saturating_sub(earlier.pairs),
            failures: self.failures.saturating_sub(earlier.failures),
            acquire: self.acquire.since(&earlier.acquire),
            pair: self.pair.since(&earlier.pair),
            pending: self.pending,
        }
    }
}

/// A load that runs until it is stopped.
pub(crate) trait Loaded {
    /// What it counted so far.
    fn read(&self) -> Counts;

    /// Begins nothing new.
    fn stop(&self);
}
