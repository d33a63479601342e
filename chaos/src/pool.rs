//! Disks of which images can be made at an instant: what the servers would find after power failed.
//!
//! Each server's disk is an ext4 in a file of a btrfs. Its loop device passes by the page cache of the
//! btrfs, so the file has what reached the disk and nothing of what the server's own page cache still
//! holds; and a snapshot of the btrfs has all files as they were at one instant.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::command::{fed, run};
use crate::node::Node;

/// Size of the btrfs: sparse, so only what is written takes space. 64 GiB: some hundred images.
const POOL_BYTES: u64 = 64 << 30;

/// Size of each disk. 512 MiB, as the small disks have: some minutes of work.
const DISK_BYTES: u64 = 512 << 20;

/// The folder with the disks that servers work on.
const LIVE: &str = "live";

/// Data may reach the disk after the size that covers it, and a rename before what was written to the
/// file: the least that a file system promises. What is not synced is gone.
const OPTIONS: &str = "data=writeback,noauto_da_alloc";

/// The btrfs; unmounted with the value, and everything on it before.
#[derive(Debug)]
pub(crate) struct Pool {
    point: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Pool {
    /// Makes a pool in a directory.
    ///
    /// # Errors
    ///
    /// What the tools said.
    pub(crate) fn new(home: &Path) -> Result<Self> {
        let file = home.join("pool.btrfs");
        File::create(&file)?.set_len(POOL_BYTES)?;
        let point = home.join("pool");
        fs::create_dir(&point)?;
        let (file, shown) = (file.display().to_string(), point.display().to_string());
        fed(&["mkfs.btrfs", "-q", "-m", "single", &file], "")?;
        // With sums a btrfs takes direct writes through its page cache.
        fed(&["mount", "-o", "loop,nodatacow", &file, &shown], "")?;
        let pool = Self {
            point,
            mounted: Vec::new(),
        };
        pool.btrfs("create", &[&pool.folder(LIVE)])?;
        Ok(pool)
    }

    /// Makes an empty disk for a server and mounts it.
    ///
    /// # Errors
    ///
    /// What the tools said.
    pub(crate) fn add(&mut self, node: Node, point: &Path) -> Result<()> {
        let image = self.image(LIVE, node);
        File::create(&image)?.set_len(DISK_BYTES)?;
        let shown = image.display().to_string();
        // Nothing writes behind our back.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        fed(
            &[
                "mkfs.ext4",
                "-q",
                "-b",
                "4096",
                "-m",
                "0",
                "-E",
                lazy,
                &shown,
            ],
            "",
        )?;
        self.mount(LIVE, node, point)?;
        // A state directory has to be empty.
        fs::remove_dir(point.join("lost+found"))?;
        Ok(())
    }

    /// Mounts a server's disk of a set of images.
    ///
    /// # Errors
    ///
    /// What the tools said.
    pub(crate) fn mount(&mut self, set: &str, node: Node, point: &Path) -> Result<()> {
        let image = self.image(set, node).display().to_string();
        let losetup = ["losetup", "--find", "--show", "--sector-size", "4096"];
        let device = fed(&[&losetup[..], &["--direct-io=on", &image]].concat(), "")?;
        let device = device.trim();
        let shown = point.display().to_string();
        let mounted = is_direct(device)
            .and_then(|()| fed(&["mount", "-o", OPTIONS, device, &shown], "").map(drop));
        // A mounted one frees itself when it is unmounted.
        run(&format!("losetup --detach {device}"))?;
        mounted?;
        self.mounted.push(point.to_owned());
        Ok(())
    }

    /// Unmounts all disks; nothing may be open there.
    ///
    /// # Errors
    ///
    /// What the tool said.
    pub(crate) fn unmount_all(&mut self) -> Result<()> {
        while let Some(point) = self.mounted.pop() {
            fed(&["umount", &point.display().to_string()], "")?;
        }
        Ok(())
    }

    /// Makes a set of images of all disks as they are at one instant.
    ///
    /// # Errors
    ///
    /// What the tool said.
    pub(crate) fn image_all(&self, set: &str) -> Result<()> {
        self.btrfs("snapshot", &[&self.folder(LIVE), &self.folder(set)])
    }

    /// Begins a set whose images are made one after the other.
    ///
    /// # Errors
    ///
    /// What the tool said.
    pub(crate) fn begin(&self, set: &str) -> Result<()> {
        self.btrfs("create", &[&self.folder(set)])
    }

    /// Adds the image of one disk to a set.
    ///
    /// # Errors
    ///
    /// What the tool said.
    pub(crate) fn image_one(&self, set: &str, node: Node) -> Result<()> {
        let [from, to] = [LIVE, set].map(|set| self.image(set, node).display().to_string());
        fed(&["cp", "--reflink=always", &from, &to], "").map(drop)
    }

    /// Removes a set.
    ///
    /// # Errors
    ///
    /// What the tool said.
    pub(crate) fn remove(&self, set: &str) -> Result<()> {
        self.btrfs("delete", &[&self.folder(set)])
    }

    /// Sees to it that an image has what was synced and lacks what was not: a disk that keeps
    /// everything proves nothing.
    ///
    /// # Errors
    ///
    /// If that is not so on this machine, or what the tools said.
    pub(crate) fn prove(&mut self, node: Node, point: &Path) -> Result<()> {
        let (synced, unsynced) = (point.join("synced"), point.join("unsynced"));
        for path in [&synced, &unsynced] {
            File::create(path)?.sync_all()?;
            File::open(point)?.sync_all()?;
        }
        fs::write(&unsynced, b"power")?;
        File::create(&synced).and_then(|mut file| {
            file.write_all(b"power")?;
            file.sync_all()
        })?;
        self.image_all("proof")?;
        self.unmount_all()?;
        self.mount("proof", node, point)?;
        let found = [fs::read(&synced)?, fs::read(&unsynced)?];
        self.unmount_all()?;
        self.remove("proof")?;
        self.mount(LIVE, node, point)?;
        for path in [&synced, &unsynced] {
            fs::remove_file(path)?;
        }
        ensure!(
            found == [b"power".to_vec(), Vec::new()],
            "an image of a disk holds {found:?} of a file that was synced and one that was not: images \
             prove nothing here"
        );
        Ok(())
    }

    fn folder(&self, set: &str) -> String {
        self.point.join(set).display().to_string()
    }

    fn image(&self, set: &str, node: Node) -> PathBuf {
        self.point.join(set).join(format!("{node}.ext4"))
    }

    fn btrfs(&self, verb: &str, words: &[&String]) -> Result<()> {
        let mut line = vec!["btrfs", "-q", "subvolume", verb];
        line.extend(words.iter().map(|word| word.as_str()));
        fed(&line, "").map(drop)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.mounted.insert(0, self.point.clone());
        for point in self.mounted.iter().rev() {
            let point = point.display().to_string();
            if let Err(error) = fed(&["umount", "-l", &point], "") {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Whether a loop device passes by the page cache below it.
fn is_direct(device: &str) -> Result<()> {
    let name = device.trim_start_matches("/dev/");
    let path = format!("/sys/block/{name}/loop/dio");
    let dio = fs::read_to_string(&path).with_context(|| path.clone())?;
    ensure!(
        dio.trim() == "1",
        "{device} can't do direct I/O on this kernel, which images need"
    );
    Ok(())
}
