//! Which epoch a lease gets (rules 4 and 9).

use lease::{Ballot, Body, Message};

use crate::table::*;

/// Rule 4.
#[test]
fn a_new_epoch_is_above_every_floor_and_every_accepted_epoch_of_the_majority() {
    let mut table = Table::new(3);
    let now = table.now;
    table.host(2).set_floor(now, CELL, 40);

    table.acquire_with(1, 7, false);
    table.deliver_except(|letter| letter.to == member(3) || letter.from == member(3));
    assert_eq!(table.epoch(1), Some(41));

    // The lease of epoch 41 is known to 1 and 2; 3 learns of it from one of them.
    table.release(1);
    table.letters.clear();
    table.sleep(ms(2000));
    table.acquire(3);
    table.deliver();
    assert_eq!(table.epoch(3), Some(42));
}

/// Rule 4: what the layer above does when an activation was refused with a higher epoch.
#[test]
fn an_epoch_that_turned_out_too_low_is_given_back_for_a_higher_one() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();
    let now = table.now;

    table.host(1).set_floor(now, CELL, 9);
    table.release(1);
    table.acquire(1);
    table.deliver();

    assert_eq!(table.epoch(1), Some(10));
}

/// Rule 9.
#[test]
fn an_accept_is_refused_unless_its_epoch_is_above_the_floor_and_all_others_epochs() {
    let accept = |from: u64, counter: u64, round: u64, epoch: u64, renewal: bool| Letter {
        from: member(from),
        to: member(3),
        message: Message {
            cell: CELL,
            view: 1,
            ballot: Ballot {
                counter,
                member: member(from),
            },
            round,
            body: Body::Accept {
                epoch,
                ttl: ms(1500),
                renewal,
                successor: None,
            },
        },
    };
    let mut table = Table::new(3);
    let now = table.now;
    table.host(3).set_floor(now, CELL, 4);
    let agreed = |table: &mut Table, letter: Letter| {
        table.deliver_letter(letter);
        let answer = table.letters.pop_back().unwrap();
        is_accepted(&answer)
    };

    assert!(
        !agreed(&mut table, accept(1, 5, 1, 4, false)),
        "at the floor"
    );
    assert!(agreed(&mut table, accept(1, 5, 2, 5, false)));
    let now = table.now;
    table.host(3).set_floor(now, CELL, 5);
    assert!(
        agreed(&mut table, accept(1, 5, 3, 5, true)),
        "the holder's own floor"
    );
    table.sleep(ms(1500));
    assert!(
        !agreed(&mut table, accept(2, 6, 1, 5, false)),
        "somebody's epoch"
    );
    assert!(
        !agreed(&mut table, accept(2, 6, 2, 5, true)),
        "even as an extension"
    );
    assert!(agreed(&mut table, accept(2, 6, 3, 6, false)));
}

/// Rule 9: paused between the phases.
#[test]
fn a_proposer_that_slept_between_the_phases_starts_again() {
    let mut table = Table::new(3);
    table.acquire(1);
    for letter in table.take(is_prepare) {
        table.deliver_letter(letter);
    }

    table.sleep(table.config.phase_max);
    let promises = table.take(|_| true);
    for letter in promises {
        table.deliver_letter(letter);
    }

    assert!(table.letters.iter().all(is_prepare));
    assert_eq!(table.host(1).stats().counters.too_slow, 1);
    table.deliver();
    assert_eq!(table.holders(), [1]);
}
