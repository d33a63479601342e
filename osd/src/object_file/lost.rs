//! Files that were cut: what is missing must not look like zeros that were written.
//!
//! Objects that grow without data have files that are as short as before, and blocks behind the end of a file read
//! as zeros, sums included. So before a record says "clean", the file gets the length that belongs to the object's,
//! and the record says so. One that is shorter later was cut, and the blocks whose sums went with it count as damaged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use osd_core::Record;
use types::BLOCK_BYTES;

use super::ObjectFile;
use crate::file_layout::{Group, file_length};
use crate::header::{Header, Slot};
use crate::sums::Table;

/// Length of an object up to which its file is made as long. 1 TiB: every file system has files that long; of a
/// sparse object that ends further behind, a file that was cut there is noticed by comparing replicas only.
const FULL_BYTES_MAX: u64 = 1 << 40;

fn full_length(length_bytes: u64) -> u64 {
    file_length(length_bytes.min(FULL_BYTES_MAX))
}

/// The length a file should have that was cut; none if it was not, as far as its header can tell.
pub(crate) fn lost_from(file_bytes: u64, slot: &Slot, record: &Record) -> Option<u64> {
    let full = full_length(record.length_bytes);
    (slot.full && record.clean && file_bytes < full).then_some(full)
}

impl ObjectFile {
    /// Makes the file as long as its object; whether it is. Takes no space.
    pub(crate) fn fill(&mut self) -> bool {
        let full = full_length(self.length_bytes);
        if self.file_bytes < full {
            match self.file().and_then(|file| file.set_len(full)) {
                Ok(()) => self.file_bytes = full,
                // The record does not claim it then.
                Err(_) => return false,
            }
        }
        true
    }

    /// If the file was cut, has the blocks that are missing count as damaged from now on. From the first on, so that
    /// what is not done yet when the server dies lies behind the end of the file still.
    pub(crate) fn note_lost(&mut self, header: &Header, record: &Record) -> io::Result<()> {
        let Header::Valid(slot) = header else {
            return Ok(());
        };
        let Some(full) = lost_from(self.file_bytes, slot, record) else {
            return Ok(());
        };
        tracing::error!(
            file = %self.path.display(), found = self.file_bytes, expected = full,
            "the file of an object was cut; what is missing is taken from other replicas"
        );
        let file = self.file()?;
        for group in (0..Group::count_in(full)).map(Group) {
            let table_end = group.sums_at() + group.sums_bytes() as u64;
            if table_end > self.file_bytes {
                let table = Table::lost(group, self.blocks_within(group));
                file.write_all_at(&table.encode(), group.sums_at())?;
            }
        }
        file.set_len(full)?;
        self.file_bytes = full;
        Ok(())
    }

    /// Whether the file was cut while it is open, so that a group's table is missing.
    pub(super) fn is_cut_before(&self, file: &File, group: Group) -> io::Result<bool> {
        let present = file.metadata()?.len();
        let table_end = group.sums_at() + group.sums_bytes() as u64;
        Ok(present < self.file_bytes && present < table_end)
    }

    /// Number of a group's blocks that the object has.
    pub(super) fn blocks_within(&self, group: Group) -> usize {
        let blocks = group.blocks();
        let end = self.length_bytes.div_ceil(BLOCK_BYTES).min(blocks.end);
        end.saturating_sub(blocks.start) as usize
    }
}
