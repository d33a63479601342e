//! Objects that object servers still have though their files are gone.

use mrc_core::{config, errno, janitor, query};
use proto::index::command::Op;
use proto::index::{Collected, ForgetSession, Reap, VolumeDelete, VolumePurge};
use proto::mrc::{self, HeldObject, response};
use types::{Inode, OsdId};

use crate::cluster::*;

fn held(inode: u64) -> HeldObject {
    HeldObject {
        volume: VOLUME.0,
        inode,
        pg: 3,
    }
}

fn find(cluster: &Cluster, objects: &[HeldObject]) -> mrc::Leftovers {
    let find = mrc::FindLeftovers {
        osd: 1,
        objects: objects.to_vec(),
    };
    let reply = query::leftovers(&cluster.index, &find).unwrap().unwrap();
    match reply.reply {
        Some(response::Reply::Leftovers(found)) => found,
        other => panic!("{other:?}"),
    }
}

fn discard(osd: u64, objects: &[HeldObject], garbage_below: u64) -> Op {
    Op::DiscardLeftovers(mrc::DiscardLeftovers {
        osd,
        objects: objects.to_vec(),
        garbage_below,
    })
}

/// Makes a file with an object and removes it; everybody has confirmed its deletion.
fn removed_file(cluster: &mut Cluster, session: u64) -> u64 {
    let file = orphan(cluster, session);
    reap(cluster, file);
    for osd in 1..=3 {
        collect(cluster, osd);
    }
    file
}

fn orphan(cluster: &mut Cluster, session: u64) -> u64 {
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    let closed = Op::Written(mrc::Written {
        inode: file,
        close: true,
        ..mrc::Written::default()
    });
    cluster.change(session, closed).unwrap();
    cluster.change(session, unlink(ROOT, "f")).unwrap();
    file
}

fn reap(cluster: &mut Cluster, file: u64) {
    let op = Op::Reap(Reap {
        volume: VOLUME.0,
        inodes: vec![file],
    });
    cluster.internal(op).reply.unwrap();
}

fn collect(cluster: &mut Cluster, osd: u64) {
    let garbage = janitor::garbage(&cluster.index, OsdId(osd), None).unwrap();
    let seqs = garbage.iter().map(|record| record.seq).collect();
    let op = Op::Collected(Collected { osd, seqs });
    cluster.internal(op).reply.unwrap();
}

/// The inodes whose objects a server is to delete.
fn garbage(cluster: &Cluster, osd: u64) -> Vec<u64> {
    let records = janitor::garbage(&cluster.index, OsdId(osd), None).unwrap();
    let objects = records.iter().flat_map(|garbage| &garbage.record.objects);
    objects.map(|object| object.inode).collect()
}

#[test]
fn leftover_at_one_server_is_garbage_of_all_replicas_again() {
    let (mut cluster, session) = Cluster::new();
    let file = removed_file(&mut cluster, session);

    let found = find(&cluster, &[held(file)]);
    assert_eq!(found.objects, [held(file)]);
    let outcome = cluster.internal(discard(2, &found.objects, found.garbage_below));

    outcome.reply.unwrap();
    assert!(outcome.effects.garbage);
    for osd in 1..=3 {
        assert_eq!(garbage(&cluster, osd), [file], "at {osd}");
    }
    cluster.assert_consistent();
}

#[test]
fn file_with_a_name_or_open_or_not_made_yet_leaves_nothing_over() {
    let (mut cluster, session) = Cluster::new();
    let named = attr_of(cluster.change(session, create(ROOT, "n", true))).inode;
    let open = orphan(&mut cluster, session);
    let next = open + 1;
    let elsewhere = HeldObject {
        volume: VOLUME.0 + 1,
        ..held(named)
    };
    let nowhere = HeldObject {
        volume: 0,
        ..held(ROOT)
    };
    let all = [held(named), held(open), held(next), elsewhere, nowhere];

    let found = find(&cluster, &all);
    let before = cluster.entries();
    // Whatever the server says.
    let outcome = cluster.internal(discard(1, &all, found.garbage_below));

    outcome.reply.unwrap();
    assert_eq!(found.objects, []);
    assert!(!outcome.effects.garbage);
    assert_eq!(cluster.entries(), before);
    let made = attr_of(cluster.change(session, create(ROOT, "m", true))).inode;
    assert_eq!(made, next);
    assert_eq!(find(&cluster, &all).objects, []);
}

#[test]
fn what_the_server_has_to_delete_anyway_is_not_noted_twice() {
    let (mut cluster, session) = Cluster::new();
    let file = orphan(&mut cluster, session);
    reap(&mut cluster, file);

    let found = find(&cluster, &[held(file)]);
    cluster.internal(discard(1, &found.objects, found.garbage_below));
    assert_eq!(garbage(&cluster, 1), [file]);
    // Garbage that came later is no obstacle.
    collect(&mut cluster, 1);
    let later = orphan(&mut cluster, session);
    reap(&mut cluster, later);
    cluster.internal(discard(1, &found.objects, found.garbage_below));

    assert_eq!(garbage(&cluster, 1), [later, file]);
    assert_eq!(garbage(&cluster, 2), [file, later, file]);
}

#[test]
fn objects_of_a_volume_that_is_gone_are_left_over_with_whoever_has_them() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", false))).inode;
    let op = ForgetSession {
        session,
        keep_slots: false,
    };
    let end = proto::index::CloseSession { session };
    cluster.internal(Op::CloseSession(end)).reply.unwrap();
    cluster.internal(Op::ForgetSession(op)).reply.unwrap();
    let delete = VolumeDelete {
        name: "default".to_owned(),
        nonce: 0,
    };
    cluster.internal(Op::VolumeDelete(delete)).reply.unwrap();
    assert_eq!(find(&cluster, &[held(file)]).objects, [], "not purged");
    while !janitor::deleted_volumes(&cluster.index).unwrap().is_empty() {
        let op = VolumePurge {
            volume: VOLUME.0,
            limit: 0,
        };
        cluster.internal(Op::VolumePurge(op)).reply.unwrap();
    }

    let found = find(&cluster, &[held(file)]);
    cluster.internal(discard(2, &found.objects, found.garbage_below));

    assert_eq!(garbage(&cluster, 2), [file]);
    assert_eq!(garbage(&cluster, 1), [0; 0]);
    cluster.assert_consistent();
}

#[test]
fn unknown_servers_and_long_lists_change_nothing() {
    let (mut cluster, session) = Cluster::new();
    let file = removed_file(&mut cluster, session);
    let before = cluster.entries();

    cluster
        .internal(discard(9, &[held(file)], 0))
        .reply
        .unwrap();
    let many = vec![held(file); config::LEFTOVERS_MAX + 1];
    let refused = cluster.internal(discard(1, &many, 0)).reply;

    assert_eq!(errno_of(&refused), errno::E2BIG);
    assert_eq!(cluster.entries(), before);
    let find = mrc::FindLeftovers {
        osd: 1,
        objects: vec![held(file); config::HELD_OBJECTS_MAX + 1],
    };
    let refused = query::leftovers(&cluster.index, &find).unwrap();
    assert_eq!(errno_of(&refused), errno::E2BIG);
    assert!(
        query::inode(&cluster.index, VOLUME, Inode(file))
            .unwrap()
            .is_none()
    );
}
