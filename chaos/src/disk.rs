//! A small disk of its own for a server, that can be filled to the last byte.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;

use crate::command::fed;

/// Size of the disk. 512 MiB: some minutes of work of a metadata server, whose log is not purged
/// before it has 16 MiB, or of an object server, with room.
const DISK_BYTES: u64 = 512 << 20;

/// What is left to be written byte by byte after the rest was taken at once.
const REST_BYTES: u64 = 1 << 20;

/// An ext4 in a file, mounted where a server keeps its state; unmounted with the value.
#[derive(Debug)]
pub(crate) struct Disk {
    point: PathBuf,
}

impl Disk {
    /// Makes the file system in a new file beside the mount point, and mounts it.
    ///
    /// # Errors
    ///
    /// What the tools said.
    pub(crate) fn new(point: &Path) -> Result<Self> {
        let image = point.with_extension("ext4");
        File::create(&image)?.set_len(DISK_BYTES)?;
        let image = image.display().to_string();
        let shown = point.display().to_string();
        // No blocks are kept for root: full is full. No lazy tables: nothing writes behind our back.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        fed(&["mkfs.ext4", "-q", "-m", "0", "-E", lazy, &image], "")?;
        // The loop device frees itself when it is unmounted.
        fed(&["mount", "-o", "loop", &image, &shown], "")?;
        let disk = Self {
            point: point.to_owned(),
        };
        // A state directory has to be empty.
        let _ = fs::remove_dir(point.join("lost+found"));
        Ok(disk)
    }

    /// Fills the disk.
    ///
    /// # Errors
    ///
    /// Of the file system, but for the one that is wanted.
    pub(crate) fn fill(&self) -> Result<()> {
        let free = {
            let status = statvfs(&self.point)?;
            status.blocks_available() * status.fragment_size()
        };
        let filler = self.filler();
        if free > REST_BYTES {
            let length = (free - REST_BYTES).to_string();
            let path = filler.display().to_string();
            // The server may have taken some meanwhile; what remains is written.
            let _ = fed(&["fallocate", "-l", &length, &path], "");
        }
        let mut file = File::options().create(true).append(true).open(&filler)?;
        loop {
            match file.write_all(&[0xff; 4096]).and_then(|()| file.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("filling a disk"),
            }
        }
    }

    /// Gives the space back.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn free(&self) -> Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.point.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let point = self.point.display().to_string();
        if let Err(error) = fed(&["umount", "-l", &point], "") {
            eprintln!("{error:#}");
        }
    }
}
