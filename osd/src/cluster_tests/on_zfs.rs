//! Whole servers whose stores are on ZFS.

use super::bed::{Bed, bytes};
use crate::store_tests::pools::{Bench, machine::run};

/// The first requests wait until the dataset of their group is made, on each server.
#[tokio::test(flavor = "multi_thread")]
async fn servers_on_zfs_make_datasets_as_they_are_needed_and_lose_nothing_when_killed() {
    let bench = Bench::new();
    let above = bench.dataset("oxfs");
    let mut bed = Bed::on_zfs(3, above.as_str()).await;
    let client = bed.client();
    let groups = || {
        let listed = run("zfs", &["list", "-H", "-r", "-o", "name", above.as_str()]);
        listed.lines().filter(|name| name.ends_with("/1/0")).count()
    };
    assert_eq!(groups(), 0);

    for inode in 1..=4 {
        client.write(inode, 0, &bytes(200_000, inode)).await;
    }
    client.sync(1).await;
    assert!(groups() >= 2, "a majority has it");
    bed.until_full().await;
    bed.kill(3).await;
    client.write(1, 50_000, &bytes(100_000, 77)).await;
    client.write(5, 0, &bytes(10_000, 5)).await;
    bed.start(3).await;
    bed.until_full().await;
    bed.stop_all().await;

    assert_eq!(groups(), 3);
    bed.assert_all_equal(1..=5);
    let changed = bed.at_rest(3, 1).unwrap().slice(50_000..150_000);
    assert_eq!(changed, bytes(100_000, 77));
}

/// One server can't have the name it needs: the others serve, and nobody hangs.
#[tokio::test(flavor = "multi_thread")]
async fn server_whose_dataset_is_taken_says_so_and_the_others_serve() {
    let bench = Bench::new();
    let above = bench.dataset("oxfs");
    let mut bed = Bed::on_zfs(3, above.as_str()).await;
    let theirs = format!("{above}/osd-1/1");
    run("zfs", &["create", "-o", "mountpoint=none", &theirs]);
    let client = bed.client();

    // It is the first that is asked.
    client.write(1, 0, &bytes(20_000, 1)).await;
    client.sync(1).await;

    assert_eq!(client.read(1, 0, 20_000).await, bytes(20_000, 1));
    let listed = run("zfs", &["list", "-H", "-r", "-o", "name", &theirs]);
    assert_eq!(listed.trim(), theirs, "nothing was made below it");
    let mark = run(
        "zfs",
        &["get", "-H", "-o", "source", "oxfs:cluster", &theirs],
    );
    assert!(mark.starts_with("inherited"), "{mark}");
    bed.stop_all().await;
}
