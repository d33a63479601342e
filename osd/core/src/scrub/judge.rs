//! Which of several copies of a block is right.
//!
//! A copy that does not fit its own checksum has no say and is no source. Of those that do, only copies of the
//! same state of the object can be compared: they must be equal. If they are not, the majority is right, and
//! where there is none, bytes are rather believed than zeros, because zeros are what is left of lost bytes.

use bytes::Bytes;
use types::OsdId;

use crate::config::Config;
use crate::mutant::Mutant;
use crate::position::Position;

/// A copy of a block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Copy {
    /// State of the object that its copy is at; none while it is being changed.
    pub at_rest: Option<Position>,
    /// Length of the object.
    pub length_bytes: u64,
    /// The block, up to the object's end.
    pub bytes: Bytes,
    /// The bytes are what their checksum is of.
    pub fits: bool,
}

/// This server's.
pub type Mine = Copy;

/// What another replica says of its copy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It has one.
    Copy(Copy),
    /// It has none.
    Absent,
    /// It could not be asked.
    None,
}

/// What is to become of this server's copy of the block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is right.
    Keep,
    /// It is wrong, and these are the right bytes.
    Replace {
        /// The block, up to the object's end.
        bytes: Bytes,
        /// Who has them.
        from: OsdId,
    },
    /// It is damaged, and so is every other.
    NoGoodCopy,
    /// The copies differ and nothing tells which is right.
    Undecided,
    /// Somebody who may know better could not tell now.
    Later,
}

impl Copy {
    fn has_a_say(&self, config: &Config) -> bool {
        self.fits || config.has(Mutant::ScrubBelievesDamaged)
    }

    fn is_zeros(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }
}

/// Judges this server's copy of a block by those of the others, of a set with this majority.
///
/// A damaged copy whose checksum can be believed is better mended by any bytes that fit it; this is for when there
/// are none, or when copies differ although each fits.
#[must_use]
pub fn judge(config: &Config, mine: &Mine, theirs: &[(OsdId, Answer)], majority: usize) -> Verdict {
    let same = |copy: &Copy| {
        copy.at_rest.is_some()
            && copy.at_rest == mine.at_rest
            && copy.length_bytes == mine.length_bytes
    };
    let mut unknown = false;
    let mut groups: Vec<Group<'_>> = Vec::new();
    if mine.has_a_say(config) {
        groups.push(Group::of(mine, None));
    }
    for (osd, answer) in theirs {
        match answer {
            Answer::Copy(copy) if copy.has_a_say(config) && same(copy) => {
                match groups
                    .iter_mut()
                    .find(|group| group.copy.bytes == copy.bytes)
                {
                    Some(group) => group.votes += 1,
                    None => groups.push(Group::of(copy, Some(*osd))),
                }
            }
            // Of another state: one of the two is brought up before they can be compared.
            Answer::Copy(copy) if copy.fits => unknown = true,
            Answer::Copy(copy) => unknown |= copy.at_rest.is_none(),
            Answer::Absent => {}
            Answer::None => unknown = true,
        }
    }
    let most = groups.iter().map(|group| group.votes).max().unwrap_or(0);
    groups.retain(|group| group.votes == most);
    if groups.len() > 1 && !config.has(Mutant::ScrubBelievesZeros) {
        groups.retain(|group| !group.copy.is_zeros());
    }
    match &groups[..] {
        [] if unknown => Verdict::Later,
        [] => Verdict::NoGoodCopy,
        [only] => only.verdict(unknown && most < majority),
        [first, ..] if config.has(Mutant::ScrubBelievesZeros) => first.verdict(false),
        _ if unknown => Verdict::Later,
        _ => Verdict::Undecided,
    }
}

/// Copies that are equal.
struct Group<'a> {
    copy: &'a Copy,
    /// One of them; none: this server.
    from: Option<OsdId>,
    votes: usize,
}

impl<'a> Group<'a> {
    const fn of(copy: &'a Copy, from: Option<OsdId>) -> Self {
        Self {
            copy,
            from,
            votes: 1,
        }
    }

    fn verdict(&self, too_early: bool) -> Verdict {
        match self.from {
            None => Verdict::Keep,
            Some(_) if too_early => Verdict::Later,
            Some(from) => Verdict::Replace {
                bytes: self.copy.bytes.clone(),
                from,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"what was written";
    const ZEROS: &[u8] = &[0; 16];
    const OTHER: &[u8] = b"of another place";

    fn position(seq: u64) -> Option<Position> {
        Some(Position {
            epoch: 9,
            seq,
            holder: OsdId(1),
        })
    }

    fn copy(bytes: &'static [u8], fits: bool) -> Copy {
        Copy {
            at_rest: position(5),
            length_bytes: 16,
            bytes: Bytes::from_static(bytes),
            fits,
        }
    }

    fn sound(bytes: &'static [u8]) -> Copy {
        copy(bytes, true)
    }

    fn judged(mine: &Copy, theirs: &[Answer]) -> Verdict {
        let theirs: Vec<_> = (2..).map(OsdId).zip(theirs.iter().cloned()).collect();
        let majority = theirs.len().div_ceil(2) + 1;
        judge(&Config::default(), mine, &theirs, majority)
    }

    fn replace(bytes: &'static [u8], from: u64) -> Verdict {
        Verdict::Replace {
            bytes: Bytes::from_static(bytes),
            from: OsdId(from),
        }
    }

    #[test]
    fn damaged_copy_is_replaced_by_a_sound_one_and_never_by_a_damaged_one() {
        let damaged = copy(ZEROS, false);
        let bad = || Answer::Copy(copy(OTHER, false));
        let good = || Answer::Copy(sound(GOOD));

        assert_eq!(judged(&damaged, &[bad(), good()]), replace(GOOD, 3));
        assert_eq!(judged(&damaged, &[good(), good()]), replace(GOOD, 2));
        assert_eq!(judged(&damaged, &[bad(), bad()]), Verdict::NoGoodCopy);
        assert_eq!(
            judged(&damaged, &[Answer::Absent, bad()]),
            Verdict::NoGoodCopy
        );
        assert_eq!(judged(&sound(GOOD), &[bad(), bad()]), Verdict::Keep);
        assert_eq!(judged(&damaged, &[]), Verdict::NoGoodCopy);
    }

    #[test]
    fn of_sound_copies_that_differ_the_majority_is_right() {
        let (good, other) = (|| Answer::Copy(sound(GOOD)), || Answer::Copy(sound(OTHER)));

        assert_eq!(judged(&sound(OTHER), &[good(), good()]), replace(GOOD, 2));
        assert_eq!(judged(&sound(GOOD), &[good(), other()]), Verdict::Keep);
        assert_eq!(judged(&sound(GOOD), &[other()]), Verdict::Undecided);
        let third = Answer::Copy(sound(b"and a third one."));
        assert_eq!(judged(&sound(GOOD), &[other(), third]), Verdict::Undecided);
    }

    #[test]
    fn zeros_lose_a_tie_and_win_a_majority() {
        let (good, zeros) = (|| Answer::Copy(sound(GOOD)), || Answer::Copy(sound(ZEROS)));

        assert_eq!(judged(&sound(ZEROS), &[good()]), replace(GOOD, 2));
        assert_eq!(judged(&sound(GOOD), &[zeros()]), Verdict::Keep);
        // One block that was lost twice is less likely than one that came back once.
        assert_eq!(judged(&sound(GOOD), &[zeros(), zeros()]), replace(ZEROS, 2));
    }

    #[test]
    fn whoever_may_know_better_is_waited_for_unless_there_is_a_majority() {
        let (good, other) = (|| Answer::Copy(sound(GOOD)), || Answer::Copy(sound(OTHER)));
        let changing = Answer::Copy(Copy {
            at_rest: None,
            ..sound(OTHER)
        });
        let older = Answer::Copy(Copy {
            at_rest: position(4),
            ..sound(OTHER)
        });
        for unknown in [Answer::None, changing, older] {
            let damaged = copy(ZEROS, false);
            assert_eq!(judged(&damaged, &[good(), unknown.clone()]), Verdict::Later);
            assert_eq!(
                judged(&sound(GOOD), &[other(), unknown.clone()]),
                Verdict::Later
            );
            assert_eq!(
                judged(&sound(GOOD), &[good(), unknown.clone()]),
                Verdict::Keep
            );
            let five = [good(), good(), good(), unknown];
            assert_eq!(judged(&damaged, &five), replace(GOOD, 2));
        }
        assert_eq!(judged(&copy(ZEROS, false), &[Answer::None]), Verdict::Later);
    }
}
