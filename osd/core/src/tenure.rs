//! What a replica keeps while it holds the lease.

use std::collections::VecDeque;

use types::{Duration, Instant, OsdId, Quorum};

use crate::config::Config;
use crate::copy::Answer;
use crate::event::{Call, CallKind, Done, Effect, Membership, Payload, RequestId};
use crate::fetch::Fetching;
use crate::marks::Marks;
use crate::mend::Mend;
use crate::peer_state::{Peer, PeerState};
use crate::position::{Position, Promise};
use crate::quorum::ReplicaSet;
use crate::record::Marked;
use crate::store::ObjectKey;
use crate::sync_round::Syncs;
use proto::peer;
use proto::peer::request::Op;

/// One lease's time as primary.
#[derive(Debug)]
pub(crate) struct Tenure {
    /// The lease's epoch, and this server.
    pub(crate) promise: Promise,
    /// End of the lease as far as it is known.
    pub(crate) until: Instant,
    /// Where the history was that this tenure took over, and the changes it knew.
    pub(crate) base: Position,
    pub(crate) base_marks: Marks,
    /// And the object's length there.
    pub(crate) base_length_bytes: u64,
    /// The object was new when the lease began.
    pub(crate) newborn: bool,
    /// The promise is durable at a majority: changes may be made.
    pub(crate) writable: bool,
    pub(crate) phase: Phase,
    pub(crate) replicas: ReplicaSet,
    pub(crate) peers: Vec<Peer>,
    pub(crate) changes: VecDeque<Pending>,
    /// Answers that must wait until a change they include is committed.
    pub(crate) held: Vec<Held>,
    pub(crate) syncs: Syncs,
    pub(crate) mending: Option<Mend>,
    /// A damaged block that nobody could mend.
    pub(crate) given_up: Option<u64>,
    /// This server's store has no room for what it was asked for.
    pub(crate) is_full: bool,
    /// When others without room were last asked whether they have some.
    pub(crate) asked_for_room: Option<Instant>,
    /// The newest client request; none if the lease was only taken to bring others up.
    pub(crate) last_used: Option<Instant>,
    pub(crate) began_at: Instant,
    template: peer::Request,
    attempts: u64,
}

/// How far it has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Asks everybody where they are.
    Asking {
        reading: bool,
        /// Replicas that did not crash are waited for until then.
        grace_until: Instant,
        /// With `async`, all that are connected are waited for until then.
        heard_until: Instant,
        own: Option<Answer>,
    },
    /// Gets what this copy lacks.
    Fetching(Fetching),
    /// Has the newest state, brings a quorum to it.
    BringingUp { reading: bool },
    /// Serves.
    Serving,
    /// Makes everybody clean.
    Closing { since: Instant },
}

/// A change that is not committed yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) seq: u64,
    /// None once it was answered, or told to try again.
    pub(crate) request: Option<RequestId>,
    pub(crate) done: Done,
    pub(crate) deadline: Instant,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    /// What it takes to cut off what it added; none if it can't be.
    pub(crate) undo: Option<Undo>,
}

/// How things were before a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    pub(crate) length_bytes: u64,
    pub(crate) marked: Marked,
}

/// An answer that waits until change `seq` is committed.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) seq: u64,
    pub(crate) request: RequestId,
    pub(crate) done: Done,
    pub(crate) deadline: Instant,
}

impl Tenure {
    pub(crate) fn new(
        now: Instant,
        me: OsdId,
        key: ObjectKey,
        membership: &Membership,
        (epoch, until): (u64, Instant),
    ) -> Self {
        let others = membership.replicas.all().iter();
        let others = others.filter(|member| **member != me);
        Self {
            promise: Promise { epoch, holder: me },
            until,
            base: Position {
                epoch,
                seq: 0,
                holder: me,
            },
            base_marks: Marks::default(),
            base_length_bytes: 0,
            newborn: false,
            writable: false,
            phase: Phase::BringingUp { reading: true },
            replicas: membership.replicas.clone(),
            peers: others.map(|member| Peer::new(*member, now)).collect(),
            changes: VecDeque::new(),
            held: Vec::new(),
            syncs: Syncs::default(),
            mending: None,
            given_up: None,
            is_full: false,
            asked_for_room: None,
            last_used: None,
            began_at: now,
            template: peer::Request {
                object: Some(key.object.into()),
                pg: key.pg.0,
                view: membership.view,
                epoch,
                holder: me.0,
                attempt: 0,
                op: None,
            },
            attempts: 0,
        }
    }

    pub(crate) fn members(&self) -> usize {
        self.peers.len() + 1
    }

    /// Whether this server and those of the others for which `is_so` are a majority.
    pub(crate) fn has_majority(&self, is_so: impl Fn(&Peer) -> bool) -> bool {
        self.replicas.is_majority(|osd| {
            let peer = self.peers.iter().find(|peer| peer.id == osd);
            peer.is_none_or(&is_so)
        })
    }

    /// The greatest number that a quorum has reached, if this server has reached `own`.
    pub(crate) fn reached(
        &self,
        quorum: Quorum,
        own: Option<u64>,
        number: impl Fn(&Peer) -> Option<u64>,
    ) -> Option<u64> {
        self.replicas.reached(quorum, |osd| {
            let peer = self.peers.iter().find(|peer| peer.id == osd);
            peer.map_or(own, &number)
        })
    }

    pub(crate) const fn position(&self, seq: u64) -> Position {
        Position {
            epoch: self.promise.epoch,
            seq,
            holder: self.promise.holder,
        }
    }

    /// Whether changes may be made: the promise is on disk, and this copy is where the history ends.
    pub(crate) const fn takes_changes(&self) -> bool {
        match self.phase {
            Phase::BringingUp { reading } => !reading,
            Phase::Serving => self.writable,
            Phase::Asking { .. } | Phase::Fetching(_) | Phase::Closing { .. } => false,
        }
    }

    pub(crate) const fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    pub(crate) fn peer_index(&self, id: OsdId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    /// Sends a request of the peer's present attempt.
    pub(crate) fn send(
        &self,
        peer: &Peer,
        (kind, op): (CallKind, Op),
        payload: Payload,
        timeout: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let message = peer::Request {
            attempt: peer.attempt,
            op: Some(op),
            ..self.template.clone()
        };
        effects.push(Effect::Send {
            to: peer.id,
            call: Call {
                epoch: self.promise.epoch,
                attempt: peer.attempt,
                kind,
            },
            message,
            payload,
            timeout,
        });
    }

    /// Starts over with a peer.
    pub(crate) fn attempt(
        &mut self,
        now: Instant,
        index: usize,
        activate: peer::Activate,
        config: &Config,
        effects: &mut Vec<Effect>,
    ) {
        self.attempts += 1;
        let attempt = self.attempts;
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        peer.attempt = attempt;
        peer.attempted_at = now;
        peer.state = PeerState::Asked {
            newborn: activate.newborn,
        };
        peer.applied = 0;
        peer.sent = 0;
        peer.owing_since = None;
        peer.is_clean = false;
        peer.asked_sync = None;
        let Some(peer) = self.peers.get(index) else {
            return;
        };
        let call = (CallKind::Activate, Op::Activate(activate));
        self.send(peer, call, Payload::default(), config.step_timeout, effects);
    }
}
