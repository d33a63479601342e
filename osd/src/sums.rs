//! Checksums of an object's 4 KiB blocks: tables in memory while the object is open.
//!
//! The sum of a block is its CRC-32C (RFC 3720, appendix B.4) combined by exclusive or with that of
//! a block of zeros. That makes a hole's sum 0, so holes in the file are right as they are, and it
//! makes the sum linear: `sum(a ^ b) = sum(a) ^ sum(b)`. A partial overwrite needs only the bytes it
//! replaces, an append nothing at all; and a block that had rotted before stays detectably wrong.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use types::BLOCK_BYTES;

use crate::file_layout::Group;

const BLOCK: usize = BLOCK_BYTES as usize;
static ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];
static ZERO_CRC: LazyLock<u32> = LazyLock::new(|| crc32c::crc32c(&ZERO_BLOCK));

/// Sum of a block that holds `bytes` from `at` on and zeros elsewhere.
pub(crate) fn block_sum(at: usize, bytes: &[u8]) -> u32 {
    let before = ZERO_BLOCK.get(..at).unwrap_or_default();
    let after = ZERO_BLOCK.get(at + bytes.len()..).unwrap_or_default();
    let mut crc = crc32c::crc32c(before);
    crc = crc32c::crc32c_append(crc, bytes);
    crc32c::crc32c_append(crc, after) ^ *ZERO_CRC
}

/// Sums of one group of blocks.
#[derive(Debug)]
pub(crate) struct Table {
    sums: Box<[u32]>,
    /// Differs from the file's.
    dirty: bool,
}

impl Table {
    /// Of blocks that are all holes.
    pub(crate) fn zeroed(group: Group) -> Self {
        Self {
            sums: vec![0; group.len()].into(),
            dirty: false,
        }
    }

    /// As stored.
    pub(crate) fn decode(group: Group, bytes: &[u8]) -> Self {
        let mut table = Self::zeroed(group);
        for (sum, bytes) in table.sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *sum = u32::from_le_bytes(*bytes);
        }
        table
    }

    /// From a group's data, zeros after its end.
    pub(crate) fn of_data(group: Group, data: &[u8]) -> Self {
        let mut table = Self::zeroed(group);
        for (sum, block) in table.sums.iter_mut().zip(data.chunks(BLOCK)) {
            *sum = block_sum(0, block);
        }
        table.dirty = true;
        table
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
        for at in index..self.sums.len() {
            self.set(at, 0);
        }
    }

    fn encode(&self) -> Vec<u8> {
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

    /// Drops the tables of all groups after this one, whose blocks are gone.
    pub(crate) fn truncate_after(&mut self, group: Group) {
        self.0.split_off(&(group.0 + 1));
    }

    /// Takes what must be written to the file, as (offset, bytes), and counts it as written.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Vec<u8>)> {
        self.0
            .iter_mut()
            .filter(|(_, table)| table.dirty)
            .map(|(group, table)| {
                table.dirty = false;
                (Group(*group).sums_at(), table.encode())
            })
            .collect()
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
