//! The machine against a model: whatever the network and the servers do, the object ends up with
//! the bytes a local file would have.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn limits() -> ChangeLimits {
    ChangeLimits {
        chunk_bytes: 16,
        in_flight_bytes_max: 64,
        in_flight_max: 4,
        ..ChangeLimits::default()
    }
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn machine() -> Changes {
    Changes::new(
        Route::new(vec![OsdId(0), OsdId(1), OsdId(2)]),
        limits(),
        None,
    )
}

fn sends(out: &[Effect]) -> Vec<(u64, u64, OsdId, u64, Change)> {
    out.iter()
        .filter_map(|effect| match effect {
            Effect::Send {
                token,
                attempt,
                osd,
                change_id,
                change,
            } => Some((*token, *attempt, *osd, *change_id, change.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn small_writes_that_touch_become_one() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 0, b"abc", &mut out);
    changes.write(at(1), &ids, 3, b"def", &mut out);
    changes.write(at(2), &ids, 1, b"X", &mut out);
    assert!(out.is_empty());
    changes.flush(at(3), &ids, &mut out);

    let sent = sends(&out);
    assert_eq!(sent.len(), 1);
    let bytes = Bytes::from_static(b"aXcdef");
    assert_eq!(sent[0].4, Change::Write { offset: 0, bytes });
}

#[test]
fn gathered_bytes_leave_by_themselves_after_the_gathering_time() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 0, b"abc", &mut out);
    assert_eq!(changes.next_wakeup(), Some(at(50)));
    changes.tick(at(49), &ids, &mut out);
    assert!(out.is_empty());
    changes.tick(at(50), &ids, &mut out);

    assert_eq!(sends(&out).len(), 1);
}

#[test]
fn chunks_end_at_multiples_of_their_size() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 10, &[7; 40], &mut out);
    changes.flush(at(0), &ids, &mut out);

    let ranges: Vec<_> = sends(&out).iter().filter_map(|s| s.4.range()).collect();
    assert_eq!(ranges, vec![(10, 16), (16, 32), (32, 48), (48, 50)]);
}

#[test]
fn overlapping_writes_are_never_in_flight_together() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 0, b"first", &mut out);
    changes.flush(at(0), &ids, &mut out);
    changes.write(at(0), &ids, 2, b"second", &mut out);
    changes.flush(at(0), &ids, &mut out);
    assert_eq!(sends(&out).len(), 1);
    out.clear();
    changes.answered(at(1), &ids, 1, Answer::default(), &mut out);

    assert_eq!(sends(&out).len(), 1);
}

#[test]
fn everything_unacknowledged_is_sent_again_in_order_with_new_ids() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    for chunk in 0..3 {
        changes.write(at(0), &ids, chunk * 100, b"bytes", &mut out);
    }
    changes.flush(at(0), &ids, &mut out);
    let first = sends(&out);
    out.clear();

    changes.answered(at(1), &ids, first[1].0, Answer::default(), &mut out);
    changes.failed(at(1), &ids, first[2].0, first[2].1, Failure::Gone, &mut out);

    let again = sends(&out);
    let tokens: Vec<_> = again.iter().map(|s| s.0).collect();
    assert_eq!(tokens, vec![first[0].0, first[2].0]);
    assert!(again.iter().all(|s| s.3 > first[2].3 && s.2 == OsdId(1)));
    assert!(again[0].3 < again[1].3);
}

#[test]
fn silent_primary_is_left_once_another_replica_took_over() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"bytes", &mut out);
    changes.flush(at(0), &ids, &mut out);
    out.clear();

    assert_eq!(changes.next_wakeup(), Some(at(500)));
    changes.tick(at(500), &ids, &mut out);
    let probe = out.pop();
    assert_eq!(
        probe,
        Some(Effect::Probe {
            attempt: 1,
            osd: OsdId(1)
        })
    );
    // The lease of the first still runs: waiting on.
    changes.probed(at(501), &ids, 1, ProbeAnswer::Primary(OsdId(0)), &mut out);
    assert!(sends(&out).is_empty());
    changes.tick(at(1000), &ids, &mut out);
    changes.probed(at(1001), &ids, 1, ProbeAnswer::Primary(OsdId(2)), &mut out);

    let again = sends(&out);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].2, OsdId(2));
    assert!(out.contains(&Effect::Stalled(OsdId(0))));
    out.clear();
    changes.answered(at(1002), &ids, again[0].0, Answer::default(), &mut out);
    assert!(out.contains(&Effect::Resumed));
}

#[test]
fn truncation_append_and_sync_travel_alone_and_in_order() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"a", &mut out);
    changes.add(at(0), &ids, Change::Truncate { length: 0 }, &mut out);
    changes.write(at(0), &ids, 20, b"b", &mut out);
    changes.add(at(0), &ids, Change::Sync, &mut out);

    let mut kinds = Vec::new();
    while let Some(send) = sends(&std::mem::take(&mut out)).first().cloned() {
        kinds.push(send.4.clone());
        changes.answered(at(1), &ids, send.0, Answer::default(), &mut out);
    }

    assert!(matches!(kinds[0], Change::Write { offset: 0, .. }));
    assert_eq!(kinds[1], Change::Truncate { length: 0 });
    assert!(matches!(kinds[2], Change::Write { offset: 20, .. }));
    assert_eq!(kinds[3], Change::Sync);
    assert!(changes.is_idle());
}

#[test]
fn soft_mount_gives_up_after_its_time() {
    let route = Route::new(vec![OsdId(0)]);
    let mut changes = Changes::new(route, limits(), Some(Duration::from_secs(3)));
    let (ids, mut out) = (IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"bytes", &mut out);
    let token = changes.flush(at(0), &ids, &mut out);
    out.clear();

    changes.tick(at(3000), &ids, &mut out);

    assert!(out.contains(&Effect::Settled {
        token,
        outcome: Err(5),
        end: 5
    }));
    assert!(changes.settled_below() > token);
}

#[test]
fn peek_finds_bytes_only_when_one_write_has_them_all() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"abcdef", &mut out);
    changes.flush(at(0), &ids, &mut out);
    changes.write(at(0), &ids, 8, b"gh", &mut out);

    assert_eq!(changes.peek(1, 3), Some(Bytes::from_static(b"bcd")));
    assert_eq!(changes.peek(8, 2), Some(Bytes::from_static(b"gh")));
    assert_eq!(changes.peek(4, 6), None);
    assert!(changes.concerns(9, 1));
    assert!(!changes.concerns(6, 2));
    assert_eq!(changes.pending_end(), 10);
}

// ---- the machine among unreliable servers

/// Servers that share one replicated object; only the primary applies.
#[derive(Default)]
struct World {
    object: Vec<u8>,
    mark: u64,
    append: (u64, u64),
    primary: u64,
    /// Per server: what travels there, oldest first.
    streams: [VecDeque<(u64, u64, u64, Change)>; 3],
    /// Requests of connections that broke: they may still arrive, late.
    late: Vec<(u64, Change)>,
    /// Changes that are on their way or may be: for the overlap rule.
    refused_stale: u32,
}

impl World {
    /// Applies a change as a primary does; none if it is older than what was applied.
    fn apply(&mut self, change_id: u64, change: &Change) -> Option<Answer> {
        let mut answer = Answer::default();
        match change {
            Change::Sync => {}
            _ if change_id <= self.mark => return None,
            Change::Write { offset, bytes } => self.put(*offset, bytes),
            Change::Truncate { length } => self.object.resize(*length as usize, 0),
            Change::Append { append_id, bytes } => {
                if self.append.0 != *append_id {
                    self.append = (*append_id, self.object.len() as u64);
                    self.put(self.object.len() as u64, bytes);
                }
                answer.offset = self.append.1;
            }
        }
        self.mark = self.mark.max(change_id);
        answer.length = self.object.len() as u64;
        Some(answer)
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
                    change_id,
                    change,
                } => {
                    self.check_overlap(attempt, &change);
                    let stream = &mut self.world.streams[osd.0 as usize];
                    stream.push_back((token, attempt, change_id, change));
                }
                Effect::Settled { token, outcome, .. } => self.settled.push((token, outcome)),
                Effect::Renew => self.renewing = true,
                Effect::Probe { attempt, osd } => self.probes.push((attempt, osd)),
                Effect::Stalled(_) | Effect::Resumed => {}
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
        let Some((token, attempt, change_id, change)) = self.world.streams[osd].pop_front() else {
            return;
        };
        if osd as u64 != self.world.primary {
            let primary = OsdId(self.world.primary);
            return self.fail(token, attempt, Failure::Redirect(Some(primary)));
        }
        match self.world.apply(change_id, &change) {
            Some(answer) => {
                let mut out = Vec::new();
                self.changes
                    .answered(at(self.now), &self.ids, token, answer, &mut out);
                self.effects(out);
            }
            // Late itself: nobody in the machine may wait for it any more.
            None => self.world.refused_stale += 1,
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
                    append_id: self.ids.draw(),
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
                for (attempt, _) in std::mem::take(&mut self.probes) {
                    let answer = ProbeAnswer::Primary(OsdId(self.world.primary));
                    self.changes
                        .probed(at(self.now), &self.ids, attempt, answer, &mut out);
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
                    self.world.apply(id, &change);
                }
            }
            Step::Busy(osd) => {
                if let Some((token, attempt, ..)) = self.world.streams[*osd].pop_front() {
                    self.fail(token, attempt, Failure::Retry);
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
            run.world.apply(id, &change);
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

#[test]
fn wakeups_are_in_the_future_after_a_tick() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"bytes", &mut out);
    let mut now = at(0);

    for _ in 0..20 {
        let Some(next) = changes.next_wakeup() else {
            panic!("something is pending and nobody wakes it");
        };
        assert!(next > now, "{next:?} is not after {now:?}");
        now = next.max(now + MS);
        changes.tick(now, &ids, &mut out);
    }
}
