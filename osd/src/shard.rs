//! One shard: a thread that owns the replicas of its objects and performs what they ask for.

mod administer;
mod opening;
mod parking;
mod perform;
pub(crate) mod scrub;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use lease_shell::LeaseShell;
use osd_core::{
    AnswerId, Config as ReplicaConfig, Effect, Input, LeaseEvent, Membership, ObjectKey,
    ObjectReplica, ObjectStore, Position, RequestId, Role, deleted_response,
};
use proto::peer;
use shell::clock::boottime;
use shell::link::{self, Responder};
use tokio::sync::{Notify, oneshot};
use types::{Fault, Instant, ObjectId, OsdId, PgKey, Remedy};

use crate::board::{Board, group_of};
use crate::budget::Share;
use crate::cluster::Cluster;
use crate::config::IDLE_REPLICAS_MAX;
use crate::inbox::Inbox;
use crate::pacer::Pacer;
use crate::reaper::Reaper;
use crate::shard_item::{DeleteBatch, Item};
use crate::store_dir::DirectoryStore;
use crate::store_root::Root;
use crate::sync_pool::SyncPool;
use crate::tombstones::Tombstones;

/// What a shard shares with the rest of the server.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) me: OsdId,
    pub(crate) config: ReplicaConfig,
    pub(crate) root: Arc<Root>,
    pub(crate) leases: Arc<LeaseShell>,
    pub(crate) pool: Arc<SyncPool>,
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) board: Arc<Board>,
    pub(crate) pacer: Pacer,
    /// Somebody knows a newer map than we do.
    pub(crate) map_wanted: Arc<Notify>,
}

/// The thread's state.
pub(crate) struct Shard {
    number: usize,
    /// When it was last looked how far backups are behind, and whether any was.
    lags_noted: Instant,
    lags_seen: bool,
    around: Surroundings,
    inbox: Arc<Inbox<Item>>,
    store: DirectoryStore,
    cluster: Arc<Cluster>,
    replicas: HashMap<ObjectId, Slot>,
    /// When replicas want to be stepped.
    alarms: BTreeSet<(Instant, ObjectId)>,
    tombstones: Tombstones,
    /// Objects that are being deleted because others keep them.
    moved: HashSet<ObjectId>,
    clients: HashMap<RequestId, Waiting>,
    peers: HashMap<AnswerId, Responder>,
    last_id: u64,
    effects: Vec<Effect>,
    /// What waits for the dataset of its group, and how much that is.
    parked: HashMap<PgKey, Vec<Item>>,
    parked_count: usize,
    stopping: Option<oneshot::Sender<()>>,
}

struct Slot {
    key: ObjectKey,
    replica: ObjectReplica,
    alarm: Option<Instant>,
    /// When there is no need to keep it any more; none if there is one.
    leave_at: Option<Instant>,
    /// Replicas that are behind, as last reported.
    behind: bool,
    /// The others are to be brought up, as soon as it is primary.
    bringing_up: bool,
}

impl Slot {
    /// Whether it holds the lease and has found out where the others are.
    fn is_primary(&self) -> bool {
        matches!(self.replica.status().role, Role::Primary | Role::Closing)
    }
}

/// Who waits for a replica's reply.
enum Waiting {
    Client(Responder, Option<Share>),
    Delete(ObjectKey, Arc<DeleteBatch>),
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").finish_non_exhaustive()
    }
}

impl Shard {
    pub(crate) fn new(number: usize, around: Surroundings, inbox: Arc<Inbox<Item>>) -> Self {
        Self {
            number,
            lags_noted: Instant::ZERO,
            lags_seen: false,
            store: DirectoryStore::with_reaper(Arc::clone(&around.root)),
            around,
            inbox,
            cluster: Arc::default(),
            replicas: HashMap::new(),
            alarms: BTreeSet::new(),
            tombstones: Tombstones::default(),
            moved: HashSet::new(),
            clients: HashMap::new(),
            peers: HashMap::new(),
            last_id: 0,
            effects: Vec::new(),
            parked: HashMap::new(),
            parked_count: 0,
            stopping: None,
        }
    }

    /// Serves until the inbox is closed.
    pub(crate) fn run(mut self) {
        let mut items = Vec::new();
        loop {
            let alarm = self.alarms.first().map(|(at, _)| *at);
            let look = self.looks_for_lags_at();
            let next = [alarm, look].into_iter().flatten().min();
            let wait = next.map(|at| at.since(boottime()).to_std());
            if !self.inbox.take(&mut items, wait) {
                return;
            }
            for item in items.drain(..) {
                self.handle(item);
            }
            self.ring_alarms();
            self.note_lags();
            self.finish_stopping();
        }
    }

    fn handle(&mut self, item: Item) {
        let Some(item) = self.park(item) else {
            return;
        };
        match item {
            Item::Client {
                key,
                session,
                op,
                responder,
                share,
            } => {
                if self.tombstones.contains(key.object, boottime()) {
                    return responder.fault(gone(key.object));
                }
                let request = self.next_id();
                self.clients
                    .insert(request, Waiting::Client(responder, Some(share)));
                let input = Input::Client {
                    request,
                    session,
                    op,
                };
                if let Err(fault) = self.step_opened(key, input) {
                    self.reply(request, Err(fault), None);
                }
            }
            Item::Delete { key, moved, batch } => self.delete(key, moved, batch),
            Item::Peer {
                key,
                from,
                message,
                payload,
                responder,
            } => self.peer_request(key, from, message, payload, responder),
            Item::PeerReply {
                object,
                from,
                call,
                reply,
            } => self.step(object, Input::PeerReply { from, call, reply }),
            Item::PeerLost(osd) => self.step_all(|_| Some(Input::PeerLost(osd))),
            Item::PeerUp(osd) => self.step_all(|_| Some(Input::PeerUp(osd))),
            Item::Lease { object, event } => {
                if event == LeaseEvent::Offered {
                    self.open_offered(object);
                }
                let me = self.around.me;
                let elsewhere = match event {
                    LeaseEvent::HeldBy { member, .. } if member != me => Some(member),
                    _ => None,
                };
                self.step(object, Input::Lease(event));
                if let Some(holder) = elsewhere {
                    self.leave_to_holder(object, holder);
                }
            }
            Item::Stalls { limit, batch } => batch.add(self.stalls(limit)),
            Item::HandOver {
                object,
                to,
                responder,
            } => self.hand_over(object, to, responder),
            Item::StoreDone {
                object,
                ticket,
                result,
            } => self.step(object, Input::StoreDone { ticket, result }),
            Item::GroupReady { group, outcome } => self.unpark(group, &outcome),
            Item::Cluster(cluster) => self.set_cluster(cluster),
            Item::Recover(key, newest) => self.recover(key, newest),
            Item::BringUp(key) => self.bring_up(key),
            Item::Scrub { key, order } => self.scrub(key, order),
            Item::States {
                keys,
                strict,
                answer,
            } => {
                let states = keys
                    .iter()
                    .filter_map(|key| self.replicas.get(&key.object))
                    .map(|slot| {
                        let status = slot.replica.status();
                        peer::ObjectState {
                            // In use is not suspect; what is not known to be the history is.
                            suspect: !status.trusted || strict && !status.clean,
                            ..slot.replica.object_state()
                        }
                    })
                    .collect();
                // Whoever asked may have given up.
                let _ = answer.send(states);
            }
            Item::Shutdown(answer) => {
                self.stopping = Some(answer);
                self.step_all(|_| Some(Input::Shutdown));
            }
        }
    }

    fn peer_request(
        &mut self,
        key: ObjectKey,
        from: OsdId,
        message: peer::Request,
        payload: osd_core::Payload,
        responder: Responder,
    ) {
        if self.tombstones.contains(key.object, boottime()) {
            let view = self.membership(key).map_or(0, |membership| membership.view);
            return responder.ok(&deleted_response(view), link::Payload::none());
        }
        let answer = self.next_id();
        self.peers.insert(answer, responder);
        let input = Input::PeerRequest {
            from,
            answer,
            message,
            payload,
        };
        if let Err(fault) = self.step_opened(key, input)
            && let Some(responder) = self.peers.remove(&answer)
        {
            responder.fault(fault);
        }
    }

    fn recover(&mut self, key: ObjectKey, newest: Position) {
        if self.tombstones.contains(key.object, boottime()) {
            return self.around.board.done(key);
        }
        if let Err(fault) = self.step_opened(key, Input::Recover { newest }) {
            tracing::warn!(%key, %fault, "copy can't be brought up now");
            match fault.remedy {
                // It is not this server's to keep any more.
                Remedy::Refresh => self.around.board.done(key),
                Remedy::Retry | Remedy::Redirect | Remedy::Surface => {
                    self.around.board.put_back(key);
                }
            }
        }
    }

    fn bring_up(&mut self, key: ObjectKey) {
        if self.tombstones.contains(key.object, boottime()) {
            return self.around.board.forget(key);
        }
        if let Err(fault) = self.step_opened(key, Input::BringUp) {
            tracing::debug!(%key, %fault, "other copies can't be brought up now");
        } else if let Some(slot) = self.replicas.get_mut(&key.object) {
            slot.bringing_up = true;
        }
    }

    /// Somebody else is primary: it found out by itself who is behind, and brings them up. What this
    /// server noted as a former primary may be over by now, and would never be taken back while the
    /// other one keeps the lease. A holder that never asked this server to follow may not know that it holds
    /// the lease: then it stays noted, and has its turn again.
    fn leave_to_holder(&mut self, object: ObjectId, holder: OsdId) {
        if let Some(slot) = self.replicas.get_mut(&object)
            && slot.bringing_up
            && !slot.replica.is_bringing_up()
        {
            slot.bringing_up = false;
            if slot.replica.status().follows(holder) {
                self.around.board.note_behind(slot.key, &[]);
            }
        }
    }

    fn membership(&self, key: ObjectKey) -> Option<Membership> {
        self.cluster.memberships.get(&group_of(key)).cloned()
    }

    fn step_all(&mut self, mut input: impl FnMut(ObjectKey) -> Option<Input>) {
        let keys: Vec<_> = self.replicas.values().map(|slot| slot.key).collect();
        for key in keys {
            if let Some(input) = input(key) {
                self.step(key.object, input);
            }
        }
    }

    /// Steps a replica that is in memory and performs what follows. News of one that is not are of
    /// the past.
    fn step(&mut self, object: ObjectId, input: Input) {
        let Some(slot) = self.replicas.get_mut(&object) else {
            return;
        };
        let key = slot.key;
        tracing::trace!(osd = %self.around.me, %object, ?input, "input");
        let mut effects = std::mem::take(&mut self.effects);
        let now = boottime();
        self.inbox.beat(now);
        slot.replica.step(now, input, &mut self.store, &mut effects);
        for effect in effects.drain(..) {
            tracing::trace!(osd = %self.around.me, %object, ?effect, "effect");
            self.perform(key, effect);
        }
        self.effects = effects;
        self.settle(object);
    }

    /// After a step: when to step next, or that there is no need to keep it in memory.
    fn settle(&mut self, object: ObjectId) {
        let crowded = self.stopping.is_some() || self.replicas.len() > IDLE_REPLICAS_MAX;
        let Some(slot) = self.replicas.get_mut(&object) else {
            return;
        };
        if slot.bringing_up && !slot.behind && slot.is_primary() {
            slot.bringing_up = false;
            self.around.board.note_behind(slot.key, &[]);
        }
        if slot.behind && !slot.is_primary() {
            // It stopped being primary; the others are as far behind as before.
            slot.behind = false;
            self.around.board.note_left(slot.key);
        }
        // An idle one is kept for a while: the primary it follows may have told it things that are
        // not worth a record, and finds it as it was.
        slot.leave_at = slot
            .replica
            .is_idle()
            .then(|| boottime() + self.around.config.backup_idle_after);
        if slot.leave_at.is_some() && crowded {
            return self.drop_replica(object);
        }
        let alarm = [slot.replica.next_wakeup(), slot.leave_at]
            .into_iter()
            .flatten()
            .min();
        if alarm != slot.alarm {
            if let Some(old) = slot.alarm {
                self.alarms.remove(&(old, object));
            }
            if let Some(new) = alarm {
                self.alarms.insert((new, object));
            }
            slot.alarm = alarm;
        }
    }

    fn drop_replica(&mut self, object: ObjectId) {
        if let Some(slot) = self.replicas.remove(&object) {
            if let Some(alarm) = slot.alarm {
                self.alarms.remove(&(alarm, object));
            }
            self.store.close(slot.key);
        }
    }

    fn set_cluster(&mut self, cluster: Arc<Cluster>) {
        let old = std::mem::replace(&mut self.cluster, cluster);
        let new = Arc::clone(&self.cluster);
        self.step_all(|key| {
            let group = group_of(key);
            let membership = match new.memberships.get(&group) {
                Some(membership) => membership.clone(),
                // Others keep it from now on.
                None => Membership {
                    view: new.map.pgs.get(&group)?.view,
                    replicas: new.map.pgs.get(&group)?.replicas.clone(),
                    ..old.memberships.get(&group)?.clone()
                },
            };
            (old.memberships.get(&group) != Some(&membership))
                .then_some(Input::Membership(membership))
        });
    }

    fn ring_alarms(&mut self) {
        let now = boottime();
        // What is due now, not what becomes due meanwhile: the inbox must be looked at, too.
        let due: Vec<_> = self
            .alarms
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, object)| *object)
            .collect();
        for object in due {
            let slot = self.replicas.get(&object);
            match slot.and_then(|slot| slot.leave_at) {
                Some(leave_at) if leave_at <= now => self.drop_replica(object),
                Some(_) | None => self.step(object, Input::Tick),
            }
        }
    }

    fn finish_stopping(&mut self) {
        if self.replicas.is_empty()
            && let Some(answer) = self.stopping.take()
        {
            // Opened objects are refused from now on, too.
            let (keep, _) = oneshot::channel();
            self.stopping = Some(keep);
            let _ = answer.send(());
        }
    }

    const fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

fn gone(object: ObjectId) -> Fault {
    Fault::surface(libc::ESTALE, format!("file of {object} was deleted"))
}
