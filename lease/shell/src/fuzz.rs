//! The decoder of lease frames against any bytes.
//!
//! `cargo test` feeds it a few thousand inputs; `cargo bolero test -p lease-shell fuzz::any_bytes`
//! (from the package `cargo-bolero`) goes on for as long as it is let, guided by coverage.

use bytes::Bytes;
use lease::{Body, Config, Host, Message, Out};
use types::{CellId, Duration, Instant, MemberId};

use crate::config::LEASE_MESSAGES_MAX;
use crate::wire::{FrameError, decode_frame, encode_frame};

/// Inputs in an ordinary test run: a fraction of a second.
const ITERATIONS: usize = 20_000;
/// Bytes of an input: a frame of some ten messages.
const BYTES_MAX: usize = 600;

/// Whatever is believed of a frame is within limits, survives the wire, and harms no host.
fn check(frame: &[u8]) {
    let heard = match decode_frame(Bytes::copy_from_slice(frame)) {
        Ok(heard) => heard,
        Err(FrameError::Broken | FrameError::Overfull) => return,
    };
    assert!(heard.messages.len() + heard.refused <= LEASE_MESSAGES_MAX);
    let again = decode_frame(encode_frame(&heard.messages).into()).unwrap();
    assert_eq!(again.messages, heard.messages);
    assert_eq!(again.refused, 0);

    let config = Config::default();
    let start = Instant::ZERO;
    let mut host = Host::new(MemberId(1), config.clone(), start, 1, 1, None);
    let mut now = start + config.quarantine();
    let mut out = Out::new();
    for message in heard.messages {
        host.message(now, MemberId(2), message, &mut out);
        now += Duration::from_millis(1);
        host.tick(now, &mut out);
    }
}

#[test]
fn any_bytes() {
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_max_len(BYTES_MAX)
        .for_each(check);
}

/// Frames that are nearly right get further into the decoder than noise does.
#[test]
fn nearly_right_frames() {
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_type::<(u64, u64, u8, u16, u8, u16)>()
        .for_each(|(cell, number, kind, at, change, cut)| {
            let body = match kind % 4 {
                0 => Body::Prepare,
                1 => Body::Promise {
                    floor_epoch: *number,
                },
                2 => Body::Accept {
                    epoch: *number,
                    ttl: Duration::from_nanos(number.rotate_left(17)),
                    renewal: kind & 16 != 0,
                    successor: (kind & 32 != 0).then_some(MemberId(*cell)),
                },
                _ => Body::Accepted { epoch: *number },
            };
            let message = Message {
                cell: CellId(u128::from(*cell)),
                view: u64::from(*change),
                ballot: lease::Ballot {
                    counter: number >> 1,
                    member: MemberId(2),
                },
                round: *number,
                body,
            };
            let mut frame = encode_frame(&[message, message]);
            let place = usize::from(*at) % frame.len();
            frame[place] ^= change;
            frame.truncate(frame.len() - usize::from(*cut) % 8);
            check(&frame);
        });
}
