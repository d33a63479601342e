//! Extended attributes.

use std::sync::Arc;

use bytes::Bytes;
use proto::mrc;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;

use crate::errno::Errno;
use crate::file::File;
use crate::lock;
use crate::names::MISFIT;
use crate::oxfs::{Caller, OxFs, to_its_end};

/// Namespaces that are kept. `system` holds access control lists, which are not supported: programs
/// that copy them (`cp -a`, `ls -l`) are told so at once.
fn is_kept(name: &[u8]) -> bool {
    [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// What a program gains when it is run from the file.
const CAPABILITIES: &[u8] = b"security.capability";

impl File {
    /// Takes the file's capabilities away, as every write must, also one by root. Asked for once per
    /// open file that was there before.
    pub(crate) async fn drop_capabilities(self: &Arc<Self>) -> Result<(), Errno> {
        if !lock(&self.state).may_have_capabilities {
            return Ok(());
        }
        let file = self.clone();
        to_its_end(async move {
            let (inode, name) = (file.inode, Bytes::from_static(CAPABILITIES));
            let get = mrc::GetXattr {
                inode,
                name: name.clone(),
            };
            let outcome = match file.shared.metadata.ask(Op::GetXattr(get)).await {
                Ok(_) => {
                    let remove = Op::RemoveXattr(mrc::RemoveXattr { inode, name });
                    file.shared.metadata.change(remove).await
                }
                Err(errno) => Err(errno),
            };
            match outcome {
                Ok(_) | Err(Errno(libc::ENODATA)) => {
                    lock(&file.state).may_have_capabilities = false;
                    Ok(())
                }
                Err(errno) => Err(errno),
            }
        })
        .await
    }
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
        let capabilities = name == CAPABILITIES;
        let op = Op::SetXattr(mrc::SetXattr {
            inode,
            name,
            value,
            create: flags & libc::XATTR_CREATE != 0,
            replace: flags & libc::XATTR_REPLACE != 0,
        });
        self.change(op).await?;
        if capabilities && let Some(file) = self.inner.files.get(inode) {
            lock(&file.state).may_have_capabilities = true;
        }
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
