//! Renaming, with the checks in the order of Linux (fs/namei.c: do_renameat2, vfs_rename).

use proto::index::{DentryRecord, InodeRecord};
use proto::mrc;
use types::Inode;

use super::{Namespace, check_name};
use crate::attr;
use crate::command::done;
use crate::config;
use crate::errno;
use crate::records::{Step, ensure, refuse};

/// A name in a directory.
struct Place<'n> {
    parent: Inode,
    name: &'n [u8],
}

/// The two directories of a rename, which may be one.
struct Directories {
    from: InodeRecord,
    /// `None` if it is the same.
    to: Option<InodeRecord>,
}

impl Directories {
    fn to(&mut self) -> &mut InodeRecord {
        self.to.as_mut().unwrap_or(&mut self.from)
    }
}

impl Namespace<'_, '_> {
    pub(super) fn rename(&mut self, op: &mrc::Rename) -> Step<mrc::Response> {
        ensure(!(op.no_replace && op.exchange), errno::EINVAL)?;
        let from = Place {
            parent: Inode(op.parent),
            name: &op.name,
        };
        let to = Place {
            parent: Inode(op.new_parent),
            name: &op.new_name,
        };
        let directories = Directories {
            from: self.directory(from.parent)?,
            to: if from.parent == to.parent {
                None
            } else {
                Some(self.directory(to.parent)?)
            },
        };
        check_name(from.name)?;
        check_name(to.name)?;
        let Some(source) = self.dentry(from.parent, from.name)? else {
            return refuse(errno::ENOENT);
        };
        let target = self.dentry(to.parent, to.name)?;
        ensure(!(op.no_replace && target.is_some()), errno::EEXIST)?;
        ensure(!(op.exchange && target.is_none()), errno::ENOENT)?;
        self.check_ancestors(&from, &to, &source, target.as_ref(), op.exchange)?;

        match target {
            // Two links of one file, or one name twice: POSIX wants nothing to happen.
            Some(target) if target.inode == source.inode => Ok(done()),
            Some(target) if op.exchange => self.exchange(&from, &to, directories, &source, &target),
            target => self.replace(&from, &to, directories, &source, target.as_ref()),
        }
    }

    /// Refuses to move a directory into itself, or onto something that it is in.
    fn check_ancestors(
        &self,
        from: &Place<'_>,
        to: &Place<'_>,
        source: &DentryRecord,
        target: Option<&DentryRecord>,
        exchange: bool,
    ) -> Step<()> {
        if from.parent == to.parent {
            return Ok(());
        }
        if attr::is_directory(source.kind) {
            let into_itself = self.is_in(to.parent, Inode(source.inode))?;
            ensure(!into_itself, errno::EINVAL)?;
        }
        if let Some(target) = target
            && attr::is_directory(target.kind)
            && self.is_in(from.parent, Inode(target.inode))?
        {
            return refuse(if exchange {
                errno::EINVAL
            } else {
                errno::ENOTEMPTY
            });
        }
        Ok(())
    }

    /// Whether `directory` is `ancestor` or below it.
    fn is_in(&self, directory: Inode, ancestor: Inode) -> Step<bool> {
        let mut at = directory;
        for _ in 0..config::PARENT_WALK_MAX {
            if at == ancestor {
                return Ok(true);
            }
            let parent = Inode(self.inode(at)?.parent);
            // The root is its own parent.
            if parent == at {
                return Ok(false);
            }
            at = parent;
        }
        refuse(errno::ELOOP)
    }

    fn replace(
        &mut self,
        from: &Place<'_>,
        to: &Place<'_>,
        mut directories: Directories,
        source: &DentryRecord,
        target: Option<&DentryRecord>,
    ) -> Step<mrc::Response> {
        let moves_directory = attr::is_directory(source.kind);
        let mut moved = self.inode(Inode(source.inode))?;
        let mut replaced = None;
        if let Some(target) = target {
            let onto_directory = attr::is_directory(target.kind);
            ensure(!moves_directory || onto_directory, errno::ENOTDIR)?;
            ensure(moves_directory || !onto_directory, errno::EISDIR)?;
            ensure(
                !onto_directory || self.is_empty(Inode(target.inode))?,
                errno::ENOTEMPTY,
            )?;
            replaced = Some((Inode(target.inode), self.inode(Inode(target.inode))?));
        }

        if moves_directory {
            directories.from.nlink = directories.from.nlink.saturating_sub(1);
            directories.to().nlink += 1;
            moved.parent = to.parent.0;
        }
        if let Some((number, record)) = replaced {
            if moves_directory {
                let directory = directories.to();
                directory.nlink = directory.nlink.saturating_sub(1);
            }
            self.drop_link(number, record)?;
        }
        moved.ctime_ns = self.work.now;
        self.put_inode(Inode(source.inode), &moved);
        self.delete_dentry(from.parent, from.name);
        self.put_dentry(to.parent, to.name, source);
        self.put_directories(from, to, directories);
        Ok(done())
    }

    fn exchange(
        &mut self,
        from: &Place<'_>,
        to: &Place<'_>,
        mut directories: Directories,
        source: &DentryRecord,
        target: &DentryRecord,
    ) -> Step<mrc::Response> {
        let mut first = self.inode(Inode(source.inode))?;
        let mut second = self.inode(Inode(target.inode))?;

        if attr::is_directory(source.kind) {
            directories.from.nlink = directories.from.nlink.saturating_sub(1);
            directories.to().nlink += 1;
            first.parent = to.parent.0;
        }
        if attr::is_directory(target.kind) {
            let directory = directories.to();
            directory.nlink = directory.nlink.saturating_sub(1);
            directories.from.nlink += 1;
            second.parent = from.parent.0;
        }
        first.ctime_ns = self.work.now;
        second.ctime_ns = self.work.now;
        self.put_inode(Inode(source.inode), &first);
        self.put_inode(Inode(target.inode), &second);
        self.put_dentry(from.parent, from.name, target);
        self.put_dentry(to.parent, to.name, source);
        self.put_directories(from, to, directories);
        Ok(done())
    }

    fn put_directories(&mut self, from: &Place<'_>, to: &Place<'_>, directories: Directories) {
        self.put_changed_directory(from.parent, directories.from);
        if let Some(directory) = directories.to {
            self.put_changed_directory(to.parent, directory);
        }
    }
}
