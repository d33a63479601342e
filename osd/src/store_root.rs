//! What all shards share of a store: paths, directories, room, the poison.
//!
//! A store on ZFS differs from a directory store in one thing: the directory of each placement group is the mount
//! point of a dataset ([`datasets`]). What that changes is in [`on_zfs`].

mod damage;
mod dataset;
mod datasets;
mod health;
mod kind;
mod on_zfs;
mod room;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use osd_core::{Header, ObjectKey, Record};
use shell::metrics::Metric;
use types::{Inode, ObjectId, PgKey};

use crate::board::group_of;
use crate::config::CREATE_BYTES;
use crate::header::Header as Slots;
use crate::note::MachineBoot;
use crate::object_file::ObjectFile;
use damage::Damage;
pub(crate) use datasets::{Datasets, Place};
use health::Health;
pub(crate) use health::PoolHealth;
pub(crate) use on_zfs::{Held, NamesToSync};
use room::{Amount, Room};

/// Name of the file that says that a write to the disk failed.
const FAILED: &str = "FAILED";

/// A store's directory.
#[derive(Debug)]
pub(crate) struct Root {
    pgs: PathBuf,
    room: Room,
    damage: Damage,
    /// Open from the start, so that `syncfs` on it reports every failed write-back since.
    handle: File,
    poisoned: AtomicBool,
    /// Says to the next start that a write to the disk failed: the kernel takes pages of such a write for
    /// written, so what it has in memory is not what the disk has.
    failed: PathBuf,
    /// It did before this start.
    distrusts_cache: bool,
    /// The present run of the machine.
    machine: MachineBoot,
    /// Directories whose own name is not stable yet.
    unnamed: Mutex<HashSet<PathBuf>>,
    /// Deleted objects whose files are still to be removed: they are absent.
    doomed: Mutex<HashSet<ObjectKey>>,
    /// Of a store on ZFS.
    datasets: Option<Arc<Datasets>>,
    /// The same.
    health: Health,
}

impl Root {
    /// Opens the directory store in a state directory, making it if there is none.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        kind::refuse_dataset(dir)?;
        Self::open_plain(dir)
    }

    fn open_plain(dir: &Path) -> io::Result<Self> {
        let pgs = dir.join("pgs");
        if !pgs.is_dir() {
            fs::create_dir(&pgs)?;
            File::open(dir)?.sync_all()?;
        }
        let failed = dir.join(FAILED);
        Ok(Self {
            distrusts_cache: failed.exists(),
            failed,
            handle: File::open(&pgs)?,
            room: Room::of(pgs.clone()),
            damage: Damage::default(),
            pgs,
            poisoned: AtomicBool::new(false),
            machine: MachineBoot::present(),
            unnamed: Mutex::default(),
            doomed: Mutex::default(),
            datasets: None,
            health: Health::default(),
        })
    }

    /// The same in another run of the machine.
    #[cfg(test)]
    pub(crate) fn open_in(dir: &Path, machine: MachineBoot) -> io::Result<Self> {
        Ok(Self {
            machine,
            ..Self::open(dir)?
        })
    }

    /// The present run of the machine.
    pub(crate) const fn machine(&self) -> MachineBoot {
        self.machine
    }

    /// Whether there may be objects in a state directory.
    pub(crate) fn holds_groups(dir: &Path) -> bool {
        match fs::read_dir(dir.join("pgs")) {
            Ok(mut groups) => groups.next().is_some(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Whether a state directory holds a store already.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join("pgs").is_dir()
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    /// After a failed sync nobody knows what is stable: no change is accepted any more.
    pub(crate) fn poison(&self, error: &io::Error) {
        if !self.poisoned.swap(true, Ordering::Relaxed) {
            self.note_failure(error);
            tracing::error!(
                store = %self.pgs.display(), %error,
                "a write to the disk failed; the store takes no changes until the server is \
                 restarted: check the disk first. What may be missing is then brought up from the others"
            );
        }
    }

    /// Has the next start read from the disk what the kernel may only have in memory. The note need not
    /// reach the disk: a restart of the machine forgets the pages, too.
    pub(crate) fn note_failure(&self, error: &io::Error) {
        if let Err(cause) = fs::write(&self.failed, format!("{error}\n")) {
            tracing::error!(
                file = %self.failed.display(), %cause,
                "can't note that a write failed; restart the machine, not only the server"
            );
        }
    }

    /// Where an object's file is.
    pub(crate) fn path(&self, key: ObjectKey) -> PathBuf {
        let ObjectId {
            volume,
            inode,
            column,
        } = key.object;
        self.pgs.join(format!(
            "{volume}.{pg}/{low:02x}/{inode:x}.{column}",
            pg = key.pg,
            low = inode.0 & 0xff,
            inode = inode.0,
        ))
    }

    /// Makes the directories above an object's file; their names become stable with the file's. What is
    /// returned is held until the file is made.
    pub(crate) fn make_parents(&self, key: ObjectKey) -> io::Result<Held> {
        let held = self.hold(group_of(key))?;
        let file = &self.path(key);
        let mut missing: Vec<_> = file
            .ancestors()
            .skip(1)
            .take_while(|dir| **dir != self.pgs && !dir.is_dir())
            .collect();
        while let Some(dir) = missing.pop() {
            // Before it exists: whoever finds it must find it here, too.
            self.unnamed().insert(dir.to_owned());
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(held)
    }

    /// Makes the name of a file stable, and those of the directories above that are not yet.
    pub(crate) fn sync_name(&self, file: &Path) -> io::Result<()> {
        let by_file = !self.syncs_together();
        for path in file.ancestors().take_while(|path| **path != self.pgs) {
            let is_file = path == file;
            if by_file {
                // The synced file took its name along.
                self.unnamed().remove(path);
                continue;
            }
            if !is_file && !self.unnamed().contains(path) {
                continue;
            }
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
            if !is_file {
                self.unnamed().remove(path);
            }
        }
        Ok(())
    }

    /// Makes everything stable that was written so far; if it does not [sync together](Self::syncs_together),
    /// names only.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        let unnamed: Vec<_> = self.unnamed().iter().cloned().collect();
        match &self.datasets {
            None => nix::unistd::syncfs(&self.handle).map_err(io::Error::from)?,
            Some(datasets) => on_zfs::sync_all(datasets)?,
        }
        let mut names = self.unnamed();
        for path in unnamed {
            names.remove(&path);
        }
        Ok(())
    }

    /// The objects of a placement group, ascending.
    pub(crate) fn names(&self, pg: PgKey) -> io::Result<Vec<ObjectId>> {
        self.check_absence(pg)?;
        let mut names = Vec::new();
        let group = self.pgs.join(pg.to_string());
        for dir in entries(&group)? {
            for file in entries(&dir)? {
                names.extend(parse_name(pg, &file));
            }
        }
        let doomed = self.doomed();
        names.retain(|object| !doomed.contains(&key_in(pg, *object)));
        drop(doomed);
        names.sort_unstable();
        Ok(names)
    }

    /// The placement groups that have a directory, or a dataset.
    pub(crate) fn groups(&self) -> io::Result<Vec<PgKey>> {
        if let Some(datasets) = &self.datasets {
            return Ok(datasets.all().into_iter().map(|(group, _)| group).collect());
        }
        let parse = |path: PathBuf| {
            let (volume, pg) = path.file_name()?.to_str()?.split_once('.')?;
            Some(PgKey {
                volume: types::VolumeId(volume.parse().ok()?),
                pg: types::PgId(pg.parse().ok()?),
            })
        };
        Ok(entries(&self.pgs)?.into_iter().filter_map(parse).collect())
    }

    /// Opens the file of an object; none if there is none.
    pub(crate) fn open_object(&self, key: ObjectKey) -> io::Result<Option<(ObjectFile, Slots)>> {
        let path = self.path(key);
        if self.distrusts_cache {
            forget_pages(&path)?;
        }
        let opened = ObjectFile::open(key.object, path, self.machine)?;
        if opened.is_none() {
            self.check_absence(group_of(key))?;
        }
        Ok(opened)
    }

    /// After a failed write and before a stop in good order nothing more can be wrong with what was written.
    pub(crate) fn forget_failure(&self) -> io::Result<()> {
        match self.is_poisoned() || !self.distrusts_cache {
            true => Ok(()),
            false => fs::remove_file(&self.failed),
        }
    }

    /// The header of an object that nobody has open.
    pub(crate) fn header(&self, key: ObjectKey) -> io::Result<Option<Header>> {
        if self.is_doomed(key) {
            return Ok(None);
        }
        let Some((file, slots)) = self.open_object(key)? else {
            return Ok(None);
        };
        let record = self.record(key, &slots);
        Ok(Some(Header {
            length_bytes: file.present_length(record.length_bytes, record.clean),
            record,
        }))
    }

    /// The record in a header; one of zeros if there is none that can be believed.
    pub(crate) fn record(&self, key: ObjectKey, slots: &Slots) -> Record {
        match slots {
            Slots::Blank => Record::default(),
            Slots::Valid(slot) => match Record::decode(&slot.record) {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(%key, %error, "record unreadable; the object is repaired from the others");
                    Record::default()
                }
            },
            Slots::Damaged => {
                tracing::error!(%key, "header damaged; the object is repaired from the others");
                Record::default()
            }
        }
    }

    /// Makes an object absent; its file is removed by [`Root::reap`].
    pub(crate) fn doom(&self, key: ObjectKey) {
        self.doomed().insert(key);
    }

    pub(crate) fn is_doomed(&self, key: ObjectKey) -> bool {
        self.doomed().contains(&key)
    }

    /// Whether there is a file of the object, and it is not doomed.
    pub(crate) fn holds(&self, key: ObjectKey) -> bool {
        !self.is_doomed(key) && self.path(key).exists()
    }

    /// Removes the file of a doomed object; nothing happens if it is not (any more).
    pub(crate) fn reap(&self, key: ObjectKey) -> io::Result<()> {
        if !self.is_doomed(key) {
            return Ok(());
        }
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_absence(group_of(key))?;
            }
            outcome => outcome?,
        }
        self.doomed().remove(&key);
        Ok(())
    }

    /// Takes room for an object that is about to be made; false if the disk counts as full.
    pub(crate) fn take_object(&self) -> bool {
        self.room.take(Amount {
            bytes: CREATE_BYTES,
            inodes: 1,
        })
    }

    /// Takes room for bytes that an object is about to grow by; false if the disk counts as full.
    pub(crate) fn take_bytes(&self, bytes: u64) -> bool {
        self.room.take(Amount { bytes, inodes: 0 })
    }

    /// Whether the disk counts as full for the largest write.
    pub(crate) fn is_full(&self) -> bool {
        self.room.is_full()
    }

    /// Damaged blocks found.
    pub(crate) const fn damage(&self) -> &Damage {
        &self.damage
    }

    /// What collectors and administrators are told.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let help =
            "1 after a write to the disk failed: the store takes no changes until the restart";
        let failed = u64::from(self.is_poisoned());
        let mut metrics = self.damage.metrics();
        metrics.push(Metric::gauge("oxfs_osd_store_failed", help, failed));
        if let Ok((capacity, free)) = self.space() {
            let help = "Size of the file system or dataset that the store is in";
            metrics.push(Metric::gauge("oxfs_osd_capacity_bytes", help, capacity));
            let help = "Bytes that new data may take";
            metrics.push(Metric::gauge("oxfs_osd_free_bytes", help, free));
        }
        metrics.extend(self.health.metrics());
        metrics
    }

    /// Bytes in all of the file system or below the dataset, and bytes that new data may take.
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        self.room.space()
    }

    fn doomed(&self) -> MutexGuard<'_, HashSet<ObjectKey>> {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unnamed(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the kernel read a file from the disk again; what it has yet to write stays.
fn forget_pages(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => {
            let all = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            nix::fcntl::posix_fadvise(&file, 0, 0, all).map_err(io::Error::from)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

const fn key_in(pg: PgKey, object: ObjectId) -> ObjectKey {
    ObjectKey { pg: pg.pg, object }
}

fn parse_name(pg: PgKey, path: &Path) -> Option<ObjectId> {
    let (inode, column) = path.file_name()?.to_str()?.split_once('.')?;
    Some(ObjectId {
        volume: pg.volume,
        inode: Inode(u64::from_str_radix(inode, 16).ok()?),
        column: column.parse().ok()?,
    })
}
