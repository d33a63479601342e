//! The start of the FUSE door: what is negotiated with the kernel, and how requests become tasks.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use fuser::{FopenFlags, InitFlags, KernelConfig, Request};
use tokio::runtime::Handle;

use crate::config::KERNEL_IO_BYTES;
use crate::errno::Errno;
use crate::interrupt;
use crate::oxfs::{Caller, OxFs};

/// Unpacks requests of the kernel, hands them to the library, packs the answers.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) fs: OxFs,
    runtime: Handle,
    max_background: u16,
}

impl Door {
    pub(crate) const fn new(fs: OxFs, runtime: Handle, max_background: u16) -> Self {
        Self {
            fs,
            runtime,
            max_background,
        }
    }

    /// Says what this file system can do.
    pub(crate) fn negotiate(&self, config: &mut KernelConfig) -> io::Result<()> {
        // Shared mappings of files that are otherwise never cached (Linux 6.6): compilers, git and
        // databases need them.
        let needed = InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP | InitFlags::FUSE_PARALLEL_DIROPS;
        config.add_capabilities(needed).map_err(|missing| {
            io::Error::other(format!(
                "this kernel's FUSE lacks {missing:?}; Linux 6.6 or later is needed"
            ))
        })?;
        for wished in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
        ] {
            // Only speed is lost without one of them.
            let _ = config.add_capabilities(wished);
        }
        let _ = config.set_max_write(KERNEL_IO_BYTES);
        if let Err(most) = config.set_max_readahead(KERNEL_IO_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(self.max_background);
        Ok(())
    }

    /// Serves a request on a task of its own.
    pub(crate) fn serve<T: Send + 'static>(
        &self,
        request: &Request,
        work: impl Future<Output = Result<T, Errno>> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.runtime
            .spawn(interrupt::answer(request.pid(), work, reply, async |_| {}));
    }

    /// As [`Door::serve`] for work that opens a descriptor: nobody will close it if the program
    /// was killed meanwhile.
    pub(crate) fn serve_open<T: Send + 'static>(
        &self,
        request: &Request,
        work: impl Future<Output = Result<T, Errno>> + Send + 'static,
        handle_of: impl FnOnce(&T) -> u64 + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let (fs, pid) = (self.fs.clone(), request.pid());
        self.runtime.spawn(async move {
            let undo = async |opened: T| {
                let handle = handle_of(&opened);
                // There is nobody to tell.
                let _ = fs.release(handle).await;
            };
            interrupt::answer(pid, work, reply, undo).await;
        });
    }
}

/// How descriptors of files are treated: nothing is cached for read and write. Without a flush on
/// closing descriptors that can't have written.
pub(crate) fn open_flags(write: bool) -> FopenFlags {
    if write {
        FopenFlags::FOPEN_DIRECT_IO
    } else {
        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
    }
}

pub(crate) fn bytes_of(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

pub(crate) fn caller_of(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}
