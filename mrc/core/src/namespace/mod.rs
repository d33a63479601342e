//! The namespace: what each change of the tree does to the records, with the errno ext4 gives.
//!
//! The kernel checks permissions, sticky bits and mount points before it asks; here is only what
//! belongs to the tree. An inode number without a record gives ESTALE, on which the kernel looks the
//! path up again: another mount may have put something new in its place.

mod attributes;
mod create;
pub(crate) mod open;
mod remove;
mod rename;
pub(crate) mod xattr;

use proto::index::command::Op;
use proto::index::{DentryRecord, InodeRecord, OrphanRecord};
use proto::mrc;
use types::{Inode, SessionId, VolumeId};

use crate::attr;
use crate::command::Effects;
use crate::config;
use crate::errno;
use crate::index::IndexError;
use crate::keys;
use crate::quota;
use crate::records::{self, Step, Work, ensure, refuse};

/// One session's change of its volume.
pub(crate) struct Namespace<'w, 'a> {
    work: &'w mut Work<'a>,
    volume: VolumeId,
    session: SessionId,
    effects: &'w mut Effects,
}

impl<'w, 'a> Namespace<'w, 'a> {
    pub(crate) fn new(
        work: &'w mut Work<'a>,
        volume: VolumeId,
        session: SessionId,
        effects: &'w mut Effects,
    ) -> Self {
        Self {
            work,
            volume,
            session,
            effects,
        }
    }

    /// Does what a session's mutation asks.
    pub(crate) fn change(&mut self, op: &Op) -> Step<mrc::Response> {
        match op {
            Op::Create(op) => self.create(op),
            Op::MkDir(op) => self.make_directory(op),
            Op::MkNod(op) => self.make_node(op),
            Op::Symlink(op) => self.symlink(op),
            Op::Link(op) => self.link(op),
            Op::Unlink(op) => self.unlink(op),
            Op::RmDir(op) => self.remove_directory(op),
            Op::Rename(op) => self.rename(op),
            Op::SetAttr(op) => self.set_attributes(op),
            Op::SetXattr(op) => self.set_xattr(op),
            Op::RemoveXattr(op) => self.remove_xattr(op),
            Op::OpenWrite(op) => self.open_write(op),
            Op::Written(op) => self.written(op),
            _ => refuse(errno::EPROTO),
        }
    }

    fn inode(&self, number: Inode) -> Step<InodeRecord> {
        records::inode(self.work, self.volume, number)
    }

    /// Reads a directory that can take new entries.
    fn directory(&self, number: Inode) -> Step<InodeRecord> {
        let record = self.inode(number)?;
        ensure(attr::is_directory(record.mode), errno::ENOTDIR)?;
        // It was removed but someone still has it open.
        ensure(record.nlink > 0, errno::ENOENT)?;
        Ok(record)
    }

    fn dentry(&self, parent: Inode, name: &[u8]) -> Result<Option<DentryRecord>, IndexError> {
        records::dentry(self.work, self.volume, parent, name)
    }

    fn put_inode(&mut self, number: Inode, record: &InodeRecord) {
        self.work.put(keys::inode(self.volume, number), record);
    }

    fn put_dentry(&mut self, parent: Inode, name: &[u8], dentry: &DentryRecord) {
        self.work
            .put(keys::dentry(self.volume, parent, name), dentry);
    }

    fn delete_dentry(&mut self, parent: Inode, name: &[u8]) {
        self.work.delete(keys::dentry(self.volume, parent, name));
    }

    fn is_empty(&self, directory: Inode) -> Result<bool, IndexError> {
        let entries = keys::of_inode(b'd', self.volume, directory);
        Ok(!records::any(self.work, &entries)?)
    }

    /// Writes a directory whose entries changed.
    fn put_changed_directory(&mut self, number: Inode, mut record: InodeRecord) {
        record.mtime_ns = self.work.now;
        record.ctime_ns = self.work.now;
        self.put_inode(number, &record);
    }

    /// Takes one link of a file, or the only one of a directory; the last one makes an orphan.
    fn drop_link(&mut self, number: Inode, mut record: InodeRecord) -> Result<(), IndexError> {
        record.ctime_ns = self.work.now;
        record.nlink = if attr::is_directory(record.mode) {
            0
        } else {
            record.nlink.saturating_sub(1)
        };
        if record.nlink == 0 {
            self.effects.orphaned = true;
            self.work.put(
                keys::orphan(self.volume, number),
                &OrphanRecord {
                    since_ns: self.work.now,
                },
            );
            quota::judge(self.work, self.volume, number, &mut record)?;
        }
        self.put_inode(number, &record);
        Ok(())
    }
}

/// Refuses what can't be a name of an entry. The kernel resolves "." and ".." itself.
fn check_name(name: &[u8]) -> Step<()> {
    ensure(!name.is_empty(), errno::ENOENT)?;
    ensure(name.len() <= config::NAME_BYTES_MAX, errno::ENAMETOOLONG)?;
    let malformed = name == b"." || name == b".." || name.contains(&0) || name.contains(&b'/');
    ensure(!malformed, errno::EINVAL)
}
