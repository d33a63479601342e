//! Outcomes as replies to the kernel.

use std::time::Duration;

use bytes::Bytes;
use fuser::{Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyXattr};
use proto::mrc::Attr;

use crate::attr::to_kernel;
use crate::errno::Errno;

/// How long the kernel may use attributes and names without asking: not at all, because nothing
/// tells it when another mount changes them.
pub(crate) const TTL: Duration = Duration::ZERO;

/// The shortest time the kernel knows, one or two ticks of its clock: attributes that came with a
/// name then serve the call that asked for the name.
pub(crate) const TICK: Duration = Duration::from_nanos(1);

/// Inode numbers are never used twice.
pub(crate) const GENERATION: Generation = Generation(0);

pub(crate) fn attr(reply: ReplyAttr) -> impl FnOnce(Result<Attr, Errno>) {
    move |outcome| match outcome {
        Ok(attr) => reply.attr(&TTL, &to_kernel(&attr)),
        Err(errno) => reply.error(errno.into()),
    }
}

pub(crate) fn empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) {
    move |outcome| match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno.into()),
    }
}

pub(crate) fn data(reply: ReplyData) -> impl FnOnce(Result<Bytes, Errno>) {
    move |outcome| match outcome {
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno.into()),
    }
}

/// The value, its size if the caller only asks for that, or ERANGE.
pub(crate) fn sized(reply: ReplyXattr, size: u32) -> impl FnOnce(Result<Bytes, Errno>) {
    move |outcome| match outcome {
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno(libc::ERANGE).into()),
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno.into()),
    }
}
