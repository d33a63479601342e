//! How often this store was started, and whether it was stopped in good order.
//!
//! The count is raised and made durable before the server does anything else, because it serves
//! as the epoch of the objects that are born under this start: it must never come twice. A new store
//! counts from the time of day, so that one that takes the place of a lost one does not begin with
//! the numbers of that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use osd_core::NEWBORN_EPOCH_MAX;
use serde::{Deserialize, Serialize};
use shell::statedir::replace_file;
use types::UnixNanos;

const FILE: &str = "BOOT";

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

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    boot: u64,
    clean: bool,
}

/// This start of the store.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    path: PathBuf,
    boot: u64,
    was_clean: bool,
}

impl Boot {
    /// Counts a start. A store with objects must have a count already; a new one counts from `now`.
    pub(crate) fn count(dir: &Path, has_objects: bool, now: UnixNanos) -> Result<Self, BootError> {
        let path = dir.join(FILE);
        let damaged = || BootError::Damaged { path: path.clone() };
        let last = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|_| damaged())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !has_objects => Fields {
                boot: first_before(now),
                clean: false,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
            Err(cause) => return Err(BootError::Io { path, cause }),
        };
        let boot = Self {
            path,
            boot: last.boot + 1,
            was_clean: last.clean,
        };
        boot.save(false)?;
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
        self.save(true)
    }

    fn save(&self, clean: bool) -> Result<(), BootError> {
        let text = format!("boot = {}\nclean = {clean}\n", self.boot);
        replace_file(&self.path, text.as_bytes()).map_err(|cause| BootError::Io {
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

        fs::write(dir.path().join(FILE), "boot = -1").unwrap();
        assert!(matches!(
            Boot::count(dir.path(), false, START),
            Err(BootError::Damaged { .. })
        ));
    }
}
