//! Which bytes the newest changes touched, so that a replica that missed a few of them need not be
//! compared as a whole.

use std::collections::VecDeque;

use crate::config::RECENT_CHANGES_MAX;
use crate::position::Position;

/// Bytes `[start, end)`.
pub(crate) type Span = (u64, u64);

/// The newest changes of a replica that is, and was since `base`, at a position it vouches for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    base: Position,
    changes: VecDeque<(Position, Span)>,
}

impl Recent {
    /// Forgets everything: the replica is at `position`, no matter how it came there.
    pub(crate) fn reset(&mut self, position: Position) {
        self.base = position;
        self.changes.clear();
    }

    /// Notes that a change of these bytes led to `position`.
    pub(crate) fn push(&mut self, position: Position, span: Span) {
        if self.changes.len() >= RECENT_CHANGES_MAX
            && let Some((oldest, _)) = self.changes.pop_front()
        {
            self.base = oldest;
        }
        self.changes.push_back((position, span));
    }

    /// The newest position not after this one at which the replica is known to have been.
    pub(crate) fn newest_until(&self, position: Position) -> Option<Position> {
        let known = self.changes.iter().rev().map(|(at, _)| *at);
        known.chain([self.base]).find(|at| *at <= position)
    }

    /// What was touched after `position`; none if that is too long ago or of another history.
    pub(crate) fn since(&self, position: Position) -> Option<Vec<Span>> {
        let known = self.changes.iter().rposition(|(at, _)| *at == position);
        let skip = match known {
            Some(index) => index + 1,
            None if self.base == position => 0,
            None => return None,
        };
        let newer = self.changes.iter().skip(skip).map(|(_, span)| *span);
        Some(newer.filter(|(start, end)| start < end).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::OsdId;

    fn at(epoch: u64, seq: u64) -> Position {
        Position {
            epoch,
            seq,
            holder: OsdId(epoch),
        }
    }

    #[test]
    fn changes_since_a_position_are_those_after_it() {
        let mut recent = Recent::default();
        recent.reset(at(1, 5));
        recent.push(at(1, 6), (0, 10));
        recent.push(at(2, 6), (0, 0));
        recent.push(at(2, 7), (90, 95));

        assert_eq!(recent.since(at(1, 5)), Some(vec![(0, 10), (90, 95)]));
        assert_eq!(recent.since(at(1, 6)), Some(vec![(90, 95)]));
        assert_eq!(recent.since(at(2, 7)), Some(vec![]));
        assert_eq!(recent.since(at(1, 4)), None);
        assert_eq!(recent.since(at(1, 7)), None);
    }

    #[test]
    fn newest_position_until_another_is_one_where_the_replica_was() {
        let mut recent = Recent::default();
        recent.reset(at(1, 5));
        recent.push(at(1, 6), (0, 10));
        recent.push(at(3, 6), (0, 0));

        assert_eq!(recent.newest_until(at(1, 4)), None);
        assert_eq!(recent.newest_until(at(1, 5)), Some(at(1, 5)));
        assert_eq!(recent.newest_until(at(2, 9)), Some(at(1, 6)));
        assert_eq!(recent.newest_until(at(3, 7)), Some(at(3, 6)));
    }

    #[test]
    fn oldest_changes_are_forgotten_together_with_their_base() {
        let mut recent = Recent::default();
        for seq in 1..=RECENT_CHANGES_MAX as u64 + 2 {
            recent.push(at(1, seq), (seq, seq + 1));
        }

        assert_eq!(recent.since(at(1, 1)), None);
        let kept = recent.since(at(1, 2)).unwrap();
        assert_eq!(kept.len(), RECENT_CHANGES_MAX);
    }
}
