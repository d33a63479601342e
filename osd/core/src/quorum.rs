//! Counting members, each once.

use types::Quorum;

use crate::config::MEMBERS_MAX;

/// Members needed so that any two such groups share one: what decides about leases and histories,
/// whatever the policy.
pub(crate) const fn majority(members: usize) -> usize {
    Quorum::Majority.of(members)
}

/// The greatest number that `needed` members have reached, given one number per member that has
/// reached any.
pub(crate) fn reached(numbers: impl Iterator<Item = u64>, needed: usize) -> Option<u64> {
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
}
