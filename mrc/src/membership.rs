//! How a set of servers becomes a cluster, and how a server that lost its disk comes back.
//!
//! A cluster is formed once, by the configured server with the lowest id, when all configured
//! servers are up and none has ever logged anything. A server with a fresh directory that meets
//! one with a log asks the leader to join. It has a new Raft number, so nobody takes it for the
//! member that promised its vote; the leader brings it up to date as a learner and then replaces
//! the old member by it in one change of the membership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Instant as _};
use proto::raft::request::Op;
use proto::raft::{Greeting, Hello, Join, Request, Response};
use shell::link::{Payload, Responder};
use types::Fault;

use crate::config::{BOOTSTRAP_PAUSE, HELLO_TIMEOUT, JOIN_LAG_ENTRIES_MAX, LEADER_SOON};
use crate::consensus::Member;
use crate::node::{Node, NotNow};

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

/// Asks all other configured servers at once; who does not answer is absent.
pub(crate) async fn hello_all(node: &Node, addresses: &BTreeMap<u64, String>) -> Vec<Greeting> {
    let others = addresses.iter().filter(|(id, _)| **id != node.me.id);
    let asked = others.map(|(id, address)| async move {
        let greeting = hello(node, address).await?;
        if greeting.id != *id {
            tracing::warn!(
                address,
                expected = id,
                found = greeting.id,
                "another metadata server answers at this address; check `members`"
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

/// Makes this server a member, however long that takes; returns at once if it is one.
pub(crate) async fn bootstrap(node: &Arc<Node>, addresses: &BTreeMap<u64, String>) {
    let number = node.log.number();
    let mut told = false;
    loop {
        if node.raft.voter_ids().any(|voter| voter == number) {
            return;
        }
        let greetings = hello_all(node, addresses).await;
        if let Some(member) = greetings.iter().find(|greeting| !greeting.pristine) {
            ask_to_join(node, addresses, member).await;
        } else if greetings.len() + 1 == addresses.len() && node.log.is_pristine() {
            // The others get the membership from this one; a second one would be another cluster.
            if addresses.keys().next() == Some(&node.me.id) {
                form(node, addresses, &greetings).await;
            }
        } else if !told && node.log.is_pristine() {
            let absent = addresses.iter().filter(|(id, _)| {
                **id != node.me.id && !greetings.iter().any(|greeting| greeting.id == **id)
            });
            let absent: Vec<_> = absent
                .map(|(id, address)| format!("mrc {id} at {address}"))
                .collect();
            tracing::info!(
                absent = absent.join(", "),
                "waiting for all metadata servers, to form the cluster"
            );
            told = true;
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

async fn ask_to_join(node: &Node, addresses: &BTreeMap<u64, String>, member: &Greeting) {
    let Some(address) = addresses.get(&member.leader) else {
        return;
    };
    let request = Request {
        target: 0,
        op: Some(Op::Join(Join {
            id: node.me.id,
            address: node.me.address.clone(),
            number: node.log.number(),
        })),
    };
    let link = node.peers.link(address);
    let asked = link.call(&request, Payload::none(), HELLO_TIMEOUT);
    let answer: Result<(Response, _), _> = asked.await;
    if let Err(error) = answer {
        tracing::debug!(%error, leader = member.leader, "could not ask to join");
    }
}

/// Answers a server that wants to be a member: yes, or begins or goes on with making it one.
pub(crate) fn join(node: Arc<Node>, join: Join, responder: Responder) {
    if let Err(NotNow::Elsewhere(fault)) = node.leading() {
        return responder.fault(fault);
    }
    tokio::spawn(async move {
        match admit(&node, &join).await {
            Ok(joined) => {
                let response = Response {
                    greeting: None,
                    joined,
                };
                responder.ok(&response, Payload::none());
            }
            Err(fault) => responder.fault(fault),
        }
    });
}

/// One step towards membership; true when there is none left.
async fn admit(node: &Node, join: &Join) -> Result<bool, Fault> {
    let metrics = node.raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    if membership.voter_ids().any(|voter| voter == join.number) {
        return Ok(membership.get_joint_config().len() == 1);
    }
    let silent = |number: &u64| {
        let heard = metrics
            .heartbeat
            .as_ref()
            .and_then(|heard| heard.get(number).copied().flatten());
        heard.is_none_or(|heard| heard.elapsed() > 2 * node.lease())
    };
    let mut same_id = membership.voter_ids().filter(|voter| {
        membership
            .get_node(voter)
            .is_some_and(|member| member.id == join.id)
    });
    if join.id == node.me.id || same_id.any(|voter| !silent(&voter)) {
        return Err(Fault::retry(format!(
            "metadata server {} is alive with another directory; give each server its own id",
            join.id
        )));
    }
    // One at a time: changes of the membership exclude each other anyway.
    if node.admitting.swap(true, Ordering::Relaxed) {
        return Ok(false);
    }
    let result = async {
        if membership.get_node(&join.number).is_none() {
            tracing::info!(
                id = join.id,
                "a metadata server with a fresh directory joins"
            );
            let member = Member {
                id: join.id,
                address: join.address.clone(),
            };
            let added = node.raft.add_learner(join.number, member, false).await;
            added.map_err(|error| Fault::retry(error.to_string()))?;
            return Ok(false);
        }
        let matching = metrics
            .replication
            .as_ref()
            .and_then(|replication| replication.get(&join.number).cloned().flatten())
            .map(|id| id.index);
        let last = metrics.last_log_index.unwrap_or(0);
        if matching.is_none_or(|matching| matching + JOIN_LAG_ENTRIES_MAX < last) {
            return Ok(false);
        }
        // Whoever had this id before is gone with its directory.
        let voters: BTreeSet<u64> = membership
            .voter_ids()
            .filter(|voter| {
                membership
                    .get_node(voter)
                    .is_some_and(|member| member.id != join.id)
            })
            .chain([join.number])
            .collect();
        let replaced = node
            .raft
            .change_membership(ChangeMembers::ReplaceAllVoters(voters), false)
            .await;
        replaced.map_err(|error| Fault::retry(error.to_string()))?;
        tracing::info!(id = join.id, "the metadata server is a voter");
        Ok(true)
    }
    .await;
    node.admitting.store(false, Ordering::Relaxed);
    result
}

/// Ends a change of the membership that a leader before this one left half done: until then
/// majorities of the old and the new members are needed.
pub(crate) async fn finish_change(node: &Node) {
    let joint = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .membership()
            .get_joint_config()
            .len()
            > 1
    };
    if !joint || node.admitting.swap(true, Ordering::Relaxed) {
        return;
    }
    let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
    if let Err(error) = node.raft.change_membership(nobody, false).await {
        tracing::debug!(%error, "could not finish a change of the membership yet");
    }
    node.admitting.store(false, Ordering::Relaxed);
}
