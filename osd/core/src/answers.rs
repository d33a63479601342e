//! What peers are told, at once or when the disk is done.

use proto::peer;
use proto::peer::Refusal;
use proto::peer::response::Reply;

use crate::durable::Who;
use crate::event::{AnswerId, Effect, Payload};
use crate::position::{NEWBORN_EPOCH_MAX, Position};
use crate::replica::{ObjectReplica, Step};

impl ObjectReplica {
    pub(crate) fn my_answer(&self, asker: Option<Position>) -> peer::Activated {
        let answer = self.copy.answer(&self.membership, asker);
        answer.to_message(self.copy.record.position)
    }

    /// Tells a peer that what it waited for is on disk.
    pub(crate) fn answer_durable(&mut self, step: &mut Step<'_>, who: Who) {
        match who {
            Who::Activate { answer, asker, .. } => {
                let reply = Reply::Activated(self.my_answer(asker));
                self.answer(step, answer, reply, Payload::default());
            }
            Who::Sync { answer } => {
                let seq = self.copy.record.position.seq;
                let reply = Reply::Synced(peer::Synced { seq });
                self.answer(step, answer, reply, Payload::default());
            }
            Who::Recovery => self.finish_recovery(step),
            Who::Own => {}
        }
    }

    /// Tells a peer that what it waited for will not be.
    pub(crate) fn refuse_durable(&mut self, step: &mut Step<'_>, who: Who, refusal: Refusal) {
        match who {
            Who::Activate { answer, .. } | Who::Sync { answer } => {
                self.refuse_peer(step, answer, refusal);
            }
            Who::Own | Who::Recovery => {}
        }
    }

    pub(crate) fn answer(
        &self,
        step: &mut Step<'_>,
        answer: AnswerId,
        reply: Reply,
        payload: Payload,
    ) {
        step.effects.push(Effect::AnswerPeer {
            answer,
            response: peer::Response {
                promised_epoch: self.copy.promised.epoch,
                promised_holder: self.copy.promised.holder.0,
                view: self.membership.view,
                full: step.store.is_full(),
                reply: Some(reply),
            },
            payload,
        });
    }

    pub(crate) fn refuse_peer(&self, step: &mut Step<'_>, answer: AnswerId, refusal: Refusal) {
        let promised = self.copy.promised;
        let holder = self.leasing.holder(step.now);
        let (epoch, holder) = match refusal {
            // A newborn object's epoch is refused by whoever has heard of the object at all.
            Refusal::OldEpoch => (promised.epoch.max(NEWBORN_EPOCH_MAX), promised.holder.0),
            Refusal::NotPrimary => (0, holder.map_or(0, |holder| holder.0)),
            _ => (promised.epoch, promised.holder.0),
        };
        step.effects.push(Effect::AnswerPeer {
            answer,
            response: peer::Response {
                promised_epoch: epoch,
                promised_holder: holder,
                view: self.membership.view,
                full: refusal == Refusal::NoSpace || step.store.is_full(),
                reply: Some(Reply::Refused(peer::Refused {
                    refusal: refusal.into(),
                    have_seq: self.copy.position.seq,
                    message: String::new(),
                })),
            },
            payload: Payload::default(),
        });
    }
}

/// What a shell answers peers that ask for an object it has a tombstone of.
#[must_use]
pub fn deleted_response(view: u64) -> peer::Response {
    peer::Response {
        view,
        reply: Some(Reply::Refused(peer::Refused {
            refusal: Refusal::Deleted.into(),
            ..peer::Refused::default()
        })),
        ..peer::Response::default()
    }
}
