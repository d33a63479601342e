//! Small file systems of their own, for tests that fill or break them. They need root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::store_root::Root;

/// A mounted ext4 file system on a loop device.
pub(crate) struct Disk {
    /// Unmounted in this order.
    mounts: Vec<PathBuf>,
    image: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    /// One of this size; none, with a message, if the tests do not run as root.
    pub(crate) fn new(size_bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        Self::on(dir, image, (size_bytes, 256), Vec::new())
    }

    /// The same with inodes for many small files.
    pub(crate) fn for_small_files(size_bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let inodes = size_bytes / 8192;
        Self::on(dir, image, (size_bytes, inodes), Vec::new())
    }

    /// One of this size whose device fails writes after so many bytes.
    pub(crate) fn failing(size_bytes: u64, sound_bytes: u64) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let under = dir.path().join("under");
        std::fs::create_dir(&under).unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={sound_bytes}"))
            .arg("none")
            .arg(&under));
        let image = under.join("image");
        Self::on(dir, image, (size_bytes, 256), vec![under])
    }

    fn on(
        dir: tempfile::TempDir,
        image: PathBuf,
        (size_bytes, inodes): (u64, u64),
        under: Vec<PathBuf>,
    ) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(size_bytes).unwrap();
        run(Command::new("mkfs.ext4")
            .args([
                "-q",
                "-F",
                "-m",
                "0",
                "-b",
                "4096",
                "-O",
                "^resize_inode",
                "-N",
            ])
            .arg(inodes.to_string())
            .arg(&image));
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let mut mounts = under;
        mounts.insert(0, mount);
        let disk = Self {
            mounts,
            image,
            _dir: dir,
        };
        disk.mount();
        Some(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mounts[0]
    }

    pub(crate) fn root(&self) -> Arc<Root> {
        Arc::new(Root::open(self.path()).unwrap())
    }

    /// Forgets all that is not on the device. Nothing may be open.
    pub(crate) fn remount(&self) {
        run(Command::new("umount").arg(self.path()));
        self.mount();
    }

    fn mount(&self) {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(self.path()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for mount in &self.mounts {
            // Also if a failed test has something open there.
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("not tested: mounting a small file system needs root");
    }
    root
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
