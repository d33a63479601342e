//! The sums of an object's blocks while it is open.

use std::io;
use std::ops::Range;

use types::{BLOCK_BYTES, blocks_of};

use super::{BLOCK, FileError, ObjectFile};
use crate::config::TABLES_MAX;
use crate::file_layout::Group;
use crate::sums::{Table, block_sum, crc_of_blocks};

impl ObjectFile {
    /// CRC-32C of up to `length` bytes from the block at `offset` on, as the sums have it: nothing is
    /// read, and damage does not count.
    pub(crate) fn crc(&mut self, offset: u64, length: u64) -> io::Result<u32> {
        self.bound_tables()?;
        let end = self.length_bytes.min(offset.saturating_add(length));
        let length = end.saturating_sub(offset);
        let blocks = blocks_of(offset, length, BLOCK_BYTES);
        let sums: Vec<_> = blocks
            .map(|block| self.sum(block))
            .collect::<Result<_, _>>()?;
        Ok(crc_of_blocks(sums.into_iter(), length as usize))
    }

    /// Those of some blocks that are known not to fit their sums, since the machine went down.
    pub(crate) fn unfit(&mut self, blocks: Range<u64>) -> io::Result<Vec<u64>> {
        self.bound_tables()?;
        let mut unfit = Vec::new();
        for block in self.rest.unfit(blocks) {
            match block_sum(0, &self.read_blocks(block, 1)?) == self.sum(block)? {
                true => self.rest.set_fit(block),
                false => unfit.push(block),
            }
        }
        Ok(unfit)
    }

    /// Whether any of these blocks may have no place in the file yet.
    pub(crate) fn has_holes(&mut self, blocks: Range<u64>) -> io::Result<bool> {
        self.bound_tables()?;
        for block in blocks {
            if self.sum(block)? == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The sums that blocks will have after `bytes` were written at `offset`. All their tables are in
    /// memory then, and stay there while the bytes are written.
    pub(super) fn sums_after(&mut self, offset: u64, bytes: &[u8]) -> Result<Vec<u32>, FileError> {
        self.bound_tables()?;
        let mut sums = Vec::with_capacity(bytes.len() / BLOCK + 2);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK_BYTES) as usize;
            let take = (BLOCK - within).min(bytes.len() - done);
            let piece = bytes.get(done..done + take).unwrap_or_default();
            // Also for a block that is written whole: a table made anew later would be of the new bytes.
            self.table(Group::of_block(at / BLOCK_BYTES).0)?;
            sums.push(self.sum_after(at, piece)?);
            done += take;
        }
        Ok(sums)
    }

    /// Takes over the sums of the blocks that a write reached.
    pub(super) fn note_sums(
        &mut self,
        offset: u64,
        (written, wanted): (usize, usize),
        sums: Vec<u32>,
    ) -> io::Result<()> {
        let end = offset + written as u64;
        for (block, sum) in (offset / BLOCK_BYTES..).zip(sums) {
            let whole_end = ((block + 1) * BLOCK_BYTES).min(offset + wanted as u64);
            if whole_end <= end {
                self.set_sum(block, sum)?;
            } else if block * BLOCK_BYTES < end {
                // Written in part: the sum is whatever the data says now.
                let data = self.read_blocks(block, 1)?;
                self.set_sum(block, block_sum(0, &data))?;
            }
        }
        Ok(())
    }

    /// Makes sure that a group's sums have their place in the file; whether they got it just now.
    pub(super) fn place(&mut self, group: Group) -> io::Result<bool> {
        let file = self.file()?;
        let table = self.table(group)?;
        if table.is_placed() {
            return Ok(false);
        }
        let sums = table.encode();
        self.rest.write_sums(&file, group, &sums)?;
        let table = self.table(group)?;
        table.set_placed(true);
        table.set_clean();
        Ok(true)
    }

    /// Takes the place of a group's sums back if nothing lies behind it: the length of the file would
    /// say after a crash that the object had reached there.
    pub(super) fn displace(&mut self, group: Group) -> io::Result<()> {
        if self.file_bytes <= group.sums_at() {
            self.file()?.set_len(self.file_bytes)?;
            self.table(group)?.set_placed(false);
        }
        Ok(())
    }

    /// The sum a block will have after `new` replaced its bytes from `offset` on.
    pub(super) fn sum_after(&mut self, offset: u64, new: &[u8]) -> Result<u32, FileError> {
        let within = (offset % BLOCK_BYTES) as usize;
        let block_end = offset - within as u64 + BLOCK_BYTES;
        if within == 0 && offset + new.len() as u64 >= self.length_bytes.min(block_end) {
            // Nothing of what was there is left, whatever it was.
            return Ok(block_sum(0, new));
        }
        let old_sum = self.sum(offset / BLOCK_BYTES)?;
        if old_sum == 0 || offset >= self.length_bytes {
            // Nothing but zeros is replaced.
            return Ok(old_sum ^ block_sum(within, new));
        }
        let block = offset / BLOCK_BYTES;
        let mut delta = self
            .read_raw(offset, new.len())
            .map_err(|error| self.unreadable(block..block + 1, error))?;
        delta.resize(new.len(), 0);
        for (old, new) in delta.iter_mut().zip(new) {
            *old ^= new;
        }
        Ok(old_sum ^ block_sum(within, &delta))
    }

    pub(super) fn sum(&mut self, block: u64) -> io::Result<u32> {
        let (group, index) = Group::of_block(block);
        Ok(self.table(group)?.get(index))
    }

    pub(super) fn set_sum(&mut self, block: u64, sum: u32) -> io::Result<()> {
        let (group, index) = Group::of_block(block);
        self.table(group)?.set(index, sum);
        Ok(())
    }

    pub(super) fn table(&mut self, group: Group) -> io::Result<&mut Table> {
        if self.tables.get(group).is_none() {
            // What lies after the end of the file was never written.
            let table = match group.begins_at() < self.file_bytes {
                true => {
                    let file = self.file()?;
                    match self.is_cut_before(&file, group)? {
                        true => Table::lost(group, self.blocks_within(group)),
                        false => self.rest.load(&file, group)?,
                    }
                }
                false => Table::zeroed(group),
            };
            self.tables.insert(group, table);
        }
        self.tables
            .get_mut(group)
            .ok_or_else(|| io::Error::other("table of sums vanished"))
    }

    /// Bounds the memory of a huge object's tables: once there are too many, they are written out and
    /// dropped. Not in the midst of a change, which needs those it has loaded.
    pub(super) fn bound_tables(&mut self) -> io::Result<()> {
        if self.tables.count() < TABLES_MAX {
            return Ok(());
        }
        let file = self.file()?;
        for (group, table) in self.tables.dirty() {
            self.rest.write_sums(&file, group, &table.encode())?;
            table.set_clean();
        }
        self.tables.clear();
        Ok(())
    }
}
