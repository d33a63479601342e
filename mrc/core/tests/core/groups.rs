//! Replica sets that change, and servers that come and go.

use mrc_core::{errno, query};
use proto::index::command::Op;
use proto::index::{ChangePg, EndPgChange, PgFull, PgRecord, RegisterOsd};
use proto::mrc::{self, HeldObject, response};
use types::{OsdId, PgId};

use crate::cluster::*;

const PG: u32 = 3;

fn group(cluster: &Cluster) -> PgRecord {
    query::pg(&cluster.index, VOLUME, PgId(PG))
        .unwrap()
        .unwrap()
}

/// Four servers, one volume with three replicas; returns the set of the group, and who is not in it.
fn cluster() -> (Cluster, u64, Vec<u64>, u64) {
    let (mut cluster, session) = Cluster::new();
    cluster.register(4, "store").unwrap();
    let set = group(&cluster).osds;
    assert_eq!(set.len(), 3);
    (cluster, session, set, 4)
}

fn change(view: u64, osds: &[u64]) -> Op {
    Op::ChangePg(ChangePg {
        volume: VOLUME.0,
        pg: PG,
        view,
        osds: osds.to_vec(),
    })
}

fn end(view: u64) -> Op {
    Op::EndPgChange(EndPgChange {
        volume: VOLUME.0,
        pg: PG,
        view,
    })
}

fn declare(cluster: &mut Cluster, view: u64, osd: u64) {
    let record = query::osd(&cluster.index, OsdId(osd)).unwrap().unwrap();
    let full = Op::PgFull(PgFull {
        volume: VOLUME.0,
        pg: PG,
        view,
        osd,
        store_uuid: record.store_uuid,
    });
    cluster.internal(full).reply.unwrap();
}

fn refused(cluster: &mut Cluster, op: Op) -> i32 {
    let before = cluster.entries();
    let fault = cluster.internal(op).reply.unwrap_err();
    assert_eq!(cluster.entries(), before);
    fault.errno
}

#[test]
fn member_is_replaced_when_the_new_one_and_a_majority_of_either_set_have_declared() {
    let (mut cluster, _, set, new) = cluster();
    let wanted = [set[0], set[1], new];

    let begun = cluster.internal(change(1, &wanted));
    assert!(begun.reply.is_ok() && begun.effects.map_changed);
    let record = group(&cluster);
    assert_eq!((record.view, &record.osds[..]), (2, &wanted[..]));
    assert_eq!(
        (record.previous, record.incomplete),
        (set.clone(), vec![new])
    );
    assert_eq!(record.settling.len(), 4);
    cluster.assert_consistent();

    for osd in [set[0], set[1]] {
        declare(&mut cluster, 2, osd);
        assert_eq!(refused(&mut cluster, end(2)), errno::EINVAL);
    }
    // Of an older view: it says nothing.
    declare(&mut cluster, 1, new);
    assert_eq!(refused(&mut cluster, end(2)), errno::EINVAL);
    declare(&mut cluster, 2, new);
    assert_eq!(refused(&mut cluster, end(1)), errno::EAGAIN);
    let ended = cluster.internal(end(2));

    assert!(ended.reply.is_ok() && ended.effects.map_changed);
    let record = group(&cluster);
    assert_eq!((record.view, &record.osds[..]), (3, &wanted[..]));
    assert!(record.previous.is_empty() && record.settling.is_empty());
    assert!(record.incomplete.is_empty());
    cluster.assert_consistent();
}

#[test]
fn change_that_gets_another_aim_keeps_the_set_that_was_alone_last() {
    let (mut cluster, _, set, new) = cluster();
    cluster.register(5, "store").unwrap();
    cluster
        .internal(change(1, &[set[0], set[1], new]))
        .reply
        .unwrap();
    declare(&mut cluster, 2, new);

    cluster
        .internal(change(2, &[set[0], set[1], 5]))
        .reply
        .unwrap();

    let record = group(&cluster);
    assert_eq!((record.view, record.previous), (3, set.clone()));
    assert_eq!(record.incomplete, [5]);
    assert!(!record.settling.contains(&new), "it has no say any more");
    // Given up: back to where it came from.
    cluster.internal(change(3, &set)).reply.unwrap();
    for osd in &set {
        declare(&mut cluster, 4, *osd);
    }
    cluster.internal(end(4)).reply.unwrap();
    assert_eq!(group(&cluster).osds, set);
    cluster.assert_consistent();
}

#[test]
fn sets_that_make_no_sense_are_refused() {
    let (mut cluster, _, set, _) = cluster();

    for osds in [
        vec![],
        vec![set[0], set[0]],
        vec![set[0], 77],
        set.clone(),
        (1..=8).collect(),
    ] {
        assert_eq!(refused(&mut cluster, change(1, &osds)), errno::EINVAL);
    }
    assert_eq!(refused(&mut cluster, change(2, &set[..2])), errno::EAGAIN);
    assert_eq!(refused(&mut cluster, end(1)), errno::EINVAL);
}

#[test]
fn server_that_loses_its_store_during_a_change_has_to_declare_again() {
    let (mut cluster, _, set, new) = cluster();
    cluster
        .internal(change(1, &[set[0], set[1], new]))
        .reply
        .unwrap();
    for osd in [set[0], set[1], new] {
        declare(&mut cluster, 2, osd);
    }

    cluster.register(new, "another store").unwrap();

    assert_eq!(refused(&mut cluster, end(2)), errno::EINVAL);
    let record = group(&cluster);
    assert!(record.settling.contains(&new) && record.incomplete.contains(&new));
    cluster.assert_consistent();
}

fn leftovers(cluster: &Cluster, osd: u64, inode: u64) -> usize {
    let find = mrc::FindLeftovers {
        osd,
        objects: vec![held(inode)],
    };
    let reply = query::leftovers(&cluster.index, &find).unwrap().unwrap();
    match reply.reply {
        Some(response::Reply::Leftovers(found)) => found.objects.len(),
        other => panic!("{other:?}"),
    }
}

fn held(inode: u64) -> HeldObject {
    HeldObject {
        volume: VOLUME.0,
        inode,
        pg: PG,
    }
}

#[test]
fn copy_is_left_over_at_a_server_that_left_the_set_and_not_before() {
    let (mut cluster, session, set, new) = cluster();
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    let gone = set[2];
    cluster
        .internal(change(1, &[set[0], set[1], new]))
        .reply
        .unwrap();
    assert_eq!(
        leftovers(&cluster, gone, file),
        0,
        "the change is under way"
    );
    for osd in [set[0], set[1], new] {
        declare(&mut cluster, 2, osd);
    }
    cluster.internal(end(2)).reply.unwrap();

    assert_eq!(leftovers(&cluster, gone, file), 1);
    assert_eq!(leftovers(&cluster, set[0], file), 0);
    let discard = Op::DiscardLeftovers(mrc::DiscardLeftovers {
        osd: gone,
        objects: vec![held(file)],
        garbage_below: 0,
    });
    let outcome = cluster.internal(discard);

    assert!(outcome.effects.garbage);
    let garbage = |osd| mrc_core::janitor::garbage(&cluster.index, OsdId(osd), None).unwrap();
    let records = garbage(gone);
    assert!(
        records
            .iter()
            .flat_map(|it| &it.record.objects)
            .all(|it| it.moved)
    );
    assert_eq!(records.len(), 1);
    for osd in [set[0], set[1], new] {
        assert!(garbage(osd).is_empty(), "{osd} keeps it");
    }
    cluster.assert_consistent();
}

#[test]
fn server_is_forgotten_when_it_is_a_member_of_nothing() {
    let (mut cluster, _, set, new) = cluster();
    let remove = |osd| Op::OsdRemove(mrc::OsdRemove { osd });
    let set_draining = |osd, draining| Op::OsdSet(mrc::OsdSet { osd, draining });

    assert_eq!(refused(&mut cluster, remove(set[0])), errno::EBUSY);
    assert_eq!(refused(&mut cluster, remove(99)), errno::ENOENT);
    assert_eq!(refused(&mut cluster, set_draining(99, true)), errno::ENOENT);
    cluster.internal(set_draining(new, true)).reply.unwrap();
    let draining = |cluster: &Cluster| {
        let record = query::osd(&cluster.index, OsdId(new)).unwrap();
        record.map(|record| record.draining)
    };
    assert_eq!(draining(&cluster), Some(true));
    // What a server says of itself changes nothing of that.
    let moved = Op::RegisterOsd(RegisterOsd {
        osd: new,
        address: "elsewhere:1".to_owned(),
        store_uuid: "store".to_owned(),
        ..RegisterOsd::default()
    });
    cluster.internal(moved).reply.unwrap();
    assert_eq!(draining(&cluster), Some(true));
    let removed = cluster.internal(remove(new));

    assert!(removed.reply.is_ok() && removed.effects.map_changed);
    assert_eq!(draining(&cluster), None);
    cluster.assert_consistent();
}
