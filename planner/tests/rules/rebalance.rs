//! Moves from full servers to empty ones.

use std::collections::BTreeMap;

use planner::{Act, Reason};
use proptest::prelude::*;
use types::OsdId;

use crate::{Bed, CAPACITY, begin};

/// Rounds after which moves must have come to an end. Each group may move a few times.
const ROUNDS_MAX: usize = 300;

#[test]
fn the_largest_group_that_does_not_overshoot_moves_to_the_emptiest_server() {
    let mut bed = Bed::new(&["a", "b", "c"]);
    bed.limits.rebalance = true;
    for (pg, bytes) in [(0, CAPACITY / 50), (1, CAPACITY / 10), (2, CAPACITY / 4)] {
        bed.group(pg, &[1]).bytes = bytes;
    }
    bed.fill(1, 40);
    bed.fill(2, 20);
    bed.fill(3, 18);

    // 22 % apart: a tenth makes that 2 %; then nothing is far enough apart.
    assert_eq!(bed.acts(), [begin(1, &[3], Reason::Rebalance)]);

    bed.limits.rebalance = false;
    assert!(bed.acts().is_empty());
}

#[test]
fn differences_up_to_the_threshold_are_left_alone() {
    let mut bed = Bed::new(&["a", "b"]);
    bed.limits.rebalance = true;
    bed.group(0, &[1]);
    bed.fill(1, 20);

    bed.fill(2, 10);
    assert!(bed.acts().is_empty());

    bed.fill(2, 9);
    assert_eq!(bed.acts(), [begin(0, &[2], Reason::Rebalance)]);
}

#[test]
fn no_move_brings_members_nearer() {
    let mut bed = Bed::new(&["a", "b", "a"]);
    bed.limits.rebalance = true;
    bed.group(0, &[1, 2]);
    bed.fill(1, 50);
    bed.fill(2, 80);

    assert_eq!(bed.acts(), [begin(0, &[3, 2], Reason::Rebalance)]);

    bed.fill(1, 0);
    bed.fill(3, 0);
    assert!(bed.acts().is_empty());
}

#[test]
fn nothing_moves_while_more_urgent_work_waits() {
    let mut bed = Bed::new(&["a", "b", "c", "d"]);
    bed.limits.rebalance = true;
    bed.group(0, &[1]);
    bed.fill(1, 50);
    bed.group(1, &[2, 3, 4]);
    assert_eq!(bed.acts(), [begin(0, &[2], Reason::Rebalance)]);

    bed.dead(4);
    assert_eq!(bed.acts(), [begin(1, &[2, 3, 1], Reason::Rescue)]);
}

#[test]
fn empty_groups_are_dealt_to_a_new_server() {
    let mut bed = Bed::new(&["a", "b"]);
    bed.limits.rebalance = true;
    for pg in 0..8 {
        bed.group(pg, &[1 + u64::from(pg % 2)]).bytes = 0;
    }
    assert!(bed.acts().is_empty());

    let server = bed.server(1).clone();
    bed.picture.servers.insert(OsdId(3), server);
    bed.limits.changes_per_server_max = 10;

    // 4 and 4 become 3, 3 and 2: another one would leave nothing better.
    let acts = bed.acts();
    assert_eq!(acts.len(), 2, "{acts:?}");
}

/// Does what the plan says at once, with free space reported by every second heartbeat only.
/// Returns how often each group moved.
fn settle(bed: &mut Bed) -> BTreeMap<u32, usize> {
    let mut moves = BTreeMap::new();
    for round in 0..ROUNDS_MAX {
        let acts = bed.acts();
        if acts.is_empty() && round % 2 == 1 {
            return moves;
        }
        for act in acts {
            match act {
                Act::Begin { group, members, .. } => {
                    *moves.entry(group.pg.0).or_insert(0) += 1;
                    let group = bed.picture.groups.get_mut(&group).unwrap();
                    group.previous = std::mem::replace(&mut group.members, members);
                }
                Act::End { group, .. } => {
                    let group = bed.picture.groups.get_mut(&group).unwrap();
                    group.previous.clear();
                }
                Act::Retarget { .. } => panic!("{act:?}"),
            }
        }
        if round % 2 == 0 {
            report_free(bed);
        }
    }
    panic!("moves do not end: {moves:?}");
}

fn report_free(bed: &mut Bed) {
    for (osd, server) in &mut bed.picture.servers {
        let groups = bed.picture.groups.values();
        let held =
            groups.filter(|group| group.members.contains(osd) || group.previous.contains(osd));
        let used: u64 = held.map(|group| group.bytes).sum();
        server.free_bytes = server.capacity_bytes.saturating_sub(used);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Without faults moves end, leave no pair of servers with a move worth making, and nothing is
    /// carried to and fro.
    #[test]
    fn prop_moves_come_to_an_end(
        capacities in prop::collection::vec(1_u64..5, 2..7),
        groups in prop::collection::vec((0_u64..7, 0_u64..60_000, 1_usize..3), 1..40),
    ) {
        let mut bed = Bed::new(&["a/1", "a/2", "b/1", "b/2", "c", ""][..capacities.len()]);
        bed.limits.rebalance = true;
        for (osd, capacity) in (1..).zip(&capacities) {
            bed.server(osd).capacity_bytes = capacity * CAPACITY;
        }
        let count = capacities.len() as u64;
        for (pg, (first, bytes, replicas)) in (0..).zip(&groups) {
            let members: Vec<u64> = (0..*replicas as u64).map(|at| 1 + (first + at) % count).collect();
            let bytes = if bytes % 4 == 0 { 0 } else { *bytes };
            bed.group(pg, &members).bytes = bytes;
        }
        report_free(&mut bed);

        let moves = settle(&mut bed);

        prop_assert!(moves.values().all(|moves| *moves <= 6), "{:?}", moves);
        // With groups of one replica anything may move anywhere: small ones leave no large gap.
        let fills: Vec<u64> = bed
            .picture
            .servers
            .values()
            .map(|server| 100 * (server.capacity_bytes - server.free_bytes) / server.capacity_bytes)
            .collect();
        let small = groups.iter().all(|(_, bytes, replicas)| *replicas == 1 && *bytes < 40_000);
        let gap = fills.iter().max().unwrap() - fills.iter().min().unwrap();
        prop_assert!(!small || gap <= 12, "{:?}", fills);
    }
}
