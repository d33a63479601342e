//! Making objects stable: data and sums first, then the record that vouches for them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use osd_core::{StoreError, SyncJob};

use crate::object_file::Unwritten;
use crate::store_root::Root;

/// One durable step of one object.
#[derive(Debug)]
pub(crate) struct Job {
    root: Arc<Root>,
    unwritten: Unwritten,
    /// The data is part of it.
    data: bool,
    /// The object's name is not stable yet.
    name: Option<PathBuf>,
}

impl Job {
    pub(crate) const fn new(
        root: Arc<Root>,
        unwritten: Unwritten,
        data: bool,
        name: Option<PathBuf>,
    ) -> Self {
        Self {
            root,
            unwritten,
            data,
            name,
        }
    }

    /// Performs a step; whatever goes wrong poisons the store.
    fn step(&self, work: impl FnOnce(&Self, &File) -> io::Result<()>) -> Result<(), StoreError> {
        if self.root.is_poisoned() {
            return Err(StoreError::Poisoned);
        }
        work(self, &self.unwritten.file).map_err(|error| {
            self.root.poison(&error);
            StoreError::Io(error)
        })
    }
}

impl SyncJob for Job {
    fn write_data(&mut self, sync: bool) -> Result<(), StoreError> {
        if !self.data {
            return Ok(());
        }
        self.step(|job, file| {
            for (at, bytes) in &job.unwritten.sums {
                file.write_all_at(bytes, *at)?;
            }
            if sync { file.sync_data() } else { Ok(()) }
        })
    }

    fn write_record(&mut self, sync: bool) -> Result<(), StoreError> {
        self.step(|job, file| {
            let (at, bytes) = &job.unwritten.slot;
            file.write_all_at(bytes, *at)?;
            if !sync {
                return Ok(());
            }
            file.sync_data()?;
            match &job.name {
                Some(path) => job.root.sync_name(path),
                None => Ok(()),
            }
        })
    }
}
