//! A program that reads what it wrote, whatever was read ahead meanwhile.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client_fuse::{Caller, Errno};

use crate::common::{Cluster, Mood, blocking, create, eventually};

fn new_file(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn block_written_ahead_of_the_reading_is_not_read_old() {
    const BLOCK: usize = 128 << 10;
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let (dir, objects) = (mounted.path(), cluster.objects.clone());

    blocking(move || {
        for round in 0..20 {
            let file = new_file(&dir.join(round.to_string()));
            let inode = file.metadata().unwrap().ino();
            file.write_all_at(&vec![b'A'; 16 * BLOCK], 0).unwrap();
            file.sync_all().unwrap();
            let mut block = vec![0; BLOCK];
            let mut read = |number: usize| {
                file.read_exact_at(&mut block, (number * BLOCK) as u64)
                    .unwrap();
                block[0]
            };
            for number in 0..3 {
                read(number);
            }
            file.write_all_at(&[b'B'; BLOCK], 6 * BLOCK as u64).unwrap();
            for number in 3..6 {
                read(number);
            }
            let deadline = Instant::now() + Duration::from_secs(20);
            while objects.bytes(inode).unwrap()[6 * BLOCK] != b'B' {
                assert!(Instant::now() < deadline, "the write is never sent");
                std::thread::yield_now();
            }

            assert_eq!(read(6), b'B', "round {round}");
        }
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_just_written_does_not_end_early() {
    const PART: usize = 1_000_000;
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();

    blocking(move || {
        let content: Vec<u8> = (0..5 * PART).map(|at| (at / 3) as u8).collect();
        for round in 0..20 {
            let file = new_file(&dir.join(round.to_string()));
            file.write_all_at(&content, 0).unwrap();

            let mut part = vec![0; PART];
            for (number, expected) in content.chunks(PART).enumerate() {
                let got = file.read_at(&mut part, (number * PART) as u64).unwrap();
                assert_eq!(got, PART, "round {round} part {number}");
                assert!(part == expected, "round {round} part {number}");
            }
            let end = file.read_at(&mut part, content.len() as u64).unwrap();
            assert_eq!(end, 0);
        }
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_holes_are_found_with_what_was_just_written() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (_, handle) = create(&fs, "sparse").await;
    let block = Bytes::from(vec![1; 4096]);
    for at in [0, 8 * 4096] {
        let written = fs.write(handle, at, block.clone(), libc::O_RDWR).await;
        assert_eq!(written, Ok(4096));
    }
    let seek = async |offset, whence| fs.lseek(handle, offset, whence).await;
    let nothing = Err(Errno(libc::ENXIO));

    assert_eq!(seek(0, libc::SEEK_DATA).await, Ok(0));
    assert_eq!(seek(0, libc::SEEK_HOLE).await, Ok(4096));
    assert_eq!(seek(5000, libc::SEEK_HOLE).await, Ok(5000));
    assert_eq!(seek(5000, libc::SEEK_DATA).await, Ok(8 * 4096));
    assert_eq!(seek(8 * 4096 + 1, libc::SEEK_HOLE).await, Ok(9 * 4096));
    for whence in [libc::SEEK_DATA, libc::SEEK_HOLE] {
        assert_eq!(seek(9 * 4096, whence).await, nothing);
        assert_eq!(seek(-1, whence).await, nothing);
    }
    assert_eq!(seek(0, libc::SEEK_SET).await, Err(Errno(libc::EINVAL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn program_learns_of_a_full_disk_from_its_next_writes() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    let full = Err(Errno(libc::ENOSPC));
    let write = async |at, text: &'static [u8]| {
        let bytes = Bytes::from_static(text);
        fs.write(handle, at, bytes, libc::O_RDWR).await
    };
    let errno = &cluster.objects.write_errno;

    errno.store(libc::ENOSPC as u64, Ordering::Relaxed);
    assert_eq!(write(0, b"lost").await, Ok(4));
    assert_eq!(fs.fsync(handle, false).await, Err(Errno(libc::ENOSPC)));
    for _ in 0..2 {
        let now = fs.write_now(handle, 0, b"told", libc::O_RDWR);
        assert_eq!(now, Ok(false), "nothing is promised");
        assert_eq!(write(0, b"told").await, full);
    }
    errno.store(0, Ordering::Relaxed);
    assert_eq!(write(0, b"kept").await, Ok(4));

    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"kept");
    assert_eq!(fs.flush(handle).await, Ok(()), "each error is told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_attributes_are_listed_for_root_only() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, _) = create(&fs, "file").await;
    for name in ["trusted.secret", "user.open"] {
        let (name, value) = (
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(b"v"),
        );
        fs.setxattr(inode, name, value, 0).await.unwrap();
    }
    let list = async |uid| {
        let caller = Caller { uid, gid: 0 };
        fs.listxattr(inode, caller).await.unwrap()
    };

    assert_eq!(list(0).await, &b"trusted.secret\0user.open\0"[..]);
    assert_eq!(list(1000).await, &b"user.open\0"[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn write_takes_capabilities_of_programs_away() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "program").await;
    let name = Bytes::from_static(b"security.capability");
    let give = async || {
        let value = Bytes::from_static(b"cap");
        fs.setxattr(inode, name.clone(), value, 0).await.unwrap();
    };
    let left = async || fs.getxattr(inode, name.clone()).await;
    let gone = Err(Errno(libc::ENODATA));
    let write = async |handle, flags| {
        let bytes = Bytes::from_static(b"code");
        fs.write(handle, 0, bytes, flags).await.unwrap();
    };

    give().await;
    write(handle, libc::O_RDWR).await;
    assert_eq!(left().await, gone, "given to an open file");
    fs.release(handle).await.unwrap();
    for flags in [libc::O_RDWR, libc::O_RDWR | libc::O_APPEND] {
        give().await;
        let handle = fs.open(inode, flags).await.unwrap();
        assert!(left().await.is_ok(), "opening takes nothing away");
        write(handle, flags).await;
        assert_eq!(left().await, gone);
        fs.release(handle).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronous_write_is_read_only_once_the_replicas_have_it() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "register").await;
    let flags = libc::O_RDWR | libc::O_DSYNC;
    let old = Bytes::from_static(b"old");
    fs.write(handle, 0, old.clone(), flags).await.unwrap();
    assert_eq!(fs.read(handle, 0, 3).await.unwrap(), old);
    let objects = &cluster.objects;
    let primary = objects.primary.load(Ordering::Relaxed);

    objects.set_mood(primary, Mood::Frozen);
    let write = tokio::spawn({
        let (fs, new) = (fs.clone(), Bytes::from_static(b"newer"));
        async move { fs.write(handle, 0, new, flags).await }
    });
    eventually("the write is under way", || objects.unanswered() > 0).await;
    let read = fs.read(handle, 0, 5);
    tokio::pin!(read);
    tokio::select! {
        biased;
        bytes = &mut read => panic!("{bytes:?} may still be lost"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(fs.getattr(inode).await.unwrap().size_bytes, 3);
    // It never happens: another primary refuses it.
    objects
        .write_errno
        .store(libc::EIO as u64, Ordering::Relaxed);
    objects.primary.store(1 + primary % 3, Ordering::Relaxed);

    assert_eq!(write.await.unwrap(), Err(Errno(libc::EIO)));
    assert_eq!(read.await.unwrap(), old);
    assert_eq!(fs.flush(handle).await, Ok(()), "the error was told");
}
