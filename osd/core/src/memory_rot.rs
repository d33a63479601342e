//! Damage at rest in the store in memory, and which blocks a crash may leave with checksums that are not
//! those of their bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use types::{BLOCK_BYTES, blocks_of};

use crate::memory::{Change, MemoryStore, Object, Stable, to_index};
use crate::store::{ObjectKey, StoreError};

/// The bit that rots.
const ROT: u8 = 0x10;

impl MemoryStore {
    /// Flips a bit of a block at rest, or flips it back; false if there is no such block.
    pub fn damage(&self, key: ObjectKey, block: u64) -> bool {
        let mut inner = self.inner();
        let Some(object) = inner.objects.get_mut(&key) else {
            return false;
        };
        let sound = object.block(block).to_vec();
        let at = to_index(block * BLOCK_BYTES).unwrap_or(usize::MAX);
        let Some(byte) = object.bytes.get_mut(at) else {
            return false;
        };
        *byte ^= ROT;
        if object.damaged.remove(&block).is_none() {
            object.damaged.insert(block, sound);
        }
        true
    }

    /// Whether a block was changed since it was last made stable: its checksum would be made anew.
    #[must_use]
    pub fn is_being_changed(&self, key: ObjectKey, block: u64) -> bool {
        let inner = self.inner();
        let object = inner.objects.get(&key);
        object.is_some_and(|object| object.being_changed().contains(&block))
    }

    /// The bytes of an object as their checksums have them.
    #[must_use]
    pub fn sound_bytes(&self, key: ObjectKey) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.objects.get(&key).map(Object::sound_bytes)
    }

    /// From now on all checksums of an object that was not closed are made anew from its bytes.
    pub fn forget_sums(&self) {
        self.inner().forgets_sums = true;
    }

    /// From now on it is always known after a loss of power which blocks were being changed.
    pub fn keep_notes(&self) {
        self.inner().keeps_notes = true;
    }
}

impl Object {
    /// The present bytes of a block.
    pub(crate) fn block(&self, block: u64) -> &[u8] {
        let start = to_index(block * BLOCK_BYTES).unwrap_or(usize::MAX);
        let end = self
            .bytes
            .len()
            .min(start.saturating_add(BLOCK_BYTES as usize));
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The bytes a damaged block's checksum is of, if it is damaged.
    pub(crate) fn sound(&self, block: u64) -> Option<Vec<u8>> {
        let mut sound = self.damaged.get(&block)?.clone();
        // It may be that the object grew within the block.
        sound.resize(self.block(block).len(), 0);
        Some(sound)
    }

    /// All bytes as they were before any rotted.
    pub(crate) fn sound_bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for block in self.damaged.keys() {
            let sound = self.sound(*block).unwrap_or_default();
            let start = to_index(block * BLOCK_BYTES).unwrap_or(usize::MAX);
            if let Some(bytes) = bytes.get_mut(start..start.saturating_add(sound.len())) {
                bytes.copy_from_slice(&sound);
            }
        }
        bytes
    }

    fn being_changed(&self) -> BTreeSet<u64> {
        let length = self.bytes.len();
        let touched = |(_, change): &(u64, Change)| {
            let (start, end) = match change {
                Change::Write { offset, data } => (*offset, offset + data.len()),
                Change::Zeros { offset, length } => (*offset, offset + length),
                Change::Truncate { length: cut } => (*cut, length.max(*cut)),
            };
            blocks_of(start as u64, (end - start) as u64, BLOCK_BYTES)
        };
        self.unstable.iter().flat_map(touched).collect()
    }

    /// What is left of it when its server dies and `stable` is what the disk has. Of blocks that were being
    /// changed, some may have lost their note, so that their checksum is from before.
    pub(crate) fn after_crash(
        &self,
        before: &Stable,
        stable: Stable,
        loses_note: &mut dyn FnMut() -> bool,
    ) -> Self {
        let clean = stable.record.clean;
        let mut after = Self {
            bytes: stable.bytes.clone(),
            record: stable.record.clone(),
            stable: Some(stable),
            is_note_incomplete: !clean,
            ..Self::default()
        };
        let changed = self.being_changed();
        for (block, sound) in &self.damaged {
            let found = self.block(*block);
            let start = to_index(block * BLOCK_BYTES).unwrap_or(usize::MAX);
            let at_rest = !changed.contains(block) && after.block(*block).len() == found.len();
            if at_rest && let Some(bytes) = after.bytes.get_mut(start..start + found.len()) {
                bytes.copy_from_slice(found);
                after.damaged.insert(*block, sound.clone());
            }
        }
        let before = Self {
            bytes: before.bytes.clone(),
            ..Self::default()
        };
        for block in changed {
            let (old, new) = (before.block(block), after.block(block));
            if !clean && old.len() == new.len() && old != new && loses_note() {
                after.damaged.insert(block, old.to_vec());
            }
        }
        after
    }

    pub(crate) fn mend(&mut self, block: u64, data: &Bytes) -> Result<bool, StoreError> {
        let sound = self
            .sound(block)
            .unwrap_or_else(|| self.block(block).to_vec());
        let fits = sound == data[..];
        if fits {
            self.write(block * BLOCK_BYTES, data)?;
        }
        Ok(fits)
    }

    pub(crate) fn accept(&mut self, block: u64) -> Result<bool, StoreError> {
        if !self.is_note_incomplete || self.damaged.remove(&block).is_none() {
            return Ok(false);
        }
        let data = Bytes::copy_from_slice(self.block(block));
        self.write(block * BLOCK_BYTES, &data)?;
        Ok(true)
    }
}
