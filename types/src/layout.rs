//! Sizes every crate must agree on.

/// Bytes covered by one checksum at rest. 4 KiB: the page size, so a page-sized write touches one.
pub const BLOCK_BYTES: u64 = 4 << 10;

/// Bytes compared at once between replicas of a suspect object. 64 KiB: 4 bytes of checksum stand
/// for 64 KiB of data, so comparing costs a sixteen-thousandth of copying.
pub const SUM_BYTES: u64 = 64 << 10;

/// Largest file. 15 TiB: what a directory store on ext4 can hold, whose files end at 16 TiB (4 KiB
/// blocks, ext4(5)), together with checksums.
pub const FILE_BYTES_MAX: u64 = 15 << 40;

/// Returns the indices of the blocks of `block_bytes` that `[offset_bytes, offset_bytes + length_bytes)`
/// touches, as a half-open range; empty for an empty range.
///
/// # Panics
///
/// If `block_bytes` is zero.
///
/// # Examples
///
/// ```
/// assert_eq!(types::blocks_of(4095, 2, 4096), 0..2);
/// assert_eq!(types::blocks_of(4096, 0, 4096), 1..1);
/// ```
#[must_use]
pub const fn blocks_of(
    offset_bytes: u64,
    length_bytes: u64,
    block_bytes: u64,
) -> std::ops::Range<u64> {
    let first = offset_bytes / block_bytes;
    if length_bytes == 0 {
        return first..first;
    }
    first..offset_bytes.saturating_add(length_bytes - 1) / block_bytes + 1
}
