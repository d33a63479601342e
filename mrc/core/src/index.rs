//! The flat index: one ordered space of keys behind a small port.
//!
//! The index is not the truth, the log is: [`Index::apply`] need not reach the disk before
//! [`Index::flush`], but after a crash it must hold the state after some number of whole batches,
//! in the order they were applied. The position in the log is just another key of each batch
//! ([`crate::keys::APPLIED`]), so it tells which.

use bytes::Bytes;

/// The index could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The engine failed; what was being written may or may not be there.
    #[error("index engine failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// A stored key or value cannot be what this program wrote.
    #[error(
        "index record {} is damaged: {reason}; rebuild this server's index",
        Hex(key)
    )]
    Corrupt {
        /// Key of the record.
        key: Vec<u8>,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A command of the log that a newer release wrote. Without it the index would differ from the others'.
    #[error(
        "the log has a command that this release does not know; run the newer release of the other metadata servers"
    )]
    UnknownCommand,
}

impl IndexError {
    /// Wraps an engine's own error.
    pub fn engine(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Engine(error.into())
    }
}

/// Bytes shown as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a visitor of a scan wants next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Visit {
    /// The next entry.
    Continue,
    /// No more.
    Stop,
}

/// Called with each key and value of a scan.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Visit + 'a;

/// Reading the index.
pub trait IndexRead {
    /// Returns the value of a key.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError>;

    /// Visits the entries of `[start, end)` in ascending order of their keys.
    ///
    /// The visitor must neither read nor write the index: the scan may hold its lock.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`]; entries before the failure were visited.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError>;
}

/// All entries of an index, ascending by key.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>> + Send + 'a>;

/// An ordered index that is written by one thread and read by any number.
pub trait Index: IndexRead + Send + Sync {
    /// Applies a batch: readers and a restart see all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`]; whether the batch was applied is then unknown.
    fn apply(&self, batch: Batch) -> Result<(), IndexError>;

    /// Returns once everything applied before survives a power failure.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`]; the index must then not be trusted after a restart.
    fn flush(&self) -> Result<(), IndexError>;

    /// Returns all entries as they are now; later batches do not show.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`].
    fn snapshot(&self) -> Result<Entries<'static>, IndexError>;

    /// Replaces everything by `entries`, ascending by key, and flushes.
    ///
    /// A crash or an error in between may leave any mixture, but then [`crate::keys::APPLIED`] is
    /// absent: adapters that can't do it at once remove that key first and write it last.
    ///
    /// # Errors
    ///
    /// The first error of `entries`, or [`IndexError::Engine`]; the index must then be installed
    /// again.
    fn install(
        &self,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
    ) -> Result<(), IndexError>;
}

/// Changes that are applied together; of two changes of one key the later counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    changes: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            changes: Vec::new(),
        }
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes a key; nothing happens if it is absent.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push((key.into(), None));
    }

    /// The changes in order; `None` removes.
    #[must_use]
    pub fn changes(&self) -> &[(Bytes, Option<Bytes>)] {
        &self.changes
    }

    /// The changes in order, taken.
    #[must_use]
    pub fn into_changes(self) -> Vec<(Bytes, Option<Bytes>)> {
        self.changes
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Extend<(Bytes, Option<Bytes>)> for Batch {
    fn extend<T: IntoIterator<Item = (Bytes, Option<Bytes>)>>(&mut self, changes: T) {
        self.changes.extend(changes);
    }
}
