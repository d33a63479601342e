//! Descriptors: opening, reading and closing them.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use client_core::{Fetch, ReadAhead, Served};
use proto::mrc;
use proto::mrc::Attr;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use shell::clock::boottime;
use tokio::sync::Notify;

use crate::attr::SetAttributes;
use crate::errno::Errno;
use crate::file::File;
use crate::lock;
use crate::names::MISFIT;
use crate::oxfs::{NewFile, OxFs};

/// An open descriptor of a file.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) file: Arc<File>,
    pub(crate) write: bool,
    /// How many failed writes it has been told of.
    pub(crate) seen_errors: AtomicU64,
    /// Locked before the file's state, never after.
    ahead: Mutex<ReadAhead>,
    /// A fetch came back.
    fetched: Notify,
}

impl Descriptor {
    fn new(file: Arc<File>, write: bool) -> Self {
        let seen_errors = AtomicU64::new(file.error_count());
        let ahead = ReadAhead::new(file.shared.read_ahead_limits);
        Self {
            file,
            write,
            seen_errors,
            ahead: Mutex::new(ahead),
            fetched: Notify::new(),
        }
    }
}

/// Whether the flags of open(2) ask for writing.
pub(crate) fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl OxFs {
    /// Opens a file; `flags` are those of open(2), of which O_TRUNC is the caller's to do.
    ///
    /// # Errors
    ///
    /// As open(2).
    pub async fn open(&self, inode: u64, flags: i32) -> Result<u64, Errno> {
        let write = writes(flags);
        let fs = self.clone();
        let work = async move {
            let file = fs.inner.files.enter(inode);
            if let Err(errno) = Self::open_file(&file, write).await {
                fs.inner.files.leave(inode);
                return Err(errno);
            }
            Ok(fs.descriptor(file, write))
        };
        // A descriptor that a `soft` mount opens too late stays open until the mount ends.
        self.softly_done(work).await
    }

    async fn open_file(file: &Arc<File>, write: bool) -> Result<(), Errno> {
        let _gate = file.gate.lock().await;
        let (has_write, has_read) = {
            let state = lock(&file.state);
            (state.registered_write, state.registered_read)
        };
        if write {
            if !has_write {
                file.register_write().await?;
            }
            lock(&file.state).writers += 1;
        } else {
            if !has_write && !has_read {
                file.enter_read().await?;
            }
            lock(&file.state).readers += 1;
        }
        Ok(())
    }

    /// Creates a file, or opens the one that is there unless O_EXCL is given.
    ///
    /// # Errors
    ///
    /// As open(2) with O_CREAT.
    pub async fn create(
        &self,
        parent: u64,
        name: Bytes,
        new: NewFile,
    ) -> Result<(Attr, u64), Errno> {
        let write = writes(new.flags);
        let op = Op::Create(mrc::Create {
            parent,
            name,
            mode: new.mode,
            owner: Some(new.owner.into()),
            exclusive: new.flags & libc::O_EXCL != 0,
            write,
        });
        let asked = self.inner.shared.metadata.last_order();
        let Reply::Opened(opened) = self.change(op).await? else {
            return Err(MISFIT);
        };
        let attr = opened.attr.ok_or(MISFIT)?;
        let file = self.inner.files.enter(attr.inode);
        {
            let _gate = file.gate.lock().await;
            file.opened(&opened, write);
            let mut state = lock(&file.state);
            state.may_have_capabilities &= opened.existed;
            if write {
                state.registered_write = true;
                state.writers += 1;
            } else {
                state.registered_read = true;
                state.told_read = true;
                state.readers += 1;
            }
        }
        // One number was drawn for the request. With more of them, the leader may have been told since
        // that the file is not open here, or another leader of everything that was.
        let is_told = write || self.inner.shared.metadata.last_order() == asked + 1;
        let truncate = opened.existed && write && new.flags & libc::O_TRUNC != 0;
        let handle = self.descriptor(file.clone(), write);
        if is_told && !truncate {
            return Ok((self.adorned(attr), handle));
        }
        let opened = match truncate {
            true => self.truncate(attr.inode, 0, SetAttributes::default()).await,
            false => {
                let _gate = file.gate.lock().await;
                let told = file.register_read().await;
                told.map(|attr| self.adorned(attr))
            }
        };
        match opened {
            Ok(attr) => Ok((attr, handle)),
            Err(errno) => {
                // The program gets no descriptor that it could close.
                self.close_abandoned(handle);
                Err(errno)
            }
        }
    }

    /// Closes a descriptor that nobody was told of. Its file's other changes may take long.
    fn close_abandoned(&self, handle: u64) {
        let fs = self.clone();
        tokio::spawn(async move {
            if let Err(errno) = fs.release(handle).await {
                tracing::debug!(%errno, "closing a descriptor that nobody has failed");
            }
        });
    }

    fn descriptor(&self, file: Arc<File>, write: bool) -> u64 {
        let handle = self.new_handle();
        let descriptor = Arc::new(Descriptor::new(file, write));
        self.inner.descriptors.insert(handle, descriptor);
        handle
    }

    pub(crate) fn open_descriptor(&self, handle: u64) -> Result<Arc<Descriptor>, Errno> {
        let found = self.inner.descriptors.get(&handle);
        found.map(|d| d.clone()).ok_or(Errno(libc::EBADF))
    }

    /// Closes a descriptor. What [`OxFs::flush`] has not reported is reported now.
    ///
    /// # Errors
    ///
    /// As close(2).
    pub async fn release(&self, handle: u64) -> Result<(), Errno> {
        let Some((_, descriptor)) = self.inner.descriptors.remove(&handle) else {
            return Err(Errno(libc::EBADF));
        };
        let file = &descriptor.file;
        let outcome = {
            let _gate = file.gate.lock().await;
            file.close_descriptor(descriptor.write).await
        };
        let error = file.take_error(&descriptor.seen_errors);
        self.inner.files.leave(file.inode);
        error.and(outcome)
    }

    /// Reads. Fewer bytes than asked for: the file ends there.
    ///
    /// # Errors
    ///
    /// As read(2).
    pub async fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Bytes, Errno> {
        let descriptor = self.open_descriptor(handle)?;
        self.softly(read(descriptor, offset, length)).await
    }
}

async fn read(descriptor: Arc<Descriptor>, offset: u64, length: u32) -> Result<Bytes, Errno> {
    let file = &descriptor.file;
    let (peeked, pending_end) = {
        let state = lock(&file.state);
        let changes = &state.changes;
        let concerned = changes.concerns(offset, u64::from(length));
        let peeked = concerned.then(|| changes.peek(offset, u64::from(length)));
        (peeked, changes.pending_end())
    };
    match peeked {
        Some(Some(bytes)) => return Ok(bytes),
        Some(None) => file.drain().await,
        None => {}
    }
    let bytes = read_ordered(&descriptor, offset, length).await?;
    // Bytes before the end of a write that is on its way are zero, not beyond the end.
    let visible = pending_end.saturating_sub(offset).min(u64::from(length));
    let visible = usize::try_from(visible).unwrap_or(0);
    if bytes.len() >= visible {
        return Ok(bytes);
    }
    let mut filled = BytesMut::from(&bytes[..]);
    filled.resize(visible, 0);
    Ok(filled.freeze())
}

/// Reads from what was read ahead, or from the primary.
async fn read_ordered(
    descriptor: &Arc<Descriptor>,
    offset: u64,
    length: u32,
) -> Result<Bytes, Errno> {
    let file = &descriptor.file;
    loop {
        let fetched = descriptor.fetched.notified();
        tokio::pin!(fetched);
        fetched.as_mut().enable();
        let now = boottime();
        let (served, version) = {
            let mut ahead = lock(&descriptor.ahead);
            let version = file.settled_version();
            let served = ahead.read(now, version, offset, u64::from(length));
            (served, version)
        };
        match served {
            Served::Bytes(bytes) => {
                fetch_ahead(descriptor);
                return Ok(bytes);
            }
            Served::Wait(_) => fetched.await,
            Served::Miss => {
                let bytes = file.read_object(offset, length).await?;
                let got = bytes.len() as u64;
                let asked = u64::from(length);
                lock(&descriptor.ahead).missed(now, version, offset, asked, got);
                fetch_ahead(descriptor);
                return Ok(bytes);
            }
        }
    }
}

fn fetch_ahead(descriptor: &Arc<Descriptor>) {
    let file = &descriptor.file;
    if file.shared.read_ahead_limits.age_max == types::Duration::ZERO {
        return;
    }
    let fetches = {
        let mut ahead = lock(&descriptor.ahead);
        let (version, size) = {
            let state = lock(&file.state);
            (state.changes.settled_version(), state.known_size())
        };
        ahead.plan(boottime(), version, size)
    };
    for fetch in fetches {
        tokio::spawn(fetch_one(descriptor.clone(), fetch));
    }
}

async fn fetch_one(descriptor: Arc<Descriptor>, fetch: Fetch) {
    // Windows are no longer than the kernel's largest read.
    let length = u32::try_from(fetch.length).unwrap_or(u32::MAX);
    let bytes = descriptor.file.read_object(fetch.offset, length).await.ok();
    lock(&descriptor.ahead).fetched(fetch, bytes);
    descriptor.fetched.notify_waiters();
}
