//! What a store on ZFS does otherwise than a directory store: its groups come and go with commands, nothing is
//! absent that is only not mounted, and on zfs-fuse files are made stable one by one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use osd_core::ObjectKey;
use types::PgKey;

use super::dataset::Mounted;
use super::room::Whole;
use super::{Datasets, Place, PoolHealth, Root, entries, kind};
use crate::board::group_of;
use crate::note::MachineBoot;

/// Keeps the dataset of a group from being destroyed.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "held for its descriptor")] Option<Mounted>);

/// What to sync so that names that were removed don't come back.
#[derive(Debug)]
pub(crate) struct NamesToSync {
    dirs: BTreeSet<PathBuf>,
    datasets: Vec<Mounted>,
}

impl Root {
    /// Opens the store of a state directory on ZFS, or makes it.
    ///
    /// # Errors
    ///
    /// As [`Datasets::open`].
    pub(crate) fn open_on(dir: &Path, place: Place) -> io::Result<Self> {
        let datasets = Datasets::open(dir, &dir.join("pgs"), place)?;
        let root = Self {
            // A pool can lose what was not synced without the machine going down: with its daemon, or when
            // it is brought in again. So files tell each start from the one before.
            machine: MachineBoot(rand::random_range(1..=u64::MAX)),
            datasets: Some(datasets),
            ..Self::open_plain(dir)?
        };
        root.look();
        Ok(root)
    }

    /// Opens any store of which all is mounted, to read its files.
    pub(crate) fn open_to_look(dir: &Path) -> io::Result<Self> {
        let root = Self::open_plain(dir)?;
        if kind::dataset_of(dir)?.is_none() {
            return Ok(root);
        }
        let own = fs::metadata(&root.pgs)?.dev();
        for group in entries(&root.pgs)? {
            if fs::metadata(&group)?.dev() == own {
                return Err(io::Error::other(format!(
                    "{} is not mounted; mount the store's datasets with `zfs mount` first",
                    group.display()
                )));
            }
        }
        Ok(root)
    }

    /// The datasets of a store on ZFS.
    pub(crate) const fn datasets(&self) -> Option<&Arc<Datasets>> {
        self.datasets.as_ref()
    }

    /// Whether objects of a group can be opened and made.
    pub(crate) fn is_ready(&self, group: PgKey) -> bool {
        let datasets = self.datasets.as_ref();
        datasets.is_none_or(|datasets| datasets.is_ready(group))
    }

    /// Whether a group is awaited from another server as a whole.
    pub(crate) fn is_gated(&self, group: PgKey) -> bool {
        let datasets = self.datasets.as_ref();
        datasets.is_some_and(|datasets| datasets.is_gated(group))
    }

    /// Whether one sync makes all files stable.
    pub(crate) fn syncs_together(&self) -> bool {
        let datasets = self.datasets.as_ref();
        !datasets.is_some_and(|datasets| datasets.syncs_by_file())
    }

    /// Checks that what is not found in a group is absent, not out of sight.
    pub(super) fn check_absence(&self, group: PgKey) -> io::Result<()> {
        match &self.datasets {
            Some(datasets) => datasets.check(group),
            None => Ok(()),
        }
    }

    pub(super) fn hold(&self, group: PgKey) -> io::Result<Held> {
        let datasets = self.datasets.as_ref();
        let held = datasets.map(|datasets| datasets.hold(group)).transpose();
        Ok(Held(held?))
    }

    /// What to sync once files of these objects were removed, or were found to be gone.
    pub(crate) fn to_sync(&self, keys: impl Iterator<Item = ObjectKey>) -> NamesToSync {
        let mut names = NamesToSync {
            dirs: BTreeSet::new(),
            datasets: Vec::new(),
        };
        let mut groups = BTreeSet::new();
        for key in keys {
            groups.insert(group_of(key));
            let path = self.path(key);
            names.dirs.extend(path.parent().map(Path::to_owned));
        }
        if let Some(datasets) = &self.datasets
            && !self.syncs_together()
        {
            // One without a dataset has no names.
            let held = groups.iter().filter_map(|group| datasets.hold(*group).ok());
            names.datasets.extend(held);
            names.dirs.clear();
        }
        names
    }

    /// Looks how the pool is and how much room there is; poisons the store if the pool failed. Takes as long as
    /// a command may.
    pub(crate) fn look(&self) {
        let Some(datasets) = &self.datasets else {
            return;
        };
        let lost = datasets.lost();
        let failure = self
            .health
            .look(datasets.pool(), datasets.tree(), lost.as_ref());
        if let Some(failure) = failure {
            self.poison(&io::Error::other(failure));
        }
        let room = self.health.room();
        let whole = Whole {
            total_bytes: room.used_bytes.saturating_add(room.available_bytes),
            available_bytes: room.available_bytes,
        };
        let first = datasets.first().map(|group| datasets.path(group));
        self.room.look_at(first, whole);
    }

    /// How the pool is; none for a directory store.
    pub(crate) fn pool_health(&self) -> Option<PoolHealth> {
        self.datasets.as_ref().map(|_| self.health.last())
    }
}

impl NamesToSync {
    /// Number of syncs.
    pub(crate) fn len(&self) -> usize {
        self.dirs.len()
    }

    /// Makes the names stable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        for dir in &self.dirs {
            match File::open(dir) {
                Ok(dir) => dir.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for dataset in &self.datasets {
            dataset.sync_names()?;
        }
        Ok(())
    }
}

/// Makes all datasets stable, or their names.
pub(super) fn sync_all(datasets: &Datasets) -> io::Result<()> {
    let mounted = datasets.all();
    mounted.iter().try_for_each(|(_, mounted)| mounted.sync())
}
