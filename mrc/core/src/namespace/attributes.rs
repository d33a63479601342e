//! chmod, chown, truncate and utimes.

use proto::mrc;
use types::Inode;

use super::Namespace;
use crate::attr::{self, PERMISSIONS, S_ISGID, S_ISUID, S_IXGRP};
use crate::config;
use crate::errno;
use crate::quota;
use crate::records::{Step, ensure, refuse};

impl Namespace<'_, '_> {
    pub(super) fn set_attributes(&mut self, op: &mrc::SetAttr) -> Step<mrc::Response> {
        let number = Inode(op.inode);
        let mut record = self.inode(number)?;
        if let Some(size_bytes) = op.size_bytes {
            ensure(!attr::is_directory(record.mode), errno::EISDIR)?;
            ensure(attr::is_regular(record.mode), errno::EINVAL)?;
            ensure(size_bytes <= config::FILE_BYTES_MAX, errno::EFBIG)?;
            // Whoever reported a size since then may have written after the truncation.
            let unchanged = op.data_version.is_none_or(|v| v == record.data_version);
            ensure(unchanged, errno::EAGAIN)?;
        }
        if *op
            == (mrc::SetAttr {
                inode: op.inode,
                ..mrc::SetAttr::default()
            })
        {
            return Ok(attr::entry(number, &record));
        }
        // A link's permissions mean nothing; Linux does not change them.
        if op.mode.is_some() && record.mode & attr::S_IFMT == attr::S_IFLNK {
            return refuse(errno::EOPNOTSUPP);
        }

        if let Some(size_bytes) = op.size_bytes {
            quota::set_size(self.work, self.volume, &mut record, size_bytes)?;
            record.mtime_ns = self.work.now;
            record.data_version += 1;
            record.truncate_epoch += 1;
            record.has_object = true;
        }
        if op.uid.is_some() || op.gid.is_some() {
            record.uid = op.uid.unwrap_or(record.uid);
            record.gid = op.gid.unwrap_or(record.gid);
            record.mode = without_privileges(record.mode);
        }
        if let Some(mode) = op.mode {
            record.mode = record.mode & attr::S_IFMT | mode & PERMISSIONS;
        }
        if op.atime_now {
            record.atime_ns = self.work.now;
        } else if let Some(atime_ns) = op.atime_ns {
            record.atime_ns = atime_ns;
        }
        if op.mtime_now {
            record.mtime_ns = self.work.now;
        } else if let Some(mtime_ns) = op.mtime_ns {
            record.mtime_ns = mtime_ns;
        }
        record.ctime_ns = self.work.now;
        self.put_inode(number, &record);
        Ok(attr::entry(number, &record))
    }
}

/// What a new owner must not inherit: setuid, and setgid where it means a group's rights.
const fn without_privileges(mode: u32) -> u32 {
    if attr::is_directory(mode) {
        return mode;
    }
    // Without group execution, setgid once meant mandatory locking; Linux leaves it alone.
    if mode & S_IXGRP == 0 {
        mode & !S_ISUID
    } else {
        mode & !(S_ISUID | S_ISGID)
    }
}
