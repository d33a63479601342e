//! What is left of the store's file system for new data: a reserve is never touched.
//!
//! Whoever writes to a file learns at once that the disk is full, and can say so. Whoever makes earlier
//! writes stable can't: what the kernel could not place then is lost. So new objects and growing ones are
//! refused while records, checksums, directories and deletions still find space.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::sys::statvfs::{Statvfs, statvfs};

use crate::config::{
    FULL_BYTES, RESERVE_BYTES_MAX, RESERVE_INODES_MAX, RESERVE_PERCENT, ROOM_INTERVAL, ROOM_SHARES,
};

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Amount {
    fn minus(self, other: Self) -> Option<Self> {
        Some(Self {
            bytes: self.bytes.checked_sub(other.bytes)?,
            inodes: self.inodes.checked_sub(other.inodes)?,
        })
    }
}

/// The room of one file system, as last seen.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    granted: Mutex<Granted>,
}

/// What may be taken before the next look.
#[derive(Debug, Default)]
struct Granted {
    left: Amount,
    looked_at: Option<Instant>,
    /// There was less than a large write takes.
    full: bool,
}

impl Granted {
    /// Looks how much there is beside what is wanted; false if that is not there.
    fn look(&mut self, path: &Path, wanted: Amount) -> bool {
        let Ok(stat) = statvfs(path) else {
            // The change itself will tell.
            return true;
        };
        let free = above_reserve(&stat);
        let rest = free.minus(wanted);
        let share = |number: u64| number.checked_div(ROOM_SHARES).unwrap_or_default();
        let left = rest.unwrap_or_default();
        *self = Self {
            left: Amount {
                bytes: share(left.bytes),
                inodes: share(left.inodes),
            },
            looked_at: Some(Instant::now()),
            full: free.bytes < FULL_BYTES || free.inodes == 0,
        };
        rest.is_some()
    }
}

impl Room {
    pub(crate) fn of(path: PathBuf) -> Self {
        Self {
            path,
            granted: Mutex::default(),
        }
    }

    /// Takes room for a change that is about to be made; false if there is none.
    pub(crate) fn take(&self, wanted: Amount) -> bool {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = granted
            .looked_at
            .is_some_and(|at| at.elapsed() < ROOM_INTERVAL);
        if fresh && let Some(left) = granted.left.minus(wanted) {
            granted.left = left;
            return true;
        }
        granted.look(&self.path, wanted)
    }

    /// Whether there is no room for a large write, as of a look that is not old.
    pub(crate) fn is_full(&self) -> bool {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = granted
            .looked_at
            .is_some_and(|at| at.elapsed() < ROOM_INTERVAL);
        if !fresh {
            granted.look(&self.path, Amount::default());
        }
        granted.full
    }

    /// Bytes in all, and bytes that new data may take.
    pub(crate) fn space(&self) -> std::io::Result<(u64, u64)> {
        let stat = statvfs(&self.path).map_err(std::io::Error::from)?;
        let total = stat.blocks() * stat.fragment_size();
        Ok((total, above_reserve(&stat).bytes))
    }
}

/// What is free of the file system beyond the reserve.
fn above_reserve(stat: &Statvfs) -> Amount {
    let unit = stat.fragment_size();
    let reserve = |total: u64, max: u64| (total / 100 * RESERVE_PERCENT).min(max);
    let reserve_bytes = reserve(stat.blocks() * unit, RESERVE_BYTES_MAX);
    let inodes = match stat.files() {
        // Made as they are needed.
        0 => u64::MAX,
        total => stat
            .files_available()
            .saturating_sub(reserve(total, RESERVE_INODES_MAX)),
    };
    Amount {
        bytes: (stat.blocks_available() * unit).saturating_sub(reserve_bytes),
        inodes,
    }
}
