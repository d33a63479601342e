//! Stores on real pools of zfs-fuse, or of whatever ZFS answers on this machine. They need root and the package.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use types::{ClusterId, PgId, PgKey, VolumeId};
use zfs_driver::{DatasetName, Pool};

pub(crate) use crate::store_root::Place;
use crate::store_root::Root;

#[expect(dead_code, reason = "the driver's tests use the rest")]
#[path = "../../zfs/tests/real_pool/machine.rs"]
pub(crate) mod machine;
use machine::Machine;

/// The groups of the tests' objects.
const GROUPS: [PgKey; 4] = [group(1, 2), group(1, 3), group(3, 5), group(3, 6)];

pub(crate) const fn group(volume: u64, pg: u32) -> PgKey {
    PgKey {
        volume: VolumeId(volume),
        pg: PgId(pg),
    }
}

/// The machine's ZFS with a pool.
pub(crate) struct Bench {
    pub(crate) pool: Pool,
    pub(crate) machine: Machine,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(1)
    }

    /// With so many devices of 128 MiB.
    pub(crate) fn of(devices: usize) -> Self {
        let mut machine = Machine::take();
        let pool = machine.pool("osd", &[], devices);
        Self { pool, machine }
    }

    /// Two devices that hold the same.
    pub(crate) fn mirror() -> Self {
        let mut machine = Machine::take();
        let pool = machine.pool("osd", &["mirror"], 2);
        Self { pool, machine }
    }

    /// The name of a dataset in the pool.
    pub(crate) fn dataset(&self, below: &str) -> DatasetName {
        machine::dataset(&self.pool, below)
    }
}

/// A state directory whose store is on ZFS.
pub(crate) struct Store {
    dir: TempDir,
    place: Place,
}

thread_local! {
    /// The pool of this test's stores, and how many it has.
    static PRESENT: RefCell<Option<(Pool, usize)>> = const { RefCell::new(None) };
}

/// Runs something in which stores are on ZFS.
pub(crate) fn while_on_zfs(work: impl FnOnce()) {
    let bench = Bench::new();
    PRESENT.set(Some((bench.pool.clone(), 0)));
    work();
    PRESENT.set(None);
}

impl Store {
    /// A new one, if stores are to be on ZFS, with the datasets of the tests' groups.
    pub(crate) fn wanted() -> Option<Self> {
        let dataset = PRESENT.with_borrow_mut(|present| {
            let (pool, count) = present.as_mut()?;
            *count += 1;
            Some(machine::dataset(pool, &format!("oxfs/osd-{count}")))
        });
        let store = Self::at(dataset?);
        let root = store.open();
        for group in GROUPS {
            make(&root, group).unwrap();
        }
        Some(store)
    }

    /// One that is not made yet.
    pub(crate) fn at(dataset: DatasetName) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            place: Place {
                dataset,
                cluster: ClusterId(9),
                store_uuid: format!("{:032x}", 5),
            },
        }
    }

    /// One of another state directory that claims the same dataset.
    pub(crate) fn other(dataset: DatasetName) -> Self {
        let mut other = Self::at(dataset);
        other.place.store_uuid = format!("{:032x}", 6);
        other
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn place(&self) -> Place {
        self.place.clone()
    }

    pub(crate) fn open(&self) -> Arc<Root> {
        Arc::new(self.try_open().unwrap())
    }

    pub(crate) fn try_open(&self) -> std::io::Result<Root> {
        Root::open_on(self.dir.path(), self.place.clone())
    }
}

/// Has the dataset of a group made, and waits for it.
pub(crate) fn make(root: &Root, group: PgKey) -> Result<(), String> {
    root.datasets().unwrap().make(group)
}
