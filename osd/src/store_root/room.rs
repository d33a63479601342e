//! What is left of the store's file system for new data: a reserve is never touched.
//!
//! Whoever writes to a file learns at once that the disk is full, and can say so. Whoever makes earlier
//! writes stable can't: what the kernel could not place then is lost. So new objects and growing ones are
//! refused while records, checksums, directories and deletions still find space.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::statvfs::statvfs;

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

/// The room of a store, as last seen.
#[derive(Debug)]
pub(crate) struct Room {
    place: Mutex<Place>,
    granted: Mutex<Granted>,
}

/// Where to look.
#[derive(Debug, Default)]
struct Place {
    /// A directory on the file system, if there is one yet.
    path: Option<PathBuf>,
    /// What is known of a file system that only knows its own part of a greater whole.
    whole: Option<Whole>,
}

/// Room that several file systems share.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Whole {
    pub(crate) total_bytes: u64,
    pub(crate) available_bytes: u64,
}

impl Place {
    /// What there is in all, and what of it is free.
    fn look(&self) -> std::io::Result<(Amount, Amount)> {
        let Some(path) = &self.path else {
            let whole = self.whole.unwrap_or_default();
            return Ok((of_bytes(whole.total_bytes), of_bytes(whole.available_bytes)));
        };
        let stat = statvfs(path).map_err(std::io::Error::from)?;
        let unit = stat.fragment_size();
        let inodes = |count| match stat.files() {
            // Made as they are needed.
            0 => u64::MAX,
            _ => count,
        };
        let total = match self.whole {
            Some(whole) => of_bytes(whole.total_bytes),
            None => Amount {
                bytes: stat.blocks() * unit,
                inodes: inodes(stat.files()),
            },
        };
        let free = Amount {
            bytes: stat.blocks_available() * unit,
            inodes: inodes(stat.files_available()),
        };
        Ok((total, free))
    }
}

/// So many bytes, and inodes as they are needed.
const fn of_bytes(bytes: u64) -> Amount {
    Amount {
        bytes,
        inodes: u64::MAX,
    }
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
    fn look(&mut self, place: &Mutex<Place>, wanted: Amount) -> bool {
        let seen = place.lock().unwrap_or_else(PoisonError::into_inner).look();
        let Ok((total, free)) = seen else {
            // The change itself will tell.
            return true;
        };
        let free = above_reserve(total, free);
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
        let place = Place {
            path: Some(path),
            whole: None,
        };
        Self {
            place: Mutex::new(place),
            granted: Mutex::default(),
        }
    }

    /// Looks elsewhere from now on: at one of the file systems that share a whole, if there is one yet.
    pub(crate) fn look_at(&self, path: Option<PathBuf>, whole: Whole) {
        let whole = Some(whole);
        *self.place() = Place { path, whole };
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
        granted.look(&self.place, wanted)
    }

    /// Whether there is no room for a large write, as of a look that is not old.
    pub(crate) fn is_full(&self) -> bool {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = granted
            .looked_at
            .is_some_and(|at| at.elapsed() < ROOM_INTERVAL);
        if !fresh {
            granted.look(&self.place, Amount::default());
        }
        granted.full
    }

    /// Bytes in all, and bytes that new data may take.
    pub(crate) fn space(&self) -> std::io::Result<(u64, u64)> {
        let known = self.place().whole;
        let seen = match known {
            // The file system itself may hang.
            Some(whole) => (of_bytes(whole.total_bytes), of_bytes(whole.available_bytes)),
            None => self.place().look()?,
        };
        let (total, free) = seen;
        Ok((total.bytes, above_reserve(total, free).bytes))
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is free beyond the reserve.
fn above_reserve(total: Amount, free: Amount) -> Amount {
    let reserve = |total: u64, max: u64| (total / 100 * RESERVE_PERCENT).min(max);
    let inodes = match total.inodes {
        u64::MAX => u64::MAX,
        total => free
            .inodes
            .saturating_sub(reserve(total, RESERVE_INODES_MAX)),
    };
    Amount {
        bytes: free
            .bytes
            .saturating_sub(reserve(total.bytes, RESERVE_BYTES_MAX)),
        inodes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_of_a_whole_keeps_the_reserve_of_the_whole() {
        const TOTAL: u64 = 1 << 40;
        let dir = tempfile::tempdir().unwrap();
        let room = Room::of(dir.path().to_owned());
        let own = room.space().unwrap();
        let whole = |available_bytes| Whole {
            total_bytes: TOTAL,
            available_bytes,
        };

        // Nothing is there yet that could be looked at.
        room.look_at(None, whole(RESERVE_BYTES_MAX + 7));
        assert_eq!(room.space().unwrap(), (TOTAL, 7));
        room.look_at(None, whole(RESERVE_BYTES_MAX));
        assert!(!room.take(of_bytes(1)));

        // The file system itself is asked before changes.
        room.look_at(Some(dir.path().to_owned()), whole(0));
        assert_eq!(room.space().unwrap(), (TOTAL, 0));
        assert!(own.1 == 0 || room.take(of_bytes(1)));
    }
}
