//! Changes of the member list (rule 5).

use lease::{Error, Event, Membership, Out};
use types::MemberId;

use crate::table::*;

/// Rule 5.
#[test]
fn a_message_of_an_old_view_is_refused_with_the_newer_view() {
    let mut table = Table::new(3);
    let newer = view(5, &[1, 2, 4]);
    for number in [1, 2] {
        table.act(number, |host, now, out| {
            host.view_changed(now, CELL, &newer, out)
        });
    }

    table.acquire(3);
    table.deliver();

    assert_eq!(table.holders(), [0; 0]);
    let seen = (
        member(3),
        Event::OldView {
            cell: CELL,
            view: 5,
        },
    );
    assert_eq!(table.take_events(), [seen]);
    let (now, old) = (table.now, table.membership.clone());
    let refused = table
        .host(1)
        .acquire(now, CELL, &old, 0, false, &mut Out::new());
    assert_eq!(refused, Err(Error::OldView { given: 1, known: 5 }));
}

#[test]
fn a_view_change_ends_the_lease_but_not_the_memory_of_it() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();
    table.take_events();
    let newer = view(2, &[1, 2, 3]);

    table.act(2, |host, now, out| {
        host.view_changed(now, CELL, &newer, out)
    });
    assert_eq!(table.holders(), [1]);
    table.membership = newer.clone();
    table.acquire(2);
    assert!(matches!(
        table.take_events()[..],
        [(MemberId(2), Event::HeldBy { .. })]
    ));

    table.act(1, |host, now, out| {
        host.view_changed(now, CELL, &newer, out)
    });
    table.deliver();
    assert_eq!(table.holders(), [0; 0]);
    table.acquire(2);
    table.deliver();
    assert_eq!(table.epoch(2), Some(3));
}

/// Members 1, 2 and 3 become 1, 2 and 4.
fn changing() -> Membership {
    Membership::changing(2, &[1, 2, 4].map(member), &[1, 2, 3].map(member))
}

#[test]
fn while_a_set_changes_a_majority_of_either_has_to_agree() {
    let mut table = Table::new(4);
    table.membership = changing();

    // A majority of the new set alone is not enough.
    table.acquire(1);
    table.run_except(ms(1_000), |letter| [2, 3].map(member).contains(&letter.to));
    assert_eq!(table.holders(), [0; 0]);

    let mut table = Table::new(4);
    table.membership = changing();
    table.acquire(1);
    table.run_except(ms(1_000), |letter| [3, 4].map(member).contains(&letter.to));
    assert_eq!(table.holders(), [1]);
}

#[test]
fn lease_of_the_set_before_keeps_members_of_the_new_set_from_having_one() {
    let mut table = Table::new(4);
    table.membership = view(1, &[1, 2, 3]);
    table.acquire(3);
    table.deliver();
    assert_eq!(table.holders(), [3]);
    table.take_events();
    table.membership = changing();

    // It does not hear of the change.
    table.acquire(4);
    table.deliver_except(|letter| letter.to == member(3));

    assert_eq!(table.holders(), [3]);
}
