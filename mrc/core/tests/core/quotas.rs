//! Quotas of volumes: what counts, from when on, and who is refused.

use mrc_core::{Batch, Index, Use, errno, keys, query};
use prost::Message as _;
use proto::index::command::Op;
use proto::index::{CountersRecord, InodeRecord, Reap, SettleSize, VolumeRecord};
use proto::mrc::{self, request, response};
use types::Inode;

use crate::cluster::*;

fn set_quota(cluster: &mut Cluster, bytes: Option<u64>, files: Option<u64>) -> mrc::Volume {
    let op = Op::VolumeSet(mrc::VolumeSet {
        name: "default".to_owned(),
        quota_bytes: bytes,
        quota_files: files,
        ..mrc::VolumeSet::default()
    });
    match cluster.internal(op).reply.unwrap().reply {
        Some(response::Reply::Volumes(mut volumes)) => volumes.volumes.remove(0),
        other => panic!("{other:?}"),
    }
}

fn used(cluster: &Cluster) -> (u64, u64) {
    let counters = query::counters(&cluster.index, VOLUME).unwrap().unwrap();
    let used = Use::of(&counters);
    (used.bytes, used.files)
}

fn written(inode: u64, size_at_least_bytes: u64, close: bool) -> Op {
    Op::Written(mrc::Written {
        inode,
        size_at_least_bytes,
        mtime_ns: Some(1),
        close,
        stays_open: false,
        truncate_epoch: 0,
    })
}

fn reap(inode: u64) -> Op {
    Op::Reap(Reap {
        volume: VOLUME.0,
        inodes: vec![inode],
    })
}

/// A file of 100 bytes that nobody has open for writing.
fn closed_file(cluster: &mut Cluster, session: u64, name: &str) -> u64 {
    let inode = attr_of(cluster.change(session, create(ROOT, name, true))).inode;
    cluster.change(session, written(inode, 100, true)).unwrap();
    inode
}

#[test]
pub(crate) fn everything_that_takes_an_inode_is_refused_beyond_the_quota_and_nothing_else() {
    let (mut cluster, session) = Cluster::new();
    let file = closed_file(&mut cluster, session, "f");
    cluster.change(session, mkdir(ROOT, "d")).unwrap();
    let shown = set_quota(&mut cluster, None, Some(2));
    assert_eq!((shown.quota_files, shown.used_files), (2, 2));

    let node = Op::MkNod(mrc::MkNod {
        parent: ROOT,
        name: name("n"),
        mode: mrc_core::S_IFIFO | 0o600,
        rdev: 0,
        owner: Some(OWNER),
    });
    let before = cluster.entries().len();
    for op in [
        create(ROOT, "x", true),
        mkdir(ROOT, "x"),
        symlink(ROOT, "x", b"target"),
        node,
    ] {
        let reply = cluster.change(session, op);
        assert_eq!(errno::name(errno_of(&reply)), "EDQUOT");
    }
    assert_eq!(cluster.entries().len(), before);

    cluster.change(session, link(file, ROOT, "second")).unwrap();
    let over = rename(ROOT, "second", ROOT, "third", How::Replace);
    cluster.change(session, over).unwrap();
    let xattr = Op::SetXattr(set_xattr(file, "user.a", b"1"));
    cluster.change(session, xattr).unwrap();
    // What removes is never refused, and its room is there at once.
    cluster.change(session, rmdir(ROOT, "d")).unwrap();
    cluster.change(session, create(ROOT, "x", true)).unwrap();
    let reply = cluster.change(session, create(ROOT, "y", true));
    assert_eq!(errno::name(errno_of(&reply)), "EDQUOT");

    set_quota(&mut cluster, None, Some(3));
    cluster.change(session, create(ROOT, "y", true)).unwrap();
    let shown = set_quota(&mut cluster, None, Some(0));
    assert_eq!((shown.quota_files, shown.used_files), (0, 3));
    cluster.change(session, create(ROOT, "z", true)).unwrap();
    cluster.assert_consistent();
}

/// Sizes were reached when they are reported: refusing them would make them untrue.
#[test]
pub(crate) fn sizes_beyond_the_quota_are_recorded() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    set_quota(&mut cluster, Some(50), None);

    let grown = attr_of(cluster.change(session, written(file, 80, false)));

    assert_eq!(grown.size_bytes, 80);
    assert_eq!(used(&cluster), (80, 1));
    let stat = cluster.ask(&request::Op::StatFs(mrc::StatFs { use_only: true }));
    let Some(response::Reply::FsStat(stat)) = stat.unwrap().reply else {
        panic!("no answer");
    };
    assert_eq!((stat.quota_bytes, stat.used_bytes), (50, 80));
    cluster.assert_consistent();
}

#[test]
pub(crate) fn removed_file_counts_until_nobody_has_it_open_for_writing() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    cluster.change(session, written(file, 100, false)).unwrap();
    cluster.change(session, unlink(ROOT, "f")).unwrap();
    assert_eq!(used(&cluster), (100, 1), "still open for writing");
    cluster.change(session, written(file, 300, false)).unwrap();
    assert_eq!(used(&cluster), (300, 1));

    cluster.change(session, written(file, 300, true)).unwrap();
    assert_eq!(used(&cluster), (0, 0));
    cluster.assert_consistent();

    // A descriptor that was duplicated goes on.
    let op = Op::OpenWrite(mrc::OpenWrite { inode: file });
    cluster.change(session, op).unwrap();
    assert_eq!(used(&cluster), (300, 1));
    let cut = Op::SetAttr(mrc::SetAttr {
        inode: file,
        size_bytes: Some(10),
        ..mrc::SetAttr::default()
    });
    cluster.change(session, cut).unwrap();
    assert_eq!(used(&cluster), (10, 1));
    cluster.change(session, written(file, 10, true)).unwrap();
    assert_eq!(used(&cluster), (0, 0));
    cluster.internal(reap(file)).reply.unwrap();
    assert_eq!(used(&cluster), (0, 0));
    cluster.assert_consistent();
}

#[test]
pub(crate) fn removed_file_of_a_writer_that_died_counts_until_it_is_settled() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    cluster.change(session, unlink(ROOT, "f")).unwrap();
    let expire = Op::ExpireSession(proto::index::ExpireSession { session });
    cluster.internal(expire).reply.unwrap();
    assert_eq!(used(&cluster), (0, 1));

    let settle = Op::SettleSize(SettleSize {
        volume: VOLUME.0,
        inode: file,
        session,
        size_at_least_bytes: 70,
        truncate_epoch: 0,
    });
    cluster.internal(settle).reply.unwrap();

    assert_eq!(used(&cluster), (0, 0));
    cluster.assert_consistent();
    cluster.internal(reap(file)).reply.unwrap();
    assert_eq!(used(&cluster), (0, 0));
}

#[test]
pub(crate) fn files_that_are_replaced_or_keep_another_name_count_as_they_should() {
    let (mut cluster, session) = Cluster::new();
    closed_file(&mut cluster, session, "one");
    let two = closed_file(&mut cluster, session, "two");
    cluster
        .change(session, link(two, ROOT, "also-two"))
        .unwrap();
    assert_eq!(used(&cluster), (200, 2));

    let over = rename(ROOT, "one", ROOT, "two", How::Replace);
    cluster.change(session, over).unwrap();
    assert_eq!(used(&cluster), (200, 2), "it has another name");
    cluster.change(session, unlink(ROOT, "also-two")).unwrap();
    assert_eq!(used(&cluster), (100, 1));
    cluster.assert_consistent();
}

/// Records from before there were quotas: what lost its last link then is not marked.
#[test]
fn orphans_from_before_quotas_count_until_they_are_gone() {
    let (mut cluster, session) = Cluster::new();
    let file = closed_file(&mut cluster, session, "f");
    cluster.change(session, unlink(ROOT, "f")).unwrap();
    let mut batch = Batch::new();
    let key = keys::inode(VOLUME, Inode(file));
    let record = query::inode(&cluster.index, VOLUME, Inode(file)).unwrap();
    let old = InodeRecord {
        doomed: false,
        ..record.unwrap()
    };
    batch.put(key, old.encode_to_vec());
    let counters = query::counters(&cluster.index, VOLUME).unwrap().unwrap();
    let old = CountersRecord {
        doomed_count: 0,
        doomed_bytes: 0,
        ..counters
    };
    batch.put(keys::counters(VOLUME), old.encode_to_vec());
    cluster.index.apply(batch).unwrap();
    cluster.assert_consistent();
    assert_eq!(used(&cluster), (100, 1));
    let record: Option<VolumeRecord> = query::volume_record(&cluster.index, VOLUME).unwrap();
    assert_eq!(record.unwrap().quota_bytes, 0);

    cluster.internal(reap(file)).reply.unwrap();

    assert_eq!(used(&cluster), (0, 0));
    cluster.assert_consistent();
}
