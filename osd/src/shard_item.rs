//! What shards are told, and what they are asked.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use osd_core::{Call, LeaseEvent, ObjectKey, Op, Payload, PeerFailure, Position, StoreError};
use proto::{osd, peer};
use shell::link::{self, Responder};
use tokio::sync::oneshot;
use types::{Fault, ObjectId, OsdId, PgKey, SessionId};

use crate::budget::Share;
use crate::cluster::Cluster;
use crate::shard::scrub::ScrubOrder;
use crate::stalls::StallBatch;

/// Something for a shard to do.
#[derive(Debug)]
pub(crate) enum Item {
    /// A client's request, admitted by the gate.
    Client {
        key: ObjectKey,
        session: SessionId,
        op: Op,
        responder: Responder,
        /// Of the server's memory, until it is answered.
        share: Share,
    },
    /// The object is garbage.
    Delete {
        key: ObjectKey,
        /// Only if others keep it.
        moved: bool,
        batch: Arc<DeleteBatch>,
    },
    /// A peer's request, its payload verified.
    Peer {
        key: ObjectKey,
        from: OsdId,
        message: peer::Request,
        payload: Payload,
        responder: Responder,
    },
    /// A peer answered, or will not.
    PeerReply {
        object: ObjectId,
        from: OsdId,
        call: Call,
        reply: Result<(peer::Response, Payload), PeerFailure>,
    },
    /// The link to a peer broke.
    PeerLost(OsdId),
    /// The link to a peer is up.
    PeerUp(OsdId),
    /// News of an object's lease.
    Lease { object: ObjectId, event: LeaseEvent },
    /// A sync is done.
    StoreDone {
        object: ObjectId,
        ticket: u64,
        result: Result<(), StoreError>,
    },
    /// The dataset of a placement group is there, or can't be made.
    GroupReady {
        group: PgKey,
        outcome: Result<(), String>,
    },
    /// A new picture of the cluster.
    Cluster(Arc<Cluster>),
    /// The copy here may be behind: bring it up to this change at least.
    Recover(ObjectKey, Position),
    /// Other copies are behind: become primary and bring them up.
    BringUp(ObjectKey),
    /// A scrub has looked at the copy here and wants something done.
    Scrub { key: ObjectKey, order: ScrubOrder },
    /// Which of these objects are in memory, and in what state.
    States {
        keys: Vec<ObjectKey>,
        /// Those that are in memory only count as suspect.
        strict: bool,
        answer: oneshot::Sender<Vec<peer::ObjectState>>,
    },
    /// What waits here.
    Stalls {
        limit: usize,
        batch: Arc<StallBatch>,
    },
    /// Give the lease of an object to another server.
    HandOver {
        object: ObjectId,
        to: OsdId,
        responder: Responder,
    },
    /// Make everything clean and release all leases; answered when done.
    Shutdown(oneshot::Sender<()>),
}

/// What happens when all of a list are deleted, or with the first fault.
pub(crate) type OnDeleted = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// A list of objects to delete, answered when all are.
pub(crate) struct DeleteBatch {
    left: AtomicUsize,
    outcome: Mutex<(Option<OnDeleted>, Option<Fault>)>,
}

impl std::fmt::Debug for DeleteBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeleteBatch").finish_non_exhaustive()
    }
}

impl DeleteBatch {
    pub(crate) fn new(count: usize, on_deleted: OnDeleted) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(count),
            outcome: Mutex::new((Some(on_deleted), None)),
        })
    }

    /// One that answers a request.
    pub(crate) fn answering(count: usize, responder: Responder) -> Arc<Self> {
        let answer = move |result| match result {
            Ok(()) => responder.ok(&osd::Response::default(), link::Payload::none()),
            Err(fault) => responder.fault(fault),
        };
        Self::new(count, Box::new(answer))
    }

    /// One of the objects is deleted, or can't be.
    pub(crate) fn done(&self, result: Result<(), Fault>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(fault) = result {
            outcome.1.get_or_insert(fault);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let result = outcome.1.take().map_or(Ok(()), Err);
        let on_deleted = outcome.0.take();
        drop(outcome);
        if let Some(on_deleted) = on_deleted {
            on_deleted(result);
        }
    }
}
