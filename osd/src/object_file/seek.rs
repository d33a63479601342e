//! Where an object's file has data and where it has holes: as its file system knows it or, where that is no
//! help, as the sums of its blocks have it.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, fstatfs};
use nix::unistd::{Whence, lseek};

use types::BLOCK_BYTES;

use super::ObjectFile;
use crate::config::SEEK_STEPS_MAX;
use crate::file_layout::{Group, object_length, place_of};

impl ObjectFile {
    /// Where data begins at or after an offset, or with `hole` a hole; none if nowhere before the end.
    pub(crate) fn seek(&mut self, offset: u64, hole: bool) -> io::Result<Option<u64>> {
        let length = self.length_bytes;
        if offset >= length {
            return Ok(None);
        }
        let file = self.file()?;
        if !knows_holes(&file)? {
            return self.seek_in_sums(offset, hole);
        }
        let mut at = place_of(offset);
        for _ in 0..SEEK_STEPS_MAX {
            let Some(found) = seek_from(&file, at, hole)? else {
                return Ok(hole.then_some(offset_at(at, offset).min(length)));
            };
            let object_offset = offset_at(found, offset);
            if object_offset >= length {
                return Ok(hole.then_some(length));
            }
            at = place_of(object_offset);
            if at <= found {
                return Ok(Some(object_offset));
            }
            // Sums lie there; what comes behind them is another matter.
        }
        Ok(Some(match hole {
            true => length,
            false => offset_at(at, offset),
        }))
    }
}

impl ObjectFile {
    /// The same by the sums: a block whose sum is zero counts as a hole, as it does everywhere here.
    fn seek_in_sums(&mut self, offset: u64, hole: bool) -> io::Result<Option<u64>> {
        let length = self.length_bytes;
        let behind = object_length(self.file_bytes).min(length);
        let mut block = offset / BLOCK_BYTES;
        for _ in 0..SEEK_STEPS_MAX {
            self.bound_tables()?;
            for _ in 0..Group::of_block(block).0.len() {
                let at = (block * BLOCK_BYTES).max(offset);
                if at >= behind {
                    // Nothing was ever written there.
                    return Ok(hole.then_some(at.min(length)));
                }
                if (self.sum(block)? == 0) == hole {
                    return Ok(Some(at));
                }
                block += 1;
            }
        }
        // What was not found yet counts as data.
        Ok(Some(match hole {
            true => length,
            false => (block * BLOCK_BYTES).max(offset),
        }))
    }
}

/// Whether a file system can be asked where holes are. zfs-fuse takes all for data, as FUSE does for whoever can't
/// tell; OpenZFS before 2.2.2 could take data for holes that it had not written out yet.
fn knows_holes(file: &File) -> io::Result<bool> {
    const ZFS_SUPER_MAGIC: FsType = FsType(0x2fc1_2fc1);
    let kind = fstatfs(file)?.filesystem_type();
    Ok(kind != FUSE_SUPER_MAGIC && kind != ZFS_SUPER_MAGIC)
}

/// The offset in the object of what lies at a place in the file, not before the one sought from.
fn offset_at(place: u64, from: u64) -> u64 {
    object_length(place).max(from)
}

/// The next data or hole in a file; none behind its end. A file system that can't tell has data
/// everywhere.
pub(crate) fn seek_from(file: &File, at: u64, hole: bool) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(at).map_err(io::Error::other)?;
    let (whence, unknown) = match hole {
        true => (Whence::SeekHole, libc::off_t::MAX.unsigned_abs()),
        false => (Whence::SeekData, at),
    };
    match lseek(file, from, whence) {
        Ok(found) => Ok(Some(found.unsigned_abs())),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(unknown)),
        Err(errno) => Err(errno.into()),
    }
}
