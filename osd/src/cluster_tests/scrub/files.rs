//! Files that are missing, older, cut, or in the wrong place.

use std::fs;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use proto::osd::request::Op;
use proto::osd::{self, ScrubDamage, ScrubOutcome};
use types::BLOCK_BYTES;

use super::*;
use crate::file_layout::{Group, HEADER_BYTES, place_of};

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_cut_are_no_zeros_and_are_made_whole() {
    let bed = bed_with(1..=4, LENGTH).await;
    // In the midst of a group, and where a table of checksums would begin: what is left fits what is left.
    let cuts = [place_of(1_500_000), Group(1).begins_at()];
    for (inode, servers) in [(1, &[1][..]), (3, &[1, 2])] {
        for (inode, cut) in (inode..).zip(cuts) {
            for id in servers {
                open(&bed, *id, inode).set_len(cut).unwrap();
            }
        }
    }
    let client = bed.client();

    // The damaged one becomes primary.
    for inode in [1, 4] {
        let data = client.read(inode, 2 << 20, 1 << 20).await;
        assert!(data == bytes(LENGTH, inode).slice(2 << 20..3 << 20));
    }
    let statuses = scrub(&bed).await;

    for (status, bad) in statuses.iter().zip([&[1, 2, 3, 4][..], &[3, 4], &[]]) {
        assert_eq!(found(status), repaired(bad, ScrubDamage::ScrubBlocks));
    }
    for inode in 1..=4 {
        let data = client.read(inode, 4 << 20, 1 << 20).await;
        assert!(data == bytes(LENGTH, inode).slice(4 << 20..5 << 20));
    }
    assert_repaired(bed, 1..=4, LENGTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_files_are_brought_back_from_whoever_has_one() {
    let bed = bed_with(1..=3, 100_000).await;
    for (id, inode) in [(3, 1), (1, 2), (2, 2)] {
        fs::remove_file(path(&bed, id, inode)).unwrap();
    }

    let statuses = scrub(&bed).await;

    let missing = |inodes: &[u64]| repaired(inodes, ScrubDamage::ScrubMissing);
    let both = [found(&statuses[0]), found(&statuses[1])];
    // The first of the two may have the second brought up with its own.
    assert!(both.contains(&missing(&[2])), "{both:?}");
    assert_eq!(found(&statuses[2]), missing(&[1]));
    let client = bed.client();
    for inode in 1..=3 {
        assert_eq!(client.read(inode, 0, 100_000).await, bytes(100_000, inode));
    }
    assert_repaired(bed, 1..=3, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_files_are_brought_to_the_newest_state_even_if_they_are_the_majority() {
    let mut bed = bed_with(1..=2, 100_000).await;
    let old = [(1, 1), (2, 2), (3, 2)];
    for (id, inode) in old {
        fs::copy(
            path(&bed, id, inode),
            bed.root.path().join(format!("{id}.{inode}")),
        )
        .unwrap();
    }
    let client = bed.client();
    for inode in 1..=2 {
        client.write(inode, 50_000, &bytes(70_000, 9 + inode)).await;
    }
    restart(&mut bed).await;
    for (id, inode) in old {
        // The same file, as it was.
        let before = fs::read(bed.root.path().join(format!("{id}.{inode}"))).unwrap();
        fs::write(path(&bed, id, inode), before).unwrap();
    }

    let statuses = scrub(&bed).await;

    let outdated = |inodes: &[u64]| repaired(inodes, ScrubDamage::ScrubOutdated);
    assert_eq!(found(&statuses[0]), outdated(&[1]));
    let others = [found(&statuses[1]), found(&statuses[2])];
    // The first of the two may bring up the second.
    assert!(others.contains(&outdated(&[2])), "{others:?}");
    let client = bed.client();
    for inode in 1..=2 {
        let data = client.read(inode, 0, 200_000).await;
        assert!(data.slice(..50_000) == bytes(100_000, inode).slice(..50_000));
        assert!(data.slice(50_000..) == bytes(70_000, 9 + inode));
    }
    bed.stop_all().await;
    bed.assert_all_equal(1..=2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_the_wrong_place_and_files_without_a_header_are_replaced() {
    let bed = bed_with(1..=5, 100_000).await;
    for id in [1, 2] {
        let (one, other) = (path(&bed, id, 1), path(&bed, id, 2));
        let aside = bed.root.path().join("aside");
        fs::rename(&one, &aside).unwrap();
        fs::rename(&other, &one).unwrap();
        fs::rename(&aside, &other).unwrap();
        open(&bed, id, 3).set_len(0).unwrap();
    }
    open(&bed, 3, 4)
        .write_all_at(&[0; HEADER_BYTES as usize], 0)
        .unwrap();

    let statuses = scrub(&bed).await;

    let unreadable = |inodes: &[u64]| repaired(inodes, ScrubDamage::ScrubUnreadable);
    assert_eq!(found(&statuses[2]), unreadable(&[4]));
    for status in &statuses[..2] {
        // Whichever was looked at first may have had the other's brought up with its own.
        let found = found(status);
        assert!(
            found.iter().all(|one| unreadable(&[1, 2, 3]).contains(one)),
            "{found:?}"
        );
    }
    assert!(!found(&statuses[0]).is_empty());
    let client = bed.client();
    for inode in 1..=5 {
        assert_eq!(client.read(inode, 0, 100_000).await, bytes(100_000, inode));
    }
    assert_repaired(bed, 1..=5, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_everywhere_is_an_error_and_no_zeros() {
    let bed = bed_with(1..=1, LENGTH).await;
    for id in 1..=3 {
        open(&bed, id, 1).set_len(Group(1).begins_at()).unwrap();
    }

    let statuses = scrub(&bed).await;

    let lost = (1, ScrubDamage::ScrubBlocks, ScrubOutcome::ScrubNoGoodCopy);
    for status in &statuses {
        assert_eq!(found(status), [lost]);
        let blocks = (LENGTH as u64).div_ceil(BLOCK_BYTES) - Group(1).blocks().start;
        assert_eq!(status.findings[0].blocks, blocks);
    }
    let client = bed.client();
    let first = client.read(1, 0, 1 << 20).await;
    assert!(first == bytes(LENGTH, 1).slice(..1 << 20));
    for offset in [1 << 20, 3 << 20, LENGTH as u64 - 10] {
        let op = Op::Read(osd::Read {
            offset,
            length_bytes: 10,
        });
        let fault = client.ask(1, op, Bytes::new()).await.unwrap_err();
        assert_eq!(fault.errno, libc::EIO, "{offset}");
    }
}

/// A start compares placement groups before any scrub does.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_at_two_servers_when_they_start_come_back_from_the_third() {
    let mut bed = bed_with(1..=6, 100_000).await;
    bed.stop_all().await;
    for inode in 1..=6_u64 {
        for id in (1..=3).filter(|id| *id != inode % 3 + 1) {
            fs::remove_file(path(&bed, id, inode)).unwrap();
        }
    }
    for id in 1..=3 {
        bed.start(id).await;
    }
    bed.until_full().await;

    let client = bed.client();
    for inode in 1..=6 {
        let data = client.read(inode, 0, 100_000).await;
        assert!(data == bytes(100_000, inode), "{inode}: {}", data.len());
    }
    assert_repaired(bed, 1..=6, 100_000).await;
}
