//! What a process did for others: requests it answered, how long that took, and how it ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use types::Remedy;

use super::identity::ServiceKind;
use super::limits::{SERVER_IN_PROGRESS_MAX, SERVER_QUEUE_BYTES_MAX};
use crate::metrics::{self, Metric};
use crate::times::{Histogram, Times};

/// Requests of others, by service, since the start.
#[derive(Debug, Default)]
pub struct Served {
    mrc: OfService,
    raft: OfService,
    osd: OfService,
    peer: OfService,
    lease: OfService,
    errors: Errors,
    /// The longest queue of a connection, as last seen.
    over_requests: AtomicU64,
    over_replies: AtomicU64,
}

/// Requests of one service.
#[derive(Debug, Default)]
pub(super) struct OfService {
    times: Times,
    waiting: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

/// Errors by what their receiver should do.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    retry: AtomicU64,
    redirect: AtomicU64,
    refresh: AtomicU64,
    surface: AtomicU64,
}

impl Errors {
    pub(crate) fn count(&self, remedy: Remedy) {
        self.counter(remedy).fetch_add(1, Ordering::Relaxed);
    }

    /// All four, under one name.
    pub(crate) fn metrics(&self, name: &'static str, help: &'static str) -> [Metric; 4] {
        let remedies = [
            ("retry", Remedy::Retry),
            ("redirect", Remedy::Redirect),
            ("refresh", Remedy::Refresh),
            ("surface", Remedy::Surface),
        ];
        remedies.map(|(word, remedy)| {
            let count = self.counter(remedy).load(Ordering::Relaxed);
            Metric::counter(name, help, count).with("remedy", word)
        })
    }

    const fn counter(&self, remedy: Remedy) -> &AtomicU64 {
        match remedy {
            Remedy::Retry => &self.retry,
            Remedy::Redirect => &self.redirect,
            Remedy::Refresh => &self.refresh,
            Remedy::Surface => &self.surface,
        }
    }
}

impl Served {
    /// A request with so many bytes of a file came in.
    pub(super) fn begun(&self, service: ServiceKind, bytes: usize) {
        let of = self.of(service);
        of.waiting.fetch_add(1, Ordering::Relaxed);
        of.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// It was answered after this time, with so many bytes of a file.
    pub(super) fn ended(&self, service: ServiceKind, took: Duration, bytes: usize) {
        let of = self.of(service);
        of.times.note(took);
        of.waiting.fetch_sub(1, Ordering::Relaxed);
        of.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// It was answered with an error.
    pub(super) fn failed(&self, remedy: Remedy) {
        self.errors.count(remedy);
    }

    /// A caller had too many unanswered requests for one more.
    pub(super) fn too_many_requests(&self) {
        self.over_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A caller did not read its answers, and was cut off.
    pub(super) fn too_many_replies(&self) {
        self.over_replies.fetch_add(1, Ordering::Relaxed);
    }

    /// The times of a service's requests.
    #[must_use]
    pub fn times(&self, service: ServiceKind) -> Histogram {
        self.of(service).times.read()
    }

    /// All of it, of the services that this process has.
    #[must_use]
    pub fn metrics(&self, services: &[ServiceKind]) -> Vec<Metric> {
        let each = |name, help, value: fn(&OfService) -> u64| {
            services.iter().map(move |service| {
                Metric::counter(name, help, value(self.of(*service)))
                    .with("service", service.name())
            })
        };
        let waiting = services.iter().map(|service| {
            let waiting = self.of(*service).waiting.load(Ordering::Relaxed);
            Metric::gauge("oxfs_served_waiting", WAITING_HELP, waiting)
                .with("service", service.name())
        });
        let times = services.iter().map(|service| {
            Metric::times("oxfs_served_seconds", TIMES_HELP, self.times(*service))
                .with("service", service.name())
        });
        let received = each("oxfs_served_received_bytes", RECEIVED_HELP, |of| {
            of.received_bytes.load(Ordering::Relaxed)
        });
        let sent = each("oxfs_served_sent_bytes", SENT_HELP, |of| {
            of.sent_bytes.load(Ordering::Relaxed)
        });
        let over = [
            metrics::refused(
                "requests_of_a_caller",
                SERVER_IN_PROGRESS_MAX as u64,
                self.over_requests.load(Ordering::Relaxed),
            ),
            metrics::refused(
                "reply_bytes_of_a_caller",
                SERVER_QUEUE_BYTES_MAX as u64,
                self.over_replies.load(Ordering::Relaxed),
            ),
        ];
        times
            .chain(waiting)
            .chain(received)
            .chain(sent)
            .chain(self.errors.metrics("oxfs_served_errors", ERRORS_HELP))
            .chain(over.into_iter().flatten())
            .collect()
    }

    const fn of(&self, service: ServiceKind) -> &OfService {
        match service {
            ServiceKind::Mrc => &self.mrc,
            ServiceKind::Raft => &self.raft,
            ServiceKind::Osd => &self.osd,
            ServiceKind::Peer => &self.peer,
            ServiceKind::Lease => &self.lease,
        }
    }
}

const TIMES_HELP: &str = "From a request's arrival to its answer, by the service asked";
const WAITING_HELP: &str = "Requests that came and are not answered yet";
const RECEIVED_HELP: &str = "Bytes of files that came with requests";
const SENT_HELP: &str = "Bytes of files that left with answers";
const ERRORS_HELP: &str = "Requests answered with an error, by what the caller should do";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_service_and_errors_by_remedy() {
        let served = Served::default();
        served.begun(ServiceKind::Osd, 100);
        served.begun(ServiceKind::Osd, 20);
        served.ended(ServiceKind::Osd, Duration::from_millis(2), 7);
        served.failed(Remedy::Redirect);
        served.too_many_requests();

        let metrics = served.metrics(&[ServiceKind::Osd, ServiceKind::Peer]);
        let value = |name: &str| {
            let found = metrics.iter().find(|metric| metric.full_name() == name);
            found.unwrap_or_else(|| panic!("no {name}")).value
        };

        assert_eq!(value(r#"oxfs_served_waiting{service="osd"}"#), 1);
        assert_eq!(value(r#"oxfs_served_waiting{service="peer"}"#), 0);
        assert_eq!(value(r#"oxfs_served_received_bytes{service="osd"}"#), 120);
        assert_eq!(value(r#"oxfs_served_sent_bytes{service="osd"}"#), 7);
        assert_eq!(value(r#"oxfs_served_seconds{service="osd"}"#), 1);
        assert_eq!(value(r#"oxfs_served_errors{remedy="redirect"}"#), 1);
        assert_eq!(value(r#"oxfs_served_errors{remedy="retry"}"#), 0);
        assert_eq!(
            value(r#"oxfs_queue_over_limit{queue="requests_of_a_caller"}"#),
            1
        );
    }
}
