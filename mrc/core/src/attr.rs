//! What stat(2) shows of an inode.

use proto::index::InodeRecord;
use proto::mrc::{self, Attr, response};
use types::Inode;

/// Bits of a mode that say what kind of file it is.
pub const S_IFMT: u32 = 0o170_000;
/// A fifo.
pub const S_IFIFO: u32 = 0o010_000;
/// A character device.
pub const S_IFCHR: u32 = 0o020_000;
/// A directory.
pub const S_IFDIR: u32 = 0o040_000;
/// A block device.
pub const S_IFBLK: u32 = 0o060_000;
/// A regular file.
pub const S_IFREG: u32 = 0o100_000;
/// A symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// A socket.
pub const S_IFSOCK: u32 = 0o140_000;

/// Bits of a mode that chmod(2) sets.
pub(crate) const PERMISSIONS: u32 = 0o7777;
pub(crate) const S_ISUID: u32 = 0o4000;
pub(crate) const S_ISGID: u32 = 0o2000;
pub(crate) const S_IXGRP: u32 = 0o0010;

/// Returns the attributes of an inode.
#[must_use]
pub fn of(inode: Inode, record: &InodeRecord) -> Attr {
    Attr {
        inode: inode.0,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        nlink: record.nlink,
        size_bytes: record.size_bytes,
        atime_ns: record.atime_ns,
        mtime_ns: record.mtime_ns,
        ctime_ns: record.ctime_ns,
        rdev: record.rdev,
        data_version: record.data_version,
        truncate_epoch: record.truncate_epoch,
    }
}

/// The answer that shows an inode.
pub(crate) fn entry(inode: Inode, record: &InodeRecord) -> mrc::Response {
    mrc::Response {
        reply: Some(response::Reply::Entry(mrc::Entry {
            attr: Some(of(inode, record)),
        })),
    }
}

pub(crate) const fn is_directory(mode: u32) -> bool {
    mode & S_IFMT == S_IFDIR
}

pub(crate) const fn is_regular(mode: u32) -> bool {
    mode & S_IFMT == S_IFREG
}

/// Counts a regular file's change of size in a sum of sizes.
///
/// Sums wrap at 2^64: sparse files of petabytes may add up to more, and subtracting them again
/// gives the right number only if nothing was cut off.
pub(crate) const fn count_size(sum: &mut u64, old_bytes: u64, new_bytes: u64) {
    *sum = sum.wrapping_sub(old_bytes).wrapping_add(new_bytes);
}
