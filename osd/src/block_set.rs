//! Blocks of an object as a few ranges: never fewer than were added, perhaps more.

use std::ops::Range;

/// Ranges a set is kept to. 22: they fit beside the record in a slot of the object's header. With more,
/// the two that lie closest become one.
pub(crate) const RANGES_MAX: usize = 22;

/// Ranges of blocks, ascending, with gaps between them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct BlockSet(Vec<Range<u64>>);

impl BlockSet {
    /// Every block from this one on.
    pub(crate) fn from(first: u64) -> Self {
        let mut all = Self::default();
        all.add(first..u64::MAX);
        all
    }

    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Adds blocks, and others between ranges if there are too many of them.
    pub(crate) fn add(&mut self, blocks: Range<u64>) {
        if blocks.is_empty() || self.covers(&blocks) {
            return;
        }
        let first = self.0.partition_point(|range| range.end < blocks.start);
        let after = self.0.partition_point(|range| range.start <= blocks.end);
        let touched = self.0.get(first..after).unwrap_or_default();
        let start = touched.first().map_or(blocks.start, |range| range.start);
        let end = touched.last().map_or(blocks.end, |range| range.end);
        let merged = start.min(blocks.start)..end.max(blocks.end);
        self.0.splice(first..after, [merged]);
        if self.0.len() > RANGES_MAX {
            self.join_closest();
        }
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for range in &other.0 {
            self.add(range.clone());
        }
    }

    pub(crate) fn covers(&self, blocks: &Range<u64>) -> bool {
        self.0
            .iter()
            .any(|range| range.start <= blocks.start && blocks.end <= range.end)
    }

    /// The first of them at or after a block.
    pub(crate) fn next(&self, block: u64) -> Option<u64> {
        let range = self.0.iter().find(|range| block < range.end)?;
        Some(range.start.max(block))
    }

    /// Those of them that are among `blocks`.
    pub(crate) fn within(&self, blocks: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let cut = |range: &Range<u64>| range.start.max(blocks.start)..range.end.min(blocks.end);
        let parts = self.0.iter().map(cut);
        parts.filter(|part| !part.is_empty())
    }

    fn join_closest(&mut self) {
        let gaps = self.0.windows(2).map(|pair| match pair {
            [left, right] => right.start - left.end,
            _ => u64::MAX,
        });
        let closest = gaps.enumerate().min_by_key(|(_, gap)| *gap);
        if let Some((index, _)) = closest {
            let right = self.0.remove(index + 1);
            if let Some(left) = self.0.get_mut(index) {
                left.end = right.end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut set = BlockSet::default();
        for range in [5..7, 1..2, 9..10, 2..3, 7..9, 20..20] {
            set.add(range);
        }

        assert_eq!(set.ranges(), [1..3, 5..10]);
        assert!(set.covers(&(6..10)) && !set.covers(&(2..6)));
        assert_eq!(set.next(0), Some(1));
        assert_eq!(set.next(3), Some(5));
        assert_eq!(set.next(10), None);
        assert_eq!(set.within(&(2..6)).collect::<Vec<_>>(), [2..3, 5..6]);
    }

    /// Against a plain set: nothing that was added is ever missing, and the number stays bounded.
    #[test]
    fn no_block_is_forgotten_however_many_ranges_there_were() {
        let mut set = BlockSet::default();
        let mut added = std::collections::BTreeSet::new();
        let mut state = 7_u64;
        for _ in 0..500 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let (start, length) = (state >> 52, state >> 33 & 7);
            set.add(start..start + length);
            added.extend(start..start + length);
            assert!(set.ranges().len() <= RANGES_MAX);
            assert!(set.ranges().is_sorted_by(|a, b| a.end < b.start));
        }

        assert!(added.iter().all(|block| set.covers(&(*block..block + 1))));
    }

    #[test]
    fn those_closest_are_joined_first() {
        let mut set = BlockSet::default();
        for at in 0..RANGES_MAX as u64 {
            set.add(at * 100..at * 100 + 1);
        }
        set.add(350..351);

        assert_eq!(set.ranges().len(), RANGES_MAX);
        assert!(set.covers(&(300..351)));
        assert!(!set.covers(&(200..301)));
    }
}
