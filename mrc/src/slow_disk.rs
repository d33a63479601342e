//! Watches how slow this server's disk is, says so, and gives up the lead for it ([`crate::slowness`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use shell::metrics::Metric;

use crate::farewell;
use crate::log_writer::lock;
use crate::node::Node;
use crate::slowness::{Follower, Slow, Verdict};

/// Time between two looks. 200 ms: far less than the time after which a disk counts as slow.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Looks for ever.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut was_slow = false;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let slow = {
            let mut slowness = lock(&node.slowness);
            slowness.look(Instant::now(), &node.log.pace().take());
            slowness.slow()
        };
        tell(was_slow, slow);
        was_slow = slow.is_some();
        give_up_lead(&node).await;
    }
}

fn tell(was_slow: bool, slow: Option<Slow>) {
    match slow {
        Some(slow) if !was_slow => tracing::warn!(
            write_ms = slow.write.as_millis(),
            lasted_ms = slow.lasted.as_millis(),
            "this server's disk is slow: each write of the log takes long"
        ),
        None if was_slow => tracing::info!("this server's disk is not slow any more"),
        _ => {}
    }
}

/// Has another server lead if this one does and its disk is slow while those of the others are not.
async fn give_up_lead(node: &Arc<Node>) {
    let Ok(leader) = node.leading() else {
        return;
    };
    let leads_for = node.leads_for(leader);
    let Some(majority) = majority(node) else {
        return;
    };
    let followers = farewell::followers(node);
    let verdict = {
        let mut slowness = lock(&node.slowness);
        let now = Instant::now();
        let verdict = slowness.judge(now, leads_for, (&followers, majority));
        if verdict == Verdict::GivesUp {
            slowness.gave_up(now);
        }
        verdict
    };
    if verdict == Verdict::GivesUp {
        node.leads_given_up.fetch_add(1, Ordering::Relaxed);
        let appends = followers.iter().filter_map(Follower::append_ms);
        tracing::warn!(
            followers_ms = ?appends.collect::<Vec<_>>(),
            "the lead is given up, as this server's disk is slow and those of the others are not"
        );
        farewell::hand_over_lead(node).await;
    }
}

/// Voters that must store an entry; `None` while the set of voters is being changed.
fn majority(node: &Node) -> Option<usize> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    match &metrics.membership_config.membership().get_joint_config()[..] {
        [voters] => Some(voters.len() / 2 + 1),
        _ => None,
    }
}

/// In words, that the disk is slow.
pub(crate) fn problem(node: &Node) -> Option<String> {
    let slow = lock(&node.slowness).slow()?;
    Some(format!(
        "disk is slow: for {} s each write of the log has taken a second or more, the newest {} ms",
        slow.lasted.as_secs(),
        slow.write.as_millis()
    ))
}

/// The same in numbers.
pub(crate) fn metrics(node: &Node) -> [Metric; 2] {
    let slow = lock(&node.slowness).slow();
    let write = slow.map_or(Duration::ZERO, |slow| slow.write);
    [
        Metric::gauge(
            "oxfs_mrc_disk_slow_ms",
            "What the newest write of the log took while all of them take long; else 0",
            u64::try_from(write.as_millis()).unwrap_or(u64::MAX),
        ),
        Metric::counter(
            "oxfs_mrc_leads_given_up",
            "How often this server gave up the lead because its disk was slow",
            node.leads_given_up.load(Ordering::Relaxed),
        ),
    ]
}
