//! What a lease server's worker is told to do, and how the cells it needs are named.

use std::time::Instant;

use types::CellId;

/// What it asks for.
pub(crate) enum Request {
    Acquire {
        cell: CellId,
        everybody: bool,
        newborn: bool,
    },
    Release(CellId),
}

/// Kinds of cells, in the upper bits of their names.
pub(crate) const LOAD: u64 = 1 << 32;
pub(crate) const HELD: u64 = 2 << 32;
pub(crate) const SHARED: u64 = 3 << 32;
/// Loads number their cells `sequence * SLOTS + slot`.
pub(crate) const SLOTS: u64 = 1 << 16;

pub(crate) fn cell(kind: u64, low: u64) -> CellId {
    CellId(u128::from(kind) << 64 | u128::from(low))
}

pub(crate) fn kind_of(cell: CellId) -> u64 {
    (cell.0 >> 64) as u64 & !0xffff_ffff
}

pub(crate) fn low_of(cell: CellId) -> u64 {
    cell.0 as u64
}

/// A closed loop.
pub(crate) struct Load {
    pub(crate) newborn: bool,
    pub(crate) stopping: bool,
    pub(crate) pending: usize,
    pub(crate) sequence: u64,
    pub(crate) started: Vec<Instant>,
}

/// Leases to be kept.
#[derive(Default)]
pub(crate) struct Hold {
    pub(crate) kind: u64,
    pub(crate) next: u64,
    pub(crate) members: u64,
    pub(crate) held: Vec<bool>,
    pub(crate) settled: usize,
}
