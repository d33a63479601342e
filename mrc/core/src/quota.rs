//! Quotas of volumes: what counts, who is refused, what statfs(2) shows.
//!
//! Files are counted and refused here, exactly. Bytes are counted here, as sizes are reported, and refused
//! by the mounts, which know of a write before it is done; a size that was reached is always recorded.
//!
//! What counts is what has a name or is open for writing. The rest of the inodes without links is *doomed*:
//! the janitor removes it, and a program that removed a file may use its room before that.

use proto::index::{CountersRecord, InodeRecord};
use proto::mrc;
use types::{Inode, VolumeId};

use crate::attr;
use crate::errno;
use crate::index::IndexError;
use crate::keys;
use crate::mutant::{Mutant, has};
use crate::records::{self, Step, Work, ensure};

/// What of a volume counts for its quota.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Use {
    /// Lengths of its files, added up.
    pub bytes: u64,
    /// Inodes but for the root directory.
    pub files: u64,
}

impl Use {
    /// By a volume's counters.
    #[must_use]
    pub fn of(counters: &CountersRecord) -> Self {
        if has(Mutant::DoomedCounted) {
            return Self {
                bytes: counters.size_bytes,
                files: counters.inode_count.saturating_sub(1),
            };
        }
        let live = counters.inode_count.saturating_sub(counters.doomed_count);
        Self {
            // As with the sums themselves, what wraps must wrap back.
            bytes: counters.size_bytes.wrapping_sub(counters.doomed_bytes),
            files: live.saturating_sub(u64::from(!has(Mutant::RootCounted))),
        }
    }
}

/// Refuses a further inode if the volume has as many as it may.
pub(crate) fn admit_file(counters: &CountersRecord) -> Step<()> {
    let limit = match counters.quota_files {
        0 => return Ok(()),
        limit => limit.saturating_add(u64::from(has(Mutant::OneMore))),
    };
    ensure(Use::of(counters).files < limit, errno::EDQUOT)
}

/// Gives a regular file another size.
pub(crate) fn set_size(
    work: &mut Work<'_>,
    volume: VolumeId,
    record: &mut InodeRecord,
    size_bytes: u64,
) -> Result<(), IndexError> {
    let mut counters = records::counters(work, volume)?;
    let counted = match has(Mutant::ShrinkingIgnored) {
        true => size_bytes.max(record.size_bytes),
        false => size_bytes,
    };
    attr::count_size(&mut counters.size_bytes, record.size_bytes, counted);
    if record.doomed {
        attr::count_size(&mut counters.doomed_bytes, record.size_bytes, size_bytes);
    }
    work.put(keys::counters(volume), &counters);
    record.size_bytes = size_bytes;
    Ok(())
}

/// Notes whether an inode is doomed, after its links or writers changed. Returns whether its record did.
pub(crate) fn judge(
    work: &mut Work<'_>,
    volume: VolumeId,
    number: Inode,
    record: &mut InodeRecord,
) -> Result<bool, IndexError> {
    let is_written = || records::any(work, &keys::of_inode(b'f', volume, number));
    let doomed = record.nlink == 0 && (has(Mutant::WritersForgotten) || !is_written()?);
    let revived = record.doomed && !doomed;
    if doomed == record.doomed || (revived && has(Mutant::RevivalForgotten)) {
        return Ok(false);
    }
    let mut counters = records::counters(work, volume)?;
    count_doomed(&mut counters, record, doomed);
    work.put(keys::counters(volume), &counters);
    record.doomed = doomed;
    Ok(true)
}

/// Counts an inode that is going to be doomed, or is no more.
pub(crate) fn count_doomed(counters: &mut CountersRecord, record: &InodeRecord, doomed: bool) {
    let size_bytes = if attr::is_regular(record.mode) {
        record.size_bytes
    } else {
        0
    };
    if !doomed && has(Mutant::CollectedKept) {
        return;
    }
    if doomed {
        counters.doomed_count = counters.doomed_count.saturating_add(1);
        counters.doomed_bytes = counters.doomed_bytes.wrapping_add(size_bytes);
    } else {
        counters.doomed_count = counters.doomed_count.saturating_sub(1);
        counters.doomed_bytes = counters.doomed_bytes.wrapping_sub(size_bytes);
    }
}

/// Adds what the disks have room for, with all replicas, to what the index says of a volume.
///
/// With a quota the capacity is what is used and what may be added, so that the difference of capacity and
/// free space, which df(1) shows as used, is what counts. Beyond a quota nothing is free.
pub const fn show_space(stat: &mut mrc::FsStat, capacity_bytes: u64, free_bytes: u64) {
    let free_bytes = if free_bytes < capacity_bytes {
        free_bytes
    } else {
        capacity_bytes
    };
    if stat.quota_bytes == 0 {
        stat.capacity_bytes = capacity_bytes;
        stat.free_bytes = free_bytes;
        return;
    }
    let left = stat.quota_bytes.saturating_sub(stat.used_bytes);
    stat.free_bytes = if left < free_bytes { left } else { free_bytes };
    let reach = stat.used_bytes.saturating_add(stat.free_bytes);
    stat.capacity_bytes = if reach < stat.quota_bytes {
        reach
    } else {
        stat.quota_bytes
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(quota_bytes: u64, used_bytes: u64, (capacity, free): (u64, u64)) -> (u64, u64) {
        let mut stat = mrc::FsStat {
            quota_bytes,
            used_bytes,
            ..mrc::FsStat::default()
        };
        show_space(&mut stat, capacity, free);
        (stat.capacity_bytes, stat.free_bytes)
    }

    #[test]
    fn free_space_is_the_smaller_of_quota_and_disks_and_never_negative() {
        assert_eq!(shown(0, 10, (100, 60)), (100, 60));
        assert_eq!(shown(50, 10, (100, 60)), (50, 40));
        // The disks have less than the quota leaves.
        assert_eq!(shown(50, 10, (100, 5)), (15, 5));
        assert_eq!(shown(50, 50, (100, 60)), (50, 0));
        // Beyond it, as mounts may get by what they did not know of each other.
        assert_eq!(shown(50, 70, (100, 60)), (50, 0));
        assert_eq!(shown(u64::MAX, u64::MAX, (100, 60)), (u64::MAX, 0));
        // A report of free space from when the disk was larger.
        assert_eq!(shown(0, 0, (100, 120)), (100, 100));
    }

    #[test]
    fn root_directory_and_doomed_inodes_count_for_nothing() {
        let counters = CountersRecord {
            inode_count: 5,
            size_bytes: 100,
            doomed_count: 2,
            doomed_bytes: 30,
            quota_files: 3,
            ..CountersRecord::default()
        };

        assert_eq!(
            Use::of(&counters),
            Use {
                bytes: 70,
                files: 2
            }
        );
        assert!(admit_file(&counters).is_ok());
        let full = CountersRecord {
            inode_count: 6,
            ..counters
        };
        assert!(admit_file(&full).is_err());
        let free = CountersRecord {
            quota_files: 0,
            ..full
        };
        assert!(admit_file(&free).is_ok());
    }
}
