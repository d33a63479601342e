//! Small files that are replaced as a whole and survive a power failure.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Replaces the file: written aside, synced, renamed, the directory synced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("tmp");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
