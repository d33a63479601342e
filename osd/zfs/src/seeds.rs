//! Placement groups that are sent from store to store: the snapshots they are sent from, and the datasets they are
//! received into.
//!
//! A group is received at `<root>/seeds/<group>`, where nobody looks for objects, and gets its name in one step once
//! it is whole. Snapshots of this kind have names of their own, `oxfs-seed-<server>` and
//! `oxfs-seed-<server>.<round>`; no others are touched.

use std::thread;
use std::time::Instant;

use types::{OsdId, PgKey};

use crate::error::Error;
use crate::name::{DatasetName, SnapshotName};
use crate::snapshots::Snapshot;
use crate::tree::{LET_GO_LIMIT, LET_GO_PAUSE, Tree};

/// What was left over from seedings that were broken off, and is gone now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tidied {
    /// Datasets that had not got their names.
    pub datasets: usize,
    /// Snapshots that had been made to be sent.
    pub snapshots: usize,
}

impl Tree {
    /// Where a placement group is received.
    #[must_use]
    pub fn seed(&self, group: PgKey) -> DatasetName {
        self.root().seed(group)
    }

    /// The snapshot that a placement group is received as: in full in round 0, what has changed in later ones.
    ///
    /// # Errors
    ///
    /// [`Error::LongName`].
    pub fn seed_target(&self, group: PgKey, to: OsdId, round: u32) -> Result<SnapshotName, Error> {
        SnapshotName::of_seed(&self.seed(group), to, round)
    }

    /// Makes the snapshot of a placement group that is sent to a server in a round. One that was left over is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`] about the dataset; [`Error::Failed`].
    pub fn snapshot_seed(&self, group: PgKey, to: OsdId, round: u32) -> Result<Snapshot, Error> {
        let name = SnapshotName::of_seed(&self.group(group), to, round)?;
        self.destroy_seed_snapshot(&name)?;
        self.snapshot(&name)
    }

    /// Destroys a snapshot that was made to be sent; nothing happens if it is not there. Waits a moment for a
    /// program that has just been killed to let go of it.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`] about the dataset; [`Error::Failed`] if it is in use.
    pub fn destroy_seed_snapshot(&self, name: &SnapshotName) -> Result<(), Error> {
        let is_gone = |error: &Error| error.is_missing() || said(error, "could not find");
        match self.find_snapshot(name) {
            Err(error) if is_gone(&error) => return self.check_ours(&name.dataset()),
            outcome => drop(outcome?),
        }
        match once_let_go(|| self.destroy_snapshot(name)) {
            Err(error) if is_gone(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Gives the dataset that a placement group was received into the group's name. It must not be mounted. What
    /// was written to it before is as stable as its new name: the name is changed in a transaction group that is
    /// none before theirs.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::Failed`] if the group has a dataset: nothing happened but
    /// that the snapshots of the one received are gone.
    pub fn adopt_seed(&self, group: PgKey) -> Result<(), Error> {
        let seed = self.seed(group);
        for snapshot in self.snapshots(&seed)? {
            self.destroy_snapshot(&snapshot.name)?;
        }
        once_let_go(|| self.rename(&seed, &self.group(group)))
    }

    /// Destroys what was received of a placement group and has not got its name; nothing happens if nothing was.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`]; [`Error::Failed`] if it is in use.
    pub fn discard_seed(&self, group: PgKey) -> Result<(), Error> {
        self.discard(&self.seed(group))
    }

    fn discard(&self, seed: &DatasetName) -> Result<(), Error> {
        match self.resume_token(seed) {
            Err(error) if error.is_missing() => return Ok(()),
            Ok(Some(_)) => self.discard_partial(seed)?,
            outcome => drop(outcome?),
        }
        match self.destroy(seed) {
            Err(error) if error.is_missing() => Ok(()),
            outcome => outcome,
        }
    }

    /// Destroys all that seedings have left over. Must not be called while there are any.
    ///
    /// # Errors
    ///
    /// The first one of what could not be destroyed; everything was tried.
    pub fn tidy_seeds(&self) -> Result<Tidied, Error> {
        let mut tidied = Tidied::default();
        let mut first = Ok(());
        let seeds = self.root().seeds();
        for dataset in self.list()? {
            if dataset.is_below(&seeds) {
                match self.discard(&dataset) {
                    Ok(()) => tidied.datasets += 1,
                    Err(error) => first = first.and(Err(error)),
                }
            }
        }
        for name in self.seed_snapshots()? {
            match self.destroy_seed_snapshot(&name) {
                Ok(()) => tidied.snapshots += 1,
                Err(error) => first = first.and(Err(error)),
            }
        }
        first.map(|()| tidied)
    }

    /// Snapshots of placement groups that were made to be sent.
    fn seed_snapshots(&self) -> Result<Vec<SnapshotName>, Error> {
        let root = self.root().as_str();
        let words = ["list", "-H", "-r", "-t", "snapshot", "-o", "name", root];
        let text = self.tools().ask_zfs(words)?;
        let names = text
            .lines()
            .filter_map(|line| SnapshotName::new(line.trim()).ok());
        let ours = names.filter(|name| name.is_seed() && self.group_of(&name.dataset()).is_some());
        Ok(ours.collect())
    }

    /// The first snapshot of a dataset that was not made to be sent.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::Unreadable`].
    pub fn others_snapshot(&self, dataset: &DatasetName) -> Result<Option<Snapshot>, Error> {
        let mut snapshots = self.snapshots(dataset)?.into_iter();
        Ok(snapshots.find(|snapshot| !snapshot.name.is_seed()))
    }
}

/// Tries for a while what can't be done as long as something is in use.
fn once_let_go(mut work: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match work() {
            Err(error) if said(&error, "busy") && begun.elapsed() < LET_GO_LIMIT => {}
            outcome => return outcome,
        }
        thread::sleep(LET_GO_PAUSE);
    }
}

fn said(error: &Error, what: &str) -> bool {
    matches!(error, Error::Failed { said, .. } if said.contains(what))
}
