//! What metadata servers take when their disks are nearly full.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use std::sync::atomic::Ordering;

use common::{Client, Cluster, heartbeat, make_dir};
use proto::mrc as wire;
use proto::mrc::request::Op;
use shell::link::Role;

const ROOT: u64 = 1;

fn remove(name: &str) -> Op {
    Op::RmDir(wire::RmDir {
        parent: ROOT,
        name: name.as_bytes().to_vec().into(),
    })
}

#[test]
fn below_the_reserve_directories_are_removed_and_not_made_until_there_is_room() {
    let cluster = Cluster::start(3);
    let osd = Client::new(&cluster.addresses, Role::Osd, 1);
    let mut client = cluster.client();
    client.open_volume(&osd);
    client.change(make_dir("early")).unwrap();
    // The answer got lost.
    let carried_out = client.next(make_dir("last"));
    client.ask(&carried_out).unwrap();

    cluster.free_bytes.store(1 << 20, Ordering::Relaxed);
    let refused = loop {
        let create = wire::VolumeCreate {
            name: "w".to_owned(),
            nonce: 6,
            ..wire::VolumeCreate::default()
        };
        // Refused or, until they look at their disks, a repetition.
        match client.read(Op::VolumeCreate(create)) {
            Ok(_) => {}
            Err(fault) => break fault,
        }
    };
    assert_eq!(refused.errno, libc::ENOSPC);
    assert!(refused.message.contains("mrc-"), "{}", refused.message);

    client.ask(&carried_out).unwrap();
    let request = client.next(make_dir("more"));
    let fault = client.ask(&request).unwrap_err();
    assert_eq!(fault, refused);
    assert_eq!(client.ask(&request).unwrap_err().errno, libc::ENOSPC);
    client.change(remove("early")).unwrap();
    osd.read(Op::OsdHeartbeat(heartbeat(1))).unwrap();

    cluster.free_bytes.store(1 << 40, Ordering::Relaxed);
    while client.change(make_dir("more")).is_err() {}
    client.change(remove("last")).unwrap();
}
