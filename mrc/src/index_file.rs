//! The index's file: made as a whole, opened, taken over from releases that kept no checksums.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mrc_core::{Index, IndexError};
use redb::backends::FileBackend;

use crate::cushion::{Cushion, Cushioned};
use crate::damage::Damage;
use crate::index_redb::RedbIndex;
use crate::page_sums::{self, PageSums};
use crate::promises::sync_dir;

/// Where the index lies and what goes with it.
#[derive(Clone, Debug)]
pub(crate) struct IndexFile {
    pub path: PathBuf,
    pub cushion: Cushion,
    pub cache_bytes: usize,
    /// Hears of pages that can't be trusted.
    pub damage: Damage,
}

/// The old index is still there.
#[derive(Debug, thiserror::Error)]
#[error(
    "it gets checksums by being copied, which failed; {needed_mib} MiB have to be free on its disk"
)]
struct NotCopied {
    needed_mib: u64,
    source: IndexError,
}

impl IndexFile {
    /// Opens the index, or makes an empty one.
    ///
    /// # Errors
    ///
    /// [`IndexError::Engine`]: it is damaged, of a newer version, or in use; or the disk fails.
    pub(crate) fn open(&self) -> Result<RedbIndex, IndexError> {
        let unfinished = self.unfinished();
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(IndexError::engine(error));
            }
            _ => {}
        }
        if !self.path.exists() {
            drop(self.open_at(&unfinished)?);
            self.finish()?;
        } else if page_sums::lacks_sums(&self.path).map_err(IndexError::engine)? {
            self.take_over()?;
        }
        self.open_at(&self.path)
    }

    /// Copies an index without checksums into one with them.
    fn take_over(&self) -> Result<(), IndexError> {
        tracing::info!(file = %self.path.display(), "adding checksums to the index of an older release");
        let file = File::options().read(true).write(true).open(&self.path);
        let file = file.map_err(IndexError::engine)?;
        let file = FileBackend::new(file).map_err(IndexError::engine)?;
        let old = RedbIndex::open_verified(file, self.cache_bytes)?;
        self.copy(old).map_err(|source| {
            let needed_bytes = std::fs::metadata(&self.path).map_or(0, |old| old.len());
            let needed_mib = (needed_bytes >> 20) + 1;
            IndexError::engine(NotCopied { needed_mib, source })
        })?;
        self.finish()
    }

    fn copy(&self, old: RedbIndex) -> Result<(), IndexError> {
        let copy = self.open_at(&self.unfinished())?;
        let mut copied = 0_u64;
        let mut entries = old.snapshot()?.inspect(|_| copied += 1);
        copy.install(&mut entries)?;
        drop((entries, old, copy));
        // The old one goes only when the new one was read.
        let copy = self.open_at(&self.unfinished())?;
        let mut found = 0_u64;
        for entry in copy.snapshot()? {
            entry?;
            found += 1;
        }
        drop(copy);
        if found != copied {
            let text = format!("{found} of {copied} records were copied into the new index");
            return Err(IndexError::engine(text));
        }
        Ok(())
    }

    fn open_at(&self, path: &Path) -> Result<RedbIndex, IndexError> {
        let file = Cushioned::open(path, self.cushion.clone()).map_err(IndexError::engine)?;
        let damage = self.damage.clone();
        let alarm: page_sums::Alarm = Arc::new(move |what| damage.found(what));
        RedbIndex::open_on(PageSums::new(file, path, alarm), self.cache_bytes)
    }

    /// A file of this name was not finished when the server ended; it is made anew.
    fn unfinished(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    /// The new file is closed and synced: it gets its name.
    fn finish(&self) -> Result<(), IndexError> {
        std::fs::rename(self.unfinished(), &self.path).map_err(IndexError::engine)?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        sync_dir(dir).map_err(IndexError::engine)
    }
}
