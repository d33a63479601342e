//! Object files that can't be opened any more: each is put aside and costs its object only.
//!
//! In its place comes an empty copy that vouches for nothing, so that it is rebuilt from the
//! others. An *absent* one would not do: absence can mean that there never was anything.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use osd_core::{ObjectKey, ObjectStore, Record, StoreError};

use crate::store_root::Root;

/// Whether an error says that something is wrong with the one file, for good.
pub(crate) fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Io(error) if is_damaged(error))
}

/// The same of an error of the system.
pub(crate) fn is_damaged(error: &io::Error) -> bool {
    let kind = matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    );
    let number = matches!(
        error.raw_os_error(),
        Some(
            libc::EIO
                | libc::EUCLEAN
                | libc::EBADMSG
                | libc::EISDIR
                | libc::ELOOP
                | libc::ENXIO
                | libc::ENODEV
        )
    );
    kind || number
}

/// Puts an object's file aside and makes an empty copy that vouches for nothing.
///
/// # Errors
///
/// If that is not possible; the file is where it was then, or the store is poisoned.
pub(crate) fn quarantine(
    root: &Root,
    store: &mut dyn ObjectStore,
    key: ObjectKey,
) -> Result<(), StoreError> {
    if root.is_poisoned() {
        return Err(StoreError::Poisoned);
    }
    let path = root.path(key);
    let aside = aside(&path);
    root.uncount(key);
    fs::rename(&path, &aside)?;
    store.create(key, &Record::default()).inspect_err(|_| {
        if let Err(error) = fs::rename(&aside, &path) {
            root.poison(&error);
        }
    })
}

/// Removes what was put aside of a deleted object, if anything was.
pub(crate) fn remove_aside(root: &Root, key: ObjectKey) {
    let aside = aside(&root.path(key));
    if let Err(error) = fs::remove_file(&aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %aside.display(), %error, "can't be removed");
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".bad");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_dir::DirectoryStore;
    use std::sync::Arc;
    use types::{Inode, ObjectId, PgId, PgKey, VolumeId};

    const KEY: ObjectKey = ObjectKey {
        pg: PgId(2),
        object: ObjectId {
            volume: VolumeId(1),
            inode: Inode(5),
            column: 0,
        },
    };

    #[test]
    fn file_that_can_not_be_opened_gives_way_to_a_copy_that_vouches_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let mut store = DirectoryStore::new(Arc::clone(&root));
        fs::create_dir_all(root.path(KEY)).unwrap();
        let error = store.open(KEY).unwrap_err();
        assert!(is_damage(&error), "{error}");

        quarantine(&root, &mut store, KEY).unwrap();

        let header = store.open(KEY).unwrap().unwrap();
        assert_eq!(header, osd_core::Header::default());
        let group = PgKey {
            volume: VolumeId(1),
            pg: PgId(2),
        };
        assert_eq!(root.names(group).unwrap(), [KEY.object]);
        assert!(aside(&root.path(KEY)).is_dir());
    }

    #[test]
    fn lack_of_descriptors_or_space_is_nothing_wrong_with_a_file() {
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EACCES] {
            let error = StoreError::Io(io::Error::from_raw_os_error(number));
            assert!(!is_damage(&error), "{error}");
        }
        assert!(!is_damage(&StoreError::NoSpace { written_bytes: 0 }));
        assert!(!is_damage(&StoreError::Poisoned));
    }
}
