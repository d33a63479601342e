//! Making objects stable: data and sums first, then the record that vouches for them.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use osd_core::{StoreError, SyncJob};

use crate::at_rest::Vouches;
use crate::file_io::is_no_space;
use crate::object_file::Unwritten;
use crate::store_root::Root;

/// One durable step of one object.
#[derive(Debug)]
pub(crate) struct Job {
    root: Arc<Root>,
    unwritten: Unwritten,
    scope: Scope,
    /// The object's name is not stable yet.
    name: Option<PathBuf>,
}

/// What a job is about apart from the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    /// The data and the sums that were changed.
    pub(crate) data: bool,
    /// All sums: the record vouches for them.
    pub(crate) all_sums: bool,
}

impl Job {
    pub(crate) const fn new(
        root: Arc<Root>,
        unwritten: Unwritten,
        scope: Scope,
        name: Option<PathBuf>,
    ) -> Self {
        Self {
            root,
            unwritten,
            scope,
            name,
        }
    }

    const fn vouches(&self) -> Vouches {
        match (self.scope.all_sums, self.scope.data) {
            (true, _) => Vouches::Everything,
            (false, true) => Vouches::Changes,
            (false, false) => Vouches::Nothing,
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.root.is_poisoned() || self.unwritten.rest.is_given_up() {
            true => Err(StoreError::Poisoned),
            false => Ok(()),
        }
    }

    /// A write without space has done no harm: what it was to write is known still. Any other that
    /// fails poisons the store.
    fn written(&self, result: io::Result<()>) -> Result<(), StoreError> {
        match result {
            Err(error) if is_no_space(&error) => Err(StoreError::NoSpace { written_bytes: 0 }),
            other => self.synced(other),
        }
    }

    /// After a sync that fails nothing more is recorded: the kernel has given up what it could not
    /// write, and the next sync would succeed without it. Want of space is the matter of this file alone;
    /// whatever else it is poisons the store.
    fn synced(&self, result: io::Result<()>) -> Result<(), StoreError> {
        result.map_err(|error| {
            if is_no_space(&error) {
                self.unwritten.rest.give_up();
                self.root.note_failure(&error);
                tracing::error!(
                    %error,
                    "the disk is full, so that the kernel has given up data of an object: this copy of it \
                     takes no changes until the server is restarted"
                );
                return StoreError::Poisoned;
            }
            self.root.poison(&error);
            StoreError::Io(error)
        })
    }
}

impl SyncJob for Job {
    fn is_prepared(&self) -> bool {
        !self.scope.all_sums || !self.unwritten.rest.has_stale()
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        self.check()?;
        Ok(self.unwritten.rest.make_next_anew(&self.unwritten.file)?)
    }

    fn write_data(&mut self, sync: bool) -> Result<(), StoreError> {
        while !self.is_prepared() {
            self.prepare()?;
        }
        if !self.scope.data {
            return Ok(());
        }
        self.check()?;
        let Unwritten { file, rest, .. } = &self.unwritten;
        self.written(rest.write_waiting(file))?;
        match sync {
            true => self.synced(file.sync_data()),
            false => Ok(()),
        }
    }

    fn write_record(&mut self, sync: bool) -> Result<(), StoreError> {
        self.check()?;
        let Unwritten { file, rest, .. } = &self.unwritten;
        self.written(rest.write_note(file, self.vouches()))?;
        self.written(file.write_all_at(&self.unwritten.slot, self.unwritten.slot_at))?;
        if sync {
            self.synced(file.sync_data())?;
            if let Some(path) = &self.name {
                // Names are in the journal or not: the kernel gives up none for want of space.
                self.written(self.root.sync_name(path))?;
            }
        }
        rest.record_written(self.unwritten.generation);
        Ok(())
    }
}
