//! What bringing a replica up moves: what differs, and checksums.

use bytes::Bytes;
use osd_core::{ChangeOrder, Input, Op, Payload};
use types::{SUM_BYTES, SessionId};

use crate::config;
use crate::faults::Plan;
use crate::lease_model::MS;
use crate::world::{KEY, World};

const LENGTH: u64 = 64 << 20;
const CHUNK: u64 = 1 << 20;

/// Three servers that nothing happens to but what the test does.
fn calm_world() -> World {
    let mut plan = Plan::of(1);
    plan.replicas = 3;
    plan.pauses = false;
    plan.faults_end = 0;
    World::new(plan, config())
}

fn pass(world: &mut World, millis: u64) {
    let until = world.now + millis * MS;
    while world.advance(until).unwrap() {}
    world.now = until;
}

fn client(world: &mut World, request: u64, op: Op) {
    let input = Input::Client {
        request,
        session: SessionId(9),
        op,
    };
    world.step(0, input).unwrap();
}

fn write(world: &mut World, change_id: u64, offset: u64, data: Vec<u8>) {
    let op = Op::Write {
        offset,
        data: Payload::of(Bytes::from(data)),
        append: false,
        order: ChangeOrder::first(change_id),
    };
    client(world, 1_000 + change_id, op);
}

/// An object of 64 MiB without a zero in it, on all three.
fn filled() -> World {
    let mut world = calm_world();
    for chunk in 0..LENGTH / CHUNK {
        write(
            &mut world,
            chunk + 1,
            chunk * CHUNK,
            vec![chunk as u8 + 1; CHUNK as usize],
        );
        pass(&mut world, 20);
    }
    client(&mut world, 7, Op::Sync { follows: 0 });
    pass(&mut world, 1_000);
    assert_equal(&world);
    world
}

fn assert_equal(world: &World) {
    let copies: Vec<_> = world
        .nodes
        .iter()
        .map(|node| node.store.bytes(KEY))
        .collect();
    assert_eq!(copies[0].as_ref().map(Vec::len), Some(LENGTH as usize));
    assert!(
        copies[1] == copies[0] && copies[2] == copies[0],
        "copies differ"
    );
}

#[test]
fn replica_that_was_away_gets_the_blocks_that_changed_meanwhile() {
    let mut world = filled();
    for other in [0, 1] {
        world.disconnect(2, other);
    }
    pass(&mut world, 100);
    write(&mut world, 100, 33 << 20, vec![0xee; 4_096]);
    pass(&mut world, 100);

    world.moved_bytes = 0;
    for other in [0, 1] {
        world.connect(2, other);
    }
    pass(&mut world, 5_000);

    assert_equal(&world);
    println!("away: {} bytes", world.moved_bytes);
    // One block, and its checksum.
    assert_eq!(world.moved_bytes, SUM_BYTES + 4);
}

#[test]
fn object_that_nobody_changed_meanwhile_costs_nothing() {
    let mut world = filled();
    for other in [0, 1] {
        world.disconnect(2, other);
    }
    pass(&mut world, 100);

    world.moved_bytes = 0;
    for other in [0, 1] {
        world.connect(2, other);
    }
    pass(&mut world, 5_000);

    assert_eq!(world.moved_bytes, 0);
}

#[test]
fn crash_of_the_primary_costs_the_checksums_of_its_copy_and_the_blocks_that_differ() {
    let mut world = filled();
    // The primary alone has this change when it dies.
    for other in [1, 2] {
        world.disconnect(0, other);
    }
    write(&mut world, 100, 33 << 20, vec![0xee; 4_096]);
    world.crash(0, false);
    pass(&mut world, 8_000);

    world.moved_bytes = 0;
    world.start(0);
    pass(&mut world, 20_000);

    assert_equal(&world);
    println!("crash: {} bytes", world.moved_bytes);
    // A checksum for each of its blocks, and the one that differs.
    assert!(
        world.moved_bytes <= SUM_BYTES + 4 * LENGTH / SUM_BYTES,
        "{}",
        world.moved_bytes
    );
}
