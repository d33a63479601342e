//! Extended attributes.

use proto::mrc;
use types::Inode;

use super::Namespace;
use crate::command::done;
use crate::config;
use crate::errno;
use crate::index::IndexRead;
use crate::keys;
use crate::records::{Step, ensure, refuse};

impl Namespace<'_, '_> {
    pub(super) fn set_xattr(&mut self, op: &mrc::SetXattr) -> Step<mrc::Response> {
        let number = Inode(op.inode);
        check_xattr_name(&op.name)?;
        ensure(
            op.value.len() <= config::XATTR_VALUE_BYTES_MAX,
            errno::E2BIG,
        )?;
        let mut record = self.inode(number)?;
        let key = keys::xattr(self.volume, number, &op.name);
        match self.work.get(&key)? {
            Some(old) => {
                ensure(!op.create, errno::EEXIST)?;
                record.xattr_values_bytes =
                    record.xattr_values_bytes.saturating_sub(old.len() as u64);
            }
            None => {
                ensure(!op.replace, errno::ENODATA)?;
                record.xattr_names_bytes += name_bytes(&op.name);
            }
        }
        record.xattr_values_bytes += op.value.len() as u64;
        let fits = record.xattr_names_bytes <= config::XATTR_NAMES_BYTES_MAX
            && record.xattr_values_bytes <= config::XATTR_VALUES_BYTES_MAX;
        ensure(fits, errno::ENOSPC)?;

        record.ctime_ns = self.work.now;
        self.work.put_bytes(key, op.value.clone());
        self.put_inode(number, &record);
        Ok(done())
    }

    pub(super) fn remove_xattr(&mut self, op: &mrc::RemoveXattr) -> Step<mrc::Response> {
        let number = Inode(op.inode);
        check_xattr_name(&op.name)?;
        let mut record = self.inode(number)?;
        let key = keys::xattr(self.volume, number, &op.name);
        let Some(old) = self.work.get(&key)? else {
            return refuse(errno::ENODATA);
        };

        record.xattr_names_bytes = record
            .xattr_names_bytes
            .saturating_sub(name_bytes(&op.name));
        record.xattr_values_bytes = record.xattr_values_bytes.saturating_sub(old.len() as u64);
        record.ctime_ns = self.work.now;
        self.work.delete(key);
        self.put_inode(number, &record);
        Ok(done())
    }
}

/// Bytes a name takes in the answer of listxattr(2).
const fn name_bytes(name: &[u8]) -> u64 {
    name.len() as u64 + 1
}

/// Refuses what is no name of an attribute we keep.
///
/// `system.` is refused because its attributes (ACLs) promise an effect that nobody enforces here.
pub(crate) fn check_xattr_name(name: &[u8]) -> Step<()> {
    let in_range = !name.is_empty() && name.len() <= config::XATTR_NAME_BYTES_MAX;
    ensure(in_range, errno::ERANGE)?;
    ensure(!name.contains(&0), errno::EINVAL)?;
    for prefix in [&b"user."[..], b"trusted.", b"security."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return ensure(!rest.is_empty(), errno::EINVAL);
        }
    }
    refuse(errno::EOPNOTSUPP)
}
