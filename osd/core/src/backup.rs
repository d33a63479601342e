//! A replica's answers to a primary. Everything a peer sends is checked before it is believed.
//!
//! Within one attempt of one primary the messages come in order or not at all; what is left over
//! from an earlier attempt carries a smaller number and is refused.

use types::{BLOCK_BYTES, OsdId, SUM_BYTES};

use crate::config::{
    DURABLE_WAITING_MAX, MARKS_MAX, OBJECT_BYTES_MAX, READ_BYTES_MAX, SUMS_WINDOW,
};
use crate::copy::Change;
use crate::durable::{Need, Who};
use crate::event::{AnswerId, Payload};
use crate::marks::Marks;
use crate::mutant::Mutant;
use crate::position::{Position, Promise};
use crate::record::Marked;
use crate::replica::{ObjectReplica, Step};
use crate::store::StoreError;
use proto::peer;
use proto::peer::Refusal;
use proto::peer::request::Op;
use proto::peer::response::Reply;

/// Where this replica stands with the primary it promised itself to.
#[derive(Debug, Default)]
pub(crate) struct Following {
    attempt: u64,
    mode: Mode,
    pub(crate) heard_at: Option<types::Instant>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Mode {
    /// Takes no changes: the primary does not know yet what this replica lacks, or stopped.
    #[default]
    Apart,
    /// Is where the primary is, and counts.
    Joined,
    /// Takes changes and repairs, and does not count.
    CatchingUp,
}

impl Following {
    pub(crate) fn leave(&mut self) {
        self.mode = Mode::Apart;
    }

    pub(crate) fn is_followed(&self) -> bool {
        self.mode != Mode::Apart
    }
}

/// Why a message was not obeyed.
pub(crate) struct Refused(pub(crate) Refusal);

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self(match error {
            StoreError::NoSpace { .. } => Refusal::NoSpace,
            // Comparing finds and replaces the damaged block.
            StoreError::Corrupt { .. } => Refusal::Gap,
            StoreError::Missing | StoreError::Poisoned | StoreError::Io(_) => Refusal::StoreFailed,
        })
    }
}

/// An answer now, later (none), or a refusal.
pub(crate) type Outcome = Result<Option<(Reply, Payload)>, Refused>;

pub(crate) fn plain(reply: Reply) -> Outcome {
    Ok(Some((reply, Payload::default())))
}

impl ObjectReplica {
    /// Answers a peer, now or when the disk is done.
    pub(crate) fn peer_request(
        &mut self,
        step: &mut Step<'_>,
        (from, answer): (OsdId, AnswerId),
        message: peer::Request,
        payload: Payload,
    ) {
        match self.obey(step, (from, answer), message, payload) {
            Ok(Some((reply, payload))) => self.answer(step, answer, reply, payload),
            Ok(None) => {}
            Err(Refused(refusal)) => {
                if refusal == Refusal::Malformed {
                    self.malformed += 1;
                }
                self.refuse_peer(step, answer, refusal);
            }
        }
    }

    fn obey(
        &mut self,
        step: &mut Step<'_>,
        (from, answer): (OsdId, AnswerId),
        message: peer::Request,
        payload: Payload,
    ) -> Outcome {
        let replicas = &self.membership.replicas;
        if from == self.me || !replicas.contains(from) || !replicas.contains(self.me) {
            return Err(Refused(Refusal::NotAMember));
        }
        if message.view != self.membership.view && !self.config.has(Mutant::ViewIgnored) {
            return Err(Refused(Refusal::OldView));
        }
        if self.copy.failed {
            return Err(Refused(Refusal::StoreFailed));
        }
        let promise = Promise {
            epoch: message.epoch,
            holder: OsdId(message.holder),
        };
        let op = match message.op {
            Some(Op::WantCatchUp(_)) => return self.want_catch_up(step, from),
            Some(op) if promise.holder == from && promise.epoch > 0 => op,
            _ => return Err(Refused(Refusal::Malformed)),
        };
        self.check_promise(promise)?;
        self.following.heard_at = Some(step.now);
        let Op::Activate(activate) = op else {
            let current = promise == self.copy.promised
                && message.attempt == self.following.attempt
                || self.config.has(Mutant::WrittenNotPromised);
            if !current {
                return Err(Refused(Refusal::Gap));
            }
            return self.follow(step, answer, op, payload);
        };
        if promise == self.copy.promised && message.attempt <= self.following.attempt {
            return Err(Refused(Refusal::Gap));
        }
        self.activate(step, (from, answer), promise, message.attempt, activate)
    }

    /// Fencing: nothing older than the promise, nothing of its epoch from anybody else.
    fn check_promise(&self, promise: Promise) -> Result<(), Refused> {
        let mut known = self.copy.promised;
        if self.config.has(Mutant::WrittenNotPromised) {
            known.epoch = self.copy.position.epoch;
            known.holder = self.copy.position.holder;
        }
        let other = promise.epoch == known.epoch && promise.holder != known.holder;
        if promise.epoch < known.epoch || other {
            return Err(Refused(Refusal::OldEpoch));
        }
        Ok(())
    }

    fn activate(
        &mut self,
        step: &mut Step<'_>,
        (from, answer): (OsdId, AnswerId),
        promise: Promise,
        attempt: u64,
        activate: peer::Activate,
    ) -> Outcome {
        let unknown = !self.copy.exists && self.copy.promised == Promise::default();
        if activate.newborn && !unknown {
            return Err(Refused(Refusal::OldEpoch));
        }
        if self.tenure.is_some() {
            // Somebody else holds a newer lease, so ours is over.
            self.step_down(step, true);
        }
        self.promise(step, promise);
        // Whatever an earlier attempt waits for is over; above all nothing may become clean now.
        for who in self.durable.take_peers() {
            self.refuse_durable(step, who, Refusal::Gap);
        }
        self.durable.forget_own();
        self.following.attempt = attempt;
        if !self.config.has(Mutant::WrittenNotPromised) {
            self.following.leave();
        }
        if activate.newborn {
            return self.join_newborn(step, promise);
        }
        let asker = activate.position.map(Position::from);
        if activate.reading {
            return plain(Reply::Activated(self.my_answer(asker)));
        }
        self.copy
            .create(false, &self.membership, &mut *step.store)?;
        if self.is_writable() || self.config.has(Mutant::PromiseForgotten) {
            return plain(Reply::Activated(self.my_answer(asker)));
        }
        self.wait_for_disk(
            Need::Promise(promise),
            Who::Activate {
                answer,
                from,
                asker,
            },
        )
    }

    /// Nothing is known of the object here: if that means something, what follows is its history.
    fn join_newborn(&mut self, step: &mut Step<'_>, promise: Promise) -> Outcome {
        if !self.copy.is_trusted(&self.membership) {
            return plain(Reply::Activated(self.my_answer(None)));
        }
        self.copy.create(true, &self.membership, &mut *step.store)?;
        self.copy.relabel(Position {
            epoch: promise.epoch,
            seq: 0,
            holder: promise.holder,
        });
        self.following.mode = Mode::Joined;
        plain(Reply::Activated(self.my_answer(None)))
    }

    fn wait_for_disk(&mut self, need: Need, who: Who) -> Outcome {
        if self.durable.waiting() >= DURABLE_WAITING_MAX {
            return Err(Refused(Refusal::Busy));
        }
        self.durable.want(need, who);
        Ok(None)
    }

    /// Obeys the primary it promised itself to, in the present attempt.
    fn follow(
        &mut self,
        step: &mut Step<'_>,
        answer: AnswerId,
        op: Op,
        payload: Payload,
    ) -> Outcome {
        match op {
            Op::Replicate(message) => self.replicate(step, message, payload),
            Op::Sync(message) => self.sync_backup(answer, message),
            Op::Sums(message) => self.sums(step, message),
            Op::Fetch(message) => self.fetch(step, message),
            Op::BeginCatchUp(message) => self.begin_catch_up(step, message),
            Op::Repair(message) => self.repair(step, message, payload),
            Op::Adopt(message) => self.adopt(step, message),
            Op::Activate(_)
            | Op::ListObjects(_)
            | Op::WantCatchUp(_)
            | Op::Inspect(_)
            | Op::SeedOpen(_)
            | Op::SeedRead(_)
            | Op::SeedClose(_) => Err(Refused(Refusal::Malformed)),
        }
    }

    fn replicate(
        &mut self,
        step: &mut Step<'_>,
        message: peer::Replicate,
        payload: Payload,
    ) -> Outcome {
        let change = message.change.ok_or(Refused(Refusal::Malformed))?;
        let marked = Marked {
            mark: change.mark.unwrap_or_default().into(),
            earlier: change.earlier.unwrap_or_default().into(),
        };
        let change = match change.truncate {
            true => Change::Truncate {
                length_bytes: change.offset,
            },
            false => Change::Write {
                offset: change.offset,
                data: payload.bytes,
            },
        };
        if !change.fits() {
            return Err(Refused(Refusal::Malformed));
        }
        let position = self.promised_position(message.seq);
        let have = self.copy.position.seq;
        let gap = message.seq > have.saturating_add(1) && !self.config.has(Mutant::GapsAllowed);
        if !self.following.is_followed() || !self.is_writable() || gap {
            return Err(Refused(Refusal::Gap));
        }
        let before = self.copy.length_bytes;
        if message.seq > have
            && let Err(error) = self.copy.apply(position, &change, marked, &mut *step.store)
        {
            self.following.leave();
            let untouched = match &error {
                StoreError::Corrupt { .. } => true,
                // The others may have no room either: all copies but the primary's would be in doubt.
                StoreError::NoSpace { written_bytes } => {
                    let lengths = (before, *written_bytes);
                    self.copy.cut_back(&change, lengths, &mut *step.store)
                }
                _ => false,
            };
            if !untouched {
                // Half a change may be there.
                self.lose_trust(step, true);
            }
            return Err(error.into());
        }
        plain(Reply::Replicated(peer::Replicated {
            seq: self.copy.position.seq,
        }))
    }

    /// Stops vouching for the bytes. Nobody may go on waiting for them to become stable: they can't,
    /// until the copy was brought up.
    fn lose_trust(&mut self, step: &mut Step<'_>, extends: bool) {
        self.copy.lose_trust(&self.config, extends);
        for who in self.durable.take_peers() {
            self.refuse_durable(step, who, Refusal::Gap);
        }
        self.durable.forget_own();
    }

    fn sync_backup(&mut self, answer: AnswerId, message: peer::Sync) -> Outcome {
        let position = self.promised_position(message.seq);
        let behind = message.seq > self.copy.position.seq
            || (message.clean && message.seq < self.copy.position.seq);
        if self.following.mode != Mode::Joined || behind {
            return Err(Refused(Refusal::Gap));
        }
        if message.clean {
            self.following.leave();
        }
        if !self.copy.exists {
            return plain(Reply::Synced(peer::Synced { seq: message.seq }));
        }
        let need = match message.clean {
            true => Need::Clean(position),
            false => Need::Position(position),
        };
        if need.is_served(&self.copy) {
            return plain(Reply::Synced(peer::Synced { seq: message.seq }));
        }
        self.wait_for_disk(need, Who::Sync { answer })
    }

    fn sums(&mut self, step: &mut Step<'_>, message: peer::Sums) -> Outcome {
        if message.block_count > SUMS_WINDOW {
            return Err(Refused(Refusal::Malformed));
        }
        let (first, count) = (message.first_block, message.block_count);
        let mut sums = match self.copy.exists {
            true => step.store.sums(self.copy.key, first, count)?,
            false => Vec::new(),
        };
        if self.following.mode == Mode::CatchingUp {
            // What does not fit may be newer than its checksum, which is then of no history: it has to be
            // replaced even if that is equal.
            let mut unfit = step.store.unfit(self.copy.key, first, count)?;
            unfit.dedup();
            for block in unfit {
                if let Some(sum) = sums.get_mut(block.saturating_sub(first) as usize) {
                    *sum = !*sum;
                }
            }
        }
        let next = message.first_block.saturating_add(sums.len() as u64);
        plain(Reply::BlockSums(peer::BlockSums {
            zero_blocks: self.copy.zero_blocks(next, &mut *step.store),
            sums,
            length_bytes: self.copy.length_bytes,
        }))
    }

    fn fetch(&mut self, step: &mut Step<'_>, message: peer::Fetch) -> Outcome {
        if message.length_bytes > READ_BYTES_MAX {
            return Err(Refused(Refusal::Malformed));
        }
        let read = step
            .store
            .read(self.copy.key, message.offset, message.length_bytes);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(StoreError::Corrupt { .. }) => return Err(Refused(Refusal::Corrupt)),
            Err(error) => return Err(error.into()),
        };
        let reply = Reply::Fetched(peer::Fetched {
            length_bytes: self.copy.length_bytes,
        });
        Ok(Some((reply, Payload::of(bytes))))
    }

    fn begin_catch_up(&mut self, step: &mut Step<'_>, message: peer::BeginCatchUp) -> Outcome {
        if message.length_bytes > OBJECT_BYTES_MAX {
            return Err(Refused(Refusal::Malformed));
        }
        if !self.is_writable() {
            return Err(Refused(Refusal::Gap));
        }
        self.following.leave();
        self.lose_trust(step, message.extends);
        if self.tells_too_much(&message) {
            // The next attempt finds that done.
            return Err(Refused(Refusal::Gap));
        }
        self.copy
            .make_room_for(message.length_bytes, &mut *step.store)?;
        self.copy.position = self.promised_position(message.seq);
        self.following.mode = Mode::CatchingUp;
        plain(Reply::CaughtUp(peer::CaughtUp { seq: message.seq }))
    }

    /// Whether the record on disk tells of changes that the primary's history has not, and that will be
    /// replaced here. Then it is taken back first: after a crash of all it would be believed, and with it
    /// that those changes were done.
    fn tells_too_much(&mut self, message: &peer::BeginCatchUp) -> bool {
        let Some(base) = message.base.map(Position::from) else {
            return false;
        };
        let position = self.copy.record.position;
        let Promise { epoch, holder } = self.copy.promised;
        let of_this_tenure = (position.epoch, position.holder) == (epoch, holder);
        if position <= base || of_this_tenure || self.config.has(Mutant::RecordKept) {
            return false;
        }
        let marks: Vec<_> = message.base_marks.iter().cloned().map(Into::into).collect();
        if !self.durable.wants(Need::TakenBack(base)) {
            let base = (base, message.base_length_bytes);
            self.copy.take_back(&self.config, base, &Marks::from(marks));
            self.durable.want(Need::TakenBack(base.0), Who::Own);
        }
        true
    }

    fn repair(&mut self, step: &mut Step<'_>, message: peer::Repair, payload: Payload) -> Outcome {
        let bytes = message.zero_bytes.max(payload.bytes.len() as u64);
        let sound = message.offset.is_multiple_of(BLOCK_BYTES)
            && (1..=SUM_BYTES).contains(&bytes)
            && (message.zero_bytes == 0 || payload.bytes.is_empty())
            && message.offset <= OBJECT_BYTES_MAX - SUM_BYTES;
        if !sound {
            return Err(Refused(Refusal::Malformed));
        }
        // A block of an earlier state would undo what was applied since.
        if self.following.mode != Mode::CatchingUp || message.seq != self.copy.position.seq {
            return Err(Refused(Refusal::Gap));
        }
        let repaired = self.copy.repair(
            message.offset,
            &payload.bytes,
            message.zero_bytes,
            &mut *step.store,
        );
        if let Err(error) = repaired {
            self.following.leave();
            return Err(error.into());
        }
        plain(Reply::CaughtUp(peer::CaughtUp { seq: message.seq }))
    }

    fn adopt(&mut self, step: &mut Step<'_>, message: peer::Adopt) -> Outcome {
        if message.length_bytes > OBJECT_BYTES_MAX || message.marks.len() > MARKS_MAX {
            return Err(Refused(Refusal::Malformed));
        }
        let here = message.seq == self.copy.position.seq;
        let ready = match self.following.mode {
            Mode::CatchingUp => here,
            // The primary has seen our position in this attempt, and it equals its own.
            Mode::Apart => {
                let same_length = self.copy.length_bytes == message.length_bytes;
                here && same_length && self.copy.is_trusted(&self.membership)
            }
            Mode::Joined => false,
        };
        if !ready {
            return Err(Refused(Refusal::Gap));
        }
        if self.following.mode == Mode::CatchingUp {
            self.copy
                .set_length(message.length_bytes, &mut *step.store)?;
        }
        let marks: Vec<_> = message.marks.into_iter().map(Into::into).collect();
        self.copy.marks = Marks::from(marks);
        self.copy.relabel(self.promised_position(message.seq));
        self.following.mode = Mode::Joined;
        if self.copy.taken_back.take().is_some() {
            // The record tells of less than the disk had: it may be counted on.
            let position = self.copy.position;
            self.durable.want(Need::BroughtUp(position), Who::Own);
        }
        self.recovered(step);
        plain(Reply::CaughtUp(peer::CaughtUp { seq: message.seq }))
    }

    fn promised_position(&self, seq: u64) -> Position {
        Position {
            epoch: self.copy.promised.epoch,
            seq,
            holder: self.copy.promised.holder,
        }
    }
}
