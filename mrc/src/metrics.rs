//! A metadata server in numbers.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use shell::link::Refusals;
use shell::metrics::{Metric, Source};

use crate::door::Service;
use crate::node::Node;

/// What is served at `metrics_listen`.
pub(crate) fn source(service: &Arc<Service>, refusals: Arc<Refusals>) -> Source {
    let service = Arc::clone(service);
    Arc::new(move || {
        let redundancy = of_redundancy(&service);
        [of_node(&service.node), redundancy, refusals.metrics()].concat()
    })
}

/// What the leader knows of the replicas; nothing if this server does not lead.
fn of_redundancy(service: &Service) -> Vec<Metric> {
    let Some(report) = service.redundancy() else {
        return Vec::new();
    };
    let gauge = |name, help, count: usize| Metric::gauge(name, help, count as u64);
    vec![
        gauge(
            "oxfs_mrc_pgs_healthy",
            "Placement groups with all the replicas they should have",
            report.healthy_count,
        ),
        gauge(
            "oxfs_mrc_pgs_below",
            "Placement groups with fewer replicas than they should have",
            report.below_count,
        ),
        gauge(
            "oxfs_mrc_pgs_changing",
            "Placement groups whose replica set is being changed",
            report.changing_count,
        ),
        gauge(
            "oxfs_mrc_pgs_stuck",
            "Placement groups that need an operator, or a server that is down",
            report.stuck_count,
        ),
        gauge(
            "oxfs_mrc_osds_draining",
            "Object servers that are being drained",
            report.draining.len(),
        ),
    ]
}

fn of_node(node: &Node) -> Vec<Metric> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let leads = metrics.current_leader == Some(metrics.id);
    vec![
        Metric::gauge(
            "oxfs_mrc_leads",
            "1 if this server believes to lead",
            u64::from(leads),
        ),
        Metric::gauge(
            "oxfs_mrc_leader_known",
            "1 if this server knows who leads",
            u64::from(metrics.current_leader.is_some()),
        ),
        Metric::gauge("oxfs_mrc_term", "Term of the log", metrics.current_term),
        Metric::gauge(
            "oxfs_mrc_log_index",
            "Last entry of the log",
            metrics.last_log_index.unwrap_or(0),
        ),
        Metric::gauge(
            "oxfs_mrc_applied_index",
            "Last entry applied to the index",
            metrics.last_applied.map_or(0, |id| id.index),
        ),
        Metric::gauge(
            "oxfs_mrc_checkpoint_index",
            "Last entry of the newest checkpoint",
            metrics.snapshot.map_or(0, |id| id.index),
        ),
    ]
}
