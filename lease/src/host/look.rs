//! Looking at a host, for people and metrics; nothing changes.

use types::{CellId, Duration, Instant};

use super::Host;
use crate::cell::Cell;
use crate::proposer::Phase;
use crate::stats::{CellDetail, CellInfo, CellState, Page, Stats};

impl Host {
    /// Numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            cells: self.cells.len(),
            cells_max: self.config.cells_max,
            held: self.counters.held(),
            timers: self.timers.len(),
            counters: self.counters,
        }
    }

    /// Cells in memory, in no particular order: those from `start` (0, or [`Page::next`]) on, looking
    /// at `limit` places at most, so that a long list holds nobody up. A cell that is there all the
    /// time is on exactly one page.
    #[must_use]
    pub fn list(&self, now: Instant, start: usize, limit: usize) -> Page {
        let (cells, next) = self.cells.page(start, limit.max(1));
        Page {
            cells: cells.map(|cell| self.info(now, cell)).collect(),
            next,
        }
    }

    /// Everything known of a cell; nothing if it is not in memory, which means that it is free as far
    /// as this host knows.
    #[must_use]
    pub fn show(&self, now: Instant, cell: CellId) -> Option<CellDetail> {
        let cell = self.cells.get(cell)?;
        Some(CellDetail {
            info: self.info(now, cell),
            members: cell.members.clone(),
            promised: cell.acceptor.promised,
            running: cell.acceptor.running(now),
            floor_epoch: cell.acceptor.floor_epoch(),
            idle: now.since(cell.heard_at),
        })
    }

    /// Until when the host is silent, if it is.
    #[must_use]
    pub fn quarantine_remaining(&self, now: Instant) -> Option<Duration> {
        self.is_quarantined(now)
            .then(|| self.silent_until.since(now))
    }

    fn info(&self, now: Instant, cell: &Cell) -> CellInfo {
        CellInfo {
            cell: cell.id,
            view: cell.view,
            state: self.state(now, cell),
        }
    }

    fn state(&self, now: Instant, cell: &Cell) -> CellState {
        match cell.proposer.phase {
            Phase::Holding { epoch, until, .. } if now < until => CellState::Held { epoch, until },
            Phase::Waiting { .. } | Phase::Preparing(_) | Phase::Accepting(..) => {
                CellState::Proposing {
                    since: cell.proposer.started_at,
                    answered: cell.proposer.answered(),
                    members: cell.members.as_ref().map_or(0, |members| members.len()),
                }
            }
            Phase::Holding { .. } | Phase::Idle => match cell.acceptor.blocker(now, self.me) {
                Some(holder) => CellState::HeldBy {
                    member: holder.member,
                    until: now + holder.remaining,
                },
                None => CellState::Free,
            },
        }
    }
}
