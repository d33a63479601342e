//! What the leader's janitor does: orphans, garbage, ended sessions, deleted volumes.

use mrc_core::{config, errno, janitor, query};
use proto::index::command::Op;
use proto::index::{
    Collected, ExpireSession, ForgetSession, Reap, SettleSize, VolumeDelete, VolumePurge,
};
use proto::mrc;
use types::{Inode, OsdId, UnixNanos};

use crate::cluster::*;

fn reap(inodes: &[u64]) -> Op {
    Op::Reap(Reap {
        volume: VOLUME.0,
        inodes: inodes.to_vec(),
    })
}

fn orphans(cluster: &Cluster) -> Vec<u64> {
    let found = janitor::orphans(&cluster.index, None).unwrap();
    found.iter().map(|orphan| orphan.inode.0).collect()
}

#[test]
fn unlinked_file_lives_until_its_writer_closed_it() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    cluster
        .change(session, Op::SetXattr(set_xattr(file, "user.a", b"1")))
        .unwrap();

    cluster.change(session, unlink(ROOT, "f")).unwrap();
    assert_eq!(orphans(&cluster), [file]);
    assert_eq!(cluster.attr(file).nlink, 0);
    cluster.internal(reap(&[file])).reply.unwrap();
    assert_eq!(orphans(&cluster), [file], "still open for writing");
    let op = Op::Written(mrc::Written {
        inode: file,
        size_at_least_bytes: 9,
        mtime_ns: Some(1),
        close: true,
        stays_open: false,
        truncate_epoch: 0,
    });
    cluster.change(session, op).unwrap();
    cluster.assert_consistent();
    let outcome = cluster.internal(reap(&[file]));

    assert!(outcome.effects.garbage);
    assert!(orphans(&cluster).is_empty());
    let gone = query::inode(&cluster.index, VOLUME, Inode(file)).unwrap();
    assert_eq!(gone, None);
    assert_eq!(
        query::counters(&cluster.index, VOLUME)
            .unwrap()
            .unwrap()
            .inode_count,
        1
    );
    cluster.assert_consistent();
}

#[test]
fn reap_leaves_what_has_links() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", false))).inode;
    let before = cluster.entries();

    cluster.internal(reap(&[file, ROOT, 4711])).reply.unwrap();

    assert_eq!(cluster.entries(), before);
    let too_many = vec![1; config::REAP_INODES_MAX + 1];
    assert_eq!(
        errno_of(&cluster.internal(reap(&too_many)).reply),
        errno::E2BIG
    );
}

#[test]
fn garbage_goes_to_each_replica_and_away_when_each_confirmed() {
    let (mut cluster, session) = Cluster::new();
    let mut files = Vec::new();
    for n in 0..10 {
        let text = n.to_string();
        let write = n % 2 == 0;
        let file = attr_of(cluster.change(session, create(ROOT, &text, write))).inode;
        let op = Op::Written(mrc::Written {
            inode: file,
            close: true,
            ..mrc::Written::default()
        });
        cluster.change(session, op).unwrap();
        cluster.change(session, unlink(ROOT, &text)).unwrap();
        files.push((file, write));
    }
    let all: Vec<u64> = files.iter().map(|(file, _)| *file).collect();
    cluster.internal(reap(&all)).reply.unwrap();
    let expected: Vec<u64> = files
        .iter()
        .filter(|(_, write)| *write)
        .map(|(file, _)| *file)
        .collect();

    for osd in 1..=3 {
        let garbage = janitor::garbage(&cluster.index, OsdId(osd), None).unwrap();
        assert_eq!(garbage.len(), 1, "one Reap, one record");
        let inodes: Vec<u64> = garbage[0]
            .record
            .objects
            .iter()
            .map(|object| object.inode)
            .collect();
        assert_eq!(inodes, expected, "never opened for writing, no object");
        let seqs = vec![garbage[0].seq];
        assert!(
            janitor::garbage(&cluster.index, OsdId(osd), Some(seqs[0]))
                .unwrap()
                .is_empty()
        );
        cluster.assert_consistent();
        cluster
            .internal(Op::Collected(Collected { osd, seqs }))
            .reply
            .unwrap();
        assert!(
            janitor::garbage(&cluster.index, OsdId(osd), None)
                .unwrap()
                .is_empty()
        );
    }
    assert!(cluster.entries().iter().all(|(key, _)| key[0] != b'g'));
}

#[test]
fn files_of_an_expired_writer_are_settled_before_it_is_forgotten() {
    let (mut cluster, session) = Cluster::new();
    let other = cluster.open_session(78);
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    let kept = attr_of(cluster.change(other, create(ROOT, "g", true))).inode;
    assert!(
        janitor::lost_writers(&cluster.index, None)
            .unwrap()
            .found
            .is_empty()
    );

    cluster.internal(Op::ExpireSession(ExpireSession { session }));
    let lost = janitor::lost_writers(&cluster.index, None).unwrap();
    assert_eq!((lost.found.len(), lost.next), (1, None));
    assert_eq!(
        (lost.found[0].inode.0, lost.found[0].session.0),
        (file, session)
    );
    let settle = |size_at_least_bytes| {
        Op::SettleSize(SettleSize {
            volume: VOLUME.0,
            inode: file,
            session,
            size_at_least_bytes,
            truncate_epoch: 0,
        })
    };
    cluster.internal(settle(123)).reply.unwrap();
    let settled = cluster.attr(file);
    assert_eq!((settled.size_bytes, settled.mtime_ns), (123, cluster.now));
    // Proposed twice, because the first leader died: the file may have changed since.
    cluster.internal(settle(9999)).reply.unwrap();
    assert_eq!(cluster.attr(file), settled);
    let ended = janitor::unsettled_sessions(&cluster.index).unwrap();
    assert_eq!(
        ended.iter().map(|(id, _)| id.0).collect::<Vec<_>>(),
        [session]
    );
    cluster
        .internal(Op::ForgetSession(forget(session)))
        .reply
        .unwrap();

    assert!(janitor::is_open_for_writing(&cluster.index, VOLUME, Inode(kept)).unwrap());
    assert!(
        janitor::unsettled_sessions(&cluster.index)
            .unwrap()
            .is_empty()
    );
    cluster.assert_consistent();
}

#[test]
fn settling_never_shortens_a_file() {
    let (mut cluster, session) = Cluster::new();
    let file = attr_of(cluster.change(session, create(ROOT, "f", true))).inode;
    let op = Op::Written(mrc::Written {
        inode: file,
        size_at_least_bytes: 500,
        mtime_ns: Some(7),
        close: false,
        stays_open: false,
        truncate_epoch: 0,
    });
    let written = attr_of(cluster.change(session, op));
    cluster.internal(Op::ExpireSession(ExpireSession { session }));

    let op = Op::SettleSize(SettleSize {
        volume: VOLUME.0,
        inode: file,
        session,
        size_at_least_bytes: 20,
        truncate_epoch: 0,
    });
    cluster.internal(op).reply.unwrap();

    assert_eq!(cluster.attr(file), written);
    assert!(!janitor::is_open_for_writing(&cluster.index, VOLUME, Inode(file)).unwrap());
}

#[test]
fn lists_come_in_bounded_pages_that_join() {
    let (mut cluster, session) = Cluster::new();
    let count = config::JANITOR_PAGE_MAX + 10;
    for n in 0..count {
        let text = n.to_string();
        cluster.change(session, create(ROOT, &text, true)).unwrap();
        cluster.change(session, unlink(ROOT, &text)).unwrap();
    }
    cluster.internal(Op::ExpireSession(ExpireSession { session }));

    let first = janitor::orphans(&cluster.index, None).unwrap();
    assert_eq!(first.len(), config::JANITOR_PAGE_MAX);
    let last = first.last().unwrap();
    let second = janitor::orphans(&cluster.index, Some((last.volume, last.inode))).unwrap();
    assert_eq!(second.len(), 10);

    let first = janitor::lost_writers(&cluster.index, None).unwrap();
    assert_eq!(first.found.len(), config::JANITOR_PAGE_MAX);
    let second = janitor::lost_writers(&cluster.index, first.next).unwrap();
    assert_eq!((second.found.len(), second.next), (10, None));
}

#[test]
fn deleted_volume_is_purged_in_steps_to_its_last_record() {
    // With small steps the inodes end in the middle of one; with the largest, entries would too.
    purge_in_steps_of(100);
    purge_in_steps_of(0);
}

fn purge_in_steps_of(limit: u32) {
    let (mut cluster, session) = Cluster::new();
    let before = cluster.entries();
    cluster.create_volume("other").unwrap();
    let Some(mrc::response::Reply::SessionOpened(opened)) =
        cluster.try_open_session("other", 90).unwrap().reply
    else {
        panic!("no session");
    };
    let other = opened.session;
    for n in 0..300 {
        let text = n.to_string();
        let file = attr_of(cluster.change(other, create(ROOT, &text, true))).inode;
        cluster
            .change(other, Op::SetXattr(set_xattr(file, "user.a", b"1")))
            .unwrap();
    }
    cluster.change(other, unlink(ROOT, "5")).unwrap();
    let delete = || {
        Op::VolumeDelete(VolumeDelete {
            name: "other".to_owned(),
            nonce: 0,
        })
    };
    assert_eq!(errno_of(&cluster.internal(delete()).reply), errno::EBUSY);
    cluster.internal(Op::ExpireSession(ExpireSession { session: other }));
    for lost in janitor::lost_writers(&cluster.index, None).unwrap().found {
        let op = Op::SettleSize(SettleSize {
            volume: lost.volume.0,
            inode: lost.inode.0,
            session: lost.session.0,
            size_at_least_bytes: 1,
            truncate_epoch: 0,
        });
        cluster.internal(op).reply.unwrap();
    }
    cluster
        .internal(Op::ForgetSession(forget(other)))
        .reply
        .unwrap();

    assert!(cluster.internal(delete()).effects.purge);
    assert_eq!(errno_of(&cluster.internal(delete()).reply), errno::ENOENT);
    assert_eq!(
        errno_of(&cluster.try_open_session("other", 91)),
        errno::ENOENT
    );
    let mut steps = 0;
    while let Some(volume) = janitor::deleted_volumes(&cluster.index).unwrap().first() {
        let op = Op::VolumePurge(VolumePurge {
            volume: volume.0,
            limit,
        });
        cluster.internal(op).reply.unwrap();
        cluster.assert_consistent();
        steps += 1;
        assert!(steps < 50);
    }

    let garbage: usize = janitor::garbage(&cluster.index, OsdId(2), None)
        .unwrap()
        .iter()
        .map(|garbage| garbage.record.objects.len())
        .sum();
    assert_eq!(garbage, 300);
    // Nothing is left but garbage and what counts on.
    let left = |entries: &[(bytes::Bytes, bytes::Bytes)]| -> Vec<bytes::Bytes> {
        let kept = entries.iter().filter(|(key, _)| key[0] != b'g');
        kept.map(|(key, _)| key.clone()).collect()
    };
    assert_eq!(left(&cluster.entries()), left(&before));
    assert!(cluster.change(session, mkdir(ROOT, "d")).is_ok());
}

#[test]
fn deletion_that_is_repeated_is_done_once() {
    let (mut cluster, session) = Cluster::new();
    cluster.internal(Op::ExpireSession(ExpireSession { session }));
    cluster
        .internal(Op::ForgetSession(forget(session)))
        .reply
        .unwrap();
    let name = query::volumes(&cluster.index).unwrap().remove(0).name;
    let delete = |nonce| {
        Op::VolumeDelete(VolumeDelete {
            name: name.clone(),
            nonce,
        })
    };

    let first = cluster.internal(delete(5)).reply.unwrap();
    while let Some(volume) = janitor::deleted_volumes(&cluster.index).unwrap().first() {
        let volume = volume.0;
        let op = Op::VolumePurge(VolumePurge { volume, limit: 0 });
        cluster.internal(op).reply.unwrap();
    }

    assert_eq!(cluster.internal(delete(5)).reply, Ok(first));
    for nonce in [6, 0] {
        let other = cluster.internal(delete(nonce)).reply;
        assert_eq!(errno_of(&other), errno::ENOENT);
    }
}

#[test]
fn size_found_before_a_truncation_is_not_settled() {
    let (mut cluster, session) = Cluster::new();
    let writer = cluster.open_session(78);
    let file = attr_of(cluster.change(writer, create(ROOT, "f", true))).inode;
    cluster.internal(Op::ExpireSession(ExpireSession { session: writer }));
    let settle = |truncate_epoch| {
        Op::SettleSize(SettleSize {
            volume: VOLUME.0,
            inode: file,
            session: writer,
            size_at_least_bytes: 1000,
            truncate_epoch,
        })
    };
    let truncate = Op::SetAttr(mrc::SetAttr {
        inode: file,
        size_bytes: Some(0),
        ..mrc::SetAttr::default()
    });
    let truncated = attr_of(cluster.change(session, truncate));

    let outdated = cluster.internal(settle(0)).reply;

    assert_eq!(errno_of(&outdated), errno::EAGAIN);
    assert_eq!(cluster.attr(file), truncated);
    let found = janitor::lost_writers(&cluster.index, None).unwrap().found;
    assert_eq!(found.len(), 1, "its object is asked again");
    let epoch = truncated.truncate_epoch;
    cluster.internal(settle(epoch)).reply.unwrap();
    assert_eq!(cluster.attr(file).size_bytes, 1000);
}

#[test]
fn answers_of_expired_sessions_are_kept_for_a_time_and_a_number() {
    let (mut cluster, _) = Cluster::new();
    let mut kept = Vec::new();
    for nonce in 0..4 {
        let session = cluster.open_session(100 + nonce);
        cluster.internal(Op::ExpireSession(ExpireSession { session }));
        kept.push(session);
    }
    let at = |cluster: &Cluster, after: i64| {
        let now = UnixNanos(cluster.now + after);
        let outlived = janitor::outlived_sessions(&cluster.index, now, 2).unwrap();
        outlived.iter().map(|id| id.0).collect::<Vec<_>>()
    };
    assert!(at(&cluster, 0).is_empty(), "none is settled");
    for session in &kept {
        let op = Op::ForgetSession(ForgetSession {
            session: *session,
            keep_slots: true,
        });
        cluster.internal(op).reply.unwrap();
    }

    assert_eq!(at(&cluster, 0), kept[..2], "the oldest go");
    assert_eq!(at(&cluster, config::ANSWERS_KEPT_NS), kept);
    assert!(
        janitor::unsettled_sessions(&cluster.index)
            .unwrap()
            .is_empty()
    );
    cluster.assert_consistent();
    for session in kept {
        cluster
            .internal(Op::ForgetSession(forget(session)))
            .reply
            .unwrap();
    }
    assert!(at(&cluster, config::ANSWERS_KEPT_NS).is_empty());
    cluster.assert_consistent();
}
