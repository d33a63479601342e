//! That a check finds what it is there to find: each way of damaging an index, one at a time.

use mrc_core::{Batch, Index, IndexRead, Problem, check, keys};
use prost::Message;
use proto::index::{
    CountersRecord, DentryRecord, InodeRecord, OpenRecord, PgRecord, SequencesRecord, SessionRecord,
};
use types::{Inode, OsdId, PgId, SessionId};

use crate::cluster::*;

struct Damaged {
    cluster: Cluster,
    d: Inode,
    file: Inode,
}

/// `d/file` (open for writing, with an xattr) and the orphan of `gone`.
fn whole() -> Damaged {
    let (mut cluster, session) = Cluster::new();
    let d = attr_of(cluster.change(session, mkdir(ROOT, "d"))).inode;
    let file = attr_of(cluster.change(session, create(d, "file", true))).inode;
    let op = proto::index::command::Op::SetXattr(set_xattr(file, "user.a", b"1"));
    cluster.change(session, op).unwrap();
    cluster
        .change(session, create(ROOT, "gone", false))
        .unwrap();
    cluster.change(session, unlink(ROOT, "gone")).unwrap();
    cluster.assert_consistent();
    Damaged {
        cluster,
        d: Inode(d),
        file: Inode(file),
    }
}

impl Damaged {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) {
        let mut batch = Batch::new();
        batch.put(key, value);
        self.cluster.index.apply(batch).unwrap();
    }

    fn delete(&self, key: Vec<u8>) {
        let mut batch = Batch::new();
        batch.delete(key);
        self.cluster.index.apply(batch).unwrap();
    }

    fn edit<M: Message + Default>(&self, key: Vec<u8>, edit: impl FnOnce(&mut M)) {
        let value = self.cluster.index.get(&key).unwrap().unwrap();
        let mut record = M::decode(value).unwrap();
        edit(&mut record);
        self.put(key, record.encode_to_vec());
    }

    fn edit_inode(&self, inode: Inode, edit: impl FnOnce(&mut InodeRecord)) {
        self.edit(keys::inode(VOLUME, inode), edit);
    }
}

fn assert_found(invariant: u8, damage: impl FnOnce(&Damaged)) {
    let damaged = whole();
    damage(&damaged);

    let problems = check(&damaged.cluster.index).unwrap();

    let found = |problem: &Problem| problem.invariant == invariant;
    assert!(problems.iter().any(found), "I-{invariant} in {problems:?}");
}

#[test]
fn foreign_and_damaged_records_are_found() {
    assert_found(1, |it| it.put(b"zzz".to_vec(), Vec::new()));
    assert_found(1, |it| it.put(keys::inode(VOLUME, it.d), vec![0xff]));
    assert_found(1, |it| {
        it.put(keys::orphan(types::VolumeId(9), it.d), Vec::new())
    });
    assert_found(1, |it| it.put(keys::slot(SessionId(99), 0), Vec::new()));
    assert_found(1, |it| it.put(keys::garbage(OsdId(99), 1), Vec::new()));
    assert_found(1, |it| {
        it.put(keys::xattr(VOLUME, Inode(99), b"user.a"), Vec::new())
    });
}

#[test]
fn entries_that_lead_nowhere_are_found() {
    assert_found(2, |it| it.delete(keys::inode(VOLUME, it.file)));
    assert_found(2, |it| {
        it.edit_inode(it.file, |record| record.mode = 0o010_644)
    });
    let entry = |inode: Inode| {
        DentryRecord {
            inode: inode.0,
            kind: 0o100_000,
        }
        .encode_to_vec()
    };
    assert_found(2, |it| {
        it.put(keys::dentry(VOLUME, it.d, b"a/b"), entry(it.file))
    });
    assert_found(2, |it| {
        it.put(keys::dentry(VOLUME, it.file, b"x"), entry(it.file))
    });
}

#[test]
fn wrong_counts_of_one_inode_are_found() {
    assert_found(3, |it| it.edit_inode(it.file, |record| record.nlink = 2));
    assert_found(3, |it| it.edit_inode(it.d, |record| record.nlink = 3));
    assert_found(3, |it| it.edit_inode(it.d, |record| record.parent = 7));
    assert_found(3, |it| it.edit_inode(it.file, |record| record.pg = 8));
    assert_found(3, |it| {
        it.edit_inode(it.file, |record| record.xattr_values_bytes = 9)
    });
    assert_found(3, |it| {
        it.edit_inode(it.file, |record| record.doomed = true)
    });
    assert_found(3, |it| it.delete(keys::dentry(VOLUME, it.d, b"file")));
    assert_found(3, |it| it.put(keys::orphan(VOLUME, it.file), Vec::new()));
}

#[test]
fn orphans_without_inode_and_cycles_are_found() {
    assert_found(4, |it| it.put(keys::orphan(VOLUME, Inode(99)), Vec::new()));
    // `d` becomes its own and only parent.
    assert_found(4, |it| {
        it.delete(keys::dentry(VOLUME, Inode(ROOT), b"d"));
        let entry = DentryRecord {
            inode: it.d.0,
            kind: 0o040_000,
        };
        it.put(keys::dentry(VOLUME, it.d, b"d"), entry.encode_to_vec());
        it.edit_inode(it.d, |record| (record.parent, record.nlink) = (it.d.0, 3));
        it.edit_inode(Inode(ROOT), |record| record.nlink = 2);
    });
}

#[test]
fn wrong_counters_are_found() {
    let edit =
        |edit: fn(&mut CountersRecord)| move |it: &Damaged| it.edit(keys::counters(VOLUME), edit);
    assert_found(5, edit(|counters| counters.inode_count += 1));
    assert_found(5, edit(|counters| counters.size_bytes += 1));
    assert_found(5, edit(|counters| counters.session_count += 1));
    assert_found(5, edit(|counters| counters.pgs += 1));
    assert_found(5, edit(|counters| counters.doomed_count = 0));
    assert_found(5, edit(|counters| counters.doomed_bytes += 1));
    assert_found(5, edit(|counters| counters.quota_files = 9));
    assert_found(5, edit(|counters| counters.next_inode = 2));
    assert_found(5, |it| it.delete(keys::counters(VOLUME)));
}

#[test]
fn impossible_replica_sets_are_found() {
    let edit =
        |edit: fn(&mut PgRecord)| move |it: &Damaged| it.edit(keys::pg(VOLUME, PgId(3)), edit);
    assert_found(6, edit(|pg| pg.osds = vec![1, 1, 2]));
    assert_found(6, edit(|pg| pg.osds = Vec::new()));
    assert_found(6, edit(|pg| pg.previous = vec![9]));
    assert_found(6, edit(|pg| pg.settling = vec![1]));
    assert_found(6, edit(|pg| pg.osds = vec![1, 2, 9]));
    assert_found(6, edit(|pg| pg.incomplete = vec![9]));
    assert_found(6, |it| it.delete(keys::pg(VOLUME, PgId(3))));
}

#[test]
fn sessions_that_do_not_fit_are_found() {
    let session = SessionId(1);
    assert_found(7, |it| it.delete(keys::nonce(77)));
    assert_found(7, |it| it.delete(keys::session(session)));
    let edit = |record: &mut SessionRecord| record.volume = 9;
    assert_found(7, |it| it.edit(keys::session(session), edit));
    let edit = |record: &mut SequencesRecord| record.session_count = 5;
    assert_found(7, |it| it.edit(keys::sequences(), edit));
    let open = OpenRecord::default().encode_to_vec();
    assert_found(7, |it| {
        it.put(keys::open(VOLUME, it.d, session), open.clone())
    });
    assert_found(7, |it| {
        it.put(keys::open(VOLUME, it.file, SessionId(5)), open.clone())
    });
}
