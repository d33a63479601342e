//! One line of the result.

use serde::Serialize;

use crate::stats::Histogram;

/// What was measured, and under which conditions. What does not apply is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    /// `oxfs`, `zookeeper` or `etcd`.
    pub(crate) system: &'static str,
    /// `acquire_release`, `hold`, `contention` or `fail_over`.
    pub(crate) work: &'static str,
    /// `member` of the cell, or `client` over the network.
    pub(crate) asked_by: &'static str,
    /// Whether the system makes its decisions durable; nothing if it does not need to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fsync: Option<bool>,
    /// `new`: a file that was just created; `existing`: any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cell: Option<&'static str>,
    /// Servers.
    pub(crate) members: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outstanding: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pairs_per_s: Option<f64>,
    /// From asking to having the lease (or, at `contention`, to everybody knowing who has it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p999_us: Option<f64>,
    /// From asking to having given the lease back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pair_p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages_per_pair: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frames_per_pair: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_pair: Option<f64>,
    /// Of the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us_per_pair: Option<f64>,
    /// Of the benchmark's own process, where it plays the clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_cpu_us_per_pair: Option<f64>,
    /// Acquisitions that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failures: Option<u64>,
    /// Lease or session time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease_ms: Option<u64>,
    /// Leases kept alive at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) leases: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) renewals_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages_per_renewal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frames_per_renewal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us_per_renewal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_of_memory_per_lease: Option<f64>,
    /// How the holder ended: `kill -9` or `SIGSTOP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<&'static str>,
    /// How often that was done, or how many rounds of contention there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rounds: Option<usize>,
    /// Idle processors were kept from sleeping.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) awake: bool,
    /// What else the reader must know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Row {
    /// Fills in the latencies.
    pub(crate) fn timed(mut self, latencies: &Histogram) -> Self {
        self.p50_us = Some(latencies.quantile_us(0.5));
        self.p99_us = Some(latencies.quantile_us(0.99));
        self.p999_us = Some(latencies.quantile_us(0.999));
        self
    }
}
