//! What is said in each situation.

use proto::mrc::{Osd, PgNote, PoolState};

use super::*;

fn osd(id: u64) -> Osd {
    Osd {
        osd: id,
        state: "up".to_owned(),
        capacity_bytes: 1000 << 30,
        free_bytes: 500 << 30,
        dir: format!("/osd-{id}"),
        ..Osd::default()
    }
}

fn with_pool(id: u64, state: &str, problem: &str) -> Osd {
    Osd {
        pool: Some(PoolState {
            dataset: format!("tank/osd-{id}"),
            state: state.to_owned(),
            healthy: state == "online" && problem.is_empty(),
            problem: problem.to_owned(),
            scan: String::new(),
        }),
        ..osd(id)
    }
}

fn heard(role: &str, id: u64, said: Said) -> (Asked, Said) {
    let asked = Asked {
        role: role.to_owned(),
        id,
        address: format!("{role}:{id}"),
    };
    (asked, said)
}

fn note(state: &str, why: &str) -> PgNote {
    PgNote {
        state: state.to_owned(),
        why: why.to_owned(),
        ..PgNote::default()
    }
}

fn grace(server: u64, left_ms: u64) -> PgNote {
    PgNote {
        grace_server: server,
        grace_left_ms: left_ms,
        ..note("below", "waits")
    }
}

#[test]
fn sound_servers_have_nothing_to_say() {
    let servers = [
        heard("mrc", 1, Said::of("1", &[("oxfs_mrc_disk_low", 0)])),
        heard("osd", 1, Said::of("1", &[("oxfs_osd_store_failed", 0)])),
    ];
    let osds = [osd(1), with_pool(2, "online", "")];

    assert_eq!(pools(&osds), [""; 0]);
    assert_eq!(disks(&osds, &servers), [""; 0]);
    assert_eq!(stores(&servers), [""; 0]);
    assert_eq!(clocks(&servers), [""; 0]);
    assert_eq!(
        releases(&servers, &[("mount-1".to_owned(), "1".to_owned())]),
        [""; 0]
    );
    assert_eq!(rescue(&Jobs::default(), &osds, 2), [""; 0]);
}

#[test]
fn each_state_of_a_pool_is_told_with_its_remedy() {
    let said = |state, problem| pools(&[with_pool(2, state, problem)]).remove(0);

    let suspended = said("suspended", "one or more devices are faulted");
    assert!(
        suspended.contains("tank/osd-2 of osd-2 is suspended (one or more"),
        "{suspended}"
    );
    assert!(suspended.contains("takes no changes"), "{suspended}");
    let degraded = said("degraded", "sda is removed");
    assert!(
        degraded.contains("goes on") && degraded.contains("zpool replace"),
        "{degraded}"
    );
    let errors = said(
        "online",
        "sda is online: 0 read, 0 write, 3 checksum errors",
    );
    assert!(errors.contains("counts errors (sda"), "{errors}");
    let silent = said("unknown", "it has not answered for 60 s");
    assert!(silent.contains("can't be told (it has not"), "{silent}");
}

#[test]
fn full_and_nearly_full_disks_are_told_apart() {
    let full = Osd {
        state: "full".to_owned(),
        free_bytes: 0,
        ..osd(1)
    };
    let nearly = Osd {
        free_bytes: 49 << 30,
        ..osd(2)
    };
    let metadata = heard("mrc", 3, Said::of("1", &[("oxfs_mrc_disk_low", 1)]));

    let said = disks(&[full, nearly, osd(3)], &[metadata]);

    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("the disk of osd-1 is full") && said[0].contains("/osd-1"));
    assert!(
        said[1].contains("osd-2 is nearly full, 49.0 GiB of 1000 GiB"),
        "{}",
        said[1]
    );
    assert!(said[2].starts_with("the disk of mrc-3 is nearly full: while it leads"));
}

#[test]
fn slow_disk_of_a_metadata_server_is_told() {
    let slow = heard("mrc", 2, Said::of("1", &[("oxfs_mrc_disk_slow_ms", 4200)]));
    let sound = heard("mrc", 3, Said::of("1", &[("oxfs_mrc_disk_slow_ms", 0)]));

    let said = disks(&[], &[slow, sound]);

    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("the disk of mrc-2 is slow, a write of its log takes 4.2 s"));
}

#[test]
fn store_that_failed_is_told() {
    let failed = heard("osd", 2, Said::of("1", &[("oxfs_osd_store_failed", 1)]));

    let said = stores(&[failed]);

    assert!(
        said[0].starts_with("a write to the disk of osd-2 failed"),
        "{said:?}"
    );
}

fn clock(id: u64, ahead_ms: i64, unsure_ms: i64) -> (Asked, Said) {
    let said = Said {
        ahead_ms: Some(ahead_ms),
        unsure_ms,
        ..Said::of("1", &[])
    };
    heard("osd", id, said)
}

#[test]
fn clock_that_is_off_is_told_apart_from_this_machines_own() {
    let one_off = clocks(&[clock(1, 3, 1), clock(2, -61_000, 1), clock(3, 2, 1)]);
    assert_eq!(one_off.len(), 1, "{one_off:?}");
    assert!(one_off[0].starts_with("the clock of osd-2 is 61.0 s behind the others'"));

    let ours = clocks(&[clock(1, 5000, 1), clock(2, 5001, 1), clock(3, 5002, 1)]);
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert!(ours[0].contains("this machine is 5.0 s behind"), "{ours:?}");

    // It took so long to ask that nobody can tell.
    assert_eq!(clocks(&[clock(1, 1500, 600), clock(2, 0, 1)]), [""; 0]);
}

#[test]
fn different_releases_are_told_with_who_runs_them() {
    let servers = [
        heard("mrc", 1, Said::of("2", &[])),
        heard("osd", 1, Said::of("1", &[])),
        heard("osd", 2, Said::of("", &[])),
    ];
    let mounts = [("mount-9".to_owned(), "2".to_owned())];

    let said = releases(&servers, &mounts);

    let who = "an older one that does not say which on osd-2; 1 on osd-1; 2 on mrc-1, mount-9";
    assert!(said[0].contains(who), "{said:?}");
}

#[test]
fn rescue_is_told_with_when_it_begins_or_why_it_can_not() {
    let jobs = Jobs {
        notes: vec![grace(2, 400_000), grace(2, 399_000)],
        pgs_below: 2,
        ..Jobs::default()
    };
    let away = Osd {
        state: "down".to_owned(),
        ..osd(2)
    };
    let three = [osd(1), away.clone(), osd(3)];
    let four = [osd(1), away, osd(3), osd(4)];

    let nobody = rescue(&jobs, &three, 3);
    assert!(
        nobody[0].starts_with("osd-2 is away and 2 placement groups lack"),
        "{nobody:?}"
    );
    assert!(nobody[0].contains("no further object server"), "{nobody:?}");
    let somebody = rescue(&jobs, &four, 3);
    assert!(
        somebody[0].contains("if it is not back in 6 min 40 s, others"),
        "{somebody:?}"
    );
}

#[test]
fn stuck_groups_pauses_and_moves_are_told() {
    let why = "every server that is up is a member already: add a server";
    let jobs = Jobs {
        notes: vec![
            note("stuck", why),
            note("stuck", why),
            note("changing", "x"),
        ],
        pgs_changing: 1,
        left_bytes: 100 << 20,
        rate_bytes_per_s: 10 << 20,
        ..Jobs::default()
    };
    let said = rescue(&jobs, &[], 3);
    assert_eq!(said[0], format!("2 placement groups: {why}"));
    assert!(
        said[1].contains("about 100 MiB are left at 10.0 MiB/s, which takes about 10 s"),
        "{said:?}"
    );

    let paused = rescue(
        &Jobs {
            paused: true,
            ..jobs
        },
        &[],
        3,
    );
    assert!(
        paused[0].contains("paused") && paused[0].contains("3 placement groups"),
        "{paused:?}"
    );
    assert_eq!(paused.len(), 2, "nothing moves: {paused:?}");
}
