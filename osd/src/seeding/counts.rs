//! What collectors are told of seedings.

use std::sync::atomic::{AtomicU64, Ordering};

use shell::metrics::Metric;

/// How a seeding ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The group came as a whole; the ordinary recovery brings it up to now.
    Seeded,
    /// Nobody has enough of it in a store on ZFS that it would be worth while.
    NotWorth,
    /// It was tried, and the group is copied object by object.
    Failed,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    seeded: AtomicU64,
    not_worth: AtomicU64,
    failed: AtomicU64,
    increments: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Counts {
    pub(crate) fn ended(&self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Seeded => &self.seeded,
            Outcome::NotWorth => &self.not_worth,
            Outcome::Failed => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What had changed during a stream came as one, too.
    pub(super) fn incremented(&self) {
        self.increments.fetch_add(1, Ordering::Relaxed);
    }

    /// How often.
    #[cfg(test)]
    pub(crate) fn increments(&self) -> u64 {
        self.increments.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many ended so.
    #[cfg(test)]
    pub(crate) fn of(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Seeded => &self.seeded,
            Outcome::NotWorth => &self.not_worth,
            Outcome::Failed => &self.failed,
        }
        .load(Ordering::Relaxed)
    }

    /// The counts, for collectors.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let help =
            "Placement groups that could have come to this server as a whole, by what became of it";
        let ended = |outcome, count: &AtomicU64| {
            let value = count.load(Ordering::Relaxed);
            Metric::counter("oxfs_osd_seedings", help, value).with("outcome", outcome)
        };
        let help = "Bytes of streams of whole placement groups";
        let bytes = |direction, count: &AtomicU64| {
            let value = count.load(Ordering::Relaxed);
            Metric::counter("oxfs_osd_seed_bytes", help, value).with("direction", direction)
        };
        let help = "Streams of what changed in a placement group while all of it was on its way";
        let increments = self.increments.load(Ordering::Relaxed);
        vec![
            Metric::counter("oxfs_osd_seed_increments", help, increments),
            ended("seeded", &self.seeded),
            ended("not_worth", &self.not_worth),
            ended("failed", &self.failed),
            bytes("received", &self.received_bytes),
            bytes("sent", &self.sent_bytes),
        ]
    }
}
