//! What leaders of the metadata cluster are told of open files: what is open, and that it was closed.

use std::sync::atomic::Ordering;

use crate::common::{Cluster, Metadata, create, eventually};
use client_fuse::{Errno, OxFs};

/// A cluster whose mounts soon notice that somebody else leads.
async fn start() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.metadata.timeout_ms.store(300, Ordering::Relaxed);
    cluster
}

/// A file that nobody has open.
async fn closed_file(fs: &OxFs, name: &str) -> u64 {
    let (inode, handle) = create(fs, name).await;
    fs.release(handle).await.unwrap();
    inode
}

async fn until_readers_are(metadata: &Metadata, inodes: &[u64]) {
    eventually("the leader knows what is open", || {
        metadata.readers().is_some_and(|readers| readers == inodes)
    })
    .await;
}

/// What the leader was told as open is what it hears being closed: else it would never be removed.
#[tokio::test(flavor = "multi_thread")]
async fn new_leader_is_told_of_files_open_for_reading_and_of_no_others() {
    let cluster = start().await;
    let metadata = &cluster.metadata;
    let fs = cluster.client().await;
    let read = closed_file(&fs, "read").await;
    let reader = fs.open(read, libc::O_RDONLY).await.unwrap();
    let (_, writer) = create(&fs, "written").await;

    metadata.elect();
    until_readers_are(metadata, &[read]).await;
    fs.release(writer).await.unwrap();
    fs.release(reader).await.unwrap();

    assert_eq!(metadata.readers(), Some(Vec::new()));
}

/// A descriptor that was flushed may have duplicates: whoever has one must not lose the file with the session.
#[tokio::test(flavor = "multi_thread")]
async fn flushed_file_stays_open_in_a_new_session() {
    let cluster = start().await;
    let metadata = &cluster.metadata;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    fs.write(handle, 0, "kept".into(), libc::O_WRONLY)
        .await
        .unwrap();
    fs.flush(handle).await.unwrap();
    assert!(!metadata.is_open_for_writing(inode));

    metadata.expire(1);
    let other = closed_file(&fs, "other").await;
    assert_ne!(other, inode);

    eventually("the file is open in the new session", || {
        metadata.has_reader(inode)
    })
    .await;
    fs.release(handle).await.unwrap();
    assert!(!metadata.has_reader(inode));
}

#[tokio::test(flavor = "multi_thread")]
async fn file_closed_before_the_new_leader_hears_that_it_was_open_is_closed_once_more() {
    let cluster = start().await;
    let metadata = &cluster.metadata;
    let fs = cluster.client().await;
    let read = closed_file(&fs, "read").await;
    let reader = fs.open(read, libc::O_RDONLY).await.unwrap();

    metadata.hold_registrations.store(true, Ordering::Relaxed);
    metadata.elect();
    eventually("the list is on its way", || metadata.held() == 1).await;
    fs.release(reader).await.unwrap();
    metadata.release();

    until_readers_are(metadata, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_is_being_opened_is_open_for_a_new_leader_until_that_has_failed() {
    let cluster = start().await;
    let metadata = &cluster.metadata;
    let fs = cluster.client().await;
    let read = closed_file(&fs, "read").await;

    metadata.hold_opens.store(true, Ordering::Relaxed);
    let opening = tokio::spawn({
        let fs = fs.clone();
        async move { fs.open(read, libc::O_RDONLY).await }
    });
    eventually("the opening is under way", || metadata.held() == 1).await;
    metadata.elect();
    until_readers_are(metadata, &[read]).await;
    metadata.refuse_opens();

    assert_eq!(opening.await.unwrap(), Err(Errno(libc::ESTALE)));
    until_readers_are(metadata, &[]).await;
}

/// The former one may have answered an opening after the list was made.
#[tokio::test(flavor = "multi_thread")]
async fn list_made_for_a_former_leader_is_made_anew() {
    let cluster = start().await;
    let metadata = &cluster.metadata;
    let fs = cluster.client().await;
    let (first, second) = (
        closed_file(&fs, "first").await,
        closed_file(&fs, "second").await,
    );
    fs.open(first, libc::O_RDONLY).await.unwrap();

    metadata.hold_registrations.store(true, Ordering::Relaxed);
    metadata.elect();
    eventually("the list is on its way", || metadata.held() == 1).await;
    fs.open(second, libc::O_RDONLY).await.unwrap();
    metadata.elect();
    metadata.release();

    until_readers_are(metadata, &[first, second]).await;
}
