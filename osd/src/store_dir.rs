//! The directory store: one sparse file per object, `pgs/<volume>.<pg>/<2 hex>/<inode hex>.<column>`.
//!
//! Each shard has a [`DirectoryStore`] of its own, all of one [`Root`]. A page-sized write is one
//! system call; sums and records stay in memory until a [`SyncJob`] writes them.
//! What a job did not finish is seen after a crash as an object that was not closed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use osd_core::{Header, ObjectKey, ObjectStore, Record, StoreError, SyncJob};
use types::{BLOCK_BYTES, FILE_BYTES_MAX, ObjectId, PgKey, SUM_BYTES, blocks_of};

use crate::board::group_of;
use crate::config::DESCRIPTORS_MAX;
use crate::file_io::is_no_space;
use crate::object_file::{FileError, ObjectFile};
use crate::store_root::{Change, Root, difference};
use crate::store_sync::{Job, Scope};

/// The objects of one shard.
#[derive(Debug)]
pub(crate) struct DirectoryStore {
    root: Arc<Root>,
    /// Somebody else removes the files of deleted objects.
    has_reaper: bool,
    entries: HashMap<ObjectKey, Entry>,
    /// Counts calls, to find the descriptors that were not used for longest.
    clock: u64,
    descriptors: usize,
}

#[derive(Debug)]
struct Entry {
    file: ObjectFile,
    /// The newest record known to be in the file.
    record: Record,
    /// The record that a job is to write, unless it failed.
    under_way: Option<UnderWay>,
    /// Counts changes.
    changes: u64,
    /// Changes up to which the record, if it says "clean", vouches for bytes and sums.
    vouched: Option<u64>,
    /// What it takes on the disk, as counted for its group.
    counted_bytes: u64,
    /// Its name in the directory is not stable yet.
    unnamed: bool,
    used: u64,
}

#[derive(Debug)]
struct UnderWay {
    generation: u64,
    record: Record,
    changes: u64,
}

impl Entry {
    /// Whether the file says all there is to say: nothing is lost with what is in memory.
    fn is_clean(&self) -> bool {
        self.vouched == Some(self.changes)
    }

    /// Takes over the record of the last job if that has written it.
    fn note_job(&mut self, root: &Root) {
        // After a failed sync nobody knows whether it is stable.
        let written =
            |job: &mut UnderWay| self.file.generation() == job.generation && !root.is_poisoned();
        if let Some(job) = self.under_way.take_if(written) {
            self.vouched = job.record.clean.then_some(job.changes);
            self.record = job.record;
            self.unnamed = false;
        }
    }

    /// Counts what it takes by now for its group.
    fn count(&mut self, root: &Root, key: ObjectKey) {
        if let Some(bytes) = self.file.disk_bytes() {
            let before = std::mem::replace(&mut self.counted_bytes, bytes);
            let change = Change {
                bytes: difference(before, bytes),
                objects: 0,
            };
            root.sizes().note(group_of(key), change);
        }
    }

    fn header(&self) -> Header {
        Header {
            record: self.record.clone(),
            length_bytes: self.file.length_bytes(),
        }
    }
}

impl DirectoryStore {
    /// A store that removes the files of deleted objects itself.
    pub(crate) fn new(root: Arc<Root>) -> Self {
        Self {
            root,
            has_reaper: false,
            entries: HashMap::new(),
            clock: 0,
            descriptors: 0,
        }
    }

    /// A store that leaves the files of deleted objects to a [`Reaper`](crate::reaper::Reaper).
    pub(crate) fn with_reaper(root: Arc<Root>) -> Self {
        Self {
            has_reaper: true,
            ..Self::new(root)
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.root.is_poisoned() {
            true => Err(StoreError::Poisoned),
            false => Ok(()),
        }
    }

    /// The object, opened if need be.
    fn entry(&mut self, key: ObjectKey) -> Result<&mut Entry, StoreError> {
        if !self.entries.contains_key(&key) && !self.load(key)? {
            return Err(StoreError::Missing);
        }
        self.spare_descriptors();
        self.clock += 1;
        let entry = self.entries.get_mut(&key).ok_or(StoreError::Missing)?;
        entry.used = self.clock;
        entry.note_job(&self.root);
        if !entry.file.has_descriptor() {
            entry.file.file()?;
            self.descriptors += 1;
        }
        Ok(entry)
    }

    /// The object, to be changed.
    fn changed(&mut self, key: ObjectKey) -> Result<&mut Entry, StoreError> {
        self.check()?;
        let entry = self.entry(key)?;
        if entry.file.is_given_up() {
            return Err(StoreError::Poisoned);
        }
        entry.changes += 1;
        Ok(entry)
    }

    fn load(&mut self, key: ObjectKey) -> Result<bool, StoreError> {
        if self.root.is_doomed(key) {
            return Ok(false);
        }
        let Some((mut file, slot)) = self.root.open_object(key)? else {
            return Ok(false);
        };
        let record = self.root.record(key, &slot);
        file.settle(record.length_bytes, !record.clean);
        file.note_lost(&slot, &record)?;
        self.insert(key, file, record, false);
        Ok(true)
    }

    fn insert(&mut self, key: ObjectKey, file: ObjectFile, record: Record, unnamed: bool) {
        self.descriptors += 1;
        self.clock += 1;
        let entry = Entry {
            // One that exists was counted like this.
            counted_bytes: file.disk_bytes().unwrap_or(0),
            file,
            vouched: record.clean.then_some(0),
            record,
            under_way: None,
            changes: 0,
            unnamed,
            used: self.clock,
        };
        self.entries.insert(key, entry);
    }

    /// Closes the descriptors that were not used for longest once there are too many.
    fn spare_descriptors(&mut self) {
        if self.descriptors <= DESCRIPTORS_MAX {
            return;
        }
        // Objects without changes first: the kernel reports a failed write-back best to a
        // descriptor that was open when it happened.
        let mut open: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.file.has_descriptor())
            .collect();
        open.sort_unstable_by_key(|(_, entry)| (!entry.is_clean(), entry.used));
        for (key, entry) in open.into_iter().take(DESCRIPTORS_MAX / 4) {
            entry.count(&self.root, *key);
            entry.file.close_descriptor();
            self.descriptors -= 1;
        }
    }

    fn remove(&mut self, key: ObjectKey) {
        let Some(mut entry) = self.entries.remove(&key) else {
            return;
        };
        entry.count(&self.root, key);
        if entry.file.has_descriptor() {
            self.descriptors -= 1;
        }
    }
}

impl ObjectStore for DirectoryStore {
    fn open(&mut self, key: ObjectKey) -> Result<Option<Header>, StoreError> {
        match self.entry(key) {
            Ok(entry) => Ok(Some(entry.header())),
            Err(StoreError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&mut self, key: ObjectKey, record: &Record) -> Result<(), StoreError> {
        self.check()?;
        if self.root.is_doomed(key) {
            // The reaper is about to remove the file by its name. Inode numbers are never used twice.
            return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
        }
        if !self.root.take_object() {
            return Err(StoreError::NoSpace { written_bytes: 0 });
        }
        self.remove(key);
        self.spare_descriptors();
        let path = self.root.path(key);
        let file = match ObjectFile::create(key.object, path.clone(), self.root.machine()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _held = self.root.make_parents(key).map_err(no_space)?;
                ObjectFile::create(key.object, path, self.root.machine())
            }
            other => other,
        };
        let mut record = record.clone();
        record.clean = false;
        self.insert(key, file.map_err(no_space)?, record, true);
        let counted = self
            .entries
            .get(&key)
            .map_or(0, |entry| entry.counted_bytes);
        let change = Change {
            bytes: difference(0, counted),
            objects: 1,
        };
        self.root.sizes().note(group_of(key), change);
        Ok(())
    }

    fn length(&mut self, key: ObjectKey) -> u64 {
        self.entry(key).map_or(0, |entry| entry.file.length_bytes())
    }

    fn write(&mut self, key: ObjectKey, offset: u64, data: &Bytes) -> Result<(), StoreError> {
        let length = data.len() as u64;
        check_end(offset, length)?;
        let root = Arc::clone(&self.root);
        let entry = self.changed(key)?;
        // A block more than the data: that of the sums.
        let blocks = blocks_of(offset, length, BLOCK_BYTES);
        let wanted = (blocks.end - blocks.start + 1) * BLOCK_BYTES;
        if !root.take_bytes(wanted) && entry.file.has_holes(blocks)? {
            return Err(StoreError::NoSpace { written_bytes: 0 });
        }
        entry.file.write(offset, data).map_err(store_error)
    }

    fn write_zeros(&mut self, key: ObjectKey, offset: u64, length: u64) -> Result<(), StoreError> {
        check_end(offset, length)?;
        let entry = self.changed(key)?;
        entry.file.write_zeros(offset, length).map_err(store_error)
    }

    fn read(&mut self, key: ObjectKey, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        let entry = self.entry(key)?;
        entry
            .file
            .read(offset, length as usize)
            .map_err(store_error)
    }

    fn mend(&mut self, key: ObjectKey, block: u64, data: &Bytes) -> Result<bool, StoreError> {
        self.check()?;
        let entry = self.entry(key)?;
        if entry.file.is_given_up() {
            return Err(StoreError::Poisoned);
        }
        // A block that is as its sum says is no change: nothing of what a record vouches for is different.
        if !entry.is_clean() {
            entry.changes += 1;
        }
        entry.file.mend(block, data).map_err(store_error)
    }

    fn accept(&mut self, key: ObjectKey, block: u64) -> Result<bool, StoreError> {
        Ok(self.changed(key)?.file.accept(block)?)
    }

    fn truncate(&mut self, key: ObjectKey, length: u64) -> Result<(), StoreError> {
        check_end(length, 0)?;
        let entry = self.changed(key)?;
        entry.file.truncate(length).map_err(store_error)
    }

    fn sums(&mut self, key: ObjectKey, first: u64, count: u32) -> Result<Vec<u32>, StoreError> {
        let entry = self.entry(key)?;
        let blocks = blocks_of(0, entry.file.length_bytes(), SUM_BYTES);
        let end = first.saturating_add(u64::from(count)).min(blocks.end);
        (first..end)
            .map(|block| Ok(entry.file.crc(block * SUM_BYTES, SUM_BYTES)?))
            .collect()
    }

    fn unfit(&mut self, key: ObjectKey, first: u64, count: u32) -> Result<Vec<u64>, StoreError> {
        // Looks at the data first, where that was not done yet.
        self.sums(key, first, count)?;
        let per = SUM_BYTES / BLOCK_BYTES;
        let end = first.saturating_add(count.into());
        let blocks = first.saturating_mul(per)..end.saturating_mul(per);
        let unfit = self.entry(key)?.file.unfit(blocks)?;
        Ok(unfit.into_iter().map(|block| block / per).collect())
    }

    fn seek(&mut self, key: ObjectKey, offset: u64, hole: bool) -> Result<Option<u64>, StoreError> {
        Ok(self.entry(key)?.file.seek(offset, hole)?)
    }

    fn sync(
        &mut self,
        key: ObjectKey,
        data: bool,
        record: &Record,
    ) -> Result<Box<dyn SyncJob>, StoreError> {
        self.check()?;
        let root = Arc::clone(&self.root);
        let path = root.path(key);
        let entry = self.entry(key)?;
        entry.count(&root, key);
        if entry.file.is_given_up() {
            return Err(StoreError::Poisoned);
        }
        // "Clean" vouches for the sums, too.
        let scope = Scope {
            data: data || (record.clean && !entry.is_clean()),
            all_sums: record.clean,
        };
        let full = record.clean && entry.file.fill();
        let unwritten = entry
            .file
            .take_unwritten(record.encode(), (scope.data, full))?;
        entry.under_way = Some(UnderWay {
            generation: unwritten.generation,
            record: record.clone(),
            changes: entry.changes,
        });
        let name = entry.unnamed.then_some(path);
        Ok(Box::new(Job::new(root, unwritten, scope, name)))
    }

    fn is_full(&mut self) -> bool {
        self.root.is_full()
    }

    fn delete(&mut self, key: ObjectKey) -> Result<(), StoreError> {
        self.remove(key);
        self.root.doom(key);
        if self.has_reaper {
            return Ok(());
        }
        Ok(self.root.reap(key)?)
    }

    fn close(&mut self, key: ObjectKey) {
        // What was not made clean is known in memory only: length and sums must stay.
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.note_job(&self.root);
        match entry.is_clean() {
            false => {
                entry.count(&self.root, key);
                if entry.file.has_descriptor() {
                    entry.file.close_descriptor();
                    self.descriptors -= 1;
                }
            }
            true => self.remove(key),
        }
    }

    fn list(
        &mut self,
        pg: PgKey,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, Header)>, StoreError> {
        let mut found = Vec::new();
        for object in self.root.names(pg)? {
            if found.len() == limit {
                break;
            }
            if after.is_some_and(|after| object <= after) {
                continue;
            }
            let key = ObjectKey { pg: pg.pg, object };
            let header = match self.entries.get_mut(&key) {
                Some(entry) => {
                    entry.note_job(&self.root);
                    Some(entry.header())
                }
                None => self.root.header(key)?,
            };
            // An object may have been deleted since its name was read.
            found.extend(header.map(|header| (object, header)));
        }
        Ok(found)
    }
}

fn check_end(offset: u64, length: u64) -> Result<(), StoreError> {
    match offset.checked_add(length) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(()),
        Some(_) | None => Err(io::Error::from_raw_os_error(libc::EFBIG).into()),
    }
}

fn no_space(error: io::Error) -> StoreError {
    if is_no_space(&error) {
        StoreError::NoSpace { written_bytes: 0 }
    } else {
        error.into()
    }
}

fn store_error(error: FileError) -> StoreError {
    match error {
        FileError::Damaged { block } => StoreError::Corrupt { block },
        FileError::Write { source, written } if is_no_space(&source) => StoreError::NoSpace {
            written_bytes: written as u64,
        },
        FileError::Write { source, .. } => source.into(),
        FileError::Io(error) => no_space(error),
    }
}
