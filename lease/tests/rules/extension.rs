//! Extending a lease, and noticing its end (rule 3).

use lease::{Ballot, Body, Event, Message};
use types::{CellId, Instant};

use crate::table::*;

/// Rule 3: one round trip, same holder, same epoch.
#[test]
fn an_extension_takes_one_round_trip_and_keeps_the_epoch() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();
    table.sent = 0;

    table.run(ms(15_000));

    assert_eq!(table.holders(), [1]);
    assert_eq!(table.epoch(1), Some(2));
    let renewals = table.host(1).stats().counters.renewals as usize;
    assert!(
        (15_000 / 775..=15_000 / 500).contains(&renewals),
        "{renewals}"
    );
    assert_eq!(table.sent, renewals * 2);
}

/// Rule 3: extension needs a majority.
#[test]
fn a_holder_without_a_majority_loses_the_lease_on_time_and_says_so() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();
    let Some(held) = table.host(1).is_valid(Instant::ZERO, CELL) else {
        panic!("not held");
    };
    assert_eq!(held.until.since(table.now), table.config.usable());
    table.take_events();

    table.run_except(ms(1600), |letter| letter.from == member(1));

    assert_eq!(table.holders(), [0; 0]);
    assert_eq!(
        table.take_events(),
        [(
            member(1),
            Event::Lost {
                cell: CELL,
                epoch: 2
            }
        )]
    );
}

/// Rule 3; mistake 3: nobody has to wake up for a lease to be over.
#[test]
fn a_host_that_slept_through_the_end_does_not_believe_in_its_lease() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();

    table.sleep(table.config.usable());

    assert_eq!(table.holders(), [0; 0]);
    let answer = table.letters.len();
    table.acquire(1);
    assert!(matches!(
        table.events.last(),
        Some((_, Event::Lost { epoch: 2, .. }))
    ));
    assert!(
        table.letters.len() > answer,
        "it asks again, from the first phase"
    );
    table.deliver();
    assert_eq!(table.epoch(1), Some(3));
}

/// An answer to an earlier extension says nothing about when the acceptor's timer started for this.
#[test]
fn an_answer_to_an_earlier_question_does_not_extend_the_lease() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();
    table.run_except(ms(800), is_accepted);
    let renewed = table.host(1).stats().counters.renewals;
    assert_eq!(renewed, 0);
    let until = table.hosts[0].is_valid(table.now, CELL).unwrap().until;

    for from in [2, 3] {
        let message = Message {
            cell: CELL,
            view: 1,
            ballot: Ballot {
                counter: 1,
                member: member(1),
            },
            round: (1 << 40) + 2,
            body: Body::Accepted { epoch: 2 },
        };
        table.deliver_letter(Letter {
            from: member(from),
            to: member(1),
            message,
        });
    }

    assert_eq!(
        table.hosts[0].is_valid(table.now, CELL).unwrap().until,
        until
    );
}

/// Renewals of many cells leave together, and not all at one moment.
#[test]
fn renewals_are_batched_into_slots_and_spread_over_the_period() {
    let mut table = Table::new(3);
    let membership = table.membership.clone();
    for cell in 0..1000 {
        table.act(1, |host, now, out| {
            host.acquire(now, CellId(cell), &membership, 0, true, out)
                .unwrap();
        });
    }
    table.deliver();
    let mut batches = Vec::new();

    let end = table.now + ms(780);
    while let Some(at) = table.host(1).next_wakeup().filter(|at| *at <= end) {
        table.now = at;
        let before = table.sent;
        table.act(1, |host, now, out| host.tick(now, out));
        if table.sent > before {
            batches.push(table.sent - before);
        }
        table.deliver();
    }

    assert_eq!(batches.iter().sum::<usize>(), 1000);
    assert!((8..=12).contains(&batches.len()), "{batches:?}");
    assert!(batches.iter().all(|batch| *batch < 250), "{batches:?}");
}
