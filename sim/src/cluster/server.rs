//! One object server: its clock, its lease host, the replicas it has in memory, its disk.
//!
//! [`Server`] is what the shell of an object server is: it performs what replicas ask for, tells
//! them what they must know, opens and drops them. What leaves the server comes out as [`Act`]s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lease::{Host, Out, Saved};
use osd_core::{
    AnswerId, Call, Input, LeaseEvent, Membership, MemoryStore, ObjectKey, ObjectReplica, Op,
    Payload, PeerFailure, Position, RequestId, Role, StoreError, SyncJob,
};
use proto::peer;
use types::{CellId, Duration, Fault, Instant, ObjectId, OsdId, PgKey, SessionId};

use crate::cluster::edit::Edit;
use crate::cluster::map::Map;
use crate::cluster::recovery::Recovery;
use crate::time::{Clock, TrueTime};

/// What a server's shard is told, and what it is asked.
#[derive(Debug)]
pub(crate) enum Item {
    Client {
        key: ObjectKey,
        session: SessionId,
        op: Op,
        mount: usize,
        call: u64,
    },
    /// Objects that are garbage, and whether only because others keep them; the metadata cluster waits for
    /// the answer.
    Delete {
        keys: Vec<(ObjectKey, bool)>,
        batch: u64,
    },
    Peer {
        key: ObjectKey,
        asked: Asked,
        message: peer::Request,
        payload: Payload,
    },
    PeerReply {
        object: ObjectId,
        from: OsdId,
        call: Call,
        reply: PeerAnswer,
    },
    /// Which objects of a group there are, in a view.
    List {
        group: PgKey,
        view: u64,
        asked: Asked,
    },
    PeerLost(OsdId),
    PeerUp(OsdId),
    Lease {
        object: ObjectId,
        event: LeaseEvent,
    },
    StoreDone {
        object: ObjectId,
        ticket: u64,
        result: Result<(), StoreError>,
    },
    Recover(ObjectKey, Position),
    BringUp(ObjectKey),
    /// Absent objects of some group can be trusted from now on.
    Publish,
    /// A map of the cluster.
    Map(Map),
    /// Copies of groups that others keep by now are deleted.
    Clear,
    HandOver {
        object: ObjectId,
        to: OsdId,
    },
}

/// Who asked, over which connection, under which number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) from: OsdId,
    pub(crate) call: u64,
}

/// Who waits for a replica's reply.
#[derive(Debug)]
pub(crate) enum Waiting {
    Mount { mount: usize, call: u64 },
    Delete { batch: u64 },
    Nobody,
}

/// A peer's answer with its bytes, or none.
pub(crate) type PeerAnswer = Result<(peer::Response, Payload), PeerFailure>;

/// The objects of a group, and whether there are no others here.
pub(crate) type List = (Vec<peer::ObjectState>, bool);

/// What leaves the server.
#[derive(Debug)]
pub(crate) enum Act {
    Peer {
        object: ObjectId,
        to: OsdId,
        call: Call,
        message: Box<peer::Request>,
        payload: Payload,
        timeout: Duration,
    },
    Answer {
        asked: Asked,
        reply: PeerAnswer,
    },
    /// Passes the look at the clock when it leaves.
    Reply {
        request: RequestId,
        result: Result<osd_core::Done, Fault>,
        valid_until: Option<Instant>,
    },
    Sync {
        object: ObjectId,
        ticket: u64,
        job: Box<dyn SyncJob>,
        lazy: bool,
    },
    Lease {
        to: OsdId,
        message: lease::Message,
    },
    List {
        to: OsdId,
        group: PgKey,
        view: u64,
    },
    /// None: this server goes by another view.
    Listed {
        asked: Asked,
        list: Option<List>,
    },
    /// The metadata cluster had it deleted.
    Gone(ObjectKey),
    /// It is deleted since others keep it.
    Moved(ObjectKey),
}

/// A replica in memory.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) key: ObjectKey,
    pub(crate) replica: ObjectReplica,
    pub(crate) alarm: Option<Instant>,
    pub(crate) leave_at: Option<Instant>,
    pub(crate) behind: bool,
    pub(crate) bringing_up: bool,
    /// As the replica was told.
    pub(crate) membership: Membership,
}

impl Slot {
    pub(crate) fn is_primary(&self) -> bool {
        matches!(self.replica.status().role, Role::Primary | Role::Closing)
    }
}

/// Objects of files that are gone, as one round found them.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) objects: Vec<proto::mrc::HeldObject>,
    pub(crate) garbage_below: u64,
}

/// What the servers of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) replica: osd_core::Config,
    pub(crate) lease: lease::Config,
    /// Where a single copy is all there may be, a store keeps note of what is torn, or nobody could tell.
    pub(crate) keeps_notes: bool,
    pub(crate) edit: Option<Edit>,
}

impl Common {
    pub(crate) fn new_store(&self) -> MemoryStore {
        let store = MemoryStore::new();
        if self.keeps_notes {
            store.keep_notes();
        }
        store
    }
}

/// One server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) me: OsdId,
    pub(crate) common: Common,
    pub(crate) clock: Clock,
    /// Counts starts and ends: what was planned for another life is void.
    pub(crate) life: u64,
    pub(crate) boot: u64,
    pub(crate) up: bool,
    pub(crate) paused_until: TrueTime,
    /// The shard's thread is stuck; leases go on.
    pub(crate) stuck_until: TrueTime,
    pub(crate) stuck_since: TrueTime,
    /// A look at the clock before a pause, used after it.
    pub(crate) old_look: Option<Instant>,
    /// The last run ended in good order.
    pub(crate) trusted: bool,
    pub(crate) saved: Option<Saved>,
    pub(crate) stopping: bool,
    pub(crate) host: Option<Host>,
    pub(crate) store: MemoryStore,
    /// Counts stores: a new one has another name.
    pub(crate) store_number: u64,
    /// The store was made by the start of this life.
    pub(crate) new_store: bool,
    /// The newest map it has taken. Kept in the store.
    pub(crate) map: Map,
    /// Groups that existed before this store did.
    pub(crate) incomplete: BTreeSet<PgKey>,
    /// Objects that are being deleted because others keep them.
    pub(crate) moved: BTreeSet<ObjectId>,
    pub(crate) slots: BTreeMap<ObjectId, Slot>,
    pub(crate) tombstones: BTreeSet<ObjectId>,
    pub(crate) inbox: VecDeque<Item>,
    pub(crate) work_planned: bool,
    pub(crate) alarm_planned: Option<TrueTime>,
    pub(crate) host_planned: Option<TrueTime>,
    pub(crate) clients: BTreeMap<RequestId, Waiting>,
    pub(crate) batches: BTreeMap<u64, (usize, bool)>,
    pub(crate) answers: BTreeMap<AnswerId, Asked>,
    pub(crate) calls: BTreeMap<u64, (OsdId, ObjectId, Call)>,
    pub(crate) lists: BTreeMap<u64, (OsdId, PgKey, u64)>,
    pub(crate) jobs: BTreeMap<u64, (ObjectId, u64, Box<dyn SyncJob>)>,
    pub(crate) recovery: Recovery,
    /// Of the last round, and when that was.
    pub(crate) found: Found,
    pub(crate) looked_at: TrueTime,
    /// The first map it got, for a wrong edit.
    pub(crate) first_map: Map,
    /// A replica wants to be woken in the past.
    pub(crate) spins: Option<ObjectId>,
    last_id: u64,
}

impl Server {
    pub(crate) fn new(me: OsdId, common: Common, clock: Clock) -> Self {
        let store = common.new_store();
        Self {
            me,
            common,
            clock,
            life: 0,
            boot: 0,
            up: false,
            paused_until: TrueTime::default(),
            stuck_until: TrueTime::default(),
            stuck_since: TrueTime::default(),
            old_look: None,
            trusted: true,
            saved: None,
            stopping: false,
            host: None,
            store,
            store_number: 1,
            new_store: false,
            map: Map::default(),
            incomplete: BTreeSet::new(),
            moved: BTreeSet::new(),
            slots: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            inbox: VecDeque::new(),
            work_planned: false,
            alarm_planned: None,
            host_planned: None,
            clients: BTreeMap::new(),
            batches: BTreeMap::new(),
            answers: BTreeMap::new(),
            calls: BTreeMap::new(),
            lists: BTreeMap::new(),
            jobs: BTreeMap::new(),
            recovery: Recovery::default(),
            found: Found::default(),
            looked_at: TrueTime::default(),
            first_map: Map::default(),
            spins: None,
            last_id: 0,
        }
    }

    pub(crate) fn start(&mut self, now: Instant, seed: u64) {
        self.life += 1;
        self.boot += 1;
        self.up = true;
        self.stopping = false;
        self.store.restart();
        let (config, saved) = (self.common.lease.clone(), self.saved.take());
        let host = Host::new(self.me.into(), config, now, self.boot, seed, saved);
        self.host = Some(host);
        self.recovery.follow(now, self.me, &self.map);
    }

    /// The process is gone, with everything in its memory.
    pub(crate) fn crash(&mut self) {
        let old = std::mem::replace(self, Self::new(self.me, self.common.clone(), self.clock));
        self.life = old.life + 1;
        self.boot = old.boot;
        self.store = old.store;
        self.store_number = old.store_number;
        self.map = match self.common.edit {
            Some(Edit::MapForgotten) => old.first_map.clone(),
            _ => old.map,
        };
        self.first_map = old.first_map;
        self.trusted = false;
        self.last_id = old.last_id;
    }

    pub(crate) const fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn membership(&self, key: ObjectKey) -> Option<Membership> {
        let group = group_of(key);
        let pg = self.map.group(self.me, group)?;
        let (incomplete, recovered) = self.own(group, self.recovery.recovered.contains(&group));
        Some(Membership {
            view: pg.view,
            replicas: pg.replicas.clone(),
            incomplete,
            recovered,
            policy: self.map.policy,
        })
    }

    /// Whether this server's store is new to a group, and whether absent objects are known to be so.
    pub(crate) fn own(&self, group: PgKey, compared: bool) -> (bool, bool) {
        let marked = self.map.pgs.get(&group);
        let marked = marked.is_some_and(|pg| pg.incomplete.contains(&self.me));
        let incomplete = marked || self.incomplete.contains(&group);
        (incomplete, self.trusted || compared)
    }

    /// The disk is gone; a new one takes its place.
    pub(crate) fn wipe(&mut self) {
        self.store = self.common.new_store();
        match self.common.edit {
            Some(Edit::WipeUnnoticed) => self.trusted = true,
            _ => {
                self.store_number += 1;
                self.new_store = true;
            }
        }
        self.map = Map::default();
    }

    /// What it has of a group is what it is believed to have: the crash of another member is covered.
    pub(crate) fn is_sound(&self, group: PgKey) -> bool {
        let mut slots = self.slots.values();
        let (incomplete, recovered) = self.own(group, self.recovery.recovered.contains(&group));
        let is_member = self.map.group(self.me, group).is_some();
        self.up
            && is_member
            && recovered
            && !incomplete
            && !self.recovery.lacks(group)
            && slots.all(|slot| group_of(slot.key) != group || slot.replica.status().trusted)
    }

    pub(crate) fn with_host(
        &mut self,
        now: Instant,
        acts: &mut Vec<Act>,
        work: impl FnOnce(&mut Host, Instant, &mut Out),
    ) {
        let Some(host) = &mut self.host else {
            return;
        };
        let mut out = Out::new();
        work(host, now, &mut out);
        for (to, messages) in out.sends {
            let to = OsdId(to.0);
            acts.extend(
                messages
                    .into_iter()
                    .map(|message| Act::Lease { to, message }),
            );
        }
        for event in out.events {
            let (cell, event) = lease_event(event);
            let object = ObjectId::of_cell(cell);
            if matches!(event, LeaseEvent::Lost { .. } | LeaseEvent::HeldBy { .. })
                && self.common.edit == Some(Edit::LeaseNewsLost)
            {
                continue;
            }
            self.inbox.push_back(Item::Lease { object, event });
        }
    }
}

/// The placement group of a key.
pub(crate) const fn group_of(key: ObjectKey) -> PgKey {
    PgKey {
        volume: key.object.volume,
        pg: key.pg,
    }
}

fn lease_event(event: lease::Event) -> (CellId, LeaseEvent) {
    use osd_core::Obstacle;
    match event {
        lease::Event::Held {
            cell,
            epoch,
            until,
            newborn,
        } => {
            let held = LeaseEvent::Held {
                epoch,
                until,
                newborn,
            };
            (cell, held)
        }
        lease::Event::HeldBy {
            cell,
            member,
            remaining,
        } => {
            let member = OsdId(member.0);
            (cell, LeaseEvent::HeldBy { member, remaining })
        }
        lease::Event::NoQuorum { cell } => (cell, LeaseEvent::Denied(Obstacle::NoMajority)),
        lease::Event::OldView { cell, .. } => (cell, LeaseEvent::Denied(Obstacle::OldView)),
        lease::Event::Refused { cell, error } => {
            let obstacle = match error {
                lease::Error::Quarantined { remaining } => Obstacle::Quarantine { remaining },
                lease::Error::TooManyCells { .. } => Obstacle::TooManyCells,
                lease::Error::Stopped => Obstacle::Stopping,
                _ => Obstacle::OldView,
            };
            (cell, LeaseEvent::Denied(obstacle))
        }
        lease::Event::Lost { cell, epoch } => (cell, LeaseEvent::Lost { epoch }),
        lease::Event::Offered { cell, .. } => (cell, LeaseEvent::Offered),
    }
}

/// What a step is told of a peer's answer.
pub(crate) const fn peer_reply(from: OsdId, call: Call, reply: PeerAnswer) -> Input {
    Input::PeerReply { from, call, reply }
}
