//! Operations on names and attributes.

use bytes::Bytes;
use proto::mrc;
use proto::mrc::Attr;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;

use crate::attr::{SetAttributes, SetTime};
use crate::errno::Errno;
use crate::lock;
use crate::oxfs::{Caller, OxFs};
use crate::size::Closing;

/// A reply that fits no question.
pub(crate) const MISFIT: Errno = Errno(libc::EPROTO);

impl OxFs {
    /// Attributes of the entry `name` of a directory.
    ///
    /// # Errors
    ///
    /// As lookups of paths: ENOENT, ENOTDIR, ENAMETOOLONG.
    pub async fn lookup(&self, parent: u64, name: Bytes) -> Result<Attr, Errno> {
        let reply = self.ask(Op::Lookup(mrc::Lookup { parent, name })).await?;
        self.entry(reply)
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    ///
    /// ESTALE or ENOENT if it is gone.
    pub async fn getattr(&self, inode: u64) -> Result<Attr, Errno> {
        let reply = self.ask(Op::GetAttr(mrc::GetAttr { inode })).await?;
        if let Reply::Entry(mrc::Entry { attr: Some(attr) }) = &reply
            && let Some(file) = self.inner.files.get(inode)
            && file.is_outdated(attr)
        {
            let work = async move {
                let _gate = file.gate.lock().await;
                file.report(Closing::No).await
            };
            self.softly_done(work).await?;
            let reply = self.ask(Op::GetAttr(mrc::GetAttr { inode })).await?;
            return self.entry(reply);
        }
        self.entry(reply)
    }

    /// Sets attributes; returns them all.
    ///
    /// # Errors
    ///
    /// As chmod(2), chown(2), truncate(2), utimensat(2).
    pub async fn setattr(&self, inode: u64, set: SetAttributes) -> Result<Attr, Errno> {
        if let Some(size) = set.size {
            return self.truncate(inode, size, set).await;
        }
        let attr = self.set_attr(inode, set, None).await?;
        if set.mtime.is_some()
            && let Some(file) = self.inner.files.get(inode)
        {
            file.set_mtime(attr.mtime_ns);
        }
        Ok(self.adorned(attr))
    }

    /// The metadata half of [`OxFs::setattr`]; attributes as the metadata cluster has them. With a
    /// size comes the data version that was known before the object was truncated.
    pub(crate) async fn set_attr(
        &self,
        inode: u64,
        set: SetAttributes,
        size: Option<(u64, u64)>,
    ) -> Result<Attr, Errno> {
        let at = |time: Option<SetTime>| match time {
            Some(SetTime::At(nanos)) => Some(nanos),
            Some(SetTime::Now) | None => None,
        };
        let reply = self
            .change(Op::SetAttr(mrc::SetAttr {
                inode,
                mode: set.mode,
                uid: set.uid,
                gid: set.gid,
                size_bytes: size.map(|(size, _)| size),
                data_version: size.map(|(_, known)| known),
                atime_ns: at(set.atime),
                mtime_ns: at(set.mtime),
                atime_now: set.atime == Some(SetTime::Now),
                mtime_now: set.mtime == Some(SetTime::Now),
            }))
            .await?;
        match reply {
            Reply::Entry(mrc::Entry { attr: Some(attr) }) => Ok(attr),
            _ => Err(MISFIT),
        }
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    ///
    /// EINVAL if it is none.
    pub async fn readlink(&self, inode: u64) -> Result<Bytes, Errno> {
        match self.ask(Op::ReadLink(mrc::ReadLink { inode })).await? {
            Reply::Bytes(bytes) => Ok(bytes.bytes),
            _ => Err(MISFIT),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    ///
    /// As mkdir(2).
    pub async fn mkdir(
        &self,
        parent: u64,
        name: Bytes,
        mode: u32,
        owner: Caller,
    ) -> Result<Attr, Errno> {
        let op = Op::MkDir(mrc::MkDir {
            parent,
            name,
            mode,
            owner: Some(owner.into()),
        });
        let reply = self.change(op).await?;
        self.entry(reply)
    }

    /// Makes a file of any type but a directory; `mode` with type bits.
    ///
    /// # Errors
    ///
    /// As mknod(2).
    pub async fn mknod(
        &self,
        parent: u64,
        name: Bytes,
        mode: u32,
        rdev: u32,
        owner: Caller,
    ) -> Result<Attr, Errno> {
        let op = Op::MkNod(mrc::MkNod {
            parent,
            name,
            mode,
            rdev: u64::from(rdev),
            owner: Some(owner.into()),
        });
        let reply = self.change(op).await?;
        self.entry(reply)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    ///
    /// As symlink(2).
    pub async fn symlink(
        &self,
        parent: u64,
        name: Bytes,
        target: Bytes,
        owner: Caller,
    ) -> Result<Attr, Errno> {
        let op = Op::Symlink(mrc::Symlink {
            parent,
            name,
            target,
            owner: Some(owner.into()),
        });
        let reply = self.change(op).await?;
        self.entry(reply)
    }

    /// Gives an inode one more name.
    ///
    /// # Errors
    ///
    /// As link(2).
    pub async fn link(&self, inode: u64, parent: u64, name: Bytes) -> Result<Attr, Errno> {
        let op = Op::Link(mrc::Link {
            inode,
            parent,
            name,
        });
        let reply = self.change(op).await?;
        self.entry(reply)
    }

    /// Removes a name that is no directory's.
    ///
    /// # Errors
    ///
    /// As unlink(2).
    pub async fn unlink(&self, parent: u64, name: Bytes) -> Result<(), Errno> {
        self.change(Op::Unlink(mrc::Unlink { parent, name }))
            .await?;
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// As rmdir(2).
    pub async fn rmdir(&self, parent: u64, name: Bytes) -> Result<(), Errno> {
        self.change(Op::RmDir(mrc::RmDir { parent, name })).await?;
        Ok(())
    }

    /// Renames; `flags` are those of renameat2(2).
    ///
    /// # Errors
    ///
    /// As renameat2(2); EINVAL for RENAME_WHITEOUT.
    pub async fn rename(
        &self,
        from: (u64, Bytes),
        to: (u64, Bytes),
        flags: u32,
    ) -> Result<(), Errno> {
        let no_replace = flags & libc::RENAME_NOREPLACE != 0;
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        let unknown = flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE);
        if unknown != 0 || (no_replace && exchange) {
            return Err(Errno(libc::EINVAL));
        }
        let op = Op::Rename(mrc::Rename {
            parent: from.0,
            name: from.1,
            new_parent: to.0,
            new_name: to.1,
            no_replace,
            exchange,
        });
        self.change(op).await?;
        Ok(())
    }

    /// Size and use of the volume.
    ///
    /// # Errors
    ///
    /// EIO on a `soft` mount that gave up.
    pub async fn statfs(&self) -> Result<mrc::FsStat, Errno> {
        match self.ask(Op::StatFs(mrc::StatFs::default())).await? {
            Reply::FsStat(stat) => Ok(stat),
            _ => Err(MISFIT),
        }
    }

    /// Attributes out of a reply, with what this mount knows better.
    pub(crate) fn entry(&self, reply: Reply) -> Result<Attr, Errno> {
        match reply {
            Reply::Entry(mrc::Entry { attr: Some(attr) }) => Ok(self.adorned(attr)),
            _ => Err(MISFIT),
        }
    }

    /// Whether a descriptor of the inode is open in this mount.
    pub(crate) fn is_open(&self, inode: u64) -> bool {
        self.inner.files.get(inode).is_some()
    }

    /// Whether nothing was written to the inode through this mount since it was opened.
    pub(crate) fn is_untouched(&self, inode: u64) -> bool {
        let file = self.inner.files.get(inode);
        file.is_none_or(|file| lock(&file.state).changes.is_untouched())
    }

    pub(crate) fn adorned(&self, mut attr: Attr) -> Attr {
        if let Some(file) = self.inner.files.get(attr.inode) {
            file.adorn(&mut attr);
        }
        attr
    }
}
