//! Light loops on a mount that note how long every operation took.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::history::now_ns;

/// Files that are appended to and read: enough that each of three servers is primary of some.
const FILES: usize = 6;
/// Bytes appended or read at a time, in the alignment that `O_DIRECT` asks for.
const BYTES: usize = 4096;
/// Between two operations of a loop, so that the loops leave most of the machine idle.
const PAUSE: Duration = Duration::from_millis(10);

/// What a loop does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// 4 KiB at the end, then fsync(2).
    AppendFsync,
    /// The first 4 KiB with `O_DIRECT`.
    Read,
    /// stat(2) of a file.
    Stat,
    /// Creates and unlinks a file.
    CreateUnlink,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [
        Self::AppendFsync,
        Self::Read,
        Self::Stat,
        Self::CreateUnlink,
    ];

    /// As it stands in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AppendFsync => "append + fsync",
            Self::Read => "direct read",
            Self::Stat => "stat",
            Self::CreateUnlink => "create + unlink",
        }
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Of which loop.
    pub(crate) kind: Kind,
    /// Inode of the file whose data it needs, for loops that need some.
    pub(crate) inode: Option<u64>,
    /// Began, by the clock of [`now_ns`].
    pub(crate) began_ns: u64,
    /// Ended.
    pub(crate) ended_ns: u64,
}

#[derive(Debug, Default)]
struct Told {
    taken: Vec<Taken>,
    errors: Vec<String>,
}

/// The loops; told to end when dropped.
#[derive(Debug)]
pub(crate) struct Loops {
    told: Arc<Mutex<Told>>,
    ended: Arc<AtomicBool>,
}

impl Loops {
    /// Makes the files and starts a thread per loop.
    ///
    /// # Errors
    ///
    /// What the file system says while the files are made.
    pub(crate) fn start(root: &Path) -> Result<Self> {
        let loops = Self {
            told: Arc::default(),
            ended: Arc::default(),
        };
        for number in 0..FILES {
            let path = root.join(format!("file-{number}"));
            let mut file = OpenOptions::new()
                .append(true)
                .create_new(true)
                .open(&path)
                .with_context(|| path.display().to_string())?;
            file.write_all(&[1; BYTES])?;
            file.sync_all()?;
            let inode = Some(file.metadata()?.ino());
            loops.spawn(Kind::AppendFsync, inode, move || {
                file.write_all(&[1; BYTES])?;
                file.sync_all()
            });
            let mut direct = OpenOptions::new();
            let file = direct.read(true).custom_flags(libc::O_DIRECT).open(&path)?;
            loops.spawn(Kind::Read, inode, move || {
                file.read_exact_at(Aligned::new().bytes(), 0)
            });
        }
        let path = root.join("file-0");
        loops.spawn(Kind::Stat, None, move || fs::metadata(&path).map(drop));
        let path = root.join("made");
        loops.spawn(Kind::CreateUnlink, None, move || {
            File::create_new(&path)?;
            fs::remove_file(&path)
        });
        Ok(loops)
    }

    fn spawn(
        &self,
        kind: Kind,
        inode: Option<u64>,
        mut operation: impl FnMut() -> std::io::Result<()> + Send + 'static,
    ) {
        let (told, ended) = (Arc::clone(&self.told), Arc::clone(&self.ended));
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let began_ns = now_ns();
                let result = operation();
                let ended_ns = now_ns();
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = result {
                    told.errors.push(format!("{}: {error}", kind.name()));
                }
                told.taken.push(Taken {
                    kind,
                    inode,
                    began_ns,
                    ended_ns,
                });
                drop(told);
                thread::sleep(PAUSE);
            }
        });
    }

    /// How many loops there are.
    pub(crate) const fn count() -> usize {
        2 * FILES + 2
    }

    /// Everything that ended since it was asked before, and how often programs saw errors.
    pub(crate) fn take(&self) -> (Vec<Taken>, Vec<String>) {
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        (told.taken, told.errors)
    }

    /// How many operations began after a moment and have ended: with one of each loop, none of those
    /// before is under way.
    pub(crate) fn loops_after(&self, moment_ns: u64) -> usize {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen: Vec<(Kind, Option<u64>)> = told
            .taken
            .iter()
            .filter(|taken| taken.began_ns > moment_ns)
            .map(|taken| (taken.kind, taken.inode))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Memory as `O_DIRECT` wants it.
#[repr(align(4096))]
struct Aligned([u8; BYTES]);

impl Aligned {
    const fn new() -> Self {
        Self([0; BYTES])
    }

    const fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
