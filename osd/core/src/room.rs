//! Full disks: a majority with room is enough, and what none has room for leaves nothing behind.
//!
//! A primary without room leaves the object to a replica that has some; a backup without room stays behind
//! until it has. When a majority lacks room, the program is told, and changes that added to the object's
//! end are undone by changes that cut it again: they are part of the history, so every replica
//! that has one has, or will have, the other.

use types::{Fault, OsdId, Quorum};

use crate::copy::Change;
use crate::event::{CallKind, Done, Effect, Payload};
use crate::faults;
use crate::mutant::Mutant;
use crate::peer_state::PeerState;
use crate::record::{Mark, Marked};
use crate::replica::{ObjectReplica, Step};
use crate::tenure::{Pending, Tenure, Undo};
use crate::waiting::Queued;
use proto::peer;

impl Tenure {
    /// Whether so many replicas lack room that the rest is no quorum.
    pub(crate) fn lacks_room(&self, quorum: Quorum) -> bool {
        let is_full = |osd| match self.peers.iter().find(|peer| peer.id == osd) {
            Some(peer) => peer.is_full,
            None => self.is_full,
        };
        !self.replicas.is_quorum(quorum, |osd| !is_full(osd))
    }

    /// The same by what replicas say, also those that were not asked to take anything.
    fn is_said_to_lack_room(&self, quorum: Quorum) -> bool {
        let is_full = |osd| match self.peers.iter().find(|peer| peer.id == osd) {
            Some(peer) => peer.is_full || peer.reports_full,
            None => self.is_full,
        };
        !self.replicas.is_quorum(quorum, |osd| !is_full(osd))
    }

    /// A replica that can take the object over and has room.
    fn roomy_peer(&self) -> Option<OsdId> {
        let roomy = self.peers.iter().find(|peer| {
            let answered = peer.is_joined() || matches!(peer.state, PeerState::Answered(_));
            let may = self.replicas.is_current(peer.id);
            may && answered && peer.connected && !peer.is_full && !peer.reports_full
        });
        roomy.map(|peer| peer.id)
    }
}

impl ObjectReplica {
    /// Takes note that this server's store has no room.
    pub(crate) fn note_full(&mut self) {
        if let Some(tenure) = self.tenure.as_mut() {
            tenure.is_full = true;
        }
    }

    /// Takes note of what a peer says of its room.
    pub(crate) fn note_peer_room(&mut self, index: usize, response: &peer::Response) {
        let tenure = self.tenure.as_mut();
        if let Some(peer) = tenure.and_then(|tenure| tenure.peers.get_mut(index)) {
            peer.reports_full = response.full;
            peer.is_full &= response.full;
        }
    }

    /// Whether a change would need room that is known to be missing at a majority. Whoever lacked it is asked
    /// whether that is still so.
    pub(crate) fn lacks_room_for(&mut self, step: &mut Step<'_>, change: &Change) -> bool {
        let Change::Write { offset, data } = change else {
            return false;
        };
        let grows = offset + data.len() as u64 > self.copy.length_bytes;
        let quorum = self.quorum();
        let timeout = self.config.step_timeout;
        let pause = self.config.catch_up_retry;
        let Some(tenure) = self.tenure.as_mut() else {
            return false;
        };
        if !grows || !tenure.lacks_room(quorum) {
            return false;
        }
        if tenure
            .asked_for_room
            .is_none_or(|at| at + pause <= step.now)
        {
            tenure.asked_for_room = Some(step.now);
            // Every answer says so; this one says nothing else.
            let nothing = peer::Sums::default();
            for peer in tenure.peers.iter().filter(|peer| peer.is_joined()) {
                let call = (
                    CallKind::Sums { first: 0 },
                    peer::request::Op::Sums(nothing),
                );
                tenure.send(peer, call, Payload::default(), timeout, step.effects);
            }
        }
        true
    }

    /// If this server has no room: leaves the object to a replica that has, or tells whoever waits that too
    /// many have none.
    pub(crate) fn leave_for_room(&mut self, step: &mut Step<'_>) {
        let quorum = self.quorum();
        let Some(tenure) = self.tenure.as_mut().filter(|tenure| tenure.is_full) else {
            return;
        };
        let serving = tenure.is_serving();
        if serving && !self.waiting.front().is_some_and(Queued::is_change) {
            tenure.is_full = false;
        } else if tenure.lacks_room(quorum) {
            self.refuse_for_room(step);
            if let Some(tenure) = self.tenure.as_mut() {
                // The next change shows whether that is still so.
                tenure.is_full = false;
            }
            if !serving {
                self.leave(step, |_| faults::no_space());
                self.step_down(step, true);
            }
        } else if let Some(to) = tenure.roomy_peer() {
            self.step_down(step, false);
            step.effects.push(Effect::HandOverLease { to });
            self.leave(step, |_| faults::redirect(to));
        } else if serving && tenure.is_said_to_lack_room(quorum) {
            // What did not fit here was sent to nobody, so nobody else can refuse it; and nobody takes over.
            tenure.is_full = false;
            for request in self.waiting.take_changes() {
                step.refuse(request, faults::no_space());
            }
        }
    }

    fn leave(&mut self, step: &mut Step<'_>, fault: impl Fn(&Queued) -> Fault) {
        self.bring_up = false;
        while let Some(queued) = self.waiting.pop() {
            step.refuse(queued.request, fault(&queued));
        }
    }

    /// With too many full disks no change gets its quorum: programs learn that at once, and nothing that
    /// was added stays.
    pub(crate) fn refuse_for_room(&mut self, step: &mut Step<'_>) {
        let quorum = self.quorum();
        let full = |tenure: &&mut Tenure| tenure.lacks_room(quorum);
        let Some(tenure) = self.tenure.as_mut().filter(full) else {
            return;
        };
        let mut undone = Vec::with_capacity(tenure.changes.len());
        for change in &mut tenure.changes {
            if let Some(request) = change.request.take() {
                step.refuse(request, faults::no_space());
            }
            undone.push(change.undo.take());
        }
        // They may have seen what is about to be undone.
        for held in tenure.held.drain(..) {
            step.refuse(held.request, faults::no_quorum());
        }
        for request in self.waiting.take_changes() {
            step.refuse(request, faults::no_space());
        }
        // From the newest back to the first that can't be undone.
        for undo in undone.into_iter().rev().map_while(|undo| undo) {
            if !self.undo(step, undo) {
                return;
            }
        }
    }

    /// Cuts off what a change added to the object's end, by another change.
    fn undo(&mut self, step: &mut Step<'_>, undo: Undo) -> bool {
        let before = self.copy.length_bytes;
        let Some(tenure) = self.tenure.as_mut() else {
            return false;
        };
        if before <= undo.length_bytes || self.config.has(Mutant::RefusedStays) {
            return true;
        }
        // Whoever lacked room for it needs none now.
        for peer in tenure.peers.iter_mut().filter(|peer| peer.is_full) {
            if peer.is_behind() && peer.connected {
                peer.leave_behind(step.now);
            }
        }
        let position = tenure.position(self.copy.position.seq + 1);
        let length_bytes = undo.length_bytes;
        let change = Change::Truncate { length_bytes };
        let newest = |mark: Mark| Mark {
            change_id: self.copy.marks.of(mark.session).change_id,
            ..mark
        };
        let marked = Marked {
            mark: newest(undo.marked.mark),
            earlier: newest(undo.marked.earlier),
        };
        let store = &mut *step.store;
        if self.copy.apply(position, &change, marked, store).is_err() {
            self.fail(step);
            return false;
        }
        self.send_change(step, &change, (before, marked), Payload::default());
        true
    }

    /// Makes what a write without space has done undone, or a change like any other where it replaced
    /// something: the replicas stay equal.
    pub(crate) fn take_back(
        &mut self,
        step: &mut Step<'_>,
        change: &Change,
        (before, written_bytes): (u64, u64),
    ) {
        let Change::Write { offset, data } = change else {
            return;
        };
        if self.copy.set_length(before, &mut *step.store).is_err() {
            self.fail(step);
            return;
        }
        let replaced = before.saturating_sub(*offset).min(written_bytes);
        let replaced = usize::try_from(replaced).unwrap_or(usize::MAX);
        if replaced > 0 {
            let change = Change::Write {
                offset: *offset,
                data: data.slice(..replaced.min(data.len())),
            };
            self.share_done(step, change, before);
        }
    }

    /// Makes a change of what was done here already, when the object was `before` bytes long.
    pub(crate) fn share_done(&mut self, step: &mut Step<'_>, change: Change, before: u64) {
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        let position = tenure.position(self.copy.position.seq + 1);
        let payload = match &change {
            Change::Write { data, .. } => Payload::of(data.clone()),
            Change::Truncate { .. } => Payload::default(),
        };
        // The bytes are there already; only the position moves.
        self.copy.position = position;
        self.copy.recent.push(position, change.span(before));
        self.send_change(step, &change, (before, Marked::default()), payload);
    }

    /// Replicates the newest change of this copy, which nobody asked for.
    fn send_change(
        &mut self,
        step: &mut Step<'_>,
        change: &Change,
        (before, marked): (u64, Marked),
        payload: Payload,
    ) {
        let seq = self.copy.position.seq;
        let (start, end) = change.span(before);
        self.replicate_change(step, seq, change, marked, payload);
        if let Some(tenure) = self.tenure.as_mut() {
            tenure.changes.push_back(Pending {
                seq,
                request: None,
                done: Done::default(),
                deadline: step.now,
                start,
                end,
                bytes: change.bytes(),
                undo: None,
            });
        }
        self.commit(step);
    }
}
