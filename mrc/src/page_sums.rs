//! Checksums of the index's pages: none is handed to redb that is not as redb wrote it.
//!
//! redb has checksums of its own in its tree and verifies them only when it repairs. Here each page of
//! 4096 bytes lies in the file with its CRC-32C behind it, written by the same write and synced by
//! the same sync, so no order between the two has to be kept. What a loss of power leaves of
//! writes that were not synced, pages of which sector for sector the old or the new bytes are there, may
//! have a wrong checksum; redb never reads those, if it commits in two phases: it writes to pages
//! only that its last synced header does not lead to, and syncs them before the header that does.
//! The header is written in place. It and its checksum lie in one sector, which a disk writes as a
//! whole or not at all.
//!
//! What this can't tell: a write of a whole page that the disk acknowledged, synced, and never did.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{BackendError, StorageBackend};

/// What redb reads and writes: whole pages of this, or its header at the beginning of the first.
const PAGE_BYTES: usize = 4096;
/// A CRC-32C of the page's number and its bytes.
const SUM_BYTES: usize = 4;
/// A page in the file.
const STORED_BYTES: usize = PAGE_BYTES + SUM_BYTES;
/// What redb writes to its first page: always all of it. Anything else is a redb unknown here.
const HEADER_BYTES: usize = 320;
/// Behind the header in the first page. The last digit is the format of the file.
const MARK: &[u8; 8] = b"OXFSIDX1";
/// Header, mark and checksum; less than a sector of 512 bytes.
const STORED_HEADER_BYTES: usize = HEADER_BYTES + MARK.len() + SUM_BYTES;

/// Called with a sentence about each page that can't be trusted, before the reader hears of it.
pub(crate) type Alarm = Arc<dyn Fn(&str) + Send + Sync>;

/// A page that is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{}: the page at offset {offset} is damaged: {reason}", path.display())]
pub(crate) struct Damaged {
    path: PathBuf,
    /// In the file, of the first byte of the page.
    offset: u64,
    reason: String,
}

/// Storage with checksums, on storage without.
pub(crate) struct PageSums<B> {
    inner: B,
    path: PathBuf,
    alarm: Alarm,
    /// Takes every page for whole, to see that tests notice.
    #[cfg(test)]
    pub(crate) is_blind: bool,
}

impl<B: StorageBackend> PageSums<B> {
    /// Puts checksums on the storage of the file `path`.
    pub(crate) fn new(inner: B, path: &Path, alarm: Alarm) -> Self {
        Self {
            inner,
            path: path.to_owned(),
            alarm,
            #[cfg(test)]
            is_blind: false,
        }
    }

    /// Reads from the file, and tells of it if that fails.
    fn stored(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = self.inner.read(offset, &mut bytes);
        read.map_err(|error| self.damaged(offset, format!("it can't be read ({error})")))?;
        Ok(bytes)
    }

    fn damaged(&self, offset: u64, reason: impl Into<String>) -> io::Error {
        let damaged = Damaged {
            path: self.path.clone(),
            offset,
            reason: reason.into(),
        };
        (self.alarm)(&damaged.to_string());
        io::Error::new(io::ErrorKind::InvalidData, damaged)
    }

    fn check(&self, offset: u64, is: bool) -> io::Result<()> {
        #[cfg(test)]
        if self.is_blind {
            return Ok(());
        }
        if is {
            return Ok(());
        }
        Err(self.damaged(offset, "its checksum does not match"))
    }

    fn read_header(&self, out: &mut [u8]) -> io::Result<()> {
        let stored = self.stored(0, STORED_HEADER_BYTES)?;
        let (marked, sum) = stored
            .split_last_chunk::<SUM_BYTES>()
            .ok_or_else(unexpected)?;
        let is_whole = marked.ends_with(MARK) && sum_of(0, marked) == *sum;
        self.check(0, is_whole)?;
        out.copy_from_slice(marked.get(..out.len()).ok_or_else(unexpected)?);
        Ok(())
    }

    fn write_header(&self, header: &[u8]) -> io::Result<()> {
        if header.len() != HEADER_BYTES {
            return Err(unexpected());
        }
        let mut stored = Vec::with_capacity(STORED_HEADER_BYTES);
        stored.extend_from_slice(header);
        stored.extend_from_slice(MARK);
        stored.extend_from_slice(&sum_of(0, &stored));
        self.inner.write(0, &stored)
    }
}

/// Of the page of a number: one that lies where another should is none of that number.
fn sum_of(number: u64, page: &[u8]) -> [u8; SUM_BYTES] {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), page).to_le_bytes()
}

/// Whether the file at `path` is an index without checksums, of a release before them.
///
/// # Errors
///
/// Of the file system.
#[allow(dead_code, reason = "not of use where engines are compared")]
pub(crate) fn lacks_sums(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;

    let file = std::fs::File::open(path)?;
    let mut marked = [0; STORED_HEADER_BYTES];
    match file.read_exact_at(&mut marked, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    // redb leaves that empty. A bit that rotted in a mark does not make it all zeros.
    let rest = marked.get(HEADER_BYTES..).unwrap_or_default();
    let is_whole = file.metadata()?.len().is_multiple_of(PAGE_BYTES as u64);
    Ok(is_whole && rest.iter().all(|byte| *byte == 0))
}

/// redb asks for something else than headers and pages.
fn unexpected() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the index engine reads or writes otherwise than in pages of 4096 bytes",
    )
}

/// The number of the first page of a range, and of how many it is.
fn pages(offset: u64, length: usize) -> io::Result<(u64, usize)> {
    let whole = offset.is_multiple_of(PAGE_BYTES as u64) && length.is_multiple_of(PAGE_BYTES);
    if offset == 0 || !whole {
        return Err(unexpected());
    }
    Ok((offset / PAGE_BYTES as u64, length / PAGE_BYTES))
}

const fn place(number: u64) -> u64 {
    number * STORED_BYTES as u64
}

impl<B> fmt::Debug for PageSums<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PageSums").field(&self.path).finish()
    }
}

type Edge = Bound<u64>;

impl<B: StorageBackend> StorageBackend for PageSums<B> {
    fn len(&self) -> io::Result<u64> {
        let stored = self.inner.len()?;
        if !stored.is_multiple_of(STORED_BYTES as u64) {
            return Err(self.damaged(stored, "the file ends in the middle of it"));
        }
        Ok(stored / STORED_BYTES as u64 * PAGE_BYTES as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset == 0 && out.len() <= HEADER_BYTES {
            return self.read_header(out);
        }
        let (first, count) = pages(offset, out.len())?;
        let stored = self.stored(place(first), count * STORED_BYTES)?;
        let found = stored.chunks_exact(STORED_BYTES);
        for (number, (found, out)) in (first..).zip(found.zip(out.chunks_exact_mut(PAGE_BYTES))) {
            let (page, sum) = found
                .split_last_chunk::<SUM_BYTES>()
                .ok_or_else(unexpected)?;
            self.check(place(number), sum_of(number, page) == *sum)?;
            out.copy_from_slice(page);
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        if !len.is_multiple_of(PAGE_BYTES as u64) {
            return Err(unexpected());
        }
        self.inner.set_len(place(len / PAGE_BYTES as u64))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            return self.write_header(data);
        }
        let (first, count) = pages(offset, data.len())?;
        let mut stored = Vec::with_capacity(count * STORED_BYTES);
        for (number, page) in (first..).zip(data.chunks_exact(PAGE_BYTES)) {
            stored.extend_from_slice(page);
            stored.extend_from_slice(&sum_of(number, page));
        }
        self.inner.write(place(first), &stored)
    }
    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
    fn try_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
