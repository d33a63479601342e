//! Whom a member asks: a bare majority first, the others when that does not do.

use lease::{Ballot, Body, Event, Message};
use types::{CellId, Duration};

use crate::table::*;

/// Mistake 7: four messages make an uncontended lease, whatever the cell's past, one more ends it.
#[test]
fn an_uncontended_lease_costs_four_messages_and_its_end_one() {
    let mut table = Table::new(3);

    table.acquire(1);
    table.deliver();
    assert_eq!(table.holders(), [1]);
    assert_eq!(table.sent, 4);

    table.release(1);
    table.deliver();
    assert_eq!(table.sent, 5);
}

#[test]
fn members_ask_those_after_them_so_that_the_work_is_spread() {
    let mut table = Table::new(5);
    let mut asked = vec![0; 6];
    for number in 1..=5 {
        table.acquire(number);
        for letter in table.take(is_prepare) {
            asked[letter.to.0 as usize] += 1;
        }
    }

    assert_eq!(asked, [0, 2, 2, 2, 2, 2]);
}

#[test]
fn when_one_of_the_asked_is_silent_the_others_are_asked_and_preferred_from_then_on() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.run_except(table.config.retransmit, |letter| letter.to == member(2));
    assert_eq!(table.holders(), [1]);

    let membership = table.membership.clone();
    let ask = |table: &mut Table, cell| -> Vec<u64> {
        table.act(1, |host, now, out| {
            let begun = host.acquire(now, CellId(cell), &membership, 0, false, out);
            assert_eq!(begun, Ok(()));
        });
        let sent = table.take(is_prepare);
        sent.iter().map(|letter| letter.to.0).collect()
    };
    assert_eq!(ask(&mut table, 1), [3]);

    // Any word of it will do.
    table.acquire(2);
    let prepare = table.take(is_prepare)[0];
    table.deliver_letter(Letter {
        to: member(1),
        ..prepare
    });
    assert_eq!(ask(&mut table, 2), [2]);
}

#[test]
fn when_one_of_the_asked_refuses_the_others_are_asked_at_once() {
    let mut table = Table::new(3);
    // Member 2 promised a ballot of member 3 from before that one forgot everything.
    table.deliver_letter(Letter {
        from: member(3),
        to: member(2),
        message: Message {
            cell: CELL,
            view: 1,
            ballot: Ballot {
                counter: 9,
                member: member(3),
            },
            round: 1,
            body: Body::Prepare,
        },
    });
    table.letters.clear();

    table.acquire(1);
    table.deliver();

    assert_eq!(table.holders(), [1], "no time passed");
    let accepts = table.sent - 5;
    assert_eq!(accepts, 2, "only the willing one was asked to agree");
}

/// Rule 7 with fewer told: whoever may have agreed hears of the end.
#[test]
fn the_end_is_told_to_all_who_were_asked_to_agree_and_a_successor_to_everybody() {
    let ends = |table: &mut Table| -> Vec<u64> {
        let sent = table.take(|letter| {
            matches!(letter.message.body, Body::Accept { ttl, .. } if ttl == Duration::ZERO)
        });
        sent.iter().map(|letter| letter.to.0).collect()
    };
    let mut table = Table::new(3);
    table.acquire(1);
    table.run_except(ms(150), |letter| {
        letter.to == member(2) && is_accept(letter)
    });
    table.release(1);
    assert_eq!(ends(&mut table), [2, 3], "the first one asked was silent");

    table.acquire(1);
    table.deliver();
    table.act(1, |host, now, out| {
        host.hand_over(now, CELL, member(2), out)
    });
    assert_eq!(ends(&mut table), [2, 3]);
    assert!(
        !table
            .events
            .iter()
            .any(|(_, event)| matches!(event, Event::Lost { .. }))
    );
}
