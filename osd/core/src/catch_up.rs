//! A primary brings another replica to its own state, while changes go on.
//!
//! Everything travels on one ordered stream: the replica applies changes and repairs in the order
//! in which this primary made them, so a repaired block is as the primary had it after the changes
//! before. A sum that equals the primary's present one needs no repair even if changes are under
//! way: they overwrite the same bytes with the same values.

use std::collections::VecDeque;

use bytes::Bytes;
use types::{BLOCK_BYTES, SUM_BYTES};

use crate::block_plan::BlockPlan;
use crate::config::REPAIRS_MAX;
use crate::copy::Answer;
use crate::event::{CallKind, Payload};
use crate::mutant::Mutant;
use crate::peer_state::{CatchUp, PeerState};
use crate::position::{NEWBORN_EPOCH_MAX, Position};
use crate::recent::Span;
use crate::replica::{ObjectReplica, Step};
use crate::store::StoreError;
use crate::tenure::Phase;
use proto::peer;
use proto::peer::request::Op;

impl ObjectReplica {
    /// Does with a replica what its answer calls for: adopt it as it is, or bring it up.
    pub(crate) fn place(&mut self, step: &mut Step<'_>, index: usize, answer: Answer) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let since = self.copy.recent.since(answer.position);
        let extends = since.is_some();
        let missed = since.filter(|_| answer.is_trusted());
        let other_history = answer.is_trusted()
            && answer.position.epoch != tenure.promise.epoch
            && answer.position != Position::default();
        if tenure.newborn && !tenure.is_serving() && other_history {
            self.outdated(step, NEWBORN_EPOCH_MAX);
            return;
        }
        let length_bytes = self.copy.length_bytes;
        // Some changes touch no bytes, but they count.
        let missed_nothing = missed.as_ref().is_some_and(Vec::is_empty)
            && answer.position.seq == self.copy.position.seq;
        if missed_nothing && answer.length_bytes == length_bytes {
            self.adopt_peer(step, index);
            return;
        }
        let reading = match tenure.phase {
            Phase::BringingUp { reading } => reading,
            _ => !tenure.writable,
        };
        if reading {
            self.ask(step, false);
            return;
        }
        self.begin_peer(step, index, missed, extends);
    }

    fn begin_peer(
        &mut self,
        step: &mut Step<'_>,
        index: usize,
        missed: Option<Vec<Span>>,
        extends: bool,
    ) {
        let length_bytes = self.copy.length_bytes;
        let plan = match &missed {
            _ if self.config.has(Mutant::CatchUpSkipped) => BlockPlan::default(),
            Some(spans) => BlockPlan::of_spans(spans, length_bytes),
            None => BlockPlan::whole(length_bytes),
        };
        let seq = self.copy.position.seq;
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        // Whoever could not help before may be able to now.
        tenure.given_up = None;
        let Some(peer) = tenure.peers.get_mut(index) else {
            return;
        };
        peer.state = PeerState::CatchingUp(CatchUp {
            plan,
            spans: missed,
            comparing: false,
            window: 0,
            differing: VecDeque::new(),
            repairs: 0,
        });
        peer.sent = seq;
        let marks = tenure.base_marks.to_vec().into_iter();
        let begin = peer::BeginCatchUp {
            seq,
            length_bytes,
            base: Some(tenure.base.into()),
            base_marks: marks.map(Into::into).collect(),
            extends,
            base_length_bytes: tenure.base_length_bytes,
        };
        if let Some(peer) = tenure.peers.get(index) {
            let call = (CallKind::Begin, Op::BeginCatchUp(begin));
            let timeout = self.config.step_timeout;
            tenure.send(peer, call, Payload::default(), timeout, step.effects);
        }
        self.pump_peer(step, index);
    }

    /// Sends what the comparison allows: repairs, the next window, or the end.
    pub(crate) fn pump_peer(&mut self, step: &mut Step<'_>, index: usize) {
        loop {
            let Some(tenure) = self.tenure.as_mut() else {
                return;
            };
            let Some(peer) = tenure.peers.get_mut(index) else {
                return;
            };
            let PeerState::CatchingUp(catch_up) = &mut peer.state else {
                return;
            };
            if catch_up.repairs < REPAIRS_MAX
                && let Some(offset) = catch_up.differing.pop_front()
            {
                if !self.send_repair(step, index, offset) {
                    return;
                }
                continue;
            }
            if catch_up.comparing || !catch_up.differing.is_empty() {
                return;
            }
            if let Some((first_block, block_count)) = catch_up.plan.next_window() {
                catch_up.comparing = true;
                catch_up.window = block_count;
                let sums = peer::Sums {
                    first_block,
                    block_count,
                };
                let call = (CallKind::Sums { first: first_block }, Op::Sums(sums));
                self.send_to(step, index, call, Payload::default());
            } else if catch_up.repairs == 0 {
                self.adopt_peer(step, index);
            }
            return;
        }
    }

    fn send_to(
        &mut self,
        step: &mut Step<'_>,
        index: usize,
        call: (CallKind, Op),
        payload: Payload,
    ) {
        if let Some(tenure) = self.tenure.as_ref()
            && let Some(peer) = tenure.peers.get(index)
        {
            let timeout = self.config.step_timeout;
            tenure.send(peer, call, payload, timeout, step.effects);
        }
    }

    fn catching_up(&mut self, index: usize) -> Option<&mut CatchUp> {
        match &mut self.tenure.as_mut()?.peers.get_mut(index)?.state {
            PeerState::CatchingUp(catch_up) => Some(catch_up),
            _ => None,
        }
    }

    /// Sends a block as it is here; false if that has to wait.
    fn send_repair(&mut self, step: &mut Step<'_>, index: usize, offset: u64) -> bool {
        match step.store.read(self.key, offset, SUM_BYTES as u32) {
            Ok(bytes) => self.send_block(step, index, offset, bytes),
            // Cut off meanwhile, there as here.
            Err(StoreError::Missing) => {}
            Err(StoreError::Corrupt { block }) => {
                if self.is_given_up(block) {
                    return self.send_sound_parts(step, index, offset);
                }
                if let Some(catch_up) = self.catching_up(index) {
                    catch_up.differing.push_front(offset);
                }
                self.mend(step, block, None);
                return false;
            }
            Err(_) => {
                self.fail(step);
                return false;
            }
        }
        true
    }

    /// Part of the block is damaged and nobody is there to mend it: what is sound is sent, and the
    /// rest must be bytes that the replica has right. False if it may not.
    fn send_sound_parts(&mut self, step: &mut Step<'_>, index: usize, offset: u64) -> bool {
        for part in (offset..offset + SUM_BYTES).step_by(BLOCK_BYTES as usize) {
            if let Ok(bytes) = step.store.read(self.key, part, BLOCK_BYTES as u32) {
                self.send_block(step, index, part, bytes);
                continue;
            }
            let spans = self
                .catching_up(index)
                .and_then(|catch_up| catch_up.spans.as_ref());
            let lacks = |span: &Span| span.0 < part + BLOCK_BYTES && part < span.1;
            if spans.is_none_or(|spans| spans.iter().any(lacks)) {
                self.leave_behind(step, index);
                return false;
            }
        }
        true
    }

    fn send_block(&mut self, step: &mut Step<'_>, index: usize, offset: u64, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let zeros = bytes.iter().all(|byte| *byte == 0);
        let repair = peer::Repair {
            seq: self.copy.position.seq,
            offset,
            zero_bytes: if zeros { bytes.len() as u64 } else { 0 },
        };
        let payload = match zeros {
            true => Payload::default(),
            false => Payload::of(bytes),
        };
        if let Some(catch_up) = self.catching_up(index) {
            catch_up.repairs += 1;
        }
        let call = (CallKind::Repair { offset }, Op::Repair(repair));
        self.send_to(step, index, call, payload);
    }

    /// Tells a replica that it is where this primary is.
    fn adopt_peer(&mut self, step: &mut Step<'_>, index: usize) {
        let seq = self.copy.position.seq;
        if let Some(tenure) = self.tenure.as_mut()
            && let Some(peer) = tenure.peers.get_mut(index)
        {
            peer.state = PeerState::Adopting { seq };
            peer.sent = peer.sent.max(seq);
        }
        let adopt = peer::Adopt {
            seq,
            length_bytes: self.copy.length_bytes,
            marks: self
                .copy
                .marks
                .to_vec()
                .into_iter()
                .map(Into::into)
                .collect(),
        };
        let call = (CallKind::Adopt, Op::Adopt(adopt));
        self.send_to(step, index, call, Payload::default());
    }

    /// A replica's sums of blocks from `first` on.
    pub(crate) fn peer_sums(
        &mut self,
        step: &mut Step<'_>,
        index: usize,
        first: u64,
        theirs: &peer::BlockSums,
    ) {
        let key = self.key;
        let sums = &theirs.sums;
        let next = first + sums.len() as u64;
        let zeros = self.copy.zero_blocks(next, &mut *step.store);
        let Some(catch_up) = self.catching_up(index) else {
            return;
        };
        catch_up.comparing = false;
        catch_up.plan.skip_to(next + zeros.min(theirs.zero_blocks));
        // All that was asked for: a copy that ends before has fewer.
        let count = catch_up.window;
        let own = match step.store.sums(key, first, count) {
            Ok(own) => own,
            Err(StoreError::Missing) => Vec::new(),
            Err(_) => {
                self.fail(step);
                return;
            }
        };
        for (block, own) in (first..).zip(&own) {
            if sums.get((block - first) as usize) != Some(own) {
                catch_up.differing.push_back(block * SUM_BYTES);
            }
        }
        self.pump_peer(step, index);
    }

    /// A replica put a block.
    pub(crate) fn peer_repaired(&mut self, step: &mut Step<'_>, index: usize) {
        if let Some(catch_up) = self.catching_up(index) {
            catch_up.repairs = catch_up.repairs.saturating_sub(1);
            self.pump_peer(step, index);
        }
    }

    /// A replica says that it is where it was told.
    pub(crate) fn peer_adopted(&mut self, step: &mut Step<'_>, index: usize) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let Some(peer) = tenure.peers.get_mut(index) else {
            return;
        };
        if let PeerState::Adopting { seq } = peer.state {
            peer.state = PeerState::Joined;
            peer.note_applied(step.now, seq);
            self.check_quorum(step);
        }
    }
}
