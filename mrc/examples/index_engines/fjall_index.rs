//! The index on fjall 3.

use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use mrc_core::{Batch, Entries, Index, IndexError, IndexRead, Visit, Visitor, keys};

/// Records removed or written at once by an install: bounds the memory of one batch.
const INSTALL_BATCH: usize = 4096;

/// An index in a directory.
pub(crate) struct FjallIndex {
    database: Database,
    entries: Keyspace,
}

impl FjallIndex {
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self, IndexError> {
        let database = Database::builder(path)
            .cache_size(cache_bytes as u64)
            .manual_journal_persist(true)
            .worker_threads(1)
            .open()
            .map_err(IndexError::engine)?;
        let entries = database
            .keyspace("index", KeyspaceCreateOptions::default)
            .map_err(IndexError::engine)?;
        Ok(Self { database, entries })
    }
}

impl IndexRead for FjallIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let value = self.entries.get(key).map_err(IndexError::engine)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        if start >= end {
            return Ok(());
        }
        for entry in self.entries.range(start..end) {
            let (key, value) = entry.into_inner().map_err(IndexError::engine)?;
            if visit(&key, &value) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl Index for FjallIndex {
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut changes = self.database.batch();
        // A batch of fjall does not let the later of two changes of a key win.
        let last: std::collections::BTreeMap<_, _> = batch.into_changes().into_iter().collect();
        for (key, change) in last {
            match change {
                Some(value) => changes.insert(&self.entries, &key[..], &value[..]),
                None => changes.remove(&self.entries, &key[..]),
            }
        }
        changes.commit().map_err(IndexError::engine)
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.database
            .persist(PersistMode::SyncAll)
            .map_err(IndexError::engine)
    }

    fn snapshot(&self) -> Result<Entries<'static>, IndexError> {
        let snapshot = self.database.snapshot();
        let all = snapshot.iter(&self.entries);
        Ok(Box::new(all.map(move |entry| {
            let _kept = &snapshot;
            let (key, value) = entry.into_inner().map_err(IndexError::engine)?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        })))
    }

    fn install(
        &self,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
    ) -> Result<(), IndexError> {
        self.entries
            .remove(keys::APPLIED)
            .map_err(IndexError::engine)?;
        self.flush()?;
        self.entries.clear().map_err(IndexError::engine)?;
        let mut position = None;
        let mut batch = self.database.batch();
        for entry in entries {
            let (key, value) = entry?;
            if key == keys::APPLIED {
                position = Some(value);
                continue;
            }
            batch.insert(&self.entries, &key[..], &value[..]);
            if batch.len() >= INSTALL_BATCH {
                let full = std::mem::replace(&mut batch, self.database.batch());
                full.commit().map_err(IndexError::engine)?;
            }
        }
        batch.commit().map_err(IndexError::engine)?;
        self.flush()?;
        if let Some(value) = position {
            self.entries
                .insert(keys::APPLIED, &value[..])
                .map_err(IndexError::engine)?;
        }
        self.flush()
    }
}
