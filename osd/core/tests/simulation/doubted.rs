//! A block that a loss of power may have torn, and a replica that may have it as it was and keeps quiet.

use bytes::Bytes;
use osd_core::{
    CallKind, Config, Effect, Input, Membership, ObjectReplica, Op, Payload, PeerFailure,
    ReplicaSet,
};
use proto::peer;
use proto::peer::response::Reply;
use types::Duration;

use crate::bench::{Bench, EPOCH, activated, calls, is_activate, read, serving_with, write};
use crate::failures::count;
use crate::world::{KEY, osd};

/// A server alone after power failed everywhere; a bit of what it has rotted then.
fn after_an_outage(config: &Config) -> Bench {
    let (mut bench, _) = serving_with(config.clone());
    bench.client(2, write(2, b"two"));
    bench.client(3, Op::Sync { follows: 0 });
    bench.store.lose_power(&mut |_| 0);
    assert!(bench.store.damage(KEY, 0));
    let membership = Membership {
        view: 1,
        replicas: ReplicaSet::new((0..3).map(osd).collect::<Vec<_>>()),
        incomplete: false,
        recovered: true,
        policy: types::Policy::default(),
    };
    let store = &mut bench.store;
    bench.replica = ObjectReplica::open(osd(0), KEY, membership, config.clone(), store).unwrap();
    bench
}

/// Answers what the primary asks: the first backup has the change before, the second keeps quiet.
/// Returns all effects until nothing more is asked.
fn answer(bench: &mut Bench, effects: Vec<Effect>) -> Vec<Effect> {
    let mut all = Vec::new();
    let mut left = effects;
    while !left.is_empty() {
        let asked = calls(&left, |_| true);
        all.append(&mut left);
        for (peer, call) in asked {
            let (reply, bytes): (_, &'static [u8]) = match call.kind {
                _ if peer == 2 => (None, b""),
                kind if is_activate(kind) => (Some(activated(1, 1, 1)), b""),
                CallKind::Begin => (Some(Reply::CaughtUp(peer::CaughtUp { seq: 2 })), b""),
                CallKind::Sums { .. } => {
                    let sums = peer::BlockSums {
                        sums: vec![crc32c::crc32c(b"one")],
                        ..peer::BlockSums::default()
                    };
                    (Some(Reply::BlockSums(sums)), b"")
                }
                CallKind::Fetch { .. } => {
                    let fetched = peer::Fetched { length_bytes: 3 };
                    (Some(Reply::Fetched(fetched)), b"one")
                }
                _ => continue,
            };
            let reply = match reply {
                Some(reply) => Ok((
                    peer::Response {
                        view: 1,
                        reply: Some(reply),
                        ..peer::Response::default()
                    },
                    Payload::of(Bytes::from_static(bytes)),
                )),
                None => Err(PeerFailure::Timeout),
            };
            left.extend(bench.settle(Input::PeerReply {
                from: osd(peer),
                call,
                reply,
            }));
        }
    }
    all
}

/// A second, in which a program reads.
fn wait(bench: &mut Bench) -> Vec<Effect> {
    bench.now += Duration::from_secs(1);
    let mut effects = bench.settle(Input::Tick);
    effects.extend(bench.client(1, read()));
    answer(bench, effects)
}

fn taken(effects: &[Effect]) -> usize {
    count(effects, |effect| {
        matches!(effect, Effect::TakenAsFound { .. })
    })
}

/// How often the block was taken as found while somebody who may have it keeps quiet, and after the longest
/// wait for that.
pub(crate) fn taken_as_found(config: &Config) -> (usize, usize) {
    let mut bench = after_an_outage(config);
    let end = bench.now + config.doubt_wait;
    bench.client(1, read());
    let effects = bench.hold(false, EPOCH);
    let mut before = taken(&answer(&mut bench, effects));
    while bench.now < end {
        before += taken(&wait(&mut bench));
    }
    let after = (0..20).map(|_| taken(&wait(&mut bench)));
    (before, after.sum())
}

#[test]
fn block_waits_for_the_replica_that_may_have_it_but_not_for_ever() {
    assert_eq!(taken_as_found(&Config::default()), (0, 1));
}
