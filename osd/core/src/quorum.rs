//! Who decides about an object: the replica set, and the one before it while the set is being changed.

use std::sync::Arc;

use types::{OsdId, Quorum};

use crate::config::MEMBERS_MAX;

/// The members of an object's placement group.
///
/// While one set takes the place of another, everything needs its quorum in either (joint consensus:
/// Ongaro, *Consensus: Bridging Theory and Practice*, 2014, section 4.3). What a quorum of the set before
/// had acknowledged is therefore known to whoever serves now, and what is acknowledged now will be
/// known to whoever serves when the new set is alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplicaSet {
    /// The set, in order, then members of the set before that are not in it.
    all: Arc<[OsdId]>,
    current: usize,
    /// Empty unless a change is under way.
    previous: Arc<[OsdId]>,
}

impl ReplicaSet {
    /// One set, the first member preferred.
    pub fn new(members: impl Into<Arc<[OsdId]>>) -> Self {
        let all = members.into();
        Self {
            current: all.len(),
            all,
            previous: Arc::default(),
        }
    }

    /// A set that takes the place of `previous`; with an empty one, the same as [`new`](Self::new).
    #[must_use]
    pub fn changing(members: &[OsdId], previous: &[OsdId]) -> Self {
        let gone = previous.iter().filter(|osd| !members.contains(osd));
        Self {
            all: members.iter().chain(gone).copied().collect(),
            current: members.len(),
            previous: previous.into(),
        }
    }

    /// Everybody who has a say.
    #[must_use]
    pub fn all(&self) -> &[OsdId] {
        &self.all
    }

    /// The set itself: who serves clients, and who will have the object when a change has ended.
    #[must_use]
    pub fn current(&self) -> &[OsdId] {
        self.all.get(..self.current).unwrap_or_default()
    }

    /// The set before, while a change is under way; else empty.
    #[must_use]
    pub fn previous(&self) -> &[OsdId] {
        &self.previous
    }

    /// Whether a server is of the set, not only of the one before.
    #[must_use]
    pub fn is_current(&self, osd: OsdId) -> bool {
        self.current().contains(&osd)
    }

    /// Whether a server has a say.
    #[must_use]
    pub fn contains(&self, osd: OsdId) -> bool {
        self.all.contains(&osd)
    }

    /// Whether these are a majority: any two such groups share a member.
    pub(crate) fn is_majority(&self, chosen: impl Fn(OsdId) -> bool) -> bool {
        self.is_quorum(Quorum::Majority, chosen)
    }

    /// Whether these are a quorum. All members of the set before are never waited for: it may be that
    /// one of them is dead that the set is changed.
    #[must_use]
    pub fn is_quorum(&self, quorum: Quorum, chosen: impl Fn(OsdId) -> bool) -> bool {
        let has = |set: &[OsdId], quorum: Quorum| {
            let count = set.iter().filter(|osd| chosen(**osd)).count();
            count >= quorum.of(set.len())
        };
        let alone = self.previous.is_empty();
        has(self.current(), quorum) && (alone || has(&self.previous, Quorum::Majority))
    }

    /// Whether these share a member with every majority: what was acknowledged, one of them has. During a
    /// change, with every majority of the set before: that was needed all the time.
    pub(crate) fn covers(&self, chosen: impl Fn(OsdId) -> bool) -> bool {
        let set = match self.previous.is_empty() {
            true => self.current(),
            false => &self.previous,
        };
        let count = set.iter().filter(|osd| chosen(**osd)).count();
        count + Quorum::Majority.of(set.len()) > set.len()
    }

    /// The greatest number that a quorum has reached; members without a number have reached none.
    pub(crate) fn reached(
        &self,
        quorum: Quorum,
        number: impl Fn(OsdId) -> Option<u64>,
    ) -> Option<u64> {
        let of = |set: &[OsdId], needed| reached(set.iter().filter_map(|osd| number(*osd)), needed);
        let current = self.current();
        let current = of(current, quorum.of(current.len()))?;
        if self.previous.is_empty() {
            return Some(current);
        }
        let previous = of(&self.previous, Quorum::Majority.of(self.previous.len()))?;
        Some(current.min(previous))
    }
}

/// The greatest number that `needed` members have reached, given one number per member that has
/// reached any.
fn reached(numbers: impl Iterator<Item = u64>, needed: usize) -> Option<u64> {
    let mut sorted = [0; MEMBERS_MAX];
    let mut count = 0;
    for (slot, number) in sorted.iter_mut().zip(numbers) {
        *slot = number;
        count += 1;
    }
    let sorted = sorted.get_mut(..count)?;
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.get(needed.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn osds(numbers: &[u64]) -> Vec<OsdId> {
        numbers.iter().copied().map(OsdId).collect()
    }

    fn set(members: &[u64], previous: &[u64]) -> ReplicaSet {
        ReplicaSet::changing(&osds(members), &osds(previous))
    }

    #[test]
    fn majority_of_three_reached_what_two_have() {
        let majority = |members| Quorum::Majority.of(members);
        assert_eq!(reached([5, 9].into_iter(), majority(3)), Some(5));
        assert_eq!(reached([5, 9, 7].into_iter(), majority(3)), Some(7));
        assert_eq!(reached([9].into_iter(), majority(3)), None);
        assert_eq!(reached([9].into_iter(), majority(1)), Some(9));
        assert_eq!(reached([4, 4, 1, 1, 9].into_iter(), majority(5)), Some(4));
        assert_eq!(reached([5, 9].into_iter(), Quorum::All.of(3)), None);
        assert_eq!(reached([5, 9, 7].into_iter(), Quorum::All.of(3)), Some(5));
    }

    #[test]
    fn one_set_is_the_same_as_a_change_from_none() {
        assert_eq!(ReplicaSet::new(osds(&[1, 2, 3])), set(&[1, 2, 3], &[]));
        let set = set(&[1, 2, 4], &[1, 2, 3]);
        assert_eq!(set.all(), osds(&[1, 2, 4, 3]));
        assert_eq!(set.current(), osds(&[1, 2, 4]));
        assert!(set.contains(OsdId(3)) && !set.is_current(OsdId(3)));
    }

    #[test]
    fn during_a_change_a_quorum_of_either_set_is_needed() {
        let set = set(&[1, 2, 4], &[1, 2, 3]);
        let majority = |chosen: &[u64]| set.is_majority(|osd| chosen.contains(&osd.0));

        assert!(majority(&[1, 2]) && majority(&[1, 3, 4]));
        assert!(!majority(&[1, 4]) && !majority(&[1, 3]) && !majority(&[3, 4]));
        let number = |osd: OsdId| [Some(9), Some(5), Some(7), Some(8)][osd.0 as usize - 1];
        // 9, 5 and 8 in the set, 9, 5 and 7 in the one before.
        assert_eq!(set.reached(Quorum::Majority, number), Some(7));
        assert_eq!(set.reached(Quorum::All, number), Some(5));
        let dead = |osd: OsdId| number(osd).filter(|_| osd != OsdId(3));
        assert_eq!(set.reached(Quorum::All, dead), Some(5));
    }

    #[test]
    fn what_covers_a_set_shares_a_member_with_each_majority_of_it() {
        let covers = |members: &[u64], previous: &[u64], chosen: &[u64]| {
            set(members, previous).covers(|osd| chosen.contains(&osd.0))
        };

        assert!(covers(&[1, 2], &[], &[1]) && covers(&[1, 2, 3], &[], &[1, 3]));
        assert!(!covers(&[1, 2, 3], &[], &[1]));
        assert!(covers(&[1, 2, 3, 4], &[], &[1, 2]) && !covers(&[1, 2, 3, 4], &[], &[1]));
        // A second replica of what has one: the new one knows nothing yet.
        assert!(covers(&[1, 2], &[1], &[1]) && !covers(&[1, 2], &[1], &[2]));
        assert!(covers(&[1, 2, 4], &[1, 2, 3], &[1, 2]));
        assert!(
            !covers(&[1, 2, 4], &[1, 2, 3], &[1, 4]),
            "3 and 2 may know more"
        );
    }
}
