//! Sets of members of one cell: who answered, not how many answers came, and whether those are enough.

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

/// Which members, by their place in the list, are the replica set, and which are the one before it while
/// the set is being changed.
///
/// While there are two sets, a quorum is a majority of either (joint consensus: Ongaro, *Consensus:
/// Bridging Theory and Practice*, 2014, section 4.3): it overlaps with every quorum of the set before,
/// and with every quorum of the set alone. So a change takes effect at once, without a pause in which
/// leases of the set before would have to run out.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Sets {
    current: u32,
    previous: u32,
}

impl Sets {
    /// The first `current` places, and those for which `previous` is true.
    pub(crate) fn new(all: usize, current: usize, previous: impl Fn(usize) -> bool) -> Self {
        let bits = |mut set: Members, place| {
            set.insert(place);
            set
        };
        let none = Members::default();
        Self {
            current: (0..current).fold(none, bits).bits,
            previous: (0..all)
                .filter(|place| previous(*place))
                .fold(none, bits)
                .bits,
        }
    }

    /// Whether these members can decide.
    pub(crate) fn is_quorum(self, chosen: Members, config: &Config) -> bool {
        if config.has(Mutant::DuplicatesCount) {
            let members = self.current.count_ones() as usize;
            return chosen.count(config) >= majority(members, config);
        }
        let has = |set: u32| has_majority(set, chosen, config);
        let alone = self.previous == 0 || config.has(Mutant::PreviousSetIgnored);
        has(self.current) && (alone || has(self.previous))
    }

    /// Whether the member at `place` brings `chosen` nearer to a quorum.
    pub(crate) fn lacks(self, chosen: Members, place: usize, config: &Config) -> bool {
        let mut one = Members::default();
        one.insert(place);
        let lacks = |set: u32| set & one.bits != 0 && !has_majority(set, chosen, config);
        !chosen.contains(place) && (lacks(self.current) || lacks(self.previous))
    }

    /// Whether all but these members could decide.
    pub(crate) fn can_do_without(self, refused: Members, config: &Config) -> bool {
        let bits = (self.current | self.previous) & !refused.bits;
        let rest = Members {
            bits,
            answers: u8::try_from(bits.count_ones()).unwrap_or(u8::MAX),
        };
        self.is_quorum(rest, config)
    }
}

fn has_majority(set: u32, chosen: Members, config: &Config) -> bool {
    (set & chosen.bits).count_ones() as usize >= majority(set.count_ones() as usize, config)
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

    fn set(places: &[usize]) -> Members {
        let mut set = Members::default();
        for place in places {
            set.insert(*place);
        }
        set
    }

    /// 0, 1 and 2 become 0, 1 and 3.
    #[test]
    fn while_a_set_changes_its_majority_and_that_of_the_set_before_decide() {
        let config = Config::default();
        let sets = Sets::new(4, 3, |place| [0, 1, 3].contains(&place));

        assert!(sets.is_quorum(set(&[0, 1]), &config));
        assert!(sets.is_quorum(set(&[0, 2, 3]), &config));
        assert!(
            !sets.is_quorum(set(&[0, 2]), &config),
            "one of the set before"
        );
        assert!(!sets.is_quorum(set(&[0, 3]), &config), "one of the set");
        assert!(sets.lacks(set(&[0]), 2, &config) && !sets.lacks(set(&[0, 1]), 2, &config));
        assert!(sets.lacks(set(&[0, 2]), 3, &config) && !sets.lacks(set(&[0, 2]), 2, &config));
        assert!(sets.can_do_without(set(&[2, 3]), &config));
        assert!(!sets.can_do_without(set(&[0, 2]), &config));
    }

    #[test]
    fn quorums_of_a_change_overlap_with_those_before_and_after_whatever_changes() {
        const PLACES: u32 = 5;
        let config = Config::default();
        let all = || (1..1_u32 << PLACES).map(|bits| Members { bits, answers: 0 });
        let quorums = |current, previous| {
            let sets = Sets { current, previous };
            let quorums = all().filter(|chosen| sets.is_quorum(*chosen, &config));
            quorums.map(|chosen| chosen.bits).collect::<Vec<u32>>()
        };
        for (old, new) in all().flat_map(|old| all().map(move |new| (old.bits, new.bits))) {
            let (before, after) = (quorums(old, 0), quorums(new, 0));
            for during in quorums(new, old) {
                assert!(before.iter().chain(&after).all(|other| other & during != 0));
            }
        }
    }

    #[test]
    fn two_majorities_of_any_size_overlap() {
        for members in 1..=31 {
            assert!(2 * majority(members, &Config::default()) > members);
        }
    }
}
