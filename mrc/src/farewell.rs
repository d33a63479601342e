//! A metadata server that is stopped, or whose disk is slow, hands over the lead: the others need no election,
//! for which they would have to wait until its lease is over.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;

use crate::membership::{hello, hello_all};
use crate::node::Node;
use crate::slowness::Follower;

/// How long another server may take to lead, and how long one that can is looked for. 1 s: it takes some
/// milliseconds, and an election, which follows if it does not, is over as soon.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// Time between two questions to the others whether one of them leads. 100 ms: as often as a leader is heard.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Servers that are offered the lead, one after the other. 3: of five servers all but one of those that may be
/// away; if none of them takes it, none is there to do without this one, and who stops it has waited for 3 s.
const HAND_OVER_OFFERS_MAX: usize = 3;

/// Whom to offer the lead: who lacks least of those that answer comes first.
fn successors(followers: &[Follower]) -> Vec<u64> {
    let able = followers
        .iter()
        .filter_map(|it| Some((it.lag.filter(|_| it.heard)?, it.number)));
    let mut able: Vec<(u64, u64)> = able.collect();
    able.sort_unstable();
    able.truncate(HAND_OVER_OFFERS_MAX);
    able.into_iter().map(|(_, number)| number).collect()
}

/// The other voters, as a leader knows them.
pub(crate) fn followers(node: &Node) -> Vec<Follower> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let last = metrics.last_log_index.unwrap_or(0);
    let membership = metrics.membership_config.membership();
    let others = membership
        .voter_ids()
        .filter(|number| *number != metrics.id);
    let followers = others.map(|number| Follower {
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
        append: node.peers.append_time(number),
    });
    followers.collect()
}

/// Has another server lead, if this one does and another one can; returns when it does, or after a while.
pub(crate) async fn hand_over_lead(node: &Arc<Node>) {
    let Ok(leader) = node.leading() else {
        return;
    };
    let begun = tokio::time::Instant::now();
    let mut offers = 0;
    while offers < HAND_OVER_OFFERS_MAX {
        let round = tokio::time::Instant::now();
        for to in successors(&followers(node)) {
            if offers == HAND_OVER_OFFERS_MAX || !answers(node, to).await {
                continue;
            }
            offers += 1;
            // Raft itself may wait for the disk.
            let offered =
                tokio::time::timeout(HAND_OVER_PATIENCE, node.hand_over(leader, to)).await;
            match offered {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => {
                    tracing::warn!(reason = fault.message, "the lead could not be handed over");
                    return;
                }
                Err(_) => continue,
            }
            let led = async {
                tokio::select! {
                    () = led_by_another(node) => {}
                    () = said_by_another(node) => {}
                }
            };
            if tokio::time::timeout(HAND_OVER_PATIENCE, led).await.is_ok() {
                tracing::info!("another metadata server leads now");
                return;
            }
            tracing::info!(member = to, "it was not heard to take the lead");
        }
        // Others that end, too, are gone at once, and nobody is to wait then; one that is frozen takes time, in
        // which one that was just started is heard.
        if round.elapsed() < ASK_AGAIN || begun.elapsed() >= HAND_OVER_PATIENCE {
            break;
        }
    }
    tracing::warn!("nobody was heard to take the lead; the others will elect a leader");
}

/// Whether a member answers: it may be frozen since it was heard, or being stopped, too.
async fn answers(node: &Node, number: u64) -> bool {
    let members = node.members();
    let Some(member) = members.get(&number) else {
        return false;
    };
    let address = node.peers.address(number, member);
    hello(node, &address).await.is_some()
}

/// Ends when this server knows that another one leads.
async fn led_by_another(node: &Node) {
    let mut metrics = node.raft.metrics();
    loop {
        let (leader, me) = {
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.id)
        };
        if leader.is_some_and(|leader| leader != me) || metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Ends when another server says that it leads. Raft's own part here learns it only when it has noted its vote
/// for the other, and a disk that hangs keeps it from that.
async fn said_by_another(node: &Node) {
    loop {
        let members = node.members().into_iter();
        let members = members.map(|(number, it)| (it.id, node.peers.address(number, &it)));
        let greetings = hello_all(node, members.collect::<Vec<_>>()).await;
        if greetings.iter().any(|greeting| greeting.state == "leader") {
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lead_is_offered_to_those_that_answer_and_first_to_who_lacks_least() {
        let follower = |number, heard, lag| Follower {
            number,
            heard,
            lag,
            append: None,
        };
        let all = [
            follower(1, true, Some(7)),
            follower(2, false, Some(0)),
            follower(3, true, Some(2)),
            follower(4, true, None),
            follower(5, true, Some(2)),
            follower(6, true, Some(9)),
        ];

        assert_eq!(successors(&all), [3, 5, 1]);
        assert!(successors(&all[3..4]).is_empty());
        assert!(successors(&[]).is_empty());
    }
}
