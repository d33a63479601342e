//! Servers whose files, disks or groups are not what they should be.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use bytes::Bytes;
use osd_core::ObjectKey;
use proto::osd;
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, Role, ServiceKind, Wire};
use types::{OsdId, Remedy};

use super::bed::{Bed, CLUSTER, PATIENCE, PG, bytes, object, secret, until};
use super::leases::Admin;
use crate::file_layout::HEADER_BYTES;
use crate::store_root::Root;
use crate::store_tests::disks::Disk;

/// Where a server keeps an object.
fn file(bed: &Bed, id: usize, inode: u64) -> PathBuf {
    let root = Root::open(&bed.nodes[id - 1].dir).unwrap();
    root.path(ObjectKey {
        pg: PG.pg,
        object: object(inode),
    })
}

/// Asks as the metadata cluster does.
async fn delete(bed: &Bed, id: usize, inode: u64) -> Result<(), CallError> {
    let identity = Identity {
        cluster: CLUSTER,
        secret: secret(),
        role: Role::Mrc,
        id: 1,
        wire: Wire::default(),
    };
    let address = bed.nodes[id - 1].address.clone();
    let link = Link::open(identity, ServiceKind::Osd, address, LinkOptions::default());
    let request = osd::Request {
        op: Some(osd::request::Op::Delete(osd::Delete {
            objects: vec![osd::ObjectInPg {
                object: Some(object(inode).into()),
                pg: PG.pg.0,
                moved: false,
            }],
        })),
        ..osd::Request::default()
    };
    let answer = link.call::<_, osd::Response>(&request, Payload::none(), PATIENCE);
    answer.await.map(|_: (osd::Response, _)| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_group_that_is_gone_are_deleted_and_so_is_its_directory() {
    let mut bed = Bed::new(1).await;
    let client = bed.client();
    client.write(1, 0, &bytes(1_000, 1)).await;
    client.write(2, 0, &bytes(1_000, 2)).await;
    let files = [file(&bed, 1, 1), file(&bed, 1, 2)];
    let group = files[0].ancestors().nth(2).unwrap();

    bed.map.pgs.clear();
    bed.publish();
    until("the group to be forgotten", || async {
        let op = osd::request::Op::Stat(osd::Stat {});
        let request = client.request(1, op);
        let link = &client.links[&OsdId(1)];
        link.call::<_, osd::Response>(&request, Payload::none(), PATIENCE)
            .await
            .is_err()
    })
    .await;
    for inode in [1, 2, 3, 1] {
        delete(&bed, 1, inode).await.unwrap();
    }

    assert!(!files[0].exists() && !files[1].exists());
    until("the directory to be gone", || async { !group.exists() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_that_can_not_be_opened_is_rebuilt_and_nobody_notices() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(100_000, 1)).await;
    client.write(2, 0, &bytes(100_000, 2)).await;
    let path = file(&bed, 3, 1);

    bed.kill(3).await;
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    bed.start(3).await;
    let client = bed.client();
    *client.last.lock().unwrap() = OsdId(3);
    assert_eq!(client.read(1, 0, 100_000).await, bytes(100_000, 1));
    *client.last.lock().unwrap() = OsdId(3);
    let op = osd::request::Op::Write(osd::Write::default());
    client
        .ask(1, op, Bytes::from_static(b"more"))
        .await
        .unwrap();
    bed.until_full().await;
    bed.stop_all().await;

    assert!(path.is_file());
    bed.assert_all_equal(1..=2);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_that_can_not_be_opened_is_deleted_like_any_other() {
    let mut bed = Bed::new(1).await;
    bed.client().write(1, 0, &bytes(1_000, 1)).await;
    let path = file(&bed, 1, 1);
    bed.kill(1).await;
    fs::write(&path, b"no header").unwrap();
    bed.start(1).await;

    delete(&bed, 1, 1).await.unwrap();

    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn request_for_which_there_is_no_memory_is_to_be_repeated() {
    let mut bed = Bed::new(1).await;
    bed.client().write(1, 0, &bytes(100, 1)).await;
    bed.stop(1).await;
    bed.limits.request_bytes_max = 1_000;
    bed.start(1).await;
    let client = bed.client();
    let write = |length| {
        let op = osd::request::Op::Write(osd::Write {
            change_id: u64::MAX - length,
            ..osd::Write::default()
        });
        let payload = Payload::of(bytes(length as usize, 1));
        let request = client.request(1, op);
        let link = &client.links[&OsdId(1)];
        async move {
            let answer = link.call::<_, osd::Response>(&request, payload, PATIENCE);
            answer.await.map(|_| ())
        }
    };

    // Each share comes back, or the third would not fit.
    for _ in 0..3 {
        client.write(1, 0, &bytes(900, 1)).await;
    }
    let refused = write(1_001).await;

    match refused {
        Err(CallError::Fault(fault)) => assert_eq!(fault.remedy, Remedy::Retry, "{fault}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.read(1, 0, 5_000).await, bytes(900, 1));
}

/// A primary that froze while it changed an object takes the others for behind when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_primary_noted_is_over_once_another_serves() {
    let bed = Bed::new(3).await;
    let client = bed.client();
    let data = bytes(1_000, 1);
    client.write(1, 0, &data).await;
    let key = ObjectKey {
        pg: PG.pg,
        object: object(1),
    };
    let holder = *client.last.lock().unwrap();

    let others: Vec<u64> = (1..=3).filter(|id| OsdId(*id) != holder).collect();
    let [former, third] = others[..] else {
        panic!("{holder} is none of the three");
    };
    let former = &bed.nodes[former as usize - 1].board;
    former.note_behind(key, &[OsdId(third)]);
    former.note_left(key);

    let writing = async {
        loop {
            client.write(1, 0, &data).await;
        }
    };
    tokio::select! {
        () = bed.until_full() => {}
        () = writing => {}
    }
}

/// The server with the damaged block leads after all were killed: what it has does not count there.
#[tokio::test(flavor = "multi_thread")]
async fn block_that_rotted_before_all_were_killed_is_mended_and_not_spread() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    let data = bytes(300_001, 1);
    client.write(1, 0, &data).await;
    client.sync(1).await;
    client.write(1, 0, &data.slice(..10)).await;
    let path = file(&bed, 1, 1);
    for id in 1..=3 {
        bed.kill(id).await;
    }
    let flipped = |at: u64| {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, HEADER_BYTES + at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], HEADER_BYTES + at)
            .unwrap();
    };
    flipped(150_000);
    flipped(300_000);

    for id in 1..=3 {
        bed.start(id).await;
    }
    bed.until_full().await;
    let client = bed.client();
    let admin = Admin::of(&bed);
    client.read(1, 0, 10).await;
    while admin.move_on(1).await != 1 {
        client.read(1, 0, 10).await;
    }
    assert!(client.read(1, 0, 400_000).await == data);
    bed.until_full().await;
    bed.stop_all().await;

    bed.assert_all_equal(1..=1);
    assert!(bed.at_rest(1, 1).unwrap() == data);
}

/// The disk of the server that leads is full: the others have room, so no program notices.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_of_one_of_three_keeps_nothing_from_being_written() {
    let Some(disk) = Disk::new(48 << 20) else {
        return;
    };
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.append(1, 1, &bytes(100_000, 1)).await;
    bed.stop(1).await;
    for entry in fs::read_dir(&bed.nodes[0].dir).unwrap() {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(entry.unwrap().path())
            .arg(disk.path())
            .status();
        assert!(copied.unwrap().success());
    }
    bed.nodes[0].dir = disk.path().to_owned();
    bed.start(1).await;
    let filler = disk.path().join("filler");
    let free = nix::sys::statvfs::statvfs(disk.path()).unwrap();
    let free_bytes = free.blocks_available() * free.fragment_size();
    let filling = fs::File::create(&filler).unwrap();
    let length = i64::try_from(free_bytes - (2 << 20)).unwrap();
    nix::fcntl::fallocate(&filling, nix::fcntl::FallocateFlags::empty(), 0, length).unwrap();

    let client = bed.client();
    let mut expected = bytes(100_000, 1).to_vec();
    for first_id in 2..8 {
        *client.last.lock().unwrap() = OsdId(1);
        let data = bytes(700_000, first_id);
        let written = client.append(1, first_id, &data).await;
        assert_eq!(written.length_bytes, (expected.len() + data.len()) as u64);
        expected.extend_from_slice(&data);
    }
    client.write(2, 0, &bytes(1_000, 2)).await;
    client.sync(1).await;
    assert!(client.read(1, 0, 4 << 20).await == expected[..4 << 20]);

    // Room again: the third replica is brought up by itself.
    drop(filling);
    fs::remove_file(&filler).unwrap();
    let length = |id, inode| fs::metadata(file(&bed, id, inode)).map_or(0, |file| file.len());
    until("the replica to be brought up", || async {
        (1..=2).all(|inode| length(1, inode) == length(2, inode))
    })
    .await;
    bed.until_full().await;
    bed.stop_all().await;
    bed.assert_all_equal(1..=2);
    drop(bed);
}
