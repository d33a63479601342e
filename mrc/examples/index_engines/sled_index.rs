//! The index on sled 0.34.
//!
//! sled has no snapshots: [`Index::snapshot`] copies everything while batches wait.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use mrc_core::{Batch, Entries, Index, IndexError, IndexRead, Visit, Visitor, keys};

/// An index in a directory.
#[derive(Debug)]
pub(crate) struct SledIndex {
    database: sled::Db,
    writing: Mutex<()>,
}

impl SledIndex {
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self, IndexError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes as u64)
            .flush_every_ms(None);
        Ok(Self {
            database: config.open().map_err(IndexError::engine)?,
            writing: Mutex::new(()),
        })
    }
}

impl IndexRead for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let value = self.database.get(key).map_err(IndexError::engine)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        if start >= end {
            return Ok(());
        }
        for entry in self.database.range(start..end) {
            let (key, value) = entry.map_err(IndexError::engine)?;
            if visit(&key, &value) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl Index for SledIndex {
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = sled::Batch::default();
        for (key, change) in batch.changes() {
            match change {
                Some(value) => changes.insert(&key[..], &value[..]),
                None => changes.remove(&key[..]),
            }
        }
        self.database
            .apply_batch(changes)
            .map_err(IndexError::engine)
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.database
            .flush()
            .map(|_| ())
            .map_err(IndexError::engine)
    }

    fn snapshot(&self) -> Result<Entries<'static>, IndexError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = self
            .database
            .iter()
            .map(|entry| {
                let (key, value) = entry.map_err(IndexError::engine)?;
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            })
            .collect();
        Ok(Box::new(all.into_iter()))
    }

    fn install(
        &self,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
    ) -> Result<(), IndexError> {
        self.database
            .remove(keys::APPLIED)
            .map_err(IndexError::engine)?;
        self.flush()?;
        self.database.clear().map_err(IndexError::engine)?;
        let mut position = None;
        for entry in entries {
            let (key, value) = entry?;
            if key == keys::APPLIED {
                position = Some(value);
            } else {
                self.database
                    .insert(&key[..], &value[..])
                    .map_err(IndexError::engine)?;
            }
        }
        self.flush()?;
        if let Some(value) = position {
            self.database
                .insert(keys::APPLIED, &value[..])
                .map_err(IndexError::engine)?;
        }
        self.flush()
    }
}
