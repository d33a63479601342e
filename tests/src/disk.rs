//! Small disks of their own for servers, so that they can be full without filling the machine's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::sys::statvfs::statvfs;

use crate::program::{run, shell};

/// An ext4 in a file, mounted where a server keeps its state; unmounted with the value. Needs root.
#[derive(Debug)]
pub struct Disk {
    point: PathBuf,
}

impl Disk {
    /// Puts a server's directory on a disk of so many bytes. The server must not be running.
    ///
    /// # Errors
    ///
    /// What the tools said.
    pub fn under(dir: &Path, bytes: u64) -> Result<Self> {
        let image = dir.with_extension("ext4");
        File::create(&image)?.set_len(bytes)?;
        let before = dir.with_extension("before");
        fs::rename(dir, &before)?;
        fs::create_dir(dir)?;
        let (image, before, point) = (image.display(), before.display(), dir.display());
        // No blocks are kept for root: full is full. The loop device frees itself when it is unmounted.
        shell(
            Path::new("/"),
            &format!(
                "mkfs.ext4 -q -m 0 -E lazy_itable_init=0,lazy_journal_init=0 {image}\n\
                 mount -o loop {image} {point}"
            ),
        )?;
        let disk = Self {
            point: dir.to_owned(),
        };
        shell(
            Path::new("/"),
            &format!(
                "rmdir {point}/lost+found\n\
                 cp -a {before}/. {point}\n\
                 rm -r {before}"
            ),
        )?;
        Ok(disk)
    }

    /// Bytes that are free.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub fn free_bytes(&self) -> Result<u64> {
        let status = statvfs(&self.point)?;
        Ok(status.blocks_available() * status.fragment_size())
    }

    /// Takes all but so many bytes.
    ///
    /// # Errors
    ///
    /// If there are fewer already, or of the file system.
    pub fn fill_but(&self, left_bytes: u64) -> Result<()> {
        let free = self.free_bytes()?;
        ensure!(free > left_bytes, "only {free} bytes are free");
        let filler = self.filler().display().to_string();
        let length = (free - left_bytes).to_string();
        run(Path::new("/"), "fallocate", &["-l", &length, &filler])?;
        Ok(())
    }

    /// Gives back what was taken.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("the filler")
    }

    fn filler(&self) -> PathBuf {
        self.point.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let point = self.point.display().to_string();
        if let Err(error) = run(Path::new("/"), "umount", &["-l", &point]) {
            eprintln!("{error:#}");
        }
    }
}
