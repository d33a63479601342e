//! What is left of the store's file system for new data: a reserve is never touched.
//!
//! Whoever writes to a file learns at once that the disk is full, and can say so. Whoever makes earlier
//! writes stable can't: what the kernel could not place then is lost. So new objects and growing ones are
//! refused while records, checksums, directories and deletions still find space.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::sys::statvfs::{Statvfs, statvfs};

use crate::config::{
    RESERVE_BYTES_MAX, RESERVE_INODES_MAX, RESERVE_PERCENT, ROOM_INTERVAL, ROOM_SHARES,
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
        let Ok(stat) = statvfs(&self.path) else {
            // The change itself will tell.
            return true;
        };
        let rest = above_reserve(&stat).minus(wanted);
        let share = |number: u64| number.checked_div(ROOM_SHARES).unwrap_or_default();
        let left = rest.unwrap_or_default();
        *granted = Granted {
            left: Amount {
                bytes: share(left.bytes),
                inodes: share(left.inodes),
            },
            looked_at: Some(Instant::now()),
        };
        rest.is_some()
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
