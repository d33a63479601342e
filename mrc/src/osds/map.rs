//! The map of object servers, ready for those who need it all the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use mrc_core::{IndexError, IndexRead, query};
use proto::mrc::{OsdMap, Replica};
use types::{Fault, PgId, VolumeId};

use crate::log_writer::lock;

/// The map of object servers as grants and heartbeats need it, remade when its version changes.
#[derive(Debug, Default)]
pub(crate) struct MapCache(Mutex<Arc<Map>>);

#[derive(Debug, Default)]
pub(crate) struct Map {
    pub version: u64,
    pub whole: OsdMap,
    pgs: BTreeMap<(VolumeId, PgId), (u64, Vec<Replica>)>,
}

impl MapCache {
    pub(crate) fn get(&self, index: &dyn IndexRead) -> Result<Arc<Map>, IndexError> {
        let version = query::map_version(index)?;
        let mut cached = lock(&self.0);
        if cached.version != version {
            *cached = Arc::new(Map::new(query::osd_map(index)?));
        }
        Ok(Arc::clone(&cached))
    }
}

impl Map {
    fn new(whole: OsdMap) -> Self {
        let addresses: BTreeMap<u64, &Replica> = whole
            .osds
            .iter()
            .map(|replica| (replica.osd, replica))
            .collect();
        let pgs = whole
            .pgs
            .iter()
            .map(|pg| {
                let replicas = pg
                    .osds
                    .iter()
                    .filter_map(|osd| addresses.get(osd).copied().cloned());
                let key = (VolumeId(pg.volume), PgId(pg.pg));
                (key, (pg.view, replicas.collect()))
            })
            .collect();
        Self {
            version: whole.version,
            whole,
            pgs,
        }
    }

    /// View and replicas of a group.
    pub(crate) fn pg(&self, volume: VolumeId, pg: PgId) -> Result<(u64, &[Replica]), Fault> {
        match self.pgs.get(&(volume, pg)) {
            Some((view, replicas)) => Ok((*view, replicas)),
            None => Err(Fault::refresh(format!(
                "placement group {volume}.{pg} does not exist"
            ))),
        }
    }
}
