//! One replica with every message in the test's hand.

use bytes::Bytes;
use osd_core::{
    Call, CallKind, ChangeOrder, Config, Effect, Input, LeaseEvent, Membership, MemoryStore,
    ObjectReplica, Op, Payload, ReplicaSet,
};
use proto::peer;
use proto::peer::Refusal;
use proto::peer::request::Op as PeerOp;
use proto::peer::response::Reply;
use types::{Duration, Instant, Remedy, SessionId};

use crate::world::{KEY, osd};

pub(crate) const EPOCH: u64 = (1 << 32) + 5;

/// One replica and what it asked for.
pub(crate) struct Bench {
    pub(crate) replica: ObjectReplica,
    pub(crate) store: MemoryStore,
    pub(crate) now: Instant,
}

impl Bench {
    pub(crate) fn new(members: usize, config: Config) -> Self {
        let mut store = MemoryStore::new();
        let membership = Membership {
            view: 1,
            replicas: ReplicaSet::new((0..members).map(osd).collect::<Vec<_>>()),
            incomplete: false,
            recovered: true,
            policy: types::Policy::default(),
        };
        Self {
            replica: ObjectReplica::open(osd(0), KEY, membership, config, &mut store).unwrap(),
            store,
            now: Instant::ZERO + Duration::from_secs(1),
        }
    }

    pub(crate) fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.now += Duration::from_micros(10);
        self.replica
            .step(self.now, input, &mut self.store, &mut effects);
        effects
    }

    /// Steps and runs the jobs that come of it.
    pub(crate) fn settle(&mut self, input: Input) -> Vec<Effect> {
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

    pub(crate) fn hold(&mut self, newborn: bool, epoch: u64) -> Vec<Effect> {
        let until = self.now + Duration::from_secs(1_000);
        self.settle(Input::Lease(LeaseEvent::Held {
            epoch,
            until,
            newborn,
        }))
    }

    pub(crate) fn client(&mut self, request: u64, op: Op) -> Vec<Effect> {
        self.settle(Input::Client {
            request,
            session: SessionId(1),
            op,
        })
    }

    pub(crate) fn peer(&mut self, from: usize, message: peer::Request) -> Vec<Effect> {
        self.step(peer_request(from, message))
    }

    pub(crate) fn reply(&mut self, from: usize, call: Call, reply: Reply) -> Vec<Effect> {
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

pub(crate) fn peer_request(from: usize, message: peer::Request) -> Input {
    Input::PeerRequest {
        from: osd(from),
        answer: 7,
        message,
        payload: Payload::default(),
    }
}

pub(crate) fn request(from: usize, epoch: u64, attempt: u64, op: PeerOp) -> peer::Request {
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

pub(crate) fn activate() -> PeerOp {
    PeerOp::Activate(peer::Activate::default())
}

pub(crate) fn write(change_id: u64, data: &'static [u8]) -> Op {
    Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(data)),
        append: false,
        order: ChangeOrder::first(change_id),
    }
}

pub(crate) fn read() -> Op {
    Op::Read {
        offset: 0,
        length_bytes: 3,
    }
}

pub(crate) fn answers(effects: &[Effect]) -> Vec<&Reply> {
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::AnswerPeer { response, .. } => response.reply.as_ref(),
        _ => None,
    });
    answers.collect()
}

pub(crate) fn refusal(effects: &[Effect]) -> Option<Refusal> {
    answers(effects).into_iter().find_map(|reply| match reply {
        Reply::Refused(refused) => Some(refused.refusal()),
        _ => None,
    })
}

pub(crate) fn replies(effects: &[Effect]) -> Vec<(u64, Result<Bytes, Remedy>)> {
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

pub(crate) fn calls(effects: &[Effect], kind: fn(CallKind) -> bool) -> Vec<(usize, Call)> {
    let calls = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, call, .. } if kind(call.kind) => Some((to.0 as usize - 1, *call)),
        _ => None,
    });
    calls.collect()
}

pub(crate) fn activated(epoch: u64, holder: u64, seq: u64) -> Reply {
    Reply::Activated(peer::Activated {
        position: Some(peer::Position { epoch, holder, seq }),
        exists: seq > 0,
        length_bytes: if seq > 0 { 3 } else { 0 },
        ..peer::Activated::default()
    })
}

pub(crate) fn is_activate(kind: CallKind) -> bool {
    kind == CallKind::Activate
}

/// A primary of three that serves, with both backups joined.
pub(crate) fn serving() -> (Bench, Vec<(usize, Call)>) {
    serving_with(Config::default())
}

pub(crate) fn serving_with(config: Config) -> (Bench, Vec<(usize, Call)>) {
    let mut bench = Bench::new(3, config);
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

/// That the copy is to be brought up to what the others have, whatever that is.
pub(crate) fn recover() -> Input {
    Input::Recover {
        newest: osd_core::Position::default(),
    }
}
