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

/// Server 4 has got so much of the 1000 bytes of the group, and has so much room left.
fn half_way(bed: &mut Bed, held: u64, free: u64) {
    let group = bed.picture.groups.get_mut(&key(0)).unwrap();
    group.held.insert(OsdId(4), held);
    bed.server(4).free_bytes = free;
}

#[test]
fn a_target_without_room_for_the_rest_is_exchanged() {
    let mut bed = bed();
    bed.dead(3);
    half_way(&mut bed, 700, 300);
    assert!(bed.acts().is_empty(), "it fits, with nothing to spare");

    half_way(&mut bed, 700, 299);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 5], Reason::Target)]);

    // What it has declared it has got.
    settling(&mut bed, &[2]);
    assert!(bed.acts().is_empty());
}

#[test]
fn a_change_whose_target_is_full_goes_back_if_the_old_server_is_sound() {
    let mut bed = bed();
    half_way(&mut bed, 700, 299);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 3], Reason::Target)]);

    // One that is to be drained holds all, too; but it is no place to stay.
    bed.drain(3);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 5], Reason::Target)]);
    bed.fill(5, 99);
    bed.fill(6, 99);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 3], Reason::Target)]);
}

#[test]
fn what_a_full_target_has_got_stays_while_no_other_server_can_have_its_part() {
    let mut bed = bed();
    bed.dead(3);
    bed.fill(5, 99);
    bed.fill(6, 99);
    bed.picture.groups.get_mut(&key(0)).unwrap().bytes = 100_000;
    half_way(&mut bed, 70_000, 29_999);

    assert!(bed.acts().is_empty(), "{:?}", bed.acts());
    assert_eq!(
        bed.why(0),
        "server 4 has no room for the other 30000 bytes, nor has another one: add a server or free \
         space; what was copied stays"
    );
    assert_eq!(bed.plan().report.stuck_count, 1);
    assert_eq!(bed.plan().report.left_bytes, 30_000);

    // It copies nothing, so it is in nobody's way.
    bed.limits.changes_max = 1;
    bed.limits.reserve_percent = 0;
    bed.group(1, &[1, 2]).replicas = 3;
    assert_eq!(bed.acts(), [begin(1, &[1, 2, 5], Reason::Replicas)]);

    half_way(&mut bed, 70_000, 30_000);
    assert_eq!(bed.why(0), "waits for servers 1, 2, 4 to hold everything");
}

#[test]
fn all_that_still_comes_to_a_server_counts_against_its_room() {
    let mut bed = bed();
    bed.change(1, &[1, 2], &[1, 2, 4]).replicas = 3;
    bed.dead(3);
    bed.limits.changes_per_server_max = 10;
    for pg in 0..2 {
        let group = bed.picture.groups.get_mut(&key(pg)).unwrap();
        group.held.insert(OsdId(4), 500);
    }
    bed.server(4).free_bytes = 1000;
    assert!(bed.acts().is_empty());

    // One of them has to go elsewhere; then the other one fits.
    bed.server(4).free_bytes = 999;
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 5], Reason::Target)]);
}

#[test]
fn a_target_whose_disk_failed_is_exchanged_at_once() {
    let mut bed = bed();
    bed.dead(3);
    bed.failed(4, 1);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 5], Reason::Target)]);

    bed.fill(5, 100);
    bed.fill(6, 100);
    assert!(bed.acts().is_empty());
    assert!(bed.why(0).contains("restart it, or add a server"));
}

#[test]
fn a_member_whose_disk_failed_is_replaced_after_the_grace_time() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]);
    bed.failed(2, 400);
    assert!(bed.acts().is_empty());
    assert_eq!(
        bed.why(0),
        "a write to the disk of server 2 failed: check the disk and restart the server; it is \
         replaced in 200 s"
    );

    bed.failed(2, 600);
    assert_eq!(bed.acts(), [begin(0, &[1, 4, 3], Reason::Rescue)]);
    bed.failed(3, 1);
    assert!(bed.acts().is_empty(), "no majority takes the change");
    assert!(bed.why(0).contains("restart it"), "{}", bed.why(0));
}

#[test]
fn a_target_that_makes_no_progress_is_exchanged() {
    let mut bed = bed();
    bed.dead(3);
    bed.idle(0, 4, 599);
    assert!(bed.acts().is_empty());

    bed.idle(0, 4, 600);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 5], Reason::Target)]);

    // It may be the others that have something no more.
    bed.idle(0, 2, 600);
    assert!(bed.acts().is_empty());
    bed.idle(0, 1, 700);
    assert_eq!(
        bed.why(0),
        "waits for servers 1, 2, 4, up without progress for 700 s: see the log there and `xfs-admin \
         doctor`, then restart"
    );
}

#[test]
fn a_change_ends_without_a_member_that_makes_no_progress_which_is_replaced_then() {
    let mut bed = bed();
    settling(&mut bed, &[2]);
    bed.idle(0, 2, 599);
    assert!(bed.acts().is_empty());
    bed.idle(0, 2, 600);
    assert_eq!(bed.acts(), [end(0)]);

    // Alone the old set must be told by a majority, too: 3 is dead.
    bed.dead(3);
    settling(&mut bed, &[2, 3]);
    assert!(bed.acts().is_empty());
    assert_eq!(
        bed.why(0),
        "waits for server 2, up without progress for 600 s: see the log there and `xfs-admin doctor`, \
         then restart"
    );
    assert_eq!(bed.plan().report.stuck_count, 1);

    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.group(0, &[1, 2, 3]);
    bed.idle(0, 2, 599);
    assert!(bed.acts().is_empty());
    bed.idle(0, 2, 600);
    assert_eq!(bed.acts(), [begin(0, &[1, 4, 3], Reason::Rescue)]);

    // If none gets on the reason may be elsewhere.
    bed.idle(0, 3, 600);
    assert!(bed.acts().is_empty());
    assert!(bed.why(0).starts_with("waits for servers 2, 3, up without"));
}

#[test]
fn a_change_goes_back_if_only_the_new_set_needs_a_member_that_makes_no_progress() {
    let mut bed = Bed::new(&["a", "b", "c"]);
    bed.change(0, &[1, 2, 3], &[2, 3]).replicas = 2;
    settling(&mut bed, &[3]);
    bed.idle(0, 3, 599);
    assert!(bed.acts().is_empty());
    bed.idle(0, 3, 600);
    assert_eq!(bed.acts(), [retarget(0, &[1, 2, 3], Reason::Target)]);

    // Then it is the one that goes.
    bed.change(0, &[1, 2, 3], &[1, 2, 3]);
    settling(&mut bed, &[3]);
    bed.idle(0, 3, 600);
    assert_eq!(bed.acts(), [end(0)]);
    bed.group(0, &[1, 2, 3]).replicas = 2;
    bed.idle(0, 3, 600);
    assert_eq!(bed.acts(), [begin(0, &[1, 2], Reason::Replicas)]);
}

#[test]
fn a_server_that_makes_no_progress_gets_a_replica_only_if_there_is_no_other() {
    let mut bed = Bed::new(&["a", "b", "c", "d", "e"]);
    bed.group(0, &[1, 2, 3]);
    bed.dead(3);
    bed.server(4).idle_since = Some(bed.now - types::Duration::from_secs(600));
    assert_eq!(bed.acts(), [begin(0, &[1, 2, 5], Reason::Rescue)]);
    bed.drain(5);
    assert_eq!(bed.acts(), [begin(0, &[1, 2, 4], Reason::Rescue)]);
}
