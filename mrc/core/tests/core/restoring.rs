//! Dumps, and new metadata clusters that are filled with them.

use bytes::Bytes;
use mrc_core::restore_plan::{Asked, Registry, plan};
use mrc_core::{IndexRead as _, Reply, config, dump, errno, janitor, keys, query};
use proto::dump::{Record, record::Kind};
use proto::index::command::Op;
use proto::index::{Reap, SettleRestored, VolumeCreate, VolumeDelete, VolumePurge};
use proto::mrc::{self, HeldObject, response};
use proto::{dump as wire, index};
use types::{Inode, OsdId, SessionId, VolumeId};

use crate::cluster::*;
use crate::prop_namespace::random_cluster;

const FILE: Bytes = Bytes::from_static(b"the dump's checksum");

fn records(cluster: &Cluster) -> Vec<Record> {
    let entries = cluster.entries().into_iter();
    let records = entries.filter_map(|(key, value)| dump::record(&key, &value).unwrap());
    records.collect()
}

/// A dump, sorted as who restores it has it.
#[derive(Clone)]
struct Dump {
    registry: Registry,
    sequences: wire::Sequences,
    others: Vec<Record>,
}

impl Dump {
    fn of(cluster: &Cluster) -> Self {
        let mut found = Self {
            registry: Registry::default(),
            sequences: wire::Sequences::default(),
            others: Vec::new(),
        };
        for record in records(cluster) {
            match record.kind.clone().unwrap() {
                Kind::Volume(it) => found.registry.volumes.push(it),
                Kind::Group(it) => found.registry.groups.push(it),
                Kind::ObjectServer(it) => found.registry.object_servers.push(it),
                Kind::Map(it) => found.registry.map_version = it.version,
                Kind::Sequences(it) => found.sequences = it,
                _ => found.others.push(record),
            }
        }
        found
    }

    /// What is restored if the object servers know what `source` knows.
    fn planned(&self, source: &Cluster) -> Registry {
        let map = query::osd_map(&source.index).unwrap();
        let asked = query::osds(&source.index).unwrap().into_iter();
        let asked: Vec<_> = asked
            .map(|(osd, record)| Asked {
                osd: osd.0,
                store_uuid: record.store_uuid,
                map: Some(map.clone()),
            })
            .collect();
        plan(&self.registry, &asked).unwrap()
    }

    fn begin(&self) -> Op {
        Op::RestoreBegin(mrc::RestoreBegin {
            file: FILE,
            sequences: Some(self.sequences),
            ..mrc::RestoreBegin::default()
        })
    }

    fn batches(&self, registry: &Registry) -> Vec<Vec<Record>> {
        let record = |kind| Record { kind: Some(kind) };
        let volumes = registry
            .volumes
            .iter()
            .cloned()
            .map(Kind::Volume)
            .map(record);
        let groups = registry.groups.iter().cloned().map(Kind::Group).map(record);
        let servers = registry.object_servers.iter().cloned();
        let servers = servers.map(Kind::ObjectServer).map(record);
        let mut batches = vec![volumes.collect()];
        batches.extend(self.others.chunks(7).map(<[Record]>::to_vec));
        batches.push(servers.chain(groups).collect());
        batches
    }

    /// Everything as it should be in a cluster that knows the object servers already.
    fn restore_into(&self, cluster: &mut Cluster, registry: &Registry) {
        assert_eq!(next_batch(&cluster.internal(self.begin()).reply), 0);
        let batches = self.batches(registry);
        for (number, records) in (0..).zip(&batches) {
            let reply = cluster.internal(batch(number, records)).reply;
            assert_eq!(next_batch(&reply), number + 1);
        }
        cluster
            .internal(end(batches.len() as u64, registry.map_version))
            .reply
            .unwrap();
    }
}

fn batch(number: u64, records: &[Record]) -> Op {
    Op::RestoreBatch(mrc::RestoreBatch {
        file: FILE,
        number,
        records: records.to_vec(),
    })
}

const fn end(batches: u64, map_version: u64) -> Op {
    Op::RestoreEnd(mrc::RestoreEnd {
        file: FILE,
        batches,
        map_version,
    })
}

fn next_batch(reply: &Reply) -> u64 {
    match &reply.as_ref().unwrap().reply {
        Some(response::Reply::Restoring(restoring)) => restoring.next_batch,
        other => panic!("{other:?}"),
    }
}

/// A new metadata cluster with the object servers of the old one.
fn new_cluster() -> Cluster {
    let mut cluster = Cluster::empty();
    for osd in 1..=3 {
        cluster.register(osd, &format!("uuid-{osd}")).unwrap();
    }
    cluster
}

fn restored(source: &Cluster) -> Cluster {
    let dump = Dump::of(source);
    let mut cluster = new_cluster();
    dump.restore_into(&mut cluster, &dump.planned(source));
    cluster
}

/// What a dump of the restored cluster should have.
fn advanced(record: &Record) -> Record {
    let mut record = record.clone();
    match record.kind.as_mut().unwrap() {
        Kind::Counters(it) => it.next_inode += config::INODES_SKIPPED,
        Kind::Group(it) => it.view += config::VERSIONS_SKIPPED,
        Kind::Map(it) => it.version += config::VERSIONS_SKIPPED,
        Kind::Sequences(it) => {
            it.next_volume += config::VOLUMES_SKIPPED;
            it.next_session += config::SESSIONS_SKIPPED;
            it.next_garbage += config::GARBAGE_SKIPPED;
        }
        _ => {}
    }
    record
}

/// Has every file of a restore settled to what `shown` says of it: a length, if it was ever written.
fn settle(cluster: &mut Cluster, shown: impl Fn(u64) -> Option<u64>) {
    for lost in janitor::lost_writers(&cluster.index, None).unwrap().found {
        assert!(mrc_core::is_restorer(&cluster.index, lost.volume, lost.session).unwrap());
        let length = shown(lost.inode.0);
        cluster
            .internal(settled(lost.inode.0, lost.session, length))
            .reply
            .unwrap();
    }
}

fn settled(inode: u64, session: SessionId, length: Option<u64>) -> Op {
    Op::SettleRestored(SettleRestored {
        volume: VOLUME.0,
        inode,
        session: session.0,
        length_bytes: length.unwrap_or(0),
        written: length.is_some(),
    })
}

fn forget_ended(cluster: &mut Cluster) {
    for (session, _) in janitor::unsettled_sessions(&cluster.index).unwrap() {
        let op = Op::ForgetSession(forget(session.0));
        cluster.internal(op).reply.unwrap();
    }
}

fn held(inode: u64) -> HeldObject {
    HeldObject {
        volume: VOLUME.0,
        inode,
        pg: 3,
    }
}

fn left_over(cluster: &Cluster, held: HeldObject) -> bool {
    let find = mrc::FindLeftovers {
        osd: 1,
        objects: vec![held],
    };
    let reply = query::leftovers(&cluster.index, &find).unwrap().unwrap();
    match reply.reply {
        Some(response::Reply::Leftovers(found)) => !found.objects.is_empty(),
        other => panic!("{other:?}"),
    }
}

fn next_inode(cluster: &Cluster) -> u64 {
    let counters = query::counters(&cluster.index, VOLUME).unwrap();
    counters.unwrap().next_inode
}

/// A file of some length, closed.
fn file(cluster: &mut Cluster, session: u64, text: &str, size: u64) -> u64 {
    let inode = attr_of(cluster.change(session, create(ROOT, text, true))).inode;
    let written = Op::Written(mrc::Written {
        inode,
        size_at_least_bytes: size,
        mtime_ns: Some(77),
        close: true,
        ..mrc::Written::default()
    });
    cluster.change(session, written).unwrap();
    inode
}

#[test]
fn prop_restored_index_is_the_dumped_one_but_for_what_is_advanced() {
    for seed in 0..20 {
        println!("seed {seed}");
        let (source, _) = random_cluster(seed, 400);
        let before = records(&source);

        let mut cluster = restored(&source);

        cluster.assert_consistent();
        let mut after = records(&cluster);
        // What was skipped is kept.
        let kept: Vec<_> = after
            .extract_if(.., |record| matches!(record.kind, Some(Kind::Kept(_))))
            .collect();
        assert_eq!(kept.len(), 2, "of volumes, and of the volume's inodes");
        let expected: Vec<_> = before.iter().map(advanced).collect();
        assert_eq!(after, expected);
        // Files whose objects are as long as the dump says change no more.
        let sizes: std::collections::BTreeMap<u64, u64> = before
            .iter()
            .filter_map(|record| match record.kind.as_ref().unwrap() {
                Kind::Inode(inode) => Some((inode.inode, inode.size_bytes)),
                _ => None,
            })
            .collect();
        settle(&mut cluster, |inode| Some(sizes[&inode]));
        forget_ended(&mut cluster);
        cluster.assert_consistent();
        assert!(query::sessions(&cluster.index).unwrap().is_empty());
        after = records(&cluster);
        after.retain(|record| !matches!(record.kind, Some(Kind::Kept(_))));
        assert_eq!(after, expected);
    }
}

#[test]
fn sessions_open_files_and_garbage_are_not_dumped() {
    let (mut source, session) = Cluster::new();
    let gone = file(&mut source, session, "gone", 5);
    source.change(session, unlink(ROOT, "gone")).unwrap();
    source
        .internal(Op::Reap(Reap {
            volume: VOLUME.0,
            inodes: vec![gone],
        }))
        .reply
        .unwrap();
    source.change(session, create(ROOT, "open", true)).unwrap();

    let cluster = restored(&source);

    let sessions = query::sessions(&cluster.index).unwrap();
    assert_eq!(sessions.len(), 1, "the one in which files are settled");
    assert!(sessions[0].1.ended && sessions[0].0.0 > session);
    assert!(
        janitor::garbage(&cluster.index, OsdId(1), None)
            .unwrap()
            .is_empty()
    );
    // Object servers find it: it was gone when the dump was made.
    assert!(left_over(&cluster, held(gone)));
}

#[test]
fn what_is_made_after_a_restore_has_no_number_that_may_have_been_given_out() {
    let (source, _) = Cluster::new();
    let (next, version) = (
        next_inode(&source),
        query::map_version(&source.index).unwrap(),
    );

    let mut cluster = restored(&source);
    settle(&mut cluster, |_| Some(0));
    forget_ended(&mut cluster);

    let session = cluster.open_session(1);
    let file = attr_of(cluster.change(session, create(ROOT, "new", true))).inode;
    assert_eq!(file, next + config::INODES_SKIPPED);
    assert!(session >= 2 + config::SESSIONS_SKIPPED);
    cluster.create_volume("second").unwrap();
    let second = query::volume_named(&cluster.index, "second")
        .unwrap()
        .unwrap();
    assert!(second.0.0 >= 2 + config::VOLUMES_SKIPPED);
    assert!(query::map_version(&cluster.index).unwrap() > version + config::VERSIONS_SKIPPED);
    let pgs = query::pgs(&cluster.index, Some(VOLUME)).unwrap();
    assert!(pgs.iter().all(|pg| pg.view == 1 + config::VERSIONS_SKIPPED));
    cluster.assert_consistent();
}

#[test]
fn objects_of_files_made_after_the_dump_are_kept_until_they_are_discarded() {
    let (source, _) = Cluster::new();
    let next = next_inode(&source);
    let first = restored(&source);
    // A dump of the restored cluster keeps them, too.
    let mut cluster = restored(&first);
    let newer = HeldObject {
        volume: VOLUME.0 + 1,
        inode: 7,
        pg: 0,
    };

    let last = next_inode(&cluster) - 1;
    for inode in [next, next + 1, next + config::INODES_SKIPPED, last] {
        assert!(!left_over(&cluster, held(inode)), "{inode}");
        let discard = mrc::DiscardLeftovers {
            osd: 1,
            objects: vec![held(inode), newer],
            garbage_below: 0,
        };
        cluster
            .internal(Op::DiscardLeftovers(discard))
            .reply
            .unwrap();
    }
    assert!(!left_over(&cluster, newer));
    assert!(
        janitor::garbage(&cluster.index, OsdId(1), None)
            .unwrap()
            .is_empty()
    );

    let discard = Op::RestoredDiscard(mrc::RestoredDiscard {});
    cluster.internal(discard).reply.unwrap();

    assert!(left_over(&cluster, held(next)) && left_over(&cluster, held(last)));
    assert!(left_over(&cluster, newer));
    assert!(!left_over(&cluster, held(last + 1)), "not given out yet");
    assert!(!query::restored(&cluster.index).unwrap().keeps);
}

#[test]
fn file_is_settled_to_what_its_object_shows_before_it_can_be_opened() {
    let (mut source, session) = Cluster::new();
    let grown = file(&mut source, session, "grown", 100);
    let cut = file(&mut source, session, "cut", 100);
    let same = file(&mut source, session, "same", 100);
    let lost = file(&mut source, session, "lost", 100);
    let empty = file(&mut source, session, "empty", 0);
    let mut cluster = restored(&source);
    let unsettled = |cluster: &Cluster, inode| {
        let open = mrc_core::unsettled_by_restore(&cluster.index, VOLUME, Inode(inode));
        open.unwrap().is_some()
    };
    for inode in [grown, cut, same, lost, empty] {
        assert!(unsettled(&cluster, inode));
    }
    assert!(!unsettled(&cluster, ROOT));

    let before = cluster.attr(same);
    settle(&mut cluster, |inode| match inode {
        it if it == grown => Some(150),
        it if it == cut => Some(30),
        it if it == same => Some(100),
        _ => None,
    });

    assert!(!unsettled(&cluster, grown) && !unsettled(&cluster, lost));
    assert_eq!(cluster.attr(same), before);
    let (grown, cut) = (cluster.attr(grown), cluster.attr(cut));
    assert_eq!((grown.size_bytes, cut.size_bytes), (150, 30));
    assert!(grown.mtime_ns > before.mtime_ns && cut.truncate_epoch == 1);
    let counters = query::counters(&cluster.index, VOLUME).unwrap().unwrap();
    assert_eq!(counters.size_bytes, 150 + 30 + 100 + 100);
    let shown = query::restored(&cluster.index).unwrap();
    assert_eq!(
        (shown.files_total, shown.files_settled, shown.files_lost),
        (5, 5, 1)
    );
    // Settling again, late, changes nothing.
    let again = settled(lost, SessionId(1 << 50), Some(7));
    cluster.internal(again).reply.unwrap();
    forget_ended(&mut cluster);
    let session = cluster.open_session(1);
    let open = |cluster: &mut Cluster, inode| {
        cluster.change(session, Op::OpenWrite(mrc::OpenWrite { inode }))
    };
    let refused = open(&mut cluster, lost).unwrap_err();
    assert_eq!(refused.errno, errno::EIO);
    assert!(refused.message.contains("dump"), "{}", refused.message);
    let record = query::inode(&cluster.index, VOLUME, Inode(lost))
        .unwrap()
        .unwrap();
    assert!(query::has_content(&record).is_err());
    assert!(open(&mut cluster, empty).is_ok(), "it had nothing to lose");
    assert!(cluster.change(session, unlink(ROOT, "lost")).is_ok());
    cluster.assert_consistent();
}

#[test]
fn restore_that_was_interrupted_goes_on_and_repetitions_do_nothing() {
    let (source, _) = random_cluster(3, 300);
    let dump = Dump::of(&source);
    let registry = dump.planned(&source);
    let batches = dump.batches(&registry);
    let mut cluster = new_cluster();
    cluster.internal(dump.begin()).reply.unwrap();

    for (number, records) in (0..).zip(&batches) {
        cluster.internal(batch(number, records)).reply.unwrap();
        let before = cluster.entries();
        for repeated in [batch(number, records), batch(0, &batches[0]), dump.begin()] {
            assert_eq!(next_batch(&cluster.internal(repeated).reply), number + 1);
        }
        assert_eq!(cluster.entries(), before);
        let gap = cluster.internal(batch(number + 2, records)).reply;
        assert_eq!(errno_of(&gap), errno::EINVAL);
    }
    let short = cluster.internal(end(batches.len() as u64 - 1, registry.map_version));
    assert_eq!(errno_of(&short.reply), errno::EINVAL);
    let old = cluster.internal(end(batches.len() as u64, 1));
    assert_eq!(errno_of(&old.reply), errno::EINVAL, "no newer map");
    let whole = end(batches.len() as u64, registry.map_version);
    cluster.internal(whole.clone()).reply.unwrap();
    let before = cluster.entries();
    cluster.internal(whole).reply.unwrap();
    cluster.internal(batch(0, &batches[0])).reply.unwrap();
    assert_eq!(cluster.entries(), before);
    cluster.assert_consistent();
}

#[test]
fn restore_is_refused_where_something_was_or_another_dump_comes() {
    let (source, _) = Cluster::new();
    let dump = Dump::of(&source);
    let (mut used, _) = Cluster::new();
    let refused = used.internal(dump.begin()).reply;
    assert_eq!(errno_of(&refused), errno::EEXIST);
    assert!(refused.unwrap_err().message.contains("had volumes"));
    // Also when its volume is gone: object servers may hold what was in it.
    let mut emptied = new_cluster();
    emptied.create_volume("default").unwrap();
    let delete = Op::VolumeDelete(VolumeDelete {
        name: "default".to_owned(),
        nonce: 0,
    });
    emptied.internal(delete).reply.unwrap();
    while !janitor::deleted_volumes(&emptied.index).unwrap().is_empty() {
        let purge = Op::VolumePurge(VolumePurge {
            volume: 1,
            limit: 0,
        });
        emptied.internal(purge).reply.unwrap();
    }
    assert_eq!(
        errno_of(&emptied.internal(dump.begin()).reply),
        errno::EEXIST
    );

    let other = || {
        Op::RestoreBegin(mrc::RestoreBegin {
            file: Bytes::from_static(b"other"),
            sequences: Some(dump.sequences),
            ..mrc::RestoreBegin::default()
        })
    };
    let mut cluster = new_cluster();
    cluster.internal(dump.begin()).reply.unwrap();
    assert_eq!(errno_of(&cluster.internal(other()).reply), errno::EBUSY);
    let mut whole = restored(&source);
    assert_eq!(errno_of(&whole.internal(other()).reply), errno::EEXIST);
    assert_eq!(
        errno_of(&new_cluster().internal(batch(0, &[])).reply),
        errno::EINVAL
    );
}

#[test]
fn nothing_else_is_done_during_a_restore_and_nothing_is_left_over() {
    let (source, _) = Cluster::new();
    let dump = Dump::of(&source);
    let registry = dump.planned(&source);
    let batches = dump.batches(&registry);
    let mut cluster = new_cluster();
    cluster.internal(dump.begin()).reply.unwrap();
    for (number, records) in (0..).zip(&batches) {
        cluster.internal(batch(number, records)).reply.unwrap();
    }
    let before = cluster.entries();

    assert_eq!(errno_of(&cluster.create_volume("new")), errno::EBUSY);
    assert_eq!(
        errno_of(&cluster.try_open_session("default", 5)),
        errno::EBUSY
    );
    let discard = mrc::DiscardLeftovers {
        osd: 1,
        objects: vec![held(0)],
        garbage_below: 0,
    };
    let discarded = cluster.internal(Op::DiscardLeftovers(discard)).reply;
    assert_eq!(errno_of(&discarded), errno::EBUSY);
    assert!(!left_over(&cluster, held(0)));
    assert_eq!(cluster.entries(), before);
    // Servers move meanwhile.
    cluster.register(2, "uuid-2").unwrap();

    cluster
        .internal(end(batches.len() as u64, registry.map_version))
        .reply
        .unwrap();
    assert!(left_over(&cluster, held(0)));
    assert!(cluster.try_open_session("default", 5).is_ok());
}

#[test]
fn records_that_fit_nothing_are_refused_and_leave_nothing() {
    let (source, _) = Cluster::new();
    let dump = Dump::of(&source);
    let registry = dump.planned(&source);
    let refused = |records: &[Kind]| {
        let mut cluster = new_cluster();
        cluster.internal(dump.begin()).reply.unwrap();
        let before = cluster.entries();
        let records: Vec<_> = records
            .iter()
            .map(|kind| Record {
                kind: Some(kind.clone()),
            })
            .collect();
        let reply = cluster.internal(batch(0, &records)).reply;
        assert_eq!(errno_of(&reply), errno::EINVAL, "{records:?}");
        assert_eq!(cluster.entries(), before);
    };
    let volume = |volume| {
        Kind::Volume(wire::Volume {
            volume,
            ..wire::Volume::default()
        })
    };
    refused(&[volume(0)]);
    refused(&[volume(dump.sequences.next_volume)]);
    refused(&[Kind::Map(wire::Map { version: 1 })]);
    refused(&[Kind::Sequences(wire::Sequences::default())]);
    refused(&[Kind::Inode(wire::Inode {
        volume: 1,
        ..wire::Inode::default()
    })]);
    refused(&[
        volume(1),
        Kind::Counters(wire::Counters {
            volume: 1,
            next_inode: u64::MAX,
            ..wire::Counters::default()
        }),
    ]);

    let mut cluster = new_cluster();
    cluster.internal(dump.begin()).reply.unwrap();
    let volumes = dump.batches(&registry).remove(0);
    cluster.internal(batch(0, &volumes)).reply.unwrap();
    let reply = cluster.internal(end(1, registry.map_version)).reply;
    assert!(reply.unwrap_err().message.contains("not whole"));
    let greatest = Op::RestoreBegin(mrc::RestoreBegin {
        file: FILE,
        sequences: Some(wire::Sequences {
            next_volume: config::VOLUME_NUMBER_MAX - 1,
            ..dump.sequences
        }),
        ..mrc::RestoreBegin::default()
    });
    assert_eq!(
        errno_of(&new_cluster().internal(greatest).reply),
        errno::EINVAL
    );
}

#[test]
fn volume_that_was_being_deleted_is_purged_after_the_restore() {
    let (mut source, _) = Cluster::new();
    source
        .internal(Op::VolumeCreate(VolumeCreate {
            request: Some(mrc::VolumeCreate {
                name: "old".to_owned(),
                pgs: 4,
                root_owner: Some(OWNER),
                ..mrc::VolumeCreate::default()
            }),
            osds: Vec::new(),
        }))
        .reply
        .unwrap();
    let delete = Op::VolumeDelete(index::VolumeDelete {
        name: "old".to_owned(),
        nonce: 0,
    });
    source.internal(delete).reply.unwrap();

    let mut cluster = restored(&source);
    while let Some(volume) = janitor::deleted_volumes(&cluster.index).unwrap().first() {
        let purge = Op::VolumePurge(VolumePurge {
            volume: volume.0,
            limit: 0,
        });
        cluster.internal(purge).reply.unwrap();
    }

    settle(&mut cluster, |_| Some(0));
    forget_ended(&mut cluster);
    cluster.assert_consistent();
    assert!(
        cluster
            .index
            .get(&keys::kept(VolumeId(2)))
            .unwrap()
            .is_none()
    );
}

/// A server that has come to the new cluster says itself where it is; one that has not is known by the dump.
#[test]
fn object_servers_of_the_dump_and_those_that_came_are_one_registry() {
    let (mut source, _) = Cluster::new();
    let drain = |osd| {
        Op::OsdSet(mrc::OsdSet {
            osd,
            draining: true,
        })
    };
    source.internal(drain(1)).reply.unwrap();
    source.internal(drain(3)).reply.unwrap();
    let dump = Dump::of(&source);
    let mut cluster = Cluster::empty();
    cluster.register(1, "uuid-1").unwrap();
    let moved = index::RegisterOsd {
        osd: 1,
        address: "elsewhere:1".to_owned(),
        store_uuid: "uuid-1".to_owned(),
        ..index::RegisterOsd::default()
    };
    cluster.internal(Op::RegisterOsd(moved)).reply.unwrap();

    dump.restore_into(&mut cluster, &dump.planned(&source));

    let first = query::osd(&cluster.index, OsdId(1)).unwrap().unwrap();
    assert_eq!(
        (first.address.as_str(), first.draining),
        ("elsewhere:1", true)
    );
    let third = query::osd(&cluster.index, OsdId(3)).unwrap().unwrap();
    assert_eq!(
        (third.address.as_str(), third.draining),
        ("127.0.0.1:7003", true)
    );
    // It comes back with another store: what it had is gone.
    cluster.register(3, "new").unwrap();
    let pgs = query::pgs(&cluster.index, Some(VOLUME)).unwrap();
    assert!(pgs.iter().all(|pg| pg.incomplete == [3]));
    cluster.assert_consistent();
}
