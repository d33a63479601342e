//! An object store in memory that can lose power.
//!
//! What is stable is kept apart from what was written since. A power failure lets each unstable
//! write survive, vanish or arrive in part, as the caller chooses; a killed process loses nothing
//! but its jobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use types::{BLOCK_BYTES, ObjectId, PgKey, SUM_BYTES, blocks_of};

use crate::memory_job::Job;
use crate::record::Record;
use crate::store::{Header, ObjectKey, ObjectStore, StoreError, SyncJob};

/// Smallest unit that is written wholly or not at all.
const SECTOR_BYTES: usize = 512;

/// The store; clones share their objects.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) objects: BTreeMap<ObjectKey, Object>,
    capacity_bytes: Option<u64>,
    pub(crate) poisoned: bool,
    pub(crate) fail_syncs: bool,
    pub(crate) forgets_sums: bool,
    pub(crate) keeps_notes: bool,
    /// Decides which notes are lost.
    draws: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    pub(crate) record: Record,
    pub(crate) stable: Option<Stable>,
    pub(crate) unstable: Vec<(u64, Change)>,
    pub(crate) last_change: u64,
    /// Blocks that do not fit their checksum, with the bytes it is of.
    pub(crate) damaged: BTreeMap<u64, Vec<u8>>,
    /// The power failed since the object was closed, so that other blocks than those that were known to be
    /// changed may not fit.
    pub(crate) is_note_incomplete: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Stable {
    pub(crate) bytes: Vec<u8>,
    pub(crate) record: Record,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { offset: usize, data: Bytes },
    Zeros { offset: usize, length: usize },
    Truncate { length: usize },
}

impl Change {
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        let end = match self {
            Self::Write { offset, data } => offset + data.len(),
            Self::Zeros { offset, length } => offset + length,
            Self::Truncate { length } => {
                bytes.resize(*length, 0);
                return;
            }
        };
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        match self {
            Self::Write { offset, data } => {
                if let Some(range) = bytes.get_mut(*offset..end) {
                    range.copy_from_slice(data);
                }
            }
            Self::Zeros { offset, .. } => {
                if let Some(range) = bytes.get_mut(*offset..end) {
                    range.fill(0);
                }
            }
            Self::Truncate { .. } => {}
        }
    }

    /// As it arrives when power fails: each sector or nothing of it.
    fn apply_torn(&self, bytes: &mut Vec<u8>, choose: &mut dyn FnMut(u64) -> u64) {
        match self {
            Self::Write { offset, data } => {
                for at in (0..data.len()).step_by(SECTOR_BYTES) {
                    if choose(2) == 0 {
                        let end = data.len().min(at + SECTOR_BYTES);
                        let sector = Self::Write {
                            offset: offset + at,
                            data: data.slice(at..end),
                        };
                        sector.apply(bytes);
                    }
                }
            }
            Self::Zeros { .. } | Self::Truncate { .. } => {
                if choose(2) == 0 {
                    self.apply(bytes);
                }
            }
        }
    }
}

pub(crate) fn to_index(number: u64) -> Result<usize, StoreError> {
    // A test that means to write farther than this has a mistake in it.
    match usize::try_from(number) {
        Ok(index) if index <= 1 << 32 => Ok(index),
        _ => Err(StoreError::Io(std::io::ErrorKind::FileTooLarge.into())),
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails: of what was not stable, `choose(n)` (any number below `n`) decides what is
    /// left. The same store is then what the next start finds.
    pub fn lose_power(&self, choose: &mut dyn FnMut(u64) -> u64) {
        let mut inner = self.inner();
        inner.poisoned = false;
        let keeps_notes = inner.keeps_notes;
        let mut draws = inner.draws;
        let objects = std::mem::take(&mut inner.objects);
        for (key, mut object) in objects {
            let Some(before) = object.stable.take() else {
                if choose(2) == 0 {
                    // The file is there, but nothing in it can be believed.
                    let nothing = Object::default();
                    let stable = Stable::default();
                    let after = nothing.after_crash(&stable, stable.clone(), &mut || false);
                    inner.objects.insert(key, after);
                }
                continue;
            };
            let mut stable = before.clone();
            for (_, change) in &object.unstable {
                match choose(3) {
                    0 => change.apply(&mut stable.bytes),
                    1 => change.apply_torn(&mut stable.bytes, choose),
                    _ => {}
                }
            }
            let mut loses_note = || {
                draws = draws
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                !keeps_notes && draws >> 62 == 0
            };
            let after = object.after_crash(&before, stable, &mut loses_note);
            inner.objects.insert(key, after);
        }
        inner.draws = draws;
    }

    /// The process is killed: all that was written is still there.
    pub fn restart(&self) {
        self.inner().poisoned = false;
    }

    /// Limits the bytes of all objects together.
    pub fn limit(&self, capacity_bytes: Option<u64>) {
        self.inner().capacity_bytes = capacity_bytes;
    }

    /// Lets every sync fail from now on.
    pub fn fail_syncs(&self) {
        self.inner().fail_syncs = true;
    }

    /// The record that a loss of power would leave.
    #[must_use]
    pub fn stable_record(&self, key: ObjectKey) -> Option<Record> {
        let inner = self.inner();
        let stable = inner.objects.get(&key)?.stable.as_ref()?;
        Some(stable.record.clone())
    }

    /// The bytes of an object as they are, unverified.
    #[must_use]
    pub fn bytes(&self, key: ObjectKey) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.objects.get(&key).map(|object| object.bytes.clone())
    }
}

impl Inner {
    fn object(&mut self, key: ObjectKey) -> Result<&mut Object, StoreError> {
        self.objects.get_mut(&key).ok_or(StoreError::Missing)
    }

    pub(crate) fn changeable(&mut self, key: ObjectKey) -> Result<&mut Object, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        self.object(key)
    }

    /// Bytes that may still be added to an object of this length.
    fn room(&self, end: u64, length: u64) -> u64 {
        let Some(capacity) = self.capacity_bytes else {
            return u64::MAX;
        };
        let used: u64 = self
            .objects
            .values()
            .map(|object| object.bytes.len() as u64)
            .sum();
        let wanted = end.saturating_sub(length);
        match used + wanted <= capacity {
            true => u64::MAX,
            false => capacity.saturating_sub(used),
        }
    }
}

impl Object {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.bytes);
        self.last_change += 1;
        self.unstable.push((self.last_change, change));
    }

    /// A block that is replaced only in part must be sound.
    fn check_overwrite(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        let object_end = self.bytes.len() as u64;
        let end = offset + length;
        for block in blocks_of(offset, length, BLOCK_BYTES) {
            let start = block * BLOCK_BYTES;
            let present_end = (start + BLOCK_BYTES).min(object_end);
            let whole = offset <= start && present_end <= end;
            if !whole && self.damaged.contains_key(&block) {
                return Err(StoreError::Corrupt { block });
            }
        }
        for block in blocks_of(offset, length, BLOCK_BYTES) {
            self.damaged.remove(&block);
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, offset: u64, data: &Bytes) -> Result<(), StoreError> {
        if data.is_empty() && offset <= self.bytes.len() as u64 {
            return Ok(());
        }
        self.check_overwrite(offset, data.len() as u64)?;
        let change = Change::Write {
            offset: to_index(offset)?,
            data: data.clone(),
        };
        to_index(offset + data.len() as u64)?;
        self.change(change);
        Ok(())
    }
}

impl ObjectStore for MemoryStore {
    fn open(&mut self, key: ObjectKey) -> Result<Option<Header>, StoreError> {
        let mut inner = self.inner();
        let forgets_sums = inner.forgets_sums;
        Ok(inner.objects.get_mut(&key).map(|object| {
            if !object.record.clean && forgets_sums {
                object.damaged.clear();
            }
            Header {
                record: object.record.clone(),
                length_bytes: object.bytes.len() as u64,
            }
        }))
    }

    fn create(&mut self, key: ObjectKey, record: &Record) -> Result<(), StoreError> {
        let mut inner = self.inner();
        if inner.poisoned {
            return Err(StoreError::Poisoned);
        }
        let object = Object {
            record: record.clone(),
            ..Object::default()
        };
        inner.objects.insert(key, object);
        Ok(())
    }

    fn length(&mut self, key: ObjectKey) -> u64 {
        let mut inner = self.inner();
        inner
            .object(key)
            .map_or(0, |object| object.bytes.len() as u64)
    }

    fn write(&mut self, key: ObjectKey, offset: u64, data: &Bytes) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let length = inner.changeable(key)?.bytes.len() as u64;
        let end = offset + data.len() as u64;
        let room = inner.room(end, length);
        let object = inner.object(key)?;
        if room == u64::MAX {
            return object.write(offset, data);
        }
        let written_bytes = match offset <= length {
            true => (length - offset + room).min(data.len() as u64),
            false => 0,
        };
        if written_bytes > 0 {
            object.write(offset, &data.slice(..to_index(written_bytes)?))?;
        }
        Err(StoreError::NoSpace { written_bytes })
    }

    fn write_zeros(&mut self, key: ObjectKey, offset: u64, length: u64) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let object = inner.changeable(key)?;
        if length == 0 {
            return Ok(());
        }
        object.check_overwrite(offset, length)?;
        to_index(offset + length)?;
        object.change(Change::Zeros {
            offset: to_index(offset)?,
            length: to_index(length)?,
        });
        Ok(())
    }

    fn read(&mut self, key: ObjectKey, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        let mut inner = self.inner();
        let object = inner.object(key)?;
        let end = offset
            .saturating_add(length.into())
            .min(object.bytes.len() as u64);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let blocks = blocks_of(offset, end - offset, BLOCK_BYTES);
        if let Some((block, _)) = object.damaged.range(blocks).next() {
            return Err(StoreError::Corrupt { block: *block });
        }
        let range = to_index(offset)?..to_index(end)?;
        Ok(Bytes::copy_from_slice(
            object.bytes.get(range).unwrap_or_default(),
        ))
    }

    fn mend(&mut self, key: ObjectKey, block: u64, data: &Bytes) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        inner.changeable(key)?.mend(block, data)
    }

    fn accept(&mut self, key: ObjectKey, block: u64) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        inner.changeable(key)?.accept(block)
    }

    fn truncate(&mut self, key: ObjectKey, length: u64) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let object = inner.changeable(key)?;
        object
            .damaged
            .retain(|block, _| block * BLOCK_BYTES < length);
        if let Some(sound) = object.damaged.get_mut(&(length / BLOCK_BYTES)) {
            // What is left of the block is as damaged as before, or its end was.
            sound.truncate((length % BLOCK_BYTES) as usize);
        }
        let length = to_index(length)?;
        object.change(Change::Truncate { length });
        Ok(())
    }

    fn sums(&mut self, key: ObjectKey, first: u64, count: u32) -> Result<Vec<u32>, StoreError> {
        let mut inner = self.inner();
        let object = inner.object(key)?;
        let start = to_index(first.saturating_mul(SUM_BYTES)).unwrap_or(usize::MAX);
        // The sums are those of the bytes as they were before they rotted.
        let bytes = object.sound_bytes();
        let bytes = bytes.get(start..).unwrap_or_default();
        let blocks = bytes.chunks(SUM_BYTES as usize).take(count as usize);
        Ok(blocks.map(crc32c::crc32c).collect())
    }

    fn unfit(&mut self, key: ObjectKey, first: u64, count: u32) -> Result<Vec<u64>, StoreError> {
        let mut inner = self.inner();
        let object = inner.object(key)?;
        let damaged = object.damaged.keys().filter(|_| object.is_note_incomplete);
        let blocks = damaged.map(|block| block * BLOCK_BYTES / SUM_BYTES);
        Ok(blocks
            .filter(|block| (first..first + u64::from(count)).contains(block))
            .collect())
    }

    fn seek(&mut self, key: ObjectKey, offset: u64, hole: bool) -> Result<Option<u64>, StoreError> {
        let mut inner = self.inner();
        let object = inner.object(key)?;
        let length = object.bytes.len() as u64;
        if offset >= length {
            return Ok(None);
        }
        for block in blocks_of(offset, length - offset, BLOCK_BYTES) {
            let start = to_index(block * BLOCK_BYTES)?;
            let end = object.bytes.len().min(start + BLOCK_BYTES as usize);
            let bytes = object.bytes.get(start..end).unwrap_or_default();
            // Damage makes no holes.
            let zeros = !object.damaged.contains_key(&block) && bytes.iter().all(|byte| *byte == 0);
            if zeros == hole {
                return Ok(Some(offset.max(block * BLOCK_BYTES)));
            }
        }
        Ok(hole.then_some(length))
    }

    fn sync(
        &mut self,
        key: ObjectKey,
        data: bool,
        record: &Record,
    ) -> Result<Box<dyn SyncJob>, StoreError> {
        let mut inner = self.inner();
        let upto = inner.changeable(key)?.last_change;
        Ok(Box::new(Job {
            store: self.clone(),
            key,
            upto: data.then_some(upto),
            record: record.clone(),
        }))
    }

    fn is_full(&mut self) -> bool {
        self.inner().room(1, 0) != u64::MAX
    }

    fn delete(&mut self, key: ObjectKey) -> Result<(), StoreError> {
        self.inner().objects.remove(&key);
        Ok(())
    }

    fn close(&mut self, _: ObjectKey) {}

    fn list(
        &mut self,
        pg: PgKey,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, Header)>, StoreError> {
        let inner = self.inner();
        let objects = inner.objects.iter().filter(|(key, _)| {
            key.pg == pg.pg
                && key.object.volume == pg.volume
                && after.is_none_or(|after| key.object > after)
        });
        let lines = objects.map(|(key, object)| {
            let header = Header {
                record: object.record.clone(),
                length_bytes: object.bytes.len() as u64,
            };
            (key.object, header)
        });
        Ok(lines.take(limit).collect())
    }
}
