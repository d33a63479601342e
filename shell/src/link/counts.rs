//! What became of the requests that a process made, over all its links.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::CallError;
use super::served::Errors;
use crate::metrics::{self, Metric};

/// Requests made to others since the start.
#[derive(Debug, Default)]
pub struct Counts {
    waiting: AtomicU64,
    errors: Errors,
    disconnected: AtomicU64,
    timed_out: AtomicU64,
    refused: AtomicU64,
    full: AtomicU64,
}

impl Counts {
    /// A request waits for its answer.
    pub(super) fn asked(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// So many do not any more.
    pub(super) fn settled(&self, count: usize) {
        self.waiting.fetch_sub(count as u64, Ordering::Relaxed);
    }

    /// A request had no reply.
    pub(super) fn failed(&self, error: &CallError) {
        let counter = match error {
            CallError::Fault(fault) => return self.errors.count(fault.remedy),
            CallError::Disconnected(_) => &self.disconnected,
            CallError::Timeout => &self.timed_out,
            CallError::Refused(_) => &self.refused,
            CallError::Full => &self.full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it. `queue_max` is what one link may have under way.
    #[must_use]
    pub fn metrics(&self, queue_max: usize) -> Vec<Metric> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lost = |how, counter| {
            Metric::counter("oxfs_calls_lost", LOST_HELP, read(counter)).with("how", how)
        };
        let waiting = Metric::gauge("oxfs_calls_waiting", WAITING_HELP, read(&self.waiting));
        let mut all = vec![waiting];
        all.extend(self.errors.metrics("oxfs_calls_errors", ERRORS_HELP));
        all.extend([
            lost("disconnected", &self.disconnected),
            lost("timeout", &self.timed_out),
            lost("refused", &self.refused),
        ]);
        all.extend(metrics::refused(
            "calls_of_a_link",
            queue_max as u64,
            read(&self.full),
        ));
        all
    }
}

const WAITING_HELP: &str = "Requests to others that are not answered yet";
const ERRORS_HELP: &str =
    "Requests to others that were answered with an error, by what to do about it";
const LOST_HELP: &str = "Requests to others that had no answer, by how that was noticed";

#[cfg(test)]
mod tests {
    use super::*;
    use types::Fault;

    #[test]
    fn what_became_of_requests_is_counted_by_remedy_or_by_how_they_were_lost() {
        let counts = Counts::default();
        counts.asked();
        counts.asked();
        counts.settled(1);
        counts.failed(&CallError::Fault(Fault::retry("later")));
        counts.failed(&CallError::Timeout);
        counts.failed(&CallError::Full);

        let metrics = counts.metrics(10);
        let value = |name: &str| {
            let found = metrics.iter().find(|metric| metric.full_name() == name);
            found.unwrap_or_else(|| panic!("no {name}")).value
        };

        assert_eq!(value("oxfs_calls_waiting"), 1);
        assert_eq!(value(r#"oxfs_calls_errors{remedy="retry"}"#), 1);
        assert_eq!(value(r#"oxfs_calls_lost{how="timeout"}"#), 1);
        assert_eq!(value(r#"oxfs_calls_lost{how="disconnected"}"#), 0);
        assert_eq!(
            value(r#"oxfs_queue_over_limit{queue="calls_of_a_link"}"#),
            1
        );
    }
}
