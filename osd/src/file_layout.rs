//! Where everything lies in an object's file: header block, data blocks and their checksums.
//!
//! ```text
//! 0      record slot A   1536 bytes ┐
//! 1536   record slot B   1536 bytes ├ header block, 4 KiB
//! 3072   sums of group 0  256 x 4   ┘
//! 4096   data of group 0  256 blocks of 4 KiB (1 MiB)
//!        sums of group 1 1024 x 4   one block
//!        data of group 1 1024 blocks (4 MiB)
//!        …
//! ```
//!
//! A small file is thus one header block and its data, next to each other; a large one pays one
//! block of sums per 4 MiB. Blocks never written stay holes, of data and of sums alike.

use std::ops::Range;

use types::BLOCK_BYTES;

/// Bytes before the first data block.
pub(crate) const HEADER_BYTES: u64 = BLOCK_BYTES;
/// Bytes of one record slot. 1536: three 512-byte sectors, so that a torn write of one slot can't
/// touch the other even on old disks, and two slots leave 1 KiB for the first sums.
pub(crate) const SLOT_BYTES: usize = 1536;
/// Where the sums of the first group begin.
const SUMS_AT: u64 = 2 * SLOT_BYTES as u64;
/// Blocks whose sums fit behind the record slots.
const FIRST_BLOCKS: u64 = (HEADER_BYTES - SUMS_AT) / SUM_ENTRY_BYTES;
/// Blocks whose sums fill a block.
const GROUP_BLOCKS: u64 = BLOCK_BYTES / SUM_ENTRY_BYTES;
/// Bytes of one sum.
const SUM_ENTRY_BYTES: u64 = 4;

/// A run of blocks that share one table of sums.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Group(pub(crate) u64);

impl Group {
    /// The group of a data block, and the block's place in it.
    pub(crate) const fn of_block(block: u64) -> (Self, usize) {
        if block < FIRST_BLOCKS {
            return (Self(0), block as usize);
        }
        let rest = block - FIRST_BLOCKS;
        (
            Self(rest / GROUP_BLOCKS + 1),
            (rest % GROUP_BLOCKS) as usize,
        )
    }

    /// Data blocks of the group.
    pub(crate) const fn blocks(self) -> Range<u64> {
        match self.0 {
            0 => 0..FIRST_BLOCKS,
            n => {
                let first = FIRST_BLOCKS + (n - 1) * GROUP_BLOCKS;
                first..first + GROUP_BLOCKS
            }
        }
    }

    /// Number of sums in its table.
    pub(crate) const fn len(self) -> usize {
        let blocks = self.blocks();
        (blocks.end - blocks.start) as usize
    }

    /// Bytes of its table.
    pub(crate) const fn sums_bytes(self) -> usize {
        self.len() * SUM_ENTRY_BYTES as usize
    }

    /// Where its table lies in the file.
    pub(crate) const fn sums_at(self) -> u64 {
        match self.0 {
            0 => SUMS_AT,
            _ => self.data_at() - BLOCK_BYTES,
        }
    }

    /// Where its data begins in the file.
    pub(crate) const fn data_at(self) -> u64 {
        file_offset(self.blocks().start)
    }

    /// Where the first of its bytes lies in the file, be it data, sums or header.
    pub(crate) const fn begins_at(self) -> u64 {
        match self.0 {
            0 => 0,
            _ => self.sums_at(),
        }
    }

    /// The group whose data or sums lie at an offset of the file; the header is the first one's.
    pub(crate) const fn of_file_offset(offset: u64) -> Self {
        let first_end = HEADER_BYTES + FIRST_BLOCKS * BLOCK_BYTES;
        if offset < first_end {
            return Self(0);
        }
        Self((offset - first_end) / ((GROUP_BLOCKS + 1) * BLOCK_BYTES) + 1)
    }

    /// Number of groups that have bytes in a file of this length.
    pub(crate) const fn count_in(file_bytes: u64) -> u64 {
        match file_bytes {
            0 => 0,
            _ => Self::of_file_offset(file_bytes - 1).0 + 1,
        }
    }
}

/// Where a data block lies in the file.
const fn file_offset(block: u64) -> u64 {
    let (group, _) = Group::of_block(block);
    // Every group but the first has a block of sums before its data.
    HEADER_BYTES + (block + group.0) * BLOCK_BYTES
}

/// Bytes a file needs for an object of this length.
pub(crate) const fn file_length(length_bytes: u64) -> u64 {
    if length_bytes == 0 {
        return HEADER_BYTES;
    }
    let last = length_bytes - 1;
    file_offset(last / BLOCK_BYTES) + last % BLOCK_BYTES + 1
}

/// Bytes of the object that a file of this length can hold; the inverse of [`file_length`].
pub(crate) const fn object_length(file_bytes: u64) -> u64 {
    if file_bytes <= HEADER_BYTES {
        return 0;
    }
    let last = file_bytes - 1 - HEADER_BYTES;
    // Blocks of data and of sums, counted from the end of the header.
    let block = last / BLOCK_BYTES;
    let within = last % BLOCK_BYTES + 1;
    if block < FIRST_BLOCKS {
        return block * BLOCK_BYTES + within;
    }
    let group = Group((block - FIRST_BLOCKS) / (GROUP_BLOCKS + 1) + 1);
    let index = (block - FIRST_BLOCKS) % (GROUP_BLOCKS + 1);
    let first = group.blocks().start;
    match index {
        // The file ends in the group's sums.
        0 => first * BLOCK_BYTES,
        _ => (first + index - 1) * BLOCK_BYTES + within,
    }
}

/// Where a byte of the object lies in the file.
pub(crate) const fn place_of(offset_bytes: u64) -> u64 {
    file_length(offset_bytes + 1) - 1
}

/// Pieces of `[offset, offset + length)` that are contiguous in the file.
///
/// # Shape
///
/// Each item is (offset in the file, range within the piece asked for); ascending and gapless.
pub(crate) fn pieces(
    offset_bytes: u64,
    length_bytes: usize,
) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length_bytes {
            return None;
        }
        let at = offset_bytes + done as u64;
        let block = at / BLOCK_BYTES;
        let (group, _) = Group::of_block(block);
        let group_end = group.blocks().end * BLOCK_BYTES;
        let take = usize::try_from(group_end - at)
            .unwrap_or(usize::MAX)
            .min(length_bytes - done);
        let piece = (file_offset(block) + at % BLOCK_BYTES, done..done + take);
        done += take;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_all_blocks_in_order_and_tables_lie_between() {
        let mut next_block = 0;
        let mut next_byte = HEADER_BYTES;
        for n in 0..4 {
            let group = Group(n);
            assert_eq!(group.blocks().start, next_block);
            if n > 0 {
                assert_eq!(group.sums_at(), next_byte);
                next_byte += BLOCK_BYTES;
            }
            for (index, block) in group.blocks().enumerate() {
                assert_eq!(Group::of_block(block), (group, index));
                assert_eq!(file_offset(block), next_byte);
                next_byte += BLOCK_BYTES;
            }
            assert_eq!(Group::of_file_offset(group.begins_at()), group);
            assert_eq!(Group::of_file_offset(group.data_at()), group);
            assert_eq!(Group::of_file_offset(next_byte - 1), group);
            assert_eq!(Group::count_in(group.begins_at()), n);
            assert_eq!(Group::count_in(next_byte), n + 1);
            next_block = group.blocks().end;
        }
        assert_eq!(Group(0).sums_at() + 4 * Group(0).len() as u64, HEADER_BYTES);
    }

    #[test]
    fn pieces_cover_the_range_once_and_split_only_at_groups() {
        let edge = FIRST_BLOCKS * BLOCK_BYTES;

        let within: Vec<_> = pieces(10, 5000).collect();
        let across: Vec<_> = pieces(edge - 10, 30).collect();

        assert_eq!(within, [(HEADER_BYTES + 10, 0..5000)]);
        assert_eq!(
            across,
            [
                (HEADER_BYTES + edge - 10, 0..10),
                (HEADER_BYTES + edge + BLOCK_BYTES, 10..30)
            ]
        );
        assert_eq!(pieces(7, 0).count(), 0);
    }

    #[test]
    fn file_ends_with_the_last_byte_of_the_object() {
        let edge = FIRST_BLOCKS * BLOCK_BYTES;

        assert_eq!(file_length(0), HEADER_BYTES);
        assert_eq!(file_length(1), HEADER_BYTES + 1);
        assert_eq!(file_length(edge), HEADER_BYTES + edge);
        assert_eq!(file_length(edge + 1), HEADER_BYTES + edge + BLOCK_BYTES + 1);
        let group = GROUP_BLOCKS * BLOCK_BYTES;
        for length in [
            0,
            1,
            4096,
            4097,
            edge - 1,
            edge,
            edge + 1,
            edge + group,
            edge + group + 9,
        ] {
            assert_eq!(object_length(file_length(length)), length);
        }
        assert_eq!(object_length(HEADER_BYTES + edge + 5), edge);
        assert_eq!(object_length(7), 0);
    }
}
