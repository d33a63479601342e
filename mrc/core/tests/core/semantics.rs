//! What successful changes do to attributes: links, times, owners, modes, sizes.

use mrc_core::{S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, errno, query};
use proto::index::command::Op;
use proto::mrc::{self, request, response};
use types::Inode;

use crate::cluster::*;

fn set_attr(inode: u64, set: impl FnOnce(&mut mrc::SetAttr)) -> Op {
    let mut op = mrc::SetAttr {
        inode,
        ..mrc::SetAttr::default()
    };
    set(&mut op);
    Op::SetAttr(op)
}

#[test]
fn new_inodes_have_the_attributes_asked_for() {
    let (mut cluster, session) = Cluster::new();

    let file = attr_of(cluster.change(session, create(ROOT, "f", true)));
    let directory = attr_of(cluster.change(session, mkdir(ROOT, "d")));
    let link = attr_of(cluster.change(session, symlink(ROOT, "l", b"to/there")));
    let device = attr_of(cluster.change(
        session,
        Op::MkNod(mrc::MkNod {
            parent: ROOT,
            name: name("null"),
            mode: S_IFCHR | 0o666,
            rdev: 0x103,
            owner: Some(OWNER),
        }),
    ));

    assert_eq!(
        (file.mode, file.nlink, file.size_bytes),
        (S_IFREG | 0o644, 1, 0)
    );
    assert_eq!((file.uid, file.gid), (1000, 100));
    assert_eq!((directory.mode, directory.nlink), (S_IFDIR | 0o755, 2));
    assert_eq!((link.mode, link.size_bytes), (S_IFLNK | 0o777, 8));
    assert_eq!((device.mode, device.rdev), (S_IFCHR | 0o666, 0x103));
    assert_eq!(cluster.attr(ROOT).nlink, 3);
    assert_eq!(cluster.names(ROOT), [&b"d"[..], b"f", b"l", b"null"]);
    let target = cluster.ask(&request::Op::ReadLink(mrc::ReadLink { inode: link.inode }));
    let bytes = response::Reply::Bytes(mrc::Bytes {
        bytes: name("to/there"),
    });
    assert_eq!(target.unwrap().reply, Some(bytes));
    cluster.assert_consistent();
}

#[test]
fn changing_entries_changes_the_times_of_their_directory() {
    let (mut cluster, session) = Cluster::new();
    let d = attr_of(cluster.change(session, mkdir(ROOT, "d"))).inode;
    let mut last = cluster.attr(d);
    let file = attr_of(cluster.change(session, create(d, "f", false)));

    let steps = [
        link(file.inode, d, "g"),
        rename(d, "g", d, "h", How::Replace),
        unlink(d, "h"),
        mkdir(d, "sub"),
        rmdir(d, "sub"),
        rename(d, "f", ROOT, "f", How::Replace),
    ];
    for step in steps {
        cluster.change(session, step.clone()).unwrap();
        let now = cluster.attr(d);
        assert_eq!(
            (now.mtime_ns, now.ctime_ns),
            (cluster.now, cluster.now),
            "{step:?}"
        );
        assert!(now.mtime_ns > last.mtime_ns);
        assert_eq!(now.atime_ns, last.atime_ns);
        last = now;
    }
    let moved = cluster.attr(file.inode);
    assert_eq!(
        (moved.ctime_ns, moved.mtime_ns),
        (cluster.now, file.mtime_ns)
    );
}

#[test]
fn setgid_directory_gives_its_group_and_itself_to_directories() {
    let (mut cluster, session) = Cluster::new();
    let d = attr_of(cluster.change(session, mkdir(ROOT, "d"))).inode;
    let op = set_attr(d, |op| {
        op.gid = Some(555);
        op.mode = Some(0o2775);
    });
    cluster.change(session, op).unwrap();

    let sub = attr_of(cluster.change(session, mkdir(d, "sub")));
    let file = attr_of(cluster.change(session, create(d, "file", false)));

    assert_eq!((sub.gid, sub.mode), (555, S_IFDIR | 0o2755));
    assert_eq!((file.gid, file.mode), (555, S_IFREG | 0o644));
}

#[test]
fn chown_takes_privileges_from_files_but_not_from_directories() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", false))).inode;
    let directory = attr_of(cluster.change(session, mkdir(ROOT, "d"))).inode;
    let chmod = |inode, mode| set_attr(inode, |op| op.mode = Some(mode));
    let chown = |inode| set_attr(inode, |op| op.uid = Some(7));

    for (inode, before, after) in [
        (file, 0o6755, S_IFREG | 0o755),
        (file, 0o2745, S_IFREG | 0o2745),
        (file, 0o4745, S_IFREG | 0o745),
        (directory, 0o6755, S_IFDIR | 0o6755),
    ] {
        cluster.change(session, chmod(inode, before)).unwrap();
        let attr = attr_of(cluster.change(session, chown(inode)));
        assert_eq!((attr.mode, attr.uid), (after, 7), "{before:o}");
    }
    // The kernel may send the mode it wants together with the owner.
    let op = set_attr(file, |op| {
        op.uid = Some(8);
        op.mode = Some(0o4700);
    });
    assert_eq!(attr_of(cluster.change(session, op)).mode, S_IFREG | 0o4700);
}

#[test]
fn times_are_set_exactly_and_each_change_moves_ctime() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", false)));

    let exact = attr_of(cluster.change(
        session,
        set_attr(file.inode, |op| {
            op.atime_ns = Some(-1);
            op.mtime_ns = Some(123_456_789_123_456_789);
        }),
    ));
    assert_eq!(
        (exact.atime_ns, exact.mtime_ns),
        (-1, 123_456_789_123_456_789)
    );
    assert_eq!(exact.ctime_ns, cluster.now);

    let now = attr_of(cluster.change(
        session,
        set_attr(file.inode, |op| {
            op.atime_now = true;
            op.mtime_now = true;
        }),
    ));
    assert_eq!((now.atime_ns, now.mtime_ns), (cluster.now, cluster.now));

    let nothing = attr_of(cluster.change(session, set_attr(file.inode, |_| {})));
    assert_eq!(nothing, now, "nothing was asked");
}

#[test]
fn sizes_follow_writers_and_truncations_and_are_summed() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    let written = |size_at_least_bytes, mtime_ns, close| {
        Op::Written(mrc::Written {
            inode: file,
            size_at_least_bytes,
            mtime_ns,
            close,
            stays_open: false,
            truncate_epoch: 0,
        })
    };
    let sum = |cluster: &Cluster| {
        query::counters(&cluster.index, VOLUME)
            .unwrap()
            .unwrap()
            .size_bytes
    };

    let grown = attr_of(cluster.change(session, written(100, Some(5), false)));
    assert_eq!(
        (grown.size_bytes, grown.mtime_ns, sum(&cluster)),
        (100, 5, 100)
    );
    assert_eq!(grown.ctime_ns, cluster.now);
    let overwritten = attr_of(cluster.change(session, written(40, Some(6), false)));
    assert_eq!((overwritten.size_bytes, overwritten.mtime_ns), (100, 6));
    assert!(overwritten.data_version > grown.data_version);
    let shorter = attr_of(cluster.change(session, set_attr(file, |op| op.size_bytes = Some(30))));
    assert_eq!((shorter.size_bytes, sum(&cluster)), (30, 30));
    assert_eq!(shorter.mtime_ns, cluster.now);
    let closed = attr_of(cluster.change(session, written(0, None, true)));
    assert_eq!(closed, shorter, "closing alone changes no attribute");

    // Sums of the largest files come back.
    let mut others = Vec::new();
    for other in ["x", "y", "z"] {
        let inode = attr_of(cluster.change(session, create(ROOT, other, false))).inode;
        let op = set_attr(inode, |op| op.size_bytes = Some(types::FILE_BYTES_MAX));
        cluster.change(session, op).unwrap();
        others.push(inode);
    }
    cluster.assert_consistent();
    for inode in others {
        let op = set_attr(inode, |op| op.size_bytes = Some(0));
        cluster.change(session, op).unwrap();
    }
    assert_eq!(sum(&cluster), 30);
    cluster.assert_consistent();
}

#[test]
fn rename_keeps_links_and_parents_right() {
    let (mut cluster, session) = Cluster::new();
    let a = attr_of(cluster.change(session, mkdir(ROOT, "a"))).inode;
    let b = attr_of(cluster.change(session, mkdir(ROOT, "b"))).inode;
    let sub = attr_of(cluster.change(session, mkdir(a, "sub"))).inode;
    let file = attr_of(cluster.change(session, create(b, "file", false))).inode;
    let links = |cluster: &Cluster| (cluster.attr(a).nlink, cluster.attr(b).nlink);
    let parent = |cluster: &Cluster, inode| attr_of(cluster.ask(&lookup(inode, ".."))).inode;

    cluster
        .change(session, rename(a, "sub", b, "sub", How::Replace))
        .unwrap();
    assert_eq!((links(&cluster), parent(&cluster, sub)), ((2, 3), b));

    let op = rename(b, "sub", a, "sub", How::NoReplace);
    cluster.change(session, op).unwrap();
    let op = rename(a, "sub", b, "file", How::Exchange);
    cluster.change(session, op).unwrap();
    assert_eq!((links(&cluster), parent(&cluster, sub)), ((2, 3), b));
    assert_eq!(cluster.names(a), [b"sub"]);
    assert_eq!(attr_of(cluster.ask(&lookup(a, "sub"))).inode, file);
    assert_eq!(attr_of(cluster.ask(&lookup(b, "file"))).inode, sub);

    let over = attr_of(cluster.change(session, mkdir(a, "over"))).inode;
    let op = rename(b, "file", a, "over", How::Replace);
    cluster.change(session, op).unwrap();
    assert_eq!((links(&cluster), parent(&cluster, sub)), ((3, 2), a));
    assert_eq!(
        cluster.attr(over).nlink,
        0,
        "kept for those who have it open"
    );
    cluster.assert_consistent();
}

#[test]
fn rename_of_two_links_of_one_file_does_nothing() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", false))).inode;
    let before = attr_of(cluster.change(session, link(file, ROOT, "g")));
    let root = cluster.attr(ROOT);

    for how in [How::Replace, How::Exchange] {
        cluster
            .change(session, rename(ROOT, "f", ROOT, "g", how))
            .unwrap();
        cluster
            .change(session, rename(ROOT, "f", ROOT, "f", how))
            .unwrap();
    }

    assert_eq!(cluster.names(ROOT), [b"f", b"g"]);
    assert_eq!(cluster.attr(file), before);
    assert_eq!(cluster.attr(ROOT), root);
}

#[test]
fn create_without_exclusive_opens_what_is_there() {
    let (mut cluster, session) = Cluster::new();
    let made = attr_of(cluster.change(session, create(ROOT, "f", false)));

    let reply = cluster.change(
        session,
        Op::Create(mrc::Create {
            parent: ROOT,
            name: name("f"),
            mode: 0o777,
            owner: Some(OWNER),
            exclusive: false,
            write: true,
        }),
    );

    let Some(response::Reply::Opened(opened)) = reply.unwrap().reply else {
        panic!("not opened");
    };
    assert!(opened.existed);
    assert_eq!(opened.attr, Some(made));
    let pg = query::inode(&cluster.index, VOLUME, Inode(made.inode))
        .unwrap()
        .unwrap()
        .pg;
    assert_eq!(opened.grant.unwrap().pg, pg);
    assert!(
        mrc_core::janitor::is_open_for_writing(&cluster.index, VOLUME, Inode(made.inode)).unwrap()
    );
    cluster.assert_consistent();
}

#[test]
fn xattrs_are_kept_per_inode_and_listed_in_order() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", false))).inode;
    for (text, value) in [
        ("user.b", &b"2"[..]),
        ("user.a", b""),
        ("trusted.t", b"\0\xff"),
    ] {
        cluster
            .change(session, Op::SetXattr(set_xattr(file, text, value)))
            .unwrap();
    }
    cluster
        .change(session, Op::SetXattr(set_xattr(file, "user.b", b"22")))
        .unwrap();
    assert_eq!(cluster.attr(file).ctime_ns, cluster.now);
    let op = Op::RemoveXattr(mrc::RemoveXattr {
        inode: file,
        name: name("trusted.t"),
    });
    cluster.change(session, op).unwrap();

    let names = cluster.ask(&request::Op::ListXattr(mrc::ListXattr { inode: file }));
    let value = cluster.ask(&request::Op::GetXattr(mrc::GetXattr {
        inode: file,
        name: name("user.b"),
    }));

    let names_expected = mrc::Names {
        names: vec![name("user.a"), name("user.b")],
    };
    assert_eq!(
        names.unwrap().reply,
        Some(response::Reply::Names(names_expected))
    );
    let value_expected = mrc::Bytes { bytes: name("22") };
    assert_eq!(
        value.unwrap().reply,
        Some(response::Reply::Bytes(value_expected))
    );
    cluster.assert_consistent();
}

#[test]
fn directory_pages_join_without_gaps_and_show_attributes() {
    let (mut cluster, session) = Cluster::new();
    for n in 0..7 {
        cluster
            .change(session, create(ROOT, &format!("f{n}"), false))
            .unwrap();
    }
    cluster.change(session, create(ROOT, "f", false)).unwrap();

    let listed = cluster.list(ROOT, true);

    assert_eq!(listed.len(), 8);
    for entry in &listed {
        assert_eq!(entry.attr, Some(cluster.attr(entry.inode)));
        assert_eq!(entry.kind, S_IFREG);
    }
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn size_from_before_a_truncation_raises_nothing() {
    let (mut cluster, session) = Cluster::new();
    let other = cluster.open_session(78);
    let made = attr_of(cluster.change(session, create(ROOT, "f", true)));
    let file = made.inode;
    cluster
        .change(other, Op::OpenWrite(mrc::OpenWrite { inode: file }))
        .unwrap();
    let truncated = attr_of(cluster.change(other, set_attr(file, |op| op.size_bytes = Some(10))));
    let written = |size_at_least_bytes, truncate_epoch| {
        Op::Written(mrc::Written {
            inode: file,
            size_at_least_bytes,
            mtime_ns: Some(5),
            close: true,
            stays_open: false,
            truncate_epoch,
        })
    };

    let outdated = cluster.change(session, written(1000, made.truncate_epoch));

    assert_eq!(errno_of(&outdated), errno::EAGAIN);
    assert_eq!(cluster.attr(file), truncated);
    let open = |cluster: &Cluster, session| {
        let key = mrc_core::keys::open(VOLUME, Inode(file), types::SessionId(session));
        mrc_core::IndexRead::get(&cluster.index, &key)
            .unwrap()
            .is_some()
    };
    assert!(open(&cluster, session), "it was not closed either");
    // What raises nothing needs no proof, and what is known to be newer is believed.
    cluster
        .change(other, written(10, made.truncate_epoch))
        .unwrap();
    assert!(!open(&cluster, other));
    let grown = attr_of(cluster.change(session, written(1000, truncated.truncate_epoch)));
    assert_eq!(grown.size_bytes, 1000);
    assert!(!open(&cluster, session));
    cluster.assert_consistent();
}

#[test]
fn truncation_that_somebody_may_have_written_behind_is_not_believed() {
    let (mut cluster, session) = Cluster::new();
    let other = cluster.open_session(78);
    let made = attr_of(cluster.change(session, create(ROOT, "f", true)));
    let truncate = |known: mrc::Attr| {
        set_attr(made.inode, |op| {
            op.size_bytes = Some(0);
            op.data_version = Some(known.data_version);
        })
    };
    let written = Op::Written(mrc::Written {
        inode: made.inode,
        size_at_least_bytes: 1000,
        mtime_ns: Some(5),
        close: false,
        stays_open: false,
        truncate_epoch: made.truncate_epoch,
    });
    let written = attr_of(cluster.change(other, written));

    let refused = cluster.change(session, truncate(made));

    assert_eq!(errno_of(&refused), errno::EAGAIN);
    assert_eq!(cluster.attr(made.inode), written);
    let truncated = attr_of(cluster.change(session, truncate(written)));
    assert_eq!(truncated.size_bytes, 0);
    assert_eq!(truncated.truncate_epoch, made.truncate_epoch + 1);
    cluster.assert_consistent();
}
