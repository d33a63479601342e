//! Bytes of clients' requests that are in the server's memory, bounded for all of them together.
//!
//! Queues are bounded each; with many objects and connections their sum is not. A request holds
//! its share until it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shell::metrics::{self, Metric};

/// What is left to give out.
#[derive(Debug)]
pub(crate) struct Budget {
    max_bytes: u64,
    left_bytes: AtomicU64,
    /// How often there was not enough left.
    refused: AtomicU64,
}

/// A request's share; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            max_bytes: bytes,
            left_bytes: AtomicU64::new(bytes),
            refused: AtomicU64::new(0),
        })
    }

    /// Takes a share, or nothing if there is not so much left.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let bytes = bytes as u64;
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self
            .left_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        if taken.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Share {
            budget: Arc::clone(self),
            bytes,
        })
    }

    /// For collectors.
    pub(crate) fn metrics(&self) -> [Metric; 3] {
        let left = self.left_bytes.load(Ordering::Relaxed);
        let used = self.max_bytes.saturating_sub(left);
        let refused = self.refused.load(Ordering::Relaxed);
        metrics::queue("request_bytes", used, self.max_bytes, refused)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget
            .left_bytes
            .fetch_add(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_than_the_budget_and_come_back() {
        let budget = Budget::new(100);

        let half = budget.take(50).unwrap();
        let rest = budget.take(50).unwrap();
        assert!(budget.take(1).is_none());
        assert!(budget.take(0).is_some(), "what needs nothing always fits");
        let values = budget.metrics().map(|metric| metric.value);
        assert_eq!(values, [100, 100, 1], "in use, allowed, refused");
        drop(half);
        assert!(budget.take(51).is_none());
        let _half = budget.take(50).unwrap();
        drop(rest);

        assert!(budget.take(50).is_some());
    }
}
