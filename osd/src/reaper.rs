//! Removes the files of deleted objects on a thread of its own.
//!
//! Giving back the blocks of one file can take a millisecond or more, and deleting a directory tree
//! means thousands of them: a shard must not wait for that. Until its file is gone a deleted object
//! is on the store's list of doomed ones, and absent to everybody.
//!
//! A deletion is reported once it is stable, or a loss of power would bring the object back when
//! nobody knows any more that it was deleted. What waits together is made stable together.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use osd_core::ObjectKey;
use types::{Inode, ObjectId, PgKey};

use crate::board::group_of;
use crate::config::SYNC_DIRS_MAX;
use crate::file_io::is_no_space;
use crate::inbox::Inbox;
use crate::quarantine::remove_aside;
use crate::store_root::{NamesToSync, Root};
use crate::worker;

/// What happens once the file is gone for good, or can't be removed.
pub(crate) type OnGone = Box<dyn FnOnce(io::Result<()>) + Send>;

enum Work {
    Remove(ObjectKey, OnGone),
    /// The groups of this server changed.
    Tidy(BTreeSet<PgKey>),
}

/// The thread and what waits for it.
pub(crate) struct Reaper {
    inbox: Inbox<Work>,
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").finish_non_exhaustive()
    }
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start(root: Arc<Root>) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let reaper = Arc::new(Self {
            // Bounded by the deletions that shards have accepted.
            inbox: Inbox::new(usize::MAX, usize::MAX),
        });
        let serving = Arc::clone(&reaper);
        let thread = worker::spawn("reaper".to_owned(), move || {
            let mut scythe = Scythe { root, ours: None };
            let mut batch = Vec::new();
            while serving.inbox.take(&mut batch, None) {
                scythe.swing(std::mem::take(&mut batch));
            }
        })?;
        Ok((reaper, thread))
    }

    /// Removes the file of an object that the store has doomed.
    pub(crate) fn submit(&self, key: ObjectKey, on_gone: OnGone) {
        self.inbox.deliver(Work::Remove(key, on_gone));
    }

    /// Removes the empty directories of all other groups.
    pub(crate) fn tidy(&self, ours: BTreeSet<PgKey>) {
        self.inbox.deliver(Work::Tidy(ours));
    }

    /// Lets the thread finish what waits, then end.
    pub(crate) fn stop(&self) {
        self.inbox.close();
    }
}

/// The thread's state.
struct Scythe {
    root: Arc<Root>,
    /// The groups this server has a part in, once known.
    ours: Option<BTreeSet<PgKey>>,
}

impl Scythe {
    fn swing(&mut self, batch: Vec<Work>) {
        let mut removed = Vec::new();
        let mut groups = BTreeSet::new();
        for work in batch {
            match work {
                Work::Remove(key, on_gone) => {
                    let result = self.root.reap(key);
                    remove_aside(&self.root, key);
                    groups.insert(group_of(key));
                    removed.push((key, on_gone, result));
                }
                Work::Tidy(ours) => {
                    groups.extend(self.root.groups().unwrap_or_default());
                    self.ours = Some(ours);
                }
            }
        }
        // Also those of files that were gone already: an earlier removal may not be stable.
        let keys = removed.iter().map(|(key, ..)| *key);
        let stable = self.sync(&self.root.to_sync(keys));
        for (_, on_gone, result) in removed {
            on_gone(match &stable {
                Ok(()) => result,
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
        for group in groups {
            self.remove_if_empty(group);
        }
    }

    fn sync(&self, names: &NamesToSync) -> io::Result<()> {
        // After one that failed another one may succeed without having made anything stable.
        if self.root.is_poisoned() {
            return Err(io::Error::other(
                "the store failed before; nothing is stable any more",
            ));
        }
        if names.len() > SYNC_DIRS_MAX {
            return self
                .root
                .sync_all()
                .inspect_err(|error| self.root.poison(error));
        }
        names.sync().inspect_err(|error| {
            // Names are in the journal or not; none was given up for want of space.
            if !is_no_space(error) {
                self.root.poison(error);
            }
        })
    }

    /// Removes what is left of a group that this server has no part in, if that is nothing.
    fn remove_if_empty(&self, group: PgKey) {
        if self.ours.as_ref().is_none_or(|ours| ours.contains(&group)) {
            return;
        }
        if let Some(datasets) = self.root.datasets() {
            return datasets.give_up(group);
        }
        let any = ObjectKey {
            pg: group.pg,
            object: ObjectId {
                volume: group.volume,
                inode: Inode(0),
                column: 0,
            },
        };
        let path = self.root.path(any);
        let Some(dir) = path.ancestors().nth(2) else {
            return;
        };
        // What is not empty stays: its objects are deleted one by one.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_dir::DirectoryStore;
    use osd_core::{ObjectStore, Record};
    use std::sync::mpsc;
    use types::{PgId, VolumeId};

    fn key(volume: u64, inode: u64) -> ObjectKey {
        ObjectKey {
            pg: PgId(0),
            object: ObjectId {
                volume: VolumeId(volume),
                inode: Inode(inode),
                column: 0,
            },
        }
    }

    #[test]
    fn files_are_removed_and_so_are_the_empty_directories_of_groups_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let mut store = DirectoryStore::with_reaper(Arc::clone(&root));
        for key in [key(1, 1), key(2, 1), key(2, 2)] {
            store.create(key, &Record::default()).unwrap();
        }
        let group_dir = |volume| {
            let path = root.path(key(volume, 1));
            path.ancestors().nth(2).unwrap().to_owned()
        };
        let (reaper, thread) = Reaper::start(Arc::clone(&root)).unwrap();
        let (gone, outcome) = mpsc::channel();
        let mut delete = |key| {
            store.delete(key).unwrap();
            let gone = gone.clone();
            let on_gone = move |result: io::Result<()>| gone.send(result.is_ok()).unwrap();
            reaper.submit(key, Box::new(on_gone));
            assert!(outcome.recv().unwrap());
            assert!(!root.path(key).exists());
        };

        reaper.tidy(BTreeSet::from([group_of(key(1, 1))]));
        delete(key(1, 1));
        delete(key(2, 1));
        assert!(group_dir(2).exists(), "another object is in it");
        delete(key(2, 2));
        // Nothing is there any more: that is as good.
        delete(key(3, 9));
        reaper.stop();
        thread.join().unwrap();

        assert!(group_dir(1).exists());
        assert!(!group_dir(2).exists());
    }

    #[test]
    fn directories_left_empty_are_removed_when_their_group_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        for volume in [1, 2] {
            let path = root.path(key(volume, 7));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        let (reaper, thread) = Reaper::start(Arc::clone(&root)).unwrap();

        reaper.tidy(BTreeSet::from([group_of(key(1, 7))]));
        reaper.stop();
        thread.join().unwrap();

        assert_eq!(root.groups().unwrap(), [group_of(key(1, 7))]);
    }

    /// What can't be made stable is not called removed.
    #[test]
    fn removal_that_is_not_stable_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let path = root.path(key(1, 7));
        fs::create_dir_all(path.ancestors().nth(2).unwrap()).unwrap();
        // A link to itself in the place of the directory.
        let parent = path.parent().unwrap();
        std::os::unix::fs::symlink(parent, parent).unwrap();
        let (reaper, thread) = Reaper::start(Arc::clone(&root)).unwrap();
        let (gone, outcome) = mpsc::channel();

        root.doom(key(1, 7));
        let on_gone = move |result: io::Result<()>| gone.send(result.is_ok()).unwrap();
        reaper.submit(key(1, 7), Box::new(on_gone));

        assert!(!outcome.recv().unwrap());
        assert!(root.is_poisoned());

        // The next sync could succeed; it would prove nothing.
        fs::remove_file(parent).unwrap();
        fs::create_dir(parent).unwrap();
        let (gone, outcome) = mpsc::channel();
        root.doom(key(1, 7));
        let on_gone = move |result: io::Result<()>| gone.send(result.is_ok()).unwrap();
        reaper.submit(key(1, 7), Box::new(on_gone));

        assert!(!outcome.recv().unwrap());
        reaper.stop();
        thread.join().unwrap();
    }
}
