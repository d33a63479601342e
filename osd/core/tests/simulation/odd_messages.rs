//! Messages that make no sense.

use osd_core::{Call, Input, Payload, PeerFailure};
use proto::peer;
use proto::peer::request::Op as PeerOp;
use proto::peer::response::Reply;
use types::Instant;

use crate::bench::{EPOCH, peer_request, serving};
use crate::rng::Rng;
use crate::world::osd;

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

fn odd_mark(rng: &mut Rng) -> peer::SessionMark {
    peer::SessionMark {
        session: odd_number(rng),
        change_id: odd_number(rng),
        append_offset: odd_number(rng),
        first_id: odd_number(rng),
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
                mark: rng.once_in(2).then(|| odd_mark(rng)),
                earlier: rng.once_in(2).then(|| odd_mark(rng)),
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
            base: None,
            base_marks: Vec::new(),
            extends: rng.once_in(2),
            base_length_bytes: odd_number(rng),
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
            zero_blocks: odd_number(rng),
        })),
        _ => Some(Reply::CaughtUp(peer::CaughtUp::default())),
    };
    let response = peer::Response {
        promised_epoch: odd_number(rng),
        promised_holder: odd_number(rng),
        view: odd_number(rng),
        full: rng.once_in(2),
        reply,
    };
    Ok((response, Payload::default()))
}
