//! Extended attributes.

use bytes::Bytes;
use proto::mrc;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;

use crate::errno::Errno;
use crate::names::MISFIT;
use crate::oxfs::{Caller, OxFs};

/// Namespaces that are kept. `system` holds access control lists, which are not supported: programs
/// that copy them (`cp -a`, `ls -l`) are told so at once.
fn is_kept(name: &[u8]) -> bool {
    [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

impl OxFs {
    /// Value of an extended attribute.
    ///
    /// # Errors
    ///
    /// ENODATA if there is none, EOPNOTSUPP for namespaces that are not kept.
    pub async fn getxattr(&self, inode: u64, name: Bytes) -> Result<Bytes, Errno> {
        if !is_kept(&name) {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let op = Op::GetXattr(mrc::GetXattr { inode, name });
        match self.ask(op).await? {
            Reply::Bytes(bytes) => Ok(bytes.bytes),
            _ => Err(MISFIT),
        }
    }

    /// Sets an extended attribute; `flags` are those of setxattr(2).
    ///
    /// # Errors
    ///
    /// As setxattr(2).
    pub async fn setxattr(
        &self,
        inode: u64,
        name: Bytes,
        value: Bytes,
        flags: i32,
    ) -> Result<(), Errno> {
        if !is_kept(&name) {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let op = Op::SetXattr(mrc::SetXattr {
            inode,
            name,
            value,
            create: flags & libc::XATTR_CREATE != 0,
            replace: flags & libc::XATTR_REPLACE != 0,
        });
        self.change(op).await?;
        Ok(())
    }

    /// Names of the extended attributes, each with a 0 byte after it; those of `trusted` only for
    /// root, who alone may read them.
    ///
    /// # Errors
    ///
    /// ENOENT if the inode is gone.
    pub async fn listxattr(&self, inode: u64, caller: Caller) -> Result<Bytes, Errno> {
        match self.ask(Op::ListXattr(mrc::ListXattr { inode })).await? {
            Reply::Names(names) => {
                let mut list = Vec::new();
                let listed = |name: &Bytes| caller.uid == 0 || !name.starts_with(b"trusted.");
                for name in names.names.into_iter().filter(listed) {
                    list.extend_from_slice(&name);
                    list.push(0);
                }
                Ok(list.into())
            }
            _ => Err(MISFIT),
        }
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    ///
    /// ENODATA if there is none.
    pub async fn removexattr(&self, inode: u64, name: Bytes) -> Result<(), Errno> {
        if !is_kept(&name) {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let op = Op::RemoveXattr(mrc::RemoveXattr { inode, name });
        self.change(op).await?;
        Ok(())
    }
}
