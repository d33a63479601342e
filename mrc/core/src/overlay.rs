//! Changes not committed yet, over an index: a command reads what those before it wrote.
//!
//! The shell applies all commands of one batch of the log to one overlay and commits it as one
//! batch of the engine.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::index::{Batch, IndexError, IndexRead, Visit, Visitor};

/// Uncommitted changes, the newest of each key.
#[derive(Debug, Default)]
pub struct Overlay {
    changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl Overlay {
    /// No changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.insert(key.into(), Some(value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.insert(key.into(), None);
    }

    /// Number of keys changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// A copy of the changes as one batch, ascending by key; keys and values are shared.
    #[must_use]
    pub fn to_batch(&self) -> Batch {
        let changes = self.changes.iter();
        let mut batch = Batch::new();
        batch.extend(changes.map(|(key, change)| (key.clone(), change.clone())));
        batch
    }

    /// The changes as one batch, ascending by key.
    #[must_use]
    pub fn into_batch(self) -> Batch {
        let mut batch = Batch::new();
        batch.extend(self.changes);
        batch
    }

    /// Index and changes as one.
    #[must_use]
    pub fn over<'a>(&'a self, base: &'a dyn IndexRead) -> Layered<'a> {
        Layered {
            base,
            overlay: self,
        }
    }
}

/// An index seen through an overlay.
#[derive(Clone, Copy)]
pub struct Layered<'a> {
    base: &'a dyn IndexRead,
    overlay: &'a Overlay,
}

impl std::fmt::Debug for Layered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layered")
            .field("overlay", self.overlay)
            .finish_non_exhaustive()
    }
}

impl IndexRead for Layered<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        match self.overlay.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        if start >= end {
            return Ok(());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let mut changes = self.overlay.changes.range::<[u8], _>(range).peekable();
        let mut stopped = false;
        self.base.scan(start, end, &mut |key, value| {
            // Changes before this key come first; one of this key replaces it.
            while let Some((changed, change)) = changes.next_if(|(changed, _)| &changed[..] <= key)
            {
                if let Some(new) = change
                    && visit(changed, new) == Visit::Stop
                {
                    stopped = true;
                    return Visit::Stop;
                }
                if &changed[..] == key {
                    return Visit::Continue;
                }
            }
            if visit(key, value) == Visit::Stop {
                stopped = true;
                return Visit::Stop;
            }
            Visit::Continue
        })?;
        if stopped {
            return Ok(());
        }
        for (key, change) in changes {
            if let Some(value) = change
                && visit(key, value) == Visit::Stop
            {
                break;
            }
        }
        Ok(())
    }
}
