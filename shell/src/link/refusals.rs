//! How often callers were turned away, and why.

use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Status;

use crate::metrics::Metric;

/// Why a caller is turned away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// It speaks another version of the protocol.
    Version,
    /// It belongs to another cluster.
    Cluster,
    /// It does not know the cluster's secret.
    Secret,
    /// It wants a service that this server does not have, or that is not for it.
    Service,
    /// It does not say what every caller says.
    Greeting,
    /// It wants a compression or checksum that this server does not know.
    Option,
}

/// A caller that is turned away: why, and what it is told.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) status: Status,
}

impl Refused {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            status: Status::permission_denied(text),
        }
    }
}

/// Callers turned away since the start, by reason.
#[derive(Debug, Default)]
pub struct Refusals {
    version: AtomicU64,
    cluster: AtomicU64,
    secret: AtomicU64,
    service: AtomicU64,
    greeting: AtomicU64,
    option: AtomicU64,
}

impl Refusals {
    pub(crate) fn count(&self, reason: Reason) {
        self.counter(reason).fetch_add(1, Ordering::Relaxed);
    }

    /// How many were turned away for a reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u64 {
        self.counter(reason).load(Ordering::Relaxed)
    }

    /// All of them.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let reasons = [
            ("version", Reason::Version),
            ("cluster", Reason::Cluster),
            ("secret", Reason::Secret),
            ("service", Reason::Service),
            ("greeting", Reason::Greeting),
            ("option", Reason::Option),
        ];
        reasons
            .map(|(name, reason)| {
                let value = self.of(reason);
                Metric::counter("oxfs_link_refused", "Connections refused", value)
                    .with("reason", name)
            })
            .to_vec()
    }

    const fn counter(&self, reason: Reason) -> &AtomicU64 {
        match reason {
            Reason::Version => &self.version,
            Reason::Cluster => &self.cluster,
            Reason::Secret => &self.secret,
            Reason::Service => &self.service,
            Reason::Greeting => &self.greeting,
            Reason::Option => &self.option,
        }
    }
}
