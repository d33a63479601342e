//! What a state directory's store is made of. A store on ZFS is noted in the file `STORE`; a directory store has
//! none, so that stores from before there was a choice are what they were.

use std::fs;
use std::io;
use std::path::Path;

use shell::statedir::replace_file;

/// Holds the name of the dataset above those of the store.
const FILE: &str = "STORE";

/// The dataset that holds the store of a state directory; none if the directory itself does.
pub(super) fn dataset_of(dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(dir.join(FILE)) {
        Ok(text) => match text.trim().strip_prefix("zfs ") {
            Some(dataset) => Ok(Some(dataset.to_owned())),
            None => Err(io::Error::other(format!(
                "{} says {:?}, which is no kind of store; restore it, or give an empty directory so that the \
                 server is rebuilt from the others",
                dir.join(FILE).display(),
                text.trim()
            ))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Notes it, durably.
pub(super) fn note(dir: &Path, dataset: &str) -> io::Result<()> {
    replace_file(&dir.join(FILE), format!("zfs {dataset}\n").as_bytes())
}

/// Refuses a store on ZFS where a directory store is wanted: with nothing mounted it would look empty.
pub(super) fn refuse_dataset(dir: &Path) -> io::Result<()> {
    match dataset_of(dir)? {
        None => Ok(()),
        Some(dataset) => Err(io::Error::other(format!(
            "its objects are in the ZFS dataset {dataset}; configure `store = \"zfs\"` and `zfs_dataset = \
             \"{dataset}\"`, or give an empty directory so that the server is rebuilt from the others"
        ))),
    }
}
