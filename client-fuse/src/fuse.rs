//! The FUSE door: one method per request of the kernel, without any decision.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use crate::attr::{SetAttributes, SetTime, kind_of, nanos_from_kernel, to_kernel};
use crate::door::{Door, bytes_of, caller_of, open_flags};
use crate::io::writes;
use crate::oxfs::NewFile;
use crate::reply::{GENERATION, TTL, attr, data, empty, sized};

/// Entries of a directory offered for one reply. 1,024: more than the kernel's buffer holds.
const LIST_REPLY_MAX: usize = 1_024;

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(nanos_from_kernel(at)),
    }
}

impl Filesystem for Door {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        let work = async move { fs.lookup(parent.0, name).await };
        self.serve_entry(request, work, reply);
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {
        // Nothing is kept per inode that the kernel knows.
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.serve_attributes(request, ino.0, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let fs = self.fs.clone();
        let set = SetAttributes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        self.serve(
            request,
            async move { fs.setattr(ino.0, set).await },
            attr(reply),
        );
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        self.serve(
            request,
            async move { fs.readlink(ino.0).await },
            data(reply),
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, name, owner) = (self.fs.clone(), bytes_of(name), caller_of(request));
        let work = async move { fs.mknod(parent.0, name, mode, rdev, owner).await };
        self.serve_new_entry(request, work, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let (fs, name, owner) = (self.fs.clone(), bytes_of(name), caller_of(request));
        let work = async move { fs.mkdir(parent.0, name, mode & 0o7777, owner).await };
        self.serve_new_entry(request, work, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        self.serve(
            request,
            async move { fs.unlink(parent.0, name).await },
            empty(reply),
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        self.serve(
            request,
            async move { fs.rmdir(parent.0, name).await },
            empty(reply),
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (fs, name, owner) = (self.fs.clone(), bytes_of(name), caller_of(request));
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let work = async move { fs.symlink(parent.0, name, target, owner).await };
        self.serve_new_entry(request, work, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let from = (parent.0, bytes_of(name));
        let to = (new_parent.0, bytes_of(new_name));
        let work = async move { fs.rename(from, to, flags.bits()).await };
        self.serve(request, work, empty(reply));
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        let work = async move { fs.link(ino.0, parent.0, name).await };
        self.serve_new_entry(request, work, reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        let work = async move { fs.open(ino.0, flags.0).await };
        self.serve_open(
            request,
            Some(ino.0),
            work,
            |handle| *handle,
            move |outcome| match outcome {
                Ok(handle) => reply.opened(FileHandle(handle), open_flags(writes(flags.0))),
                Err(errno) => reply.error(errno.into()),
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        let new = NewFile {
            mode: mode & 0o7777,
            flags,
            owner: caller_of(request),
        };
        let work = async move { fs.create(parent.0, name, new).await };
        let (thread, told) = (request.pid(), self.told());
        self.serve_open(
            request,
            None,
            work,
            |made| made.1,
            move |outcome| match outcome {
                Ok((attr, handle)) => {
                    told(thread, attr);
                    let (attr, flags) = (to_kernel(&attr), open_flags(writes(flags)));
                    reply.created(&TTL, &attr, GENERATION, FileHandle(handle), flags);
                }
                Err(errno) => reply.error(errno.into()),
            },
        );
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        let served = fs.inner.shared.served.clone();
        let work = async move { fs.read(handle.0, offset, size).await };
        let reply = data(reply);
        self.serve(request, work, move |outcome| {
            served.read(outcome.as_ref().map_or(0, Bytes::len));
            reply(outcome);
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // Pages of a mapping go where they were mapped, whatever the descriptor's flags.
        let flags = if cached { 0 } else { flags.0 };
        if !kill {
            let written = self.fs.write_now(handle.0, offset, bytes, flags);
            if !matches!(written, Ok(false)) {
                self.count_now(&written);
            }
            match written {
                Ok(true) => {
                    self.fs.inner.shared.served.written(bytes.len());
                    return reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                }
                Ok(false) => {}
                Err(errno) => return reply.error(errno.into()),
            }
        }
        let (fs, bytes) = (self.fs.clone(), Bytes::copy_from_slice(bytes));
        let served = self.fs.inner.shared.served.clone();
        let group = request.gid();
        let work = async move {
            if kill {
                fs.drop_privileges(handle.0, group).await?;
            }
            fs.write(handle.0, offset, bytes, flags).await
        };
        self.serve(request, work, move |outcome| match outcome {
            Ok(written) => {
                served.written(written as usize);
                reply.written(written);
            }
            Err(errno) => reply.error(errno.into()),
        });
    }

    fn flush(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.serve(
            request,
            async move { fs.flush(handle.0).await },
            empty(reply),
        );
    }

    fn release(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.serve(
            request,
            async move { fs.release(handle.0).await },
            empty(reply),
        );
    }

    fn fsync(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.fsync(handle.0, data_only).await };
        self.serve(request, work, empty(reply));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(self.fs.opendir(ino.0)),
            fuser::FopenFlags::empty(),
        );
    }

    fn readdir(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        let work = async move {
            let mut items = Vec::new();
            fs.readdir(handle.0, offset, |item| {
                items.push(item);
                items.len() < LIST_REPLY_MAX
            })
            .await?;
            Ok(items)
        };
        self.serve(request, work, move |outcome| match outcome {
            Ok(items) => {
                for item in items {
                    let name = OsStr::from_bytes(&item.name);
                    let (ino, kind) = (INodeNo(item.inode), kind_of(item.kind));
                    if reply.add(ino, item.next_offset, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno.into()),
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Changes of the namespace are durable on a majority before they are answered.
        reply.ok();
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs.clone();
        self.serve(
            request,
            async move { fs.statfs().await },
            |outcome| match outcome {
                Ok(stat) => {
                    let block = 4096;
                    let (blocks, free) = (stat.capacity_bytes / block, stat.free_bytes / block);
                    // Inodes have no limit of their own: as many more as there are free blocks.
                    let files = stat.inode_count.saturating_add(free);
                    reply.statfs(blocks, free, free, files, free, 4096, 255, 4096);
                }
                Err(errno) => reply.error(errno.into()),
            },
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        let value = Bytes::copy_from_slice(value);
        let work = async move { fs.setxattr(ino.0, name, value, flags).await };
        self.serve(request, work, empty(reply));
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        let work = async move { fs.getxattr(ino.0, name).await };
        self.serve(request, work, sized(reply, size));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, caller) = (self.fs.clone(), caller_of(request));
        let work = async move { fs.listxattr(ino.0, caller).await };
        self.serve(request, work, sized(reply, size));
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), bytes_of(name));
        let work = async move { fs.removexattr(ino.0, name).await };
        self.serve(request, work, empty(reply));
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.fallocate(handle.0, offset, length, mode).await };
        self.serve(request, work, empty(reply));
    }

    fn lseek(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.lseek(handle.0, offset, whence).await };
        self.serve(request, work, move |outcome| match outcome {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(errno.into()),
        });
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies by reading and writing.
        reply.error(fuser::Errno::ENOSYS);
    }
}
