//! Which blocks of an object are still to be compared with another replica.

use std::collections::VecDeque;
use std::ops::Range;

use types::{SUM_BYTES, blocks_of};

use crate::config::SUMS_WINDOW;
use crate::recent::Span;

/// Blocks of [`SUM_BYTES`] to compare, in windows.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockPlan {
    ranges: VecDeque<Range<u64>>,
}

impl BlockPlan {
    /// All blocks of an object.
    pub(crate) fn whole(length_bytes: u64) -> Self {
        let blocks = blocks_of(0, length_bytes, SUM_BYTES);
        Self {
            ranges: VecDeque::from([blocks]),
        }
    }

    /// The blocks that the spans touch, up to the object's end.
    pub(crate) fn of_spans(spans: &[Span], length_bytes: u64) -> Self {
        let mut touched: Vec<_> = spans
            .iter()
            .map(|(start, end)| (*start, (*end).min(length_bytes)))
            .filter(|(start, end)| start < end)
            .map(|(start, end)| blocks_of(start, end - start, SUM_BYTES))
            .collect();
        touched.sort_unstable_by_key(|blocks| blocks.start);
        let mut ranges: VecDeque<Range<u64>> = VecDeque::new();
        for blocks in touched {
            match ranges.back_mut() {
                Some(last) if blocks.start <= last.end => last.end = last.end.max(blocks.end),
                _ => ranges.push_back(blocks),
            }
        }
        Self { ranges }
    }

    /// Passes by all blocks before this one.
    pub(crate) fn skip_to(&mut self, block: u64) {
        while let Some(range) = self.ranges.front_mut() {
            range.start = range.start.max(block);
            if !range.is_empty() {
                return;
            }
            self.ranges.pop_front();
        }
    }

    /// Takes the next blocks: the first, and how many.
    pub(crate) fn next_window(&mut self) -> Option<(u64, u32)> {
        loop {
            let range = self.ranges.front_mut()?;
            let end = range
                .end
                .min(range.start.saturating_add(SUMS_WINDOW.into()));
            let first = std::mem::replace(&mut range.start, end);
            if range.is_empty() {
                self.ranges.pop_front();
            }
            if first < end {
                return Some((first, (end - first) as u32));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_block_once() {
        let mut plan = BlockPlan::whole(100 * SUM_BYTES + 1);

        let mut next = 0;
        while let Some((first, count)) = plan.next_window() {
            assert_eq!(first, next);
            assert!(count <= SUMS_WINDOW);
            next += u64::from(count);
        }
        assert_eq!(next, 101);
        assert_eq!(BlockPlan::whole(0).next_window(), None);
    }

    #[test]
    fn skipped_blocks_are_in_no_window() {
        let b = SUM_BYTES;
        let spans = [(0, 2 * b), (5 * b, 9 * b), (20 * b, 21 * b)];
        let mut plan = BlockPlan::of_spans(&spans, 100 * b);

        plan.skip_to(1);
        assert_eq!(plan.next_window(), Some((1, 1)));
        plan.skip_to(7);
        assert_eq!(plan.next_window(), Some((7, 2)));
        plan.skip_to(u64::MAX);
        assert_eq!(plan.next_window(), None);
    }

    #[test]
    fn spans_are_merged_and_cut_at_the_end() {
        let b = SUM_BYTES;
        let spans = [(9 * b, 10 * b), (0, 1), (b - 1, b + 1), (50 * b, 60 * b)];
        let mut plan = BlockPlan::of_spans(&spans, 10 * b);

        assert_eq!(plan.next_window(), Some((0, 2)));
        assert_eq!(plan.next_window(), Some((9, 1)));
        assert_eq!(plan.next_window(), None);
    }
}
