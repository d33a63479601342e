//! Changing the bytes of files: write, append, truncate, allocate, flush, fsync.

use std::sync::Arc;

use bytes::Bytes;
use client_core::Change;
use proto::mrc::Attr;
use shell::clock::boottime;
use types::FILE_BYTES_MAX;

use crate::attr::SetAttributes;
use crate::config::{KERNEL_IO_BYTES, PUNCH_BYTES_MAX};
use crate::errno::Errno;
use crate::file::File;
use crate::io::Descriptor;
use crate::lock;
use crate::oxfs::{OxFs, to_its_end};
use crate::seek;
use crate::size::Closing;

impl OxFs {
    /// Takes a write if that needs no waiting; the common case of small writes.
    ///
    /// # Errors
    ///
    /// As write(2), among them the errors of earlier writes.
    pub fn write_now(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        flags: i32,
    ) -> Result<bool, Errno> {
        let descriptor = self.open_descriptor(handle)?;
        descriptor.file.take_error(&descriptor.seen_errors)?;
        let waits = libc::O_APPEND | libc::O_DSYNC | libc::O_SYNC;
        if flags & waits != 0 || offset.saturating_add(data.len() as u64) > FILE_BYTES_MAX {
            return Ok(false);
        }
        Ok(descriptor.file.try_write(offset, data, false))
    }

    /// Writes. With O_APPEND in `flags` the offset is ignored and the bytes are at the file's end
    /// when this returns; with O_SYNC or O_DSYNC they are stable.
    ///
    /// # Errors
    ///
    /// As write(2), among them the errors of earlier writes.
    pub async fn write(
        &self,
        handle: u64,
        offset: u64,
        data: Bytes,
        flags: i32,
    ) -> Result<u32, Errno> {
        let descriptor = self.open_descriptor(handle)?;
        descriptor.file.take_error(&descriptor.seen_errors)?;
        let length = u32::try_from(data.len()).map_err(|_| Errno(libc::EINVAL))?;
        if offset.saturating_add(u64::from(length)) > FILE_BYTES_MAX {
            return Err(Errno(libc::EFBIG));
        }
        let file = &descriptor.file;
        if flags & libc::O_APPEND != 0 {
            self.softly(append(file, data)).await?;
        } else if flags & libc::O_DSYNC != 0 {
            self.softly(write_synchronously(file, offset, &data))
                .await?;
        } else {
            self.softly(write(file, offset, &data)).await?;
        }
        if flags & libc::O_DSYNC != 0 {
            // O_SYNC includes the bit of O_DSYNC.
            self.fsync(handle, flags & libc::O_SYNC != libc::O_SYNC)
                .await?;
        }
        Ok(length)
    }

    /// Removes set-user-id and set-group-id bits, as a write by somebody unprivileged of `group`
    /// must. Who writes as a member of the file's group by a further group only loses the latter
    /// bit, too: the kernel does not tell.
    ///
    /// # Errors
    ///
    /// As chmod(2).
    pub async fn drop_privileges(&self, handle: u64, group: u32) -> Result<(), Errno> {
        let descriptor = self.open_descriptor(handle)?;
        let (mode, owner) = {
            let state = lock(&descriptor.file.state);
            (state.mode, state.group)
        };
        let mut kept = mode & !libc::S_ISUID;
        if mode & libc::S_IXGRP != 0 || group != owner {
            kept &= !libc::S_ISGID;
        }
        if kept != mode {
            let set = SetAttributes {
                mode: Some(kept & 0o7777),
                ..SetAttributes::default()
            };
            self.set_attr(descriptor.file.inode, set, None).await?;
        }
        Ok(())
    }

    /// What close(2) waits for: everything written is acknowledged, size and time are at the
    /// metadata cluster.
    ///
    /// # Errors
    ///
    /// Errors of earlier writes.
    pub async fn flush(&self, handle: u64) -> Result<(), Errno> {
        let descriptor = self.open_descriptor(handle)?;
        if !descriptor.write {
            return Ok(());
        }
        self.softly_done(async move { flush(&descriptor).await })
            .await
    }

    /// Makes what was written, and unless `data_only` its times, durable.
    ///
    /// # Errors
    ///
    /// Errors of earlier writes, EIO if a quorum can't make it durable.
    pub async fn fsync(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let descriptor = self.open_descriptor(handle)?;
        self.softly_done(async move { fsync(&descriptor, data_only).await })
            .await
    }

    /// Sets the length of a file, and other attributes with it.
    pub(crate) async fn truncate(
        &self,
        inode: u64,
        size: u64,
        set: SetAttributes,
    ) -> Result<Attr, Errno> {
        if size > FILE_BYTES_MAX {
            return Err(Errno(libc::EFBIG));
        }
        let fs = self.clone();
        let work = async move {
            let file = fs.inner.files.enter(inode);
            let outcome = fs.truncate_as_writer(&file, size, set).await;
            fs.inner.files.leave(inode);
            outcome
        };
        self.softly_done(work).await
    }

    async fn truncate_as_writer(
        &self,
        file: &Arc<File>,
        size: u64,
        set: SetAttributes,
    ) -> Result<Attr, Errno> {
        enter_write(file).await?;
        let outcome = self.truncate_open(file, size, set).await;
        let _gate = file.gate.lock().await;
        let closed = file.close_descriptor(true).await;
        outcome.and_then(|attr| closed.map(|()| attr))
    }

    async fn truncate_open(
        &self,
        file: &Arc<File>,
        size: u64,
        set: SetAttributes,
    ) -> Result<Attr, Errno> {
        file.drain().await;
        file.admit_end(size).await?;
        let data_version = {
            let mut state = lock(&file.state);
            // Older than what SetAttr sets.
            state.mtime = None;
            state.data_version
        };
        // Also to nothing and of a file nobody has written here: another mount may have.
        file.alone(Change::Truncate { length: size }).await?;
        let attr = self.record_truncation(file, set, size, data_version);
        let attr = self.adorned(attr.await?);
        lock(&file.state).forget_settled_debt();
        Ok(attr)
    }

    /// fallocate(2): extends a file, or writes zeros in place of a hole.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP for modes that are neither.
    pub async fn fallocate(
        &self,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(Errno(libc::EFBIG))?;
        let descriptor = self.open_descriptor(handle)?;
        if !descriptor.write {
            return Err(Errno(libc::EBADF));
        }
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 if keep_size => Err(Errno(libc::EOPNOTSUPP)),
            0 => self.extend(&descriptor.file, end).await,
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => {
                let length = self.softly(object_length(&descriptor.file)).await?;
                self.zero(&descriptor, offset, end.min(length)).await?;
                if !keep_size {
                    self.extend(&descriptor.file, end).await?;
                }
                Ok(())
            }
            _ => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    /// Makes a file at least `length` bytes long. What other mounts have written is never cut off:
    /// the object's primary compares, which alone knows how long the file is now.
    async fn extend(&self, file: &Arc<File>, length: u64) -> Result<(), Errno> {
        let file = file.clone();
        let work = async move {
            file.admit_end(length).await?;
            extend_object(&file, length).await?;
            let _gate = file.gate.lock().await;
            file.report(Closing::No).await
        };
        self.softly_done(work).await
    }

    /// Writes zeros where there is data; what is a hole stays one.
    async fn zero(&self, descriptor: &Arc<Descriptor>, offset: u64, end: u64) -> Result<(), Errno> {
        if end.saturating_sub(offset) > PUNCH_BYTES_MAX {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let next = |at, hole| self.softly(seek::next(Arc::clone(descriptor), at, hole));
        let zeros = Bytes::from(vec![0; KERNEL_IO_BYTES as usize]);
        let mut at = offset;
        while let Some(data) = next(at, false).await?.filter(|data| *data < end) {
            let hole = next(data, true).await?.map_or(end, |hole| hole.min(end));
            at = data;
            while at < hole {
                let part = (hole - at).min(u64::from(KERNEL_IO_BYTES));
                let part = zeros.slice(..usize::try_from(part).unwrap_or(0));
                self.softly(write(&descriptor.file, at, &part)).await?;
                at += part.len() as u64;
            }
            // Never twice the same, whatever the answers were.
            at = at.max(data + 1);
        }
        Ok(())
    }
}

/// Counts as a writer from now on, registered as such.
async fn enter_write(file: &Arc<File>) -> Result<(), Errno> {
    let _gate = file.gate.lock().await;
    let registered = lock(&file.state).registered_write;
    if !registered {
        file.register_write().await?;
    }
    lock(&file.state).writers += 1;
    Ok(())
}

async fn write(file: &Arc<File>, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let end = offset.saturating_add(data.len() as u64);
    file.admit_end(end).await?;
    while !file.try_write(offset, data, true) {
        register_again(file).await?;
        file.drop_capabilities().await?;
        if lock(&file.state).writes_through(boottime()) {
            return write_through(file, offset, data).await;
        }
        file.wait_for_room().await;
    }
    Ok(())
}

/// Writes what nobody reads before the primary has answered for it: until then it may fail.
async fn write_synchronously(file: &Arc<File>, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let end = offset.saturating_add(data.len() as u64);
    file.admit_end(end).await?;
    register_again(file).await?;
    file.drop_capabilities().await?;
    file.wait_for_room().await;
    write_through(file, offset, data).await
}

/// Writes what the primary answers for before the program hears of it.
async fn write_through(file: &Arc<File>, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let mut at = offset;
    for part in data.chunks(KERNEL_IO_BYTES as usize) {
        lock(&file.state).touch();
        let change = Change::Write {
            offset: at,
            bytes: Bytes::copy_from_slice(part),
        };
        file.alone(change).await?;
        at += part.len() as u64;
    }
    Ok(())
}

/// A descriptor that was duplicated may write after the file was reported as closed.
async fn register_again(file: &Arc<File>) -> Result<(), Errno> {
    if lock(&file.state).registered_write {
        return Ok(());
    }
    let file = file.clone();
    to_its_end(async move {
        let _gate = file.gate.lock().await;
        let registered = lock(&file.state).registered_write;
        if !registered {
            file.register_write().await?;
        }
        Ok(())
    })
    .await
}

/// Writes nothing at `length`, which moves the object's end there unless it is beyond already;
/// returns how long the object is then.
async fn extend_object(file: &Arc<File>, length: u64) -> Result<u64, Errno> {
    register_again(file).await?;
    file.drain().await;
    let nothing = Change::Write {
        offset: length,
        bytes: Bytes::new(),
    };
    file.alone(nothing).await.map(|answer| answer.length)
}

/// Length of the object, with what other mounts have written and not told the metadata cluster.
async fn object_length(file: &Arc<File>) -> Result<u64, Errno> {
    extend_object(file, 0).await
}

async fn append(file: &Arc<File>, data: Bytes) -> Result<(), Errno> {
    file.admit(data.len() as u64).await?;
    register_again(file).await?;
    file.drop_capabilities().await?;
    lock(&file.state).touch();
    let change = Change::Append { bytes: data };
    file.alone(change).await?;
    Ok(())
}

async fn flush(descriptor: &Descriptor) -> Result<(), Errno> {
    let file = &descriptor.file;
    file.drain().await;
    let outcome = {
        let _gate = file.gate.lock().await;
        let (dirty, last) = {
            let state = lock(&file.state);
            let dirty = state.written_end > 0 || state.mtime.is_some();
            (dirty, state.writers == 1 && state.changes.is_idle())
        };
        if dirty {
            let closing = if last { Closing::Flushed } else { Closing::No };
            file.report(closing).await
        } else {
            Ok(())
        }
    };
    file.take_error(&descriptor.seen_errors).and(outcome)
}

async fn fsync(descriptor: &Descriptor, data_only: bool) -> Result<(), Errno> {
    let file = &descriptor.file;
    file.drain().await;
    file.take_error(&descriptor.seen_errors)?;
    let may_sync = lock(&file.state).grant.write;
    if may_sync {
        file.sync_objects().await?;
    } else {
        // A descriptor for reading syncs as well; the right to do so is a writer's.
        enter_write(file).await?;
        let outcome = file.sync_objects().await;
        let _gate = file.gate.lock().await;
        let outcome = file.close_descriptor(true).await.and(outcome);
        return file.take_error(&descriptor.seen_errors).and(outcome);
    }
    // What was found lost on the way.
    file.take_error(&descriptor.seen_errors)?;
    let _gate = file.gate.lock().await;
    let needed = {
        let state = lock(&file.state);
        !data_only || state.written_end > state.size
    };
    if needed {
        file.report(Closing::No).await?;
    }
    Ok(())
}
