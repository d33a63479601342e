//! A metadata server that an operator stops hands over the lead first: the others need no election, for which
//! they would have to wait until its lease is over.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;

use crate::node::Node;

/// How long another server may take to lead. 1 s: it takes some milliseconds, and an election, which follows if
/// it does not, is over as soon.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// A voter that could lead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Candidate {
    number: u64,
    /// It answered within the lease.
    heard: bool,
    /// Entries of the log that it lacks, if that is known.
    lag: Option<u64>,
}

/// Who lacks least of those that answer.
fn successor(candidates: impl Iterator<Item = Candidate>) -> Option<u64> {
    let able = candidates.filter(|candidate| candidate.heard && candidate.lag.is_some());
    let best = able.min_by_key(|candidate| (candidate.lag, candidate.number));
    best.map(|candidate| candidate.number)
}

/// Has another server lead, if this one does and another one can; returns when it does, or after a while.
pub(crate) async fn hand_over_lead(node: &Arc<Node>) {
    let Ok(leader) = node.leading() else {
        return;
    };
    let candidates = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let membership = metrics.membership_config.membership();
        let others = membership
            .voter_ids()
            .filter(|number| *number != metrics.id);
        let candidates = others.map(|number| Candidate {
            number,
            heard: metrics
                .heartbeat
                .as_ref()
                .and_then(|heard| heard.get(&number).copied().flatten())
                .is_some_and(|heard| heard.elapsed() <= node.lease()),
            lag: metrics
                .replication
                .as_ref()
                .and_then(|replication| replication.get(&number).cloned().flatten())
                .map(|id| last.saturating_sub(id.index)),
        });
        candidates.collect::<Vec<_>>()
    };
    let Some(to) = successor(candidates.into_iter()) else {
        return;
    };
    if let Err(fault) = node.hand_over(leader, to).await {
        tracing::warn!(reason = fault.message, "the lead could not be handed over");
        return;
    }
    let mut metrics = node.raft.metrics();
    let led_by_another = async {
        loop {
            let leader = metrics.borrow_watched().current_leader;
            if leader.is_some_and(|leader| leader == to) || metrics.changed().await.is_err() {
                return;
            }
        }
    };
    match tokio::time::timeout(HAND_OVER_PATIENCE, led_by_another).await {
        Ok(()) => tracing::info!("another metadata server leads now"),
        Err(_) => tracing::warn!("nobody took the lead; the others will elect a leader"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_answers_and_lacks_least() {
        let candidate = |number, heard, lag| Candidate { number, heard, lag };
        let all = [
            candidate(1, true, Some(7)),
            candidate(2, false, Some(0)),
            candidate(3, true, Some(2)),
            candidate(4, true, None),
            candidate(5, true, Some(2)),
        ];

        assert_eq!(successor(all.into_iter()), Some(3));
        assert_eq!(successor(all.into_iter().skip(3).take(1)), None);
        assert_eq!(successor(std::iter::empty()), None);
    }
}
