//! The index as a map in memory: for tests, the simulator, and as the yardstick of the engines.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::index::{Batch, Entries, Index, IndexError, IndexRead, Visit, Visitor};

/// An index that a process holds in memory and loses when it ends.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    entries: RwLock<BTreeMap<Bytes, Bytes>>,
}

impl MemoryIndex {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // A panic of a visitor can't leave the map half changed: changes call no foreign code.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IndexRead for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        Ok(self.read().get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        if start >= end {
            return Ok(());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        for (key, value) in self.read().range::<[u8], _>(range) {
            if visit(key, value) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl Index for MemoryIndex {
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut entries = self.write();
        for (key, value) in batch.into_changes() {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn snapshot(&self) -> Result<Entries<'static>, IndexError> {
        // Keys and values are shared, so this costs two counters per entry and no copies.
        let entries: Vec<_> = self
            .read()
            .iter()
            .map(|(key, value)| Ok((key.clone(), value.clone())))
            .collect();
        Ok(Box::new(entries.into_iter()))
    }

    fn install(
        &self,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
    ) -> Result<(), IndexError> {
        let mut new = BTreeMap::new();
        for entry in entries {
            let (key, value) = entry?;
            new.insert(key, value);
        }
        *self.write() = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_memory_index() {
        crate::contract::run(&mut || Box::new(MemoryIndex::new())).unwrap();
    }
}
