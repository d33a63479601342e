//! Unlinking files and removing directories.

use proto::mrc;
use types::Inode;

use super::{Namespace, check_name};
use crate::attr;
use crate::command::done;
use crate::errno;
use crate::records::{Step, ensure, refuse};

impl Namespace<'_, '_> {
    pub(super) fn unlink(&mut self, op: &mrc::Unlink) -> Step<mrc::Response> {
        let parent = Inode(op.parent);
        let directory = self.directory(parent)?;
        check_name(&op.name)?;
        let Some(dentry) = self.dentry(parent, &op.name)? else {
            return refuse(errno::ENOENT);
        };
        ensure(!attr::is_directory(dentry.kind), errno::EISDIR)?;
        let record = self.inode(Inode(dentry.inode))?;

        self.delete_dentry(parent, &op.name);
        self.drop_link(Inode(dentry.inode), record)?;
        self.put_changed_directory(parent, directory);
        Ok(done())
    }

    pub(super) fn remove_directory(&mut self, op: &mrc::RmDir) -> Step<mrc::Response> {
        let parent = Inode(op.parent);
        let mut directory = self.directory(parent)?;
        check_name(&op.name)?;
        let Some(dentry) = self.dentry(parent, &op.name)? else {
            return refuse(errno::ENOENT);
        };
        ensure(attr::is_directory(dentry.kind), errno::ENOTDIR)?;
        let record = self.inode(Inode(dentry.inode))?;
        ensure(self.is_empty(Inode(dentry.inode))?, errno::ENOTEMPTY)?;

        self.delete_dentry(parent, &op.name);
        self.drop_link(Inode(dentry.inode), record)?;
        directory.nlink = directory.nlink.saturating_sub(1);
        self.put_changed_directory(parent, directory);
        Ok(done())
    }
}
