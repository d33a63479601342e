//! Syncs of the store in memory.

use crate::memory::{Inner, MemoryStore, Object};
use crate::record::Record;
use crate::store::{ObjectKey, StoreError, SyncJob};

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) store: MemoryStore,
    pub(crate) key: ObjectKey,
    /// The newest change to make stable, if any are.
    pub(crate) upto: Option<u64>,
    pub(crate) record: Record,
}

impl Job {
    fn object<'a>(&self, inner: &'a mut Inner) -> Result<&'a mut Object, StoreError> {
        if inner.fail_syncs {
            inner.poisoned = true;
        }
        inner.changeable(self.key)
    }
}

impl SyncJob for Job {
    fn write_data(&mut self, sync: bool) -> Result<(), StoreError> {
        let mut inner = self.store.inner();
        let object = self.object(&mut inner)?;
        let Some(upto) = self.upto.filter(|_| sync) else {
            return Ok(());
        };
        let stable = object.stable.get_or_insert_default();
        for (_, change) in object
            .unstable
            .extract_if(.., |(number, _)| *number <= upto)
        {
            change.apply(&mut stable.bytes);
        }
        Ok(())
    }

    fn write_record(&mut self, sync: bool) -> Result<(), StoreError> {
        let mut inner = self.store.inner();
        let object = self.object(&mut inner)?;
        object.record = self.record.clone();
        object.is_note_incomplete &= !self.record.clean;
        if sync {
            object.stable.get_or_insert_default().record = self.record.clone();
        }
        Ok(())
    }
}
