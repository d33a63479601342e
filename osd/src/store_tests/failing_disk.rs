//! A disk that fails: the store or the object stops, and says nothing is stable that may not be.

use super::disks::Disk;
use super::*;
use crate::note::MachineBoot;

fn assert_stopped(store: &mut DirectoryStore, length: u64) {
    let data = bytes(1, 1);
    assert!(matches!(
        store.write(key(1), 0, &data),
        Err(StoreError::Poisoned)
    ));
    assert!(matches!(
        store.truncate(key(1), 0),
        Err(StoreError::Poisoned)
    ));
    assert!(matches!(
        store.sync(key(1), true, &record(9, length, false)),
        Err(StoreError::Poisoned)
    ));
}

#[test]
pub(super) fn poisoned_store_takes_no_changes_and_still_reads_and_deletes() {
    let bed = Bed::new();
    let root = bed.root();
    let mut store = DirectoryStore::new(Arc::clone(&root));
    store.create(key(1), &Record::default()).unwrap();
    store.write(key(1), 0, &bytes(10, 1)).unwrap();
    let mut job = store.sync(key(1), true, &record(1, 10, false)).unwrap();

    root.poison(&std::io::Error::from_raw_os_error(libc::EIO));

    assert!(matches!(job.run(), Err(StoreError::Poisoned)));
    assert_stopped(&mut store, 10);
    assert!(matches!(
        store.create(key(2), &Record::default()),
        Err(StoreError::Poisoned)
    ));
    assert_eq!(store.read(key(1), 0, 10).unwrap(), bytes(10, 1));
    store.delete(key(1)).unwrap();
    assert!(!root.path(key(1)).exists());
}

/// The kernel reports a failed write-back once; a second sync would succeed. It names the file, so the
/// others go on.
#[test]
pub(super) fn sync_without_space_stops_its_object_and_is_not_retried() {
    let Some(disk) = Disk::failing(64 << 20, 8 << 20) else {
        return;
    };
    let root = disk.root();
    let mut store = DirectoryStore::new(Arc::clone(&root));
    store.create(key(1), &Record::default()).unwrap();
    let first = record(1, 0, false);
    store.sync(key(1), true, &first).unwrap().run().unwrap();
    let data = bytes(1 << 20, 3);
    for at in 0..16 {
        store.write(key(1), at << 20, &data).unwrap();
    }

    let mut job = store
        .sync(key(1), true, &record(2, 16 << 20, false))
        .unwrap();
    let error = job.run().unwrap_err();

    assert!(matches!(error, StoreError::Poisoned), "{error}");
    assert!(!root.is_poisoned());
    assert!(matches!(job.run(), Err(StoreError::Poisoned)));
    assert!(matches!(job.write_record(true), Err(StoreError::Poisoned)));
    assert_stopped(&mut store, 16 << 20);
    let header = store.open(key(1)).unwrap().unwrap();
    assert_eq!(header.record, first, "the record that is stable");

    // The kernel still has what it could not write, and takes it for written.
    let path = root.path(key(1));
    let in_memory = std::fs::read(&path).unwrap();
    drop((job, store));
    let restarted = disk.root();
    restarted.open_object(key(1)).unwrap().unwrap();
    let on_disk = std::fs::read(&path).unwrap_or_default();
    assert!(in_memory != on_disk, "it is read from memory");
    restarted.forget_failure().unwrap();
    assert!(!disk.path().join("FAILED").exists());
}

/// No device is needed for a file that can't be synced.
#[test]
pub(super) fn sync_that_fails_for_another_reason_stops_the_store() {
    let mut bed = Bed::new();
    let root = bed.root();
    bed.store.create(key(1), &Record::default()).unwrap();
    let path = root.path(key(1));
    let (mut file, _) = ObjectFile::open(key(1).object, path, MachineBoot(1))
        .unwrap()
        .unwrap();
    file.write(0, &bytes(10, 1)).unwrap();
    let mut unwritten = file.take_unwritten(Vec::new(), (true, false)).unwrap();
    unwritten.file = Arc::new(OpenOptions::new().write(true).open("/dev/null").unwrap());
    let scope = Scope {
        data: true,
        all_sums: false,
    };

    let mut job = Job::new(Arc::clone(&root), unwritten, scope, None);
    job.write_data(false).unwrap();
    assert!(!root.is_poisoned());
    assert!(job.write_data(true).is_err());

    assert!(root.is_poisoned());
    assert!(matches!(job.write_record(true), Err(StoreError::Poisoned)));
}
