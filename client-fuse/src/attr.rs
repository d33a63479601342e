//! Attributes between messages and the kernel.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use proto::mrc::Attr;

/// A time to set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetTime {
    /// The time of the command.
    Now,
    /// Nanoseconds since 1970 UTC.
    At(i64),
}

/// Attributes to set; what is absent stays.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length of a file.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: Option<SetTime>,
    /// Time of last modification.
    pub mtime: Option<SetTime>,
}

/// Attributes as the kernel wants them.
pub(crate) fn to_kernel(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode),
        size: attr.size_bytes,
        blocks: blocks(attr),
        atime: system_time(attr.atime_ns),
        mtime: system_time(attr.mtime_ns),
        ctime: system_time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: kind_of(attr.mode),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: u32::try_from(attr.rdev).unwrap_or(0),
        blksize: crate::config::KERNEL_IO_BYTES,
        flags: 0,
    }
}

/// Files from this size on are said to have a hole. 64 KiB: looking for holes costs a program one
/// more question, which is nothing beside reading so much.
const HOLES_POSSIBLE_BYTES: u64 = 64 << 10;

/// Blocks of 512 bytes, for st_blocks. Where the holes are only the object servers know: a file that
/// may have some counts one block less than its size, because cp(1) and tar(1) ask for holes with
/// lseek(2) only then.
fn blocks(attr: &Attr) -> u64 {
    match attr.mode & libc::S_IFMT {
        // In the inode, as ext4 has it.
        libc::S_IFLNK if attr.size_bytes < 60 => 0,
        libc::S_IFREG if attr.size_bytes >= HOLES_POSSIBLE_BYTES => attr.size_bytes / 512 - 1,
        _ => attr.size_bytes.div_ceil(512),
    }
}

/// File type of a mode.
pub(crate) fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFCHR => FileType::CharDevice,
        _ => FileType::RegularFile,
    }
}

fn system_time(nanos: i64) -> SystemTime {
    let magnitude = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 {
        UNIX_EPOCH + magnitude
    } else {
        UNIX_EPOCH - magnitude
    }
}

/// Nanoseconds since 1970 UTC, clamped to what a message carries (1677 to 2262).
pub(crate) fn nanos_of(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// Nanoseconds of a time as the FUSE library hands it over: of a time before 1970 it takes seconds
/// and nanoseconds for two magnitudes, while the nanoseconds count upwards from the second.
pub(crate) fn nanos_from_kernel(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => nanos_of(time),
        Err(before) => {
            let magnitude = before.duration();
            let seconds = i64::try_from(magnitude.as_secs()).unwrap_or(i64::MAX);
            let up = i64::from(magnitude.subsec_nanos());
            seconds.saturating_mul(-1_000_000_000).saturating_add(up)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_seem_to_have_a_hole_and_short_links_no_blocks() {
        let attr = |mode, size_bytes| Attr {
            mode,
            size_bytes,
            ..Attr::default()
        };

        assert_eq!(blocks(&attr(libc::S_IFREG, 0)), 0);
        assert_eq!(blocks(&attr(libc::S_IFREG, 513)), 2);
        assert_eq!(blocks(&attr(libc::S_IFREG, 64 << 10)), 127);
        assert_eq!(blocks(&attr(libc::S_IFREG, (64 << 10) + 1)), 127);
        assert_eq!(blocks(&attr(libc::S_IFLNK, 59)), 0);
        assert_eq!(blocks(&attr(libc::S_IFLNK, 60)), 1);
        assert_eq!(blocks(&attr(libc::S_IFDIR, 4096)), 8);
    }

    #[test]
    fn times_keep_their_nanoseconds_before_and_after_1970() {
        for nanos in [
            0,
            1,
            -1,
            1_700_000_000_123_456_789,
            -5_000_000_000_000_000_001,
        ] {
            assert_eq!(nanos_of(system_time(nanos)), nanos);
        }
    }

    #[test]
    fn times_before_1970_are_understood_as_the_kernel_means_them() {
        // -5 ns is second -1 and 999,999,995 ns, of which the library makes this:
        let from_library = UNIX_EPOCH - Duration::new(1, 999_999_995);

        assert_eq!(nanos_from_kernel(from_library), -5);
        assert_eq!(
            nanos_from_kernel(UNIX_EPOCH - Duration::new(3, 0)),
            -3_000_000_000
        );
        assert_eq!(
            nanos_from_kernel(UNIX_EPOCH + Duration::new(3, 7)),
            3_000_000_007
        );
    }

    #[test]
    fn kernel_sees_type_permissions_and_blocks() {
        let attr = Attr {
            mode: libc::S_IFDIR | 0o1777,
            size_bytes: 513,
            ..Attr::default()
        };

        let seen = to_kernel(&attr);

        assert_eq!(seen.kind, FileType::Directory);
        assert_eq!((seen.perm, seen.blocks), (0o1777, 2));
    }
}
