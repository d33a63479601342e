//! All cells of a host: found by hash, kept in chunks that never move.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use types::CellId;

use crate::cell::Cell;

/// Cells per chunk. 1024: some 400 KB, so that growing never copies what is there.
const CHUNK: usize = 1024;

/// A map of cells. Its memory stays for the next cells until the last one goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cells {
    places: HashMap<CellId, u32, BuildHasherDefault<CellHasher>>,
    chunks: Vec<Vec<Cell>>,
    /// Places of removed cells.
    free: Vec<u32>,
}

impl Cells {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn get(&self, id: CellId) -> Option<&Cell> {
        let place = *self.places.get(&id)?;
        let (chunk, at) = split(place);
        self.chunks.get(chunk)?.get(at)
    }

    pub(crate) fn get_mut(&mut self, id: CellId) -> Option<&mut Cell> {
        let place = *self.places.get(&id)?;
        let (chunk, at) = split(place);
        self.chunks.get_mut(chunk)?.get_mut(at)
    }

    /// Finds a cell or puts a new one in. Nothing if the host already has 2^32 cells.
    pub(crate) fn get_or_insert(
        &mut self,
        id: CellId,
        new: impl FnOnce() -> Cell,
    ) -> Option<&mut Cell> {
        let Self {
            places,
            chunks,
            free,
        } = self;
        let mut fresh = false;
        let place = *places.entry(id).or_insert_with(|| {
            fresh = true;
            free.pop().unwrap_or_else(|| end(chunks))
        });
        let (chunk, at) = split(place);
        if chunk == chunks.len() {
            chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = chunks.get_mut(chunk)?;
        if fresh {
            if at == chunk.len() {
                chunk.push(new());
            } else {
                *chunk.get_mut(at)? = new();
            }
        }
        chunk.get_mut(at)
    }

    pub(crate) fn remove(&mut self, id: CellId) {
        let Some(place) = self.places.remove(&id) else {
            return;
        };
        if self.places.is_empty() {
            *self = Self::default();
            return;
        }
        self.free.push(place);
        let (chunk, at) = split(place);
        let cell = self
            .chunks
            .get_mut(chunk)
            .and_then(|chunk| chunk.get_mut(at));
        if let Some(cell) = cell {
            // The rest is plain numbers.
            cell.members = None;
        }
    }

    /// The cells in the places from `start` on, at most `limit` places, and where to go on.
    pub(crate) fn page(
        &self,
        start: usize,
        limit: usize,
    ) -> (impl Iterator<Item = &Cell>, Option<usize>) {
        let last = end(&self.chunks) as usize;
        let stop = start.saturating_add(limit).min(last);
        let cells = (start..stop).filter_map(|place| {
            let (chunk, at) = (place / CHUNK, place % CHUNK);
            let cell = self.chunks.get(chunk)?.get(at)?;
            // What was removed lies there until its place is used again.
            let present = self.places.get(&cell.id).map(|place| *place as usize);
            (present == Some(place)).then_some(cell)
        });
        (cells, (stop < last).then_some(stop))
    }

    /// Every cell, ascending.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = &Cell> {
        let mut ids: Vec<CellId> = self.places.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.get(id))
    }
}

/// The place after the last one.
fn end(chunks: &[Vec<Cell>]) -> u32 {
    let place = match chunks.last() {
        Some(last) => (chunks.len() - 1) * CHUNK + last.len(),
        None => 0,
    };
    // Far above any `cells_max`: 1.6 TB of cells.
    u32::try_from(place).unwrap_or(u32::MAX)
}

const fn split(place: u32) -> (usize, usize) {
    let place = place as usize;
    (place / CHUNK, place % CHUNK)
}

/// Hashes cell names, which only this cluster's own servers can choose, by wide multiplications.
#[derive(Clone, Debug, Default)]
pub(crate) struct CellHasher(u64);

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for CellHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u128(u128::from(byte));
        }
    }

    fn write_u128(&mut self, name: u128) {
        let (high, low) = ((name >> 64) as u64, name as u64);
        let mixed = high.wrapping_mul(GOLDEN).rotate_left(23) ^ low ^ self.0;
        // Both halves of the product, so that all bits of the name reach all bits of the hash; twice,
        // since names that differ in few bits give products that do.
        self.0 = fold(fold(mixed ^ GOLDEN) ^ GOLDEN);
    }
}

const fn fold(value: u64) -> u64 {
    let wide = value as u128 * GOLDEN as u128;
    (wide >> 64) as u64 ^ wide as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use types::Instant;

    fn insert(cells: &mut Cells, id: u128) -> &mut Cell {
        let new = || Cell::new(CellId(id), 0, Instant::ZERO);
        cells.get_or_insert(CellId(id), new).unwrap()
    }

    #[test]
    fn cells_are_found_after_others_went_and_their_places_are_reused() {
        let mut cells = Cells::default();
        let total = 3 * CHUNK as u128 + 5;
        for id in 0..total {
            insert(&mut cells, id).view = id as u64;
        }

        for id in (0..total).step_by(2) {
            cells.remove(CellId(id));
        }
        for id in total..total + total / 2 {
            insert(&mut cells, id).view = id as u64;
        }

        assert_eq!(cells.chunks.len(), 4);
        assert_eq!(cells.len(), cells.sorted().count());
        for cell in cells.sorted() {
            assert_eq!(u128::from(cell.view), cell.id.0);
            assert!(cell.id.0 >= total || cell.id.0 % 2 == 1);
        }
        assert!(cells.sorted().is_sorted_by_key(|cell| cell.id));
    }

    #[test]
    fn pages_have_every_cell_once_and_none_that_was_removed() {
        let mut cells = Cells::default();
        let total = CHUNK as u128 + 100;
        for id in 0..total {
            insert(&mut cells, id);
        }
        for id in (0..total).step_by(3) {
            cells.remove(CellId(id));
        }

        let (mut found, mut start, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(from) = start {
            let (page, next) = cells.page(from, 100);
            found.extend(page.map(|cell| cell.id));
            start = next;
            pages += 1;
        }

        found.sort_unstable();
        let expected: Vec<CellId> = cells.sorted().map(|cell| cell.id).collect();
        assert_eq!(found, expected);
        assert_eq!(pages, (total as usize).div_ceil(100));
        assert!(Cells::default().page(0, 10).1.is_none());
    }

    #[test]
    fn inserting_a_cell_that_is_there_changes_nothing() {
        let mut cells = Cells::default();
        insert(&mut cells, 1).view = 9;

        assert_eq!(insert(&mut cells, 1).view, 9);
        assert_eq!(cells.len(), 1);
        assert!(cells.get(CellId(2)).is_none());
        cells.remove(CellId(2));
        cells.remove(CellId(1));
        assert_eq!((cells.len(), cells.chunks.len()), (0, 0));
    }

    /// Names are inode numbers of one volume: neighbours, or far apart in few bits.
    #[test]
    fn neighbouring_names_spread_over_low_and_high_bits() {
        let hash = |name: u128| {
            let mut hasher = CellHasher::default();
            hasher.write_u128(name);
            hasher.finish()
        };
        for shift in [0, 16, 40, 64, 96] {
            let hashes: Vec<u64> = (0..4096_u128)
                .map(|name| hash(1 << 127 | name << shift))
                .collect();
            let low: HashSet<u64> = hashes.iter().map(|hash| hash % 4096).collect();
            let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();

            // 63 % of the places if it were random.
            assert!(low.len() > 2000, "{shift}: {}", low.len());
            assert_eq!(high.len(), 128, "{shift}");
        }
    }
}
