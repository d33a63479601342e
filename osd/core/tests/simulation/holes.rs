//! Holes are neither read nor asked for, however large they are.

use osd_core::{Call, CallKind, Config, Effect, Op};
use proto::peer;
use proto::peer::request::Op as PeerOp;
use proto::peer::response::Reply;
use types::SUM_BYTES;

use crate::bench::*;

const LENGTH: u64 = 64 << 20;
const BLOCKS: u64 = LENGTH / SUM_BYTES;

fn sums_of_zeros(first: u64) -> Reply {
    let count = (BLOCKS - first).min(osd_core::config::SUMS_WINDOW.into());
    let zeros = vec![0; SUM_BYTES as usize];
    Reply::BlockSums(peer::BlockSums {
        sums: vec![crc32c::crc32c(&zeros); count as usize],
        length_bytes: LENGTH,
        zero_blocks: BLOCKS - first - count,
    })
}

fn sent(effects: &[Effect]) -> Vec<(usize, Call)> {
    calls(effects, |_| true)
}

/// The primary's own copy and that of another replica are compared with one that is a single hole.
#[test]
fn comparing_a_hole_takes_a_message_or_two() {
    let mut bench = Bench::new(3, Config::default());
    let seek = |hole| Op::Seek { offset: 9, hole };
    bench.client(1, seek(false));
    bench.client(2, seek(true));
    let ahead = || {
        Reply::Activated(peer::Activated {
            position: Some(peer::Position {
                epoch: EPOCH - 1,
                holder: 2,
                seq: 1,
            }),
            exists: true,
            length_bytes: LENGTH,
            ..peer::Activated::default()
        })
    };

    let mut effects = bench.hold(false, EPOCH);
    let mut windows = 0;
    let mut found = Vec::new();
    while let Some((peer, call)) = sent(&effects).first().copied() {
        let rest: Vec<_> = sent(&effects).into_iter().skip(1).collect();
        let mut next = Vec::new();
        for (peer, call) in [(peer, call)].into_iter().chain(rest) {
            let reply = match call.kind {
                CallKind::Activate if peer == 1 => ahead(),
                CallKind::Activate => activated(0, 0, 0),
                CallKind::Sums { first } => {
                    windows += 1;
                    sums_of_zeros(first)
                }
                _ => Reply::CaughtUp(peer::CaughtUp { seq: 1 }),
            };
            next.extend(bench.reply(peer, call, reply));
        }
        found.extend(next.iter().filter_map(|effect| match effect {
            Effect::Reply { result, .. } => result.as_ref().ok().map(|done| done.offset),
            _ => None,
        }));
        effects = next;
    }

    assert!((1..=4).contains(&windows), "{windows} windows");
    assert_eq!(found, [u64::MAX, 9]);
}

#[test]
fn replica_says_how_far_its_zeros_reach() {
    let mut bench = Bench::new(3, Config::default());
    bench.settle(peer_request(1, request(1, EPOCH, 1, activate())));
    let begin = PeerOp::BeginCatchUp(peer::BeginCatchUp {
        seq: 0,
        length_bytes: LENGTH,
        ..peer::BeginCatchUp::default()
    });
    bench.settle(peer_request(1, request(1, EPOCH, 1, begin)));

    let ask = PeerOp::Sums(peer::Sums {
        first_block: 0,
        block_count: 32,
    });
    let effects = bench.settle(peer_request(1, request(1, EPOCH, 1, ask)));

    assert_eq!(answers(&effects), [&sums_of_zeros(0)]);
}
