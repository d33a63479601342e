//! What a mount knows of the room that its volume's quota leaves, and whether a write fits into it.
//!
//! The metadata leader counts the sizes it was told. A mount adds by how much it made its files longer
//! since, so alone it never goes beyond the quota; several may, by what they have not told each other.
//! Before a program is refused, the leader is asked, so that it may use what somebody made free just now.

use crate::mutant::{Mutant, has};

/// By how much a mount made one file longer than the metadata cluster knows, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Growth {
    /// What no report is under way of.
    pub untold: u64,
    /// What a report is under way of: the leader may count it already.
    pub told: u64,
}

impl Growth {
    /// Of a file that is `end` bytes long here and `known` as the metadata cluster said last, while it is
    /// being told of `telling`; 0 if it is not.
    #[must_use]
    pub fn of(end: u64, known: u64, telling: u64) -> Self {
        Self {
            untold: end.saturating_sub(known.max(telling)),
            told: end.min(telling).saturating_sub(known),
        }
    }
}

/// A question to the leader that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Bytes whose reports had been answered before.
    reported: u64,
}

/// What the leader says of the volume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Volume {
    /// The most that lengths of files may add up to; none without a quota.
    pub limit_bytes: Option<u64>,
    /// What they add up to as far as it was told.
    pub used_bytes: u64,
}

/// Whether files may become longer, by an answer of the leader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// They may.
    Fits,
    /// They may not.
    Over,
    /// It depends on whether the leader had counted what was being reported when it answered: to be asked
    /// again when that is known.
    Unclear,
}

/// What is known of the volume, and all files' growth.
#[derive(Clone, Debug)]
pub struct Room {
    volume: Volume,
    growth: Growth,
    /// Bytes whose reports were answered, since the mount began.
    reported: u64,
    /// Files became longer since the leader was asked last.
    has_grown: bool,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            volume: Volume {
                limit_bytes: None,
                used_bytes: 0,
            },
            growth: Growth::default(),
            reported: 0,
            has_grown: false,
        }
    }
}

impl Room {
    /// Whether files may become longer by so many bytes, by what is known here: if not, the leader may
    /// know better.
    #[must_use]
    pub fn admits(&self, bytes: u64) -> bool {
        let untold = match has(Mutant::UntoldIgnored) {
            true => 0,
            false => self.growth.untold,
        };
        let told = match has(Mutant::ToldIgnored) {
            true => 0,
            false => self.growth.told,
        };
        let own = untold.saturating_add(told);
        bytes == 0 || fits(self.volume, own.saturating_add(bytes))
    }

    /// Takes over how much longer a file is. Returns whether that is the first growth since the leader was
    /// asked.
    pub fn account(&mut self, before: Growth, after: Growth) -> bool {
        let replace = |sum: u64, old: u64, new: u64| sum.saturating_sub(old).saturating_add(new);
        self.growth.untold = replace(self.growth.untold, before.untold, after.untold);
        self.growth.told = replace(self.growth.told, before.told, after.told);
        let grows = after.untold > before.untold;
        let first = grows && !self.has_grown;
        self.has_grown |= grows;
        first
    }

    /// The leader has counted what it was told of a file. Before the file's growth is accounted anew.
    pub fn reported(&mut self, bytes: u64) {
        if has(Mutant::ReportForgotten) {
            return;
        }
        self.reported = self.reported.saturating_add(bytes);
        self.volume.used_bytes = self.volume.used_bytes.saturating_add(bytes);
    }

    /// Begins to ask.
    pub const fn ask(&mut self) -> Question {
        self.has_grown = false;
        Question {
            reported: self.reported,
        }
    }

    /// Takes the answer, and judges whether files may become longer by so many bytes.
    ///
    /// The answer may have what is being reported, and what was since the question, or not: nobody is
    /// refused for what is counted twice, and nobody gets room for what is counted not at all.
    pub fn answered(&mut self, question: Question, volume: Volume, bytes: u64) -> Verdict {
        let meanwhile = match has(Mutant::MeanwhileForgotten) {
            true => 0,
            false => self.reported.saturating_sub(question.reported),
        };
        self.volume = Volume {
            used_bytes: volume.used_bytes.saturating_add(meanwhile),
            ..volume
        };
        if self.admits(bytes) {
            Verdict::Fits
        } else if fits(volume, self.growth.untold.saturating_add(bytes))
            && !has(Mutant::UnclearRefused)
        {
            Verdict::Unclear
        } else {
            Verdict::Over
        }
    }

    /// Whether the volume has a quota, as far as is known.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.volume.limit_bytes.is_some()
    }

    /// Whether files are longer than the leader is known to know.
    #[must_use]
    pub const fn is_ahead(&self) -> bool {
        self.growth.untold > 0 || self.growth.told > 0
    }
}

/// Whether a volume may take so many bytes more than the leader counts.
fn fits(volume: Volume, more_bytes: u64) -> bool {
    let needed = volume.used_bytes.saturating_add(more_bytes);
    let more = u64::from(has(Mutant::OneMore));
    volume
        .limit_bytes
        .is_none_or(|limit| needed <= limit.saturating_add(more))
}

/// Inodes for statfs(2): how many there may be, and how many more. Without a quota there may be as many more
/// as there are free blocks.
#[must_use]
pub const fn inodes(quota: u64, used: u64, free_blocks: u64) -> (u64, u64) {
    let free = match quota {
        0 => free_blocks,
        quota => {
            let left = quota.saturating_sub(used);
            if left < free_blocks {
                left
            } else {
                free_blocks
            }
        }
    };
    (used.saturating_add(free), free)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Volume = Volume {
        limit_bytes: Some(100),
        used_bytes: 40,
    };

    fn untold(untold: u64) -> Growth {
        Growth { untold, told: 0 }
    }

    /// Knows of a quota of 100 bytes, of which others use 40.
    fn room() -> Room {
        let mut room = Room::default();
        let question = room.ask();
        assert_eq!(room.answered(question, LIMIT, 60), Verdict::Fits);
        room
    }

    #[test]
    fn growth_is_what_the_cluster_was_not_told() {
        assert_eq!(Growth::of(10, 30, 0), Growth::default());
        assert_eq!(Growth::of(50, 30, 0), untold(20));
        let telling = Growth::of(50, 30, 45);
        assert_eq!((telling.untold, telling.told), (5, 15));
        // Told of more than there is, as after a truncation.
        assert_eq!(
            Growth::of(40, 30, 45),
            Growth {
                untold: 0,
                told: 10
            }
        );
        assert_eq!(Growth::of(50, 30, 20), untold(20));
    }

    #[test]
    fn one_mount_alone_uses_its_quota_to_the_last_byte() {
        let mut room = room();
        assert!(room.admits(60) && !room.admits(61) && room.admits(0));

        room.account(Growth::default(), untold(35));
        assert!(room.admits(25) && !room.admits(26));
        // It is told, and the answer comes: the leader counts it now.
        let telling = Growth {
            untold: 0,
            told: 35,
        };
        room.account(untold(35), telling);
        assert!(room.admits(25) && !room.admits(26));
        room.reported(35);
        room.account(telling, Growth::default());
        assert!(room.admits(25) && !room.admits(26));
    }

    #[test]
    fn without_a_quota_everything_fits() {
        let mut room = Room::default();
        room.account(Growth::default(), untold(u64::MAX));
        assert!(room.admits(u64::MAX) && !room.is_limited());
    }

    /// The leader may have counted the report or not when it answered.
    #[test]
    fn nobody_is_refused_for_what_is_counted_twice_and_nothing_is_forgotten() {
        let answer = |used_bytes| Volume {
            used_bytes,
            ..LIMIT
        };
        let telling = Growth {
            untold: 5,
            told: 30,
        };
        // 40 of others, 30 reported, 5 not: 25 are left.
        for (used_bytes, verdict) in [(40, Verdict::Fits), (70, Verdict::Unclear)] {
            for answered_first in [true, false] {
                let mut room = room();
                room.account(Growth::default(), telling);
                let question = room.ask();
                if answered_first {
                    assert_eq!(room.answered(question, answer(used_bytes), 25), verdict);
                }
                room.reported(30);
                room.account(telling, untold(5));
                if !answered_first {
                    assert_eq!(room.answered(question, answer(used_bytes), 25), verdict);
                }
                assert!(!room.admits(26));

                let question = room.ask();
                assert_eq!(room.answered(question, answer(70), 25), Verdict::Fits);
                let question = room.ask();
                assert_eq!(room.answered(question, answer(70), 26), Verdict::Over);
            }
        }
    }

    #[test]
    fn answer_shows_what_others_made_free_and_another_quota() {
        let mut room = room();
        assert!(!room.admits(80));
        let question = room.ask();
        let freed = Volume {
            used_bytes: 20,
            ..LIMIT
        };
        assert_eq!(room.answered(question, freed, 80), Verdict::Fits);
        assert!(room.admits(80));

        let question = room.ask();
        let less = Volume {
            limit_bytes: Some(10),
            used_bytes: 20,
        };
        assert_eq!(room.answered(question, less, 1), Verdict::Over);
        assert!(!room.admits(1) && room.admits(0));
    }

    #[test]
    fn first_growth_after_a_question_is_noticed() {
        let mut room = room();
        assert!(room.account(Growth::default(), untold(1)));
        assert!(!room.account(untold(1), untold(2)));
        room.ask();
        assert!(!room.account(untold(2), untold(1)), "it became shorter");
        assert!(room.account(untold(1), untold(2)));
        assert!(room.is_ahead());
    }

    #[test]
    fn inodes_are_limited_by_the_quota_and_the_disks() {
        assert_eq!(inodes(0, 7, 100), (107, 100));
        assert_eq!(inodes(10, 7, 100), (10, 3));
        assert_eq!(inodes(10, 7, 2), (9, 2));
        assert_eq!(inodes(10, 12, 100), (12, 0));
    }
}
