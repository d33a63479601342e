//! How a set of servers becomes a cluster, and how each of them sees to it that it is a member.
//!
//! A cluster is formed once, by the configured server with the lowest id, when all configured
//! servers are up and none has ever logged anything. A server with a fresh directory that meets
//! one with a log asks the leader to join. It has a new Raft number, so nobody takes it for the
//! member that promised its vote; if it is the successor of a member, the leader brings it up to date
//! as a learner and then replaces the old member by it in one change of the membership
//! (`member_change`). Else it waits until an administrator adds it. A server that is told that it was
//! removed ends.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use proto::raft::request::Op;
use proto::raft::{Greeting, Hello, Join, Request, Response};
use shell::link::{CallError, Payload};
use types::Remedy;

use crate::config::{BOOTSTRAP_PAUSE, HELLO_TIMEOUT, LEADER_SOON, MEMBER_PAUSE};
use crate::consensus::Member;
use crate::node::Node;

/// Asks one server to introduce itself.
pub(crate) async fn hello(node: &Node, address: &str) -> Option<Greeting> {
    let request = Request {
        target: 0,
        op: Some(Op::Hello(Hello {})),
    };
    let link = node.peers.link(address);
    let asked = link.call(&request, Payload::none(), HELLO_TIMEOUT);
    let (response, _): (Response, _) = asked.await.ok()?;
    response.greeting
}

/// Asks all other servers at once, by id and address; who does not answer is absent.
pub(crate) async fn hello_all(
    node: &Node,
    servers: impl IntoIterator<Item = (u64, String)>,
) -> Vec<Greeting> {
    let others = servers.into_iter().filter(|(id, _)| *id != node.me.id);
    let asked = others.map(|(id, address)| async move {
        let greeting = hello(node, &address).await?;
        if greeting.id != id {
            tracing::debug!(
                address,
                expected = id,
                found = greeting.id,
                "another metadata server answers at this address"
            );
            return None;
        }
        Some(greeting)
    });
    futures::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// Everybody who may be a metadata server, by id and address: the configured ones and the members.
fn everybody(node: &Node, configured: &BTreeMap<u64, String>) -> BTreeSet<(u64, String)> {
    let configured = configured.iter().map(|(id, it)| (*id, it.clone()));
    let members = node.members().into_iter();
    let members = members.map(|(_, member)| (member.id, member.address));
    configured.chain(members).collect()
}

/// Looks for ever whether this server is a member, and makes it one if it may be. Ends only a server
/// that is to be none any more, by way of [`Node::removed`].
pub(crate) async fn belong(node: &Arc<Node>, configured: &BTreeMap<u64, String>) -> Infallible {
    let mut told = String::new();
    loop {
        if node.is_voter() {
            if let Err(error) = node.note_voter() {
                tracing::warn!(%error, "can't note that this server is a voter");
            }
            // Who follows a leader that goes on without it does not hear from it any more.
            let led = node.leader().map(|(leader, address)| (leader.id, address));
            let member = match led {
                Some((leader, _)) if leader == node.me.id => true,
                Some((_, address)) => ask_to_join(node, &address, &mut told).await,
                None => false,
            };
            if member {
                tokio::time::sleep(MEMBER_PAUSE).await;
                continue;
            }
        }
        let greetings = hello_all(node, everybody(node, configured)).await;
        let answers = greetings.iter().map(|greeting| greeting.id);
        let answers: BTreeSet<u64> = answers.collect();
        if greetings.iter().any(|greeting| !greeting.pristine) {
            if let Some(led) = greetings.iter().find(|it| !it.leader_address.is_empty()) {
                ask_to_join(node, &led.leader_address, &mut told).await;
            }
        } else if !node.log.is_pristine() {
            // The others lost their logs, or are not there.
        } else if answers.len() + 1 == configured.len() {
            // The others get the membership from this one; a second one would be another cluster.
            if configured.keys().next() == Some(&node.me.id) {
                form(node, configured, &greetings).await;
            }
        } else if told.is_empty() {
            let absent = configured.iter();
            let absent = absent.filter(|(id, _)| **id != node.me.id && !answers.contains(id));
            let absent: Vec<_> = absent
                .map(|(id, address)| format!("mrc {id} at {address}"))
                .collect();
            told = absent.join(", ");
            tracing::info!(
                absent = told,
                "waiting for all metadata servers, to form the cluster"
            );
        }
        tokio::time::sleep(BOOTSTRAP_PAUSE).await;
    }
}

/// Says once who is waited for, if there is no leader soon, and when there is one.
pub(crate) async fn tell_leader(node: &Node) {
    let mut metrics = node.raft.metrics();
    let soon = tokio::time::sleep(LEADER_SOON);
    let mut soon = std::pin::pin!(soon);
    let mut told = false;
    loop {
        let (leader, members) = {
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.membership_config.clone())
        };
        if let Some(leader) = leader {
            let leader = members
                .membership()
                .get_node(&leader)
                .map(ToString::to_string);
            let leader = leader.unwrap_or_default();
            return tracing::info!(%leader, "serves: a metadata server leads");
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() {
                return;
            },
            () = soon.as_mut(), if !told => {
                told = true;
                // One that never had a leader says for whom it waits to form the cluster.
                if !node.log.is_pristine() {
                    tracing::info!("waiting for a leader: a majority of the metadata servers must run");
                }
            }
        }
    }
}

async fn form(node: &Node, addresses: &BTreeMap<u64, String>, greetings: &[Greeting]) {
    let numbers = greetings
        .iter()
        .map(|greeting| (greeting.number, greeting.id));
    let members: BTreeMap<u64, Member> = numbers
        .chain([(node.log.number(), node.me.id)])
        .map(|(number, id)| {
            let address = addresses.get(&id).map_or_else(String::new, Clone::clone);
            (number, Member { id, address })
        })
        .collect();
    match node.raft.initialize(members).await {
        Ok(()) => tracing::info!(members = addresses.len(), "formed the metadata cluster"),
        Err(error) => tracing::debug!(%error, "the cluster is formed already"),
    }
}

/// Asks the leader to be a member; true if this server is one that votes.
async fn ask_to_join(node: &Node, leader: &str, told: &mut String) -> bool {
    let request = Request {
        target: 0,
        op: Some(Op::Join(Join {
            id: node.me.id,
            address: node.me.address.clone(),
            number: node.log.number(),
            fresh: node.is_fresh(),
        })),
    };
    let link = node.peers.link(leader);
    let asked = link.call(&request, Payload::none(), HELLO_TIMEOUT);
    let answer: Result<(Response, _), _> = asked.await;
    match answer {
        Ok((response, _)) => return response.joined,
        Err(CallError::Fault(fault)) if fault.remedy == Remedy::Surface => {
            if !node.is_fresh() {
                node.removed.send_replace(Some(fault.message));
            } else if *told != fault.message {
                tracing::warn!(why = %fault.message, "not a member of the metadata cluster yet");
                *told = fault.message;
            }
        }
        Err(error) => tracing::debug!(%error, leader, "could not ask to join"),
    }
    false
}

/// Finds out for ever who is reached at another address than the membership says: an operator may
/// move a server, by the configuration of all.
pub(crate) async fn find_moved(node: &Node, configured: &BTreeMap<u64, String>) -> Infallible {
    loop {
        let members = node.members();
        for (number, member) in &members {
            let elsewhere = configured.get(&member.id);
            let Some(elsewhere) = elsewhere.filter(|it| **it != member.address) else {
                continue;
            };
            if *number == node.log.number() {
                node.peers.reached(*number, elsewhere);
                continue;
            }
            for address in [elsewhere, &member.address] {
                let greeting = hello(node, address).await;
                if greeting.is_some_and(|greeting| greeting.number == *number) {
                    node.peers.reached(*number, address);
                    break;
                }
            }
        }
        let members = members.iter().map(|(number, member)| (*number, member));
        node.peers.keep(members, configured.values());
        tokio::time::sleep(MEMBER_PAUSE).await;
    }
}
