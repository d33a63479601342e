//! What programs notice when replies are lost and servers freeze, break or change: nothing, or
//! one clear error.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::{Cluster, Mood, ROOT, create, eventually};
use bytes::Bytes;
use client_fuse::{Caller, ConnectError, Errno, NewFile, OxFs};

const RW: i32 = libc::O_RDWR;

fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn write(fs: &OxFs, handle: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
    fs.write(handle, offset, Bytes::copy_from_slice(data), RW)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn change_whose_reply_was_lost_is_done_once() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;

    for round in 0..5 {
        cluster.metadata.lose_replies.store(1, Ordering::Relaxed);
        let dir = name(&format!("dir{round}"));
        fs.mkdir(ROOT, dir.clone(), 0o755, Caller::default())
            .await
            .unwrap();
        cluster.metadata.lose_replies.store(1, Ordering::Relaxed);
        fs.rmdir(ROOT, dir.clone()).await.unwrap();
        assert_eq!(fs.lookup(ROOT, dir).await, Err(Errno(libc::ENOENT)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn former_leader_that_can_not_prove_anything_is_left() {
    let mut cluster = Cluster::start().await;
    let cut_off = cluster.add_former_leader().await;
    let fs = cluster.client().await;
    let file = create(&fs, "file").await.0;
    let beats = cluster.metadata.kept_alive.load(Ordering::Relaxed);

    cut_off.store(true, Ordering::Relaxed);
    // Nobody asks for anything: the session must live all the same.
    let metadata = cluster.metadata.clone();
    eventually("the session is kept alive", || {
        metadata.kept_alive.load(Ordering::Relaxed) > beats + 1
    })
    .await;
    let dir = fs.mkdir(ROOT, name("dir"), 0o755, Caller::default()).await;
    let found = fs.lookup(ROOT, name("file")).await;

    assert!(dir.is_ok());
    assert_eq!(found.unwrap().inode, file);
    let fresh = cluster.client().await;
    assert!(fresh.lookup(ROOT, name("dir")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_a_primary_that_breaks_and_moves() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    let mut model = Vec::new();

    for round in 0..30_u64 {
        let primary = 1 + round % 3;
        cluster
            .objects
            .set_mood(1 + (round + 2) % 3, Mood::Breaking);
        cluster.objects.set_mood(primary, Mood::Well);
        cluster.objects.primary.store(primary, Ordering::Relaxed);
        let data = vec![round as u8; 70_000];
        write(&fs, handle, round * 50_000, &data).await.unwrap();
        model.resize(round as usize * 50_000, 0);
        model.extend_from_slice(&data);
    }
    fs.fsync(handle, false).await.unwrap();

    assert!(cluster.objects.bytes(inode).unwrap() == model);
    assert_eq!(
        fs.getattr(inode).await.unwrap().size_bytes,
        model.len() as u64
    );
    fs.release(handle).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_primary_is_left_by_writers_and_readers() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    write(&fs, handle, 0, b"before").await.unwrap();
    fs.fsync(handle, false).await.unwrap();
    assert_eq!(cluster.objects.primary.load(Ordering::Relaxed), 1);

    cluster.objects.set_mood(1, Mood::Frozen);
    write(&fs, handle, 6, b" and after").await.unwrap();
    let sync = tokio::spawn({
        let fs = fs.clone();
        async move { fs.fsync(handle, false).await }
    });
    let read = tokio::spawn({
        let fs = fs.clone();
        async move { fs.read(handle, 0, 6).await }
    });
    // Its lease ends, another one takes over.
    cluster.objects.primary.store(2, Ordering::Relaxed);

    assert_eq!(read.await.unwrap().unwrap(), &b"before"[..]);
    sync.await.unwrap().unwrap();
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"before and after");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_write_is_told_once_to_every_descriptor() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, first) = create(&fs, "file").await;
    let second = fs.open(inode, RW).await.unwrap();

    cluster
        .objects
        .write_errno
        .store(libc::ENOSPC as u64, Ordering::Relaxed);
    write(&fs, first, 0, b"lost").await.unwrap();
    assert_eq!(fs.fsync(first, false).await, Err(Errno(libc::ENOSPC)));
    cluster.objects.write_errno.store(0, Ordering::Relaxed);

    assert_eq!(fs.fsync(first, false).await, Ok(()));
    assert_eq!(fs.flush(second).await, Err(Errno(libc::ENOSPC)));
    assert_eq!(fs.flush(second).await, Ok(()));
    let third = fs.open(inode, RW).await.unwrap();
    assert_eq!(fs.flush(third).await, Ok(()));
    assert_eq!(fs.getattr(inode).await.unwrap().size_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_of_acknowledged_changes_is_told_once_to_every_descriptor() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, first) = create(&fs, "file").await;
    let second = fs.open(inode, RW).await.unwrap();
    write(&fs, first, 0, b"gone").await.unwrap();
    fs.flush(first).await.unwrap();

    cluster.objects.lose(inode);

    assert_eq!(fs.fsync(first, false).await, Err(Errno(libc::EIO)));
    fs.fsync(first, false).await.unwrap();
    assert_eq!(write(&fs, second, 0, b"x").await, Err(Errno(libc::EIO)));
    // The file can be used again, and what is lost later is told, too.
    write(&fs, second, 0, b"new").await.unwrap();
    fs.fsync(second, false).await.unwrap();
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"new");
    cluster.objects.lose(inode);
    write(&fs, second, 0, b"newer").await.unwrap();
    assert_eq!(fs.flush(second).await, Err(Errno(libc::EIO)));
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"newer");
}

#[tokio::test(flavor = "multi_thread")]
async fn append_reports_its_own_error() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    let append = RW | libc::O_APPEND;

    fs.write(handle, 99, name("one"), append).await.unwrap();
    cluster
        .objects
        .write_errno
        .store(libc::EDQUOT as u64, Ordering::Relaxed);
    let failed = fs.write(handle, 99, name("two"), append).await;
    cluster.objects.write_errno.store(0, Ordering::Relaxed);
    fs.write(handle, 0, name("three"), append).await.unwrap();

    assert_eq!(failed, Err(Errno(libc::EDQUOT)));
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"onethree");
    assert_eq!(fs.flush(handle).await, Ok(()));
    assert_eq!(fs.getattr(inode).await.unwrap().size_bytes, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_in_a_new_session_after_the_old_one_expired() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    write(&fs, handle, 0, b"first").await.unwrap();

    cluster.metadata.expire(1);
    fs.mkdir(ROOT, name("dir"), 0o755, Caller::default())
        .await
        .unwrap();
    write(&fs, handle, 5, b" second").await.unwrap();
    fs.flush(handle).await.unwrap();
    fs.release(handle).await.unwrap();

    assert_eq!(fs.getattr(inode).await.unwrap().size_bytes, 12);
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"first second");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_capability_is_renewed_unnoticed() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    cluster.metadata.valid_ms.store(0, Ordering::Relaxed);
    let (inode, handle) = create(&fs, "file").await;
    cluster.metadata.valid_ms.store(600_000, Ordering::Relaxed);

    write(&fs, handle, 0, b"bytes").await.unwrap();
    fs.fsync(handle, false).await.unwrap();

    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"bytes");
    assert_eq!(fs.read(handle, 0, 5).await.unwrap(), &b"bytes"[..]);
}

/// As a thread of the FUSE device does, which knows of no runtime.
#[tokio::test(flavor = "multi_thread")]
async fn capability_that_ends_is_renewed_by_whichever_thread_notices() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    cluster.metadata.valid_ms.store(0, Ordering::Relaxed);
    let (inode, handle) = create(&fs, "file").await;
    cluster.metadata.valid_ms.store(600_000, Ordering::Relaxed);

    let writer = fs.clone();
    let thread = std::thread::spawn(move || writer.write_now(handle, 0, b"bytes", RW));
    assert_eq!(thread.join().unwrap(), Ok(true));
    fs.fsync(handle, false).await.unwrap();

    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_mount_gives_up_and_recovers() {
    let cluster = Cluster::start().await;
    let mut options = cluster.connect_options();
    options.soft = Some(Duration::from_millis(300));
    let fs = OxFs::connect(options).await.unwrap();
    let (inode, handle) = create(&fs, "file").await;
    for osd in 1..=3 {
        cluster.objects.set_mood(osd, Mood::Frozen);
    }

    write(&fs, handle, 0, b"lost").await.unwrap();
    assert_eq!(fs.fsync(handle, false).await, Err(Errno(libc::EIO)));
    assert_eq!(fs.read(handle, 100, 4).await, Err(Errno(libc::EIO)));
    for osd in 1..=3 {
        cluster.objects.set_mood(osd, Mood::Well);
    }
    // The failure of the buffered write is told when it is known.
    let mut told = Err(Errno(0));
    for _ in 0..100 {
        told = write(&fs, handle, 0, b"kept").await;
        if told.is_ok() && fs.fsync(handle, false).await.is_ok() {
            break;
        }
    }

    assert!(told.is_ok());
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_tells_size_with_one_change_then_that_nobody_has_it_open_and_reading_asks_once() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    let before = cluster.metadata.served.load(Ordering::Relaxed);

    write(&fs, handle, 0, &[7; 4096]).await.unwrap();
    fs.flush(handle).await.unwrap();
    let flushed = cluster.metadata.served.load(Ordering::Relaxed);
    fs.release(handle).await.unwrap();

    let after = cluster.metadata.served.load(Ordering::Relaxed);
    assert_eq!(flushed - before, 1, "close(2) waits for one change");
    assert_eq!(after - flushed, 1, "a duplicate may have had it open");
    assert_eq!(cluster.objects.writes.load(Ordering::Relaxed), 1);
    let handle = fs.open(inode, libc::O_RDONLY).await.unwrap();
    assert_eq!(fs.read(handle, 0, 65_536).await.unwrap().len(), 4096);
    assert_eq!(fs.read(handle, 4096, 65_536).await.unwrap().len(), 0);
    assert_eq!(cluster.objects.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_writes_are_gathered_and_leave_by_themselves() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;

    for at in 0..100 {
        assert!(fs.write_now(handle, at * 10, &[at as u8; 10], RW).unwrap());
    }
    let objects = cluster.objects.clone();
    eventually("the bytes arrive", || {
        objects
            .bytes(inode)
            .is_some_and(|bytes| bytes.len() == 1000)
    })
    .await;

    // As many as the primary answers meanwhile.
    assert!(cluster.objects.writes.load(Ordering::Relaxed) < 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn write_after_a_duplicate_was_closed_is_reported_as_well() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;

    write(&fs, handle, 0, b"one").await.unwrap();
    // close(2) of a duplicate flushes; the descriptor stays.
    fs.flush(handle).await.unwrap();
    write(&fs, handle, 3, b" two").await.unwrap();
    fs.release(handle).await.unwrap();

    assert_eq!(fs.getattr(inode).await.unwrap().size_bytes, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_stored_when_the_client_shuts_down() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    assert!(fs.write_now(handle, 0, b"late", RW).unwrap());

    fs.shutdown().await.unwrap();

    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"late");
    let other = cluster.client().await;
    assert_eq!(other.getattr(inode).await.unwrap().size_bytes, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_connections_are_explained() {
    let cluster = Cluster::start().await;
    let mut unknown = cluster.connect_options();
    unknown.volume = "nonsense".to_owned();
    let mut forged = cluster.connect_options();
    forged.secret = types::Secret::from_bytes([8; 32]);
    let mut nobody = cluster.connect_options();
    // A port that nobody listens on: bound here and never served.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    nobody.addresses = vec![silent.local_addr().unwrap().to_string()];
    nobody.connect_timeout = Duration::from_millis(200);

    let unknown = OxFs::connect(unknown).await.unwrap_err();
    let forged = OxFs::connect(forged).await.unwrap_err();
    let nobody = OxFs::connect(nobody).await.unwrap_err();

    assert!(
        unknown
            .to_string()
            .contains("\"nonsense\" does not exist; the cluster has default")
    );
    assert!(matches!(forged, ConnectError::Refused { .. }), "{forged}");
    assert!(
        matches!(nobody, ConnectError::Unreachable { .. }),
        "{nobody}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn create_whose_truncation_fails_leaves_nothing_open() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    let (inode, handle) = create(&fs, "file").await;
    write(&fs, handle, 0, b"content").await.unwrap();
    fs.release(handle).await.unwrap();
    let new = NewFile {
        mode: 0o644,
        flags: RW | libc::O_CREAT | libc::O_TRUNC,
        owner: Caller::default(),
    };

    cluster
        .objects
        .write_errno
        .store(libc::ENOSPC as u64, Ordering::Relaxed);
    let created = fs.create(ROOT, name("file"), new).await;

    assert_eq!(created, Err(Errno(libc::ENOSPC)));
    let metadata = cluster.metadata.clone();
    eventually("nobody writes the file any more", || {
        !metadata.is_open_for_writing(inode)
    })
    .await;
    assert_eq!(cluster.objects.bytes(inode).unwrap(), b"content");
}

/// More often than a session has slots: each that were lost could not be used again.
#[tokio::test(flavor = "multi_thread")]
async fn changes_given_up_by_a_soft_mount_lose_no_slots() {
    let cluster = Cluster::start().await;
    let mut options = cluster.connect_options();
    options.soft = Some(Duration::from_secs(5));
    let patient = OxFs::connect(options.clone()).await.unwrap();
    options.soft = Some(Duration::from_millis(10));
    let mut handles = Vec::new();
    for number in 0..66 {
        handles.push(create(&patient, &format!("file{number}")).await.0);
    }
    let fs = OxFs::connect(options).await.unwrap();
    let mut open = Vec::new();
    for inode in handles {
        // Short of time on a busy machine, it is simply opened again.
        let handle = loop {
            if let Ok(handle) = fs.open(inode, RW).await {
                break handle;
            }
        };
        // close(2) of a duplicate: the next write has to register again.
        while write(&fs, handle, 0, b"x").await.is_err() || fs.flush(handle).await.is_err() {}
        open.push(handle);
    }

    cluster.metadata.frozen.store(true, Ordering::Relaxed);
    for handle in open {
        assert!(write(&fs, handle, 1, b"y").await.is_err());
    }
    cluster.metadata.frozen.store(false, Ordering::Relaxed);

    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while fs
        .mkdir(ROOT, name("dir"), 0o755, Caller::default())
        .await
        .is_err_and(|errno| errno != Errno(libc::EEXIST))
    {
        assert!(std::time::Instant::now() < deadline, "no slot is free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn change_is_done_once_although_its_session_expired_meanwhile() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    cluster.metadata.expire_lost.store(true, Ordering::Relaxed);
    let lose = || cluster.metadata.lose_replies.store(1, Ordering::Relaxed);

    lose();
    let dir = fs.mkdir(ROOT, name("dir"), 0o755, Caller::default()).await;
    assert!(dir.is_ok(), "{dir:?}");
    lose();
    fs.rename((ROOT, name("dir")), (ROOT, name("moved")), 0)
        .await
        .unwrap();
    lose();
    fs.rmdir(ROOT, name("moved")).await.unwrap();
    for exclusive in [0, libc::O_EXCL] {
        let new = NewFile {
            mode: 0o644,
            flags: RW | libc::O_CREAT | exclusive,
            owner: Caller::default(),
        };
        let file = name(&format!("file{exclusive}"));
        lose();
        let (attr, handle) = fs.create(ROOT, file, new).await.unwrap();
        // In the new session it is open for writing, too.
        assert!(cluster.metadata.is_open_for_writing(attr.inode));
        write(&fs, handle, 0, b"text").await.unwrap();
        fs.flush(handle).await.unwrap();
        fs.release(handle).await.unwrap();
        let size = cluster.client().await.getattr(attr.inode).await;
        assert_eq!(size.unwrap().size_bytes, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_which_nobody_knows_any_more_is_an_error_and_not_done_again() {
    let cluster = Cluster::start().await;
    let fs = cluster.client().await;
    cluster.metadata.expire_lost.store(true, Ordering::Relaxed);
    cluster.metadata.forget_lost.store(true, Ordering::Relaxed);

    cluster.metadata.lose_replies.store(1, Ordering::Relaxed);
    let dir = fs.mkdir(ROOT, name("dir"), 0o755, Caller::default()).await;

    assert_eq!(dir.err(), Some(Errno(libc::EIO)));
    assert!(fs.lookup(ROOT, name("dir")).await.is_ok(), "it was done");
    let next = fs.mkdir(ROOT, name("next"), 0o755, Caller::default()).await;
    assert!(next.is_ok(), "the mount goes on");
}
