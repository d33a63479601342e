//! A file tree as a value that can be compared: contents, modes, times, links and holes.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One name of a tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// Modification time: seconds, nanoseconds. Of directories: zero, since copying changes them.
    pub modified: (i64, i64),
    /// Number of names of a file; of directories zero.
    pub links: u64,
    /// Device number of a device.
    pub device: u64,
    /// Whole mebibytes of a file without data.
    pub holes: u64,
    /// Contents of a file, target of a symbolic link.
    pub contents: Vec<u8>,
}

/// All names below a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Reads everything below `root`.
    ///
    /// # Errors
    ///
    /// The first name that can't be read.
    pub fn read(root: &Path) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for child in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = child.with_context(|| folder.display().to_string())?.path();
                let entry = entry(&path).with_context(|| path.display().to_string())?;
                if entry.mode & libc::S_IFMT == libc::S_IFDIR {
                    folders.push(path.clone());
                }
                entries.insert(path.strip_prefix(root)?.to_owned(), entry);
            }
        }
        Ok(Self(entries))
    }

    /// Number of names below `root`, without reading them.
    ///
    /// # Errors
    ///
    /// The first folder that can't be read.
    pub fn count(root: &Path) -> Result<usize> {
        let mut count = 0;
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for child in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let child = child?;
                count += 1;
                if child.file_type()?.is_dir() {
                    folders.push(child.path());
                }
            }
        }
        Ok(count)
    }

    /// All names, below `root`, ascending.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts another tree's modification times in place of this one's, where both have the name.
    pub fn take_times(&mut self, other: &Self) {
        for (path, entry) in &mut self.0 {
            if let Some(found) = other.0.get(path) {
                entry.modified = found.modified;
            }
        }
    }

    /// Says the first difference to another tree.
    ///
    /// # Errors
    ///
    /// The difference, in words.
    pub fn must_equal(&self, other: &Self) -> Result<()> {
        for (path, entry) in &self.0 {
            let Some(found) = other.0.get(path) else {
                bail!("{} is missing", path.display())
            };
            if entry.contents != found.contents {
                let at = entry
                    .contents
                    .iter()
                    .zip(&found.contents)
                    .position(|(a, b)| a != b);
                bail!(
                    "{} differs: {} and {} bytes, first at {at:?}",
                    path.display(),
                    entry.contents.len(),
                    found.contents.len()
                );
            }
            // A copy may have more: some programs make holes of zeros.
            if found.holes < entry.holes {
                bail!(
                    "{}: {} of {} MiB of holes are left",
                    path.display(),
                    found.holes,
                    entry.holes
                );
            }
            let plain = |entry: &Entry| Entry {
                holes: 0,
                contents: Vec::new(),
                ..entry.clone()
            };
            if plain(entry) != plain(found) {
                bail!(
                    "{}: {:?} became {:?}",
                    path.display(),
                    plain(entry),
                    plain(found)
                );
            }
        }
        if let Some(extra) = other.0.keys().find(|path| !self.0.contains_key(*path)) {
            bail!("{} was not there before", extra.display());
        }
        Ok(())
    }
}

fn entry(path: &Path) -> Result<Entry> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let is_device = kind.is_block_device() || kind.is_char_device();
    let contents = if kind.is_file() {
        fs::read(path)?
    } else if kind.is_symlink() {
        fs::read_link(path)?.into_os_string().into_encoded_bytes()
    } else {
        Vec::new()
    };
    Ok(Entry {
        mode: meta.mode(),
        modified: if kind.is_dir() {
            (0, 0)
        } else {
            (meta.mtime(), meta.mtime_nsec())
        },
        links: if kind.is_dir() { 0 } else { meta.nlink() },
        device: if is_device { meta.rdev() } else { 0 },
        holes: if kind.is_file() { holes(path)? } else { 0 },
        contents,
    })
}

/// Mebibytes, from multiples of a mebibyte on, that hold no data, as lseek(2) says.
fn holes(path: &Path) -> Result<u64> {
    const MIB: i64 = 1 << 20;
    let file = fs::File::open(path)?;
    let seek = |offset: i64, whence: i32| {
        #[expect(unsafe_code, reason = "std can't ask for holes")]
        // SAFETY: lseek(2) touches no memory of this process; the descriptor is open.
        let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
        if found >= 0 {
            return Ok(Some(found));
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENXIO) => Ok(None),
            _ => Err(error),
        }
    };
    let size = i64::try_from(file.metadata()?.len())?;
    let (mut holes, mut at) = (0, 0);
    while at < size {
        let data = seek(at, libc::SEEK_DATA)?.unwrap_or(size);
        let (first, end) = ((at + MIB - 1) / MIB, data / MIB);
        holes += u64::try_from(end - first).unwrap_or(0);
        at = match seek(data, libc::SEEK_HOLE)? {
            Some(hole) => hole,
            None => size,
        };
    }
    Ok(holes)
}
