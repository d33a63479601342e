//! Changes bytes behind a server's back: of objects, and of a metadata server's index and log.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::fault::Part;

/// The first block of an object's file holds its records; a replica with broken records is put
/// aside as a whole, which is another fault than a broken block.
const HEADER_BYTES: u64 = 4096;

/// Pages of zeros are passed over when a place is looked for in what a metadata server stored.
const PAGE_BYTES: u64 = 4096;

/// Places tried for one change: holes and files that vanish are passed over.
const TRIES_MAX: u32 = 50;

/// A changed byte.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flip {
    /// The file.
    pub(crate) file: PathBuf,
    /// Which byte of it.
    pub(crate) at_bytes: u64,
}

/// Flips a bit in some files below a server's directory.
///
/// # Errors
///
/// If the directory can't be read.
pub(crate) fn flip(dir: &Path, count: u8, rng: &mut ChaCha8Rng) -> io::Result<Vec<Flip>> {
    let mut files = Vec::new();
    collect(&dir.join("pgs"), &mut files)?;
    files.sort();
    let mut flips = Vec::new();
    for _ in 0..TRIES_MAX {
        if flips.len() >= usize::from(count) || files.is_empty() {
            break;
        }
        let file = &files[rng.random_range(0..files.len())];
        // An object that was deleted meanwhile is no loss.
        if let Ok(Some(at_bytes)) = flip_in(file, HEADER_BYTES, rng) {
            let file = file.clone();
            flips.push(Flip { file, at_bytes });
        }
    }
    Ok(flips)
}

/// Flips bits in what a metadata server that does not run has stored: in pages that are in use.
///
/// # Errors
///
/// If a file can't be read or written.
pub(crate) fn flip_stopped(
    dir: &Path,
    part: Part,
    count: u8,
    rng: &mut ChaCha8Rng,
) -> io::Result<Vec<Flip>> {
    let (dir, prefix) = match part {
        Part::Index => (dir.to_owned(), "index-"),
        Part::Log => (dir.join("log"), "log-"),
    };
    let mut pages = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let bytes = fs::read(entry.path())?;
            let used = bytes.chunks(PAGE_BYTES as usize).enumerate();
            let used = used.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
            pages.extend(used.map(|(number, _)| (entry.path(), number as u64 * PAGE_BYTES)));
        }
    }
    pages.sort();
    let mut flips = Vec::new();
    for _ in 0..TRIES_MAX {
        if flips.len() >= usize::from(count) || pages.is_empty() {
            break;
        }
        let (path, page) = &pages[rng.random_range(0..pages.len())];
        let file = File::options().read(true).write(true).open(path)?;
        let end = file.metadata()?.len().min(page + PAGE_BYTES);
        if let Some(at_bytes) = flip_between(&file, *page..end, rng)? {
            let file = path.clone();
            flips.push(Flip { file, at_bytes });
        }
    }
    Ok(flips)
}

fn flip_in(path: &Path, from: u64, rng: &mut ChaCha8Rng) -> io::Result<Option<u64>> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length <= from {
        return Ok(None);
    }
    flip_between(&file, from..length, rng)
}

fn flip_between(file: &File, range: Range<u64>, rng: &mut ChaCha8Rng) -> io::Result<Option<u64>> {
    let at = rng.random_range(range);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    if byte == [0] {
        // Maybe a hole: there is no byte on the disk that could rot.
        return Ok(None);
    }
    byte[0] ^= 1 << rng.random_range(0..8);
    file.write_all_at(&byte, at)?;
    Ok(Some(at))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // A placement group that has just gone elsewhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn bits_of_pages_in_use_are_flipped_in_the_part_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        let names = ["index-1", "IDENTITY", "log/log-1", "log/promises"];
        let mut before = vec![0; 16 * 4096];
        before[9 * 4096..10 * 4096].fill(0x55);
        for name in names {
            fs::write(dir.path().join(name), &before).unwrap();
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (part, changed) in [(Part::Index, names[0]), (Part::Log, names[2])] {
            let flips = flip_stopped(dir.path(), part, 3, &mut rng).unwrap();

            assert_eq!(flips.len(), 3);
            for flip in flips {
                assert_eq!(flip.file, dir.path().join(changed));
                assert_eq!(flip.at_bytes / 4096, 9);
            }
            assert_ne!(fs::read(dir.path().join(changed)).unwrap(), before);
        }
        for name in [names[1], names[3]] {
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), before);
        }
    }

    #[test]
    fn one_bit_behind_the_header_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pgs/1");
        fs::create_dir_all(&folder).unwrap();
        let before = vec![0x55; 3 * 4096];
        fs::write(folder.join("object"), &before).unwrap();
        fs::write(folder.join("empty"), vec![0x55; 4096]).unwrap();

        let flips = flip(dir.path(), 1, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();

        let after = fs::read(folder.join("object")).unwrap();
        let changed: Vec<usize> = (0..after.len())
            .filter(|at| after[*at] != before[*at])
            .collect();
        assert_eq!(flips.len(), 1);
        assert_eq!(changed, [usize::try_from(flips[0].at_bytes).unwrap()]);
        assert!(changed[0] >= 4096);
    }
}
