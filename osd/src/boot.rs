//! How often this store was started, and whether it was stopped in good order.
//!
//! The count is raised and made durable before the server does anything else, because it serves
//! as the epoch of the objects that are born under this start: it must never come twice. A new store
//! counts from the time of day, so that one that takes the place of a lost one does not begin with
//! the numbers of that.
//!
//! The file has two slots that are written in turn, in place: it is as large as it ever gets once it is
//! made, so that a full disk keeps no server from starting.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use osd_core::NEWBORN_EPOCH_MAX;
use shell::statedir::replace_file;
use types::UnixNanos;

const FILE: &str = "BOOT";
/// Bytes of one slot. 512: a sector, which is written wholly or not at all.
const SLOT_BYTES: usize = 512;

/// Why the starts of a store can't be counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The file can't be read or written.
    #[error("can't keep count of starts in {}: {cause}; check that it is writable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file is missing from a store with objects, or makes no sense. Counting from the start
    /// again could give two histories one epoch.
    #[error("{} is missing or damaged; restore it, or give an empty directory so that the server is rebuilt from the others", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// What a slot says. The greater of two was written later.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Fields {
    boot: u64,
    clean: bool,
}

impl Fields {
    /// As it lies in the file, for people to read, too.
    fn encode(self) -> [u8; SLOT_BYTES] {
        let Self { boot, clean } = self;
        let text = format!("boot = {boot}\nclean = {clean}\n");
        let text = format!("{text}crc32c = {:08x}\n", crc32c::crc32c(text.as_bytes()));
        let mut slot = [b'\n'; SLOT_BYTES];
        for (to, from) in slot.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(slot).ok()?.lines();
        let fields = Self {
            boot: lines.next()?.strip_prefix("boot = ")?.parse().ok()?,
            clean: lines.next()?.strip_prefix("clean = ")?.parse().ok()?,
        };
        (fields.encode() == slot).then_some(fields)
    }
}

/// What the file says, and the slot that is to be written next; none if it makes no sense.
fn read(bytes: &[u8]) -> Option<(Fields, usize)> {
    let (first, second) = bytes.split_at_checked(SLOT_BYTES)?;
    match (Fields::decode(first), Fields::decode(second)) {
        (Some(first), Some(second)) if first > second => Some((first, 1)),
        (Some(_), Some(second)) => Some((second, 0)),
        (Some(one), None) => Some((after_damage(one), 1)),
        (None, Some(one)) => Some((after_damage(one), 0)),
        (None, None) => None,
    }
}

/// The other slot was torn, or it was the newer one and rotted: it was of the next start at most.
const fn after_damage(known: Fields) -> Fields {
    Fields {
        boot: known.boot + 1,
        clean: false,
    }
}

/// This start of the store.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    path: PathBuf,
    boot: u64,
    was_clean: bool,
    /// The slot written last.
    slot: usize,
}

impl Boot {
    /// Counts a start. A store with objects must have a count already; a new one counts from `now`.
    pub(crate) fn count(dir: &Path, has_objects: bool, now: UnixNanos) -> Result<Self, BootError> {
        let path = dir.join(FILE);
        let damaged = || BootError::Damaged { path: path.clone() };
        let io = |cause| BootError::Io {
            path: path.clone(),
            cause,
        };
        let (last, slot) = match fs::read(&path) {
            Ok(bytes) => read(&bytes).ok_or_else(damaged)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !has_objects => {
                let first = Fields {
                    boot: first_before(now),
                    clean: false,
                };
                replace_file(&path, &[first.encode(); 2].concat()).map_err(io)?;
                (first, 0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
            Err(cause) => return Err(io(cause)),
        };
        let boot = Self {
            boot: last.boot + 1,
            was_clean: last.clean,
            slot,
            path,
        };
        boot.save(false, slot)?;
        Ok(boot)
    }

    /// Number of this start.
    pub(crate) const fn number(&self) -> u64 {
        self.boot
    }

    /// Whether the last run ended with everything on stable storage.
    pub(crate) const fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Notes that everything is on stable storage and nothing will be written any more.
    pub(crate) fn mark_clean(&self) -> Result<(), BootError> {
        self.save(true, 1 - self.slot)
    }

    fn save(&self, clean: bool, slot: usize) -> Result<(), BootError> {
        let fields = Fields {
            boot: self.boot,
            clean,
        };
        let saved = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| {
                file.write_all_at(&fields.encode(), (slot * SLOT_BYTES) as u64)?;
                file.sync_data()
            });
        saved.map_err(|cause| BootError::Io {
            path: self.path.clone(),
            cause,
        })
    }
}

/// Seconds since 1970. A store is not started more than once a second on average, so the count of
/// one that was lost is smaller.
fn first_before(now: UnixNanos) -> u64 {
    let seconds = u64::try_from(now.0).unwrap_or_default() / 1_000_000_000;
    // A clock that is far off must leave room to count.
    seconds.min(NEWBORN_EPOCH_MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixNanos = UnixNanos(99_000_000_000);

    #[test]
    fn starts_are_counted_and_the_clean_mark_lasts_for_one_start() {
        let dir = tempfile::tempdir().unwrap();

        let first = Boot::count(dir.path(), false, START).unwrap();
        first.mark_clean().unwrap();
        // Whatever the clock says: one more than before.
        let second = Boot::count(dir.path(), true, UnixNanos(0)).unwrap();
        let third = Boot::count(dir.path(), true, UnixNanos(i64::MAX)).unwrap();

        assert_eq!((first.number(), first.was_clean()), (100, false));
        assert_eq!((second.number(), second.was_clean()), (101, true));
        assert_eq!((third.number(), third.was_clean()), (102, false));
    }

    #[test]
    fn store_that_replaces_a_lost_one_repeats_none_of_its_numbers() {
        let start = |seconds: i64| {
            let dir = tempfile::tempdir().unwrap();
            let now = UnixNanos(seconds * 1_000_000_000);
            Boot::count(dir.path(), false, now).unwrap().number()
        };

        assert!(start(1_700_000_010) > start(1_700_000_000));
        assert!(start(i64::MAX / 1_000_000_000) < NEWBORN_EPOCH_MAX);
        assert_eq!(start(-5), 1);
    }

    #[test]
    fn count_is_never_begun_again_in_a_store_with_objects() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Boot::count(dir.path(), true, START),
            Err(BootError::Damaged { .. })
        ));

        fs::write(dir.path().join(FILE), [b'?'; 2 * SLOT_BYTES]).unwrap();
        assert!(matches!(
            Boot::count(dir.path(), false, START),
            Err(BootError::Damaged { .. })
        ));
    }

    /// Whether a start was torn or a slot rotted: no number comes twice, and nothing counts as clean.
    #[test]
    fn damaged_slot_costs_a_number_and_the_clean_mark() {
        for (slot, cut) in [(0, 3), (0, 400), (1, 3), (1, 20)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE);
            Boot::count(dir.path(), false, START).unwrap();
            let last = Boot::count(dir.path(), true, START).unwrap();
            last.mark_clean().unwrap();
            let mut bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 2 * SLOT_BYTES);
            bytes[slot * SLOT_BYTES + cut] ^= 1;
            fs::write(&path, bytes).unwrap();

            let next = Boot::count(dir.path(), true, START).unwrap();

            assert!(next.number() > last.number(), "slot {slot}");
            assert!(!next.was_clean(), "slot {slot}");
            let after = Boot::count(dir.path(), true, START).unwrap();
            assert!(after.number() > next.number());
        }
    }
}
