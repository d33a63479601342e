//! Making changes stable on a quorum: for an fsync, and with the policy `fullsync` for every change.
//!
//! One round at a time. What is asked for or made meanwhile waits for the next round, which serves all
//! of it with one sync of each disk.

use types::{Instant, WritePolicy};

use crate::durable::{Need, Who};
use crate::event::{CallKind, Payload, RequestId};
use crate::mutant::Mutant;
use crate::replica::{ObjectReplica, Step};
use proto::peer;
use proto::peer::request::Op;

/// Syncs under way.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    waiting: Vec<Waiter>,
    /// The newest change that is on its way to the disks.
    round: Option<u64>,
}

#[derive(Debug)]
struct Waiter {
    request: RequestId,
    seq: u64,
    deadline: Instant,
}

impl Syncs {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Everybody is asked anew where they are, and this copy may only come to exist: what is still wanted
    /// needs another round.
    pub(crate) const fn abandon_round(&mut self) {
        self.round = None;
    }

    pub(crate) fn into_requests(self) -> impl Iterator<Item = RequestId> {
        self.waiting.into_iter().map(|waiter| waiter.request)
    }

    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<RequestId> {
        let expired = self.waiting.extract_if(.., |waiter| waiter.deadline <= now);
        expired.map(|waiter| waiter.request).collect()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiter| waiter.deadline).min()
    }
}

impl ObjectReplica {
    pub(crate) fn sync_client(
        &mut self,
        step: &mut Step<'_>,
        request: RequestId,
        deadline: Instant,
    ) {
        let seq = self.copy.position.seq;
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        tenure.syncs.waiting.push(Waiter {
            request,
            seq,
            deadline,
        });
        self.answer_synced(step);
        self.start_round(step);
    }

    /// Begins a round if somebody waits for one and none is under way.
    pub(crate) fn start_round(&mut self, step: &mut Step<'_>) {
        let seq = self.copy.position.seq;
        let fullsync = self.writes(WritePolicy::Fullsync);
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let unanswered = !tenure.changes.is_empty() || !tenure.held.is_empty();
        let wanted = fullsync && unanswered || !tenure.syncs.waiting.is_empty();
        if !wanted || !tenure.is_serving() || tenure.syncs.round.is_some() {
            return;
        }
        tenure.syncs.round = Some(seq);
        let position = tenure.position(seq);
        self.sync_peers(step);
        if self.copy.exists {
            self.durable.want(Need::Position(position), Who::Own);
        } else {
            self.answer_synced(step);
        }
    }

    pub(crate) fn send_sync(
        &mut self,
        step: &mut Step<'_>,
        index: usize,
        (seq, clean): (u64, bool),
    ) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if let Some(peer) = tenure.peers.get_mut(index) {
            peer.asked_sync = Some(seq);
        }
        if let Some(peer) = tenure.peers.get(index) {
            let call = (
                CallKind::Sync { seq, clean },
                Op::Sync(peer::Sync { seq, clean }),
            );
            let timeout = self.config.step_timeout;
            tenure.send(peer, call, Payload::default(), timeout, step.effects);
        }
    }

    /// Has the replicas take part in the round that are not at a sync: those that joined meanwhile, too.
    /// One with a slow disk is not asked again before it answered, and then for all there is.
    pub(crate) fn sync_peers(&mut self, step: &mut Step<'_>) {
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        let Some(round) = tenure.syncs.round else {
            return;
        };
        let behind = |peer: &crate::peer_state::Peer| {
            let free = peer.asked_sync <= peer.durable;
            peer.is_joined() && peer.durable < Some(round) && free
        };
        let behind: Vec<_> = (0..tenure.peers.len())
            .filter(|index| tenure.peers.get(*index).is_some_and(behind))
            .collect();
        for index in behind {
            self.send_sync(step, index, (round, false));
        }
    }

    /// A peer says that everything up to `seq` is stable there.
    pub(crate) fn peer_synced(
        &mut self,
        step: &mut Step<'_>,
        index: usize,
        (seq, clean): (u64, bool),
    ) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if let Some(peer) = tenure.peers.get_mut(index) {
            peer.durable = peer.durable.max(Some(seq));
            peer.is_clean |= clean;
        }
        self.answer_synced(step);
        self.sync_peers(step);
        self.check_closed(step);
    }

    /// This server's record changed on disk.
    pub(crate) fn own_record_changed(&mut self, step: &mut Step<'_>) {
        let promised = self.copy.promised;
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        if self.is_writable() && promised == tenure.promise {
            self.disk_patience = self.config.backup_timeout;
            self.answer_myself(step);
        }
        self.answer_synced(step);
        self.check_closed(step);
    }

    /// The newest change that is stable here, in this tenure.
    fn own_durable(&self) -> Option<u64> {
        let tenure = self.tenure.as_ref()?;
        let stable = self.copy.record.position;
        if !self.copy.exists {
            // Nothing is there that could be lost.
            return Some(self.copy.position.seq);
        }
        let mine = stable.epoch == tenure.promise.epoch && stable.holder == self.me;
        mine.then_some(stable.seq)
    }

    /// The newest change that is stable on a quorum.
    pub(crate) fn stable(&self) -> Option<u64> {
        let own = self.own_durable();
        let tenure = self.tenure.as_ref()?;
        match self.config.has(Mutant::SyncOfOne) {
            true => own,
            false => tenure.reached(self.quorum(), own, |peer| peer.durable),
        }
    }

    /// Answers the syncs and changes that a quorum has served, and starts the next round.
    pub(crate) fn answer_synced(&mut self, step: &mut Step<'_>) {
        let stable = self.stable();
        let (Some(tenure), Some(stable)) = (self.tenure.as_mut(), stable) else {
            return;
        };
        if tenure.syncs.round.is_some_and(|round| round <= stable) {
            tenure.syncs.round = None;
        }
        let served = tenure
            .syncs
            .waiting
            .extract_if(.., |waiter| waiter.seq <= stable);
        let requests: Vec<_> = served.map(|waiter| waiter.request).collect();
        for request in requests {
            let done = self.done(0, bytes::Bytes::new());
            let deadline = step.now;
            self.reply_after(step, None, (request, deadline), done);
        }
        self.commit(step);
        self.start_round(step);
    }
}
