//! What is remembered of object servers, and what follows from it.

use mrc_core::FileSystem;
use proto::mrc::PgState;

use super::*;
use crate::progress::Unfinished;

const LONG: Duration = Duration::from_secs(3600);

fn beat(osd: u64, report: PgReport) -> OsdHeartbeat {
    OsdHeartbeat {
        osd,
        pgs: vec![report],
        ..OsdHeartbeat::default()
    }
}

fn report(view: u64, state: PgState) -> PgReport {
    PgReport {
        volume: 1,
        pg: 2,
        view,
        state: state.into(),
        ..PgReport::default()
    }
}

#[test]
fn replicas_that_come_as_a_whole_are_listed_while_they_do() {
    let osds = Osds::default();
    let coming = PgReport {
        seed_done_bytes: 3,
        seed_total_bytes: 7,
        ..report(4, PgState::PgRecovering)
    };
    osds.heard(&beat(2, coming));
    osds.heard(&beat(1, report(4, PgState::PgFull)));

    let listed = osds.seedings(LONG);

    let seen: Vec<_> = listed
        .iter()
        .map(|one| (one.osd, one.pg, one.done_bytes))
        .collect();
    assert_eq!(seen, [(2, 2, 3)]);
    assert!(
        osds.seedings(Duration::ZERO).is_empty(),
        "it is not heard of any more"
    );
    osds.heard(&beat(2, report(4, PgState::PgFull)));
    assert!(osds.seedings(LONG).is_empty());
}

fn pg() -> mrc::Pg {
    mrc::Pg {
        volume: 1,
        pg: 2,
        view: 4,
        osds: vec![1, 2],
        ..mrc::Pg::default()
    }
}

fn health(osds: &Osds, pg: mrc::Pg) -> (u32, bool) {
    let health = osds.health(&[pg], LONG).remove(0);
    (health.full_replicas, health.full)
}

#[test]
fn group_is_full_only_when_every_member_says_so_of_the_current_view() {
    let osds = Osds::default();
    assert_eq!(health(&osds, pg()), (0, false));
    osds.heard(&beat(1, report(4, PgState::PgFull)));
    assert_eq!(health(&osds, pg()), (1, false));
    osds.heard(&beat(2, report(3, PgState::PgFull)));
    assert_eq!(health(&osds, pg()), (1, false));
    osds.heard(&beat(2, report(4, PgState::PgRecovering)));
    assert_eq!(health(&osds, pg()), (1, false));
    osds.heard(&beat(2, report(4, PgState::PgFull)));
    assert_eq!(health(&osds, pg()), (2, true));
}

#[test]
fn another_store_takes_an_id_only_when_the_known_one_is_silent_or_gone_from_its_address() {
    let leader = |term| LeaderId { term, node_id: 1 };
    let beat = |store_uuid: &str, address: &str| OsdHeartbeat {
        osd: 2,
        store_uuid: store_uuid.to_owned(),
        address: address.to_owned(),
        ..OsdHeartbeat::default()
    };
    let known = OsdRecord {
        store_uuid: "old".to_owned(),
        address: "a:1".to_owned(),
        dir: "/old".to_owned(),
        ..OsdRecord::default()
    };
    let osds = Osds::default();
    let admit = |beat: &OsdHeartbeat, term, timeout| {
        let admitted = osds.admit(beat, Some(&known), leader(term), timeout);
        admitted.map_err(|fault| fault.errno)
    };
    let new = beat("new", "a:2");
    assert!(osds.admit(&new, None, leader(1), LONG).is_ok());

    // The leader is too new to know.
    assert_eq!(admit(&new, 1, LONG), Err(libc::EAGAIN));
    osds.heard(&beat("old", "a:1"));
    assert_eq!(admit(&new, 1, LONG), Err(libc::EEXIST));
    assert_eq!(admit(&beat("old", "a:9"), 1, LONG), Ok(()));
    assert_eq!(admit(&beat("new", "a:1"), 1, LONG), Ok(()));
    assert_eq!(admit(&new, 2, Duration::ZERO), Ok(()));
}

#[test]
fn lags_of_a_member_are_those_of_all_primaries_together() {
    let osds = Osds::default();
    let lag = |osd, bytes, age_ms| mrc::ReplicaLag { osd, bytes, age_ms };
    let tells = |lags: &[mrc::ReplicaLag]| PgReport {
        lags: lags.to_vec(),
        ..report(4, PgState::PgFull)
    };
    let pg = mrc::Pg {
        osds: vec![1, 2, 3],
        ..pg()
    };
    osds.heard(&beat(1, tells(&[lag(2, 10, 5), lag(3, 1, 1)])));
    osds.heard(&beat(2, tells(&[lag(3, 7, 9)])));

    assert_eq!(osds.lags(&pg, LONG), [lag(2, 10, 5), lag(3, 8, 9)]);
    assert_eq!(osds.lags(&pg, Duration::ZERO), []);
}

#[test]
fn replicas_of_a_server_are_counted_once_all_of_them_are() {
    let osds = Osds::default();
    let size = |bytes, objects| Some(mrc::ReplicaSize { bytes, objects });
    let counted = PgReport {
        size: size(100, 3),
        ..report(4, PgState::PgFull)
    };
    let mut heard = beat(1, counted);
    heard.leftover_bytes = 7;
    osds.heard(&heard);
    let data = |osd| {
        osds.get(OsdId(osd), LONG)
            .and_then(|heard| heard.data_bytes)
    };
    assert_eq!(data(1), Some(107));
    assert_eq!(osds.sizes(&pg()), [(OsdId(1), size(100, 3).unwrap())]);

    osds.heard(&beat(2, report(4, PgState::PgFull)));
    assert_eq!(data(2), None, "it has not counted yet");
    assert_eq!(osds.sizes(&pg()).len(), 1);
}

#[test]
fn disk_counts_as_failed_from_when_it_was_heard_until_the_restart() {
    let osds = Osds::default();
    let heard = |pid, store_failed| {
        osds.heard(&OsdHeartbeat {
            osd: 1,
            pid,
            store_failed,
            ..OsdHeartbeat::default()
        });
        let heard = osds.get(OsdId(1), LONG).unwrap();
        heard.failed_for
    };
    assert_eq!(heard(1, false), None);
    let first = heard(1, true).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    assert!(heard(1, true).unwrap() > first);
    assert_eq!(heard(2, false), None);
}

#[test]
fn members_that_have_not_declared_or_are_not_full_are_unfinished() {
    let osds = Osds::default();
    for osd in 1..=4 {
        let full = PgReport {
            objects_behind: u64::from(osd == 2),
            size: Some(mrc::ReplicaSize {
                bytes: 10 * osd,
                objects: 1,
            }),
            ..report(4, PgState::PgFull)
        };
        osds.heard(&beat(osd, full));
    }
    let unfinished = |pg: mrc::Pg| -> Vec<(u64, Unfinished)> {
        let found = osds.unfinished(&[pg], LONG).into_iter();
        found.map(|((_, osd), state)| (osd.0, state)).collect()
    };
    let state = |objects_behind, bytes| Unfinished {
        view: 4,
        objects_behind,
        bytes,
    };

    assert_eq!(unfinished(pg()), [(2, state(1, 20))]);
    let changing = mrc::Pg {
        osds: vec![1, 4],
        previous: vec![1, 2],
        settling: vec![1, 4],
        ..pg()
    };
    assert_eq!(
        unfinished(changing),
        [(1, state(0, 10)), (4, state(0, 40))],
        "2 has declared"
    );
    let silent = mrc::Pg {
        osds: vec![9],
        ..pg()
    };
    assert_eq!(unfinished(silent), []);
}

#[test]
fn server_is_outdated_until_it_reports_the_map() {
    let osds = Osds::default();
    let beat = |osd, map_version| OsdHeartbeat {
        osd,
        map_version,
        ..OsdHeartbeat::default()
    };
    osds.heard(&beat(1, 7));
    assert_eq!(osds.outdated(&[pg()], 7), [2]);
    assert_eq!(osds.outdated(&[pg()], 8), [1, 2]);
    osds.heard(&beat(2, 8));
    assert_eq!(osds.outdated(&[pg()], 8), [1]);
}

#[test]
fn server_that_knows_a_newer_map_is_ahead_while_it_is_up() {
    let osds = Osds::default();
    let beat = |osd, map_version| OsdHeartbeat {
        osd,
        map_version,
        ..OsdHeartbeat::default()
    };
    osds.heard(&beat(1, 7));
    osds.heard(&beat(2, 9));
    assert_eq!(osds.ahead_of(7, LONG), Some((OsdId(2), 9)));
    assert_eq!(osds.ahead_of(9, LONG), None);
    assert_eq!(osds.ahead_of(7, Duration::ZERO), None);
}

#[test]
fn space_is_told_by_file_system_and_of_a_silent_server_what_it_said_last() {
    let osds = Osds::default();
    for (osd, file_system, free_bytes) in [(1, "a", 10), (2, "a", 11), (3, "b", 7), (4, "", 1)] {
        osds.heard(&OsdHeartbeat {
            osd,
            file_system: file_system.to_owned(),
            free_bytes,
            ..OsdHeartbeat::default()
        });
    }
    let it = |servers, bytes| FileSystem { servers, bytes };

    let space = osds.space((1..=5).map(|osd| (OsdId(osd), 100)));

    let capacity = [it(1, 100), it(1, 100), it(2, 100), it(1, 100)];
    assert_eq!(space.capacity, capacity);
    assert_eq!(space.free, [it(1, 1), it(2, 11), it(1, 7)]);
}

#[test]
fn incomplete_behind_lagging_or_silent_members_make_it_degraded() {
    let osds = Osds::default();
    osds.heard(&beat(1, report(4, PgState::PgFull)));
    osds.heard(&beat(2, report(4, PgState::PgFull)));

    let incomplete = mrc::Pg {
        incomplete: vec![2],
        ..pg()
    };
    assert_eq!(health(&osds, incomplete), (1, false));
    assert!(!osds.health(&[pg()], Duration::ZERO).remove(0).full);

    let mut lagging = report(4, PgState::PgFull);
    lagging.lagging = vec![2];
    osds.heard(&beat(1, lagging));
    assert_eq!(health(&osds, pg()), (2, false));

    let mut behind = report(4, PgState::PgFull);
    behind.objects_behind = 1;
    osds.heard(&beat(1, behind));
    assert_eq!(health(&osds, pg()), (1, false));
}
