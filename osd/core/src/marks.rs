//! The newest change of each session, for recognising repeated changes and refusing delayed ones.

use types::SessionId;

use crate::config::MARKS_MAX;
use crate::record::{Mark, Marked};

/// Newest changes, the session that changed last at the end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Marks(Vec<Mark>);

impl Marks {
    /// What is known of a session; zeros if nothing.
    pub(crate) fn of(&self, session: SessionId) -> Mark {
        let known = self.0.iter().rev().find(|mark| mark.session == session);
        known.copied().unwrap_or(Mark {
            session,
            ..Mark::default()
        })
    }

    /// Whether a change that was acknowledged to a session, named by its first attempt, is not in this history.
    pub(crate) fn lack(&self, session: SessionId, acknowledged: u64) -> bool {
        let known = self.0.iter().rev().find(|mark| mark.session == session);
        match known {
            Some(mark) => mark.first_id < acknowledged,
            // With so many sessions, it may be one that was forgotten.
            None => acknowledged > 0 && self.0.len() < MARKS_MAX,
        }
    }

    /// Notes what a change leaves.
    pub(crate) fn note_all(&mut self, marked: Marked) {
        for mark in [marked.earlier, marked.mark] {
            if mark.session.0 != 0 {
                self.note(mark);
            }
        }
    }

    /// Notes a session's newest change and forgets the session silent for longest if there are too
    /// many.
    pub(crate) fn note(&mut self, mark: Mark) {
        match self.0.last_mut() {
            Some(last) if last.session == mark.session => *last = mark,
            _ => {
                self.0.retain(|known| known.session != mark.session);
                if self.0.len() >= MARKS_MAX {
                    self.0.remove(0);
                }
                self.0.push(mark);
            }
        }
    }

    /// The changes that both know as done. Of a session that only one knows, the other may have forgotten it if it
    /// knows as many as it can.
    pub(crate) fn common(&self, other: &Self) -> Self {
        let known =
            |marks: &Self, session| marks.0.iter().find(|mark| mark.session == session).copied();
        let either = self
            .0
            .iter()
            .filter_map(|mine| match known(other, mine.session) {
                Some(theirs) if theirs.first_id < mine.first_id => Some(theirs),
                None if other.0.len() < MARKS_MAX => None,
                _ => Some(*mine),
            });
        let full = self.0.len() >= MARKS_MAX;
        let theirs = other.0.iter().copied();
        let forgotten = theirs.filter(|mark| full && known(self, mark.session).is_none());
        Self::from(forgotten.chain(either).collect::<Vec<_>>())
    }

    pub(crate) fn to_vec(&self) -> Vec<Mark> {
        self.0.clone()
    }
}

impl From<Vec<Mark>> for Marks {
    fn from(mut marks: Vec<Mark>) -> Self {
        marks.drain(..marks.len().saturating_sub(MARKS_MAX));
        Self(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_that_is_not_in_the_history_is_lacking() {
        let mut marks = Marks::default();
        assert!(!marks.lack(SessionId(1), 0));
        assert!(marks.lack(SessionId(1), 1));

        marks.note(Mark {
            session: SessionId(1),
            change_id: 7,
            first_id: 5,
            ..Mark::default()
        });

        assert!(!marks.lack(SessionId(1), 5));
        assert!(marks.lack(SessionId(1), 6));
        assert!(marks.lack(SessionId(2), 1));
    }

    #[test]
    fn common_changes_are_those_that_both_have() {
        let mark = |session, first_id| Mark {
            session: SessionId(session),
            change_id: first_id,
            first_id,
            ..Mark::default()
        };
        let marks = |marks: &[Mark]| Marks::from(marks.to_vec());
        let one = marks(&[mark(1, 5), mark(2, 9), mark(3, 4)]);
        let other = marks(&[mark(2, 7), mark(3, 8), mark(4, 1)]);

        assert_eq!(one.common(&other), marks(&[mark(2, 7), mark(3, 4)]));
        assert_eq!(other.common(&one), marks(&[mark(2, 7), mark(3, 4)]));

        let many = (100..100 + MARKS_MAX as u64).map(|session| mark(session, 1));
        let full = marks(&many.collect::<Vec<_>>());
        assert_eq!(
            full.common(&marks(&[mark(1, 5)])),
            marks(&[mark(1, 5)]),
            "it may be forgotten"
        );
        assert_eq!(
            marks(&[mark(1, 5)]).common(&full),
            marks(&[mark(1, 5)]),
            "it may be forgotten"
        );
    }

    #[test]
    fn session_silent_for_longest_is_forgotten_first() {
        let mut marks = Marks::default();
        let mark = |session, change_id| Mark {
            session: SessionId(session),
            change_id,
            ..Mark::default()
        };
        for session in 1..=MARKS_MAX as u64 {
            marks.note(mark(session, 1));
        }
        marks.note(mark(1, 2));
        marks.note(mark(1000, 1));

        assert_eq!(marks.of(SessionId(1)).change_id, 2);
        assert_eq!(marks.of(SessionId(2)).change_id, 0);
        assert_eq!(marks.of(SessionId(1000)).change_id, 1);
        assert_eq!(marks.to_vec().len(), MARKS_MAX);
        assert!(!marks.lack(SessionId(2), 1), "it may have been forgotten");
    }
}
