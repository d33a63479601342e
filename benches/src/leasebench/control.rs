//! What the benchmark tells its lease servers over their standard input, and what they answer: one
//! JSON object per line.

use serde::{Deserialize, Serialize};

use crate::stats::Histogram;

/// To a server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Command {
    /// Connect to the other members; answered when all are connected and the host answers questions.
    Peers { addresses: Vec<(u64, String)> },
    /// Acquire and release, closed loop, until `Stop`.
    Load { outstanding: usize, newborn: bool },
    /// Begin nothing new and answer when nothing is pending.
    Stop,
    /// Tell all counters.
    Read,
    /// Acquire this many leases and keep them.
    Hold { count: u64, members: u64, run: u64 },
    /// Ask for cells of all members again and again until they are held; each is reported.
    Want { first: u64, count: u64 },
    /// Ask once for a cell of all members and report what came out.
    Ask { cell: u64 },
    /// Give a cell of all members back.
    Release { cell: u64 },
}

/// From a server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Said {
    /// It listens here.
    Listening { address: String },
    /// The command is done.
    Done,
    /// Answer to `Read`.
    Totals(Box<Totals>),
    /// A wanted cell is held, at this time since the machine started.
    Held { cell: u64, at_ns: u64 },
    /// Answer to `Ask`: who holds it now.
    Outcome {
        cell: u64,
        holder: Option<u64>,
        at_ns: u64,
    },
}

/// Everything a server counted since it started.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Totals {
    pub(crate) pairs: u64,
    /// Acquisitions that did not end with the lease.
    pub(crate) failures: u64,
    /// Leases lost while held.
    pub(crate) lost: u64,
    /// Held now by `Hold`.
    pub(crate) held: u64,
    /// From asking until the lease is held.
    pub(crate) acquire: Histogram,
    /// From asking until it is given back.
    pub(crate) pair: Histogram,
    pub(crate) messages: u64,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) renewals: u64,
    pub(crate) rss_bytes: u64,
}

impl Totals {
    /// Sum of several servers.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.failures += other.failures;
        self.lost += other.lost;
        self.held += other.held;
        self.acquire.merge(&other.acquire);
        self.pair.merge(&other.pair);
        self.messages += other.messages;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.renewals += other.renewals;
        self.rss_bytes += other.rss_bytes;
    }

    /// What happened since `earlier`. Levels stay as they are now.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            pairs: self.pairs.saturating_sub(earlier.pairs),
            failures: self.failures.saturating_sub(earlier.failures),
            lost: self.lost.saturating_sub(earlier.lost),
            held: self.held,
            acquire: self.acquire.since(&earlier.acquire),
            pair: self.pair.since(&earlier.pair),
            messages: self.messages.saturating_sub(earlier.messages),
            frames: self.frames.saturating_sub(earlier.frames),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            renewals: self.renewals.saturating_sub(earlier.renewals),
            rss_bytes: self.rss_bytes,
        }
    }
}
