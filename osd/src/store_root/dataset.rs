//! A mounted dataset, and how what is in it becomes stable.
//!
//! On zfs-fuse, as on every FUSE file system, the kernel passes on neither `syncfs` nor `fsync` of a directory
//! and says that they succeeded; there is no way to ask. There, a synced file takes along all names that were
//! made or removed in its dataset before. So a file is kept for that alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs, statfs};

/// Directory of the file that is synced for the sake of names. Objects' directories have two letters.
const NAMES_DIR: &str = "names";

/// A dataset that is mounted. Clones share its descriptor, which keeps it from being unmounted.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    path: PathBuf,
    handle: Arc<File>,
    device: u64,
    /// Its own file for names, where directories can't be synced.
    names: Option<Arc<File>>,
}

impl Mounted {
    /// Opens what is mounted at a path.
    ///
    /// # Errors
    ///
    /// If nothing is, as seen by this process.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let handle = File::open(path)?;
        let device = handle.metadata()?.dev();
        let above = path.parent().unwrap_or(path);
        if fs::metadata(above)?.dev() == device {
            return Err(not_mounted(path));
        }
        let is_fuse = fstatfs(&handle)?.filesystem_type() == FUSE_SUPER_MAGIC;
        let names = match is_fuse {
            true => Some(Arc::new(names_file(path)?)),
            false => None,
        };
        Ok(Self {
            path: path.to_owned(),
            handle: Arc::new(handle),
            device,
            names,
        })
    }

    /// Checks that the path still leads into the dataset.
    pub(super) fn check(&self) -> io::Result<()> {
        check(&self.path, self.device)
    }

    /// Number of its device.
    pub(super) const fn device(&self) -> u64 {
        self.device
    }

    /// Whether files must be synced one by one.
    pub(super) const fn syncs_by_file(&self) -> bool {
        self.names.is_some()
    }

    /// Makes names stable that were made or removed so far; false if each directory must be synced for that.
    pub(super) fn sync_names(&self) -> io::Result<bool> {
        let Some(file) = &self.names else {
            return Ok(false);
        };
        // A sync of a file that was not changed would do nothing.
        file.write_all_at(b"\n", 0)?;
        file.sync_data()?;
        Ok(true)
    }

    /// Makes names stable and, unless files must be synced one by one, all else.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.sync_names()? {
            return Ok(());
        }
        nix::unistd::syncfs(&self.handle).map_err(io::Error::from)
    }

    /// Whether somebody else has a clone.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.handle) > 1
    }

    /// Removes the directories of a dataset that holds no objects; whether it holds none. Must not be
    /// shared.
    pub(super) fn clear(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if is_own(&entry) {
                continue;
            }
            match fs::remove_dir(entry.path()) {
                Err(error) if is_in_use(&error) => return Ok(false),
                outcome => outcome?,
            }
        }
        Ok(true)
    }
}

/// Whether an entry of a dataset's directory is no directory of objects.
fn is_own(entry: &fs::DirEntry) -> bool {
    // ZFS shows snapshots in `.zfs`, if it is told to.
    entry.file_name() == NAMES_DIR || entry.file_name() == ".zfs"
}

/// Whether an error of removing a directory says that something is in it, or that it is none.
fn is_in_use(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOTDIR)
    )
}

/// Checks that a path leads to a device, and that the device answers: for a second or so the kernel remembers
/// attributes that nobody would give it any more.
pub(super) fn check_alive(path: &Path, device: u64) -> io::Result<()> {
    statfs(path)?;
    check(path, device)
}

/// Checks that a path leads to a device.
fn check(path: &Path, device: u64) -> io::Result<()> {
    match fs::metadata(path)?.dev() == device {
        true => Ok(()),
        false => Err(not_mounted(path)),
    }
}

fn names_file(path: &Path) -> io::Result<File> {
    let dir = path.join(NAMES_DIR);
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    options.open(dir.join("sync"))
}

/// Whether an error says that the program behind a FUSE file system is gone.
pub(super) fn is_dead(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTCONN | libc::ECONNABORTED)
    )
}

/// Takes away what a dead daemon left mounted at a path; whether there was anything.
pub(super) fn detach_dead(path: &Path) -> io::Result<bool> {
    match statfs(path).map_err(io::Error::from) {
        Err(error) if is_dead(&error) => {
            nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Refuses to have something mounted over files, which would vanish below it.
pub(super) fn check_free(path: &Path) -> io::Result<()> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(io::Error::other(format!(
                "{} is not empty, so no dataset can be mounted there; move away what is in it",
                path.display()
            ))),
        },
    }
}

fn not_mounted(path: &Path) -> io::Error {
    io::Error::other(format!(
        "no dataset is mounted at {}, as this process sees it; start the server anew, in the same mount \
         namespace as ZFS",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_directory_is_no_dataset_and_files_are_not_mounted_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.2");
        check_free(&path).unwrap();
        fs::create_dir(&path).unwrap();
        check_free(&path).unwrap();

        let error = Mounted::open(&path).unwrap_err().to_string();

        assert!(
            error.contains("1.2") && error.contains("no dataset"),
            "{error}"
        );
        assert!(!detach_dead(&path).unwrap());
        fs::write(path.join("x"), "").unwrap();
        let error = check_free(&path).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
    }
}
