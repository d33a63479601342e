//! Housekeeping of the leader against an object server that only answers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{Client, Cluster, create, heartbeat, inode_of, secret};
use prost::Message;
use proto::mrc as wire;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::osd;
use shell::link::{
    Connection, Handler, Identity, Payload, Responder, Role, Server, ServiceKind, Wire,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use types::Capability;

/// Says that every object is 4096 bytes long, and remembers what it should delete.
#[derive(Default)]
struct FakeOsd {
    deleted: Mutex<Vec<u64>>,
    /// An object it can't delete; 0: there is none.
    stuck: AtomicU64,
}

impl Handler for FakeOsd {
    fn request(&self, _: &Arc<Connection>, body: Bytes, _: Payload, responder: Responder) {
        let request = osd::Request::decode(body).unwrap();
        let mut response = osd::Response::default();
        match request.op.unwrap() {
            osd::request::Op::Stat(_) => {
                let now = types::UnixNanos(0);
                let capability = Capability::open(&request.capability, &secret(), now).unwrap();
                assert_eq!(capability.inode.0, request.object.unwrap().inode);
                response.length_bytes = 4096;
            }
            osd::request::Op::Delete(delete) => {
                let inodes = delete
                    .objects
                    .iter()
                    .map(|object| object.object.unwrap().inode);
                let inodes: Vec<_> = inodes.collect();
                if inodes.contains(&self.stuck.load(Ordering::Relaxed)) {
                    let fault = types::Fault::surface(libc::EIO, "the disk is bad there");
                    return responder.fault(fault);
                }
                self.deleted.lock().unwrap().extend(inodes);
            }
            other => panic!("unexpected {other:?}"),
        }
        responder.ok(&response, Payload::none());
    }
}

struct Setup {
    cluster: Cluster,
    client: Client,
    osd: Arc<FakeOsd>,
    _runtime: Runtime,
}

fn setup(tune: fn(&mut mrc::Config)) -> Setup {
    let osd = Arc::new(FakeOsd::default());
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let mut beat = heartbeat(1);
    beat.address = listener.local_addr().unwrap().to_string();
    let identity = Identity {
        cluster: common::CLUSTER,
        secret: secret(),
        role: Role::Osd,
        id: 1,
        wire: Wire::default(),
    };
    let server = Server::new(identity).service(ServiceKind::Osd, osd.clone());
    runtime.spawn(server.serve(listener, std::future::pending()));

    let cluster = Cluster::start_tuned(1, tune);
    let mut client = cluster.client();
    client.open_volume_on(&Client::new(&cluster.addresses, Role::Osd, 1), beat);
    Setup {
        cluster,
        client,
        osd,
        _runtime: runtime,
    }
}

fn attributes(client: &Client, inode: u64) -> Result<wire::Attr, types::Fault> {
    match client.read(Op::GetAttr(wire::GetAttr { inode }))? {
        Reply::Entry(entry) => Ok(entry.attr.unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn file_of_a_silent_writer_gets_the_size_of_its_object_and_the_session_ends() {
    let mut setup = setup(|config| {
        config.session_timeout_ms = 300;
        config.osd_timeout_ms = 600_000;
    });
    let made = setup.client.next(create("a", true));
    let inode = inode_of(setup.client.ask(&made).unwrap());
    let silent = setup.client.session;
    assert_eq!(attributes(&setup.client, inode).unwrap().size_bytes, 0);

    let mut other = setup.cluster.client();
    other.open_session(77);
    other.wait(|| {
        let attr = attributes(&other, inode).unwrap();
        (attr.size_bytes == 4096).then_some(())
    });

    other.wait(|| {
        // Keeps its own session alive.
        attributes(&other, inode).unwrap();
        let Ok(Reply::Sessions(list)) = other.read(Op::SessionList(wire::SessionList {})) else {
            panic!("no list");
        };
        let gone = !list
            .sessions
            .iter()
            .any(|session| session.session == silent);
        gone.then_some(())
    });
    let refused = setup.client.change(create("b", true)).unwrap_err();
    assert_eq!(refused.remedy, types::Remedy::Refresh);
    // What became of the last request of the session is known, but gives no right any more.
    let Ok(Reply::Opened(again)) = setup.client.ask(&made) else {
        panic!("forgotten");
    };
    assert_eq!(again.attr.unwrap().inode, inode);
    assert!(again.grant.unwrap().capability.is_empty());
}

#[test]
fn removed_file_lives_while_it_is_read_and_its_object_is_deleted_afterwards() {
    let mut setup = setup(|config| config.osd_timeout_ms = 600_000);
    let client = &mut setup.client;
    let inode = inode_of(client.change(create("a", true)).unwrap());
    client
        .read(Op::Open(wire::Open {
            inode,
            renew_write: false,
        }))
        .unwrap();
    let written = wire::Written {
        inode,
        size_at_least_bytes: 10,
        mtime_ns: None,
        close: true,
        stays_open: false,
        truncate_epoch: 0,
    };
    client.change(Op::Written(written)).unwrap();
    let unlink = wire::Unlink {
        parent: 1,
        name: Bytes::from_static(b"a"),
    };
    client.change(Op::Unlink(unlink)).unwrap();
    // Another file that nobody reads goes first, so the janitor has been there.
    let other = inode_of(client.change(create("b", false)).unwrap());
    client
        .read(Op::Release(wire::Release { inode: other }))
        .unwrap();
    let unlink = wire::Unlink {
        parent: 1,
        name: Bytes::from_static(b"b"),
    };
    client.change(Op::Unlink(unlink)).unwrap();
    client.wait(|| attributes(client, other).is_err().then_some(()));

    let attr = attributes(client, inode).unwrap();
    assert_eq!((attr.nlink, attr.size_bytes), (0, 10));
    client.read(Op::Release(wire::Release { inode })).unwrap();

    client.wait(|| attributes(client, inode).is_err().then_some(()));
    client.wait(|| {
        setup
            .osd
            .deleted
            .lock()
            .unwrap()
            .contains(&inode)
            .then_some(())
    });
    let late = client.read(Op::Open(wire::Open {
        inode,
        renew_write: false,
    }));
    assert_eq!(late.unwrap_err().errno, libc::ESTALE);
}

#[test]
fn object_that_can_not_be_deleted_does_not_keep_others_from_being_deleted() {
    let mut setup = setup(|config| config.osd_timeout_ms = 600_000);
    let client = &mut setup.client;
    let inodes: Vec<u64> = ["a", "b", "c"]
        .iter()
        .map(|name| inode_of(client.change(create(name, true)).unwrap()))
        .collect();
    setup.osd.stuck.store(inodes[0], Ordering::Relaxed);

    for (inode, name) in inodes.iter().zip(["a", "b", "c"]) {
        let written = wire::Written {
            inode: *inode,
            close: true,
            ..wire::Written::default()
        };
        client.change(Op::Written(written)).unwrap();
        let unlink = wire::Unlink {
            parent: 1,
            name: Bytes::from(name),
        };
        client.change(Op::Unlink(unlink)).unwrap();
        // A record of garbage of its own for each.
        client.wait(|| attributes(client, *inode).is_err().then_some(()));
    }
    let deleted = |inode| setup.osd.deleted.lock().unwrap().contains(inode);
    client.wait(|| (deleted(&inodes[1]) && deleted(&inodes[2])).then_some(()));

    assert!(!deleted(&inodes[0]));
    setup.osd.stuck.store(0, Ordering::Relaxed);
    client.wait(|| deleted(&inodes[0]).then_some(()));
}

/// What an object server holds of a file.
fn held(inode: u64) -> wire::HeldObject {
    wire::HeldObject {
        volume: 1,
        inode,
        pg: 0,
    }
}

#[test]
fn object_left_over_from_a_removed_file_is_deleted_once_more_and_no_other() {
    let mut setup = setup(|config| config.osd_timeout_ms = 600_000);
    let client = &mut setup.client;
    let removed = inode_of(client.change(create("removed", true)).unwrap());
    let kept = inode_of(client.change(create("kept", true)).unwrap());
    let written = wire::Written {
        inode: removed,
        close: true,
        ..wire::Written::default()
    };
    client.change(Op::Written(written)).unwrap();
    let unlink = wire::Unlink {
        parent: 1,
        name: Bytes::from_static(b"removed"),
    };
    client.change(Op::Unlink(unlink)).unwrap();
    let deletions = || {
        let deleted = setup.osd.deleted.lock().unwrap();
        deleted.iter().filter(|inode| **inode == removed).count()
    };
    client.wait(|| (deletions() == 1).then_some(()));

    let osd = Client::new(&setup.cluster.addresses, Role::Osd, 1);
    let find = || {
        Op::FindLeftovers(wire::FindLeftovers {
            osd: 1,
            objects: vec![held(removed), held(kept), held(kept + 1)],
        })
    };
    let Ok(Reply::Leftovers(found)) = osd.read(find()) else {
        panic!("no answer");
    };
    assert_eq!(found.objects, [held(removed)]);
    // That it was deleted may not be on record yet: until then it is no leftover.
    osd.wait(|| {
        let discard = wire::DiscardLeftovers {
            osd: 1,
            objects: vec![held(removed), held(kept), held(kept + 1)],
            garbage_below: found.garbage_below,
        };
        osd.read(Op::DiscardLeftovers(discard)).unwrap();
        (deletions() > 1).then_some(())
    });

    let deleted = setup.osd.deleted.lock().unwrap();
    assert!(deleted.iter().all(|inode| *inode == removed), "{deleted:?}");
    // Nobody else's business.
    assert_eq!(client.read(find()).unwrap_err().errno, libc::EPERM);
}
