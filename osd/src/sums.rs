//! Checksums of an object's 4 KiB blocks: tables in memory while the object is open.
//!
//! The sum of a block is its CRC-32C (RFC 3720, appendix B.4) combined by exclusive or with that of
//! a block of zeros. That makes a hole's sum 0, so holes in the file are right as they are, and it
//! makes the sum linear: `sum(a ^ b) = sum(a) ^ sum(b)`. A partial overwrite needs only the bytes it
//! replaces, an append nothing at all; and a block that had rotted before stays detectably wrong.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use types::BLOCK_BYTES;

use crate::file_layout::Group;

const BLOCK: usize = BLOCK_BYTES as usize;
static ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];
static ZERO_CRC: LazyLock<u32> = LazyLock::new(|| crc32c::crc32c(&ZERO_BLOCK));

/// Stands for the sum of a block of which nothing is known but that it was there: zeros, which are found in its place,
/// have the sum 0.
const LOST_SUM: u32 = u32::from_le_bytes(*b"LOST");

/// Sum of a block that holds `bytes` from `at` on and zeros elsewhere.
pub(crate) fn block_sum(at: usize, bytes: &[u8]) -> u32 {
    let before = ZERO_BLOCK.get(..at).unwrap_or_default();
    let after = ZERO_BLOCK.get(at + bytes.len()..).unwrap_or_default();
    let mut crc = crc32c::crc32c(before);
    crc = crc32c::crc32c_append(crc, bytes);
    crc32c::crc32c_append(crc, after) ^ *ZERO_CRC
}

/// CRC-32C of `length` bytes whose blocks have these sums; the last block may be a part of one.
pub(crate) fn crc_of_blocks(sums: impl Iterator<Item = u32>, length: usize) -> u32 {
    let whole = sums.fold(0, |crc, sum| after_block(crc) ^ sum ^ *ZERO_CRC);
    let missing = length.next_multiple_of(BLOCK) - length;
    if missing == 0 {
        return whole;
    }
    // The sum counts zeros after the end. Taking them away is adding as many as make the full circle.
    let zeros = crc32c::crc32c(ZERO_BLOCK.get(..missing).unwrap_or_default());
    crc32c::crc32c_combine(whole ^ zeros, 0, CRC_PERIOD_BYTES - missing)
}

/// So many zeros leave any CRC-32C register as it was: the order of its polynomial.
const CRC_PERIOD_BYTES: usize = (1 << 31) - 1;

/// What a CRC-32C becomes by a block of zeros, for each value of each of its bytes.
static AFTER_BLOCK: LazyLock<[[u32; 256]; 4]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        let bits: [u32; 8] =
            std::array::from_fn(|bit| crc32c::crc32c_combine(1 << (8 * byte + bit), 0, BLOCK));
        std::array::from_fn(|value| {
            let set = bits
                .iter()
                .enumerate()
                .filter(|(bit, _)| value >> bit & 1 == 1);
            set.fold(0, |sum, (_, bit)| sum ^ bit)
        })
    })
});

fn after_block(crc: u32) -> u32 {
    let bytes = AFTER_BLOCK.iter().zip(crc.to_le_bytes());
    bytes.fold(0, |sum, (table, byte)| {
        sum ^ table.get(usize::from(byte)).copied().unwrap_or_default()
    })
}

/// Sums of one group of blocks.
#[derive(Debug)]
pub(crate) struct Table {
    sums: Box<[u32]>,
    /// Differs from the file's.
    dirty: bool,
    /// Has its place in the file for certain, so that it can be written on a full disk.
    placed: bool,
}

impl Table {
    /// Of blocks that are all holes.
    pub(crate) fn zeroed(group: Group) -> Self {
        Self {
            sums: vec![0; group.len()].into(),
            dirty: false,
            // The first table lies in the header.
            placed: group.0 == 0,
        }
    }

    /// As stored.
    pub(crate) fn decode(group: Group, bytes: &[u8]) -> Self {
        let mut table = Self::zeroed(group);
        for (sum, bytes) in table.sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *sum = u32::from_le_bytes(*bytes);
            table.placed |= *sum != 0;
        }
        table
    }

    /// As far as a file had it that ends too early: what is missing fits no zeros.
    pub(crate) fn of_file(group: Group, bytes: &[u8]) -> Self {
        let mut table = Self::decode(group, bytes);
        let known = bytes.len() / 4;
        for sum in table.sums.iter_mut().skip(known) {
            *sum = LOST_SUM;
        }
        table
    }

    /// Of blocks that are lost up to this index, table and all.
    pub(crate) fn lost(group: Group, end: usize) -> Self {
        let mut table = Self::zeroed(group);
        for index in 0..end {
            table.set(index, LOST_SUM);
        }
        table
    }

    /// Sets the sums of blocks from `index` on from their data, and returns the index after them.
    pub(crate) fn set_from_data(&mut self, index: usize, data: &[u8]) -> usize {
        let mut next = index;
        for block in data.chunks(BLOCK) {
            self.set(next, block_sum(0, block));
            next += 1;
        }
        next
    }

    pub(crate) const fn is_placed(&self) -> bool {
        self.placed
    }

    pub(crate) const fn set_placed(&mut self, placed: bool) {
        self.placed = placed;
    }

    pub(crate) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Takes note that the file has it, or soon will.
    pub(crate) const fn set_clean(&mut self) {
        self.dirty = false;
    }

    pub(crate) fn get(&self, index: usize) -> u32 {
        self.sums.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, index: usize, sum: u32) {
        if let Some(old) = self.sums.get_mut(index)
            && *old != sum
        {
            *old = sum;
            self.dirty = true;
        }
    }

    /// Forgets the sums from `index` on, whose blocks became holes.
    pub(crate) fn clear_from(&mut self, index: usize) {
        self.clear(index..self.sums.len());
    }

    /// Forgets sums of blocks that are holes.
    pub(crate) fn clear(&mut self, indexes: Range<usize>) {
        for at in indexes {
            self.set(at, 0);
        }
    }

    /// As stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
    }
}

/// The tables of an object that are in memory.
#[derive(Debug, Default)]
pub(crate) struct Tables(BTreeMap<u64, Table>);

impl Tables {
    pub(crate) fn get(&self, group: Group) -> Option<&Table> {
        self.0.get(&group.0)
    }

    pub(crate) fn get_mut(&mut self, group: Group) -> Option<&mut Table> {
        self.0.get_mut(&group.0)
    }

    pub(crate) fn insert(&mut self, group: Group, table: Table) {
        self.0.insert(group.0, table);
    }

    /// Drops the tables from this group on, whose blocks are gone.
    pub(crate) fn cut(&mut self, first_gone: Group) {
        self.0.split_off(&first_gone.0);
    }

    /// The tables that differ from the file's.
    pub(crate) fn dirty(&mut self) -> impl Iterator<Item = (Group, &mut Table)> {
        let tables = self.0.iter_mut().filter(|(_, table)| table.is_dirty());
        tables.map(|(group, table)| (Group(*group), table))
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_of_zeros_is_zero_and_sums_are_linear() {
        let old: Vec<u8> = (0..BLOCK).map(|at| (at * 7 % 251) as u8).collect();
        let new: Vec<u8> = (0..BLOCK).map(|at| (at * 13 % 241) as u8).collect();
        let delta: Vec<u8> = old.iter().zip(&new).map(|(a, b)| a ^ b).collect();

        assert_eq!(block_sum(0, &ZERO_BLOCK), 0);
        assert_eq!(block_sum(100, &[]), 0);
        assert_eq!(
            block_sum(0, &new),
            block_sum(0, &old) ^ block_sum(0, &delta)
        );
    }

    #[test]
    fn appended_bytes_change_the_sum_as_if_the_block_were_summed_whole() {
        let bytes: Vec<u8> = (0..900).map(|at| at as u8).collect();

        let whole = block_sum(0, &bytes);
        let parts = block_sum(0, &bytes[..300]) ^ block_sum(300, &bytes[300..]);

        assert_eq!(whole, parts);
    }

    #[test]
    fn checksum_of_a_run_follows_from_the_sums_of_its_blocks() {
        let data: Vec<u8> = (0..3 * BLOCK).map(|at| (at * 7 % 251) as u8).collect();

        for length in [
            1,
            100,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            2 * BLOCK + 5,
            3 * BLOCK,
        ] {
            let run = &data[..length];
            let sums = run.chunks(BLOCK).map(|block| block_sum(0, block));
            assert_eq!(crc_of_blocks(sums, length), crc32c::crc32c(run), "{length}");
        }
        let holes = crc_of_blocks([0, 0].into_iter(), 2 * BLOCK);
        assert_eq!(holes, crc32c::crc32c(&[0; 2 * BLOCK]));
    }

    #[test]
    fn table_survives_encoding() {
        let group = Group(1);
        let mut table = Table::zeroed(group);
        table.set(0, 5);
        table.set(1023, 9);

        let decoded = Table::decode(group, &table.encode());

        assert_eq!((decoded.get(0), decoded.get(1023)), (5, 9));
        assert_eq!(decoded.get(7), 0);
    }
}
