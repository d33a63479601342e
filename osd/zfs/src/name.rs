//! Names of pools, datasets, snapshots and bookmarks, checked before any command sees them.

use std::fmt;

use types::{OsdId, PgId, PgKey, VolumeId};

use crate::error::Error;

/// Bytes of a whole name. 255: what ZFS takes (256 with the zero behind it).
const NAME_BYTES_MAX: usize = 255;

/// Bytes of the part above volumes. 200: leaves room for `/<volume>/<pg>@<snapshot>` of 55 bytes.
const ROOT_BYTES_MAX: usize = 200;

/// What lies between a root and the groups that are being received below it. No volume is called so.
const SEEDS: &str = "seeds";

/// How snapshots begin that are made to be sent to another server; its number follows.
const SEED_SNAPSHOT: &str = "oxfs-seed-";

macro_rules! shown {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl $name {
            /// The whole name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

/// A pool: `tank`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PoolName(String);

shown!(PoolName);

impl PoolName {
    /// Checks a pool's name.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] unless it is letters, digits and `_.:-`, and begins with a letter.
    pub fn new(name: &str) -> Result<Self, Error> {
        check_component(name, name)?;
        if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Err(bad(name));
        }
        check_length(name, NAME_BYTES_MAX)?;
        Ok(Self(name.to_owned()))
    }
}

/// A file system in a pool: `tank/oxfs/3/7`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DatasetName(String);

shown!(DatasetName);

impl DatasetName {
    /// Checks a dataset's name, the pool's included.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] unless it is a pool and at least one more part, divided by `/`, each of letters,
    /// digits and `_.:-`, none empty or beginning with `-` or `.`.
    pub fn new(name: &str) -> Result<Self, Error> {
        let (pool, rest) = name.split_once('/').ok_or_else(|| bad(name))?;
        PoolName::new(pool).map_err(|_| bad(name))?;
        for part in rest.split('/') {
            check_component(part, name)?;
        }
        check_length(name, NAME_BYTES_MAX)?;
        Ok(Self(name.to_owned()))
    }

    /// Whether what lies below it can be named: `/<volume>/<pg>@<snapshot>`.
    ///
    /// # Errors
    ///
    /// [`Error::LongName`] above 200 bytes.
    pub(crate) fn check_root(&self) -> Result<(), Error> {
        check_length(&self.0, ROOT_BYTES_MAX)
    }

    /// The pool it is in.
    #[must_use]
    pub fn pool(&self) -> PoolName {
        PoolName(self.0.split('/').next().unwrap_or_default().to_owned())
    }

    /// The dataset above it; none if that is the pool's own.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        parent.contains('/').then(|| Self(parent.to_owned()))
    }

    /// The dataset below this one that holds all of a volume.
    pub(crate) fn volume(&self, volume: VolumeId) -> Self {
        Self(format!("{self}/{volume}"))
    }

    /// The dataset below this one that holds a placement group.
    pub(crate) fn group(&self, group: PgKey) -> Self {
        Self(format!("{self}/{}/{}", group.volume, group.pg))
    }

    /// The placement group whose dataset this is below `root`; the inverse of [`Self::group`].
    pub(crate) fn group_below(&self, root: &Self) -> Option<PgKey> {
        let (volume, pg) = self
            .0
            .strip_prefix(&root.0)?
            .strip_prefix('/')?
            .split_once('/')?;
        let group = PgKey {
            volume: VolumeId(volume.parse().ok()?),
            pg: PgId(pg.parse().ok()?),
        };
        // Only what `group` would write: not `07` or `+7`.
        (root.group(group) == *self).then_some(group)
    }

    /// The dataset below this one that holds all groups that are being received.
    pub(crate) fn seeds(&self) -> Self {
        Self(format!("{self}/{SEEDS}"))
    }

    /// The dataset below this one that a placement group is received into.
    pub(crate) fn seed(&self, group: PgKey) -> Self {
        Self(format!("{self}/{SEEDS}/{group}"))
    }

    /// Whether this dataset lies below another.
    pub(crate) fn is_below(&self, root: &Self) -> bool {
        self.0
            .strip_prefix(&root.0)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// A snapshot of this dataset.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] unless it is letters, digits and `_.:-`.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotName, Error> {
        Ok(SnapshotName(self.with('@', name)?))
    }

    /// A bookmark of this dataset.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] unless it is letters, digits and `_.:-`.
    pub fn bookmark(&self, name: &str) -> Result<BookmarkName, Error> {
        Ok(BookmarkName(self.with('#', name)?))
    }

    fn with(&self, sign: char, name: &str) -> Result<String, Error> {
        let whole = format!("{self}{sign}{name}");
        check_component(name, &whole)?;
        check_length(&whole, NAME_BYTES_MAX)?;
        Ok(whole)
    }
}

/// A snapshot with its dataset: `tank/oxfs/3/7@a`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SnapshotName(String);

shown!(SnapshotName);

impl SnapshotName {
    /// Checks a snapshot's name, the dataset's included.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] as for [`DatasetName::new`] and [`DatasetName::snapshot`].
    pub fn new(name: &str) -> Result<Self, Error> {
        let (dataset, snapshot) = name.split_once('@').ok_or_else(|| bad(name))?;
        DatasetName::new(dataset)?.snapshot(snapshot)
    }

    /// The dataset it is of.
    #[must_use]
    pub fn dataset(&self) -> DatasetName {
        let end = self.0.find('@').unwrap_or(self.0.len());
        DatasetName(self.0[..end].to_owned())
    }

    /// The snapshot of a dataset that is made to be sent to a server in full, or later on what has changed.
    pub(crate) fn of_seed(dataset: &DatasetName, to: OsdId, round: u32) -> Result<Self, Error> {
        match round {
            0 => dataset.snapshot(&format!("{SEED_SNAPSHOT}{to}")),
            _ => dataset.snapshot(&format!("{SEED_SNAPSHOT}{to}.{round}")),
        }
    }

    /// Whether it was made to be sent to a server, or received from one.
    pub(crate) fn is_seed(&self) -> bool {
        let Some(numbers) = self.short().strip_prefix(SEED_SNAPSHOT) else {
            return false;
        };
        // Only what `of_seed` would write: not `07` or `+7`.
        let is_number = |text: &str| text.parse().is_ok_and(|it: u64| it.to_string() == text);
        match numbers.split_once('.') {
            Some((osd, round)) => is_number(osd) && is_number(round) && round != "0",
            None => is_number(numbers),
        }
    }

    /// What stands behind the `@`.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, short)| short)
    }
}

/// A bookmark with its dataset: `tank/oxfs/3/7#a`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BookmarkName(String);

shown!(BookmarkName);

impl BookmarkName {
    /// The dataset it is of.
    #[must_use]
    pub fn dataset(&self) -> DatasetName {
        let end = self.0.find('#').unwrap_or(self.0.len());
        DatasetName(self.0[..end].to_owned())
    }
}

fn bad(name: &str) -> Error {
    Error::BadName {
        name: name.to_owned(),
    }
}

fn check_component(part: &str, whole: &str) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    // A leading `-` would be taken for an option, a leading `.` for a directory above.
    if part.is_empty() || part.starts_with(['-', '.']) || !part.bytes().all(is_plain) {
        return Err(bad(whole));
    }
    Ok(())
}

fn check_length(name: &str, bytes_max: usize) -> Result<(), Error> {
    if name.len() > bytes_max {
        return Err(Error::LongName {
            name: name.to_owned(),
            bytes_max,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_or_an_option_parser_would_misread_is_no_name() {
        for name in [
            "", "tank", "tank/", "/a", "tank//a", "tank/-r", "tank/..", "tank/a b", "tank/a;b",
            "tank/$x", "tank/a@b", "tank/a#b", "tank/a%b", "tank/ä", "tank/a\n", "-o/a", "1/a",
        ] {
            assert!(DatasetName::new(name).is_err(), "{name:?}");
        }
        let dataset = DatasetName::new("tank/oxfs/3/7").unwrap();
        for name in ["", "-r", "a@b", "a/b", "a,b", "a%b", "a b"] {
            assert!(dataset.snapshot(name).is_err(), "{name:?}");
            assert!(dataset.bookmark(name).is_err(), "{name:?}");
        }
        assert!(PoolName::new("tank/a").is_err());
        assert!(dataset.snapshot(&"x".repeat(250)).is_err());
    }

    #[test]
    fn snapshot_is_its_dataset_and_its_short_name() {
        let snapshot = SnapshotName::new("tank/oxfs/3/7@2026-01-02:x").unwrap();

        assert_eq!(snapshot.dataset().as_str(), "tank/oxfs/3/7");
        assert_eq!(snapshot.short(), "2026-01-02:x");
        assert!(SnapshotName::new("tank/oxfs/3/7").is_err());
    }

    #[test]
    fn datasets_above_are_named_up_to_the_pool() {
        let name = DatasetName::new("tank/a/b").unwrap();
        let parent = name.parent().unwrap();

        assert_eq!(parent.as_str(), "tank/a");
        assert_eq!((name.pool().as_str(), parent.parent()), ("tank", None));
    }

    #[test]
    fn group_and_name_are_each_others_inverse() {
        let root = DatasetName::new("tank/oxfs").unwrap();
        let group = PgKey {
            volume: VolumeId(u64::MAX),
            pg: PgId(31),
        };

        assert_eq!(root.group(group).group_below(&root), Some(group));
        for name in [
            "tank/oxfs/3",
            "tank/oxfs/3/07",
            "tank/oxfsx/3/7",
            "tank/oxfs/3/7/8",
        ] {
            assert_eq!(DatasetName::new(name).unwrap().group_below(&root), None);
        }
    }

    #[test]
    fn what_is_received_is_no_group_and_its_snapshots_are_told_from_others() {
        let root = DatasetName::new("tank/oxfs").unwrap();
        let group = PgKey {
            volume: VolumeId(u64::MAX),
            pg: PgId(u32::MAX),
        };
        let seed = root.seed(group);

        assert_eq!(seed.group_below(&root), None);
        assert!(seed.is_below(&root.seeds()) && DatasetName::new(seed.as_str()).is_ok());
        for round in [0, 1, u32::MAX] {
            let osd = OsdId(u64::from(u32::MAX));
            assert!(
                SnapshotName::of_seed(&root.group(group), osd, round)
                    .unwrap()
                    .is_seed()
            );
        }
        for name in [
            "oxfs-seed",
            "oxfs-seed-",
            "oxfs-seed-07",
            "oxfs-seed-3b",
            "oxfs-seed-3.",
            "oxfs-seed-3.0",
            "oxfs-seed-3.1.1",
            "my-oxfs-seed-3",
        ] {
            assert!(!root.snapshot(name).unwrap().is_seed(), "{name}");
        }
    }
}
