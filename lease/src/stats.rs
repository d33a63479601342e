//! Numbers about a host, for metrics and for people.

use types::{CellId, Instant, MemberId};

/// What happened since the host was made; every field only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Leases gained, extensions not counted.
    pub gained: u64,
    /// Of these, by the shortcut for brand-new cells.
    pub shortcuts: u64,
    /// Extensions of held leases.
    pub renewals: u64,
    /// Leases that ended without a release.
    pub lost: u64,
    /// Leases given back or handed over.
    pub released: u64,
    /// Acquisitions that found another holder.
    pub held_by_others: u64,
    /// Acquisitions without a majority.
    pub no_quorum: u64,
    /// Proposals lost against a higher ballot.
    pub preempted: u64,
    /// Proposals begun again because the phases were too far apart.
    pub too_slow: u64,
    /// Messages of older views that were refused.
    pub old_views: u64,
    /// Messages ignored because the host is in quarantine.
    pub quarantined: u64,
    /// Messages ignored because they make no sense.
    pub malformed: u64,
    /// Messages ignored because `cells_max` cells are in memory.
    pub cells_full: u64,
}

/// A picture of the host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Cells in memory.
    pub cells: usize,
    /// Most cells that may be in memory.
    pub cells_max: usize,
    /// Timers waiting.
    pub timers: usize,
    /// What happened so far.
    pub counters: Counters,
}

/// One cell of [`Host::list`](crate::Host::list).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CellInfo {
    /// The cell.
    pub cell: CellId,
    /// View it is in.
    pub view: u64,
    /// What this host knows about its lease.
    pub state: CellState,
}

/// What a host knows about a cell's lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CellState {
    /// This host holds it.
    Held {
        /// Fencing number.
        epoch: u64,
        /// End by this host's clock.
        until: Instant,
    },
    /// This host asks for it.
    Proposing,
    /// Another member's lease runs here.
    HeldBy {
        /// Who.
        member: MemberId,
        /// End by this host's clock.
        until: Instant,
    },
    /// Nobody is known to hold it.
    Free,
}
