//! Numbers about a host, for metrics and for people.

use std::sync::Arc;

use types::{CellId, Duration, Instant, MemberId};

use crate::message::{Ballot, Holder};

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
    /// Of these, in favour of a successor.
    pub handed_over: u64,
    /// Votes refused because somebody else's lease ran here, or a successor was preferred.
    pub refused_held: u64,
    /// Votes refused because a higher ballot was promised.
    pub refused_ballot: u64,
    /// Votes refused because the epoch was too low or the lease time too long.
    pub refused_epoch: u64,
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

impl Counters {
    /// Leases that were gained and have not ended.
    pub(crate) const fn held(&self) -> u64 {
        self.gained.saturating_sub(self.lost + self.released)
    }
}

/// A picture of the host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Cells in memory.
    pub cells: usize,
    /// Most cells that may be in memory.
    pub cells_max: usize,
    /// Leases held.
    pub held: u64,
    /// Timers waiting.
    pub timers: usize,
    /// What happened so far.
    pub counters: Counters,
}

/// Some of the cells of [`Host::list`](crate::Host::list).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// The cells.
    pub cells: Vec<CellInfo>,
    /// Where the next page begins; none if this was the last one.
    pub next: Option<usize>,
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
    Proposing {
        /// Since when.
        since: Instant,
        /// Members that answered the present question, this one included.
        answered: usize,
        /// Members that could.
        members: usize,
    },
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

/// Everything a host knows of a cell: see [`Host::show`](crate::Host::show).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CellDetail {
    /// What a list says of it.
    pub info: CellInfo,
    /// The members, if this host ever had to know them.
    pub members: Option<Arc<[MemberId]>>,
    /// Highest ballot promised.
    pub promised: Option<Ballot>,
    /// The lease that runs by this host's vote, its own included.
    pub running: Option<Holder>,
    /// Highest epoch known: agreed to, or durable above.
    pub floor_epoch: u64,
    /// Time since the vote last mattered.
    pub idle: Duration,
}
