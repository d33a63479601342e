//! A set of members of one cell: who answered, not how many answers came.

use types::MemberId;

use crate::config::Config;
use crate::mutant::Mutant;

/// Members as bits by their place in the member list.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Members {
    bits: u32,
    /// Answers, repeated ones included; only a mutant looks at it.
    answers: u8,
}

impl Members {
    /// Adds the member at `place`; adding it twice changes nothing.
    pub(crate) fn insert(&mut self, place: usize) {
        let bit = u32::try_from(place)
            .ok()
            .and_then(|place| 1_u32.checked_shl(place));
        self.bits |= bit.unwrap_or(0);
        self.answers = self.answers.saturating_add(1);
    }

    /// Adds all of another set.
    pub(crate) fn join(&mut self, other: Self) {
        self.bits |= other.bits;
    }

    /// Whether the member at `place` is in the set.
    pub(crate) fn contains(self, place: usize) -> bool {
        let bit = u32::try_from(place)
            .ok()
            .and_then(|place| 1_u32.checked_shl(place));
        self.bits & bit.unwrap_or(0) != 0
    }

    /// The members that are in either set.
    pub(crate) const fn joined(self, other: Self) -> Self {
        Self {
            bits: self.bits | other.bits,
            answers: self.answers,
        }
    }

    /// How many members are in the set, whatever a mutant counts.
    pub(crate) const fn len(self) -> usize {
        self.bits.count_ones() as usize
    }

    /// How many members of the set are counted.
    pub(crate) fn count(self, config: &Config) -> usize {
        if config.has(Mutant::DuplicatesCount) {
            return usize::from(self.answers);
        }
        self.bits.count_ones() as usize
    }
}

/// The smallest number of `members` of which any two sets overlap.
pub(crate) fn majority(members: usize, config: &Config) -> usize {
    if config.has(Mutant::MajorityMinusOne) {
        return (members / 2).max(1);
    }
    members / 2 + 1
}

/// The place of `member` in the list.
pub(crate) fn place(members: &[MemberId], member: MemberId) -> Option<usize> {
    members.iter().position(|other| *other == member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_answers_twice_counts_once() {
        let config = Config::default();
        let mut members = Members::default();

        members.insert(2);
        members.insert(2);
        members.insert(0);

        assert_eq!(members.count(&config), 2);
        assert!(members.contains(2) && !members.contains(1));
    }

    #[test]
    fn two_majorities_of_any_size_overlap() {
        for members in 1..=31 {
            assert!(2 * majority(members, &Config::default()) > members);
        }
    }
}
