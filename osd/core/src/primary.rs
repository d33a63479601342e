//! Serving clients: reads under the lease, changes through a quorum.

use types::{Fault, Instant, SessionId, WritePolicy};

use bytes::Bytes;

use crate::config::{IN_FLIGHT_MAX, READ_BYTES_MAX};
use crate::copy::Change;
use crate::event::{CallKind, ChangeOrder, Done, Effect, Op, Payload, RequestId};
use crate::faults;
use crate::mutant::Mutant;
use crate::record::{Mark, Marked};
use crate::replica::{ObjectReplica, Step};
use crate::store::StoreError;
use crate::tenure::{Held, Pending, Phase, Tenure, Undo};
use crate::waiting::Queued;
use proto::peer;

/// Whether a request was dealt with, or has to wait in the queue.
enum Progress {
    Done,
    Wait(Queued),
}

/// Whether a change may be made.
enum Turn {
    Now,
    /// It was made before; the newest mark that says so.
    Over(Mark),
    /// Not in this attempt.
    Never(Fault),
}

impl ObjectReplica {
    /// Does the waiting requests that can be done, in their order.
    pub(crate) fn drain(&mut self, step: &mut Step<'_>) {
        while let Some(front) = self.waiting.front() {
            let change = front.is_change();
            let Some(tenure) = self.tenure.as_ref() else {
                return;
            };
            if matches!(tenure.phase, Phase::Closing { .. }) {
                self.reopen(step);
                return;
            }
            let ready = match tenure.phase {
                Phase::Serving => tenure.mending.is_none() && !(change && tenure.is_full),
                // Changes of a new object need not wait for it to be confirmed: they count only
                // when it is.
                // Whoever knows of acknowledged changes has to wait: the object is not new then.
                Phase::BringingUp { .. } => {
                    let unheard_of = front.op.follows() == 0;
                    change && tenure.newborn && tenure.writable && unheard_of
                }
                Phase::Asking { .. } | Phase::Fetching(_) | Phase::Closing { .. } => false,
            };
            if !ready {
                return;
            }
            if change && !tenure.writable {
                self.ask(step, false);
                return;
            }
            let Some(queued) = self.waiting.pop() else {
                return;
            };
            if let Progress::Wait(queued) = self.execute(step, queued) {
                self.waiting.push_front(queued);
                return;
            }
        }
    }

    fn execute(&mut self, step: &mut Step<'_>, queued: Queued) -> Progress {
        let lost = self.copy.marks.lack(queued.session, queued.op.follows());
        if lost && !self.config.has(Mutant::LossesUnnoticed) {
            // No majority has what a majority had acknowledged. That is true only while nobody else can
            // be primary: whoever was frozen for long knows nothing of what was acknowledged since.
            step.effects.push(Effect::Reply {
                request: queued.request,
                result: Err(Fault::changes_lost()),
                valid_until: self.tenure.as_ref().map(|tenure| tenure.until),
            });
            return Progress::Done;
        }
        match queued.op {
            Op::Read {
                offset,
                length_bytes,
            } => self.read(step, queued, offset, length_bytes),
            Op::Write { .. } | Op::Truncate { .. } => self.change(step, queued),
            Op::Sync { .. } => {
                self.sync_client(step, queued.request, queued.deadline);
                Progress::Done
            }
            Op::Seek { offset, hole } => {
                self.seek(step, &queued, offset, hole);
                Progress::Done
            }
            Op::Stat => {
                let done = self.done(0, Bytes::new());
                let newest = self.newest_pending();
                self.reply_after(step, newest, (queued.request, queued.deadline), done);
                Progress::Done
            }
        }
    }

    pub(crate) fn done(&self, offset: u64, payload: Bytes) -> Done {
        Done {
            epoch: self.copy.promised.epoch,
            seq: self.copy.position.seq,
            length_bytes: self.copy.length_bytes,
            offset,
            payload,
        }
    }

    /// The newest change that is not committed, which whoever looks at the whole object must wait for.
    fn newest_pending(&self) -> Option<u64> {
        let tenure = self.tenure_to_wait_in()?;
        tenure.changes.back().map(|change| change.seq)
    }

    /// Answers when the change `seq` (if any) is committed.
    pub(crate) fn reply_after(
        &mut self,
        step: &mut Step<'_>,
        seq: Option<u64>,
        (request, deadline): (RequestId, Instant),
        done: Done,
    ) {
        let Some(tenure) = self.tenure.as_mut() else {
            step.refuse(request, faults::lease_lost());
            return;
        };
        match seq {
            Some(seq) => tenure.held.push(Held {
                seq,
                request,
                done,
                deadline,
            }),
            None => {
                let until = tenure.until;
                self.reply(step, request, done, until);
            }
        }
    }

    pub(crate) fn reply(
        &self,
        step: &mut Step<'_>,
        request: RequestId,
        done: Done,
        until: Instant,
    ) {
        let unchecked = self.config.has(Mutant::LeaseCheckedBefore);
        step.effects.push(Effect::Reply {
            request,
            result: Ok(done),
            valid_until: (!unchecked).then_some(until),
        });
    }

    fn read(
        &mut self,
        step: &mut Step<'_>,
        queued: Queued,
        offset: u64,
        length_bytes: u32,
    ) -> Progress {
        if length_bytes > READ_BYTES_MAX {
            step.refuse(queued.request, faults::read_too_long(length_bytes));
            return Progress::Done;
        }
        let read = match self.copy.exists {
            true => step.store.read(self.key, offset, length_bytes),
            false => Ok(Bytes::new()),
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(StoreError::Corrupt { block }) => {
                self.mend(step, block, Some(queued));
                return Progress::Done;
            }
            Err(_) => {
                self.fail(step);
                step.refuse(queued.request, faults::elsewhere());
                return Progress::Done;
            }
        };
        let seq = self.newest_seen(offset, length_bytes, bytes.len());
        let done = self.done(offset, bytes);
        self.reply_after(step, seq, (queued.request, queued.deadline), done);
        Progress::Done
    }

    fn seek(&mut self, step: &mut Step<'_>, queued: &Queued, offset: u64, hole: bool) {
        let found = match self.copy.exists {
            true => step.store.seek(self.key, offset, hole),
            false => Ok(None),
        };
        let Ok(found) = found else {
            self.fail(step);
            step.refuse(queued.request, faults::elsewhere());
            return;
        };
        let done = self.done(found.unwrap_or(u64::MAX), Bytes::new());
        let newest = self.newest_pending();
        self.reply_after(step, newest, (queued.request, queued.deadline), done);
    }

    /// The tenure whose changes reads have to wait for. With `async` what was acknowledged may be lost,
    /// so what was read may be, too.
    fn tenure_to_wait_in(&self) -> Option<&Tenure> {
        let uncommitted =
            self.writes(WritePolicy::Async) || self.config.has(Mutant::ReadsUncommitted);
        self.tenure.as_ref().filter(|_| !uncommitted)
    }

    /// The newest change that is not committed and that a read may have seen.
    fn newest_seen(&self, offset: u64, asked: u32, got: usize) -> Option<u64> {
        let tenure = self.tenure_to_wait_in()?;
        if got < asked as usize {
            // It saw where the object ends, which any of them may have moved.
            return tenure.changes.back().map(|change| change.seq);
        }
        let end = offset.saturating_add(asked.into());
        let mut newest = tenure.changes.iter().rev();
        let seen = newest.find(|change| change.start < end && offset < change.end);
        seen.map(|change| change.seq)
    }

    fn change(&mut self, step: &mut Step<'_>, queued: Queued) -> Progress {
        let Some(tenure) = self.tenure.as_ref() else {
            return Progress::Wait(queued);
        };
        if tenure.changes.len() >= IN_FLIGHT_MAX {
            return Progress::Wait(queued);
        }
        let known = self.copy.marks.of(queued.session);
        let (order, change, payload) = match &queued.op {
            Op::Write {
                offset,
                data,
                append,
                order,
            } => {
                let offset = if *append {
                    self.copy.length_bytes
                } else {
                    *offset
                };
                let bytes = data.bytes.clone();
                let change = Change::Write {
                    offset,
                    data: bytes,
                };
                (*order, change, data.clone())
            }
            Op::Truncate {
                length_bytes,
                order,
            } => {
                let length_bytes = *length_bytes;
                let change = Change::Truncate { length_bytes };
                (*order, change, Payload::default())
            }
            Op::Read { .. } | Op::Sync { .. } | Op::Stat | Op::Seek { .. } => {
                return Progress::Wait(queued);
            }
        };
        match self.turn(&queued, order, known) {
            Turn::Now => {}
            Turn::Over(mark) => {
                self.answer_again(step, &queued, mark);
                return Progress::Done;
            }
            Turn::Never(fault) => {
                step.refuse(queued.request, fault);
                return Progress::Done;
            }
        }
        let appended_at = match (&queued.op, &change) {
            (Op::Write { append: true, .. }, Change::Write { offset, .. }) => *offset,
            _ => known.append_offset,
        };
        let mark = Mark {
            session: queued.session,
            change_id: order.change_id,
            first_id: order.first_id,
            append_offset: appended_at,
        };
        if !change.fits() {
            step.refuse(queued.request, faults::too_large());
            return Progress::Done;
        }
        if self.lacks_room_for(step, &change) {
            step.refuse(queued.request, faults::no_space());
            return Progress::Done;
        }
        let repeats_earlier = order.first_session.0 != 0 && order.first_session != mark.session;
        let earlier = Mark {
            session: order.first_session,
            ..mark
        };
        let marked = Marked {
            mark,
            earlier: if repeats_earlier {
                earlier
            } else {
                Mark::default()
            },
        };
        self.make_change(step, queued, change, marked, payload)
    }

    /// Whether it is a change's turn. What a session's newest mark says was applied is a beginning of what the
    /// session sent, so every change up to it was done, and the next one is the one that was sent after it.
    fn turn(&self, queued: &Queued, order: ChangeOrder, known: Mark) -> Turn {
        let sent_by_session = queued.session != SessionId(0);
        if !sent_by_session {
            return Turn::Now;
        }
        let earlier = match self.config.has(Mutant::EarlierSessionIgnored) {
            true => Mark::default(),
            false => self.copy.marks.of(order.first_session),
        };
        let done_by = [known, earlier]
            .into_iter()
            .find(|mark| order.first_id <= mark.first_id);
        if let Some(mark) = done_by.filter(|_| !self.config.has(Mutant::RepeatedChanges)) {
            return Turn::Over(mark);
        }
        if order.change_id <= known.change_id && !self.config.has(Mutant::DelayedChanges) {
            return Turn::Never(faults::delayed());
        }
        let newest = known.first_id.max(earlier.first_id);
        if order.after > newest && !self.config.has(Mutant::ChangesOutOfOrder) {
            return Turn::Never(Fault::out_of_order());
        }
        Turn::Now
    }

    /// Answers a change that was done before.
    fn answer_again(&mut self, step: &mut Step<'_>, queued: &Queued, mark: Mark) {
        let offset = match &queued.op {
            // Nothing else of its session was under way, so it is the newest; for an older one nobody waits.
            Op::Write { append: true, .. } => mark.append_offset,
            Op::Write { offset, .. } => *offset,
            Op::Truncate { length_bytes, .. } => *length_bytes,
            Op::Read { .. } | Op::Sync { .. } | Op::Stat | Op::Seek { .. } => 0,
        };
        let done = self.done(offset, Bytes::new());
        // It may have been made under another primary and never acknowledged: then it is no further
        // than on the majority that this one needed to serve.
        let made = Some(self.copy.position.seq);
        self.reply_after(step, made, (queued.request, queued.deadline), done);
        self.commit(step);
    }

    /// The marks that undo what a change left, but for the number of the attempt: what is left of that stays refused.
    pub(crate) fn marked_before(&self, marked: Marked) -> Marked {
        let before = |mark: Mark| Mark {
            change_id: mark.change_id,
            ..self.copy.marks.of(mark.session)
        };
        Marked {
            mark: before(marked.mark),
            earlier: before(marked.earlier),
        }
    }

    /// Makes a change here and sends it to the others.
    fn make_change(
        &mut self,
        step: &mut Step<'_>,
        queued: Queued,
        change: Change,
        marked: Marked,
        payload: Payload,
    ) -> Progress {
        let Some(tenure) = self.tenure.as_ref() else {
            return Progress::Wait(queued);
        };
        let seq = self.copy.position.seq + 1;
        let position = tenure.position(seq);
        let before = self.copy.length_bytes;
        let undone = self.marked_before(marked);
        let offset = match &change {
            Change::Write { offset, .. } => *offset,
            Change::Truncate { length_bytes } => *length_bytes,
        };
        match self.copy.apply(position, &change, marked, &mut *step.store) {
            Ok(()) => {}
            Err(StoreError::Corrupt { block }) => {
                self.mend(step, block, Some(queued));
                return Progress::Done;
            }
            Err(StoreError::NoSpace { written_bytes }) => {
                self.take_back(step, &change, (before, written_bytes));
                self.note_full();
                return Progress::Wait(queued);
            }
            Err(_) => {
                self.fail(step);
                step.refuse(queued.request, faults::elsewhere());
                return Progress::Done;
            }
        }
        let undo = matches!(change, Change::Write { .. }).then_some(Undo {
            length_bytes: before,
            marked: undone,
        });
        let done = self.done(offset, Bytes::new());
        let end = self.copy.length_bytes.max(before);
        let (start, end) = match &change {
            Change::Write { offset, data } => (before.min(*offset), offset + data.len() as u64),
            Change::Truncate { length_bytes } => (before.min(*length_bytes), end),
        };
        self.replicate_change(step, seq, &change, marked, payload);
        let pending = Pending {
            seq,
            request: Some(queued.request),
            done,
            deadline: queued.deadline,
            start,
            end,
            undo,
            bytes: change.bytes(),
        };
        if let Some(tenure) = self.tenure.as_mut() {
            tenure.changes.push_back(pending);
        }
        self.commit(step);
        Progress::Done
    }

    pub(crate) fn replicate_change(
        &mut self,
        step: &mut Step<'_>,
        seq: u64,
        change: &Change,
        marked: Marked,
        payload: Payload,
    ) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let (offset, truncate) = match change {
            Change::Write { offset, .. } => (*offset, false),
            Change::Truncate { length_bytes } => (*length_bytes, true),
        };
        let sent = |mark: Mark| (mark.session.0 != 0).then(|| mark.into());
        for index in 0..tenure.peers.len() {
            let Some(peer) = tenure.peers.get_mut(index) else {
                continue;
            };
            peer.unapplied.made(step.now, seq, change.bytes());
            if !peer.follows() {
                continue;
            }
            peer.note_sent(step.now, seq);
            let replicate = peer::Replicate {
                seq,
                change: Some(peer::Change {
                    offset,
                    truncate,
                    mark: sent(marked.mark),
                    earlier: sent(marked.earlier),
                }),
            };
            let call = (
                CallKind::Replicate { seq },
                peer::request::Op::Replicate(replicate),
            );
            if let Some(peer) = tenure.peers.get(index) {
                let timeout = self.config.step_timeout;
                tenure.send(peer, call, payload.clone(), timeout, step.effects);
            }
        }
    }

    /// A peer says that it has applied everything up to `seq`.
    pub(crate) fn peer_applied(&mut self, step: &mut Step<'_>, index: usize, seq: u64) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if let Some(peer) = tenure.peers.get_mut(index) {
            peer.note_applied(step.now, seq);
            if peer.is_joined() {
                self.commit(step);
            }
        }
    }
}
