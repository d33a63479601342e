//! All timers of a host in one ordered set, at most one per cell.

use std::collections::BTreeSet;

use types::{CellId, Instant};

/// Which cell wants to be looked at when.
///
/// A cell's timer is only ever moved forward in time by firing early and being set again, so that a
/// busy cell costs no update of the set for each message.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Instant, CellId)>,
}

impl Timers {
    /// Makes sure that `cell` is looked at no later than `at`; `current` is its present timer.
    pub(crate) fn set(&mut self, cell: CellId, current: &mut Option<Instant>, at: Instant) {
        match *current {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                self.due.remove(&(later, cell));
            }
            None => {}
        }
        self.due.insert((at, cell));
        *current = Some(at);
    }

    /// Takes the earliest timer if it is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<CellId> {
        let first = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.remove(&first);
        Some(first.1)
    }

    /// Takes a timer away.
    pub(crate) fn remove(&mut self, at: Instant, cell: CellId) {
        self.due.remove(&(at, cell));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_one_timer_that_only_gets_earlier() {
        let mut timers = Timers::default();
        let mut current = None;
        let cell = CellId(7);

        timers.set(cell, &mut current, Instant::from_nanos(50));
        timers.set(cell, &mut current, Instant::from_nanos(90));
        timers.set(cell, &mut current, Instant::from_nanos(20));

        assert_eq!(timers.len(), 1);
        assert_eq!(timers.next(), Some(Instant::from_nanos(20)));
        assert_eq!(timers.pop(Instant::from_nanos(19)), None);
        assert_eq!(timers.pop(Instant::from_nanos(20)), Some(cell));
        assert_eq!(timers.next(), None);
    }
}
