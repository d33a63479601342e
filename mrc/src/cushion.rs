//! Room on the disk that the index alone may use when there is no other: a file that is made
//! shorter, piece by piece, when a write finds the disk full. Deleting needs new pages before it
//! frees old ones.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use crate::config::CUSHION_PIECE_BYTES;
use crate::spare::allocate;

/// The file; clones are handles of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Cushion(PathBuf);

impl Cushion {
    pub(crate) fn at(dir: &Path) -> Self {
        Self(dir.join("cushion"))
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    /// Makes it so long again.
    pub(crate) fn fill(&self, bytes: u64) -> io::Result<()> {
        if self.bytes() >= bytes {
            return Ok(());
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.0)?;
        allocate(&file, bytes)?;
        // Also where blocks can't be reserved: then it is only a name.
        file.set_len(bytes)
    }

    /// Gives a piece back to the file system; false if there is none left.
    fn give(&self) -> bool {
        let Some(shorter) = self.bytes().checked_sub(CUSHION_PIECE_BYTES) else {
            return false;
        };
        let given = OpenOptions::new()
            .write(true)
            .open(&self.0)
            .and_then(|file| {
                file.set_len(shorter)?;
                // Freed blocks are free for others when the journal says so.
                file.sync_all()
            });
        given.is_ok()
    }

    /// Does something that needs room, and again while a piece can be given for it.
    fn with_room(&self, mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        loop {
            match work() {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && self.give() => {}
                result => return result,
            }
        }
    }
}

/// The index's file, on a cushion.
#[derive(Debug)]
pub(crate) struct Cushioned {
    file: FileBackend,
    path: PathBuf,
    cushion: Cushion,
}

impl Cushioned {
    pub(crate) fn open(path: &Path, cushion: Cushion) -> Result<Self, DatabaseError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self {
            file: FileBackend::new(file)?,
            path: path.to_owned(),
            cushion,
        })
    }

    /// The failure with the file it is about.
    fn name(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

type Edge = Bound<u64>;

impl StorageBackend for Cushioned {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.cushion
            .with_room(|| self.file.set_len(len))
            .map_err(|error| self.name(&error))
    }
    /// Never repeated: pages that failed to reach the disk are marked clean.
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| self.name(&error))
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.cushion
            .with_room(|| self.file.write(offset, data))
            .map_err(|error| self.name(&error))
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_costs_pieces_of_the_cushion_until_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cushion = Cushion::at(dir.path());
        cushion.fill(3 * CUSHION_PIECE_BYTES).unwrap();
        let full = || Err(io::ErrorKind::StorageFull.into());

        let mut tries = 0;
        let succeeded = cushion.with_room(|| {
            tries += 1;
            if tries < 3 { full() } else { Ok(()) }
        });
        succeeded.unwrap();
        assert_eq!(cushion.bytes(), CUSHION_PIECE_BYTES);

        let error = cushion.with_room(full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(cushion.bytes(), 0);
        cushion.fill(CUSHION_PIECE_BYTES).unwrap();
        assert_eq!(cushion.bytes(), CUSHION_PIECE_BYTES);
    }
}
