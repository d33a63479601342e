//! Groups whose dataset comes from another server as a whole: received beside those of the store, prepared there,
//! and taken in under the group's name in one step.
//!
//! As long as one is awaited its group is gated: nothing is opened, made or called absent. The last word has ZFS,
//! which gives no dataset a name that is taken.

use std::collections::btree_map::Entry;
use std::io;
use std::path::{Path, PathBuf};

use types::PgKey;

use super::{Datasets, Mounted, OnReady, State, Work, detach_dead};

/// Directory beside that of the groups, of what is not taken in yet.
const SEEDS: &str = "seeds";

impl Datasets {
    /// Keeps a group from being made; false, and nothing happens, if it is there already.
    pub(crate) fn gate(&self, group: PgKey) -> bool {
        match self.lock().entry(group) {
            Entry::Vacant(vacant) => {
                vacant.insert(State::Gated);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Lets a group be made again, unless it was taken in.
    pub(crate) fn open_gate(&self, group: PgKey) {
        let mut known = self.lock();
        if matches!(known.get(&group), Some(State::Gated)) {
            known.remove(&group);
        }
    }

    /// Whether the dataset of a group is awaited.
    pub(crate) fn is_gated(&self, group: PgKey) -> bool {
        matches!(self.lock().get(&group), Some(State::Gated))
    }

    /// Where what is received of a group is mounted before it is taken in.
    pub(crate) fn seed_path(&self, group: PgKey) -> PathBuf {
        let above = self.pgs.parent().unwrap_or(&self.pgs);
        above.join(SEEDS).join(group.to_string())
    }

    /// Does something with the files that were received of a group.
    pub(crate) fn with_seed<T>(
        &self,
        group: PgKey,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let (seed, path) = (self.tree.seed(group), self.seed_path(group));
        detach_dead(&path)?;
        self.tree.mount(&seed).map_err(io::Error::other)?;
        let done = Mounted::open(&path).and_then(|mounted| {
            let done = work(&path)?;
            mounted.check()?;
            Ok(done)
        });
        let unmounted = self.tree.unmount(&seed).map_err(io::Error::other);
        let done = done?;
        unmounted.map(|()| done)
    }

    /// Has what was received of a gated group take the group's name, and opens the gate. What can't be taken in is
    /// destroyed.
    pub(crate) fn take_in(&self, group: PgKey, on_ready: OnReady) {
        self.work.deliver(Work::TakeIn(group, on_ready));
    }

    pub(super) fn taken_in(&self, group: PgKey) -> Result<(), String> {
        let adopted = match self.is_gated(group) {
            true => self
                .tree
                .adopt_seed(group)
                .map_err(|error| error.to_string()),
            false => Err("it is not awaited any more".to_owned()),
        };
        if let Err(why) = adopted {
            self.discard_seed(group);
            return Err(why);
        }
        // From here on it is there, whatever happens.
        let mounted = self.made(group).map_err(|error| error.to_string())?;
        self.lock().insert(group, State::Ready(mounted));
        Ok(())
    }

    /// Destroys what was received of a group and is not taken in.
    pub(crate) fn discard_seed(&self, group: PgKey) {
        let path = self.seed_path(group);
        let detached = detach_dead(&path).map(drop);
        let discarded = self.tree.discard_seed(group).map_err(io::Error::other);
        if let Err(error) = detached.and(discarded) {
            tracing::warn!(
                %group, dataset = %self.tree.seed(group), %error,
                "what was received of a placement group can't be destroyed; the next start tries again"
            );
        }
        // What was its mount point; ZFS may have removed it.
        let _ = std::fs::remove_dir(path);
    }

    /// Destroys what a run before has left over of groups that came or went.
    pub(super) fn tidy(&self) {
        let above = self.pgs.parent().unwrap_or(&self.pgs).join(SEEDS);
        for entry in std::fs::read_dir(&above).into_iter().flatten().flatten() {
            if let Err(error) = detach_dead(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "a dead mount can't be detached");
            }
        }
        match self.tree.tidy_seeds() {
            Ok(tidied) if tidied == zfs_driver::Tidied::default() => {}
            Ok(tidied) => tracing::info!(
                datasets = tidied.datasets,
                snapshots = tidied.snapshots,
                "what was left over of groups that were being sent or received is destroyed"
            ),
            Err(error) => tracing::warn!(
                %error,
                "what was left over of groups that were being sent or received can't be destroyed; the next \
                 start tries again"
            ),
        }
        for entry in std::fs::read_dir(&above).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// Why a group is not made.
pub(crate) fn gated(group: PgKey) -> String {
    format!("placement group {group} is on its way from another server")
}
