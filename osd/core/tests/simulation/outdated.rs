//! Copies whose disks lost what they vouch for: two older ones, at rest, and one that lost nothing.

use bytes::Bytes;
use osd_core::{ChangeOrder, Config, Input, ObjectStore as _, Op, Payload, Position};
use types::SessionId;

use crate::config;
use crate::faults::Plan;
use crate::lease_model::MS;
use crate::world::{KEY, World};

const OLD: &[u8] = b"of old";
const NEW: &[u8] = b"newest";

fn pass(world: &mut World, millis: u64) {
    let until = world.now + millis * MS;
    while world.advance(until).unwrap() {}
    world.now = until;
}

/// Three servers with an object at rest.
fn resting(seed: u64, config: Config) -> World {
    let mut plan = Plan::of(seed);
    plan.replicas = 3;
    plan.pauses = false;
    plan.faults_end = 0;
    let mut world = World::new(plan, config);
    let op = Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(OLD)),
        append: false,
        order: ChangeOrder::first(1),
    };
    let input = Input::Client {
        request: 1,
        session: SessionId(9),
        op,
    };
    world.step(0, input).unwrap();
    pass(&mut world, 20_000);
    world
}

/// The first two find out that they are older and are brought up; the newest state must be everywhere then.
pub(crate) fn newest_wins(seed: u64, config: Config) -> bool {
    let mut world = resting(seed, config);
    for node in 0..3 {
        world.crash(node, false);
    }
    let mut store = world.nodes[2].store.clone();
    let mut record = store.open(KEY).unwrap().unwrap().record;
    assert!(record.clean, "not at rest");
    record.position.seq += 1;
    store.write(KEY, 0, &Bytes::from_static(NEW)).unwrap();
    store.sync(KEY, true, &record).unwrap().run().unwrap();
    store.close(KEY);

    for node in 0..3 {
        world.start(node);
        world.nodes[node].recovered = true;
    }
    for node in 0..2 {
        let newest: Position = record.position;
        world.step(node, Input::Outdated(newest)).unwrap();
        world.step(node, Input::Recover { newest }).unwrap();
    }
    pass(&mut world, 60_000);

    let copies = world.nodes.iter().map(|node| node.store.bytes(KEY));
    copies
        .into_iter()
        .all(|copy| copy.is_some_and(|copy| copy == NEW))
}

#[test]
fn two_older_copies_do_not_outvote_the_one_that_lost_nothing() {
    for seed in 0..50 {
        assert!(newest_wins(seed, config()), "{seed}");
    }
}

#[test]
fn copy_that_is_as_new_or_in_use_stays_trusted() {
    let mut world = resting(1, config());
    let trusted = |world: &World, node: usize| {
        let replica = world.nodes[node].replica.as_ref();
        replica.is_some_and(|replica| replica.status().trusted)
    };
    let status = world.nodes[1].replica.as_ref().unwrap().status();
    world.step(1, Input::Outdated(status.position)).unwrap();
    assert!(trusted(&world, 1));

    let newer = Position {
        seq: status.position.seq + 1,
        ..status.position
    };
    world.step(1, Input::Outdated(newer)).unwrap();
    assert!(!trusted(&world, 1));

    let read = Input::Client {
        request: 2,
        session: SessionId(9),
        op: Op::Stat,
    };
    world.step(0, read).unwrap();
    pass(&mut world, 500);
    world.step(0, Input::Outdated(newer)).unwrap();
    assert!(trusted(&world, 0), "it holds the lease");
}
