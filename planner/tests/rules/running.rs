//! Changes under way: when they end, when they get another aim.

use planner::Reason;
use types::OsdId;

use crate::{Bed, begin, end, key, retarget};

/// A group that exchanges server 3 for 4; servers 5 and 6 are spare.
fn bed() -> Bed {
    let mut bed = Bed::new(&["a", "b", "c", "d", "e", "f"]);
    bed.change(0, &[1, 2, 3], &[1, 2, 4]);
    bed
}

fn settling(bed: &mut Bed, osds: &[u64]) {
    let group = bed.picture.groups.get_mut(&key(0)).unwrap();
    group.settling = osds.iter().copied().map(OsdId).collect();
}

#[test]
fn a_change_ends_when_all_members_that_are_up_have_declared() {
    let mut bed = bed();
    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "waits for servers 1, 2, 4 to hold everything");

    settling(&mut bed, &[4]);
    assert!(bed.acts().is_empty());
    settling(&mut bed, &[2]);
    assert!(bed.acts().is_empty());

    settling(&mut bed, &[]);
    assert_eq!(bed.acts(), [end(0)]);

    // One that is down doesn't hold it up, if the others are a majority.
    settling(&mut bed, &[2]);
    bed.down(2, 1);
    assert_eq!(bed.acts(), [end(0)]);
    bed.dead(2);
    assert_eq!(bed.acts(), [end(0)]);
    bed.down(1, 1);
    assert!(bed.acts().is_empty());
}

#[test]
fn a_change_does_not_end_before_a_majority_of_the_set_before_has_declared() {
    let mut bed = Bed::new(&["a", "b", "c"]);
    bed.change(0, &[1, 2], &[3, 2]);
    settling(&mut bed, &[1]);

    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "waits for server 1 to hold everything");
    bed.down(1, 1);
    assert!(bed.acts().is_empty());
    assert!(bed.why(0).contains("server 1"), "{}", bed.why(0));
    settling(&mut bed, &[]);
    assert_eq!(bed.acts(), [end(0)]);
}

#[test]
fn a_change_does_not_end_while_its_new_member_is_down_or_lost_its_store() {
    let mut bed = bed();
    settling(&mut bed, &[]);

    bed.down(4, 1);
    assert!(bed.acts().is_empty());
    assert_eq!(
        bed.why(0),
        "waits for the grace time of server 4, 599 s left"
    );

    let mut bed = self::bed();
    settling(&mut bed, &[]);
    bed.picture.groups.get_mut(&key(0)).unwrap().incomplete = [OsdId(4)].into();
    assert!(bed.acts().is_empty());
}

#[test]
fn a_new_member_that_dies_is_exchanged_and_previous_stays() {
    let mut bed = bed();
    bed.dead(3);
    bed.dead(4);

    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 5], Reason::Rescue)]);
}

#[test]
fn a_new_member_to_be_drained_is_exchanged_unless_it_has_declared() {
    let mut bed = bed();
    bed.drain(3);
    bed.drain(4);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 5], Reason::Drain)]);

    settling(&mut bed, &[1]);
    assert!(bed.acts().is_empty());
}

#[test]
fn a_change_whose_target_is_lost_goes_back_if_the_old_server_is_sound() {
    let mut bed = bed();
    bed.dead(4);

    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 3], Reason::Rescue)]);
}

#[test]
fn a_change_goes_back_if_there_is_no_better_target() {
    let mut bed = bed();
    bed.dead(3);
    bed.dead(4);
    bed.drain(5);
    bed.dead(6);

    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 3], Reason::Rescue)]);
}

#[test]
fn a_change_waits_for_a_target_that_is_busy() {
    let mut bed = bed();
    bed.dead(3);
    bed.dead(4);
    bed.limits.changes_per_server_max = 1;
    bed.change(1, &[2], &[2, 5]);
    bed.change(2, &[1], &[1, 6]);

    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "waits until other changes have ended");
}

#[test]
fn a_change_that_was_given_up_ends_like_any_other() {
    let mut bed = bed();
    bed.change(0, &[1, 2, 3], &[1, 2, 3]);
    bed.dead(3);
    assert!(bed.acts().is_empty());

    settling(&mut bed, &[3]);
    assert_eq!(bed.acts(), [end(0)]);
}

#[test]
fn a_server_that_returns_during_its_replacement_changes_nothing() {
    let mut bed = bed();
    settling(&mut bed, &[4]);

    // It is up, as if it had come back after the grace time.
    assert!(bed.acts().is_empty());
}

#[test]
fn a_change_that_costs_the_majority_is_given_up_at_once() {
    let mut bed = bed();
    bed.down(2, 1);
    bed.down(4, 1);

    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 3], Reason::Rescue)]);
}

#[test]
fn a_change_without_a_majority_of_the_set_before_is_stuck() {
    let mut bed = bed();
    bed.dead(2);
    bed.dead(3);

    assert!(bed.acts().is_empty());
    assert_eq!(bed.plan().report.stuck_count, 1);
    assert_eq!(
        bed.why(0),
        "2 of 3 members are down (servers 2, 3): start one of them"
    );
}

#[test]
fn no_second_change_begins_in_a_group() {
    let mut bed = bed();
    bed.drain(2);
    assert!(bed.acts().is_empty());

    settling(&mut bed, &[]);
    assert_eq!(bed.acts(), [end(0)]);

    let group = bed.picture.groups.get_mut(&key(0)).unwrap();
    group.previous.clear();
    assert_eq!(bed.acts(), [begin(0, &[1, 3, 4], Reason::Drain)]);
}

/// New members take part in quorums at once, also if the leader notes them as incomplete.
#[test]
fn a_new_member_counts_before_it_has_anything() {
    let mut bed = bed();
    let group = bed.picture.groups.get_mut(&key(0)).unwrap();
    group.incomplete = [OsdId(4)].into();
    bed.down(2, 1);

    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "waits for servers 1, 4 to hold everything");
}
