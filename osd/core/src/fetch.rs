//! A new primary gets what its own copy lacks from a replica that has it.

use std::collections::VecDeque;

use bytes::Bytes;
use types::{Instant, OsdId, SUM_BYTES};

use crate::block_plan::BlockPlan;
use crate::config::REPAIRS_MAX;
use crate::event::{CallKind, Payload};
use crate::faults;
use crate::marks::Marks;
use crate::mutant::Mutant;
use crate::position::Position;
use crate::recent::Span;
use crate::replica::{ObjectReplica, Step};
use crate::store::StoreError;
use crate::tenure::Phase;
use proto::peer;
use proto::peer::request::Op;

/// A replica at the end of the newest history.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) id: OsdId,
    pub(crate) trusted: bool,
    pub(crate) length_bytes: u64,
    pub(crate) marks: Marks,
    /// What changed since this copy's position, if the source knows.
    pub(crate) changed: Option<Vec<Span>>,
}

/// The comparison of this copy with a source.
#[derive(Debug)]
pub(crate) struct Fetching {
    newest: Position,
    sources: VecDeque<Source>,
    current: Option<Source>,
    /// Spans that are all this copy lacks; none if it is compared as a whole.
    spans: Option<Vec<Span>>,
    /// The sources are known to have all that this copy had.
    extends: bool,
    plan: BlockPlan,
    comparing: bool,
    differing: VecDeque<u64>,
    fetches: usize,
    /// When the source last answered.
    pub(crate) progress_at: Instant,
}

impl Fetching {
    pub(crate) fn new(now: Instant, newest: Position, sources: Vec<Source>) -> Self {
        Self {
            progress_at: now,
            newest,
            sources: sources.into(),
            current: None,
            spans: None,
            extends: false,
            plan: BlockPlan::default(),
            comparing: false,
            differing: VecDeque::new(),
            fetches: 0,
        }
    }

    fn is_from(&self, id: OsdId) -> bool {
        self.current.as_ref().is_some_and(|source| source.id == id)
    }
}

impl ObjectReplica {
    fn fetching(&mut self) -> Option<&mut Fetching> {
        match &mut self.tenure.as_mut()?.phase {
            Phase::Fetching(fetching) => Some(fetching),
            _ => None,
        }
    }

    /// Begins with the best source left; starts the activation over if there is none.
    pub(crate) fn fetch_from_next_source(&mut self, step: &mut Step<'_>) {
        let trusted = self.copy.is_trusted(&self.membership);
        let known = self.copy.known_position(&self.membership);
        let Some(fetching) = self.fetching() else {
            return;
        };
        let Some(mut source) = fetching.sources.pop_front() else {
            self.ask(step, false);
            return;
        };
        let spans = source.changed.take();
        let newest = fetching.newest;
        let of_its_tenure = known.is_some_and(|at| {
            (at.epoch, at.holder) == (newest.epoch, newest.holder) && at <= newest
        });
        fetching.extends |= spans.is_some() || of_its_tenure;
        let extends = fetching.extends;
        let spans = spans.filter(|_| trusted);
        fetching.plan = match &spans {
            Some(spans) => BlockPlan::of_spans(spans, source.length_bytes),
            None => BlockPlan::whole(source.length_bytes),
        };
        fetching.spans = spans;
        fetching.progress_at = step.now;
        fetching.comparing = false;
        fetching.differing.clear();
        fetching.fetches = 0;
        let length_bytes = source.length_bytes;
        fetching.current = Some(source);
        self.copy.lose_trust(&self.config, extends);
        let begun = self.copy.make_room_for(length_bytes, &mut *step.store);
        match begun {
            Ok(()) => self.pump_fetching(step),
            Err(error) => self.fetching_failed(step, &error),
        }
    }

    /// A full disk is no reason to give the copy up: somebody else may be primary.
    fn fetching_failed(&mut self, step: &mut Step<'_>, error: &StoreError) {
        match error {
            StoreError::NoSpace { .. } => self.note_full(),
            _ => self.fail(step),
        }
    }

    fn pump_fetching(&mut self, step: &mut Step<'_>) {
        let timeout = self.config.step_timeout;
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let mut sends = Vec::new();
        let Phase::Fetching(fetching) = &mut tenure.phase else {
            return;
        };
        let Some(source) = fetching.current.as_ref().map(|source| source.id) else {
            return;
        };
        while fetching.fetches < REPAIRS_MAX
            && let Some(offset) = fetching.differing.pop_front()
        {
            fetching.fetches += 1;
            let fetch = peer::Fetch {
                offset,
                length_bytes: SUM_BYTES as u32,
            };
            sends.push((CallKind::Fetch { offset }, Op::Fetch(fetch)));
        }
        if !fetching.comparing && fetching.differing.is_empty() {
            if let Some((first_block, block_count)) = fetching.plan.next_window() {
                fetching.comparing = true;
                let sums = peer::Sums {
                    first_block,
                    block_count,
                };
                sends.push((CallKind::Sums { first: first_block }, Op::Sums(sums)));
            } else if fetching.fetches == 0 {
                self.fetched_all(step);
                return;
            }
        }
        let peer = tenure.peers.iter().find(|peer| peer.id == source);
        for call in sends {
            if let Some(peer) = peer {
                tenure.send(peer, call, Payload::default(), timeout, step.effects);
            }
        }
    }

    fn fetched_all(&mut self, step: &mut Step<'_>) {
        let Some(fetching) = self.fetching() else {
            return;
        };
        let newest = fetching.newest;
        let spans = fetching.spans.take();
        let Some(source) = fetching.current.take() else {
            return;
        };
        let length = source.length_bytes;
        if let Err(error) = self.copy.set_length(length, &mut *step.store) {
            self.fetching_failed(step, &error);
            return;
        }
        match spans {
            // What was known of earlier changes stays known.
            Some(spans) => {
                self.copy.trust_again();
                for span in spans {
                    self.copy.recent.push(newest, span);
                }
                self.copy.recent.push(newest, (0, 0));
                self.copy.position = newest;
            }
            None => self.copy.relabel(newest),
        }
        self.settle(step, newest, Some(source.marks), false);
    }

    /// The source's sums of blocks from `first` on.
    pub(crate) fn source_sums(
        &mut self,
        step: &mut Step<'_>,
        (from, first): (OsdId, u64),
        theirs: &peer::BlockSums,
    ) {
        let key = self.key;
        let sums = &theirs.sums;
        let next = first + sums.len() as u64;
        let zeros = self.copy.zero_blocks(next, &mut *step.store);
        let Some(fetching) = self.fetching().filter(|fetching| fetching.is_from(from)) else {
            return;
        };
        fetching.comparing = false;
        fetching.progress_at = step.now;
        fetching.plan.skip_to(next + zeros.min(theirs.zero_blocks));
        let own = step.store.sums(key, first, sums.len() as u32);
        let own = own.unwrap_or_default();
        for (index, sum) in sums.iter().enumerate() {
            if own.get(index) != Some(sum) {
                let block = first + index as u64;
                fetching.differing.push_back(block * SUM_BYTES);
            }
        }
        self.pump_fetching(step);
    }

    /// A block of the source.
    pub(crate) fn source_block(
        &mut self,
        step: &mut Step<'_>,
        (from, offset): (OsdId, u64),
        bytes: &Bytes,
    ) {
        let Some(fetching) = self.fetching().filter(|fetching| fetching.is_from(from)) else {
            return;
        };
        fetching.fetches = fetching.fetches.saturating_sub(1);
        fetching.progress_at = step.now;
        if !bytes.is_empty() && bytes.len() as u64 <= SUM_BYTES {
            // What is nothing but zeros there need not take space here.
            let zeros = bytes.iter().all(|byte| *byte == 0);
            let (bytes, zero_bytes) = match zeros {
                true => (&Bytes::new(), bytes.len() as u64),
                false => (bytes, 0),
            };
            let repaired = self
                .copy
                .repair(offset, bytes, zero_bytes, &mut *step.store);
            if let Err(error) = repaired {
                self.fetching_failed(step, &error);
                return;
            }
        }
        self.pump_fetching(step);
    }

    /// A block of the source is damaged. If no other replica is as far, the source itself is the best
    /// primary: it need not compare that block with anybody, and can have it mended.
    pub(crate) fn source_damaged(&mut self, step: &mut Step<'_>, from: OsdId) {
        let last = |fetching: &mut Fetching| fetching.is_from(from) && fetching.sources.is_empty();
        if !self.fetching().is_some_and(last) {
            self.source_failed(step, from);
            return;
        }
        self.bring_up = false;
        while let Some(queued) = self.waiting.pop() {
            step.refuse(queued.request, faults::redirect(from));
        }
        self.step_down(step, true);
    }

    /// The source can't go on: the next one, if it was the present one.
    pub(crate) fn source_failed(&mut self, step: &mut Step<'_>, from: OsdId) {
        if self
            .fetching()
            .is_some_and(|fetching| fetching.is_from(from))
        {
            if self.config.has(Mutant::FetchErrorsIgnored) {
                self.fetched_all(step);
                return;
            }
            self.fetch_from_next_source(step);
        }
    }
}
