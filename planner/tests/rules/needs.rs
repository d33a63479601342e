//! What groups need while no change is under way, in which order, within which limits.

use planner::{GroupState, Reason};
use types::OsdId;

use crate::{Bed, CAPACITY, begin, key};

#[test]
fn healthy_groups_are_left_alone() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]);

    let plan = bed.plan();

    assert!(plan.acts.is_empty());
    assert_eq!(plan.report.healthy_count, 1);
    assert!(plan.report.notes.is_empty());
}

#[test]
fn a_dead_member_is_replaced_in_its_place_after_the_grace_time_and_not_before() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]);

    bed.down(2, 599);
    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "waits for the grace time of server 2, 1 s left");
    assert_eq!(bed.plan().report.below_count, 1);

    bed.down(2, 600);
    assert_eq!(bed.acts(), [begin(0, &[1, 4, 3], Reason::Rescue)]);
}

#[test]
fn a_member_on_a_server_that_was_forgotten_is_replaced() {
    let mut bed = Bed::new(&["a", "b", "c"]);
    bed.group(0, &[1, 2, 9]);

    assert_eq!(bed.acts(), [begin(0, &[1, 2, 3], Reason::Rescue)]);
}

#[test]
fn an_incomplete_member_that_is_up_is_left_alone() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]).incomplete = [OsdId(3)].into();

    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "server 3 has a new store and is being filled");
}

#[test]
fn no_change_begins_without_a_majority() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]);
    bed.dead(2);
    bed.down(3, 1);

    assert!(bed.acts().is_empty());
    assert_eq!(
        bed.why(0),
        "2 of 3 members are down (servers 2, 3): start one of them"
    );
    assert_eq!(bed.plan().report.notes[&key(0)].state, GroupState::Stuck);
}

#[test]
fn members_without_data_are_no_part_of_a_majority() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]).incomplete = [OsdId(1)].into();
    bed.dead(2);

    assert!(bed.acts().is_empty());
    assert_eq!(bed.plan().report.stuck_count, 1);
}

#[test]
fn a_drained_server_is_replaced_and_what_is_left_on_it_is_reported() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]);
    bed.change(1, &[1, 2, 3], &[4, 2, 3]);
    bed.group(2, &[2, 3, 4]);
    bed.drain(1);

    let plan = bed.plan();

    assert_eq!(plan.acts, [begin(0, &[4, 2, 3], Reason::Drain)]);
    let left = plan.report.draining[&OsdId(1)];
    assert_eq!((left.groups_count, left.bytes), (2, 2000));
}

#[test]
fn replicas_are_added_one_at_a_time() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[3]).replicas = 3;

    assert_eq!(bed.acts(), [begin(0, &[3, 1], Reason::Replicas)]);
}

#[test]
fn surplus_members_are_removed_the_least_useful_first() {
    let mut bed = Bed::new(&["a/1", "b/1", "c/1", "c/2", "d/1"]);
    bed.group(0, &[1, 2, 3, 4, 5]).replicas = 3;
    let removed = |bed: &Bed, left: &[u64]| {
        assert_eq!(bed.acts(), [begin(0, left, Reason::Replicas)]);
    };

    // Of two in one place the fuller one, and the later one among equals.
    removed(&bed, &[1, 2, 3, 5]);
    bed.fill(3, 2);
    removed(&bed, &[1, 2, 4, 5]);
    bed.drain(2);
    removed(&bed, &[1, 3, 4, 5]);
    bed.picture.groups.get_mut(&key(0)).unwrap().incomplete = [OsdId(5)].into();
    removed(&bed, &[1, 2, 3, 4]);
    bed.down(1, 1);
    removed(&bed, &[2, 3, 4, 5]);
}

#[test]
fn groups_in_most_danger_come_first() {
    let mut bed = Bed::new(&["a", "b", "c", "d", "e", "f", "g"]);
    bed.limits.changes_per_server_max = 10;
    bed.group(0, &[1, 2]).replicas = 3;
    bed.group(1, &[1, 2, 7]);
    bed.group(2, &[1, 2, 6]);
    bed.group(3, &[1, 2, 3, 6, 5]);
    bed.group(4, &[1, 2, 4, 5, 6]);
    bed.dead(6);
    bed.down(5, 1);
    bed.drain(7);

    let order: Vec<_> = bed
        .acts()
        .iter()
        .map(|act| match act {
            planner::Act::Begin { group, reason, .. } => (group.pg.0, *reason),
            planner::Act::Retarget { .. } | planner::Act::End { .. } => panic!("{act:?}"),
        })
        .collect();

    assert_eq!(
        order,
        [
            (2, Reason::Rescue),
            (3, Reason::Rescue),
            (4, Reason::Rescue),
            (1, Reason::Drain),
            (0, Reason::Replicas)
        ]
    );
}

#[test]
fn limits_count_what_is_under_way_as_source_and_as_target() {
    let mut bed = Bed::new(&["a", "b", "c", "d", "e"]);
    bed.change(0, &[1, 2], &[1, 3]);
    bed.group(1, &[1, 2]);
    bed.group(2, &[2, 1]);
    bed.group(3, &[2, 1]);
    bed.drain(1);

    // Server 3 is the fullest by what is being copied there; server 1 is the source of that.
    let plan = bed.plan();
    assert_eq!(
        plan.acts,
        [
            begin(1, &[4, 2], Reason::Drain),
            begin(2, &[2, 5], Reason::Drain),
            begin(3, &[2, 3], Reason::Drain),
        ]
    );

    bed.limits.changes_per_server_max = 1;
    assert_eq!(bed.acts(), [begin(2, &[2, 4], Reason::Drain)]);
    assert_eq!(bed.why(3), "waits until other changes have ended");

    bed.limits.changes_max = 1;
    assert!(bed.acts().is_empty());
}

#[test]
fn changes_that_cannot_go_on_do_not_hold_up_others() {
    let mut bed = Bed::new(&["a", "b", "c", "d", "e"]);
    bed.limits.changes_max = 1;
    bed.change(0, &[1, 2], &[1, 3]);
    bed.group(1, &[3, 4, 1]);
    bed.dead(1);

    assert_eq!(bed.acts(), [begin(1, &[3, 4, 2], Reason::Rescue)]);
    assert_eq!(
        bed.why(0),
        "1 of 2 members is down (server 1): start server 1"
    );
}

#[test]
fn a_group_without_members_is_stuck() {
    let mut bed = Bed::new(&["a"]);
    bed.group(0, &[]).replicas = 1;
    bed.server(1).free_bytes = CAPACITY;

    assert!(bed.acts().is_empty());
    assert_eq!(bed.plan().report.stuck_count, 1);
}

#[test]
fn nothing_begins_while_changes_are_paused_but_for_the_only_copy() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]);
    bed.dead(2);
    bed.limits.paused = true;

    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "paused: `xfs-admin job resume` goes on");
    bed.limits.paused = false;
    assert_eq!(bed.acts(), [begin(0, &[1, 4, 3], Reason::Rescue)]);

    let mut bed = Bed::new(&["a", "b"]);
    bed.group(0, &[1]).replicas = 2;
    bed.limits.paused = true;
    assert_eq!(bed.acts(), [begin(0, &[1, 2], Reason::Replicas)]);
    assert_eq!(bed.plan().report.left_bytes, 1000);
}
