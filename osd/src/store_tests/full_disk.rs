//! A disk filled to the brim: changes say so, and everything else goes on.

use std::collections::BTreeMap;

use types::UnixNanos;

use super::disks::Disk;
use super::*;
use crate::boot::Boot;
use crate::note::MachineBoot;

/// How often blocks may become free behind the store's back: each time there are fewer.
const COMMITS_MAX: usize = 100;

/// What each object must hold.
type Model = BTreeMap<u64, Vec<u8>>;

fn verify(store: &mut DirectoryStore, model: &Model) {
    for (inode, expected) in model {
        let length = store.length(key(*inode));
        assert_eq!(length, expected.len() as u64, "object {inode}");
        let bytes = store.read(key(*inode), 0, length as u32).unwrap();
        assert!(bytes == expected[..], "object {inode}");
    }
}

/// Writes at the end of an object until there is no space; counts what was written.
fn fill(store: &mut DirectoryStore, inode: u64, piece: usize, contents: &mut Vec<u8>) {
    loop {
        let data = bytes(piece, contents.len() as u8);
        match store.write(key(inode), contents.len() as u64, &data) {
            Ok(()) => contents.extend_from_slice(&data),
            Err(StoreError::NoSpace { written_bytes }) => {
                contents.extend_from_slice(&data[..written_bytes as usize]);
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn sync_all(store: &mut DirectoryStore, model: &Model, seq: u64, clean: bool) {
    for (inode, contents) in model {
        let record = record(seq, contents.len() as u64, clean);
        let mut job = store.sync(key(*inode), true, &record).unwrap();
        job.run().unwrap();
    }
}

#[test]
pub(super) fn full_disk_refuses_changes_and_neither_poisons_nor_damages_anything() {
    let Some(disk) = Disk::new(16 << 20) else {
        return;
    };
    let root = disk.root();
    let mut store = DirectoryStore::new(Arc::clone(&root));
    let mut model = Model::new();
    // Some that were never synced when the disk fills up, with and without data.
    for inode in 1..=9 {
        store.create(key(inode), &Record::default()).unwrap();
        let data = bytes(inode as usize % 3 * 5_000, inode as u8);
        store.write(key(inode), 0, &data).unwrap();
        model.insert(inode, data.to_vec());
    }

    // The last object to take up what is left in ever smaller pieces.
    for (inode, piece) in [(1, 100_000), (2, 9_000), (3, 4_096), (4, 100)] {
        fill(&mut store, inode, piece, model.get_mut(&inode).unwrap());
    }
    let refused = (100..).find(
        |inode| match store.create(key(*inode), &Record::default()) {
            Ok(()) => {
                model.insert(*inode, Vec::new());
                false
            }
            Err(StoreError::NoSpace { .. }) => true,
            Err(error) => panic!("{error}"),
        },
    );
    let refused = key(refused.unwrap());
    assert!(!root.path(refused).exists());
    assert!(store.open(refused).unwrap().is_none());
    let is_full = (0..COMMITS_MAX).any(|_| {
        match store.write(key(5), 64 << 20, &bytes(4_096, 1)) {
            Err(StoreError::NoSpace { written_bytes: 0 }) => return true,
            // The file system has committed its journal, and some blocks were free again.
            Ok(()) | Err(StoreError::NoSpace { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        store.truncate(key(5), model[&5].len() as u64).unwrap();
        fill(&mut store, 4, 100, model.get_mut(&4).unwrap());
        false
    });
    assert!(is_full);
    assert_eq!(store.length(key(5)), model[&5].len() as u64);

    verify(&mut store, &model);
    sync_all(&mut store, &model, 1, false);
    store.truncate(key(2), 10_000).unwrap();
    model.get_mut(&2).unwrap().truncate(10_000);
    store.write(key(1), 70_000, &bytes(9_999, 77)).unwrap();
    model.get_mut(&1).unwrap()[70_000..79_999].copy_from_slice(&bytes(9_999, 77));
    sync_all(&mut store, &model, 2, true);
    assert!(!root.is_poisoned());

    // Space comes back.
    store.delete(key(1)).unwrap();
    model.remove(&1);
    let data = bytes(300_000, 9);
    store.create(refused, &Record::default()).unwrap();
    store.write(refused, 5 << 20, &data).unwrap();
    let mut sparse = vec![0; 5 << 20];
    sparse.extend_from_slice(&data);
    model.insert(refused.object.inode.0, sparse);
    sync_all(&mut store, &model, 3, true);
    verify(&mut store, &model);
    assert!(!root.is_poisoned());

    drop(store);
    drop(root);
    disk.remount();
    let mut store = DirectoryStore::new(disk.root());
    for inode in model.keys() {
        let header = store.open(key(*inode)).unwrap().unwrap();
        assert!(header.record.clean, "object {inode}");
    }
    verify(&mut store, &model);
}

/// Makes objects of this size from `first` on until there is no space.
fn make_until_full(store: &mut DirectoryStore, first: u64, size: usize, model: &mut Model) {
    for inode in first.. {
        let data = bytes(size, inode as u8);
        let created = store.create(key(inode), &Record::default());
        match created.and_then(|()| store.write(key(inode), 0, &data)) {
            Ok(()) => drop(model.insert(inode, data.to_vec())),
            Err(StoreError::NoSpace { .. }) => {
                store.delete(key(inode)).unwrap();
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// As many waiting jobs are done.
fn sweep(root: &Root, store: &mut DirectoryStore, model: &Model, seq: u64) {
    let mut jobs: Vec<_> = model
        .iter()
        .map(|(inode, contents)| {
            let record = record(seq, contents.len() as u64, true);
            store.sync(key(*inode), true, &record).unwrap()
        })
        .collect();
    for job in &mut jobs {
        job.write_data(false).unwrap();
    }
    root.sync_all().unwrap();
    for job in &mut jobs {
        job.write_record(false).unwrap();
    }
    root.sync_all().unwrap();
}

/// New data is refused while there is room for all else; even on a disk that somebody else has filled to
/// the last byte the server starts, syncs and deletes.
#[test]
pub(super) fn disk_full_of_small_objects_syncs_restarts_and_deletes() {
    let Some(disk) = Disk::for_small_files(48 << 20) else {
        return;
    };
    let start = UnixNanos(99_000_000_000);
    Boot::count(disk.path(), false, start).unwrap();
    let root = disk.root();
    let mut store = DirectoryStore::new(Arc::clone(&root));
    let mut model = Model::new();

    make_until_full(&mut store, 1, 4_900, &mut model);
    assert!(model.len() > 2_000, "{}", model.len());
    assert_eq!(root.space().unwrap().1 / (256 << 10), 0);
    sweep(&root, &mut store, &model, 1);
    let filler = disk.path().join("filler");
    let filled = std::fs::write(&filler, vec![1; 64 << 20]);
    assert_eq!(filled.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(root.space().unwrap().1, 0);
    store.write(key(1), 100, &bytes(50, 200)).unwrap();
    model.get_mut(&1).unwrap()[100..150].copy_from_slice(&bytes(50, 200));
    sync_all(&mut store, &Model::from([(1, model[&1].clone())]), 2, false);
    drop(store);
    drop(root);
    disk.remount();

    let boot = Boot::count(disk.path(), true, start).unwrap();
    boot.mark_clean().unwrap();
    let root = disk.root();
    let mut store = DirectoryStore::new(Arc::clone(&root));
    verify(&mut store, &model);
    sweep(&root, &mut store, &model, 3);
    for inode in (1..model.len() as u64).step_by(2) {
        store.delete(key(inode)).unwrap();
        model.remove(&inode);
    }
    make_until_full(&mut store, 100_001, 20_000, &mut model);
    assert!(*model.last_key_value().unwrap().0 > 100_100);
    sweep(&root, &mut store, &model, 4);
    assert!(!root.is_poisoned());
    drop(store);
    drop(root);
    disk.remount();

    verify(&mut DirectoryStore::new(disk.root()), &model);
}

/// What a job could not write is written by the next one; nothing is lost or recorded meanwhile.
#[test]
pub(super) fn job_without_space_leaves_its_work_to_the_next() {
    let mut bed = Bed::new();
    let root = bed.root();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(9_000, 1)).unwrap();
    bed.sync(key(1), &record(1, 9_000, false));
    let path = root.path(key(1));
    let (mut file, _) = ObjectFile::open(key(1).object, path.clone(), MachineBoot(1))
        .unwrap()
        .unwrap();
    file.settle(9_000, false);
    file.write(100, &bytes(5_000, 2)).unwrap();
    let scope = Scope {
        data: true,
        all_sums: true,
    };

    let closing = record(2, 9_000, true).encode();
    let mut unwritten = file.take_unwritten(closing.clone(), (true, false)).unwrap();
    unwritten.file = Arc::new(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut job = Job::new(Arc::clone(&root), unwritten, scope, None);
    assert!(matches!(job.run(), Err(StoreError::NoSpace { .. })));
    assert!(matches!(
        job.write_record(false),
        Err(StoreError::NoSpace { .. })
    ));

    assert!(!root.is_poisoned());
    assert!(file.read(0, 9_000).is_ok());
    let unwritten = file.take_unwritten(closing, (true, false)).unwrap();
    // The slot that holds the record so far is not touched.
    assert_eq!(unwritten.generation, 2);
    Job::new(root, unwritten, scope, None).run().unwrap();
    bed.crash();
    assert_eq!(bed.read_all(key(1)).slice(100..5_100), bytes(5_000, 2));
    assert!(bed.store.open(key(1)).unwrap().unwrap().record.clean);
}

#[test]
pub(super) fn failed_job_leaves_the_object_as_its_file_says() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(9_000, 1)).unwrap();
    bed.sync(key(1), &record(1, 9_000, false));

    // Given up before it has done anything.
    drop(
        bed.store
            .sync(key(1), true, &record(2, 9_000, true))
            .unwrap(),
    );
    bed.store.close(key(1));

    let header = bed.store.open(key(1)).unwrap().unwrap();
    assert_eq!(header.record, record(1, 9_000, false));
    assert_eq!(bed.read_all(key(1)), bytes(9_000, 1));
    bed.sync(key(1), &record(3, 9_000, true));
    bed.crash();
    assert_eq!(bed.read_all(key(1)), bytes(9_000, 1));
}
