//! One object's file while it is open: bytes, block sums, length.
//!
//! Sums live in memory and reach the file when it is synced, so a page-sized write is one system
//! call, or two for a block that is changed for the first time since the last sync: such blocks are
//! [noted](crate::note) in the header first. After a crash the sums of noted blocks may be older than
//! the data and are made anew from it, group by group, as they are needed; all others are believed.
//!
//! Whatever is written later has its place from the start: the header is written when the file is
//! made, a group's block of sums before its first data. So a full disk is noticed by a write, which can
//! say so, and not by the job that makes earlier writes stable.

mod lost;
mod seek;
mod tables;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use types::{BLOCK_BYTES, ObjectId, blocks_of};

use crate::at_rest::{AtRest, Found};
use crate::file_io::{punch, read_up_to, write_up_to};
use crate::file_layout::{Group, HEADER_BYTES, file_length, object_length, pieces};
use crate::header::{Header, Slot};
use crate::note::{MachineBoot, Note};
use crate::store_root::disk_bytes;
use crate::sums::{Tables, block_sum};
pub(crate) use lost::lost_from;
pub(crate) use seek::seek_from;

const BLOCK: usize = BLOCK_BYTES as usize;

/// Why an object's bytes could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Only the first bytes could be written.
    #[error("{source}")]
    Write { source: io::Error, written: usize },
    /// The bytes of a block do not fit its sum.
    #[error("block {block} is damaged at rest")]
    Damaged { block: u64 },
}

/// An object whose length and sums are in memory; its descriptor may be closed meanwhile.
#[derive(Debug)]
pub(crate) struct ObjectFile {
    object: ObjectId,
    path: PathBuf,
    file: Option<Arc<File>>,
    tables: Tables,
    length_bytes: u64,
    /// Length of the file itself, which ends with the last byte ever written.
    file_bytes: u64,
    rest: Arc<AtRest>,
}

/// What must reach the disk for one object, apart from its data.
#[derive(Debug)]
pub(crate) struct Unwritten {
    /// The object's file.
    pub(crate) file: Arc<File>,
    /// The sums to be written before the data is synced.
    pub(crate) rest: Arc<AtRest>,
    /// Where the record goes after the data was synced.
    pub(crate) slot_at: u64,
    /// The record.
    pub(crate) slot: Vec<u8>,
    /// Its generation.
    pub(crate) generation: u64,
}

impl ObjectFile {
    /// Makes the file of an object that has none. Its directory must exist.
    pub(crate) fn create(object: ObjectId, path: PathBuf, boot: MachineBoot) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)?;
        if let Err(error) = file.write_all_at(&[0; HEADER_BYTES as usize], 0) {
            // An empty file is an object without a header: better none.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self {
            object,
            path,
            file: Some(Arc::new(file)),
            tables: Tables::default(),
            length_bytes: 0,
            file_bytes: HEADER_BYTES,
            rest: Arc::new(AtRest::new(Found::default(), boot)),
        })
    }

    /// Opens an existing file and reads its header; none if there is no file.
    pub(crate) fn open(
        object: ObjectId,
        path: PathBuf,
        boot: MachineBoot,
    ) -> io::Result<Option<(Self, Header)>> {
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; HEADER_BYTES as usize];
        let read = read_up_to(&file, &mut bytes, 0)?;
        bytes.truncate(read);
        let header = Header::decode(object, &bytes);
        let found = match &header {
            Header::Valid(slot) => Found {
                generation: slot.generation,
                note: Note::of_header(&bytes),
            },
            Header::Blank | Header::Damaged => Found::default(),
        };
        let file_bytes = file.metadata()?.len();
        let opened = Self {
            object,
            path,
            file: Some(Arc::new(file)),
            tables: Tables::default(),
            length_bytes: 0,
            file_bytes,
            rest: Arc::new(AtRest::new(found, boot)),
        };
        Ok(Some((opened, header)))
    }

    /// Length of the object if its record says `recorded`, without taking it over.
    pub(crate) fn present_length(&self, recorded: u64, clean: bool) -> u64 {
        if clean {
            recorded
        } else {
            recorded.max(object_length(self.file_bytes))
        }
    }

    /// Takes over the length the record says. If the object was not closed in good order, its file
    /// may be longer: what was written after the record is kept, because it may be the only copy.
    pub(crate) fn settle(&mut self, length_bytes: u64, stale: bool) {
        self.rest.set_recorded(length_bytes.div_ceil(BLOCK_BYTES));
        if stale {
            self.rest.set_stale(self.file_bytes);
        }
        self.length_bytes = self.present_length(length_bytes, !stale);
    }

    pub(crate) const fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Generation of the newest record in the file.
    pub(crate) fn generation(&self) -> u64 {
        self.rest.generation()
    }

    pub(crate) const fn has_descriptor(&self) -> bool {
        self.file.is_some()
    }

    /// Closes the descriptor; the next use opens it again.
    pub(crate) fn close_descriptor(&mut self) {
        self.file = None;
    }

    /// What the file takes on the disk; none while its descriptor is closed, or if that can't be found out.
    pub(crate) fn disk_bytes(&self) -> Option<u64> {
        let metadata = self.file.as_ref()?.metadata().ok()?;
        Some(disk_bytes(&metadata))
    }

    #[cfg(test)]
    pub(crate) fn replace_descriptor(&mut self, file: File) {
        self.file = Some(Arc::new(file));
    }

    #[cfg(test)]
    pub(crate) fn tables_count(&self) -> usize {
        self.tables.count()
    }

    pub(crate) fn file(&mut self) -> io::Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let file = Arc::new(file);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Reads up to `length` bytes and checks the sum of every block touched; fewer bytes mean that
    /// the object ends.
    pub(crate) fn read(&mut self, offset: u64, length: usize) -> Result<bytes::Bytes, FileError> {
        let end = self.length_bytes.min(offset.saturating_add(length as u64));
        if offset >= end {
            return Ok(bytes::Bytes::new());
        }
        self.bound_tables()?;
        let blocks = blocks_of(offset, end - offset, BLOCK_BYTES);
        let data = self
            .read_blocks(blocks.start, (blocks.end - blocks.start) as usize)
            .map_err(|error| self.unreadable(blocks.clone(), error))?;
        for (block, bytes) in (blocks.start..).zip(data.chunks(BLOCK)) {
            if block_sum(0, bytes) != self.sum(block)? {
                return Err(FileError::Damaged { block });
            }
        }
        let skip = (offset - blocks.start * BLOCK_BYTES) as usize;
        Ok(bytes::Bytes::from(data).slice(skip..skip + (end - offset) as usize))
    }

    /// Reads without checking sums, for comparing replicas.
    pub(crate) fn read_raw(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = self.length_bytes.min(offset.saturating_add(length as u64));
        let mut data = vec![0; end.saturating_sub(offset) as usize];
        let file = self.file()?;
        for (at, range) in pieces(offset, data.len()) {
            if let Some(piece) = data.get_mut(range) {
                read_up_to(&file, piece, at)?;
            }
        }
        Ok(data)
    }

    /// Writes; the object grows if need be. On an error the first bytes may have been written.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let sums = self.sums_after(offset, bytes)?;
        self.note(blocks_of(offset, bytes.len() as u64, BLOCK_BYTES))?;
        let file = self.file()?;
        let mut written = 0;
        let mut outcome = Ok(());
        for (at, range) in pieces(offset, bytes.len()) {
            let group = Group::of_file_offset(at);
            let piece = bytes.get(range).unwrap_or_default();
            let (count, done) = match self.place(group) {
                Ok(placed) => {
                    let (count, done) = write_up_to(&file, piece, at);
                    self.file_bytes = self.file_bytes.max(at + count as u64);
                    if placed && count == 0 {
                        self.displace(group)?;
                    }
                    (count, done)
                }
                Err(error) => (0, Err(error)),
            };
            written += count;
            outcome = done;
            if outcome.is_err() {
                break;
            }
        }
        if outcome.is_ok() || written > 0 {
            self.length_bytes = self.length_bytes.max(offset + written as u64);
        }
        self.note_sums(offset, (written, bytes.len()), sums)?;
        outcome.map_err(|source| FileError::Write { source, written })
    }

    /// Cuts or grows the object; what it grows by is a hole.
    pub(crate) fn truncate(&mut self, length_bytes: u64) -> Result<(), FileError> {
        if length_bytes < self.length_bytes {
            self.bound_tables()?;
            self.cut(length_bytes)?;
        }
        self.length_bytes = length_bytes;
        Ok(())
    }

    /// Whether some of its data may be lost, since there was no space when it was to be made stable.
    pub(crate) fn is_given_up(&self) -> bool {
        self.rest.is_given_up()
    }

    /// Makes a range read as zeros; whole blocks become holes. The object grows if need be.
    pub(crate) fn write_zeros(&mut self, offset: u64, length: u64) -> Result<(), FileError> {
        let end = offset.saturating_add(length);
        // Beyond the present end there is nothing but zeros already.
        let mut at = offset;
        let stop = end.min(self.length_bytes);
        while at < stop {
            self.bound_tables()?;
            let block = at / BLOCK_BYTES;
            let take = ((block + 1) * BLOCK_BYTES).min(stop) - at;
            let (group, index) = Group::of_block(block);
            if take == BLOCK_BYTES && self.sum(block)? != 0 {
                let holes = Self::hole_run(block, stop);
                self.note(block..block + holes)?;
                self.punch(block, holes)?;
                for hole in block..block + holes {
                    self.set_sum(hole, 0)?;
                }
                at += holes * BLOCK_BYTES;
                continue;
            }
            if self.table(group)?.get(index) != 0 {
                let zeros = vec![0; take as usize];
                self.write(at, &zeros)?;
            }
            at += take;
        }
        self.length_bytes = self.length_bytes.max(end);
        Ok(())
    }

    /// Takes what must be written for the object to be as it is now after a restart: the record and,
    /// with `sums`, the sums that differ from those in the file; `full` says what [`ObjectFile::fill`] did.
    pub(crate) fn take_unwritten(
        &mut self,
        record: Vec<u8>,
        (sums, full): (bool, bool),
    ) -> io::Result<Unwritten> {
        let slot = Slot {
            generation: self.rest.generation() + 1,
            record,
            full,
        };
        let encoded = slot.encode(self.object).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "record too long for its slot")
        })?;
        let file = self.file()?;
        if sums {
            for (group, table) in self.tables.dirty() {
                self.rest.hand_over(group, table.encode());
                table.set_clean();
            }
            self.rest.job_made(self.length_bytes.div_ceil(BLOCK_BYTES));
        }
        Ok(Unwritten {
            file,
            rest: Arc::clone(&self.rest),
            slot_at: slot.file_offset(),
            slot: encoded,
            generation: slot.generation,
        })
    }

    /// Replaces a damaged block by bytes if they are what its sum is of; whether they are.
    pub(crate) fn mend(&mut self, block: u64, bytes: &[u8]) -> Result<bool, FileError> {
        let offset = block * BLOCK_BYTES;
        let present = self.length_bytes.saturating_sub(offset).min(BLOCK_BYTES);
        self.bound_tables()?;
        let fits = bytes.len() as u64 == present && block_sum(0, bytes) == self.sum(block)?;
        if fits {
            self.write(offset, bytes)?;
        }
        Ok(fits)
    }

    /// Takes a block that does not fit its sum as it is, if it may have been changed just before the
    /// machine went down; whether it was taken.
    pub(crate) fn accept(&mut self, block: u64) -> io::Result<bool> {
        if !self.rest.is_note_incomplete() || block * BLOCK_BYTES >= self.length_bytes {
            return Ok(false);
        }
        self.bound_tables()?;
        self.note(block..block + 1)?;
        let Ok(data) = self.read_blocks(block, 1) else {
            return Ok(false);
        };
        self.set_sum(block, block_sum(0, &data))?;
        Ok(true)
    }

    /// Makes sure that blocks about to be changed are noted in the file.
    fn note(&mut self, blocks: Range<u64>) -> io::Result<()> {
        let file = self.file()?;
        self.rest.note(&file, blocks)
    }

    /// Whole blocks from `block` on that end before `stop` and lie together in the file.
    fn hole_run(block: u64, stop: u64) -> u64 {
        let (group, _) = Group::of_block(block);
        (stop / BLOCK_BYTES).min(group.blocks().end) - block
    }

    fn punch(&mut self, first_block: u64, count: u64) -> io::Result<()> {
        let offset = file_length(first_block * BLOCK_BYTES + 1) - 1;
        punch(&*self.file()?, offset, count * BLOCK_BYTES)
    }

    fn cut(&mut self, length_bytes: u64) -> Result<(), FileError> {
        let first_gone = length_bytes.div_ceil(BLOCK_BYTES);
        let (group, index) = Group::of_block(first_gone);
        // A table of nothing but holes needs no place in the file.
        let first_dropped = match (index, group.0) {
            (0, 1..) => group,
            _ => Group(group.0 + 1),
        };
        let keep = (length_bytes % BLOCK_BYTES) as usize;
        let mut last_sum = None;
        if keep != 0 {
            let block = length_bytes / BLOCK_BYTES;
            let block_end = (block + 1) * BLOCK_BYTES;
            let gone = block_end.min(self.length_bytes) - length_bytes;
            let zeros = vec![0; gone as usize];
            last_sum = Some((block, self.sum_after(length_bytes, &zeros)?));
        }
        if first_dropped != group {
            // In memory before the data changes, like every table.
            self.table(group)?;
        }
        self.note(length_bytes / BLOCK_BYTES..u64::MAX)?;
        self.rest.cut(first_dropped);
        let end = file_length(length_bytes);
        if self.file_bytes > end {
            self.file()?.set_len(end)?;
            self.file_bytes = end;
        }
        if let Some((block, sum)) = last_sum {
            self.set_sum(block, sum)?;
        }
        if first_dropped != group {
            self.table(group)?.clear_from(index);
        }
        self.tables.cut(first_dropped);
        Ok(())
    }

    /// What an error of reading some blocks means: one that the disk can't read is damaged, and is made
    /// readable by writing it.
    fn unreadable(&mut self, mut blocks: Range<u64>, error: io::Error) -> FileError {
        let can_not_read = |error: &io::Error| error.raw_os_error() == Some(libc::EIO);
        if !can_not_read(&error) {
            return error.into();
        }
        let block = blocks.find(|block| {
            let read = self.read_blocks(*block, 1);
            read.is_err_and(|error| can_not_read(&error))
        });
        match block {
            Some(block) => FileError::Damaged { block },
            None => error.into(),
        }
    }

    /// Reads whole blocks, zeros for holes and after the end of the file.
    fn read_blocks(&mut self, first_block: u64, count: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; count * BLOCK];
        let file = self.file()?;
        for (at, range) in pieces(first_block * BLOCK_BYTES, data.len()) {
            if let Some(piece) = data.get_mut(range) {
                read_up_to(&file, piece, at)?;
            }
        }
        Ok(data)
    }
}
