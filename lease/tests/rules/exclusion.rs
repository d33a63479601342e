//! One holder at a time, and how rivals are decided (rules 1 and 8).

use lease::{Ballot, Body, Event, Host, Message};
use types::MemberId;

use crate::table::*;

#[test]
fn a_majority_makes_one_holder_with_an_epoch_of_at_least_two() {
    let mut table = Table::new(3);

    table.acquire(2);
    table.deliver();

    assert_eq!(table.holders(), [2]);
    assert_eq!(table.epoch(2), Some(2));
}

#[test]
fn asking_for_a_held_lease_names_the_holder_and_the_rest_of_its_time() {
    let mut table = Table::new(3);
    table.acquire(2);
    table.deliver();
    table.take_events();
    table.sleep(ms(100));

    table.acquire(3);
    table.deliver();

    let events = table.take_events();
    let [
        (
            asker,
            Event::HeldBy {
                member, remaining, ..
            },
        ),
    ] = events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((asker, member), (MemberId(3), MemberId(2)));
    assert_eq!(remaining, ms(1400));
    assert_eq!(table.holders(), [2]);
}

/// Rule 1, with the own vote missing: the asker learns of the holder from others only.
#[test]
fn a_member_that_missed_the_grant_still_does_not_take_a_running_lease() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver_except(|letter| letter.to == member(3));

    table.acquire(3);
    table.deliver();

    assert_eq!(table.holders(), [1]);
    assert!(matches!(
        table.events.last(),
        Some((MemberId(3), Event::HeldBy { .. }))
    ));
}

#[test]
fn asking_does_not_hinder_the_holders_extension() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver_except(|letter| letter.to == member(3));

    for _ in 0..40 {
        table.acquire(3);
        table.run(ms(100));
    }

    assert_eq!(table.holders(), [1]);
    assert_eq!(table.epoch(1), Some(2));
}

/// Rule 8.
#[test]
fn an_acceptance_after_the_proposers_own_timer_makes_no_holder() {
    let mut table = Table::new(3);
    table.acquire(1);
    while table.letters.iter().any(|letter| !is_accepted(letter)) {
        let letter = table.letters.pop_front().unwrap();
        if is_accepted(&letter) {
            table.letters.push_back(letter);
        } else {
            table.deliver_letter(letter);
        }
    }

    table.sleep(table.config.usable());
    let late = table.take(is_accepted);
    assert!(!late.is_empty());
    for letter in late {
        table.deliver_letter(letter);
    }

    assert_eq!(table.holders(), [0; 0]);
    assert!(table.events.is_empty());
}

/// Mistake 6.
#[test]
fn a_repeated_answer_counts_once() {
    let mut table = Table::new(5);
    table.acquire(1);
    let reachable = |letter: &Letter| letter.to.0 <= 2 && letter.from.0 <= 2;
    while let Some(letter) = table.letters.pop_front() {
        if reachable(&letter) {
            table.deliver_letter(letter);
            table.deliver_letter(letter);
            table.deliver_letter(letter);
        }
    }

    assert_eq!(table.holders(), [0; 0]);
    assert!(!table.letters.iter().any(is_accept));
}

#[test]
fn rivals_are_decided_by_growing_random_backoff() {
    for seed in 0..50 {
        let mut table = Table::new(5);
        let (now, config) = (table.now, table.config.clone());
        for n in 1..=5 {
            let state = table.host(n).shutdown(now);
            let host = Host::new(member(n), config.clone(), now, 2, seed * 5 + n, state);
            *table.host(n) = host;
        }

        for number in 1..=5 {
            table.acquire(number);
        }
        table.run(ms(1000));

        assert_eq!(table.holders().len(), 1, "seed {seed}");
    }
}

#[test]
fn an_acquisition_without_a_majority_ends_with_no_quorum_in_bounded_time() {
    let mut table = Table::new(3);
    table.acquire(1);

    table.run_except(table.config.acquire_max, |_| true);

    assert_eq!(
        table.take_events(),
        [(member(1), Event::NoQuorum { cell: CELL })]
    );
    let now = table.now;
    assert_eq!(
        table.host(1).list(now, 0, 9).cells[0].state,
        lease::CellState::Free
    );
}

#[test]
fn a_lost_message_is_sent_again() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.letters.clear();

    table.run(ms(150));

    assert_eq!(table.holders(), [1]);
}

#[test]
fn a_failed_proposal_leaves_no_lease_behind_at_those_who_agreed() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.run_except(table.config.acquire_max, is_accepted);
    assert_eq!(table.holders(), [0; 0]);

    table.acquire(2);
    table.deliver();

    assert_eq!(table.holders(), [2]);
}

#[test]
fn a_lease_longer_than_the_configured_one_is_refused() {
    let mut table = Table::new(3);
    let body = Body::Accept {
        epoch: 2,
        ttl: ms(1501),
        renewal: false,
        successor: None,
    };
    let ballot = Ballot {
        counter: 1,
        member: member(2),
    };
    let message = Message {
        cell: CELL,
        view: 1,
        ballot,
        round: 1,
        body,
    };

    table.deliver_letter(Letter {
        from: member(2),
        to: member(1),
        message,
    });

    assert!(matches!(table.letters[0].message.body, Body::Reject { .. }));
}

/// A member that can send but not hear, with the highest ballots of all: the others must not wait
/// for it, nor in step with it.
#[test]
fn a_deaf_member_does_not_keep_the_others_from_deciding() {
    let mut table = Table::new(3);
    let deaf = |letter: &Letter| letter.to == member(3);
    let mut decided = false;

    for _ in 0..30 {
        // The deaf one asks first, so its ballot is the higher one of equal counters everywhere.
        for number in [3, 1, 2] {
            table.acquire(number);
        }
        table.run_except(ms(50), deaf);
        decided |= !table.holders().is_empty();
    }

    assert!(decided);
}
