//! Damage made by hand to files of running servers, found and repaired by their scrubs.

mod files;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use osd_core::{ObjectKey, ObjectStore};
use proto::osd::request::Op;
use proto::osd::{self, ScrubDamage, ScrubOutcome};
use types::BLOCK_BYTES;

use super::bed::{Bed, Client, Node, PG, bytes, object, until};
use super::leases::Admin;
use crate::file_layout::{Group, place_of};
use crate::store_dir::DirectoryStore;
use crate::store_root::Root;

/// More than the first two groups of checksums.
const LENGTH: usize = 6 << 20;

fn key(inode: u64) -> ObjectKey {
    ObjectKey {
        pg: PG.pg,
        object: object(inode),
    }
}

fn path(bed: &Bed, id: u64, inode: u64) -> PathBuf {
    let root = Root::open(&bed.nodes[id as usize - 1].dir).unwrap();
    root.path(key(inode))
}

fn open(bed: &Bed, id: u64, inode: u64) -> File {
    let path = path(bed, id, inode);
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// Three servers with these objects of this length at rest, none of them in memory.
async fn bed_with(inodes: std::ops::RangeInclusive<u64>, length: usize) -> Bed {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in inodes {
        write_whole(&client, inode, length).await;
    }
    restart(&mut bed).await;
    bed
}

async fn write_whole(client: &Client, inode: u64, length: usize) {
    let all = bytes(length, inode);
    for at in (0..length).step_by(1 << 20) {
        let chunk = all.slice(at..length.min(at + (1 << 20)));
        client.write(inode, at as u64, &chunk).await;
    }
}

async fn restart(bed: &mut Bed) {
    bed.stop_all().await;
    for id in 1..=bed.nodes.len() as u64 {
        bed.start(id).await;
    }
    bed.until_full().await;
    until_at_rest(bed).await;
}

async fn until_at_rest(bed: &Bed) {
    until("all objects to be at rest and out of memory", || async {
        is_at_rest(bed)
    })
    .await;
}

/// Whether all files say that nothing comes after what they have, and no server has any of them open.
fn is_at_rest(bed: &Bed) -> bool {
    let is_clean = |node: &Node| {
        let root = Root::open(&node.dir).unwrap();
        let mut names = root.names(PG).unwrap().into_iter();
        names.all(|object| {
            let key = ObjectKey { pg: PG.pg, object };
            root.header(key)
                .unwrap()
                .is_some_and(|header| header.record.clean)
        })
    };
    let is_object = |open: PathBuf| {
        let inside = open.strip_prefix(bed.root.path());
        inside.is_ok_and(|path| {
            path.components().count() > 2 && path.iter().any(|name| name == "pgs")
        })
    };
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let mut open = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    bed.nodes.iter().all(is_clean) && !open.any(is_object)
}

async fn ask(admin: &Admin, id: u64, op: Op) -> osd::Scrub {
    admin.ask(id, 1, op).await.unwrap().scrub.unwrap()
}

/// Has all servers scrub, and waits until all that is being repaired is.
async fn scrub(bed: &Bed) -> Vec<osd::Scrub> {
    let admin = Admin::of(bed);
    let ids = 1..=bed.nodes.len() as u64;
    for id in ids.clone() {
        let begun = ask(&admin, id, Op::ScrubStart(osd::ScrubStart {})).await;
        assert!(begun.present.is_some());
    }
    let mut all = Vec::new();
    for id in ids {
        until("scrub to end", || async {
            let status = ask(&admin, id, Op::ScrubStatus(osd::ScrubStatus {})).await;
            let repairing =
                |found: &osd::ScrubFinding| found.outcome() == ScrubOutcome::ScrubRepairing;
            status.present.is_none() && !status.findings.iter().any(repairing)
        })
        .await;
        all.push(ask(&admin, id, Op::ScrubStatus(osd::ScrubStatus {})).await);
    }
    all
}

/// What a server found: inode, damage, outcome, by inode.
fn found(status: &osd::Scrub) -> Vec<(u64, ScrubDamage, ScrubOutcome)> {
    let mut found: Vec<_> = status
        .findings
        .iter()
        .map(|one| (one.object.unwrap().inode, one.damage(), one.outcome()))
        .collect();
    found.sort_unstable();
    found
}

fn repaired(inodes: &[u64], damage: ScrubDamage) -> Vec<(u64, ScrubDamage, ScrubOutcome)> {
    let one = |inode: &u64| (*inode, damage, ScrubOutcome::ScrubRepaired);
    inodes.iter().map(one).collect()
}

/// Stops the servers; all copies must be what was written.
async fn assert_repaired(mut bed: Bed, inodes: std::ops::RangeInclusive<u64>, length: usize) {
    bed.stop_all().await;
    for inode in inodes {
        for id in 1..=bed.nodes.len() as u64 {
            let copy = bed.at_rest(id, inode).unwrap();
            assert!(copy == bytes(length, inode), "{inode} at {id}");
        }
    }
}

fn flip(file: &File, offset: u64) {
    let at = place_of(offset);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn zero(file: &File, block: u64) {
    let zeros = [0; BLOCK_BYTES as usize];
    file.write_all_at(&zeros, place_of(block * BLOCK_BYTES))
        .unwrap();
}

fn swap(file: &File, one: u64, other: u64) {
    let places = [one, other].map(|block| place_of(block * BLOCK_BYTES));
    let mut blocks = [[0; BLOCK_BYTES as usize]; 2];
    for (block, at) in blocks.iter_mut().zip(places) {
        file.read_exact_at(block, at).unwrap();
    }
    file.write_all_at(&blocks[0], places[1]).unwrap();
    file.write_all_at(&blocks[1], places[0]).unwrap();
}

/// A checksum rots, not what it is of.
fn flip_sum(file: &File, block: u64) {
    let (group, index) = Group::of_block(block);
    let at = group.sums_at() + 4 * index as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Rotten blocks of all kinds, of inodes 1 to 4 at the first server, of 5 to 8 at the others.
async fn rotten_bed() -> Bed {
    let bed = bed_with(1..=8, LENGTH).await;
    for (inode, servers) in [(1, &[1][..]), (5, &[2, 3])] {
        for id in servers {
            flip(&open(&bed, *id, inode), 5_000_000);
            zero(&open(&bed, *id, inode + 1), 7);
            swap(&open(&bed, *id, inode + 2), 300, 1400);
            flip_sum(&open(&bed, *id, inode + 3), 900);
        }
    }
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn rotten_blocks_of_one_and_of_two_replicas_are_found_within_a_round_and_repaired() {
    let bed = rotten_bed().await;

    let statuses = scrub(&bed).await;

    let blocks = ScrubDamage::ScrubBlocks;
    assert_eq!(found(&statuses[0]), repaired(&[1, 2, 3, 4], blocks));
    for status in &statuses[1..] {
        assert_eq!(found(status), repaired(&[5, 6, 7, 8], blocks));
        let counts = status.findings.iter().map(|one| (one.blocks, one.repaired));
        assert_eq!(counts.collect::<Vec<_>>(), [(1, 1), (1, 1), (2, 2), (1, 1)]);
    }
    assert_repaired(bed, 1..=8, LENGTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_notice_nothing_of_rotten_blocks_and_of_their_repair() {
    let bed = rotten_bed().await;
    let client = bed.client();
    let reader = tokio::spawn(async move {
        loop {
            for inode in 1..=8 {
                for at in [7 * BLOCK_BYTES, 300 * BLOCK_BYTES, 5_000_000 - 9] {
                    let data = client.read(inode, at, 4096).await;
                    let right = bytes(LENGTH, inode).slice(at as usize..at as usize + 4096);
                    assert!(data == right, "{inode} at {at}");
                }
            }
        }
    });

    let statuses = scrub(&bed).await;

    reader.abort();
    assert!(
        reader.await.unwrap_err().is_cancelled(),
        "it read something else"
    );
    for (status, bad) in statuses.iter().zip([1..=4, 5..=8, 5..=8]) {
        // Some of it readers came across before.
        for (inode, damage, _) in found(status) {
            assert!(bad.contains(&inode) && damage == ScrubDamage::ScrubBlocks);
        }
    }
    until_at_rest(&bed).await;
    scrub(&bed).await;
    assert_repaired(bed, 1..=8, LENGTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn block_without_a_good_copy_is_an_error_and_is_reported_and_stays_as_it_is() {
    let mut bed = bed_with(1..=2, 100_000).await;
    for id in 1..=3 {
        zero(&open(&bed, id, 1), 5);
    }
    // Another block of two of them, which the third has.
    for id in 2..=3 {
        flip(&open(&bed, id, 1), 9 * BLOCK_BYTES);
    }

    let statuses = scrub(&bed).await;

    let lost = (1, ScrubDamage::ScrubBlocks, ScrubOutcome::ScrubNoGoodCopy);
    for (status, (blocks, repaired)) in statuses.iter().zip([(1, 0), (2, 1), (2, 1)]) {
        assert_eq!(found(status), [lost]);
        let finding = status.findings[0];
        assert_eq!((finding.blocks, finding.repaired), (blocks, repaired));
    }
    let metrics = Admin::of(&bed).metrics(3).await;
    let count =
        |outcome: &str| metrics[&format!("oxfs_osd_scrub_findings{{outcome=\"{outcome}\"}}")];
    assert_eq!((count("unrepaired"), count("repaired")), (1, 0));
    assert_eq!(metrics["oxfs_osd_scrub_repaired_blocks"], 1);
    assert!(metrics["oxfs_osd_scrub_read_bytes"] > 200_000);
    let client = bed.client();
    let read = |offset| {
        let op = Op::Read(osd::Read {
            offset,
            length_bytes: 4096,
        });
        client.ask(1, op, Bytes::new())
    };
    let fault = read(5 * BLOCK_BYTES).await.unwrap_err();
    assert_eq!(fault.errno, libc::EIO);
    assert!(fault.message.contains('5'), "{fault}");
    let sound = read(9 * BLOCK_BYTES).await.unwrap().1;
    assert!(sound == bytes(100_000, 1).slice(9 * 4096..10 * 4096));

    // A report outlives the server, and ends when the block is written anew.
    restart(&mut bed).await;
    let admin = Admin::of(&bed);
    let after = ask(&admin, 2, Op::ScrubStatus(osd::ScrubStatus {})).await;
    assert_eq!(found(&after), [lost]);
    let client = bed.client();
    client.write(1, 5 * BLOCK_BYTES, &bytes(4096, 77)).await;
    restart(&mut bed).await;
    for status in scrub(&bed).await {
        assert_eq!(found(&status), repaired_now(&[1]));
    }
    bed.stop_all().await;
    bed.assert_all_equal(1..=2);
}

fn repaired_now(inodes: &[u64]) -> Vec<(u64, ScrubDamage, ScrubOutcome)> {
    repaired(inodes, ScrubDamage::ScrubBlocks)
}

/// Puts other bytes in place of a block, with a checksum that fits.
fn misdirect(bed: &Bed, id: u64, inode: u64, block: u64, seed: u64) {
    let root = Root::open(&bed.nodes[id as usize - 1].dir).unwrap();
    let mut store = DirectoryStore::new(std::sync::Arc::new(root));
    let record = store.open(key(inode)).unwrap().unwrap().record;
    assert!(record.clean);
    let other = bytes(BLOCK_BYTES as usize, seed);
    store
        .write(key(inode), block * BLOCK_BYTES, &other)
        .unwrap();
    store
        .sync(key(inode), true, &record)
        .unwrap()
        .run()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_bytes_of_another_place_give_way_to_the_majority_and_stay_where_there_is_none() {
    let mut bed = bed_with(1..=2, LENGTH).await;
    misdirect(&bed, 3, 1, 1000, 50);
    misdirect(&bed, 1, 2, 3, 51);
    misdirect(&bed, 2, 2, 3, 52);

    let statuses = scrub(&bed).await;

    let different = ScrubDamage::ScrubDifferent;
    let undecided = (2, different, ScrubOutcome::ScrubUndecided);
    assert_eq!(found(&statuses[0]), [undecided]);
    assert_eq!(found(&statuses[1]), [undecided]);
    let mut third = repaired(&[1], different);
    third.push(undecided);
    assert_eq!(found(&statuses[2]), third);
    bed.stop_all().await;
    bed.assert_all_equal(1..=1);
    assert!(bed.at_rest(1, 1).unwrap() == bytes(LENGTH, 1));
    for (id, seed) in [(1, 51), (2, 52)] {
        let copy = bed.at_rest(id, 2).unwrap();
        assert!(copy.slice(3 * 4096..4 * 4096) == bytes(4096, seed), "{id}");
    }
    assert!(bed.at_rest(3, 2).unwrap() == bytes(LENGTH, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn object_that_is_being_written_keeps_its_primary_and_its_writes() {
    let bed = bed_with(1..=1, LENGTH).await;
    let client = bed.client();
    let first = client.write(1, 0, &bytes(100, 1)).await;
    let writer = tokio::spawn(async move {
        let mut written = 0_u64;
        loop {
            let at = (written * 40_961) % (LENGTH as u64 - 9_000);
            let done = client.write(1, at, &bytes(9_000, written)).await;
            assert_eq!(done.epoch, first.epoch);
            written += 1;
        }
    });

    for _ in 0..3 {
        for status in scrub(&bed).await {
            assert_eq!(found(&status), []);
            let last = status.last.unwrap();
            assert_eq!((last.objects, last.uncompared), (1, 1));
        }
    }

    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
}

/// A round of a server that is restarted goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn round_goes_on_after_a_restart() {
    let mut bed = bed_with(1..=2, LENGTH).await;
    let file = bed.nodes[1].dir.join("SCRUB");
    bed.stop(2).await;
    let mut ledger = osd_core::scrub::Ledger::decode(&fs::read(&file).unwrap()).unwrap();
    ledger.begin(1_000, 0);
    ledger.pass(PG, Some(object(1)));
    ledger.reach(object(2), 512);
    fs::write(&file, ledger.encode()).unwrap();
    flip(&open(&bed, 2, 1), 100);
    flip(&open(&bed, 2, 2), 100);
    flip(&open(&bed, 2, 2), 3 << 20);

    bed.start(2).await;
    let admin = Admin::of(&bed);
    let status = || ask(&admin, 2, Op::ScrubStatus(osd::ScrubStatus {}));
    until("the round to end", || async {
        status().await.last.is_some()
    })
    .await;

    let status = status().await;
    assert_eq!(
        status.last.unwrap().objects,
        2,
        "one of them before the restart"
    );
    assert_eq!(found(&status), repaired_now(&[2]));
    assert_eq!(status.findings[0].blocks, 1, "behind where it was");
    scrub(&bed).await;
    assert_repaired(bed, 1..=2, LENGTH).await;
}
