//! Two mounts change one file: neither undoes what the other was told is done.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use client_fuse::{OxFs, SetAttributes};

use crate::common::{Cluster, create, eventually};

const RW: i32 = libc::O_RDWR;

/// A file made by the first mount and open on both; the second has written what the metadata
/// cluster has not been told of.
async fn written_elsewhere(cluster: &Cluster, bytes: &'static [u8]) -> (OxFs, u64, u64) {
    let (here, there) = (cluster.client().await, cluster.client().await);
    let (inode, handle) = create(&here, "file").await;
    let other = there.open(inode, RW).await.unwrap();
    there
        .write(other, 0, Bytes::from_static(bytes), RW)
        .await
        .unwrap();
    let objects = cluster.objects.clone();
    eventually("the other mount's bytes arrive", || {
        objects.bytes(inode).is_some_and(|found| found == bytes)
    })
    .await;
    assert_eq!(here.getattr(inode).await.unwrap().size_bytes, 0);
    (here, inode, handle)
}

#[tokio::test(flavor = "multi_thread")]
async fn allocating_space_cuts_nothing_off() {
    let cluster = Cluster::start().await;
    let (here, inode, handle) = written_elsewhere(&cluster, &[7; 100_000]).await;

    here.fallocate(handle, 0, 4096, 0).await.unwrap();
    assert!(cluster.objects.bytes(inode).unwrap() == [7; 100_000]);
    here.fallocate(handle, 100_000, 5, 0).await.unwrap();

    let mut expected = vec![7; 100_000];
    expected.resize(100_005, 0);
    assert!(cluster.objects.bytes(inode).unwrap() == expected);
    assert_eq!(here.getattr(inode).await.unwrap().size_bytes, 100_005);
    let anybody = cluster.client().await;
    assert_eq!(anybody.getattr(inode).await.unwrap().size_bytes, 100_005);
}

#[tokio::test(flavor = "multi_thread")]
async fn punched_holes_reach_as_far_as_the_object() {
    let cluster = Cluster::start().await;
    let (here, inode, handle) = written_elsewhere(&cluster, &[7; 10_000]).await;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

    here.fallocate(handle, 4_000, 1 << 20, punch).await.unwrap();
    here.fsync(handle, false).await.unwrap();

    let mut expected = vec![7; 4_000];
    expected.resize(10_000, 0);
    assert!(cluster.objects.bytes(inode).unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncating_an_own_new_file_removes_what_others_wrote() {
    let cluster = Cluster::start().await;
    let (here, inode, _) = written_elsewhere(&cluster, b"theirs").await;

    let set = SetAttributes {
        size: Some(0),
        ..SetAttributes::default()
    };
    let attr = here.setattr(inode, set).await.unwrap();

    assert_eq!(attr.size_bytes, 0);
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn syncing_an_own_new_file_syncs_what_others_wrote() {
    let cluster = Cluster::start().await;
    let (here, _, handle) = written_elsewhere(&cluster, b"theirs").await;

    here.fsync(handle, false).await.unwrap();

    assert_eq!(cluster.objects.syncs.load(Ordering::Relaxed), 1);
}

/// What anybody else is told of a file's size, beside what the object has.
async fn shown(cluster: &Cluster, inode: u64) -> (u64, usize) {
    let anybody = cluster.client().await;
    let size = anybody.getattr(inode).await.unwrap().size_bytes;
    (size, cluster.objects.bytes(inode).unwrap().len())
}

fn to_length(size: u64) -> SetAttributes {
    SetAttributes {
        size: Some(size),
        ..SetAttributes::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_does_not_undo_another_mounts_truncation() {
    for later in [&b""[..], b"later"] {
        let cluster = Cluster::start().await;
        let (writer, other) = (cluster.client().await, cluster.client().await);
        let (inode, handle) = create(&writer, "file").await;
        let write = async |at, bytes: &'static [u8]| {
            let bytes = Bytes::from_static(bytes);
            writer.write(handle, at, bytes, RW).await.unwrap();
        };
        write(0, &[7; 100_000]).await;
        let objects = cluster.objects.clone();
        eventually("the bytes arrive", || {
            objects
                .bytes(inode)
                .is_some_and(|found| found.len() == 100_000)
        })
        .await;

        let attr = other.setattr(inode, to_length(10)).await.unwrap();
        assert_eq!(attr.size_bytes, 10);
        if !later.is_empty() {
            write(1000, later).await;
        }
        writer.flush(handle).await.unwrap();

        let length = if later.is_empty() { 10 } else { 1005 };
        assert_eq!(shown(&cluster, inode).await, (length, length as usize));
        writer.release(handle).await.unwrap();
        assert_eq!(shown(&cluster, inode).await, (length, length as usize));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_sees_the_length_that_another_mount_set() {
    let cluster = Cluster::start().await;
    let (writer, other) = (cluster.client().await, cluster.client().await);
    let (inode, handle) = create(&writer, "file").await;
    let bytes = Bytes::from_static(&[7; 5000]);
    writer.write(handle, 0, bytes, RW).await.unwrap();
    let objects = cluster.objects.clone();
    eventually("the bytes arrive", || {
        objects
            .bytes(inode)
            .is_some_and(|found| found.len() == 5000)
    })
    .await;

    other.setattr(inode, to_length(10)).await.unwrap();

    assert_eq!(writer.getattr(inode).await.unwrap().size_bytes, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_cuts_nothing_off_that_was_closed_behind_it() {
    let cluster = Cluster::start().await;
    let (writer, other) = (cluster.client().await, cluster.client().await);
    let (inode, handle) = create(&writer, "file").await;
    let write = async |bytes: &'static [u8]| {
        let bytes = Bytes::from_static(bytes);
        writer.write(handle, 0, bytes, RW).await.unwrap();
        writer.flush(handle).await.unwrap();
    };
    write(b"before").await;
    let metadata = cluster.metadata.clone();
    metadata.hold_truncations.store(true, Ordering::Relaxed);

    let truncation = tokio::spawn({
        let other = other.clone();
        async move { other.setattr(inode, to_length(0)).await }
    });
    eventually("the object is truncated", || metadata.held() > 0).await;
    write(b"behind the truncation").await;
    metadata.release();

    assert_eq!(truncation.await.unwrap().unwrap().size_bytes, 21);
    assert_eq!(shown(&cluster, inode).await, (21, 21));
}
