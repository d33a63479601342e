//! What a replica has not applied yet of the changes its primary made.

use std::collections::VecDeque;

use types::{Duration, Instant};

use crate::config::UNAPPLIED_CHANGES_MAX;

/// Changes in order. With too many the newest are counted as one, so that bytes and age stay right
/// and only become less by fewer steps.
#[derive(Debug, Default)]
pub(crate) struct Unapplied {
    changes: VecDeque<Counted>,
    bytes: u64,
}

#[derive(Debug)]
struct Counted {
    seq: u64,
    bytes: u64,
    made_at: Instant,
}

impl Unapplied {
    /// Notes that a change of so many bytes was made.
    pub(crate) fn made(&mut self, now: Instant, seq: u64, bytes: u64) {
        self.bytes += bytes;
        let full = self.changes.len() >= UNAPPLIED_CHANGES_MAX;
        match self.changes.back_mut().filter(|_| full) {
            Some(newest) => {
                newest.seq = seq;
                newest.bytes += bytes;
            }
            None => self.changes.push_back(Counted {
                seq,
                bytes,
                made_at: now,
            }),
        }
    }

    /// Notes that the replica has applied everything up to `seq`.
    pub(crate) fn applied(&mut self, seq: u64) {
        while let Some(change) = self.changes.pop_front_if(|change| change.seq <= seq) {
            self.bytes -= change.bytes;
        }
    }

    /// Bytes of all.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How old the oldest is.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        let oldest = self.changes.front();
        oldest.map_or(Duration::ZERO, |oldest| now.since(oldest.made_at))
    }

    /// When the oldest was made, and the bytes of all; none if there is none.
    pub(crate) fn oldest_and_bytes(&self) -> Option<(Instant, u64)> {
        let oldest = self.changes.front()?;
        Some((oldest.made_at, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_age_stay_right_with_more_changes_than_are_remembered() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let mut unapplied = Unapplied::default();
        assert_eq!(unapplied.oldest_and_bytes(), None);
        let count = UNAPPLIED_CHANGES_MAX as u64 + 10;
        for seq in 1..=count {
            unapplied.made(at(seq), seq, 2);
        }
        assert_eq!(unapplied.changes.len(), UNAPPLIED_CHANGES_MAX);

        assert_eq!(unapplied.oldest_and_bytes(), Some((at(1), 2 * count)));
        unapplied.applied(3);
        assert_eq!(unapplied.oldest_and_bytes(), Some((at(4), 2 * (count - 3))));
        unapplied.applied(count - 1);
        assert_eq!(unapplied.oldest_and_bytes().unwrap().1, 2 * 11);
        unapplied.applied(count);
        assert_eq!(unapplied.oldest_and_bytes(), None);
    }
}
