//! The segment of the log that nobody uses yet: with it the log goes on for a while on a full disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The file `spare` of a log; clones are handles of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    dir: PathBuf,
    segment_bytes: u32,
    preparing: Arc<AtomicBool>,
}

impl Spare {
    pub(crate) fn at(dir: &Path, segment_bytes: u32) -> Self {
        Self {
            dir: dir.to_owned(),
            segment_bytes,
            preparing: Arc::default(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("spare")
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Moves it to `fresh`, or makes a file like it there.
    pub(crate) fn take(&self, fresh: &Path) -> io::Result<File> {
        match std::fs::rename(self.path(), fresh) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                preallocate(fresh, self.segment_bytes)?;
            }
            Err(error) => return Err(error),
        }
        OpenOptions::new().read(true).write(true).open(fresh)
    }

    /// Writes it in the background, unless it is there.
    pub(crate) fn prepare(&self) {
        if self.exists() || self.preparing.swap(true, Ordering::Relaxed) {
            return;
        }
        let spare = self.clone();
        let prepare = move || {
            let fresh = spare.dir.join("spare.tmp");
            let made = preallocate(&fresh, spare.segment_bytes)
                .and_then(|()| std::fs::rename(&fresh, spare.path()));
            if let Err(error) = made {
                tracing::debug!(%error, path = %spare.path().display(), "no spare log segment yet");
            }
            spare.preparing.store(false, Ordering::Relaxed);
        };
        let thread = std::thread::Builder::new().name("log-spare".into());
        if thread.spawn(prepare).is_err() {
            self.preparing.store(false, Ordering::Relaxed);
        }
    }
}

/// A file of zeros that are really written: extents that are only reserved cost a journal commit
/// when the first write turns them into data. Without room for all of it nothing is left behind.
fn preallocate(path: &Path, bytes: u32) -> io::Result<()> {
    let file = File::create(path)?;
    fill(&file, bytes).inspect_err(|_| {
        let _kept = std::fs::remove_file(path);
    })
}

fn fill(file: &File, bytes: u32) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    // Says at once whether there is room, before anything is written.
    allocate(file, u64::from(bytes))?;
    let zeros = vec![0; CHUNK.min(bytes as usize)];
    let mut at = 0;
    while at < u64::from(bytes) {
        let length = zeros.len().min((u64::from(bytes) - at) as usize);
        file.write_all_at(zeros.get(..length).unwrap_or(&zeros), at)?;
        at += length as u64;
    }
    file.sync_all()
}

/// Reserves the blocks of a file; nothing on file systems that can't.
pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let Ok(length) = i64::try_from(bytes) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    match nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, length) {
        Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
