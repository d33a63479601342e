//! Newest changes in memory, in front of the engine.
//!
//! An engine's commit costs as much for one change as for a hundred, and its flush keeps other
//! commits waiting. So a batch is applied to memory, readers see memory over engine, and what
//! gathered is handed to the engine as one commit from time to time. Nothing is less durable for
//! it: without a flush the engine promises nothing either, and the log repeats what is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use mrc_core::{Batch, Entries, Index, IndexError, IndexRead, Overlay, Visitor};

use crate::config::BUFFER_BYTES_MAX;
use crate::damage::Damage;
use crate::index_redb::is_corrupt;
use crate::log_writer::lock;

/// An engine with a buffer of changes.
pub(crate) struct BufferedIndex {
    engine: Box<dyn Index>,
    layers: RwLock<Layers>,
    /// Bytes in `layers.newest`.
    bytes: AtomicUsize,
    /// Held while changes go to the engine: they must not overtake each other.
    draining: Mutex<()>,
    /// The engine refused changes that are in no log entry to come: nothing may follow them.
    failed: AtomicBool,
    /// Told when the engine can't be read.
    damage: Damage,
}

#[derive(Default)]
struct Layers {
    newest: Overlay,
    /// On its way to the engine, which may or may not show it yet.
    leaving: Option<Arc<Overlay>>,
}

impl std::fmt::Debug for BufferedIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BufferedIndex")
    }
}

impl BufferedIndex {
    /// Tells `damage` when the engine can't be read: nobody gets an answer out of it any more.
    pub(crate) fn new(engine: Box<dyn Index>, damage: Damage) -> Self {
        Self {
            damage,
            engine,
            layers: RwLock::default(),
            bytes: AtomicUsize::new(0),
            draining: Mutex::new(()),
            failed: AtomicBool::new(false),
        }
    }

    /// Bytes that the engine has not been given.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives the engine what is buffered, as one batch.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`], and from then on always.
    pub(crate) fn drain(&self) -> Result<(), IndexError> {
        let _draining = lock(&self.draining);
        if self.failed.load(Ordering::Relaxed) {
            return Err(IndexError::engine("the index engine failed before"));
        }
        let leaving = {
            let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
            if layers.newest.is_empty() {
                return Ok(());
            }
            self.bytes.store(0, Ordering::Relaxed);
            let leaving = Arc::new(std::mem::take(&mut layers.newest));
            layers.leaving = Some(Arc::clone(&leaving));
            leaving
        };
        if let Err(error) = self.engine.apply(leaving.to_batch()) {
            self.failed.store(true, Ordering::Relaxed);
            return Err(error);
        }
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.leaving = None;
        Ok(())
    }

    fn view<T>(
        &self,
        read: impl FnOnce(&dyn IndexRead) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let engine: &dyn IndexRead = &EngineRead(&*self.engine);
        let result = match &layers.leaving {
            Some(leaving) => read(&layers.newest.over(&leaving.over(engine))),
            None => read(&layers.newest.over(engine)),
        };
        result.inspect_err(|error| tell(&self.damage, error))
    }
}

/// Of pages that are not as they were written `damage` has heard already, and of writes that failed
/// whoever wrote.
fn tell(damage: &Damage, error: &IndexError) {
    if let IndexError::Engine(cause) = error
        && is_corrupt(&**cause)
    {
        damage.found(&format!("the index can't be read: {cause}"));
    }
}

/// The engine as something that is only read.
struct EngineRead<'a>(&'a dyn Index);

impl IndexRead for EngineRead<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.0.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        self.0.scan(start, end, visit)
    }
}

impl IndexRead for BufferedIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.view(|view| view.get(key))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        self.view(|view| view.scan(start, end, visit))
    }
}

impl Index for BufferedIndex {
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut added = 0;
        {
            let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
            for (key, change) in batch.into_changes() {
                added += key.len() + change.as_ref().map_or(0, Bytes::len);
                match change {
                    Some(value) => layers.newest.put(key, value),
                    None => layers.newest.delete(key),
                }
            }
        }
        let before = self.bytes.fetch_add(added, Ordering::Relaxed);
        if before + added > BUFFER_BYTES_MAX {
            self.drain()?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.drain()?;
        self.engine.flush()
    }

    fn snapshot(&self) -> Result<Entries<'static>, IndexError> {
        self.drain()?;
        let tell_of = |damage: &Damage, error| {
            tell(damage, &error);
            error
        };
        let entries = self.engine.snapshot();
        let entries = entries.map_err(|error| tell_of(&self.damage, error))?;
        let damage = self.damage.clone();
        Ok(Box::new(entries.map(move |entry| {
            entry.map_err(|error| tell_of(&damage, error))
        })))
    }

    fn install(
        &self,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
    ) -> Result<(), IndexError> {
        let _draining = lock(&self.draining);
        *self.layers.write().unwrap_or_else(PoisonError::into_inner) = Layers::default();
        self.bytes.store(0, Ordering::Relaxed);
        self.engine.install(entries)
    }
}

#[cfg(test)]
mod tests {
    use mrc_core::{MemoryIndex, Visit};

    use super::*;
    use crate::index_redb::RedbIndex;

    #[test]
    fn contract_buffered_index() {
        mrc_core::contract::run(&mut || {
            Box::new(BufferedIndex::new(
                Box::new(MemoryIndex::new()),
                Damage::default(),
            ))
        })
        .unwrap();

        let dir = tempfile::tempdir().unwrap();
        mrc_core::contract::reopen(&mut || {
            let engine = RedbIndex::open(&dir.path().join("again"), 1 << 20).unwrap();
            Box::new(BufferedIndex::new(Box::new(engine), Damage::default()))
        })
        .unwrap();
    }

    /// What the contract sees on fresh indexes must not depend on where the changes are.
    #[test]
    fn changes_look_the_same_in_memory_on_their_way_and_in_the_engine() {
        let index = BufferedIndex::new(Box::new(MemoryIndex::new()), Damage::default());
        let put = |key: &'static str, value: &'static str| {
            let mut batch = Batch::new();
            batch.put(key, value);
            index.apply(batch).unwrap();
        };
        let all = || {
            let mut found = Vec::new();
            let mut visit = |key: &[u8], value: &[u8]| {
                found.push((key.to_vec(), value.to_vec()));
                Visit::Continue
            };
            index.scan(b"", b"z", &mut visit).unwrap();
            found
        };
        let pair = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());

        put("a", "engine");
        put("b", "engine");
        index.drain().unwrap();
        assert_eq!(index.buffered_bytes(), 0);
        put("b", "leaving");
        put("c", "leaving");
        let mut layers = index.layers.write().unwrap();
        layers.leaving = Some(Arc::new(std::mem::take(&mut layers.newest)));
        drop(layers);
        put("c", "newest");
        let mut batch = Batch::new();
        batch.delete("a");
        index.apply(batch).unwrap();

        assert_eq!(all(), [pair("b", "leaving"), pair("c", "newest")]);
        assert_eq!(index.get(b"a").unwrap(), None);
        assert_eq!(index.get(b"b").unwrap(), Some(Bytes::from("leaving")));
    }

    struct Broken;

    impl IndexRead for Broken {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, IndexError> {
            Ok(None)
        }
        fn scan(&self, _: &[u8], _: &[u8], _: &mut Visitor<'_>) -> Result<(), IndexError> {
            Ok(())
        }
    }

    impl Index for Broken {
        fn apply(&self, _: Batch) -> Result<(), IndexError> {
            Err(IndexError::engine("no space"))
        }
        fn flush(&self) -> Result<(), IndexError> {
            Ok(())
        }
        fn snapshot(&self) -> Result<Entries<'static>, IndexError> {
            Ok(Box::new(std::iter::empty()))
        }
        fn install(
            &self,
            _: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
        ) -> Result<(), IndexError> {
            Ok(())
        }
    }

    #[test]
    fn nothing_follows_changes_that_the_engine_refused() {
        let index = BufferedIndex::new(Box::new(Broken), Damage::default());
        let mut batch = Batch::new();
        batch.put("a", "1");
        index.apply(batch.clone()).unwrap();

        assert!(index.flush().is_err());
        index.apply(batch).unwrap();
        assert!(index.drain().is_err() && index.snapshot().is_err());
        assert_eq!(index.get(b"a").unwrap(), Some(Bytes::from("1")));
    }
}
