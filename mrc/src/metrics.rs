//! A metadata server in numbers.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use proto::mrc::{self, Response, response};
use shell::link::{Identity, LinkOptions, Server, ServiceKind};
use shell::metrics::{Metric, Source};

use crate::door::Service;
use crate::log_writer::lock;
use crate::node::Node;
use crate::slow_disk;

/// What is served at `metrics_listen`, and told to administrators.
pub(crate) fn source(service: &Arc<Service>, identity: &Identity, server: &Server) -> Source {
    // The service keeps it.
    let service = Arc::downgrade(service);
    let (served, refusals) = (server.served(), server.refusals());
    let calls = Arc::clone(identity.wire.counts());
    Arc::new(move || {
        let Some(service) = service.upgrade() else {
            return Vec::new();
        };
        [
            of_node(&service.node),
            of_cluster(&service),
            served.metrics(&[ServiceKind::Mrc, ServiceKind::Raft]),
            calls.metrics(LinkOptions::default().in_flight_max),
            refusals.metrics(),
        ]
        .concat()
    })
}

/// The same, for `xfs-admin`.
pub(crate) fn answer(service: &Service) -> Response {
    let metrics = service
        .numbers
        .get()
        .map_or_else(Vec::new, |source| source());
    let numbers = metrics.iter().flat_map(Metric::numbers);
    Response {
        reply: Some(response::Reply::Numbers(mrc::Numbers {
            release: shell::RELEASE.to_owned(),
            wall_ns: shell::clock::wall().0,
            metrics_address: service
                .config
                .metrics_listen
                .map_or_else(String::new, |address| address.to_string()),
            numbers: numbers
                .map(|number| mrc::Number {
                    name: number.name,
                    value: number.value,
                })
                .collect(),
        })),
    }
}

/// What the leader knows of the others; of that nothing if this server does not lead.
fn of_cluster(service: &Service) -> Vec<Metric> {
    let low = u64::from(service.disk.is_low());
    let mut all = vec![Metric::gauge(
        "oxfs_mrc_disk_low",
        "1 while the disk is so full that what needs room is refused",
        low,
    )];
    all.extend(slow_disk::metrics(&service.node));
    all.extend(service.node.proposals());
    if service.node.leading().is_err() {
        return all;
    }
    let timeout = service.config.osd_timeout();
    let (up, silent) = service.osds.heard_count(timeout);
    let osds = |state, count: usize| {
        let help = "Object servers heard of, by whether they are heard now";
        Metric::gauge("oxfs_mrc_osds", help, count as u64).with("state", state)
    };
    all.extend([
        osds("up", up),
        osds("silent", silent),
        Metric::gauge(
            "oxfs_mrc_sessions",
            "Sessions of mounts",
            service.sessions.count() as u64,
        ),
    ]);
    if let Some(report) = service.redundancy() {
        all.extend(of_redundancy(&report));
    }
    all.extend(of_jobs(service));
    all
}

/// What the newest plan found.
fn of_redundancy(report: &planner::Report) -> [Metric; 6] {
    let gauge = |name, help, count: usize| Metric::gauge(name, help, count as u64);
    [
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
        Metric::gauge(
            "oxfs_mrc_jobs_left_bytes",
            "Bytes that replica sets still want to be copied, an estimate",
            report.left_bytes,
        ),
    ]
}

fn of_jobs(service: &Service) -> Vec<Metric> {
    let mut all = vec![
        Metric::gauge(
            "oxfs_mrc_jobs_rate_bytes",
            "Bytes per second that object servers sent lately to bring copies up",
            lock(&service.rate).bytes_per_s(),
        ),
        Metric::counter(
            "oxfs_mrc_jobs_moved_bytes",
            "Bytes that object servers sent to bring copies up, as heard here",
            service.osds.repaired_bytes(),
        ),
    ];
    // One that can't be read is told of by whoever needs it.
    if let Ok(jobs) = mrc_core::query::jobs(&**service.node.index()) {
        all.push(Metric::gauge(
            "oxfs_mrc_jobs_paused",
            "1 while an operator has paused changes of replica sets",
            u64::from(jobs.paused),
        ));
    }
    all
}

fn of_node(node: &Node) -> Vec<Metric> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let leads = metrics.current_leader == Some(metrics.id);
    let last = metrics.last_log_index.unwrap_or(0);
    let applied = metrics.last_applied.as_ref().map_or(0, |id| id.index);
    let mut all = vec![
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
        Metric::gauge("oxfs_mrc_log_index", "Last entry of the log", last),
        Metric::gauge(
            "oxfs_mrc_applied_index",
            "Last entry applied to the index",
            applied,
        ),
        Metric::gauge(
            "oxfs_mrc_apply_lag_entries",
            "Entries of the log that are not applied here yet",
            last.saturating_sub(applied),
        ),
        Metric::gauge(
            "oxfs_mrc_checkpoint_index",
            "Last entry of the newest checkpoint",
            metrics.snapshot.as_ref().map_or(0, |id| id.index),
        ),
    ];
    if let Some(replication) = metrics.replication.as_ref().filter(|_| leads) {
        let others = replication
            .iter()
            .filter(|(number, _)| **number != metrics.id);
        let lacks = others.map(|(_, has)| {
            let index = has.as_ref().map_or(0, |id| id.index);
            last.saturating_sub(index)
        });
        all.push(Metric::gauge(
            "oxfs_mrc_follower_lag_entries",
            "Entries of the log that the furthest follower lacks",
            lacks.max().unwrap_or(0),
        ));
    }
    all
}
