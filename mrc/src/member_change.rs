//! Changes of the metadata servers, as the leader carries them out: one step each time it is asked.
//!
//! What is next is decided by `members::plan` from what Raft, the others and the records of this leader
//! say at that moment. Nothing is remembered between steps, so that any of them may be the last one
//! of this leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use mrc_core::Reply;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Instant as _};
use proto::mrc::{MrcChange, MrcChanged, MrcMember, Response as MrcResponse, response};
use proto::raft::{Join, Response};
use shell::config::is_host_and_port;
use shell::link::{Payload, Responder};
use types::Fault;

use crate::config::{MEMBER_STEP_TIMEOUT, MRC_CHANGE_MAX};
use crate::consensus::{LeaderId, Member, TypeConfig};
use crate::door::Service;
use crate::members::{self, Known, Newcomer, Picture, Step, Wait, Wish};
use crate::membership;
use crate::node::{Node, NotNow};

type Change = ChangeMembers<u64, Member>;

/// Answers a server that asks whether it is a member: yes, no, or begins or goes on with putting it in
/// the place of the one of its id that lost its directory.
pub(crate) fn join(node: Arc<Node>, join: Join, responder: Responder) {
    if let Err(NotNow::Elsewhere(fault)) = node.leading() {
        return responder.fault(fault);
    }
    tokio::spawn(async move {
        match admit(&node, &join).await {
            Ok(joined) => {
                let greeting = None;
                let response = Response { greeting, joined };
                responder.ok(&response, Payload::none());
            }
            Err(fault) => responder.fault(fault),
        }
    });
}

/// True if the asking server votes.
async fn admit(node: &Arc<Node>, join: &Join) -> Result<bool, Fault> {
    // Who does not lead any more must tell nobody that he is no member.
    let leader = match node.leading() {
        Ok(leader) => leader,
        Err(NotNow::Unproved) => node.prove().await?,
        Err(NotNow::Elsewhere(fault)) => return Err(fault),
    };
    let (committed, effective) = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let of = |membership: &openraft::Membership<u64, Member>| {
            let nodes = membership.nodes();
            let nodes = nodes.map(|(number, member)| (*number, member.id));
            let voters: BTreeSet<u64> = membership.voter_ids().collect();
            (nodes.collect::<BTreeMap<u64, u64>>(), voters)
        };
        let committed = of(metrics.committed_membership_config.membership());
        (committed, of(metrics.membership_config.membership()))
    };
    if effective.1.contains(&join.number) {
        return Ok(effective == committed);
    }
    if committed.0.contains_key(&join.number) && !effective.0.contains_key(&join.number) {
        return Err(Fault::retry("it is being removed"));
    }
    let successor = effective.0.iter().any(|(number, id)| {
        *id == join.id && *number != join.number && effective.1.contains(number)
    });
    match (successor, effective.0.contains_key(&join.number)) {
        // An administrator has begun to add it, and ends that.
        (false, true) => return Ok(false),
        (true, known) if known || join.fresh => {}
        _ => return Err(no_member(join)),
    }
    let wish = Wish {
        add: BTreeMap::from([(join.id, join.address.clone())]),
        remove: BTreeSet::new(),
    };
    let newcomer = Newcomer {
        number: join.number,
        id: join.id,
        fresh: true,
    };
    let newcomers = BTreeMap::from([(join.id, newcomer)]);
    match step(node, leader, &wish, newcomers, 0).await? {
        Step::Refuse(refusal) => Err(Fault::retry(refusal.to_string())),
        _ => Ok(false),
    }
}

fn no_member(join: &Join) -> Fault {
    let Join { id, address, .. } = join;
    let text = match join.fresh {
        true => format!(
            "metadata server {id} is no member of the cluster; `xfs-admin mrc add {id}={address}` makes \
             it one"
        ),
        false => format!(
            "metadata server {id} was removed from the cluster or replaced, so it ends; to have it as a \
             member again, remove its directory, start it and use `xfs-admin mrc add {id}={address}`"
        ),
    };
    Fault::surface(libc::EPERM, text)
}

/// Takes one step towards what an administrator wants.
pub(crate) async fn change(service: &Arc<Service>, change: &MrcChange) -> Reply {
    let wish = wish(change)?;
    let node = &service.node;
    let leader = match node.leading() {
        Ok(leader) => leader,
        Err(NotNow::Unproved) => node.prove().await?,
        Err(NotNow::Elsewhere(fault)) => return Err(fault),
    };
    let asked = wish.add.iter().map(|(id, address)| async move {
        let greeting = membership::hello(node, address).await?;
        let newcomer = Newcomer {
            number: greeting.number,
            id: greeting.id,
            fresh: greeting.fresh || greeting.pristine,
        };
        Some((*id, newcomer))
    });
    let newcomers = join_all(asked).await.into_iter().flatten().collect();
    let untold = service.untold(&node.voter_addresses());
    let waits_for = match step(node, leader, &wish, newcomers, untold).await? {
        Step::Done => String::new(),
        Step::Refuse(refusal) => return Err(Fault::surface(libc::EBUSY, refusal.to_string())),
        Step::Wait(wait) => wait.to_string(),
        Step::HandOver(_) => Wait::Leadership.to_string(),
        Step::Learn { id, .. } => Wait::Copy { id, lag: None }.to_string(),
        Step::Forget(_) | Step::Vote(_) => Wait::Change.to_string(),
    };
    let changed = MrcChanged {
        done: waits_for.is_empty(),
        waits_for,
    };
    Ok(MrcResponse {
        reply: Some(response::Reply::MrcChanged(changed)),
    })
}

fn wish(change: &MrcChange) -> Result<Wish, Fault> {
    let refuse = |text: String| Err(Fault::surface(libc::EINVAL, text));
    if change.add.len() + change.remove.len() > MRC_CHANGE_MAX {
        return refuse(format!(
            "more than {MRC_CHANGE_MAX} metadata servers in one change; make several"
        ));
    }
    let mut wish = Wish {
        remove: change.remove.iter().copied().collect(),
        ..Wish::default()
    };
    for add in &change.add {
        let (id, address) = (add.id, &add.address);
        if !(1..=u64::from(u32::MAX)).contains(&id) {
            return refuse(format!(
                "{id} is no id of a metadata server; give one from 1"
            ));
        }
        if !is_host_and_port(address) {
            return refuse(format!(
                "{address:?} is no address of metadata server {id}; give HOST:PORT, such as \
                 10.0.0.1:7000"
            ));
        }
        if wish.add.values().any(|other| other == address)
            || wish.add.insert(id, address.clone()).is_some()
        {
            return refuse(format!(
                "{id}={address} is given twice, or its id or address is"
            ));
        }
    }
    Ok(wish)
}

/// Holds the right to change the membership.
struct Admitting(Arc<AtomicBool>);

impl Admitting {
    /// Changes exclude each other.
    fn begin(node: &Node) -> Option<Self> {
        let free = !node.admitting.swap(true, Ordering::Relaxed);
        free.then(|| Self(Arc::clone(&node.admitting)))
    }
}

impl Drop for Admitting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Plans a step and takes it; returns which it was.
async fn step(
    node: &Arc<Node>,
    leader: LeaderId,
    wish: &Wish,
    newcomers: BTreeMap<u64, Newcomer>,
    untold: usize,
) -> Result<Step, Fault> {
    let Some(admitting) = Admitting::begin(node) else {
        return Ok(Step::Wait(Wait::Change));
    };
    let (picture, precondition) = picture(node, leader, newcomers, untold);
    let step = members::plan(&picture, wish);
    let change = match step.clone() {
        Step::Done | Step::Wait(_) | Step::Refuse(_) => return Ok(step),
        Step::HandOver(to) => {
            tracing::info!("another metadata server is to lead, since this one is to go");
            node.hand_over(leader, to).await?;
            return Ok(step);
        }
        Step::Learn {
            number,
            id,
            address,
        } => {
            tracing::info!(
                id,
                address,
                "a metadata server with a fresh directory learns"
            );
            let member = Member { id, address };
            Change::AddNodes(BTreeMap::from([(number, member)]))
        }
        Step::Forget(numbers) => Change::RemoveNodes(numbers),
        Step::Vote(numbers) => {
            let ids = numbers
                .iter()
                .filter_map(|number| picture.nodes.get(number));
            let ids: Vec<u64> = ids.map(|known| known.id).collect();
            tracing::info!(voters = ?ids, "the metadata servers change");
            Change::ReplaceAllVoters(numbers)
        }
    };
    let raft = node.raft.clone();
    let changing = tokio::spawn(async move {
        let changed = raft
            .change_membership_if(change, false, [precondition])
            .await;
        drop(admitting);
        changed.map(|_| ()).map_err(|error| error.to_string())
    });
    match tokio::time::timeout(MEMBER_STEP_TIMEOUT, changing).await {
        Ok(Ok(Ok(()))) | Err(_) => Ok(step),
        Ok(Ok(Err(error))) => Err(Fault::retry(error)),
        Ok(Err(_)) => Err(Fault::retry("the consensus core stopped")),
    }
}

/// What Raft says of the members now, and that it is of now.
fn picture(
    node: &Node,
    leader: LeaderId,
    newcomers: BTreeMap<u64, Newcomer>,
    untold: usize,
) -> (Picture, Precondition<TypeConfig>) {
    let metrics = node.raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let last = metrics.last_log_index.unwrap_or(0);
    let answers: BTreeSet<u64> = newcomers.values().map(|it| it.number).collect();
    let nodes = membership.nodes().map(|(number, member)| {
        let heard = metrics
            .heartbeat
            .as_ref()
            .and_then(|heard| heard.get(number).copied().flatten());
        let heard = heard.is_some_and(|heard| heard.elapsed() <= 2 * node.lease());
        let matching = metrics
            .replication
            .as_ref()
            .and_then(|replication| replication.get(number).cloned().flatten());
        let known = Known {
            id: member.id,
            address: node.peers.address(*number, member),
            heard: heard || *number == metrics.id || answers.contains(number),
            lag: matching.map(|id| last.saturating_sub(id.index)),
        };
        (*number, known)
    });
    let picture = Picture {
        me: metrics.id,
        voters: membership.voter_ids().collect(),
        joint: membership.get_joint_config().len() > 1,
        nodes: nodes.collect(),
        newcomers,
        untold,
        new_leader: node.leads_for(leader) < 3 * node.lease(),
    };
    let precondition = Precondition::LastMembershipLogId {
        last_membership_log_id: *metrics.membership_config.log_id(),
    };
    (picture, precondition)
}

/// Ends a change of the membership that a leader before this one left half done: until then
/// majorities of the old and the new members are needed.
pub(crate) async fn finish_change(node: &Node) {
    let joint = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().len() > 1
    };
    let Some(_admitting) = joint.then(|| Admitting::begin(node)).flatten() else {
        return;
    };
    let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
    if let Err(error) = node.raft.change_membership(nobody, false).await {
        tracing::debug!(%error, "could not finish a change of the membership yet");
    }
}

/// The members as this server knows them; nobody if it does not lead.
pub(crate) fn known(node: &Node) -> Vec<MrcMember> {
    let Ok(leader) = node.leading() else {
        return Vec::new();
    };
    let (picture, _) = picture(node, leader, BTreeMap::new(), 0);
    let metrics = node.raft.metrics().borrow_watched().clone();
    let heard = |number: u64| {
        if number == metrics.id {
            return Some(0);
        }
        let heard = metrics.heartbeat.as_ref()?.get(&number).copied().flatten();
        heard.map(|heard| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX))
    };
    let members = picture.nodes.into_iter().map(|(number, known)| MrcMember {
        id: known.id,
        address: known.address,
        voter: picture.voters.contains(&number),
        lag_entries: match number == metrics.id {
            true => Some(0),
            false => known.lag,
        },
        heard_ms: heard(number),
    });
    members.collect()
}

impl Service {
    /// How many mounts and object servers have not heard yet that these are the servers that can lead.
    fn untold(&self, addresses: &[String]) -> usize {
        let timeout = self.config.osd_timeout();
        self.sessions.untold(addresses) + self.osds.untold(addresses, timeout)
    }
}
