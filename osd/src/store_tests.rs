//! Tests of the store beyond the contract: what lies in the files, and damage to them. Those that
//! [`on_zfs`] lists are run on ZFS, too.

pub(crate) mod disks;
mod failing_disk;
mod full_disk;
mod large_files;
mod lost;
mod on_zfs;
pub(crate) mod pools;
mod rot;
mod suspects;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use osd_core::{Mark, ObjectKey, ObjectStore, Position, Promise, Record, StoreError, SyncJob};
use types::{Inode, ObjectId, OsdId, PgId, PgKey, SUM_BYTES, SessionId, VolumeId};

use crate::file_layout::{HEADER_BYTES, SLOT_BYTES};
use crate::object_file::ObjectFile;
use crate::store_dir::DirectoryStore;
use crate::store_root::Root;
use crate::store_sync::{Job, Scope};

struct Bed {
    store: DirectoryStore,
    ground: Ground,
}

/// What a store stands on.
enum Ground {
    Directory(tempfile::TempDir),
    Zfs(pools::Store),
}

impl Bed {
    /// A directory store; on ZFS while a test [has a pool](pools::while_on_zfs).
    fn new() -> Self {
        let ground = match pools::Store::wanted() {
            Some(store) => Ground::Zfs(store),
            None => Ground::Directory(tempfile::tempdir().unwrap()),
        };
        Self {
            store: DirectoryStore::new(ground.open()),
            ground,
        }
    }

    /// As after a crash of the process: what was written to files is there, memory is not.
    fn crash(&mut self) {
        self.store = DirectoryStore::new(self.root());
    }

    /// The store opened once more.
    fn root(&self) -> Arc<Root> {
        self.ground.open()
    }

    fn path(&self) -> &std::path::Path {
        match &self.ground {
            Ground::Directory(dir) => dir.path(),
            Ground::Zfs(store) => store.dir(),
        }
    }

    fn file(&self, key: ObjectKey) -> PathBuf {
        self.root().path(key)
    }

    fn flip(&self, key: ObjectKey, at: u64) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.file(key))
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    fn sync(&mut self, key: ObjectKey, record: &Record) {
        self.store.sync(key, true, record).unwrap().run().unwrap();
    }

    /// Waits until a file takes less of the disk than this: ZFS counts when it writes out a transaction group.
    fn await_used_below(&self, key: ObjectKey, bytes: u64) {
        use std::os::unix::fs::MetadataExt;
        let file = self.file(key);
        let begun = std::time::Instant::now();
        loop {
            let used = fs::metadata(&file).unwrap().blocks() * 512;
            if used < bytes {
                return;
            }
            assert!(begun.elapsed().as_secs() < 60, "{used} bytes");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn read_all(&mut self, key: ObjectKey) -> Bytes {
        let length = self.store.length(key);
        self.store.read(key, 0, length as u32).unwrap()
    }
}

impl Ground {
    fn open(&self) -> Arc<Root> {
        match self {
            Self::Directory(dir) => Arc::new(Root::open(dir.path()).unwrap()),
            Self::Zfs(store) => store.open(),
        }
    }
}

fn key(inode: u64) -> ObjectKey {
    ObjectKey {
        pg: PgId(3),
        object: ObjectId {
            volume: VolumeId(1),
            inode: Inode(inode),
            column: 0,
        },
    }
}

fn record(seq: u64, length_bytes: u64, clean: bool) -> Record {
    Record {
        promised: Promise {
            epoch: 9,
            holder: OsdId(2),
        },
        position: Position {
            epoch: 9,
            seq,
            holder: OsdId(2),
        },
        length_bytes,
        clean,
        marks: (0..osd_core::config::MARKS_MAX as u64)
            .map(|session| Mark {
                session: SessionId(session),
                change_id: seq,
                ..Mark::default()
            })
            .collect(),
    }
}

fn bytes(length: usize, seed: u8) -> Bytes {
    (0..length)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) | 1)
        .collect()
}

/// The longest record fits its slot.
const _: () = assert!(Record::ENCODED_MAX_BYTES <= crate::header::RECORD_MAX_BYTES);

#[test]
fn clean_object_survives_a_restart_with_bytes_sums_and_record() {
    let mut bed = Bed::new();
    let data = bytes(3_000_000, 7);
    bed.store.create(key(1), &record(0, 0, false)).unwrap();
    bed.store.write(key(1), 5, &data).unwrap();
    let closing = record(12, 5 + data.len() as u64, true);
    bed.sync(key(1), &closing);

    bed.crash();
    let header = bed.store.open(key(1)).unwrap().unwrap();

    assert_eq!(header.record, closing);
    assert_eq!(header.length_bytes, closing.length_bytes);
    assert_eq!(bed.read_all(key(1)).slice(5..), data);
}

#[test]
fn random_changes_leave_what_a_plain_array_would_have() {
    use rand::{Rng, RngExt, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(16);
    let mut bed = Bed::new();
    let mut model: Vec<u8> = Vec::new();
    let mut seq = 0;
    bed.store.create(key(1), &Record::default()).unwrap();

    for round in 0..600 {
        let limit = if rng.random_bool(0.5) {
            20_000
        } else {
            6 << 20
        };
        let offset = rng.random_range(0..limit as usize);
        match rng.random_range(0..10) {
            0..=4 => {
                let mut data = vec![0; rng.random_range(1..40_000)];
                rng.fill_bytes(&mut data);
                let end = offset + data.len();
                model.resize(model.len().max(end), 0);
                model[offset..end].copy_from_slice(&data);
                bed.store
                    .write(key(1), offset as u64, &data.into())
                    .unwrap();
            }
            5 => {
                model.resize(offset, 0);
                bed.store.truncate(key(1), offset as u64).unwrap();
            }
            6 => {
                let length = rng.random_range(1..200_000);
                let end = offset + length;
                model.resize(model.len().max(end), 0);
                model[offset..end].fill(0);
                bed.store
                    .write_zeros(key(1), offset as u64, length as u64)
                    .unwrap();
            }
            7 => {
                seq += 1;
                let record = record(seq, model.len() as u64, rng.random_bool(0.5));
                bed.sync(key(1), &record);
                if record.clean && rng.random_bool(0.5) {
                    bed.crash();
                }
            }
            8 => {
                // What was not synced is in the page cache, and the sums are made anew.
                bed.sync(key(1), &record(seq, model.len() as u64, false));
                bed.crash();
            }
            _ => {}
        }
        let length = rng.random_range(1..300_000);
        let read = bed.store.read(key(1), offset as u64, length).unwrap();
        let end = model.len().min(offset + length as usize);
        let expected = model.get(offset..end).unwrap_or_default();
        assert!(read == expected, "round {round} at {offset}");
        assert_eq!(
            bed.store.length(key(1)),
            model.len() as u64,
            "round {round}"
        );
    }
    assert!(bed.read_all(key(1)) == model);
    let sums = bed.store.sums(key(1), 0, 1000).unwrap();
    let expected: Vec<_> = model
        .chunks(SUM_BYTES as usize)
        .map(crc32c::crc32c)
        .collect();
    assert_eq!(sums, expected);
}

#[test]
fn flipped_bit_at_rest_is_noticed_by_the_read_that_touches_it() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(20_000, 1)).unwrap();
    bed.sync(key(1), &record(1, 20_000, true));
    bed.crash();

    bed.flip(key(1), HEADER_BYTES + 9_000);

    assert!(bed.store.read(key(1), 0, 8192).is_ok());
    let error = bed.store.read(key(1), 8_000, 1_000).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { block: 2 }), "{error}");
    // A partial overwrite does not hide it, a whole one heals it.
    bed.store.write(key(1), 8_192, &bytes(10, 3)).unwrap();
    assert!(bed.store.read(key(1), 8_192, 10).is_err());
    bed.store.write(key(1), 8_192, &bytes(4_096, 3)).unwrap();
    assert!(bed.store.read(key(1), 0, 20_000).is_ok());
}

#[test]
fn flipped_bit_in_the_sums_is_noticed_too() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(5_000, 1)).unwrap();
    bed.sync(key(1), &record(1, 5_000, true));
    bed.crash();

    bed.flip(key(1), 2 * SLOT_BYTES as u64 + 4);

    assert!(bed.store.read(key(1), 0, 4_096).is_ok());
    assert!(bed.store.read(key(1), 4_096, 10).is_err());
}

#[test]
fn torn_record_leaves_the_one_before_it() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(100, 1)).unwrap();
    bed.sync(key(1), &record(1, 100, false));
    bed.sync(key(1), &record(2, 100, true));

    // The second record is of generation 2, in the first slot.
    bed.flip(key(1), 60);
    bed.crash();

    let header = bed.store.open(key(1)).unwrap().unwrap();
    assert_eq!(header.record, record(1, 100, false));
    assert_eq!(bed.read_all(key(1)), bytes(100, 1));
}

#[test]
fn damaged_header_and_cut_file_quarantine_one_object_only() {
    let mut bed = Bed::new();
    for inode in [1, 2] {
        bed.store.create(key(inode), &Record::default()).unwrap();
        bed.store.write(key(inode), 0, &bytes(10_000, 1)).unwrap();
        bed.sync(key(inode), &record(1, 10_000, true));
    }
    bed.crash();

    bed.flip(key(1), SLOT_BYTES as u64 + 70);
    let header = bed.store.open(key(1)).unwrap().unwrap();
    assert_eq!(header.record, Record::default());
    assert_eq!(header.length_bytes, 10_000);
    assert_eq!(
        bed.store.open(key(2)).unwrap().unwrap().length_bytes,
        10_000
    );

    let file = OpenOptions::new()
        .write(true)
        .open(bed.file(key(2)))
        .unwrap();
    file.set_len(HEADER_BYTES + 5_000).unwrap();
    bed.crash();
    assert_eq!(bed.store.length(key(2)), 10_000);
    assert!(bed.store.read(key(2), 0, 4_096).is_ok());
    assert!(matches!(
        bed.store.read(key(2), 0, 10_000),
        Err(StoreError::Corrupt { block: 1 })
    ));
}

#[test]
fn holes_take_no_space_and_read_as_zeros() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();

    bed.store.write(key(1), 1 << 40, &bytes(4_096, 1)).unwrap();
    bed.store.truncate(key(1), 1 << 41).unwrap();
    bed.sync(key(1), &record(1, 1 << 41, true));

    bed.await_used_below(key(1), 100_000);
    assert_eq!(bed.store.read(key(1), 77, 10).unwrap(), vec![0; 10]);
    assert_eq!(bed.store.length(key(1)), 1 << 41);
    bed.crash();
    assert_eq!(
        bed.store.read(key(1), 1 << 40, 4096).unwrap(),
        bytes(4096, 1)
    );
}

#[test]
fn zeroed_blocks_give_their_space_back() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(4 << 20, 1)).unwrap();
    bed.sync(key(1), &record(1, 4 << 20, false));

    bed.store.write_zeros(key(1), 100, (4 << 20) - 100).unwrap();
    bed.sync(key(1), &record(2, 4 << 20, true));

    bed.await_used_below(key(1), 200_000);
    assert_eq!(bed.store.length(key(1)), 4 << 20);
    assert_eq!(bed.read_all(key(1)).slice(..100), bytes(100, 1));
    assert!(
        bed.read_all(key(1))
            .slice(100..)
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn listing_is_ascending_across_directories_and_pages() {
    let mut bed = Bed::new();
    for inode in [0x301, 0x2ff, 5, 0x100, 0x200] {
        bed.store.create(key(inode), &Record::default()).unwrap();
    }
    let group = PgKey {
        volume: VolumeId(1),
        pg: PgId(3),
    };
    let mut list = |after: Option<u64>, limit| -> Vec<u64> {
        let after = after.map(|inode| key(inode).object);
        let found = bed.store.list(group, after, limit).unwrap();
        found.iter().map(|(object, _)| object.inode.0).collect()
    };

    assert_eq!(list(None, 10), [5, 0x100, 0x200, 0x2ff, 0x301]);
    assert_eq!(list(Some(0x100), 2), [0x200, 0x2ff]);
    let other = PgKey {
        pg: PgId(4),
        ..group
    };
    assert!(bed.store.list(other, None, 10).unwrap().is_empty());
}

#[test]
fn unsynced_changes_outlive_closing() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(10, 1)).unwrap();
    bed.store.truncate(key(1), 5).unwrap();

    bed.store.close(key(1));

    assert_eq!(bed.store.length(key(1)), 5);
    assert_eq!(bed.read_all(key(1)), bytes(10, 1).slice(..5));
}

#[test]
fn contract_store_does_what_every_store_must() {
    let grounds = std::cell::RefCell::new(Vec::new());
    osd_core::contract::run(&mut || {
        let bed = Bed::new();
        grounds.borrow_mut().push(bed.ground);
        Box::new(bed.store)
    })
    .unwrap();
}

#[test]
fn contract_store_keeps_what_was_synced() {
    let bed = Bed::new();
    let Bed { store, ground } = bed;
    drop(store);
    osd_core::contract::reopen(&mut || Box::new(DirectoryStore::new(ground.open()))).unwrap();
}

#[test]
fn deleted_object_is_absent_before_its_file_is_gone() {
    let bed = Bed::new();
    let root = bed.root();
    let mut store = DirectoryStore::with_reaper(Arc::clone(&root));
    let group = PgKey {
        volume: VolumeId(1),
        pg: PgId(3),
    };
    for inode in [1, 2] {
        store.create(key(inode), &Record::default()).unwrap();
        store.write(key(inode), 0, &bytes(10, 1)).unwrap();
    }

    store.delete(key(1)).unwrap();
    store.delete(key(2)).unwrap();

    assert!(root.path(key(1)).exists());
    assert!(store.open(key(1)).unwrap().is_none());
    assert!(root.header(key(1)).unwrap().is_none());
    assert!(store.list(group, None, 9).unwrap().is_empty());
    root.reap(key(1)).unwrap();
    assert!(!root.path(key(1)).exists());
    assert!(store.create(key(2), &Record::default()).is_err());
}
