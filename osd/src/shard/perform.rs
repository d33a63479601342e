//! What a shard does for its replicas: the effects of their steps, in order.

use std::sync::Arc;

use osd_core::{Done, Effect, LeaseEvent, ObjectKey, Obstacle, RequestId, Role, expired};
use proto::{osd, peer};
use shell::clock::boottime;
use shell::link;
use types::{Fault, Instant, ObjectId, OsdId};

use super::{Shard, Waiting};
use crate::board::group_of;
use crate::config::COMPARE_COST_BYTES;
use crate::shard_item::Item;

impl Shard {
    pub(super) fn perform(&mut self, key: ObjectKey, effect: Effect) {
        let object = key.object;
        match effect {
            Effect::Reply {
                request,
                result,
                valid_until,
            } => self.reply(request, result, valid_until),
            Effect::AnswerPeer {
                answer,
                response,
                payload,
            } => {
                if let Some(responder) = self.peers.remove(&answer) {
                    responder.ok(&response, to_link(payload));
                }
            }
            Effect::Send {
                to,
                call,
                message,
                payload,
                timeout,
            } => self.send(object, to, call, &message, payload, timeout),
            Effect::Sync { ticket, job, lazy } => {
                let inbox = Arc::clone(&self.inbox);
                let on_done = move |result| {
                    inbox.deliver(Item::StoreDone {
                        object,
                        ticket,
                        result,
                    });
                };
                self.around.pool.submit(job, lazy, Box::new(on_done));
            }
            Effect::AcquireLease { newborn, floor } => match self.cluster.group(group_of(key)) {
                Some(pg) => {
                    self.around
                        .leases
                        .acquire(object.cell(), &pg.membership, floor, newborn)
                }
                None => self.inbox.deliver(Item::Lease {
                    object,
                    event: LeaseEvent::Denied(Obstacle::OldView),
                }),
            },
            Effect::ReleaseLease => self.around.leases.release(object.cell()),
            Effect::HandOverLease { to } => {
                tracing::info!(%key, %to, "lease handed over");
                self.around.leases.hand_over(object.cell(), to.into());
            }
            Effect::SetFloor { epoch } => self.around.leases.set_floor(object.cell(), epoch),
            Effect::Behind { replicas } => self.note_behind(key, &replicas),
            Effect::Recovered { position } => {
                tracing::debug!(%key, ?position, "copy brought up");
                self.around.board.brought_up(key, position);
            }
            Effect::NotRecovered => self.around.board.put_back(key),
            Effect::Damaged { block, mended_from } => {
                self.around.root.damage().note(key, block, mended_from);
            }
            Effect::TakenAsFound { block } => self.around.root.damage().note_taken(key, block),
            Effect::Deleted => {
                // Of what others keep this server may become a replica again.
                if !self.moved.remove(&object) {
                    self.tombstones.insert(object, boottime());
                }
                self.around.board.forget(key);
                self.drop_replica(object);
            }
        }
    }

    fn note_behind(&mut self, key: ObjectKey, replicas: &[OsdId]) {
        let Some(slot) = self.replicas.get_mut(&key.object) else {
            return;
        };
        slot.behind = !replicas.is_empty();
        self.around.board.note_behind(key, replicas);
    }

    fn send(
        &self,
        object: ObjectId,
        to: OsdId,
        call: osd_core::Call,
        message: &peer::Request,
        payload: osd_core::Payload,
        timeout: types::Duration,
    ) {
        let inbox = Arc::clone(&self.inbox);
        let cost = self.cost(object, message, &payload);
        let pacer = self.around.pacer.clone();
        let answer = move |reply: Result<_, _>| {
            let cost = cost.filter(|_| reply.is_ok());
            let deliver = move || {
                inbox.deliver(Item::PeerReply {
                    object,
                    from: to,
                    call,
                    reply,
                });
            };
            match cost {
                Some(cost) => pacer.submit(cost, deliver),
                None => deliver(),
            }
        };
        match self.cluster.links.get(&to) {
            Some(link) => link.send(
                message,
                to_link(payload),
                timeout.to_std(),
                move |outcome| {
                    answer(crate::peer::reply(outcome));
                },
            ),
            None => answer(Err(osd_core::PeerFailure::Disconnected)),
        }
    }

    /// What an answer costs that has to wait for its time, because it has more sent to a replica that
    /// neither a request waits for nor is the only other one. Counts what is sent.
    fn cost(
        &self,
        object: ObjectId,
        message: &peer::Request,
        payload: &osd_core::Payload,
    ) -> Option<u64> {
        let cost = match &message.op {
            Some(peer::request::Op::Repair(_)) => 0,
            Some(peer::request::Op::Sums(sums)) => u64::from(sums.block_count) * COMPARE_COST_BYTES,
            _ => return None,
        };
        let slot = self.replicas.get(&object);
        let safe = slot.is_some_and(|slot| {
            slot.replica.status().role == Role::Primary && slot.replica.complete_peers() > 0
        });
        if !payload.bytes.is_empty() {
            let bytes = payload.bytes.len() as u64;
            self.around.pacer.sent(bytes, safe);
        }
        safe.then_some(cost)
    }

    pub(super) fn reply(
        &mut self,
        request: RequestId,
        result: Result<Done, Fault>,
        valid_until: Option<Instant>,
    ) {
        let Some(waiting) = self.clients.remove(&request) else {
            return;
        };
        // The clock is read after the work and before the answer, or a pause would let it lie.
        let result = match valid_until {
            Some(until) if boottime() >= until => Err(expired()),
            Some(_) | None => result,
        };
        match waiting {
            Waiting::Delete(key, batch) => match result {
                Ok(_) => self.around.reaper.submit(
                    key,
                    Box::new(move |gone| batch.done(gone.map_err(not_removed))),
                ),
                Err(fault) => batch.done(Err(fault)),
            },
            Waiting::Client(responder, _share) => match result {
                Ok(done) => {
                    let response = osd::Response {
                        epoch: done.epoch,
                        seq: done.seq,
                        length_bytes: done.length_bytes,
                        offset: done.offset,
                        ..osd::Response::default()
                    };
                    responder.ok(&response, link::Payload::of(done.payload));
                }
                Err(fault) => responder.fault(fault),
            },
        }
    }
}

fn to_link(payload: osd_core::Payload) -> link::Payload {
    link::Payload {
        bytes: payload.bytes,
        crc32c: Some(payload.crc32c),
    }
}

fn not_removed(error: std::io::Error) -> Fault {
    Fault::surface(libc::EIO, format!("file of a deleted object: {error}"))
}
