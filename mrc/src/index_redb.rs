//! The index on disk: redb, one table in one file.
//!
//! Batches commit without reaching the disk; [`Index::flush`] is a commit that does. redb keeps
//! the last flushed state whole until the next one is, so a crash at any point leaves exactly that.
//! All commits that reach the disk are in two phases: the checksums of pages rely on it.

use std::fs::File;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use mrc_core::keys;
use mrc_core::{Batch, Entries, Index, IndexError, IndexRead, Visit, Visitor};
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition,
    WriteTransaction,
};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("index");

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The index of one metadata server.
pub(crate) struct RedbIndex {
    database: Database,
    /// The newest state. Opening it costs more than reading from it, so readers share one.
    newest: RwLock<Arc<Table>>,
}

impl std::fmt::Debug for RedbIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbIndex")
    }
}

impl RedbIndex {
    /// Opens the index in a file, or makes an empty one.
    ///
    /// # Errors
    ///
    /// As [`Self::open_on`].
    #[allow(dead_code, reason = "the server puts something between index and file")]
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self, IndexError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(IndexError::engine)?;
        let file = FileBackend::new(file).map_err(IndexError::engine)?;
        Self::open_on(file, cache_bytes)
    }

    /// Opens the index in something like a file, or makes an empty one.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`]: the file is no index, of a newer version, damaged, or in use.
    pub(crate) fn open_on(
        file: impl StorageBackend,
        cache_bytes: usize,
    ) -> Result<Self, IndexError> {
        Self::of(database_on(file, cache_bytes)?)
    }

    /// Opens an index that has no checksums of ours, after redb has verified all of its own.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`]: as [`Self::open_on`]; it is read as a whole, so damage is found.
    #[allow(dead_code, reason = "not of use where engines are compared")]
    pub(crate) fn open_verified(
        file: impl StorageBackend,
        cache_bytes: usize,
    ) -> Result<Self, IndexError> {
        let mut database = database_on(file, cache_bytes)?;
        // False: repaired. What is left then is verified, too, and of the position that it names.
        let _repaired = database.check_integrity().map_err(IndexError::engine)?;
        Self::of(database)
    }

    fn of(database: Database) -> Result<Self, IndexError> {
        // Makes the table, so that a reader finds one.
        let write = begin(&database, Durability::Immediate)?;
        write.open_table(TABLE).map_err(IndexError::engine)?;
        write.commit().map_err(IndexError::engine)?;
        let newest = RwLock::new(table(&database)?);
        Ok(Self { database, newest })
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn commit(&self, write: WriteTransaction) -> Result<(), IndexError> {
        write.commit().map_err(IndexError::engine)?;
        // Opened under the lock: of two threads that commit, the one that comes second here opens
        // later and so sees both commits. Otherwise it could put back the older state.
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        *newest = table(&self.database)?;
        Ok(())
    }
}

impl IndexRead for RedbIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let value = self.table().get(key).map_err(IndexError::engine)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        if start >= end {
            return Ok(());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        for entry in self
            .table()
            .range::<&[u8]>(range)
            .map_err(IndexError::engine)?
        {
            let (key, value) = entry.map_err(IndexError::engine)?;
            if visit(key.value(), value.value()) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl Index for RedbIndex {
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let write = begin(&self.database, Durability::None)?;
        {
            let mut table = write.open_table(TABLE).map_err(IndexError::engine)?;
            for (key, change) in batch.changes() {
                match change {
                    Some(value) => table.insert(&key[..], &value[..]),
                    None => table.remove(&key[..]),
                }
                .map_err(IndexError::engine)?;
            }
        }
        self.commit(write)
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.commit(begin(&self.database, Durability::Immediate)?)
    }

    fn snapshot(&self) -> Result<Entries<'static>, IndexError> {
        let table = table(&self.database)?;
        let range = table.range::<&[u8]>(..).map_err(IndexError::engine)?;
        Ok(Box::new(range.map(|entry| {
            let (key, value) = entry.map_err(IndexError::engine)?;
            Ok((
                Bytes::copy_from_slice(key.value()),
                Bytes::copy_from_slice(value.value()),
            ))
        })))
    }

    fn install(
        &self,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
    ) -> Result<(), IndexError> {
        let write = begin(&self.database, Durability::Immediate)?;
        {
            let mut table = write.open_table(TABLE).map_err(IndexError::engine)?;
            table.remove(keys::APPLIED).map_err(IndexError::engine)?;
        }
        self.commit(write)?;

        let write = begin(&self.database, Durability::Immediate)?;
        write.delete_table(TABLE).map_err(IndexError::engine)?;
        {
            let mut table = write.open_table(TABLE).map_err(IndexError::engine)?;
            for entry in entries {
                let (key, value) = entry?;
                table
                    .insert(&key[..], &value[..])
                    .map_err(IndexError::engine)?;
            }
        }
        self.commit(write)
    }
}

fn database_on(file: impl StorageBackend, cache_bytes: usize) -> Result<Database, IndexError> {
    Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(file)
        .map_err(IndexError::engine)
}

/// Whether the engine found that its own pages make no sense.
#[allow(dead_code, reason = "not of use where engines are compared")]
pub(crate) fn is_corrupt(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(
        error.downcast_ref::<redb::StorageError>(),
        Some(redb::StorageError::Corrupted(_))
    )
}

fn begin(database: &Database, durability: Durability) -> Result<WriteTransaction, IndexError> {
    let mut write = database.begin_write().map_err(IndexError::engine)?;
    write
        .set_durability(durability)
        .map_err(IndexError::engine)?;
    if matches!(durability, Durability::Immediate) {
        // In two phases: pages are synced before the header that leads to them. And saves the
        // allocator's state, so that opening after a crash need not walk the whole file.
        write.set_quick_repair(true);
    }
    Ok(write)
}

fn table(database: &Database) -> Result<Arc<Table>, IndexError> {
    let read = database.begin_read().map_err(IndexError::engine)?;
    Ok(Arc::new(
        read.open_table(TABLE).map_err(IndexError::engine)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What readers share must never go back to an older state.
    #[test]
    fn applied_batch_is_seen_while_another_thread_flushes() {
        let dir = tempfile::tempdir().unwrap();
        let index = RedbIndex::open(&dir.path().join("index"), 1 << 20).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);

        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    index.flush().unwrap();
                }
            });
            for number in 0..20_000_u32 {
                let mut batch = Batch::new();
                batch.put("key", number.to_be_bytes().to_vec());
                index.apply(batch).unwrap();
                let found = index.get(b"key").unwrap().unwrap();
                if found[..] != number.to_be_bytes() {
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                    panic!("{number} was applied, {found:?} is read");
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn contract_redb_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut number = 0;

        mrc_core::contract::run(&mut || {
            number += 1;
            let path = dir.path().join(number.to_string());
            Box::new(RedbIndex::open(&path, 1 << 20).unwrap())
        })
        .unwrap();
        mrc_core::contract::reopen(&mut || {
            Box::new(RedbIndex::open(&dir.path().join("again"), 1 << 20).unwrap())
        })
        .unwrap();
    }
}
