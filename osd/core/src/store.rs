//! The port to where objects rest.
//!
//! All calls but those of a [`SyncJob`] are made by the thread that steps the object's replica, one
//! after the other. Changes are visible to later calls at once and stable only after a job's steps.

use std::fmt;

use bytes::Bytes;
use types::{ObjectId, PgId};

use crate::record::Record;

/// Where an object is found in a store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectKey {
    /// Its placement group; the volume is the object's.
    pub pg: PgId,
    /// The object.
    pub object: ObjectId,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in group {}", self.object, self.pg)
    }
}

/// What opening or listing says of an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Header {
    /// The newest record written; the newest *stable* one after a crash, all zero if there is none.
    pub record: Record,
    /// Present length. After a crash that of the record, or one the object had later.
    pub length_bytes: u64,
}

/// A store call that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full. Of a write, the first bytes may have been written.
    #[error("no space left in the store")]
    NoSpace {
        /// Bytes from the beginning of the range that were written.
        written_bytes: u64,
    },
    /// A block does not fit its checksum. Nothing was changed.
    #[error("block {block} is damaged at rest")]
    Corrupt {
        /// The block of [`types::BLOCK_BYTES`].
        block: u64,
    },
    /// An earlier sync failed, of the object or of the store: nobody knows what is stable, so nothing is
    /// changed any more.
    #[error("the store failed earlier and takes no changes until the server is restarted")]
    Poisoned,
    /// There is no such object.
    #[error("no such object")]
    Missing,
    /// The operating system refused.
    #[error("store: {0}")]
    Io(#[from] std::io::Error),
}

/// One durable step of an object, made by [`ObjectStore::sync`]; its steps may run on any thread
/// while the object is being read and changed.
///
/// It covers what was written before it was made. There is one job at a time per object. One that
/// fails has recorded nothing; what it was to write is left to the next.
pub trait SyncJob: Send + fmt::Debug {
    /// Whether nothing is left to [prepare](SyncJob::prepare).
    fn is_prepared(&self) -> bool {
        true
    }

    /// Does a part of what must precede the steps and may take long, for at most some milliseconds.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`] or [`StoreError::Io`], of this object only.
    fn prepare(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes the checksums and, if `sync`, makes them and the data stable. Does nothing for a job
    /// that is only about the record. What was not prepared is done first.
    ///
    /// # Errors
    ///
    /// As [`SyncJob::prepare`]; [`StoreError::NoSpace`]; any other, and the store (for want of space, the
    /// object) is poisoned then.
    fn write_data(&mut self, sync: bool) -> Result<(), StoreError>;

    /// Writes the record and, if `sync`, makes it stable. Only after the data is stable.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`]; any other, and the store or the object is poisoned then.
    fn write_record(&mut self, sync: bool) -> Result<(), StoreError>;

    /// Both steps, stable.
    ///
    /// # Errors
    ///
    /// As the steps.
    fn run(&mut self) -> Result<(), StoreError> {
        self.write_data(true)?;
        self.write_record(true)
    }
}

/// Objects at rest: sparse bytes with checksums, and one record each.
pub trait ObjectStore: Send {
    /// Opens an object; none if it does not exist.
    ///
    /// An object whose record is not clean may have been changed before a crash. The checksums of blocks
    /// that were being changed are made anew from their bytes; those of all others are kept, so that
    /// damage is noticed. If the machine itself went down, some that were being changed may count as
    /// damaged; see [`ObjectStore::accept`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; an unreadable header counts as a record of zeros.
    fn open(&mut self, key: ObjectKey) -> Result<Option<Header>, StoreError>;

    /// Makes an empty object with this record, not stable yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`], [`StoreError::Poisoned`] or [`StoreError::Io`].
    fn create(&mut self, key: ObjectKey, record: &Record) -> Result<(), StoreError>;

    /// Present length; 0 if it does not exist.
    fn length(&mut self, key: ObjectKey) -> u64;

    /// Writes bytes at an offset; what lies between the old end and the offset becomes a hole, also
    /// if there are no bytes to write.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if a block that is written partly was damaged; others as `create`.
    fn write(&mut self, key: ObjectKey, offset: u64, data: &Bytes) -> Result<(), StoreError>;

    /// Makes a range read as zeros, growing the object if it ends before the range does.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::write`].
    fn write_zeros(&mut self, key: ObjectKey, offset: u64, length: u64) -> Result<(), StoreError>;

    /// Reads and verifies; fewer bytes than asked for mean that the object ends there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] names the first bad block; [`StoreError::Missing`];
    /// [`StoreError::Io`].
    fn read(&mut self, key: ObjectKey, offset: u64, length: u32) -> Result<Bytes, StoreError>;

    /// Replaces a damaged block by these bytes if they fit its checksum at rest, and says whether they
    /// did. An adapter that can't tell takes none; then only a replica in the same state can help.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::write`].
    fn mend(&mut self, key: ObjectKey, block: u64, data: &Bytes) -> Result<bool, StoreError> {
        let _ = (key, block, data);
        Ok(false)
    }

    /// Takes a damaged block as it is, with the checksum of the bytes found, if it may be in that state
    /// because it was being changed when the machine went down; whether it was taken. An adapter whose
    /// checksums are never behind takes none.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::create`].
    fn accept(&mut self, key: ObjectKey, block: u64) -> Result<bool, StoreError> {
        let _ = (key, block);
        Ok(false)
    }

    /// Sets the length; what the object grows by is a hole.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::write`].
    fn truncate(&mut self, key: ObjectKey, length: u64) -> Result<(), StoreError>;

    /// CRC-32C of the present bytes of blocks of [`types::SUM_BYTES`], the last one up to the
    /// object's end; fewer than asked for mean that the object ends there. If the checksums at rest
    /// tell, a damaged block counts as it was before the damage: then it needs no repair where it
    /// is only compared.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] or [`StoreError::Io`].
    fn sums(&mut self, key: ObjectKey, first: u64, count: u32) -> Result<Vec<u32>, StoreError>;

    /// Those of the same blocks that hold something that is known not to fit its checksum, since the
    /// machine went down while the object was being changed; ascending, perhaps repeated.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] or [`StoreError::Io`].
    fn unfit(&mut self, key: ObjectKey, first: u64, count: u32) -> Result<Vec<u64>, StoreError> {
        let _ = (key, first, count);
        Ok(Vec::new())
    }

    /// Where data begins at or after an offset, or with `hole` a hole; none if that is not before the
    /// object's end, but an offset before it is followed by a hole there at the latest. Holes read as
    /// zeros; what is not known to be a hole counts as data.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] or [`StoreError::Io`].
    fn seek(&mut self, key: ObjectKey, offset: u64, hole: bool) -> Result<Option<u64>, StoreError>;

    /// Makes the job that records `record` and, with `data`, first makes stable all that was
    /// written so far.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`], [`StoreError::Poisoned`] or [`StoreError::Io`].
    fn sync(
        &mut self,
        key: ObjectKey,
        data: bool,
        record: &Record,
    ) -> Result<Box<dyn SyncJob>, StoreError>;

    /// Whether new data is likely to be refused for want of space.
    fn is_full(&mut self) -> bool {
        false
    }

    /// Deletes an object, also in a store that is full or poisoned; deleting an absent one is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    fn delete(&mut self, key: ObjectKey) -> Result<(), StoreError>;

    /// Releases what is kept in memory for an open object.
    fn close(&mut self, key: ObjectKey);

    /// At most `limit` objects of a placement group after `after`, ascending.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    fn list(
        &mut self,
        pg: types::PgKey,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, Header)>, StoreError>;
}
