//! A metadata server in numbers.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use shell::link::Refusals;
use shell::metrics::{Metric, Source};

use crate::node::Node;

/// What is served at `metrics_listen`.
pub(crate) fn source(node: &Arc<Node>, refusals: Arc<Refusals>) -> Source {
    let node = Arc::clone(node);
    Arc::new(move || [of_node(&node), refusals.metrics()].concat())
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
