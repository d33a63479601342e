//! What must be true of leases, judged from outside, in true time.

use std::collections::BTreeMap;
use std::fmt;

use types::{CellId, MemberId};

use crate::time::TrueTime;

/// An invariant that did not hold.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Violation {
    /// L-1.
    TwoHolders {
        /// The cell.
        cell: CellId,
        /// Everybody who holds it at this moment.
        holders: Vec<MemberId>,
    },
    /// L-2.
    EpochNotAbove {
        /// The cell.
        cell: CellId,
        /// What was used before, and by whom.
        before: (u64, MemberId),
        /// What is used now.
        now: (u64, MemberId),
    },
    /// L-3.
    EpochOfTwo {
        /// The cell.
        cell: CellId,
        /// The epoch.
        epoch: u64,
        /// Who used it.
        holders: (MemberId, MemberId),
    },
    /// L-4.
    NotUsable {
        /// The cell nobody could use in time after the faults stopped.
        cell: CellId,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoHolders { cell, holders } => {
                write!(
                    f,
                    "L-1: cell {cell} has several holders at once: {holders:?}"
                )
            }
            Self::EpochNotAbove { cell, before, now } => write!(
                f,
                "L-2: cell {cell}: epoch {} of server {} is used after epoch {} of server {}",
                now.0, now.1, before.0, before.1
            ),
            Self::EpochOfTwo {
                cell,
                epoch,
                holders,
            } => write!(
                f,
                "L-3: cell {cell}: epoch {epoch} was used by servers {} and {}",
                holders.0, holders.1
            ),
            Self::NotUsable { cell } => {
                write!(
                    f,
                    "L-4: cell {cell} is not usable in time after the faults stopped"
                )
            }
        }
    }
}

/// A violation and when it was seen.
pub type Finding = (TrueTime, Violation);

/// How often the interesting things happened, to see that a sweep is not idle.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Coverage {
    /// Leases that came to be used.
    pub used: u64,
    /// Of these, by the shortcut for brand-new cells.
    pub shortcuts: u64,
    /// Leases lost by running out.
    pub lost: u64,
    /// Hand-overs asked for.
    pub hand_overs: u64,
    /// Releases asked for.
    pub releases: u64,
    /// Activations refused for a higher epoch or view.
    pub refused: u64,
    /// Acquisitions that could not begin because of the quarantine.
    pub quarantined: u64,
    /// Crashed processes.
    pub crashes: u64,
    /// Processes stopped in order that had votes to save.
    pub saved: u64,
    /// Pauses.
    pub pauses: u64,
    /// Views that came into force.
    pub views: u64,
    /// Messages between servers.
    pub messages: u64,
}

impl std::ops::AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.used += other.used;
        self.shortcuts += other.shortcuts;
        self.lost += other.lost;
        self.hand_overs += other.hand_overs;
        self.releases += other.releases;
        self.refused += other.refused;
        self.quarantined += other.quarantined;
        self.crashes += other.crashes;
        self.saved += other.saved;
        self.pauses += other.pauses;
        self.views += other.views;
        self.messages += other.messages;
    }
}

/// A lease that came to be used.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Its fencing number.
    pub epoch: u64,
    /// Whose it is.
    pub holder: MemberId,
    /// It was taken by the shortcut: the epoch is not durable anywhere.
    pub newborn: bool,
    /// Crashes before its first promise was asked for.
    pub crashes: u64,
}

/// The judge.
#[derive(Debug, Default)]
pub struct Oracle {
    used: BTreeMap<CellId, Used>,
    /// Processes that crashed so far.
    crashes: u64,
    /// The first violation.
    pub finding: Option<Finding>,
}

impl Oracle {
    /// Notes a violation; the first one counts.
    pub fn report(&mut self, now: TrueTime, violation: Violation) {
        self.finding.get_or_insert((now, violation));
    }

    /// Notes that a process lost what was not durable.
    pub fn crashed(&mut self) {
        self.crashes += 1;
    }

    /// Crashes so far.
    #[must_use]
    pub const fn crashes(&self) -> u64 {
        self.crashes
    }

    /// L-1, given everybody who holds the cell at this moment.
    pub fn holders(&mut self, now: TrueTime, cell: CellId, holders: &[MemberId]) {
        if holders.len() > 1 {
            let holders = holders.to_vec();
            self.report(now, Violation::TwoHolders { cell, holders });
        }
    }

    /// L-2 and L-3, when a majority has promised the epoch and the holder begins to use it.
    pub fn uses(&mut self, now: TrueTime, cell: CellId, this: Used) {
        let (epoch, holder) = (this.epoch, this.holder);
        let Some(before) = self.used.insert(cell, this) else {
            return;
        };
        if before.newborn && before.crashes < self.crashes {
            // The epoch of a newborn cell is not durable: after a crash nobody need remember it.
            return;
        }
        if epoch == before.epoch && holder != before.holder {
            let holders = (before.holder, holder);
            self.report(
                now,
                Violation::EpochOfTwo {
                    cell,
                    epoch,
                    holders,
                },
            );
        } else if epoch <= before.epoch {
            let before = (before.epoch, before.holder);
            let now_used = (epoch, holder);
            let violation = Violation::EpochNotAbove {
                cell,
                before,
                now: now_used,
            };
            self.report(now, violation);
        }
    }
}
