//! One object's file while it is open: bytes, block sums, length.
//!
//! Sums live in memory and reach the file when it is synced, so a page-sized write is one system
//! call. After a crash the sums in the file may be older than the data; the object is suspect then
//! and its sums are made anew from the data, group by group, as they are needed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};
use types::{BLOCK_BYTES, ObjectId, blocks_of};

use crate::config::TABLES_MAX;
use crate::file_layout::{Group, HEADER_BYTES, file_length, object_length, pieces};
use crate::header::{Header, Slot};
use crate::sums::{Table, Tables, block_sum};

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
    generation: u64,
    /// The sums in the file can't be believed: the last run did not close the object.
    stale: bool,
}

/// What must reach the disk for one object, apart from its data.
#[derive(Debug)]
pub(crate) struct Unwritten {
    /// The object's file.
    pub(crate) file: Arc<File>,
    /// Sums, as (offset, bytes): to be written before the data is synced.
    pub(crate) sums: Vec<(u64, Vec<u8>)>,
    /// The record, as (offset, bytes): to be written after the data was synced.
    pub(crate) slot: (u64, Vec<u8>),
}

impl ObjectFile {
    /// Makes the file of an object that has none. Its directory must exist.
    pub(crate) fn create(object: ObjectId, path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)?;
        Ok(Self {
            object,
            path,
            file: Some(Arc::new(file)),
            tables: Tables::default(),
            length_bytes: 0,
            file_bytes: 0,
            generation: 0,
            stale: false,
        })
    }

    /// Opens an existing file and reads its header; none if there is no file.
    pub(crate) fn open(object: ObjectId, path: PathBuf) -> io::Result<Option<(Self, Header)>> {
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; HEADER_BYTES as usize];
        let read = read_up_to(&file, &mut bytes, 0)?;
        bytes.truncate(read);
        let header = Header::decode(object, &bytes);
        let generation = match &header {
            Header::Valid(slot) => slot.generation,
            Header::Blank | Header::Damaged => 0,
        };
        let file_bytes = file.metadata()?.len();
        let opened = Self {
            object,
            path,
            file: Some(Arc::new(file)),
            tables: Tables::default(),
            length_bytes: 0,
            file_bytes,
            generation,
            stale: false,
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
        self.stale = stale;
        self.length_bytes = self.present_length(length_bytes, !stale);
    }

    pub(crate) const fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    pub(crate) const fn has_descriptor(&self) -> bool {
        self.file.is_some()
    }

    /// Closes the descriptor; the next use opens it again.
    pub(crate) fn close_descriptor(&mut self) {
        self.file = None;
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
        let blocks = blocks_of(offset, end - offset, BLOCK_BYTES);
        let data = self.read_blocks(blocks.start, (blocks.end - blocks.start) as usize)?;
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

    /// Writes; the object grows if need be. On an error some of the bytes may have been written.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let mut sums = Vec::with_capacity(bytes.len() / BLOCK + 2);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK_BYTES) as usize;
            let take = (BLOCK - within).min(bytes.len() - done);
            let piece = bytes.get(done..done + take).unwrap_or_default();
            sums.push(self.sum_after(at, piece)?);
            done += take;
        }
        let file = self.file()?;
        let first_block = offset / BLOCK_BYTES;
        let mut written = 0;
        for (at, range) in pieces(offset, bytes.len()) {
            let piece = bytes.get(range).unwrap_or_default();
            let (count, outcome) = write_up_to(&file, piece, at);
            self.file_bytes = self.file_bytes.max(at + count as u64);
            written += count;
            if let Err(source) = outcome {
                self.length_bytes = self.length_bytes.max(offset + written as u64);
                self.forget_sums(first_block, sums.len() as u64)?;
                return Err(FileError::Write { source, written });
            }
        }
        for (block, sum) in (first_block..).zip(sums) {
            let (group, index) = Group::of_block(block);
            self.table(group)?.set(index, sum);
        }
        self.length_bytes = self.length_bytes.max(offset + bytes.len() as u64);
        Ok(())
    }

    /// Cuts or grows the object; what it grows by is a hole.
    pub(crate) fn truncate(&mut self, length_bytes: u64) -> Result<(), FileError> {
        if length_bytes < self.length_bytes {
            self.cut(length_bytes)?;
        }
        self.length_bytes = length_bytes;
        Ok(())
    }

    /// Makes a range read as zeros; whole blocks become holes. The object grows if need be.
    pub(crate) fn write_zeros(&mut self, offset: u64, length: u64) -> Result<(), FileError> {
        let end = offset.saturating_add(length);
        // Beyond the present end there is nothing but zeros already.
        let mut at = offset;
        let stop = end.min(self.length_bytes);
        while at < stop {
            let block = at / BLOCK_BYTES;
            let take = ((block + 1) * BLOCK_BYTES).min(stop) - at;
            let (group, index) = Group::of_block(block);
            if take == BLOCK_BYTES && self.sum(block)? != 0 {
                let holes = Self::hole_run(block, stop);
                self.punch(block, holes)?;
                for hole in block..block + holes {
                    let (group, index) = Group::of_block(hole);
                    self.table(group)?.set(index, 0);
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
    /// with `sums`, the sums. A record that says "closed in good order" needs all sums to be right.
    pub(crate) fn take_unwritten(
        &mut self,
        record: Vec<u8>,
        sums: bool,
        closing: bool,
    ) -> Result<Unwritten, FileError> {
        if closing && self.stale {
            self.rebuild_sums()?;
        }
        let slot = Slot {
            generation: self.generation + 1,
            record,
        };
        let encoded = slot.encode(self.object).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "record too long for its slot")
        })?;
        self.generation += 1;
        self.file_bytes = self.file_bytes.max(HEADER_BYTES);
        Ok(Unwritten {
            file: self.file()?,
            sums: if sums {
                self.tables.take_dirty()
            } else {
                Vec::new()
            },
            slot: (slot.file_offset(), encoded),
        })
    }

    /// Whole blocks from `block` on that end before `stop` and lie together in the file.
    fn hole_run(block: u64, stop: u64) -> u64 {
        let (group, _) = Group::of_block(block);
        (stop / BLOCK_BYTES).min(group.blocks().end) - block
    }

    fn punch(&mut self, first_block: u64, count: u64) -> io::Result<()> {
        let offset = file_length(first_block * BLOCK_BYTES + 1) - 1;
        let signed = |number: u64| i64::try_from(number).map_err(io::Error::other);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(
            &*self.file()?,
            flags,
            signed(offset)?,
            signed(count * BLOCK_BYTES)?,
        )
        .map_err(io::Error::from)
    }

    fn cut(&mut self, length_bytes: u64) -> Result<(), FileError> {
        let keep = (length_bytes % BLOCK_BYTES) as usize;
        if keep != 0 {
            let block_end = (length_bytes / BLOCK_BYTES + 1) * BLOCK_BYTES;
            let gone = block_end.min(self.length_bytes) - length_bytes;
            let zeros = vec![0; gone as usize];
            let sum = self.sum_after(length_bytes, &zeros)?;
            let (group, index) = Group::of_block(length_bytes / BLOCK_BYTES);
            self.table(group)?.set(index, sum);
        }
        let end = file_length(length_bytes);
        if self.file_bytes > end {
            self.file()?.set_len(end)?;
            self.file_bytes = end;
        }
        let first_gone = length_bytes.div_ceil(BLOCK_BYTES);
        let (group, index) = Group::of_block(first_gone);
        self.tables.truncate_after(group);
        // A table of nothing but holes needs no place in the file.
        match (index, group.0) {
            (0, 1..) => self.tables.truncate_after(Group(group.0 - 1)),
            _ => self.table(group)?.clear_from(index),
        }
        Ok(())
    }

    /// The sum a block will have after `new` replaced its bytes from `offset` on.
    fn sum_after(&mut self, offset: u64, new: &[u8]) -> Result<u32, FileError> {
        let within = (offset % BLOCK_BYTES) as usize;
        if new.len() == BLOCK {
            return Ok(block_sum(0, new));
        }
        let old_sum = self.sum(offset / BLOCK_BYTES)?;
        if old_sum == 0 || offset >= self.length_bytes {
            // Nothing but zeros is replaced.
            return Ok(old_sum ^ block_sum(within, new));
        }
        let mut delta = self.read_raw(offset, new.len())?;
        delta.resize(new.len(), 0);
        for (old, new) in delta.iter_mut().zip(new) {
            *old ^= new;
        }
        Ok(old_sum ^ block_sum(within, &delta))
    }

    fn sum(&mut self, block: u64) -> io::Result<u32> {
        let (group, index) = Group::of_block(block);
        Ok(self.table(group)?.get(index))
    }

    fn table(&mut self, group: Group) -> io::Result<&mut Table> {
        if self.tables.get(group).is_none() {
            self.spill()?;
            let table = self.load_table(group)?;
            self.tables.insert(group, table);
        }
        self.tables
            .get_mut(group)
            .ok_or_else(|| io::Error::other("table of sums vanished"))
    }

    fn load_table(&mut self, group: Group) -> io::Result<Table> {
        let blocks = group.blocks();
        let first_byte = file_length(blocks.start * BLOCK_BYTES + 1) - 1;
        if first_byte >= self.file_bytes {
            return Ok(Table::zeroed(group));
        }
        if self.stale {
            let data = self.read_blocks(blocks.start, group.len())?;
            return Ok(Table::of_data(group, &data));
        }
        let mut bytes = vec![0; group.len() * 4];
        read_up_to(&*self.file()?, &mut bytes, group.sums_at())?;
        Ok(Table::decode(group, &bytes))
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

    /// After a failed write: the blocks' sums are whatever the data says now.
    fn forget_sums(&mut self, first_block: u64, count: u64) -> io::Result<()> {
        for block in first_block..first_block + count {
            let data = self.read_blocks(block, 1)?;
            let (group, index) = Group::of_block(block);
            self.table(group)?.set(index, block_sum(0, &data));
        }
        Ok(())
    }

    fn rebuild_sums(&mut self) -> io::Result<()> {
        let blocks = self.length_bytes.div_ceil(BLOCK_BYTES);
        let (last, _) = Group::of_block(blocks.saturating_sub(1));
        for group in 0..=last.0 {
            self.table(Group(group))?;
        }
        self.stale = false;
        Ok(())
    }

    /// Bounds the memory of a huge object's tables: writes them out and drops them. Tables made
    /// anew from data stay, because those in the file are not to be read.
    fn spill(&mut self) -> io::Result<()> {
        if self.tables.count() < TABLES_MAX || self.stale {
            return Ok(());
        }
        let file = self.file()?;
        for (at, bytes) in self.tables.take_dirty() {
            file.write_all_at(&bytes, at)?;
            self.file_bytes = self.file_bytes.max(at + bytes.len() as u64);
        }
        self.tables = Tables::default();
        Ok(())
    }
}

/// Writes until all is written or an error; says how much was.
fn write_up_to(file: &File, bytes: &[u8], offset: u64) -> (usize, io::Result<()>) {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..)
        && !rest.is_empty()
    {
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Reads until the buffer is full or the file ends; the rest of the buffer stays as it is.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..)
        && !rest.is_empty()
    {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
