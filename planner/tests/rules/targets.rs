//! Which server gets a replica.

use planner::Reason;

use crate::{Bed, CAPACITY, begin};

/// A group on servers 1, 2 and 3, of which 3 is dead.
fn bed(locations: &[&str]) -> Bed {
    let mut bed = Bed::new(locations);
    bed.group(0, &[1, 2, 3]);
    bed.dead(3);
    bed
}

fn chosen(bed: &Bed, osd: u64) {
    assert_eq!(bed.acts(), [begin(0, &[1, 2, osd], Reason::Rescue)]);
}

#[test]
fn the_farthest_server_is_chosen_then_the_emptiest_then_the_lowest_id() {
    let mut bed = bed(&["s/r1/h1", "s/r2/h2", "s/r3/h3", "s/r1/h1", "s/r1/h5"]);

    // The same rack is better than the same host.
    chosen(&bed, 5);

    let farther = ["s/r4/h6", "s/r4/h7", "t/r5/h8", "t/r6/h9"];
    let more = Bed::new(&farther).picture.servers;
    let mut ids = 6..;
    for server in more.into_values().take(2) {
        let osd = types::OsdId(ids.next().unwrap());
        bed.picture.servers.insert(osd, server);
    }
    // Another rack is better than the same one; among equals the lowest id, or the emptier one.
    chosen(&bed, 6);
    bed.fill(6, 1);
    chosen(&bed, 7);

    let more = Bed::new(&farther).picture.servers;
    for server in more.into_values().skip(2) {
        let osd = types::OsdId(ids.next().unwrap());
        bed.picture.servers.insert(osd, server);
    }
    // Another site is better than another rack, however full it is.
    bed.fill(8, 50);
    bed.fill(9, 40);
    chosen(&bed, 9);
}

#[test]
fn unknown_locations_share_with_nobody() {
    let bed = bed(&["a", "", "b", "a", ""]);

    chosen(&bed, 5);
}

#[test]
fn what_is_planned_counts_as_used() {
    let mut bed = bed(&["a", "b", "c", "d", "e"]);
    bed.change(1, &[1, 2, 3], &[1, 2, 4]);

    chosen(&bed, 5);
}

#[test]
fn empty_groups_are_dealt_out_although_they_fill_nothing() {
    let mut bed = Bed::new(&["a", "b", "c", "d", "e"]);
    bed.limits.changes_per_server_max = 10;
    for pg in 0..4 {
        bed.group(pg, &[1, 2, 3]).bytes = 0;
    }
    bed.dead(3);

    let expected =
        [(0, 4), (1, 5), (2, 4), (3, 5)].map(|(pg, osd)| begin(pg, &[1, 2, osd], Reason::Rescue));
    assert_eq!(bed.acts(), expected);
}

#[test]
fn a_server_that_would_fall_below_its_reserve_is_not_chosen() {
    let mut bed = bed(&["a", "b", "c", "d"]);
    let reserve = CAPACITY / 20;

    bed.server(4).free_bytes = reserve + 999;
    assert!(bed.acts().is_empty());
    assert_eq!(
        bed.why(0),
        "no server with room for 1000 bytes above its reserve among 1 further ones: add a server \
         or free space"
    );
    assert_eq!(bed.plan().report.stuck_count, 1);

    bed.server(4).free_bytes = reserve + 1000;
    chosen(&bed, 4);

    // What is being copied there already needs room, too.
    bed.change(1, &[1, 2], &[1, 4]).bytes = 1;
    assert!(bed.acts().is_empty());
}

#[test]
fn only_servers_that_are_up_and_kept_and_said_their_size_are_chosen() {
    let mut bed = bed(&["a", "b", "c", "d", "e", "f"]);
    bed.down(4, 1);
    bed.drain(5);
    bed.server(6).capacity_bytes = 0;

    assert!(bed.acts().is_empty());
    assert_eq!(
        bed.why(0),
        "every server that is up and not draining is a member already: add a server"
    );
}

#[test]
fn a_group_waits_for_a_well_placed_server_that_is_busy() {
    let mut bed = bed(&["a", "b", "c", "d", "a"]);
    bed.limits.changes_per_server_max = 1;
    bed.change(1, &[5, 3], &[5, 4]);
    bed.picture.groups.get_mut(&crate::key(1)).unwrap().previous = crate::osds(&[5]);

    assert!(bed.acts().is_empty());
    assert_eq!(bed.why(0), "waits until other changes have ended");
}
