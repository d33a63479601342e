//! Members that share fate.

use planner::Reason;

use crate::{Bed, begin};

#[test]
fn members_in_one_place_are_moved_apart_the_first_one_staying() {
    let mut bed = Bed::new(&["s/a/1", "s/b/1", "s/a/1", "s/c/1"]);
    bed.group(0, &[1, 2, 3]);

    assert_eq!(bed.acts(), [begin(0, &[1, 2, 4], Reason::Spread)]);
}

#[test]
fn the_exchange_that_gains_most_is_made() {
    let mut bed = Bed::new(&["s/a/1", "s/a/2", "s/b/1", "s/c/1", "t/a/1"]);
    bed.group(0, &[1, 2, 3]);

    // All share the site: one to the other site gains more than one to another rack, and most if it
    // leaves the rack that has two.
    assert_eq!(bed.acts(), [begin(0, &[1, 5, 3], Reason::Spread)]);
}

#[test]
fn what_cannot_be_spread_better_is_left_alone() {
    let mut bed = Bed::new(&["s/a/1", "s/a/2", "s/b/1", "s/b/2"]);
    bed.group(0, &[1, 2, 3]);

    let plan = bed.plan();

    assert!(plan.acts.is_empty());
    assert_eq!(plan.report.healthy_count, 1);
}

#[test]
fn servers_without_room_are_reported() {
    let mut bed = Bed::new(&["a/1", "b/1", "a/2", "c/1"]);
    bed.group(0, &[1, 2, 3]);
    bed.fill(4, 99);

    assert!(bed.acts().is_empty());
    assert_eq!(
        bed.why(0),
        "server 1 in \"a/1\" is too near to other members: no server with enough room (1000 bytes) \
         is in another location"
    );
    assert_eq!(bed.plan().report.stuck_count, 1);
}

#[test]
fn groups_that_are_not_sound_are_not_moved() {
    let mut bed = Bed::new(&["a", "b", "a", "c"]);
    bed.group(0, &[1, 2, 3]);
    bed.down(2, 1);

    assert!(bed.acts().is_empty());
}
