//! What holds of a directory store holds of one on ZFS, and what only such a one does.

use super::pools::machine::{self, run};
use super::pools::{Bench, make, while_on_zfs};
use crate::inspect::store_sums;
use crate::reaper::Reaper;
use std::sync::mpsc;

use zfs_driver::DatasetName;

use super::*;

/// Tests of this module's neighbours that are about any store. Left out are those that need a file system that
/// knows where holes are, that tell runs of the machine apart, or that make thirty stores.
const SHARED: &[(&str, fn())] = &[
    ("contract", contract_store_does_what_every_store_must),
    ("contract of restarts", contract_store_keeps_what_was_synced),
    (
        "restart",
        clean_object_survives_a_restart_with_bytes_sums_and_record,
    ),
    (
        "random changes",
        random_changes_leave_what_a_plain_array_would_have,
    ),
    (
        "flipped bit",
        flipped_bit_at_rest_is_noticed_by_the_read_that_touches_it,
    ),
    (
        "flipped bit in sums",
        flipped_bit_in_the_sums_is_noticed_too,
    ),
    ("torn record", torn_record_leaves_the_one_before_it),
    (
        "damaged header",
        damaged_header_and_cut_file_quarantine_one_object_only,
    ),
    ("holes", holes_take_no_space_and_read_as_zeros),
    ("zeroed blocks", zeroed_blocks_give_their_space_back),
    ("listing", listing_is_ascending_across_directories_and_pages),
    ("closing", unsynced_changes_outlive_closing),
    ("deletion", deleted_object_is_absent_before_its_file_is_gone),
    (
        "poison",
        failing_disk::poisoned_store_takes_no_changes_and_still_reads_and_deletes,
    ),
    (
        "failed sync",
        failing_disk::sync_that_fails_for_another_reason_stops_the_store,
    ),
    (
        "job without space",
        full_disk::job_without_space_leaves_its_work_to_the_next,
    ),
    (
        "failed job",
        full_disk::failed_job_leaves_the_object_as_its_file_says,
    ),
    (
        "waiting sums",
        large_files::sums_that_a_job_has_not_written_yet_are_not_read_from_the_file,
    ),
    (
        "late job",
        large_files::late_job_does_not_put_older_sums_in_the_place_of_newer_ones,
    ),
    (
        "late job behind the end",
        large_files::late_job_writes_nothing_behind_the_new_end,
    ),
    (
        "sums in memory",
        large_files::sums_that_could_not_be_written_stay_in_memory,
    ),
    (
        "flipped bit after a crash",
        rot::flipped_bit_at_rest_is_noticed_although_the_server_crashed,
    ),
    (
        "mending",
        rot::damaged_block_is_mended_by_the_bytes_its_sum_is_of_and_by_no_others,
    ),
    (
        "overwriting damage",
        rot::overwriting_all_that_is_left_of_a_damaged_block_heals_it,
    ),
    ("no note", rot::file_without_a_note_is_read_as_it_is_found),
    (
        "sums anew",
        suspects::sums_are_made_anew_in_parts_by_the_job_that_vouches_for_them,
    ),
];

#[test]
fn what_holds_of_a_directory_store_holds_on_zfs() {
    while_on_zfs(|| {
        for (name, test) in SHARED {
            // The last one named is the one that failed.
            eprintln!("on ZFS: {name}");
            test();
        }
    });
}

const GROUP: PgKey = pools::group(1, 3);

/// A store on a pool of its own, with the dataset of the tests' group.
struct OnPool {
    // Dropped in this order: nothing may be open when the pool goes.
    root: Arc<Root>,
    ground: pools::Store,
    bench: Bench,
}

impl OnPool {
    fn new() -> Self {
        Self::on(Bench::new())
    }

    fn on(bench: Bench) -> Self {
        let ground = pools::Store::at(bench.dataset("oxfs/osd-1"));
        let root = ground.open();
        make(&root, GROUP).unwrap();
        Self {
            root,
            ground,
            bench,
        }
    }

    fn store(&self) -> DirectoryStore {
        DirectoryStore::new(Arc::clone(&self.root))
    }

    /// As a start of the server after it was killed.
    fn restart(&mut self) {
        self.root = self.ground.open();
    }

    fn property(&self, below: &str, property: &str) -> String {
        let dataset = self.bench.dataset(below);
        let words = ["get", "-H", "-o", "value", property, dataset.as_str()];
        run("zfs", &words).trim().to_owned()
    }
}

fn write_synced(store: &mut DirectoryStore, inode: u64, data: &Bytes) {
    store.create(key(inode), &Record::default()).unwrap();
    store.write(key(inode), 0, data).unwrap();
    let record = record(1, data.len() as u64, true);
    store
        .sync(key(inode), true, &record)
        .unwrap()
        .run()
        .unwrap();
}

/// zfs-fuse says of `syncfs` and of `fsync` of a directory that they succeeded, and does nothing.
#[test]
fn what_was_synced_or_deleted_survives_the_death_of_the_daemon() {
    let mut bed = OnPool::new();
    let mut store = DirectoryStore::with_reaper(Arc::clone(&bed.root));
    let (reaper, thread) = Reaper::start(Arc::clone(&bed.root)).unwrap();
    let data = bytes(200_000, 5);
    // In a directory of its own, too.
    for inode in [1, 2, 0x103, 0x77, 9] {
        write_synced(&mut store, inode, &data);
    }
    let (gone, outcome) = mpsc::channel();
    for inode in [2, 0x77] {
        store.delete(key(inode)).unwrap();
        let gone = gone.clone();
        let on_gone = move |result: std::io::Result<()>| gone.send(result.is_ok()).unwrap();
        reaper.submit(key(inode), Box::new(on_gone));
        assert!(outcome.recv().unwrap());
    }
    // Nothing is synced after that: it would take the removal along.
    store.write(key(9), 0, &bytes(100_000, 77)).unwrap();
    reaper.stop();
    thread.join().unwrap();
    drop(store);

    if !bed.bench.machine.lose_power() {
        eprintln!("ZFS is in the kernel: only the server is started anew");
    }
    bed.restart();

    let mut store = bed.store();
    for inode in [1, 0x103] {
        let header = store.open(key(inode)).unwrap().unwrap();
        assert!(header.record.clean, "object {inode}");
        assert_eq!(store.read(key(inode), 0, 200_000).unwrap(), data);
    }
    for inode in [2, 0x77] {
        assert!(store.open(key(inode)).unwrap().is_none(), "object {inode}");
    }
    // What was not synced is old, new, or known to be neither.
    let newer = bytes(100_000, 77);
    for block in 0..24_usize {
        let at = block * 4096;
        match store.read(key(9), at as u64, 4096) {
            Ok(read) => assert!(
                read == data[at..at + 4096] || read == newer[at..at + 4096],
                "block {block}"
            ),
            Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error}"),
        }
    }
}

#[test]
fn dead_daemon_fails_the_store_and_nothing_looks_absent() {
    let mut bed = OnPool::new();
    let mut store = bed.store();
    write_synced(&mut store, 1, &bytes(5_000, 1));
    assert!(bed.root.pool_health().unwrap().is_healthy);
    if !bed.bench.machine.kill_daemon() {
        eprintln!("ZFS is in the kernel and can't be killed");
        return;
    }

    assert!(store.write(key(1), 0, &bytes(10, 2)).is_err());
    assert!(store.create(key(2), &Record::default()).is_err());
    assert!(bed.store().open(key(1)).is_err());
    assert!(bed.root.names(GROUP).is_err());
    assert!(!bed.root.is_poisoned());
    bed.root.look();

    assert!(bed.root.is_poisoned());
    let health = bed.root.pool_health().unwrap();
    assert!(
        !health.is_healthy && health.problem.contains("1.3"),
        "{health:?}"
    );
    let (total, free) = bed.root.space().unwrap();
    assert!(total > 0 && free == 0, "{total} {free}");
    let error = bed.ground.try_open().unwrap_err().to_string();
    assert!(error.contains("zfs-fuse"), "{error}");

    // The mount that the dead one left is in the way.
    bed.bench.machine.start_again();
    drop(store);
    bed.restart();
    assert_eq!(bed.store().read(key(1), 0, 5_000).unwrap(), bytes(5_000, 1));
    assert!(!bed.root.is_poisoned());
}

#[test]
fn unmounted_dataset_makes_nothing_absent_and_is_mounted_by_the_next_start() {
    let mut bed = OnPool::new();
    write_synced(&mut bed.store(), 1, &bytes(5_000, 1));
    let mountpoint = bed.property("oxfs/osd-1/1/3", "mountpoint");
    nix::mount::umount2(mountpoint.as_str(), nix::mount::MntFlags::MNT_DETACH).unwrap();

    assert!(bed.store().open(key(1)).is_err());
    assert!(bed.store().create(key(2), &Record::default()).is_err());
    assert!(bed.root.names(GROUP).is_err());
    let reaped = {
        bed.root.doom(key(1));
        bed.root.reap(key(1))
    };
    assert!(
        reaped
            .unwrap_err()
            .to_string()
            .contains("no dataset is mounted")
    );
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);

    // What the descriptor of the server still holds ends with it.
    let dir = bed.ground.dir().to_owned();
    drop(std::mem::replace(
        &mut bed.root,
        Arc::new(Root::open(tempfile::tempdir().unwrap().path()).unwrap()),
    ));
    assert!(store_sums(&dir, &mut Vec::new()).is_err(), "not mounted");
    // Whoever made a mount namespace meanwhile has it mounted still, and ZFS takes it for busy.
    if bed.bench.machine.lose_power() {
        bed.restart();
    } else {
        machine::until("it can be mounted", || bed.ground.try_open().is_ok());
        bed.restart();
    }
    assert_eq!(bed.store().read(key(1), 0, 5_000).unwrap(), bytes(5_000, 1));
}

#[test]
fn dataset_of_a_group_is_destroyed_once_it_is_empty_and_not_before() {
    let bed = OnPool::new();
    let mut store = bed.store();
    store.create(key(1), &Record::default()).unwrap();
    let there = |group: &str| {
        let dataset = bed.bench.dataset(&format!("oxfs/osd-1/{group}"));
        let listed = run("zfs", &["list", "-H", "-o", "name"]);
        listed.lines().any(|line| line == dataset.as_str())
    };
    let give_up = |group| {
        let datasets = bed.root.datasets().unwrap();
        datasets.give_up(group);
        // One after the other, so that it is done when this is.
        let (tell, done) = mpsc::channel();
        datasets.want(
            pools::group(1, 99),
            Box::new(move |_| tell.send(()).unwrap()),
        );
        done.recv().unwrap();
    };
    bed.root.datasets().unwrap().start().unwrap();

    give_up(GROUP);
    assert!(there("1/3"), "an object is in it");
    store.delete(key(1)).unwrap();
    let snapshot = format!("{}@theirs", bed.bench.dataset("oxfs/osd-1/1/3"));
    run("zfs", &["snapshot", &snapshot]);
    give_up(GROUP);
    assert!(there("1/3"), "somebody's snapshot is in it");
    assert!(bed.root.is_ready(GROUP));
    run("zfs", &["destroy", &snapshot]);
    give_up(GROUP);

    assert!(!there("1/3"));
    assert!(there("1/99"));
    assert!(!bed.root.is_ready(GROUP));
    assert!(store.open(key(1)).unwrap().is_none(), "absent for good");
    assert!(store.create(key(1), &Record::default()).is_err());
    give_up(pools::group(1, 99));
    bed.root.datasets().unwrap().stop();
}

#[test]
fn what_others_made_is_left_alone_and_named() {
    let bench = Bench::new();
    let theirs = bench.dataset("theirs");
    run("zfs", &["create", "-o", "mountpoint=none", theirs.as_str()]);
    let before = machine::inventory(&bench.pool);

    let taken = pools::Store::at(theirs.clone());
    let error = taken.try_open().unwrap_err().to_string();
    assert!(
        error.contains(theirs.as_str()) && error.contains("not touched"),
        "{error}"
    );
    assert_eq!(machine::inventory(&bench.pool), before);
    let missing = pools::Store::at(DatasetName::new("no-such-pool/oxfs").unwrap());
    let error = missing.try_open().unwrap_err().to_string();
    assert!(
        error.contains("no-such-pool") && error.contains("zpool import"),
        "{error}"
    );

    // Below what is theirs a store may be made; a group's name that is taken is refused alone.
    let below = bench.dataset("theirs/osd-1");
    let ground = pools::Store::at(below.clone());
    let root = ground.open();
    make(&root, GROUP).unwrap();
    for name in ["4", "5"] {
        run(
            "zfs",
            &[
                "create",
                "-o",
                "mountpoint=none",
                &format!("{below}/1/{name}"),
            ],
        );
    }
    drop(root);
    let before = machine::inventory(&bench.pool);
    let root = ground.open();
    let error = make(&root, pools::group(1, 4)).unwrap_err();
    assert!(error.contains(&format!("{below}/1/4")), "{error}");
    assert!(!root.is_ready(pools::group(1, 4)));
    assert_eq!(root.groups().unwrap(), [GROUP]);
    assert_eq!(machine::inventory(&bench.pool), before);
    drop(root);

    // The dataset of one directory is no other's.
    let other = pools::Store::other(below);
    let error = other.try_open().unwrap_err().to_string();
    assert!(error.contains("holds the store"), "{error}");
    let error = Root::open(ground.dir()).unwrap_err().to_string();
    assert!(error.contains("zfs_dataset"), "{error}");
    let plain = tempfile::tempdir().unwrap();
    drop(Root::open(plain.path()).unwrap());
    let place = pools::Place {
        dataset: bench.dataset("fresh"),
        ..ground.place()
    };
    let error = Root::open_on(plain.path(), place).unwrap_err().to_string();
    assert!(error.contains("in the directory itself"), "{error}");
    let place = pools::Place {
        dataset: bench.dataset("fresh"),
        ..ground.place()
    };
    let error = Root::open_on(ground.dir(), place).unwrap_err().to_string();
    assert!(error.contains("theirs/osd-1"), "{error}");
}

/// Room is what quotas leave, not what the pool or the state directory has; want of it does no harm.
#[test]
fn full_dataset_refuses_changes_and_goes_on_when_there_is_room() {
    const QUOTA: u64 = 24 << 20;
    let mut bed = OnPool::new();
    let dataset = bed.bench.dataset("oxfs");
    run("zfs", &["set", "quota=24M", dataset.as_str()]);
    bed.root.look();
    let (total, free) = bed.root.space().unwrap();
    assert!(
        total <= QUOTA && total > QUOTA / 2 && free < total,
        "{total} {free}"
    );
    let mut store = bed.store();
    let data = bytes(1 << 20, 3);
    let mut model = std::collections::BTreeMap::new();

    let refused = (1..100).find(|inode| {
        let created = store.create(key(*inode), &Record::default());
        // Noise: it must not compress.
        let noise: Bytes = data
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        match created.and_then(|()| store.write(key(*inode), 0, &noise)) {
            Ok(()) => {
                model.insert(*inode, noise);
                let record = record(1, 1 << 20, true);
                store
                    .sync(key(*inode), true, &record)
                    .unwrap()
                    .run()
                    .unwrap();
                false
            }
            Err(StoreError::NoSpace { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    });

    assert!((10..25).contains(&refused.unwrap()), "{refused:?}");
    assert!(!bed.root.is_poisoned());
    store.delete(key(refused.unwrap())).unwrap();
    for inode in [1, 2, 3, 4] {
        store.delete(key(inode)).unwrap();
        model.remove(&inode);
    }
    machine::until("room comes back", || {
        bed.root.look();
        store.create(key(200), &Record::default()).is_ok()
    });
    machine::until("room for data, too", || {
        bed.root.look();
        store.write(key(200), 0, &data).is_ok()
    });
    drop(store);
    bed.restart();
    let mut store = bed.store();
    for (inode, data) in &model {
        assert_eq!(
            store.read(key(*inode), 0, 1 << 20).unwrap(),
            data,
            "object {inode}"
        );
    }
}

/// What `xfs-admin osd show` shows.
#[test]
fn errors_of_the_pool_and_its_last_scrub_are_told() {
    let bed = OnPool::on(Bench::mirror());
    write_synced(&mut bed.store(), 1, &bytes(8 << 20, 1));
    bed.root.look();
    let before = bed.root.pool_health().unwrap();
    assert!(before.is_healthy && before.problem.is_empty(), "{before:?}");
    assert_eq!(
        (before.state.as_str(), before.scan.as_str()),
        ("online", "")
    );

    let pool = &bed.bench.pool;
    bed.bench.machine.damage(pool.name().as_str(), 1);
    pool.start_scrub().unwrap();
    machine::until("the scrub ends", || {
        let scan = pool.status().unwrap().scan;
        scan.is_some_and(|scan| matches!(scan.phase, zfs_driver::ScanPhase::Finished { .. }))
    });
    bed.root.look();

    let after = bed.root.pool_health().unwrap();
    assert!(
        !after.is_healthy && after.problem.contains("checksum errors"),
        "{after:?}"
    );
    assert!(after.scan.contains("scrub"), "{after:?}");
    assert!(!bed.root.is_poisoned(), "the other half has all of it");
    assert_eq!(
        bed.store().read(key(1), 0, 1 << 20).unwrap(),
        bytes(8 << 20, 1).slice(..1 << 20)
    );
}
