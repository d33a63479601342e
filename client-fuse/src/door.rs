//! The start of the FUSE door: what is negotiated with the kernel, and how requests become tasks.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fuser::{
    FopenFlags, INodeNo, InitFlags, KernelConfig, Notifier, ReplyAttr, ReplyEntry, Request,
};
use proto::mrc::Attr;
use tokio::runtime::Handle;

use crate::attr::to_kernel;
use crate::config::KERNEL_IO_BYTES;
use crate::errno::Errno;
use crate::follow_up::FollowUps;
use crate::interrupt;
use crate::oxfs::{Caller, OxFs};
use crate::reply::{GENERATION, TICK, TTL};

/// Unpacks requests of the kernel, hands them to the library, packs the answers.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) fs: OxFs,
    runtime: Handle,
    max_background: u16,
    follow_ups: Arc<FollowUps>,
    /// To tell the kernel what it must ask again.
    notifier: Arc<OnceLock<Notifier>>,
}

impl Door {
    pub(crate) fn new(
        fs: OxFs,
        runtime: Handle,
        max_background: u16,
        notifier: Arc<OnceLock<Notifier>>,
    ) -> Self {
        Self {
            fs,
            runtime,
            max_background,
            follow_ups: Arc::default(),
            notifier,
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
        self.follow_ups.forget(request.pid());
        let reply = self.counted(reply);
        self.runtime
            .spawn(interrupt::answer(request.pid(), work, reply, async |_| {}));
    }

    /// Counts a request that came now, when it is answered.
    fn counted<T>(
        &self,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) -> impl FnOnce(Result<T, Errno>) + Send + 'static {
        let serving = self.fs.inner.shared.served.begin();
        move |outcome| {
            serving.end(&outcome);
            reply(outcome);
        }
    }

    /// Counts a request that is answered at once.
    pub(crate) fn count_now<T>(&self, outcome: &Result<T, Errno>) {
        self.fs.inner.shared.served.begin().end(outcome);
    }

    /// As [`Door::serve`] for work that makes an entry of a directory.
    pub(crate) fn serve_new_entry(
        &self,
        request: &Request,
        work: impl Future<Output = Result<Attr, Errno>> + Send + 'static,
        reply: ReplyEntry,
    ) {
        self.follow_ups.forget(request.pid());
        self.serve_entry(request, work, reply);
    }

    /// As [`Door::serve`] for work that ends with an entry of a directory and changes nothing.
    ///
    /// The kernel may keep the attributes of a file for a tick of its clock, unless the file is
    /// open here: only descriptors can ask for them without asking for a name first.
    pub(crate) fn serve_entry(
        &self,
        request: &Request,
        work: impl Future<Output = Result<Attr, Errno>> + Send + 'static,
        reply: ReplyEntry,
    ) {
        let (thread, fs, follow_ups) = (request.pid(), self.fs.clone(), self.follow_ups.clone());
        let reply = move |outcome: Result<Attr, Errno>| match outcome {
            Ok(attr) => {
                let directory = attr.mode & libc::S_IFMT == libc::S_IFDIR;
                let ttl = if directory || fs.is_open(attr.inode) {
                    TTL
                } else {
                    TICK
                };
                follow_ups.told(thread, attr);
                reply.entry_with_ttls(&ttl, &TTL, &to_kernel(&attr), GENERATION);
            }
            Err(errno) => reply.error(errno.into()),
        };
        let reply = self.counted(reply);
        self.runtime
            .spawn(interrupt::answer(thread, work, reply, async |_| {}));
    }

    /// Serves a question for attributes, at once if the kernel was told them just before.
    pub(crate) fn serve_attributes(&self, request: &Request, inode: u64, reply: ReplyAttr) {
        let thread = request.pid();
        if let Some(attr) = self.follow_ups.asks(thread, inode)
            && self.fs.is_untouched(inode)
        {
            self.count_now(&Ok(()));
            return reply.attr(&TTL, &to_kernel(&attr));
        }
        let (fs, follow_ups) = (self.fs.clone(), self.follow_ups.clone());
        let work = async move { fs.getattr(inode).await };
        let reply = move |outcome: Result<Attr, Errno>| match outcome {
            Ok(attr) => {
                follow_ups.told(thread, attr);
                reply.attr(&TTL, &to_kernel(&attr));
            }
            Err(errno) => reply.error(errno.into()),
        };
        let reply = self.counted(reply);
        self.runtime
            .spawn(interrupt::answer(thread, work, reply, async |_| {}));
    }

    /// The kernel is told of a file just created.
    pub(crate) fn told(&self) -> impl Fn(u32, Attr) + Send + 'static {
        let follow_ups = self.follow_ups.clone();
        move |thread, attr| follow_ups.told(thread, attr)
    }

    /// As [`Door::serve`] for work that opens a descriptor: nobody will close it if the program
    /// was killed meanwhile. Of `inode`, if it is known before, the kernel forgets the attributes,
    /// so that the descriptor shows the file's own.
    pub(crate) fn serve_open<T: Send + 'static>(
        &self,
        request: &Request,
        inode: Option<u64>,
        work: impl Future<Output = Result<T, Errno>> + Send + 'static,
        handle_of: impl FnOnce(&T) -> u64 + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.follow_ups.forget(request.pid());
        let (fs, pid, notifier) = (self.fs.clone(), request.pid(), self.notifier.clone());
        let reply = self.counted(reply);
        self.runtime.spawn(async move {
            let undo = async |opened: T| {
                let handle = handle_of(&opened);
                // There is nobody to tell.
                let _ = fs.release(handle).await;
            };
            let reply = |outcome: Result<T, Errno>| {
                if let (Ok(_), Some(inode), Some(notifier)) = (&outcome, inode, notifier.get()) {
                    // Negative: no bytes. It fails only if the kernel does not know the inode.
                    let _ = notifier.inval_inode(INodeNo(inode), -1, 0);
                }
                reply(outcome);
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
