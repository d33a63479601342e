//! One end of a stream: a pool with a dataset of the cluster, or room for it.

use std::io::Write as _;
use std::path::PathBuf;

use types::{PgId, PgKey, VolumeId};
use zfs_driver::{
    Base, Changes, DatasetName, Error, NewDataset, Pool, Receiving, Sending, Snapshot,
    StreamOptions, Tree,
};

use crate::machine::Machine;

pub(crate) const PG: PgKey = PgKey {
    volume: VolumeId(3),
    pg: PgId(7),
};

/// A pool with a mounted dataset of the cluster.
pub(crate) struct Side {
    pub(crate) pool: Pool,
    pub(crate) tree: Tree,
    pub(crate) name: DatasetName,
    pub(crate) files: PathBuf,
}

impl Side {
    pub(crate) fn new(machine: &mut Machine, name: &str) -> Self {
        let pool = machine.pool(name, &[], 1);
        let tree = machine.tree(&pool);
        Self {
            name: tree.group(PG),
            files: machine.dir().join(name),
            pool,
            tree,
        }
    }

    pub(crate) fn with_dataset(machine: &mut Machine, name: &str) -> Self {
        let side = Self::new(machine, name);
        side.tree.create(PG, &side.plan()).unwrap();
        side.tree.mount(&side.name).unwrap();
        side
    }

    pub(crate) fn plan(&self) -> NewDataset {
        NewDataset {
            mountpoint: Some(self.files.clone()),
            ..NewDataset::default()
        }
    }

    pub(crate) fn snapshot(&self, short: &str) -> Snapshot {
        self.tree
            .snapshot(&self.name.snapshot(short).unwrap())
            .unwrap()
    }

    pub(crate) fn send(&self, snapshot: &Snapshot, base: Option<&Snapshot>) -> Sending {
        let base = base.map(|base| Base::Snapshot(&base.name));
        self.tree
            .send(&snapshot.name, base, StreamOptions::default())
            .unwrap()
    }

    pub(crate) fn receive_full(&self, short: &str) -> Result<Receiving, Error> {
        let target = self.name.snapshot(short).unwrap();
        self.tree
            .receive_full(&target, &self.plan(), Changes::Discard)
    }

    pub(crate) fn receive_increment(
        &self,
        short: &str,
        base: &Snapshot,
        changes: Changes,
    ) -> Result<Receiving, Error> {
        let target = self.name.snapshot(short).unwrap();
        self.tree.receive_increment(&target, base.guid, changes)
    }

    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.tree.snapshots(&self.name).unwrap()
    }
}

/// Writes all that is sent to what receives.
pub(crate) fn copy(mut from: Sending, mut to: Receiving) -> Result<Snapshot, Error> {
    let (sent, received) = (from.handle(), to.handle());
    while let Some(piece) = from.next_piece()? {
        to.write_all(&piece).unwrap();
    }
    let snapshot = to.finish()?;
    assert_eq!(sent.transferred_bytes(), received.transferred_bytes());
    Ok(snapshot)
}
