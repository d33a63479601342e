//! What a mount refuses for the volume's quota, and what it does not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use client_fuse::{Caller, Errno, OxFs, SetAttributes};

use crate::common::{Cluster, ROOT, create};

const OVER: Errno = Errno(libc::EDQUOT);
const RW: i32 = libc::O_RDWR;

async fn write(
    fs: &OxFs,
    handle: u64,
    offset: u64,
    length: usize,
    flags: i32,
) -> Result<(), Errno> {
    let bytes = Bytes::from(vec![7; length]);
    let written = fs.write(handle, offset, bytes, RW | flags).await?;
    assert_eq!(written as usize, length);
    Ok(())
}

/// Writes byte after byte from `end` on until the quota is known to be used up; returns where.
async fn write_until_over(fs: &OxFs, handle: u64, mut end: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match write(fs, handle, end, 1, 0).await {
            Ok(()) => end += 1,
            Err(errno) => {
                assert_eq!(errno, OVER);
                return end;
            }
        }
        assert!(Instant::now() < deadline, "it is never known");
        tokio::task::yield_now().await;
    }
}

async fn resize(fs: &OxFs, inode: u64, size: u64) -> Result<(), Errno> {
    let set = SetAttributes {
        size: Some(size),
        ..SetAttributes::default()
    };
    fs.setattr(inode, set).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_makes_a_file_longer_is_refused_and_nothing_else() {
    let cluster = Cluster::start().await;
    cluster.metadata.set_quota(10_000, 0);
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    let (_, other) = create(&fs, "other").await;

    write(&fs, handle, 0, 9_000, 0).await.unwrap();
    write(&fs, other, 0, 1_000, libc::O_APPEND).await.unwrap();

    for flags in [0, libc::O_DSYNC, libc::O_SYNC, libc::O_APPEND] {
        assert_eq!(
            write(&fs, other, 1_000, 1, flags).await,
            Err(OVER),
            "{flags}"
        );
    }
    // A hole counts, too.
    assert_eq!(write(&fs, other, 1 << 40, 1, 0).await, Err(OVER));
    assert_eq!(resize(&fs, inode, 9_001).await, Err(OVER));
    assert_eq!(fs.fallocate(handle, 0, 9_001, 0).await, Err(OVER));
    assert!(!fs.write_now(other, 1_000, b"x", RW).unwrap());

    for flags in [0, libc::O_DSYNC] {
        write(&fs, handle, 8_000, 1_000, flags).await.unwrap();
    }
    assert!(fs.write_now(handle, 0, b"x", RW).unwrap());
    fs.fsync(handle, false).await.unwrap();
    assert_eq!(fs.getattr(inode).await.unwrap().size_bytes, 9_000);
    assert_eq!(cluster.objects.bytes(inode).unwrap().len(), 9_000);
    resize(&fs, inode, 5_000).await.unwrap();
    write(&fs, other, 1_000, 4_000, 0).await.unwrap();
    assert_eq!(write(&fs, other, 5_000, 1, 0).await, Err(OVER));
    resize(&fs, inode, 4_999).await.unwrap();
    write(&fs, other, 5_000, 1, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_beyond_the_quota_are_refused_and_df_shows_how_many_there_may_be() {
    let cluster = Cluster::start().await;
    cluster.metadata.set_quota(0, 1);
    let fs = cluster.client().await;
    create(&fs, "file").await;

    let name = Bytes::from_static(b"dir");
    let made = fs.mkdir(ROOT, name.clone(), 0o755, Caller::default()).await;

    assert_eq!(made.err(), Some(OVER));
    let stat = fs.statfs().await.unwrap();
    assert_eq!((stat.quota_files, stat.used_files), (1, 1));
    cluster.metadata.set_quota(0, 2);
    let made = fs.mkdir(ROOT, name, 0o755, Caller::default()).await;
    assert!(made.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_that_is_new_is_heard_of_while_something_is_written() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (_, handle) = create(&fs, "file").await;
    write(&fs, handle, 0, 6_000, 0).await.unwrap();
    cluster.metadata.set_quota(1_000, 0);

    let end = write_until_over(&fs, handle, 6_000).await;

    cluster.metadata.set_quota(0, 0);
    write(&fs, handle, end, 6_000, 0).await.unwrap();
}
