//! The shortcut for brand-new cells (rule 6).

use lease::{Ballot, Body, Event, Message};

use crate::table::*;

/// Rule 6; mistake 7: two messages make the lease of a new object.
#[test]
fn the_first_member_takes_a_brand_new_cell_in_one_round_trip() {
    let mut table = Table::new(3);

    table.acquire_with(1, 0, true);
    table.deliver();

    assert_eq!(table.holders(), [1]);
    assert_eq!(table.epoch(1), Some(1), "the incarnation");
    assert_eq!(table.sent, 2);
    assert!(matches!(
        table.events[0].1,
        Event::Held { newborn: true, .. }
    ));
}

#[test]
fn the_shortcut_lease_is_extended_like_any_other_even_by_those_who_missed_its_beginning() {
    let mut table = Table::new(3);
    table.acquire_with(1, 0, true);
    table.deliver_except(|letter| letter.to == member(3));
    let now = table.now;
    table.host(3).set_floor(now, CELL, 1);

    table.run_except(ms(5000), |letter| letter.to == member(2));

    assert_eq!(table.holders(), [1]);
    assert_eq!(table.epoch(1), Some(1));
}

#[test]
fn others_and_those_who_know_better_go_through_both_phases() {
    let mut table = Table::new(3);
    table.acquire_with(2, 0, true);
    table.deliver();
    assert_eq!(table.epoch(2), Some(2), "not the first member");

    table.release(2);
    table.deliver();
    table.acquire_with(1, 0, true);
    table.run(ms(100));
    assert_eq!(table.epoch(1), Some(3), "not a new cell");
}

#[test]
fn a_shortcut_into_a_cell_that_others_know_is_refused_and_falls_back_to_both_phases() {
    let mut table = Table::new(3);
    let now = table.now;
    table.host(2).set_floor(now, CELL, 6);
    table.host(3).set_floor(now, CELL, 6);

    table.acquire_with(1, 0, true);
    table.run(ms(300));

    assert_eq!(table.holders(), [1]);
    assert_eq!(table.epoch(1), Some(7));
}

/// Rule 6: acceptors that know the members do not let another one use ballot 0.
#[test]
fn ballot_zero_of_a_member_that_is_not_first_is_refused() {
    let mut table = Table::new(3);
    let membership = table.membership.clone();
    table.act(3, |host, now, out| {
        host.view_changed(now, CELL, &membership, out)
    });

    table.deliver_letter(Letter {
        from: member(2),
        to: member(3),
        message: Message {
            cell: CELL,
            view: 1,
            ballot: Ballot {
                counter: 0,
                member: member(2),
            },
            round: 1,
            body: Body::Accept {
                epoch: 1,
                ttl: ms(1500),
                renewal: false,
                successor: None,
            },
        },
    });

    assert!(matches!(
        table.letters[0].message.body,
        Body::Reject { holder: None, .. }
    ));
}
