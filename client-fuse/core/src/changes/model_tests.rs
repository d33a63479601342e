//! The machine against a model: whatever the network and the servers do, the object ends up with
//! the bytes a local file would have.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use super::tests::{at, machine};
use super::*;

/// Servers that share one replicated object; only the primary applies.
#[derive(Default)]
struct World {
    object: Vec<u8>,
    mark: u64,
    first_id: u64,
    appended_at: u64,
    /// First ids of what was applied.
    applied: BTreeSet<u64>,
    primary: u64,
    /// Per server: what travels there, oldest first.
    streams: [VecDeque<(u64, u64, SendOrder, Change)>; 3],
    /// Requests of connections that broke: they may still arrive, late.
    late: Vec<(SendOrder, Change)>,

    /// Changes that are on their way or may be: for the overlap rule.
    refused_stale: u32,
}

impl World {
    /// Applies a change as a primary does, or says why not.
    fn apply(&mut self, order: SendOrder, change: &Change) -> Result<Answer, Failure> {
        let mut answer = Answer {
            change_id: order.change_id,
            offset: self.appended_at,
            length: self.object.len() as u64,
        };
        if *change == Change::Sync {
            return Ok(answer);
        }
        if order.first_id <= self.first_id {
            let done = self.applied.contains(&order.first_id);
            assert!(done, "{order:?} is taken for done");
            return Ok(answer);
        }
        if order.change_id <= self.mark {
            return Err(Failure::Retry);
        }
        if order.after > self.first_id {
            return Err(Failure::OutOfOrder);
        }
        match change {
            Change::Sync => {}
            Change::Write { offset, bytes } => self.put(*offset, bytes),
            Change::Truncate { length } => self.object.resize(*length as usize, 0),
            Change::Append { bytes } => {
                self.appended_at = self.object.len() as u64;
                self.put(self.appended_at, bytes);
                answer.offset = self.appended_at;
            }
        }
        self.applied.insert(order.first_id);
        (self.mark, self.first_id) = (order.change_id, order.first_id);
        answer.length = self.object.len() as u64;
        Ok(answer)
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.object, offset, bytes);
    }
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset as usize..end].copy_from_slice(bytes);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Append(Vec<u8>),
    Truncate(u64),
    Flush,
    Sync,
    Time(u64),
    /// A server takes its next request.
    Deliver(usize),
    /// The connection breaks: what was on its way may or may not arrive late.
    Break(usize),
    FailOver(u64),
    DeliverLate(usize),
    Busy(usize),
    /// It does its next request, and the answer is lost.
    AnswerLost(usize),
    Refresh(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        6 => (0_u64..100, bytes.clone()).prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
        1 => bytes.prop_map(Step::Append),
        1 => (0_u64..100).prop_map(Step::Truncate),
        2 => Just(Step::Flush),
        1 => Just(Step::Sync),
        3 => (1_u64..700).prop_map(Step::Time),
        12 => (0_usize..3).prop_map(Step::Deliver),
        2 => (0_usize..3).prop_map(Step::Break),
        2 => (0_u64..3).prop_map(Step::FailOver),
        3 => (0_usize..8).prop_map(Step::DeliverLate),
        1 => (0_usize..3).prop_map(Step::Busy),
        1 => (0_usize..3).prop_map(Step::Refresh),
        2 => (0_usize..3).prop_map(Step::AnswerLost),
    ]
}

struct Run {
    world: World,
    changes: Changes,
    ids: IdSource,
    model: Vec<u8>,
    now: u64,
    renewing: bool,
    probes: Vec<(u64, OsdId)>,
    settled: Vec<(u64, Result<Answer, i32>)>,
}

impl Run {
    fn new() -> Self {
        Self {
            world: World::default(),
            changes: machine(),
            ids: IdSource::new(),
            model: Vec::new(),
            now: 0,
            renewing: false,
            probes: Vec::new(),
            settled: Vec::new(),
        }
    }

    fn effects(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Send {
                    token,
                    attempt,
                    osd,
                    order,
                    change,
                } => {
                    self.check_overlap(attempt, &change);
                    let follows = self.changes.follows();
                    assert!(follows <= self.world.first_id, "nothing was lost");
                    let stream = &mut self.world.streams[osd.0 as usize];
                    stream.push_back((token, attempt, order, change));
                }
                Effect::Settled { token, outcome, .. } => self.settled.push((token, outcome)),
                Effect::Renew => self.renewing = true,
                Effect::Probe { attempt, osd } => self.probes.push((attempt, osd)),
                Effect::Lost => panic!("nothing was lost"),
                Effect::CutOff(_) | Effect::Stalled(_) | Effect::Resumed => {}
            }
        }
    }

    fn check_overlap(&self, attempt: u64, change: &Change) {
        for stream in &self.world.streams {
            for (token, other_attempt, _, other) in stream.iter().filter(|s| s.1 == attempt) {
                // A late answer to an earlier attempt settles a change whose repetition still
                // travels; the ids keep it harmless.
                if self.settled.iter().any(|settled| settled.0 == *token) {
                    continue;
                }
                let disjoint = match (change.range(), other.range()) {
                    (Some(a), Some(b)) => a.1 <= b.0 || b.1 <= a.0,
                    _ => false,
                };
                assert!(
                    disjoint,
                    "{change:?} with {other:?} in attempt {other_attempt}"
                );
            }
        }
    }

    fn fail(&mut self, token: u64, attempt: u64, failure: Failure) {
        let mut out = Vec::new();
        self.changes
            .failed(at(self.now), &self.ids, token, attempt, failure, &mut out);
        self.effects(out);
    }

    fn deliver(&mut self, osd: usize) {
        let Some((token, attempt, order, change)) = self.world.streams[osd].pop_front() else {
            return;
        };
        if osd as u64 != self.world.primary {
            let primary = OsdId(self.world.primary);
            return self.fail(token, attempt, Failure::Redirect(Some(primary)));
        }
        match self.world.apply(order, &change) {
            Ok(answer) => {
                let mut out = Vec::new();
                self.changes
                    .answered(at(self.now), &self.ids, token, answer, &mut out);
                self.effects(out);
            }
            // Late itself: nobody in the machine may wait for it any more.
            Err(Failure::Retry) => self.world.refused_stale += 1,
            Err(failure) => self.fail(token, attempt, failure),
        }
    }

    fn one(&mut self, step: &Step) {
        let now = at(self.now);
        let mut out = Vec::new();
        match step {
            Step::Write(offset, bytes) => {
                put(&mut self.model, *offset, bytes);
                self.changes.write(now, &self.ids, *offset, bytes, &mut out);
            }
            Step::Append(bytes) => {
                let change = Change::Append {
                    bytes: Bytes::copy_from_slice(bytes),
                };
                self.model.extend_from_slice(bytes);
                self.changes.add(now, &self.ids, change, &mut out);
            }
            Step::Truncate(length) => {
                self.model.resize(*length as usize, 0);
                let change = Change::Truncate { length: *length };
                self.changes.add(now, &self.ids, change, &mut out);
            }
            Step::Flush => {
                self.changes.flush(now, &self.ids, &mut out);
            }
            Step::Sync => {
                self.changes.add(now, &self.ids, Change::Sync, &mut out);
            }
            Step::Time(ms) => {
                self.now += ms;
                self.changes.tick(at(self.now), &self.ids, &mut out);
                for probe in std::mem::take(&mut self.probes) {
                    let answer = ProbeAnswer::Primary(OsdId(self.world.primary));
                    self.changes
                        .probed(at(self.now), &self.ids, probe, answer, &mut out);
                }
                if std::mem::take(&mut self.renewing) {
                    let members = vec![OsdId(0), OsdId(1), OsdId(2)];
                    self.changes
                        .granted(at(self.now), &self.ids, members, &mut out);
                }
            }
            Step::Deliver(osd) => self.deliver(*osd),
            Step::Break(osd) => {
                for (token, attempt, id, change) in std::mem::take(&mut self.world.streams[*osd]) {
                    self.world.late.push((id, change));
                    self.fail(token, attempt, Failure::Gone);
                }
            }
            Step::FailOver(primary) => self.world.primary = *primary,
            Step::DeliverLate(index) => {
                if *index < self.world.late.len() {
                    let (id, change) = self.world.late.remove(*index);
                    let _ = self.world.apply(id, &change);
                }
            }
            Step::Busy(osd) => {
                if let Some((token, attempt, ..)) = self.world.streams[*osd].pop_front() {
                    self.fail(token, attempt, Failure::Retry);
                }
            }
            Step::AnswerLost(osd) => {
                if let Some((token, attempt, order, change)) = self.world.streams[*osd].pop_front()
                {
                    if *osd as u64 == self.world.primary {
                        let _ = self.world.apply(order, &change);
                    }
                    self.fail(token, attempt, Failure::Gone);
                }
            }
            Step::Refresh(osd) => {
                if let Some((token, attempt, ..)) = self.world.streams[*osd].pop_front() {
                    self.fail(token, attempt, Failure::Refresh);
                }
            }
        }
        self.effects(out);
    }

    /// The network heals: everything must settle.
    fn finish(&mut self) {
        self.one(&Step::Flush);
        for _ in 0..10_000 {
            if self.changes.is_idle() {
                return;
            }
            for osd in 0..3 {
                self.deliver(osd);
            }
            self.one(&Step::Time(20));
        }
        panic!("{} bytes never settled", self.changes.buffered_bytes());
    }
}

proptest! {
    /// Bytes that arrive late from broken connections must never undo later ones.
    #[test]
    fn prop_object_equals_a_local_file_whatever_network_and_servers_do(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut run = Run::new();

        for step in &steps {
            run.one(step);
        }
        run.finish();
        for (id, change) in std::mem::take(&mut run.world.late) {
            let _ = run.world.apply(id, &change);
        }

        prop_assert_eq!(&run.world.object, &run.model);
        let mut tokens: Vec<_> = run.settled.iter().map(|s| s.0).collect();
        let count = tokens.len();
        tokens.sort_unstable();
        tokens.dedup();
        prop_assert_eq!(tokens.len(), count, "a change settled twice");
        prop_assert!(run.settled.iter().all(|s| s.1.is_ok()));
        prop_assert_eq!(run.changes.buffered_bytes(), 0);
    }

    /// What a read finds in the buffers is what a local file would show.
    #[test]
    fn prop_peek_shows_what_was_written(
        writes in prop::collection::vec((0_u64..60, prop::collection::vec(any::<u8>(), 1..30)), 1..12),
        reads in prop::collection::vec((0_u64..80, 1_u64..20), 1..12),
    ) {
        let mut run = Run::new();
        for (offset, bytes) in &writes {
            run.one(&Step::Write(*offset, bytes.clone()));
        }

        for (offset, length) in reads {
            if let Some(bytes) = run.changes.peek(offset, length) {
                let range = offset as usize..(offset + length) as usize;
                prop_assert_eq!(&bytes[..], &run.model[range]);
            }
        }
    }
}
