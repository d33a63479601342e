//! Volumes, object servers and placement groups.

use std::collections::BTreeMap;

use mrc_core::{config, errno, query, registration};
use proto::index::command::Op;
use proto::index::{OsdDown, PgFull, VolumeCreate};
use proto::mrc::{self, OsdHeartbeat, response};
use types::{OsdId, PgId};

use crate::cluster::*;

fn create_op(request: mrc::VolumeCreate, osds: &[u64]) -> Op {
    Op::VolumeCreate(VolumeCreate {
        request: Some(request),
        osds: osds.to_vec(),
    })
}

fn asked(name: &str) -> mrc::VolumeCreate {
    mrc::VolumeCreate {
        name: name.to_owned(),
        ..mrc::VolumeCreate::default()
    }
}

#[test]
fn volume_spreads_its_groups_over_all_servers() {
    let mut cluster = Cluster::empty();
    for osd in 1..=5 {
        cluster.register(osd, "store").unwrap();
    }

    let reply = cluster.internal(create_op(asked("v"), &[])).reply.unwrap();

    let Some(response::Reply::Volumes(volumes)) = reply.reply else {
        panic!("no volume");
    };
    let volume = &volumes.volumes[0];
    assert_eq!(
        (volume.replicas, volume.pgs, volume.inode_count),
        (3, config::PGS_DEFAULT, 1)
    );
    let pgs = query::pgs(&cluster.index, Some(VOLUME)).unwrap();
    assert_eq!(pgs.len(), 32);
    let mut firsts = BTreeMap::new();
    for pg in &pgs {
        assert_eq!((pg.view, pg.osds.len(), pg.incomplete.len()), (1, 3, 0));
        *firsts.entry(pg.osds[0]).or_insert(0) += 1;
    }
    assert!(firsts.len() == 5 && firsts.values().all(|count| (6..=7).contains(count)));
    cluster.assert_consistent();
}

#[test]
fn volume_uses_only_the_servers_the_leader_chose() {
    let mut cluster = Cluster::empty();
    for osd in 1..=4 {
        cluster.register(osd, "store").unwrap();
    }

    cluster
        .internal(create_op(asked("v"), &[2, 4]))
        .reply
        .unwrap();

    for pg in query::pgs(&cluster.index, None).unwrap() {
        assert!(pg.osds == [2, 4] || pg.osds == [4, 2]);
    }
    cluster.assert_consistent();
}

#[test]
fn impossible_volumes_are_refused_with_a_reason() {
    let mut cluster = Cluster::empty();
    let none = cluster
        .internal(create_op(asked("v"), &[]))
        .reply
        .unwrap_err();
    assert_eq!(
        none.message,
        "no object server is registered; start some first"
    );
    cluster.register(1, "store").unwrap();
    let shape = |replicas, pgs| mrc::VolumeCreate {
        replicas,
        pgs,
        ..asked("v")
    };

    for (request, errno) in [
        (shape(2, 0), errno::EINVAL),
        (shape(8, 0), errno::EINVAL),
        (shape(0, 4097), errno::EINVAL),
        (asked("a/b"), errno::EINVAL),
        (asked(""), errno::EINVAL),
    ] {
        let before = cluster.entries();
        let reply = cluster.internal(create_op(request.clone(), &[])).reply;
        assert_eq!(errno_of(&reply), errno, "{request:?}");
        assert_eq!(cluster.entries(), before);
    }
}

#[test]
fn repeated_creation_finds_its_volume_and_another_one_does_not() {
    let (mut cluster, _) = Cluster::new();
    let mine = mrc::VolumeCreate {
        nonce: 42,
        ..asked("mine")
    };

    let first = cluster.internal(create_op(mine.clone(), &[])).reply;
    let again = cluster.internal(create_op(mine.clone(), &[])).reply;
    let other = cluster
        .internal(create_op(mrc::VolumeCreate { nonce: 43, ..mine }, &[]))
        .reply;

    assert!(first.is_ok());
    assert_eq!(again, first);
    assert_eq!(errno_of(&other), errno::EEXIST);
    assert_eq!(errno_of(&cluster.create_volume("default")), errno::EEXIST);
    assert_eq!(query::volumes(&cluster.index).unwrap().len(), 2);
    cluster.assert_consistent();
}

#[test]
fn policy_is_that_of_creation_until_it_is_set_and_reaches_servers_with_the_map() {
    let mut cluster = Cluster::empty();
    cluster.register(1, "store").unwrap();
    let request = mrc::VolumeCreate {
        quorum: "all".to_owned(),
        ..asked("v")
    };
    cluster.internal(create_op(request, &[])).reply.unwrap();
    let policy = |cluster: &Cluster| {
        let map = query::osd_map(&cluster.index).unwrap();
        let volume = query::volumes(&cluster.index).unwrap().remove(0);
        let told = map.volumes[0].clone();
        assert_eq!(told.volume, volume.volume);
        assert_eq!(
            (&told.write_policy, &told.quorum),
            (&volume.write_policy, &volume.quorum)
        );
        let words = format!("{} {}", told.write_policy, told.quorum);
        (words, volume.policy_version, map.version)
    };
    let (words, version, made) = policy(&cluster);
    assert_eq!((words.as_str(), version), ("memsync all", made));

    let set = |write_policy: &str, quorum: &str| {
        Op::VolumeSet(mrc::VolumeSet {
            name: "v".to_owned(),
            write_policy: write_policy.to_owned(),
            quorum: quorum.to_owned(),
            replicas: 1,
            ..mrc::VolumeSet::default()
        })
    };
    for _ in 0..2 {
        let outcome = cluster.internal(set("fullsync", ""));
        assert!(outcome.reply.is_ok());
        assert_eq!(
            policy(&cluster),
            ("fullsync all".to_owned(), made + 1, made + 1)
        );
    }
    assert!(
        cluster
            .internal(set("async", "majority"))
            .effects
            .map_changed
    );
    assert_eq!(
        policy(&cluster),
        ("async majority".to_owned(), made + 2, made + 2)
    );
    cluster.assert_consistent();
}

#[test]
fn impossible_changes_of_a_volume_are_refused_with_a_reason() {
    let (mut cluster, _) = Cluster::new();
    let set = |name: &str, write_policy: &str, quorum: &str, replicas| {
        Op::VolumeSet(mrc::VolumeSet {
            name: name.to_owned(),
            write_policy: write_policy.to_owned(),
            quorum: quorum.to_owned(),
            replicas,
            ..mrc::VolumeSet::default()
        })
    };
    for (op, errno, text) in [
        (set("none", "", "", 0), errno::ENOENT, "does not exist"),
        (
            set("default", "sync", "", 0),
            errno::EINVAL,
            "fullsync, memsync or async",
        ),
        (
            set("default", "", "most", 0),
            errno::EINVAL,
            "majority or all",
        ),
        (
            set("default", "async", "", 7),
            errno::EINVAL,
            "need as many object servers",
        ),
    ] {
        let before = cluster.entries();
        let fault = cluster.internal(op).reply.unwrap_err();
        assert_eq!(fault.errno, errno, "{fault}");
        assert!(fault.message.contains(text), "{fault}");
        assert_eq!(cluster.entries(), before);
    }
}

#[test]
fn server_with_another_store_is_incomplete_until_it_reports_full() {
    let (mut cluster, _) = Cluster::new();
    let version = query::map_version(&cluster.index).unwrap();
    let full = |pg, view, store_uuid: &str| {
        Op::PgFull(PgFull {
            volume: VOLUME.0,
            pg,
            view,
            osd: 2,
            store_uuid: store_uuid.to_owned(),
        })
    };
    let incomplete = |cluster: &Cluster| {
        let pgs = query::pgs(&cluster.index, Some(VOLUME)).unwrap();
        pgs.iter().filter(|pg| pg.incomplete == [2]).count()
    };

    cluster.register(2, "uuid-2").unwrap();
    assert_eq!(
        query::map_version(&cluster.index).unwrap(),
        version,
        "nothing new"
    );
    assert_eq!(incomplete(&cluster), 0);
    cluster.register(2, "uuid-2b").unwrap();
    assert_eq!(incomplete(&cluster), 8);
    assert_eq!(query::map_version(&cluster.index).unwrap(), version + 1);

    for (pg, view, store) in [(3, 2, "uuid-2b"), (3, 1, "uuid-2"), (99, 1, "uuid-2b")] {
        let outcome = cluster.internal(full(pg, view, store));
        assert!(outcome.reply.is_ok() && !outcome.effects.map_changed);
        assert_eq!(incomplete(&cluster), 8);
    }
    for _ in 0..2 {
        cluster.internal(full(3, 1, "uuid-2b")).reply.unwrap();
        assert_eq!(incomplete(&cluster), 7);
    }
    assert_eq!(query::map_version(&cluster.index).unwrap(), version + 2);
    let pg = query::pg(&cluster.index, VOLUME, PgId(3)).unwrap().unwrap();
    assert_eq!((pg.view, pg.incomplete), (1, vec![]));
    cluster.assert_consistent();
}

#[test]
fn heartbeats_ask_for_a_command_only_if_something_is_new() {
    let (mut cluster, _) = Cluster::new();
    let beat = OsdHeartbeat {
        osd: 1,
        address: "127.0.0.1:7001".to_owned(),
        store_uuid: "uuid-1".to_owned(),
        capacity_bytes: 1 << 40,
        free_bytes: 5,
        pid: 1,
        dir: "/srv".to_owned(),
        ..OsdHeartbeat::default()
    };
    assert_eq!(registration(&cluster.index, &beat).unwrap(), None);

    let moved = OsdHeartbeat {
        address: "127.0.0.1:9999".to_owned(),
        pid: 2,
        ..beat.clone()
    };
    let register = registration(&cluster.index, &moved).unwrap().unwrap();
    let outcome = cluster.internal(Op::RegisterOsd(register));

    assert!(outcome.effects.map_changed);
    assert_eq!(registration(&cluster.index, &moved).unwrap(), None);
    let map = query::osd_map(&cluster.index).unwrap();
    assert_eq!(
        (map.osds[0].osd, map.osds[0].address.as_str()),
        (1, "127.0.0.1:9999")
    );
    assert_eq!((map.osds.len(), map.pgs.len()), (3, 8));
    assert!(
        registration(&cluster.index, &OsdHeartbeat { osd: 4, ..beat })
            .unwrap()
            .is_some()
    );
    assert_eq!(
        query::osd(&cluster.index, OsdId(1)).unwrap().unwrap().pid,
        2
    );
    cluster.assert_consistent();
}

#[test]
fn placement_groups_are_limited_for_the_whole_cluster() {
    let mut cluster = Cluster::empty();
    cluster.register(1, "store").unwrap();
    let many = |name: &str, pgs| {
        let request = mrc::VolumeCreate { pgs, ..asked(name) };
        create_op(request, &[])
    };
    let full = config::PGS_TOTAL_MAX / config::PGS_MAX;
    for number in 0..full - 1 {
        let op = many(&format!("v{number}"), config::PGS_MAX);
        cluster.internal(op).reply.unwrap();
    }
    cluster.internal(many("small", 1)).reply.unwrap();

    let refused = cluster.internal(many("last", config::PGS_MAX)).reply;

    let refused = refused.unwrap_err();
    assert_eq!(refused.errno, errno::ENOSPC);
    assert!(refused.message.contains("32768"), "{refused}");
    let fits = many("last", config::PGS_MAX - 1);
    cluster.internal(fits).reply.unwrap();
}

#[test]
fn map_and_report_of_most_groups_fit_a_message() {
    use prost::Message as _;
    let most = config::PGS_TOTAL_MAX as usize;
    let members = || vec![u64::from(u16::MAX); config::REPLICAS_MAX as usize];
    let lag = mrc::ReplicaLag {
        osd: u64::from(u16::MAX),
        bytes: u64::from(u32::MAX),
        age_ms: u64::from(u16::MAX),
    };
    // An object server reports no more of them than there can be groups.
    let group = mrc::Pg {
        volume: u64::from(u32::MAX),
        pg: config::PGS_MAX,
        view: u64::from(u32::MAX),
        osds: members(),
        incomplete: members(),
        ..mrc::Pg::default()
    };
    let report = mrc::PgReport {
        volume: u64::from(u32::MAX),
        pg: config::PGS_MAX,
        view: u64::from(u32::MAX),
        state: 2,
        objects_behind: u64::from(u32::MAX),
        lagging: members(),
        lags: vec![lag],
        // Of two groups at a time.
        seed_done_bytes: 0,
        seed_total_bytes: 0,
        size: Some(mrc::ReplicaSize {
            bytes: u64::MAX,
            objects: u64::MAX,
        }),
    };

    let map = mrc::OsdMap {
        pgs: vec![group; most],
        ..mrc::OsdMap::default()
    };
    let beat = OsdHeartbeat {
        pgs: vec![report; most],
        ..OsdHeartbeat::default()
    };

    assert!(map.encoded_len() < 3 << 20, "{}", map.encoded_len());
    assert!(beat.encoded_len() < 3 << 20, "{}", beat.encoded_len());
}

#[test]
fn server_is_down_since_it_was_noted_first_and_up_when_it_says_something() {
    let mut cluster = Cluster::empty();
    cluster.register(1, "store").unwrap();
    let down = |osd| Op::OsdDown(OsdDown { osd });
    let since = |cluster: &Cluster| {
        let record = query::osd(&cluster.index, OsdId(1)).unwrap().unwrap();
        record.down_since_ns
    };
    assert_eq!(since(&cluster), 0);
    assert!(cluster.internal(down(9)).reply.is_err());

    cluster.internal(down(1)).reply.unwrap();
    let first = since(&cluster);
    assert!(first > 0);
    cluster.internal(down(1)).reply.unwrap();
    assert_eq!(since(&cluster), first);

    let record = query::osd(&cluster.index, OsdId(1)).unwrap().unwrap();
    let beat = OsdHeartbeat {
        osd: 1,
        address: record.address,
        store_uuid: record.store_uuid,
        capacity_bytes: record.capacity_bytes,
        pid: record.pid,
        dir: record.dir,
        ..OsdHeartbeat::default()
    };
    let registration = registration(&cluster.index, &beat).unwrap();
    let register = registration.expect("it has to be noted that it is up");
    cluster.internal(Op::RegisterOsd(register)).reply.unwrap();
    assert_eq!(since(&cluster), 0);
    cluster.assert_consistent();
}

#[test]
fn pause_and_limit_are_changed_one_by_one_and_odd_limits_refused() {
    let mut cluster = Cluster::empty();
    let set = |paused, limit_bytes_per_s| {
        Op::JobSet(mrc::JobSet {
            paused,
            limit_bytes_per_s,
        })
    };
    let jobs = |cluster: &Cluster| {
        let jobs = query::jobs(&cluster.index).unwrap();
        (jobs.paused, jobs.limit_bytes_per_s)
    };
    assert_eq!(jobs(&cluster), (false, 0));
    cluster.internal(set(Some(true), None)).reply.unwrap();
    cluster.internal(set(None, Some(5 << 20))).reply.unwrap();
    assert_eq!(jobs(&cluster), (true, 5 << 20));
    let fault = cluster
        .internal(set(Some(false), Some(7)))
        .reply
        .unwrap_err();
    assert!(
        fault.errno == errno::EINVAL && fault.message.contains(" 7 "),
        "{fault}"
    );
    assert_eq!(jobs(&cluster), (true, 5 << 20));
    cluster.internal(set(Some(false), Some(0))).reply.unwrap();
    assert_eq!(jobs(&cluster), (false, 0));
    cluster.assert_consistent();
}
