//! Counting members, each once.

use crate::config::MEMBERS_MAX;

/// Members needed so that any two such groups share one.
pub(crate) const fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// The greatest number that a majority of `members` has reached, given one number per member that
/// has reached any.
pub(crate) fn reached(numbers: impl Iterator<Item = u64>, members: usize) -> Option<u64> {
    let mut sorted = [0; MEMBERS_MAX];
    let mut count = 0;
    for (slot, number) in sorted.iter_mut().zip(numbers) {
        *slot = number;
        count += 1;
    }
    let sorted = sorted.get_mut(..count)?;
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.get(majority(members) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_of_three_reached_what_two_have() {
        assert_eq!(reached([5, 9].into_iter(), 3), Some(5));
        assert_eq!(reached([5, 9, 7].into_iter(), 3), Some(7));
        assert_eq!(reached([9].into_iter(), 3), None);
        assert_eq!(reached([9].into_iter(), 1), Some(9));
        assert_eq!(reached([4, 4, 1, 1, 9].into_iter(), 5), Some(4));
    }
}
