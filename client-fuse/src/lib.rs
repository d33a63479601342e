//! OxFS for programs: the async library [`OxFs`] and the FUSE mount on top of it.
//!
//! The library speaks in inode numbers and descriptors, as the kernel does. Nothing of another
//! mount's making is cached beyond what `docs/semantics.md` says; what this mount's programs wrote
//! is gathered, sent in order and repeated until it is acknowledged.

mod attr;
mod config;
mod connect;
mod dir;
mod door;
mod errno;
mod file;
mod files;
mod follow_up;
mod fuse;
mod interrupt;
mod io;
mod metadata;
mod metrics;
mod mount;
mod names;
mod object_read;
mod options;
mod oxfs;
mod peer;
mod registration;
mod reply;
mod seek;
mod send;
mod served;
mod settings;
mod shared;
mod size;
mod stall;
mod timer;
mod write;
mod xattr;

pub use attr::{SetAttributes, SetTime};
pub use connect::{ConnectError, ConnectOptions};
pub use dir::DirItem;
pub use errno::Errno;
pub use mount::{MountError, MountOptions, mount, mount_and_tell};
pub use options::{Flags, OptionError};
pub use oxfs::{Caller, NewFile, OxFs};
pub use settings::{Settings, SettingsError};

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks, also after a panic elsewhere: every critical section here leaves its state consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`].
pub(crate) fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`].
pub(crate) fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
