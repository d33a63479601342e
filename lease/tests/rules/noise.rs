//! Messages that no correct member sends, in any order and number.

use lease::{Ballot, Body, Config, Holder, Host, Message, Out};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use types::{CellId, Duration, Instant, MemberId};

use crate::table::*;

/// Small numbers, so that things meet, and the largest ones, so that sums could overflow.
fn number(rng: &mut Xoshiro256PlusPlus) -> u64 {
    match rng.random_range(0..10) {
        0 => u64::MAX,
        1 => rng.random(),
        _ => rng.random_range(0..5),
    }
}

fn duration(rng: &mut Xoshiro256PlusPlus) -> Duration {
    match rng.random_range(0..4) {
        0 => Duration::ZERO,
        1 => Duration::from_nanos(number(rng)),
        _ => ms(rng.random_range(0..2000)),
    }
}

fn somebody(rng: &mut Xoshiro256PlusPlus) -> Option<MemberId> {
    let member = MemberId(number(rng));
    rng.random::<bool>().then_some(member)
}

fn message(rng: &mut Xoshiro256PlusPlus) -> Message {
    let body = match rng.random_range(0..5) {
        0 => Body::Prepare,
        1 => Body::Promise {
            floor_epoch: number(rng),
        },
        2 => Body::Accept {
            epoch: number(rng),
            ttl: duration(rng),
            renewal: rng.random(),
            successor: somebody(rng),
        },
        3 => Body::Accepted { epoch: number(rng) },
        _ => Body::Reject {
            promised: Ballot {
                counter: number(rng),
                member: MemberId(number(rng)),
            },
            view: number(rng),
            floor_epoch: number(rng),
            holder: somebody(rng).map(|member| Holder {
                member,
                remaining: duration(rng),
            }),
        },
    };
    Message {
        cell: CellId(rng.random_range(0..20)),
        view: number(rng),
        ballot: Ballot {
            counter: number(rng),
            member: MemberId(number(rng)),
        },
        // Rounds of the host's own questions, often.
        round: (1 << 40) + rng.random_range(0..200_u64),
        body,
    }
}

/// Whatever comes: no panic, no more cells than allowed, no lease longer than the usable time.
#[test]
fn no_message_breaks_a_host_or_its_limits() {
    for seed in 0..30 {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let config = Config {
            cells_max: 12,
            ..Config::default()
        };
        let mut host = Host::new(member(1), config.clone(), Instant::ZERO, 1, seed, None);
        let mut now = Instant::ZERO + config.quarantine();
        let mut out = Out::new();

        for _ in 0..2000 {
            now += Duration::from_micros(rng.random_range(0..20_000));
            let cell = CellId(rng.random_range(0..20));
            let membership = view(number(&mut rng), &[1, 2, 3]);
            match rng.random_range(0..12) {
                0 => {
                    let (floor, newborn) = (number(&mut rng), rng.random());
                    // Refusals (an old view, no room) are part of the game.
                    let _refused = host.acquire(now, cell, &membership, floor, newborn, &mut out);
                }
                1 => host.release(now, cell, &mut out),
                2 => host.hand_over(now, cell, MemberId(number(&mut rng)), &mut out),
                3 => host.set_floor(now, cell, number(&mut rng)),
                4 => host.view_changed(now, cell, &membership, &mut out),
                5 => host.tick(now, &mut out),
                _ => {
                    let from = MemberId(rng.random_range(1..4));
                    let mut message = message(&mut rng);
                    if rng.random() {
                        message.ballot.member = member(rng.random_range(1..4));
                    }
                    host.message(now, from, message, &mut out);
                }
            }

            assert!(host.stats().cells <= 12, "seed {seed}");
            assert!(host.stats().timers <= host.stats().cells, "seed {seed}");
            if let Some(held) = host.is_valid(now, cell) {
                assert!(held.until <= now + config.usable(), "seed {seed}");
            }
        }
    }
}
