//! Making files, directories, links and nodes.

use bytes::Bytes;
use proto::index::{DentryRecord, InodeRecord};
use proto::mrc;
use types::Inode;

use super::{Namespace, check_name};
use crate::attr::{
    self, PERMISSIONS, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
    S_ISGID,
};
use crate::config;
use crate::errno;
use crate::keys;
use crate::quota;
use crate::records::{self, Step, ensure, refuse};

/// What is to be made.
struct New<'n> {
    name: &'n [u8],
    /// Type and permissions.
    mode: u32,
    owner: &'n Option<mrc::Owner>,
    rdev: u64,
    target: Bytes,
    /// It gets opened for writing.
    write: bool,
}

impl Namespace<'_, '_> {
    /// open(2) with O_CREAT.
    pub(super) fn create(&mut self, op: &mrc::Create) -> Step<mrc::Response> {
        let parent = Inode(op.parent);
        let directory = self.directory(parent)?;
        check_name(&op.name)?;
        if let Some(dentry) = self.dentry(parent, &op.name)? {
            ensure(!op.exclusive, errno::EEXIST)?;
            return self.open_existing(Inode(dentry.inode), op.write);
        }
        let new = New {
            name: &op.name,
            mode: S_IFREG | op.mode & PERMISSIONS,
            owner: &op.owner,
            rdev: 0,
            target: Bytes::new(),
            write: op.write,
        };
        let (number, record) = self.make(parent, directory, &new)?;
        Ok(self.opened(number, &record, op.write, false))
    }

    pub(super) fn make_directory(&mut self, op: &mrc::MkDir) -> Step<mrc::Response> {
        self.make_new(
            Inode(op.parent),
            &New {
                name: &op.name,
                mode: S_IFDIR | op.mode & PERMISSIONS,
                owner: &op.owner,
                rdev: 0,
                target: Bytes::new(),
                write: false,
            },
        )
    }

    pub(super) fn make_node(&mut self, op: &mrc::MkNod) -> Step<mrc::Response> {
        let (kind, rdev) = match op.mode & S_IFMT {
            0 | S_IFREG => (S_IFREG, 0),
            kind @ (S_IFCHR | S_IFBLK) => (kind, op.rdev),
            kind @ (S_IFIFO | S_IFSOCK) => (kind, 0),
            S_IFDIR => return refuse(errno::EPERM),
            _ => return refuse(errno::EINVAL),
        };
        self.make_new(
            Inode(op.parent),
            &New {
                name: &op.name,
                mode: kind | op.mode & PERMISSIONS,
                owner: &op.owner,
                rdev,
                target: Bytes::new(),
                write: false,
            },
        )
    }

    pub(super) fn symlink(&mut self, op: &mrc::Symlink) -> Step<mrc::Response> {
        ensure(!op.target.is_empty(), errno::ENOENT)?;
        ensure(
            op.target.len() <= config::TARGET_BYTES_MAX,
            errno::ENAMETOOLONG,
        )?;
        ensure(!op.target.contains(&0), errno::EINVAL)?;
        self.make_new(
            Inode(op.parent),
            &New {
                name: &op.name,
                mode: S_IFLNK | 0o777,
                owner: &op.owner,
                rdev: 0,
                target: op.target.clone(),
                write: false,
            },
        )
    }

    pub(super) fn link(&mut self, op: &mrc::Link) -> Step<mrc::Response> {
        let (parent, number) = (Inode(op.parent), Inode(op.inode));
        let directory = self.directory(parent)?;
        check_name(&op.name)?;
        let mut record = self.inode(number)?;
        ensure(self.dentry(parent, &op.name)?.is_none(), errno::EEXIST)?;
        ensure(!attr::is_directory(record.mode), errno::EPERM)?;
        // What was unlinked and is only open may not come back: it may be reaped at any moment.
        ensure(record.nlink > 0, errno::ENOENT)?;
        ensure(record.nlink < config::LINKS_MAX, errno::EMLINK)?;

        record.nlink += 1;
        record.ctime_ns = self.work.now;
        self.put_inode(number, &record);
        self.put_dentry(
            parent,
            &op.name,
            &DentryRecord {
                inode: number.0,
                kind: record.mode & S_IFMT,
            },
        );
        self.put_changed_directory(parent, directory);
        Ok(attr::entry(number, &record))
    }

    /// Makes something whose name must not exist.
    fn make_new(&mut self, parent: Inode, new: &New<'_>) -> Step<mrc::Response> {
        let directory = self.directory(parent)?;
        check_name(new.name)?;
        ensure(self.dentry(parent, new.name)?.is_none(), errno::EEXIST)?;
        let (number, record) = self.make(parent, directory, new)?;
        Ok(attr::entry(number, &record))
    }

    /// Writes a new inode and its entry in `directory`.
    fn make(
        &mut self,
        parent: Inode,
        mut directory: InodeRecord,
        new: &New<'_>,
    ) -> Step<(Inode, InodeRecord)> {
        let Some(owner) = new.owner else {
            return refuse(errno::EINVAL);
        };
        let mut counters = records::counters(self.work, self.volume)?;
        quota::admit_file(&counters)?;
        let number = Inode(counters.next_inode);
        let is_directory = attr::is_directory(new.mode);
        let mut record = InodeRecord {
            mode: new.mode,
            uid: owner.uid,
            gid: owner.gid,
            nlink: if is_directory { 2 } else { 1 },
            size_bytes: if is_directory {
                config::DIRECTORY_BYTES
            } else {
                new.target.len() as u64
            },
            atime_ns: self.work.now,
            mtime_ns: self.work.now,
            ctime_ns: self.work.now,
            rdev: new.rdev,
            target: new.target.clone(),
            has_object: new.write,
            ..InodeRecord::default()
        };
        if attr::is_regular(new.mode) {
            record.pg = placement_group(number, counters.pgs);
        }
        if is_directory {
            record.parent = parent.0;
            directory.nlink += 1;
        }
        // A setgid directory gives its group to what is made in it, and itself on to directories.
        if directory.mode & S_ISGID != 0 {
            record.gid = directory.gid;
            if is_directory {
                record.mode |= S_ISGID;
            }
        }

        counters.next_inode += 1;
        counters.inode_count += 1;
        self.work.put(keys::counters(self.volume), &counters);
        self.put_inode(number, &record);
        self.put_dentry(
            parent,
            new.name,
            &DentryRecord {
                inode: number.0,
                kind: new.mode & S_IFMT,
            },
        );
        self.put_changed_directory(parent, directory);
        Ok((number, record))
    }
}

/// Spreads inodes over the placement groups in turn: files made together land on all servers.
fn placement_group(inode: Inode, pgs: u32) -> u32 {
    // The remainder is below a u32, so nothing is cut off.
    (inode.0 % u64::from(pgs.max(1))) as u32
}
