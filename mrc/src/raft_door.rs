//! Raft's messages over links: the called side.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message as _;
use proto::raft::request::Op;
use proto::raft::{CheckpointEnd, Greeting, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shell::link::{Connection, Handler, Payload, Responder};
use tokio::sync::Semaphore;
use types::Fault;

use crate::checkpoint::{self, Receiving};
use crate::config::APPENDS_QUEUED_MAX;
use crate::consensus::{CheckpointMeta, Vote};
use crate::log_writer::lock;
use crate::member_change;
use crate::node::{Node, Silence, start};
use crate::state_machine::{Checkpoint, Snapshot};

/// Handles the service Raft.
pub(crate) struct RaftDoor {
    node: Arc<Node>,
    dir: PathBuf,
    silence: Silence,
    appends: Arc<Semaphore>,
    receiving: Arc<Mutex<Option<Transfer>>>,
}

/// The checkpoint that is coming in; a newer one replaces it.
struct Transfer {
    id: u64,
    vote: Vote,
    meta: CheckpointMeta,
    /// `None` while a part is being written.
    receiving: Option<Receiving>,
}

impl RaftDoor {
    pub(crate) fn new(node: Arc<Node>, dir: PathBuf, silence: Silence) -> Self {
        checkpoint::remove_leftovers(&dir);
        Self {
            node,
            dir,
            silence,
            appends: Arc::new(Semaphore::new(APPENDS_QUEUED_MAX)),
            receiving: Arc::default(),
        }
    }

    fn answer(
        &self,
        op: Op,
        payload: Payload,
        responder: Responder,
    ) -> Result<(), (Responder, Fault)> {
        let raft = self.node.raft.clone();
        macro_rules! ask {
            ($call:ident) => {{
                let rpc = match parse(payload) {
                    Ok(rpc) => rpc,
                    Err(fault) => return Err((responder, fault)),
                };
                tokio::spawn(async move { reply(responder, raft.$call(rpc).await) });
            }};
        }
        match op {
            Op::Append(_) => match parse(payload) {
                Ok(rpc) => {
                    // Dropped with its responder if there are too many: the leader repeats it.
                    if let Ok(permit) = Arc::clone(&self.appends).try_acquire_owned() {
                        // Raft gets them in the order of their arrival; answers may overtake.
                        start(async move {
                            reply(responder, raft.append_entries(rpc).await);
                            drop(permit);
                        });
                    }
                }
                Err(fault) => return Err((responder, fault)),
            },
            Op::Vote(_) | Op::PreVote(_) | Op::TransferLeader(_) if !self.silence.is_over() => {
                let fault = Fault::retry("this member restarted and keeps silent for a lease");
                return Err((responder, fault));
            }
            Op::Vote(_) => ask!(vote),
            Op::PreVote(_) => ask!(pre_vote),
            Op::TransferLeader(_) => ask!(handle_transfer_leader),
            Op::CheckpointBegin(begin) => {
                let head = match parse(payload) {
                    Ok(head) => head,
                    Err(fault) => return Err((responder, fault)),
                };
                self.begin(begin.transfer, head, responder);
            }
            Op::CheckpointPart(part) => self.part(part.transfer, part.number, payload, responder),
            Op::CheckpointEnd(end) => self.end(&end, responder),
            Op::Hello(_) => responder.ok(&self.greeting(), Payload::none()),
            Op::Join(join) => member_change::join(Arc::clone(&self.node), join, responder),
        }
        Ok(())
    }

    fn greeting(&self) -> Response {
        let (leader, leader_address) = self.node.leader().unwrap_or_default();
        let pristine = self.node.log.is_pristine();
        Response {
            greeting: Some(Greeting {
                id: self.node.me.id,
                number: self.node.log.number(),
                pristine,
                pid: u64::from(std::process::id()),
                dir: self.dir.display().to_string(),
                state: self.node.state().to_owned(),
                leader: leader.id,
                leader_address,
                fresh: self.node.is_fresh(),
            }),
            joined: false,
        }
    }

    fn begin(&self, id: u64, (vote, meta): (Vote, CheckpointMeta), responder: Responder) {
        let (dir, slot) = (self.dir.clone(), Arc::clone(&self.receiving));
        tokio::task::spawn_blocking(move || match Receiving::begin(&dir, id) {
            Ok(receiving) => {
                *lock(&slot) = Some(Transfer {
                    id,
                    vote,
                    meta,
                    receiving: Some(receiving),
                });
                reply_ok(responder, &());
            }
            Err(error) => responder.fault(Fault::retry(error.to_string())),
        });
    }

    fn part(&self, id: u64, number: u64, payload: Payload, responder: Responder) {
        let slot = Arc::clone(&self.receiving);
        let taken = lock(&slot)
            .as_mut()
            .filter(|transfer| transfer.id == id)
            .and_then(|transfer| transfer.receiving.take());
        let Some(mut receiving) = taken else {
            return responder.fault(Fault::retry("another checkpoint is coming in"));
        };
        tokio::task::spawn_blocking(move || {
            let added = payload.verified().and_then(|part| {
                let added = receiving.add(number, &part);
                added.map_err(|error| Fault::retry(error.to_string()))
            });
            if let Some(transfer) = lock(&slot).as_mut().filter(|transfer| transfer.id == id) {
                transfer.receiving = Some(receiving);
            }
            match added {
                Ok(()) => responder.ok(&Response::default(), Payload::none()),
                Err(fault) => responder.fault(fault),
            }
        });
    }

    fn end(&self, end: &CheckpointEnd, responder: Responder) {
        let taken = lock(&self.receiving).take_if(|transfer| transfer.id == end.transfer);
        let raft = self.node.raft.clone();
        let Some(transfer) = taken else {
            return responder.fault(Fault::retry("another checkpoint is coming in"));
        };
        let received = transfer
            .receiving
            .ok_or_else(|| std::io::Error::other("a part is still being written"))
            .and_then(|receiving| receiving.end(end.parts, end.crc32c));
        let received = match received {
            Ok(received) => received,
            Err(error) => return responder.fault(Fault::retry(error.to_string())),
        };
        let snapshot = Snapshot {
            meta: transfer.meta,
            snapshot: Checkpoint::Received(received),
        };
        tokio::spawn(async move {
            reply(
                responder,
                raft.install_full_snapshot(transfer.vote, snapshot).await,
            );
        });
    }
}

impl Handler for RaftDoor {
    fn request(
        &self,
        _from: &Arc<Connection>,
        body: Bytes,
        payload: Payload,
        responder: Responder,
    ) {
        let request = match Request::decode(body) {
            Ok(request) => request,
            Err(error) => return responder.fault(Fault::surface(libc::EPROTO, error.to_string())),
        };
        if request.target != 0 && request.target != self.node.log.number() {
            let text = "this message is for a member that lost its directory";
            return responder.fault(Fault::surface(libc::ESTALE, text));
        }
        let Some(op) = request.op else {
            let text = "unknown request; run the same release on all machines";
            return responder.fault(Fault::surface(libc::EPROTO, text));
        };
        if let Err((responder, fault)) = self.answer(op, payload, responder) {
            responder.fault(fault);
        }
    }
}

fn parse<T: DeserializeOwned>(payload: Payload) -> Result<T, Fault> {
    let bytes = payload.verified()?;
    postcard::from_bytes(&bytes).map_err(|error| {
        Fault::surface(
            libc::EPROTO,
            format!("undecodable message ({error}); run the same release on all machines"),
        )
    })
}

fn reply<E: std::fmt::Display>(responder: Responder, result: Result<impl Serialize, E>) {
    match result {
        Ok(body) => reply_ok(responder, &body),
        Err(error) => responder.fault(Fault::retry(error.to_string())),
    }
}

fn reply_ok(responder: Responder, body: &impl Serialize) {
    match postcard::to_stdvec(body) {
        Ok(bytes) => responder.ok(&Response::default(), Payload::of(bytes.into())),
        Err(error) => responder.fault(Fault::retry(error.to_string())),
    }
}
