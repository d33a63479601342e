//! A store on ZFS: a dataset for each placement group, mounted where a directory store has a directory.
//!
//! A dataset is made when the first object of its group is wanted here, and destroyed once the group is
//! others' and no object of it is left. Both take commands that may take long, so a thread of its own runs
//! them, one after the other; until then the group is not ready. One that comes from another server as a whole is
//! kept from being made meanwhile: see [`gate`].

mod gate;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use types::{ClusterId, PgKey};
use zfs_driver::{DatasetName, Error, Group, NewDataset, Pool, Tools, Tree};

pub(crate) use self::gate::gated;
use super::dataset::{Mounted, check_alive, check_free, detach_dead};
use super::kind;
use crate::inbox::Inbox;
use crate::worker;

/// Where a store is on ZFS.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The dataset above those of placement groups; made with the store.
    pub(crate) dataset: DatasetName,
    pub(crate) cluster: ClusterId,
    /// Of the state directory that the datasets belong to.
    pub(crate) store_uuid: String,
}

/// What happens once a group's dataset is there, or can't be made.
pub(crate) type OnReady = Box<dyn FnOnce(Result<(), String>) + Send>;

/// The datasets of a store.
pub(crate) struct Datasets {
    tree: Tree,
    pool: Pool,
    pgs: PathBuf,
    /// Those that are there, or come from elsewhere.
    known: Mutex<BTreeMap<PgKey, State>>,
    /// Files must be synced one by one.
    by_file: AtomicBool,
    work: Inbox<Work>,
}

#[derive(Clone, Debug)]
enum State {
    Ready(Mounted),
    /// There, but neither mounted for sure nor destroyed: its objects are neither present nor absent.
    Unknown,
    /// Not there: it comes as a whole from another server, unless that fails. Until then its objects are neither
    /// present nor absent, and none is opened or made.
    Gated,
}

enum Work {
    Make(PgKey, OnReady),
    Drop(PgKey),
    TakeIn(PgKey, OnReady),
}

impl std::fmt::Debug for Datasets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datasets")
            .field("root", self.tree.root())
            .finish_non_exhaustive()
    }
}

impl Datasets {
    /// Opens the store of a state directory, or makes one if the directory has none yet, and mounts all its
    /// datasets. `pgs` is where they are mounted. Blocks; each command has a limit of its own.
    ///
    /// # Errors
    ///
    /// If ZFS does not answer, or if a name that is needed is taken by what is not this store's.
    pub(super) fn open(dir: &Path, pgs: &Path, place: Place) -> io::Result<Arc<Self>> {
        let tools = Tools::find().map_err(io::Error::other)?;
        let pool = Pool::new(tools.clone(), place.dataset.pool());
        let tree = Tree::new(tools, place.dataset, place.cluster).map_err(io::Error::other)?;
        let root = tree.root().as_str();
        match kind::dataset_of(dir)? {
            Some(noted) if noted == root => tree.check_root(&place.store_uuid),
            Some(noted) => return Err(elsewhere(&noted, root)),
            None if pgs.is_dir() => return Err(no_dataset()),
            None => tree.make_root(&place.store_uuid),
        }
        .map_err(|error| missing(error, root))?;
        kind::note(dir, root)?;
        if !pgs.is_dir() {
            fs::create_dir(pgs)?;
            fs::File::open(dir)?.sync_all()?;
        }
        let datasets = Arc::new(Self {
            tree,
            pool,
            // Datasets remember where they are mounted.
            pgs: fs::canonicalize(pgs)?,
            known: Mutex::default(),
            by_file: AtomicBool::new(false),
            work: Inbox::new(usize::MAX, usize::MAX),
        });
        datasets.tidy();
        let at_rest = datasets.tree.groups_at_rest();
        for group in at_rest.map_err(io::Error::other)? {
            let mounted = datasets.mount(&group)?;
            datasets.lock().insert(group.key, State::Ready(mounted));
        }
        Ok(datasets)
    }

    /// Starts the thread that makes and destroys. It ends when [`Datasets::stop`] is called, after the command
    /// that runs then; nobody needs to wait for it.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        let this = Arc::clone(self);
        let thread = worker::spawn("datasets".to_owned(), move || {
            let mut batch = Vec::new();
            while this.work.take(&mut batch, None) {
                for work in batch.drain(..) {
                    match work {
                        Work::Make(group, on_ready) => on_ready(this.make(group)),
                        Work::Drop(group) => this.drop_if_empty(group),
                        Work::TakeIn(group, on_ready) => on_ready(this.taken_in(group)),
                    }
                }
            }
        })?;
        drop(thread);
        Ok(())
    }

    /// Takes no more work.
    pub(crate) fn stop(&self) {
        self.work.close();
    }

    /// Whether objects of a group can be opened and made.
    pub(crate) fn is_ready(&self, group: PgKey) -> bool {
        matches!(self.lock().get(&group), Some(State::Ready(_)))
    }

    /// Has the dataset of a group made, or mounted. Bounded by the shards, each of which asks once until it is
    /// answered, for each group.
    pub(crate) fn want(&self, group: PgKey, on_ready: OnReady) {
        self.work.deliver(Work::Make(group, on_ready));
    }

    /// Has the dataset of a group destroyed, if no object is in it.
    pub(crate) fn give_up(&self, group: PgKey) {
        self.work.deliver(Work::Drop(group));
    }

    /// Checks that what is not found in a group is absent: its dataset is mounted, or there is none.
    pub(super) fn check(&self, group: PgKey) -> io::Result<()> {
        let state = self.lock().get(&group).cloned();
        match state {
            None => Ok(()),
            Some(State::Ready(mounted)) => mounted.check(),
            Some(State::Unknown | State::Gated) => Err(self.not_ready(group)),
        }
    }

    /// The dataset of a group, which is not destroyed as long as it is held.
    pub(super) fn hold(&self, group: PgKey) -> io::Result<Mounted> {
        let state = self.lock().get(&group).cloned();
        match state {
            Some(State::Ready(mounted)) => mounted.check().map(|()| mounted),
            Some(State::Unknown | State::Gated) | None => Err(self.not_ready(group)),
        }
    }

    /// All that are mounted, ascending by group.
    pub(super) fn all(&self) -> Vec<(PgKey, Mounted)> {
        let known = self.lock();
        let ready = |(key, state): (&PgKey, &State)| match state {
            State::Ready(mounted) => Some((*key, mounted.clone())),
            State::Unknown | State::Gated => None,
        };
        known.iter().filter_map(ready).collect()
    }

    /// A group that should be mounted and is not, if there is one.
    pub(super) fn lost(&self) -> Option<(PgKey, io::Error)> {
        let device = |state: &State| match state {
            State::Ready(mounted) => Some(mounted.device()),
            State::Unknown | State::Gated => None,
        };
        // Without their descriptors: who looks keeps none from being destroyed.
        let known: Vec<_> = {
            let known = self.lock();
            let ready = known
                .iter()
                .filter_map(|(group, state)| Some((*group, device(state)?)));
            ready.collect()
        };
        known.into_iter().find_map(|(group, seen)| {
            let error = check_alive(&self.path(group), seen).err()?;
            let present = self.lock().get(&group).and_then(device);
            (present == Some(seen)).then_some((group, error))
        })
    }

    /// A group that is there, if there is any.
    pub(super) fn first(&self) -> Option<PgKey> {
        let known = self.lock();
        let ready =
            |(key, state): (&PgKey, &State)| matches!(state, State::Ready(_)).then_some(*key);
        known.iter().find_map(ready)
    }

    /// Whether files must be synced one by one.
    pub(super) fn syncs_by_file(&self) -> bool {
        self.by_file.load(Ordering::Relaxed)
    }

    /// The pool they are in.
    pub(crate) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Where they lie in it.
    pub(crate) const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Where a group's dataset is mounted.
    pub(super) fn path(&self, group: PgKey) -> PathBuf {
        self.pgs.join(group.to_string())
    }

    /// Makes and mounts the dataset of a group, or mounts one that is there.
    pub(crate) fn make(&self, group: PgKey) -> Result<(), String> {
        if self.is_ready(group) {
            return Ok(());
        }
        if self.is_gated(group) {
            return Err(gated(group));
        }
        let made = self.made(group);
        made.map(|mounted| {
            tracing::info!(%group, dataset = %self.tree.group(group), "dataset of a placement group made");
            self.lock().insert(group, State::Ready(mounted));
        })
        .map_err(|error| {
            tracing::error!(%group, %error, "the dataset of a placement group can't be made");
            error.to_string()
        })
    }

    fn made(&self, key: PgKey) -> io::Result<Mounted> {
        let dataset = self.tree.group(key);
        let mountpoint = self.path(key);
        let (is_mounted, mountpoint) = match self.tree.info(&dataset) {
            Ok(info) => (info.is_mounted, info.mountpoint),
            Err(Error::Missing { .. }) => {
                let new = NewDataset {
                    mountpoint: Some(mountpoint.clone()),
                    ..NewDataset::default()
                };
                self.tree.create(key, &new).map_err(io::Error::other)?;
                (false, Some(mountpoint))
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        // From here on it is there, whatever happens.
        self.lock().insert(key, State::Unknown);
        self.mount(&Group {
            key,
            dataset,
            is_mounted,
            mountpoint,
        })
    }

    /// Mounts a dataset where it belongs, unless it is.
    fn mount(&self, group: &Group) -> io::Result<Mounted> {
        let at = self.path(group.key);
        let was_dead = detach_dead(&at)?;
        // ZFS took it for mounted all the same.
        let mut is_mounted = group.is_mounted && !was_dead;
        if group.mountpoint.as_deref() != Some(&at) {
            if is_mounted {
                let unmounted = self.tree.unmount(&group.dataset);
                unmounted.map_err(io::Error::other)?;
                is_mounted = false;
            }
            let set = self.tree.set_mountpoint(&group.dataset, &at);
            set.map_err(io::Error::other)?;
        }
        if !is_mounted {
            check_free(&at)?;
            self.tree.mount(&group.dataset).map_err(io::Error::other)?;
        }
        let mounted = Mounted::open(&at)?;
        if mounted.syncs_by_file() {
            self.by_file.store(true, Ordering::Relaxed);
        }
        Ok(mounted)
    }

    /// Destroys the dataset of a group that this server has no part in, if no object is in it.
    fn drop_if_empty(&self, group: PgKey) {
        let mounted = {
            let mut known = self.lock();
            let Some(state) = known.get_mut(&group) else {
                return;
            };
            match state {
                // Whoever holds it may be making an object.
                State::Ready(mounted) if !mounted.is_shared() => {
                    let mounted = mounted.clone();
                    *state = State::Unknown;
                    mounted
                }
                State::Ready(_) | State::Unknown | State::Gated => return,
            }
        };
        // Nobody can make a directory in it from here on, nor a file without one.
        match mounted.clear() {
            Ok(true) => {}
            Ok(false) => {
                self.lock().insert(group, State::Ready(mounted));
                return;
            }
            Err(error) => {
                tracing::warn!(%group, %error, "a dataset that is not needed can't be looked into");
                self.lock().insert(group, State::Ready(mounted));
                return;
            }
        }
        drop(mounted);
        match self.destroy(group) {
            Ok(()) => {
                tracing::info!(%group, dataset = %self.tree.group(group), "dataset that is not needed any more destroyed");
                self.lock().remove(&group);
            }
            Err(error) => {
                tracing::warn!(%group, %error, "a dataset that is not needed can't be destroyed");
                if let Ok(mounted) = self.made(group) {
                    self.lock().insert(group, State::Ready(mounted));
                }
            }
        }
    }

    fn destroy(&self, group: PgKey) -> io::Result<()> {
        let dataset = self.tree.group(group);
        let snapshot = self.tree.others_snapshot(&dataset);
        // An administrator's: it may be all that is left of something.
        if let Some(snapshot) = snapshot.map_err(io::Error::other)? {
            return Err(io::Error::other(format!(
                "it has snapshots, {} for one; destroy them, and the next change of the map will destroy it",
                snapshot.name
            )));
        }
        self.tree.destroy(&dataset).map_err(io::Error::other)?;
        // What was its mount point; ZFS may have removed it.
        let _ = fs::remove_dir(self.path(group));
        let volume = self.tree.destroy_empty(group.volume);
        volume.map_err(io::Error::other)
    }

    fn not_ready(&self, group: PgKey) -> io::Error {
        let dataset = self.tree.group(group);
        io::Error::other(format!("the dataset {dataset} is not ready"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PgKey, State>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn elsewhere(noted: &str, wanted: &str) -> io::Error {
    io::Error::other(format!(
        "its objects are in the dataset {noted}, not in {wanted}; correct `zfs_dataset`, or give an empty \
         directory so that the server is rebuilt from the others"
    ))
}

fn no_dataset() -> io::Error {
    io::Error::other(
        "its objects are in the directory itself; leave out `store = \"zfs\"`, or give an empty directory so \
         that the server is rebuilt from the others",
    )
}

fn missing(error: Error, root: &str) -> io::Error {
    if !error.is_missing() {
        return io::Error::other(error);
    }
    io::Error::other(format!(
        "the dataset {root} is not there ({error}); bring the pool in with `zpool import` or, for a new server, \
         make it; if the objects are lost, give an empty directory so that the server is rebuilt from the others"
    ))
}
