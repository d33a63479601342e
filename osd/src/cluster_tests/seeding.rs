//! Whole servers on ZFS, one of which is new to the group and has it come as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::mrc;
use types::OsdId;

use super::bed::{Bed, Client, PG, bytes, until};
use crate::map::Map;
use crate::seeding::Outcome;
use crate::store_tests::pools::Bench;
use crate::store_tests::pools::machine::{self, run};

/// Longest wait for a group to be full. zfs-fuse syncs file by file, and tests share two cores.
const PATIENCE: Duration = Duration::from_secs(240);

/// Four servers, the last of which has no part in the group yet.
async fn three_of_four(bench: &Bench) -> Bed {
    let above = bench.dataset("oxfs");
    let mut bed = Bed::on_zfs(4, above.as_str()).await;
    change(&mut bed, &[1, 2, 3], &[]);
    bed
}

/// The next view of the group.
fn change(bed: &mut Bed, osds: &[u64], previous: &[u64]) {
    let pg = &mut bed.map.pgs[0];
    pg.view += 1;
    pg.osds = osds.to_vec();
    pg.previous = previous.to_vec();
    bed.publish();
}

/// Bytes that have come so far, and may come, to server 4.
fn progress(bed: &Bed) -> (u64, u64) {
    let map = Map::from_wire(&bed.map);
    let reports = bed.nodes[3].board.reports(OsdId(4), &map);
    reports.first().map_or((0, 0), |report| {
        (report.seed_done_bytes, report.seed_total_bytes)
    })
}

fn ended(bed: &Bed, outcome: Outcome) -> u64 {
    bed.nodes[3].seed_counts.of(outcome)
}

fn pace(bytes_per_s: u64, is_held: bool) -> mrc::Pace {
    let group = mrc::HeldGroup {
        volume: PG.volume.0,
        pg: PG.pg.0,
    };
    mrc::Pace {
        bytes_per_s,
        held: is_held.then_some(group).into_iter().collect(),
    }
}

fn set_pace(bed: &Bed, bytes_per_s: u64) {
    for node in &bed.nodes {
        node.pacer.told(&pace(bytes_per_s, false));
    }
}

async fn write_all(client: &Client, objects: &BTreeMap<u64, Bytes>) {
    for (inode, data) in objects {
        client.write(*inode, 0, data).await;
    }
}

fn left_over(bench: &Bench) -> Vec<String> {
    let inventory = machine::inventory(&bench.pool);
    let lines = inventory.lines().map(str::to_owned);
    lines
        .filter(|line| line.contains("oxfs-seed") || line.contains("/seeds/"))
        .collect()
}

/// Destroys a dataset with all below it, once ZFS has let go of what was mounted.
fn destroy_all(dataset: &str) {
    machine::until("the datasets can be destroyed", || {
        let mut destroy = std::process::Command::new("zfs");
        let output = destroy.args(["destroy", "-r", dataset]).output().unwrap();
        output.status.success()
    });
}

/// All members have the same, and it is this.
fn assert_holds(bed: &Bed, members: &[u64], objects: &BTreeMap<u64, Bytes>) {
    for (inode, data) in objects {
        for id in members {
            let found = bed.at_rest(*id, *inode);
            assert!(found.as_ref() == Some(data), "{inode} at {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_member_has_its_group_come_as_a_whole_while_programs_write() {
    let bench = Bench::of(4);
    let mut bed = three_of_four(&bench).await;
    let client = bed.client();
    let mut objects: BTreeMap<u64, Bytes> = (1..=400)
        .map(|inode| (inode, bytes(6_000, inode)))
        .collect();
    objects.extend((401..=404).map(|inode| (inode, bytes(1 << 20, inode))));
    write_all(&client, &objects).await;
    bed.until_full_within(PATIENCE).await;
    run(
        "zfs",
        &[
            "snapshot",
            &format!("{}@theirs", bench.dataset("oxfs/osd-1/1/0")),
        ],
    );

    change(&mut bed, &[1, 2, 4], &[1, 2, 3]);
    let client = Arc::new(bed.client());
    let done = Arc::new(AtomicBool::new(false));
    let program = {
        let (client, done) = (Arc::clone(&client), Arc::clone(&done));
        tokio::spawn(async move {
            let mut written = BTreeMap::new();
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                // An old one and a new one.
                for inode in [round * 7 % 400 + 1, 1000 + round] {
                    let data = bytes(6_000, inode + 31 * round);
                    client.write(inode, 0, &data).await;
                    written.insert(inode, data);
                }
            }
            written
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while ended(&bed, Outcome::Seeded) == 0 {
        assert_eq!(
            ended(&bed, Outcome::Failed) + ended(&bed, Outcome::NotWorth),
            0
        );
        assert!(
            Instant::now() < deadline,
            "not seeded: {:?}",
            progress(&bed)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bed.nodes[3].seed_counts.increments() > 0);
    done.store(true, Ordering::Relaxed);
    objects.extend(program.await.unwrap());
    bed.until_full_within(PATIENCE).await;
    change(&mut bed, &[1, 2, 4], &[]);
    bed.until_full_within(PATIENCE).await;
    let client = bed.client();
    for (inode, data) in objects.iter().step_by(37) {
        assert!(client.read(*inode, 0, 2 << 20).await == *data, "{inode}");
    }
    bed.stop_all().await;

    assert_holds(&bed, &[1, 2, 4], &objects);
    assert_eq!(left_over(&bench), [""; 0]);
    let kept = run("zfs", &["list", "-H", "-t", "snapshot", "-o", "name"]);
    assert_eq!(kept.lines().count(), 1, "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn death_of_the_sender_ends_the_seeding_and_the_ordinary_recovery_finishes() {
    let bench = Bench::of(4);
    let mut bed = three_of_four(&bench).await;
    let objects: BTreeMap<u64, Bytes> = (1..=6)
        .map(|inode| (inode, bytes(1 << 20, inode)))
        .collect();
    write_all(&bed.client(), &objects).await;
    bed.until_full_within(PATIENCE).await;
    // A second for each megabyte, so that it is not done before it is broken off.
    set_pace(&bed, 1 << 20);

    change(&mut bed, &[1, 2, 4], &[1, 2, 3]);
    until("the group to be on its way", || async {
        progress(&bed).0 > 0
    })
    .await;
    assert!(!left_over(&bench).is_empty(), "a snapshot and a dataset");
    bed.kill(1).await;

    // Two of four, and the new set can't do without the fourth.
    until("the seeding to be broken off", || async {
        ended(&bed, Outcome::Failed) == 1
    })
    .await;
    set_pace(&bed, 1 << 30);
    let client = bed.client();
    *client.last.lock().unwrap() = OsdId(2);
    client.write(3, 10, &bytes(5_000, 99)).await;
    bed.start(1).await;
    bed.until_full_within(PATIENCE).await;
    bed.stop_all().await;

    assert_eq!(ended(&bed, Outcome::Seeded), 0);
    let mut objects = objects;
    let mut changed = objects[&3].to_vec();
    changed[10..5_010].copy_from_slice(&bytes(5_000, 99));
    objects.insert(3, changed.into());
    assert_holds(&bed, &[1, 2, 4], &objects);
    assert_eq!(left_over(&bench), [""; 0]);
}

/// As object by object: at the rate that was said, and not at all while changes are paused.
#[tokio::test(flavor = "multi_thread")]
async fn stream_keeps_to_the_rate_and_to_the_pause() {
    const MIB: u64 = 1 << 20;
    let bench = Bench::of(4);
    let mut bed = three_of_four(&bench).await;
    let objects: BTreeMap<u64, Bytes> = (1..=6)
        .map(|inode| (inode, bytes(1 << 20, inode)))
        .collect();
    write_all(&bed.client(), &objects).await;
    bed.until_full_within(PATIENCE).await;
    set_pace(&bed, MIB);
    bed.nodes[3].pacer.told(&pace(MIB, true));

    change(&mut bed, &[1, 2, 4], &[1, 2, 3]);
    let client = bed.client();
    // Time goes by, and the others serve.
    let work = |from: u64| {
        let client = &client;
        async move {
            let began = Instant::now();
            for inode in from.. {
                client.write(inode, 0, &bytes(1_000, inode)).await;
                client.sync(inode).await;
                if began.elapsed() > Duration::from_secs(2) {
                    return;
                }
            }
        }
    };
    work(1_000).await;
    assert_eq!(progress(&bed).0, 0, "it is held");
    let began = Instant::now();
    bed.nodes[3].pacer.told(&pace(MIB, false));
    until("the group to be on its way", || async {
        progress(&bed).0 > 0
    })
    .await;
    work(2_000).await;
    bed.nodes[3].pacer.told(&pace(MIB, true));
    let before = progress(&bed).0;
    let allowed = (began.elapsed().as_secs() + 2) * MIB;
    assert!(before <= allowed, "{before} bytes in {:?}", began.elapsed());
    work(3_000).await;
    let (after, total) = progress(&bed);
    // What was asked for already.
    assert!(
        after <= before + 2 * MIB && after < total,
        "{before} {after} {total}"
    );
    set_pace(&bed, 1 << 30);
    bed.until_full_within(PATIENCE).await;
    bed.stop_all().await;

    assert_eq!(ended(&bed, Outcome::Seeded), 1);
    assert_holds(&bed, &[1, 2, 4], &objects);
}

/// A server that lost its store must not vote with what came as a whole: nobody knows what it had acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn wiped_server_is_seeded_and_votes_for_nothing_before_it_was_compared() {
    let bench = Bench::of(4);
    let above = bench.dataset("oxfs");
    let mut bed = Bed::on_zfs(3, above.as_str()).await;
    let objects: BTreeMap<u64, Bytes> = (1..=4)
        .map(|inode| (inode, bytes(1 << 20, inode)))
        .collect();
    write_all(&bed.client(), &objects).await;
    bed.until_full_within(PATIENCE).await;
    bed.stop(3).await;
    destroy_all(&format!("{above}/osd-3"));
    bed.wipe(3);
    bed.map.pgs[0].incomplete = vec![3];
    bed.start(3).await;
    bed.until_full_within(PATIENCE).await;
    assert_eq!(bed.nodes[2].seed_counts.of(Outcome::Seeded), 1);
    bed.stop_all().await;

    assert_holds(&bed, &[1, 2, 3], &objects);
    assert_eq!(left_over(&bench), [""; 0]);
}

/// A server on ZFS among servers with directories, and one with a directory among servers on ZFS.
#[tokio::test(flavor = "multi_thread")]
async fn group_is_copied_object_by_object_unless_both_ends_are_on_zfs() {
    let bench = Bench::new();
    let above = bench.dataset("oxfs");
    let objects: BTreeMap<u64, Bytes> =
        (1..=10).map(|inode| (inode, bytes(9_000, inode))).collect();
    for plain in [&[1, 2, 3][..], &[4]] {
        let mut bed = Bed::on_zfs_but(4, above.as_str(), plain).await;
        change(&mut bed, &[1, 2, 3], &[]);
        write_all(&bed.client(), &objects).await;
        bed.until_full_within(PATIENCE).await;

        change(&mut bed, &[1, 2, 4], &[1, 2, 3]);
        bed.until_full_within(PATIENCE).await;
        bed.stop_all().await;

        let on_zfs = u64::from(!plain.contains(&4));
        assert_eq!(ended(&bed, Outcome::NotWorth), on_zfs);
        assert_eq!(
            ended(&bed, Outcome::Seeded) + ended(&bed, Outcome::Failed),
            0
        );
        assert_holds(&bed, &[1, 2, 4], &objects);
        drop(bed);
        destroy_all(above.as_str());
    }
}

/// Seconds until a server that is new to the group has all of it, and how its seeding ended.
async fn time_to_full(bed: &mut Bed, osds: [u64; 3], previous: [u64; 3]) -> f64 {
    set_pace(bed, 1 << 34);
    let began = Instant::now();
    change(bed, &osds, &previous);
    bed.until_full_within(PATIENCE).await;
    let seconds = began.elapsed().as_secs_f64();
    change(bed, &osds, &[]);
    bed.until_full_within(PATIENCE).await;
    seconds
}

/// `cargo test --workspace --lib measured -- --ignored --nocapture`, with nothing else running.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test; its numbers are in docs/performance.md"]
async fn seeding_and_ordinary_recovery_are_measured() {
    for (count, size) in [
        (96_u64, 1 << 20),
        (384, 256 << 10),
        (1536, 64 << 10),
        (4096, 4 << 10),
    ] {
        let bench = Bench::of(12);
        let above = bench.dataset("oxfs");
        let mut bed = Bed::on_zfs(5, above.as_str()).await;
        bed.stop(5).await;
        bed.seeds = false;
        bed.start(5).await;
        change(&mut bed, &[1, 2, 3], &[]);
        let client = bed.client();
        for inode in 1..=count {
            client.write(inode, 0, &bytes(size, inode)).await;
        }
        bed.until_full_within(PATIENCE).await;

        let seeded = time_to_full(&mut bed, [1, 2, 4], [1, 2, 3]).await;
        assert_eq!(ended(&bed, Outcome::Seeded), 1);
        let ordinary = time_to_full(&mut bed, [1, 2, 5], [1, 2, 4]).await;

        assert_eq!(bed.nodes[4].seed_counts.of(Outcome::Seeded), 0);
        let mb = (count * size as u64) as f64 / 1e6;
        println!(
            "{count} objects of {size} bytes: as a whole {seeded:.1} s ({:.1} MB/s), \
             object by object {ordinary:.1} s ({:.1} MB/s)",
            mb / seeded,
            mb / ordinary
        );
        bed.stop_all().await;
    }
}
