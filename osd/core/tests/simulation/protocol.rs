//! Single steps of the protocol, with every message in the test's hand.

use bytes::Bytes;
use osd_core::{
    Call, CallKind, Config, Effect, Input, LeaseEvent, Membership, MemoryStore, ObjectReplica, Op,
    Payload, PeerFailure, StoreError, deleted_response,
};
use proto::peer;
use proto::peer::Refusal;
use proto::peer::request::Op as PeerOp;
use proto::peer::response::Reply;
use types::{Duration, Instant, OsdId, Remedy, SessionId};

use crate::rng::Rng;
use crate::world::{KEY, osd};

const EPOCH: u64 = (1 << 32) + 5;

/// One replica and what it asked for.
struct Bench {
    replica: ObjectReplica,
    store: MemoryStore,
    now: Instant,
}

impl Bench {
    fn new(members: usize, config: Config) -> Self {
        let mut store = MemoryStore::new();
        let membership = Membership {
            view: 1,
            members: (0..members).map(osd).collect::<Vec<_>>().into(),
            incomplete: false,
            recovered: true,
        };
        Self {
            replica: ObjectReplica::open(osd(0), KEY, membership, config, &mut store).unwrap(),
            store,
            now: Instant::ZERO + Duration::from_secs(1),
        }
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.now += Duration::from_micros(10);
        self.replica
            .step(self.now, input, &mut self.store, &mut effects);
        effects
    }

    /// Steps and runs the jobs that come of it.
    fn settle(&mut self, input: Input) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.step(input) {
                match effect {
                    Effect::Sync {
                        ticket, mut job, ..
                    } => inputs.push(Input::StoreDone {
                        ticket,
                        result: job.run(),
                    }),
                    other => all.push(other),
                }
            }
        }
        all
    }

    fn hold(&mut self, newborn: bool, epoch: u64) -> Vec<Effect> {
        let until = self.now + Duration::from_secs(1_000);
        self.settle(Input::Lease(LeaseEvent::Held {
            epoch,
            until,
            newborn,
        }))
    }

    fn client(&mut self, request: u64, op: Op) -> Vec<Effect> {
        self.settle(Input::Client {
            request,
            session: SessionId(1),
            op,
        })
    }

    fn peer(&mut self, from: usize, message: peer::Request) -> Vec<Effect> {
        self.step(peer_request(from, message))
    }

    fn reply(&mut self, from: usize, call: Call, reply: Reply) -> Vec<Effect> {
        let response = peer::Response {
            view: 1,
            reply: Some(reply),
            ..peer::Response::default()
        };
        self.settle(Input::PeerReply {
            from: osd(from),
            call,
            reply: Ok((response, Payload::default())),
        })
    }
}

fn peer_request(from: usize, message: peer::Request) -> Input {
    Input::PeerRequest {
        from: osd(from),
        answer: 7,
        message,
        payload: Payload::default(),
    }
}

fn request(from: usize, epoch: u64, attempt: u64, op: PeerOp) -> peer::Request {
    peer::Request {
        object: Some(KEY.object.into()),
        pg: KEY.pg.0,
        view: 1,
        epoch,
        holder: osd(from).0,
        attempt,
        op: Some(op),
    }
}

fn activate() -> PeerOp {
    PeerOp::Activate(peer::Activate::default())
}

fn write(change_id: u64, data: &'static [u8]) -> Op {
    Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(data)),
        change_id,
        append: None,
    }
}

fn read() -> Op {
    Op::Read {
        offset: 0,
        length_bytes: 3,
    }
}

fn answers(effects: &[Effect]) -> Vec<&Reply> {
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::AnswerPeer { response, .. } => response.reply.as_ref(),
        _ => None,
    });
    answers.collect()
}

fn refusal(effects: &[Effect]) -> Option<Refusal> {
    answers(effects).into_iter().find_map(|reply| match reply {
        Reply::Refused(refused) => Some(refused.refusal()),
        _ => None,
    })
}

fn replies(effects: &[Effect]) -> Vec<(u64, Result<Bytes, Remedy>)> {
    let replies = effects.iter().filter_map(|effect| match effect {
        Effect::Reply {
            request, result, ..
        } => Some((
            *request,
            match result {
                Ok(done) => Ok(done.payload.clone()),
                Err(fault) => Err(fault.remedy),
            },
        )),
        _ => None,
    });
    replies.collect()
}

fn calls(effects: &[Effect], kind: fn(CallKind) -> bool) -> Vec<(usize, Call)> {
    let calls = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, call, .. } if kind(call.kind) => Some((to.0 as usize - 1, *call)),
        _ => None,
    });
    calls.collect()
}

fn activated(epoch: u64, holder: u64, seq: u64) -> Reply {
    Reply::Activated(peer::Activated {
        position: Some(peer::Position { epoch, holder, seq }),
        exists: seq > 0,
        length_bytes: if seq > 0 { 3 } else { 0 },
        ..peer::Activated::default()
    })
}

fn is_activate(kind: CallKind) -> bool {
    kind == CallKind::Activate
}

/// A primary of three that serves, with both backups joined.
fn serving() -> (Bench, Vec<(usize, Call)>) {
    let mut bench = Bench::new(3, Config::default());
    bench.client(1, write(1, b"one"));
    let effects = bench.hold(true, 1);
    let sent = calls(&effects, is_activate);
    let changes = calls(&effects, |kind| matches!(kind, CallKind::Replicate { .. }));
    for (peer, call) in sent {
        bench.reply(peer, call, activated(1, 1, 0));
    }
    let mut done = Vec::new();
    for (peer, call) in &changes {
        let reply = Reply::Replicated(peer::Replicated { seq: 1 });
        done.extend(bench.reply(*peer, *call, reply));
    }
    assert_eq!(replies(&done), [(1, Ok(Bytes::new()))]);
    (bench, changes)
}

#[test]
fn promise_is_answered_only_when_it_is_on_disk() {
    let mut bench = Bench::new(3, Config::default());

    let effects = bench.peer(1, request(1, EPOCH, 1, activate()));

    assert!(answers(&effects).is_empty());
    let Some(Effect::Sync {
        ticket, mut job, ..
    }) = effects.into_iter().next_back()
    else {
        panic!("nothing is written");
    };
    let result = job.run();
    bench.store.lose_power(&mut |_| 1);
    let effects = bench.step(Input::StoreDone { ticket, result });
    assert!(matches!(answers(&effects)[..], [Reply::Activated(_)]));
    let reopened = Bench {
        replica: ObjectReplica::open(
            osd(0),
            KEY,
            Membership {
                view: 1,
                members: (0..3).map(osd).collect::<Vec<_>>().into(),
                incomplete: false,
                recovered: false,
            },
            Config::default(),
            &mut bench.store,
        )
        .unwrap(),
        ..bench
    };
    assert_eq!(reopened.replica.status().promised.epoch, EPOCH);
}

#[test]
fn older_epochs_and_the_same_epoch_of_somebody_else_are_refused() {
    let mut bench = Bench::new(3, Config::default());
    bench.settle(peer_request(1, request(1, EPOCH, 1, activate())));

    for (from, epoch) in [(2, EPOCH - 1), (2, EPOCH), (1, EPOCH - 1)] {
        let effects = bench.peer(from, request(from, epoch, 9, activate()));
        assert_eq!(refusal(&effects), Some(Refusal::OldEpoch), "{from} {epoch}");
    }
    let again = bench.peer(1, request(1, EPOCH, 1, activate()));
    assert_eq!(
        refusal(&again),
        Some(Refusal::Gap),
        "an attempt counts once"
    );
    let lied = bench.peer(2, request(1, EPOCH, 2, activate()));
    assert_eq!(refusal(&lied), Some(Refusal::Malformed));
    let stranger = bench.peer(8, request(8, EPOCH + 1, 1, activate()));
    assert_eq!(refusal(&stranger), Some(Refusal::NotAMember));
    let mut old_view = request(1, EPOCH, 2, activate());
    old_view.view = 0;
    assert_eq!(refusal(&bench.peer(1, old_view)), Some(Refusal::OldView));
}

#[test]
fn changes_are_taken_in_order_and_only_after_adoption() {
    let mut bench = Bench::new(3, Config::default());
    bench.settle(peer_request(1, request(1, EPOCH, 1, activate())));
    let change = |seq| {
        PeerOp::Replicate(peer::Replicate {
            seq,
            change: Some(peer::Change::default()),
        })
    };

    let early = bench.peer(1, request(1, EPOCH, 1, change(1)));
    assert_eq!(refusal(&early), Some(Refusal::Gap));
    let adopted = bench.peer(
        1,
        request(1, EPOCH, 1, PeerOp::Adopt(peer::Adopt::default())),
    );
    assert!(matches!(answers(&adopted)[..], [Reply::CaughtUp(_)]));
    let gap = bench.peer(1, request(1, EPOCH, 1, change(2)));
    assert_eq!(refusal(&gap), Some(Refusal::Gap));
    let next = bench.peer(1, request(1, EPOCH, 1, change(1)));
    assert!(matches!(answers(&next)[..], [Reply::Replicated(_)]));
}

#[test]
fn one_backup_that_answers_twice_is_no_quorum() {
    let mut bench = Bench::new(5, Config::default());
    bench.client(1, write(1, b"one"));
    let effects = bench.hold(true, 1);
    let sent = calls(&effects, is_activate);
    for (peer, call) in &sent {
        bench.reply(*peer, *call, activated(1, 1, 0));
    }
    let changes = calls(&effects, |kind| matches!(kind, CallKind::Replicate { .. }));
    let (peer, call) = changes[0];
    let applied = || Reply::Replicated(peer::Replicated { seq: 1 });

    let mut effects = bench.reply(peer, call, applied());
    effects.extend(bench.reply(peer, call, applied()));
    assert!(replies(&effects).is_empty());

    let (other, call) = changes[1];
    let effects = bench.reply(other, call, applied());
    assert_eq!(replies(&effects), [(1, Ok(Bytes::new()))]);
}

/// Whether a value found on one replica of five is served before a third has it.
pub(crate) fn serves_before_quorum(config: Config) -> bool {
    let mut bench = Bench::new(5, config);
    bench.client(1, read());
    let effects = bench.hold(false, EPOCH);
    let mut served = false;
    // One replica is ahead, so the activation for reading becomes one for writing.
    let answer = |peer: usize| match peer {
        1 => activated(EPOCH - 1, 2, 1),
        _ => activated(0, 0, 0),
    };
    let mut sent = calls(&effects, is_activate);
    let mut effects = Vec::new();
    for _ in 0..2 {
        let mut next = Vec::new();
        for (peer, call) in sent.into_iter().take(3) {
            let done = bench.reply(peer, call, answer(peer));
            next.extend(calls(&done, is_activate));
            effects.extend(done);
        }
        sent = next;
    }
    // It fetches from replica 1, the only one that has the value.
    let sums = calls(&effects, |kind| matches!(kind, CallKind::Sums { .. }));
    let (source, call) = *sums.first().expect("it compares with the source");
    assert_eq!(source, 1);
    let block = Reply::BlockSums(peer::BlockSums {
        sums: vec![1],
        length_bytes: 3,
    });
    let effects = bench.reply(source, call, block);
    let fetches = calls(&effects, |kind| matches!(kind, CallKind::Fetch { .. }));
    let (_, call) = *fetches.first().expect("it fetches the block");
    let response = peer::Response {
        view: 1,
        reply: Some(Reply::Fetched(peer::Fetched { length_bytes: 3 })),
        ..peer::Response::default()
    };
    let effects = bench.settle(Input::PeerReply {
        from: osd(source),
        call,
        reply: Ok((response, Payload::of(Bytes::from_static(b"new")))),
    });
    served |= !replies(&effects).is_empty();
    let adopts = calls(&effects, |kind| kind == CallKind::Adopt);
    for (peer, call) in adopts {
        let effects = bench.reply(peer, call, Reply::CaughtUp(peer::CaughtUp { seq: 1 }));
        served |= !replies(&effects).is_empty();
    }
    served
}

#[test]
fn value_found_on_one_of_five_is_not_served_before_a_quorum_has_it() {
    assert!(!serves_before_quorum(Config::default()));
}

#[test]
fn newer_promise_elsewhere_ends_the_tenure_and_raises_the_floor() {
    let (mut bench, changes) = serving();
    let effects = bench.client(2, write(2, b"two"));
    let sent = calls(&effects, |kind| matches!(kind, CallKind::Replicate { .. }));
    assert_eq!(sent.len(), changes.len());

    let response = peer::Response {
        promised_epoch: EPOCH,
        promised_holder: 3,
        view: 1,
        reply: Some(Reply::Refused(peer::Refused {
            refusal: Refusal::OldEpoch.into(),
            ..peer::Refused::default()
        })),
    };
    let effects = bench.settle(Input::PeerReply {
        from: osd(sent[0].0),
        call: sent[0].1,
        reply: Ok((response, Payload::default())),
    });

    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
    let released = |effect: &Effect| matches!(effect, Effect::ReleaseLease);
    assert!(effects.iter().any(released));
    let effects = bench.client(3, write(3, b"two"));
    let floor = effects.iter().find_map(|effect| match effect {
        Effect::AcquireLease { floor, newborn } => Some((*floor, *newborn)),
        _ => None,
    });
    assert_eq!(floor, Some((EPOCH, false)));
}

#[test]
fn old_change_of_a_session_is_refused_and_an_append_is_done_once() {
    let (mut bench, _) = serving();
    let effects = bench.client(2, write(1, b"old"));
    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);

    let append = |change_id| Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(b"end")),
        change_id,
        append: Some(9),
    };
    bench.client(3, append(2));
    bench.client(4, append(3));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"oneend");
}

#[test]
fn silent_backup_is_left_behind_and_writes_go_on() {
    let (mut bench, _) = serving();
    bench.client(2, write(2, b"two"));
    bench.now += Duration::from_secs(2);
    let effects = bench.settle(Input::Tick);

    let behind = effects.iter().find_map(|effect| match effect {
        Effect::Behind { replicas } => Some(replicas.clone()),
        _ => None,
    });
    assert_eq!(behind, Some(vec![OsdId(2), OsdId(3)]));
    bench.now += Duration::from_secs(5);
    let effects = bench.settle(Input::Tick);
    assert_eq!(
        replies(&effects),
        [(2, Err(Remedy::Retry))],
        "no request waits for ever"
    );
}

#[test]
fn expired_lease_ends_the_tenure_whatever_comes_first() {
    let (mut bench, _) = serving();
    bench.now += Duration::from_secs(2_000);

    let effects = bench.client(2, read());

    assert!(replies(&effects).iter().all(|(_, result)| result.is_err()));
    let asks = |effect: &Effect| matches!(effect, Effect::AcquireLease { .. });
    bench.now += Duration::from_secs(1);
    assert!(bench.settle(Input::Tick).iter().any(asks));
}

#[test]
fn full_queue_says_busy() {
    let mut bench = Bench::new(3, Config::default());
    let max = osd_core::config::WAITING_REQUESTS_MAX as u64;
    for request in 0..max {
        assert!(replies(&bench.client(request, read())).is_empty());
    }

    let effects = bench.client(max, read());

    assert_eq!(replies(&effects), [(max, Err(Remedy::Retry))]);
}

#[test]
fn failed_sync_leaves_the_object_to_others() {
    let (mut bench, _) = serving();
    bench.store.fail_syncs();

    let effects = bench.client(2, Op::Sync);

    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::ReleaseLease))
    );
    let effects = bench.client(3, read());
    assert_eq!(replies(&effects), [(3, Err(Remedy::Redirect))]);
    let effects = bench.peer(1, request(1, EPOCH, 1, activate()));
    assert_eq!(refusal(&effects), Some(Refusal::StoreFailed));
}

#[test]
fn full_disk_is_told_to_the_program_and_replicas_stay_equal() {
    let (mut bench, _) = serving();
    bench.store.limit(Some(5));

    let effects = bench.client(2, write(2, b"longer than that"));

    assert_eq!(replies(&effects), [(2, Err(Remedy::Surface))]);
    let shared = effects.iter().find_map(|effect| match effect {
        Effect::Send { payload, .. } => Some(payload.bytes.clone()),
        _ => None,
    });
    assert_eq!(shared, Some(Bytes::from_static(b"longe")));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"longe");
}

#[test]
fn deleted_object_is_gone_and_peers_are_told() {
    let (mut bench, _) = serving();

    let effects = bench.settle(Input::Delete { request: 2 });

    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Deleted))
    );
    assert_eq!(bench.store.bytes(KEY), None);
    assert!(matches!(deleted_response(1).reply, Some(Reply::Refused(_))));
}

#[test]
fn shutdown_makes_the_object_clean_and_releases_the_lease() {
    let (mut bench, _) = serving();

    let effects = bench.settle(Input::Shutdown);
    let syncs = calls(&effects, |kind| matches!(kind, CallKind::Sync { .. }));
    assert_eq!(syncs.len(), 2);
    let mut effects = Vec::new();
    for (peer, call) in syncs {
        let synced = Reply::Synced(peer::Synced { seq: 1 });
        effects.extend(bench.reply(peer, call, synced));
    }

    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::ReleaseLease))
    );
    assert!(bench.replica.status().clean && bench.replica.is_idle());
}

/// Messages that make no sense are refused or ignored; nothing panics, and the store stays usable.
#[test]
fn no_message_of_a_peer_panics() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let (mut bench, changes) = serving();
        for _ in 0..200 {
            let input = match rng.below(4) {
                0 => Input::PeerReply {
                    from: osd(rng.below(4) as usize),
                    call: Call {
                        attempt: rng.below(5),
                        ..changes[rng.below(changes.len() as u64) as usize].1
                    },
                    reply: odd_reply(&mut rng),
                },
                _ => peer_request(rng.below(4) as usize, odd_request(&mut rng)),
            };
            bench.settle(input);
        }
        assert!(
            bench
                .replica
                .next_wakeup()
                .is_none_or(|at| at > Instant::ZERO)
        );
    }
}

fn odd_number(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => u64::MAX,
        1 => 1 << rng.below(64),
        2 => EPOCH + rng.below(3),
        _ => rng.below(4),
    }
}

fn odd_request(rng: &mut Rng) -> peer::Request {
    let op = match rng.below(12) {
        0 => None,
        1 | 2 => Some(PeerOp::Activate(peer::Activate {
            newborn: rng.once_in(2),
            reading: rng.once_in(2),
            position: None,
        })),
        3 => Some(PeerOp::Replicate(peer::Replicate {
            seq: odd_number(rng),
            change: (!rng.once_in(4)).then(|| peer::Change {
                // Far writes would only fill the test's memory.
                offset: if rng.once_in(2) {
                    u64::MAX
                } else {
                    rng.below(1_000)
                },
                truncate: rng.once_in(2),
                mark: None,
            }),
        })),
        4 => Some(PeerOp::Sync(peer::Sync {
            seq: odd_number(rng),
            clean: rng.once_in(2),
        })),
        5 => Some(PeerOp::Sums(peer::Sums {
            first_block: odd_number(rng),
            block_count: odd_number(rng) as u32,
        })),
        6 => Some(PeerOp::Fetch(peer::Fetch {
            offset: odd_number(rng),
            length_bytes: odd_number(rng) as u32,
        })),
        7 => Some(PeerOp::BeginCatchUp(peer::BeginCatchUp {
            seq: odd_number(rng),
            length_bytes: if rng.once_in(2) {
                u64::MAX
            } else {
                rng.below(1_000)
            },
        })),
        8 => Some(PeerOp::Repair(peer::Repair {
            seq: odd_number(rng),
            offset: odd_number(rng) & !(0xffff << 40) & 0xffff_ffff,
            zero_bytes: odd_number(rng),
        })),
        9 => Some(PeerOp::Adopt(peer::Adopt {
            seq: odd_number(rng),
            length_bytes: if rng.once_in(2) {
                u64::MAX
            } else {
                rng.below(1_000)
            },
            marks: vec![peer::SessionMark::default(); rng.below(70) as usize],
        })),
        10 => Some(PeerOp::ListObjects(peer::ListObjects::default())),
        _ => Some(PeerOp::WantCatchUp(peer::WantCatchUp::default())),
    };
    peer::Request {
        object: None,
        pg: 0,
        view: if rng.once_in(9) { odd_number(rng) } else { 1 },
        epoch: odd_number(rng),
        holder: rng.below(4),
        attempt: odd_number(rng),
        op,
    }
}

fn odd_reply(rng: &mut Rng) -> Result<(peer::Response, Payload), PeerFailure> {
    let reply = match rng.below(7) {
        0 => return Err(PeerFailure::Disconnected),
        1 => None,
        2 => Some(Reply::Activated(peer::Activated::default())),
        3 => Some(Reply::Replicated(peer::Replicated {
            seq: odd_number(rng),
        })),
        4 => Some(Reply::Refused(peer::Refused {
            refusal: rng.below(14) as i32,
            ..peer::Refused::default()
        })),
        5 => Some(Reply::BlockSums(peer::BlockSums {
            sums: vec![0; rng.below(100) as usize],
            length_bytes: odd_number(rng),
        })),
        _ => Some(Reply::CaughtUp(peer::CaughtUp::default())),
    };
    let response = peer::Response {
        promised_epoch: odd_number(rng),
        promised_holder: odd_number(rng),
        view: odd_number(rng),
        reply,
    };
    Ok((response, Payload::default()))
}

/// The adapter's errors reach the machine as what they are.
#[test]
fn store_that_fails_while_reading_is_left_to_others() {
    let (mut bench, _) = serving();
    let ticket = bench.step(Input::Client {
        request: 2,
        session: SessionId(1),
        op: Op::Sync,
    });
    let ticket = ticket.into_iter().find_map(|effect| match effect {
        Effect::Sync { ticket, .. } => Some(ticket),
        _ => None,
    });

    let effects = bench.settle(Input::StoreDone {
        ticket: ticket.unwrap(),
        result: Err(StoreError::Io(std::io::Error::other("disk"))),
    });

    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
}
