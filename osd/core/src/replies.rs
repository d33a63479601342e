//! What becomes of a peer's answers. Answers of earlier attempts and of earlier leases are ignored.

use types::OsdId;

use crate::copy::Answer;
use crate::event::{Call, CallKind, Payload, PeerFailure};
use crate::faults;
use crate::peer_state::PeerState;
use crate::replica::{ObjectReplica, Step};
use proto::peer;
use proto::peer::Refusal;
use proto::peer::response::Reply;

impl ObjectReplica {
    pub(crate) fn peer_reply(
        &mut self,
        step: &mut Step<'_>,
        from: OsdId,
        call: Call,
        reply: Result<(peer::Response, Payload), PeerFailure>,
    ) {
        if call.kind == CallKind::WantCatchUp {
            self.catch_up_answered(step, from, reply);
            return;
        }
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        let Some(index) = tenure.peer_index(from) else {
            return;
        };
        let current = tenure.peers.get(index).map(|peer| peer.attempt);
        if call.epoch != tenure.promise.epoch || current != Some(call.attempt) {
            return;
        }
        match reply {
            Ok((response, payload)) => self.answered(step, index, call.kind, response, payload),
            Err(failure) => {
                if failure == PeerFailure::Disconnected {
                    self.peer_lost(step, from);
                } else {
                    self.leave_behind(step, index);
                }
                self.call_failed(step, from, call.kind);
            }
        }
    }

    fn answered(
        &mut self,
        step: &mut Step<'_>,
        index: usize,
        kind: CallKind,
        response: peer::Response,
        payload: Payload,
    ) {
        let Some(from) = self.peer_id(index) else {
            return;
        };
        self.note_peer_room(index, &response);
        match (kind, response.reply) {
            (_, Some(Reply::Refused(refused))) => {
                let promised = response.promised_epoch;
                let refusal = refused.refusal();
                self.refused(step, index, (kind, refusal), promised, response.view);
            }
            (CallKind::Activate, Some(Reply::Activated(activated))) => {
                self.activated(step, index, Answer::from_message(activated));
            }
            (CallKind::Replicate { .. }, Some(Reply::Replicated(replicated))) => {
                self.peer_applied(step, index, replicated.seq);
            }
            (CallKind::Sync { seq, clean }, Some(Reply::Synced(synced))) if synced.seq >= seq => {
                self.peer_synced(step, index, (seq, clean));
            }
            (CallKind::Sums { first }, Some(Reply::BlockSums(sums))) => {
                if sums.sums.len() > crate::config::SUMS_WINDOW as usize {
                    self.malformed_reply(step, index);
                } else if self.is_catching_up(index) {
                    self.peer_sums(step, index, first, &sums);
                } else {
                    self.source_sums(step, (from, first), &sums);
                }
            }
            (CallKind::Fetch { offset }, Some(Reply::Fetched(_))) => {
                if self.is_mending(from, offset) {
                    self.mended(step, &payload.bytes);
                } else {
                    self.source_block(step, (from, offset), &payload.bytes);
                }
            }
            (CallKind::Begin, Some(Reply::CaughtUp(_))) => {}
            (CallKind::Repair { .. }, Some(Reply::CaughtUp(_))) => self.peer_repaired(step, index),
            (CallKind::Adopt, Some(Reply::CaughtUp(_))) => self.peer_adopted(step, index),
            _ => self.malformed_reply(step, index),
        }
    }

    fn malformed_reply(&mut self, step: &mut Step<'_>, index: usize) {
        self.malformed += 1;
        self.leave_behind(step, index);
    }

    fn peer_id(&self, index: usize) -> Option<OsdId> {
        Some(self.tenure.as_ref()?.peers.get(index)?.id)
    }

    fn is_catching_up(&self, index: usize) -> bool {
        let peer = self
            .tenure
            .as_ref()
            .and_then(|tenure| tenure.peers.get(index));
        peer.is_some_and(|peer| matches!(peer.state, PeerState::CatchingUp(_)))
    }

    fn refused(
        &mut self,
        step: &mut Step<'_>,
        index: usize,
        (kind, refusal): (CallKind, Refusal),
        promised: u64,
        view: u64,
    ) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let epoch = tenure.promise.epoch;
        let Some(peer) = tenure.peers.get_mut(index) else {
            return;
        };
        let from = peer.id;
        match refusal {
            Refusal::OldEpoch if promised >= epoch => {
                self.outdated(step, promised);
                return;
            }
            Refusal::OldView if view > self.membership.view => {
                // The new replica set is on its way; until then this lease is good for nothing.
                self.step_down(step, true);
                return;
            }
            Refusal::Deleted => {
                self.deleted_elsewhere(step);
                return;
            }
            Refusal::Gap => {
                // It is not where it was thought to be: find out, at once unless that just happened.
                let retry_at = match kind {
                    CallKind::Fetch { .. } => step.now + self.config.catch_up_retry,
                    _ => peer.attempted_at + self.config.catch_up_retry,
                };
                peer.leave_behind(retry_at);
                self.retry_peers(step);
            }
            Refusal::Corrupt => {
                let mending = match kind {
                    CallKind::Fetch { offset } => self.is_mending(from, offset),
                    _ => true,
                };
                if !mending {
                    self.source_damaged(step, from);
                    return;
                }
                self.mend_refused();
            }
            Refusal::NoSpace => {
                peer.is_full = true;
                self.leave_behind(step, index);
                self.refuse_for_room(step);
            }
            _ => self.leave_behind(step, index),
        }
        self.call_failed(step, from, kind);
    }

    /// The metadata cluster has told others that the object is garbage.
    fn deleted_elsewhere(&mut self, step: &mut Step<'_>) {
        self.bring_up = false;
        self.step_down(step, true);
        while let Some(queued) = self.waiting.pop() {
            step.refuse(queued.request, faults::deleted());
        }
    }

    /// What depended on a call looks for another way.
    fn call_failed(&mut self, step: &mut Step<'_>, from: OsdId, kind: CallKind) {
        match kind {
            CallKind::Fetch { offset } if self.is_mending(from, offset) => {
                self.mend_from_next(step);
            }
            CallKind::Fetch { .. } | CallKind::Sums { .. } => self.source_failed(step, from),
            CallKind::Activate => {
                self.check_newborn(step);
                self.try_decide(step);
            }
            _ => {}
        }
        self.check_closed(step);
    }

    /// Goes on without a peer until the next attempt.
    pub(crate) fn leave_behind(&mut self, step: &mut Step<'_>, index: usize) {
        let serving = self
            .tenure
            .as_ref()
            .is_some_and(|tenure| tenure.is_serving());
        let config = &self.config;
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if let Some(peer) = tenure.peers.get_mut(index) {
            // A full disk is not emptied that fast.
            let pause = match (peer.connected || !serving) && !peer.is_full {
                true => config.catch_up_retry,
                false => config.absent_retry,
            };
            peer.leave_behind(step.now + pause);
        }
    }

    pub(crate) fn peer_lost(&mut self, step: &mut Step<'_>, id: OsdId) {
        if self.membership.replicas.contains(id) {
            self.leasing.lost_peer(id);
        }
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let Some(index) = tenure.peer_index(id) else {
            return;
        };
        if let Some(peer) = tenure.peers.get_mut(index) {
            peer.connected = false;
        }
        self.leave_behind(step, index);
        self.source_failed(step, id);
        self.mend_source_lost(step, id);
        self.check_closed(step);
        self.check_newborn(step);
    }

    pub(crate) fn peer_up(&mut self, step: &mut Step<'_>, id: OsdId) {
        self.leasing.found_peer(id);
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let Some(index) = tenure.peer_index(id) else {
            return;
        };
        if let Some(peer) = tenure.peers.get_mut(index) {
            peer.connected = true;
            if peer.is_behind() {
                peer.leave_behind(step.now);
            }
        }
        self.retry_peers(step);
    }
}
