//! One copy as it lies in its file, read past the object's shard and past the kernel's memory.
//!
//! What an object at rest is worth is in its file. Of one that is in use, blocks in the note and behind the recorded
//! length may not fit their sums there; of those nothing is said.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use bytes::Bytes;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use osd_core::{ObjectKey, Position, Record};
use types::{BLOCK_BYTES, SUM_BYTES, blocks_of};

use crate::block_set::BlockSet;
use crate::file_layout::{Group, HEADER_BYTES, pieces, place_of};
use crate::header::Header;
use crate::note::Note;
use crate::object_file::{lost_from, seek_from};
use crate::store_root::Root;
use crate::sums::{Table, block_sum, crc_of_blocks};

const BLOCK: usize = BLOCK_BYTES as usize;
/// 4 KiB blocks whose sums make one of [`SUM_BYTES`].
pub(super) const BLOCKS_PER_SUM: u64 = SUM_BYTES / BLOCK_BYTES;

/// The file, and what its header says.
#[derive(Debug)]
pub(super) struct CopyFile {
    file: File,
    /// The kernel's memory is left out.
    direct: bool,
    record: Record,
    file_bytes: u64,
    /// No record in it can be believed.
    unreadable: bool,
    /// Blocks that may not fit.
    doubted: BlockSet,
    /// The table that was used last.
    table: Option<(Group, Table)>,
    /// Bytes read so far.
    read_bytes: u64,
}

/// What was found in a run of blocks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Run {
    /// Blocks that do not fit their sums, ascending.
    pub(super) unfit: Vec<u64>,
    /// CRC-32C of the blocks of [`SUM_BYTES`], as the sums have them.
    pub(super) sums: Vec<u32>,
    /// Blocks of [`SUM_BYTES`] behind the run that are all zeros.
    pub(super) zero_blocks: u64,
}

impl CopyFile {
    /// Opens the file of an object; none if there is none.
    pub(super) fn open(root: &Root, key: ObjectKey) -> io::Result<Option<Self>> {
        if !root.holds(key) {
            return Ok(None);
        }
        let path = root.path(key);
        let mut options = OpenOptions::new();
        options.read(true);
        let opened = options.clone().custom_flags(libc::O_DIRECT).open(&path);
        let (opened, direct) = match opened {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (options.open(&path), false)
            }
            other => (other, true),
        };
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut copy = Self {
            file_bytes: file.metadata()?.len(),
            file,
            direct,
            record: Record::default(),
            unreadable: false,
            doubted: BlockSet::default(),
            table: None,
            read_bytes: 0,
        };
        copy.read_header(key)?;
        Ok(Some(copy))
    }

    fn read_header(&mut self, key: ObjectKey) -> io::Result<()> {
        let header = match self.read_at(0, HEADER_BYTES as usize) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Vec::new(),
            other => other?,
        };
        match Header::decode(key.object, &header) {
            Header::Valid(slot) => match Record::decode(&slot.record) {
                Ok(record) => {
                    if let Some(end) = lost_from(self.file_bytes, &slot, &record) {
                        self.file_bytes = end;
                    }
                    self.record = record;
                }
                Err(_) => self.unreadable = true,
            },
            Header::Blank | Header::Damaged => self.unreadable = true,
        }
        if !self.record.clean {
            let noted = Note::of_header(&header);
            self.doubted = noted.map_or_else(|| BlockSet::from(0), |note| note.blocks);
            let recorded = self.record.length_bytes.div_ceil(BLOCK_BYTES);
            self.doubted.add_all(&BlockSet::from(recorded));
        }
        Ok(())
    }

    /// The state the copy is at, unless it is being changed or can't be believed.
    pub(super) fn at_rest(&self) -> Option<Position> {
        self.record.clean.then_some(self.record.position)
    }

    /// Whether its header says nothing.
    pub(super) const fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    pub(super) const fn length_bytes(&self) -> u64 {
        self.record.length_bytes
    }

    /// Number of its blocks of [`BLOCK_BYTES`].
    pub(super) const fn blocks(&self) -> u64 {
        self.record.length_bytes.div_ceil(BLOCK_BYTES)
    }

    /// Bytes read from the disk so far.
    pub(super) const fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Whether the record is still what it was: then nobody has changed the object meanwhile, though a scrub may have
    /// repaired it.
    pub(super) fn is_still(&self, root: &Root, key: ObjectKey) -> io::Result<bool> {
        let now = Self::open(root, key)?;
        Ok(now.is_some_and(|now| now.record == self.record))
    }

    /// Reads and verifies so many blocks.
    pub(super) fn verify(&mut self, first: u64, count: u64) -> io::Result<Run> {
        let blocks = first..first.saturating_add(count).min(self.blocks());
        let unfit = match blocks.is_empty() {
            true => Vec::new(),
            false => self.unfit(blocks.clone())?,
        };
        let sums = blocks.start / BLOCKS_PER_SUM..blocks.end.div_ceil(BLOCKS_PER_SUM);
        Ok(Run {
            unfit,
            sums: self.sums(sums.start, sums.end - sums.start)?,
            zero_blocks: self.zero_blocks(sums.end)?,
        })
    }

    /// Those of some blocks that do not fit their sums. Blocks in doubt are not even read: that would have the kernel write what was changed there.
    pub(super) fn unfit(&mut self, blocks: Range<u64>) -> io::Result<Vec<u64>> {
        let mut unfit = Vec::new();
        let mut next = blocks.start;
        let doubted: Vec<_> = self.doubted.within(&blocks).collect();
        for part in doubted {
            self.add_unfit(next..part.start, &mut unfit)?;
            next = part.end;
        }
        self.add_unfit(next..blocks.end, &mut unfit)?;
        Ok(unfit)
    }

    fn add_unfit(&mut self, blocks: Range<u64>, unfit: &mut Vec<u64>) -> io::Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let data = match self.read_blocks(blocks.clone()) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => None,
            other => Some(other?),
        };
        for (index, block) in blocks.enumerate() {
            let bytes = data
                .as_ref()
                .and_then(|data| data.get(index * BLOCK..(index + 1) * BLOCK));
            let fits = match bytes {
                Some(bytes) => block_sum(0, bytes) == self.sum(block)?,
                // Read one by one, those that can be read are sound.
                None => self.block(block)?.is_some(),
            };
            if !fits {
                unfit.push(block);
            }
        }
        Ok(())
    }

    /// A block up to the object's end; none if it does not fit its sum or can't be read.
    pub(super) fn block(&mut self, block: u64) -> io::Result<Option<Bytes>> {
        self.bytes(block..block + 1)
    }

    /// Some blocks up to the object's end; none if one of them does not fit its sum or can't be read.
    pub(super) fn bytes(&mut self, blocks: Range<u64>) -> io::Result<Option<Bytes>> {
        let blocks = blocks.start..blocks.end.min(self.blocks());
        if blocks.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let data = match self.read_blocks(blocks.clone()) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
            other => other?,
        };
        for (block, bytes) in blocks.clone().zip(data.chunks(BLOCK)) {
            if block_sum(0, bytes) != self.sum(block)? {
                return Ok(None);
            }
        }
        let end = self.length_bytes().min(blocks.end * BLOCK_BYTES);
        let present = end.saturating_sub(blocks.start * BLOCK_BYTES);
        Ok(Some(Bytes::from(data).slice(..present as usize)))
    }

    /// Has the next reads of a block, whosever they are, come from the disk.
    pub(super) fn forget(&self, block: u64) -> io::Result<()> {
        self.forget_range(place_of(block * BLOCK_BYTES), BLOCK_BYTES)
    }

    fn forget_range(&self, at: u64, length: u64) -> io::Result<()> {
        let offset = |number: u64| libc::off_t::try_from(number).map_err(io::Error::other);
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(&self.file, offset(at)?, offset(length)?, advice).map_err(io::Error::from)
    }

    /// Makes stable what was written to the file.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// CRC-32C of blocks of [`SUM_BYTES`], as the sums have them; fewer if the object ends.
    pub(super) fn sums(&mut self, first: u64, count: u64) -> io::Result<Vec<u32>> {
        let all = blocks_of(0, self.length_bytes(), SUM_BYTES);
        let end = first.saturating_add(count).min(all.end);
        let mut sums = Vec::new();
        for block in first..end {
            let offset = block * SUM_BYTES;
            let length = SUM_BYTES.min(self.length_bytes() - offset);
            let parts: Vec<u32> = blocks_of(offset, length, BLOCK_BYTES)
                .map(|block| self.sum(block))
                .collect::<Result<_, _>>()?;
            sums.push(crc_of_blocks(parts.into_iter(), length as usize));
        }
        Ok(sums)
    }

    /// Blocks of [`SUM_BYTES`] from `first` on that have neither data nor sums in the file. One that has lost its data
    /// has its sum still.
    pub(super) fn zero_blocks(&mut self, first: u64) -> io::Result<u64> {
        let end = blocks_of(0, self.length_bytes(), SUM_BYTES).end;
        if first >= end {
            return Ok(0);
        }
        let (group, index) = Group::of_block(first * BLOCKS_PER_SUM);
        let next = match index {
            0 => group,
            _ => Group(group.0 + 1),
        };
        if next != group {
            let data = seek_from(&self.file, place_of(first * SUM_BYTES), false)?;
            let mut rest = group.blocks();
            rest.start = first * BLOCKS_PER_SUM;
            if data.is_some_and(|data| data < next.begins_at()) || self.has_sums(rest)? {
                return Ok(0);
            }
        }
        let zeros_end = match seek_from(&self.file, next.begins_at(), false)? {
            Some(data) => Group::of_file_offset(data).blocks().start / BLOCKS_PER_SUM,
            // What lies behind the end of a file that was cut is not known to be zeros.
            None if self.file.metadata()?.len() < self.file_bytes => {
                next.blocks().start / BLOCKS_PER_SUM
            }
            None => end,
        };
        Ok(zeros_end.min(end).saturating_sub(first))
    }

    fn has_sums(&mut self, blocks: Range<u64>) -> io::Result<bool> {
        for block in blocks {
            if self.sum(block)? != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn sum(&mut self, block: u64) -> io::Result<u32> {
        let (group, index) = Group::of_block(block);
        match &self.table {
            Some((known, table)) if *known == group => return Ok(table.get(index)),
            _ => {}
        }
        let table = self.read_table(group)?;
        let sum = table.get(index);
        self.table = Some((group, table));
        Ok(sum)
    }

    fn read_table(&mut self, group: Group) -> io::Result<Table> {
        if group.begins_at() >= self.file_bytes {
            return Ok(Table::zeroed(group));
        }
        let at = group.sums_at();
        let within = (at % BLOCK_BYTES) as usize;
        let block = match self.read_at(at - within as u64, BLOCK) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Vec::new(),
            other => other?,
        };
        Ok(Table::of_file(
            group,
            block.get(within..).unwrap_or_default(),
        ))
    }

    /// Whole blocks of data, zeros for holes and behind the end of the file.
    fn read_blocks(&mut self, blocks: Range<u64>) -> io::Result<Vec<u8>> {
        let length = (blocks.end - blocks.start) as usize * BLOCK;
        let mut data = Vec::with_capacity(length);
        for (at, range) in pieces(blocks.start * BLOCK_BYTES, length) {
            let mut piece = self.read_at(at, range.len())?;
            piece.resize(range.len(), 0);
            data.append(&mut piece);
        }
        Ok(data)
    }

    /// Reads whole blocks from a place in the file; fewer bytes if it ends.
    fn read_at(&mut self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        if !self.direct {
            self.forget_range(at, length as u64)?;
        }
        let mut buffer = vec![0; length + BLOCK];
        // Direct reads need memory at the beginning of a block.
        let start = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
        let target = buffer.get_mut(start..start + length).unwrap_or_default();
        let mut done = 0;
        while let Some(rest) = target.get_mut(done..)
            && !rest.is_empty()
        {
            match self.file.read_at(rest, at + done as u64) {
                Ok(0) => break,
                Ok(read) => {
                    done += read;
                    // The file ends within a block.
                    if !done.is_multiple_of(BLOCK) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A file system whose blocks are larger than ours.
                Err(error) if self.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                    fcntl(&self.file, FcntlArg::F_SETFL(OFlag::empty()))?;
                    self.direct = false;
                }
                Err(error) => return Err(error),
            }
        }
        self.read_bytes += done as u64;
        buffer.truncate(start + done);
        buffer.drain(..start);
        Ok(buffer)
    }
}
