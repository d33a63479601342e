//! Looks into the directory of a stopped object server, for comparing replicas by hand and in tests.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use osd_core::ObjectKey;

use crate::object_file::ObjectFile;
use crate::store_root::Root;

/// Bytes read at once. 1 MiB: as large as the largest read of a mount.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes a line for every object in the store of a state directory, ascending by placement group
/// and inode: `VOLUME/INODE.COLUMN LENGTH_BYTES CRC32C PG`.
///
/// # Errors
///
/// If there is no store, if a server uses it (its memory has what the files lack), or of the file
/// system.
pub fn store_sums(dir: &Path, out: &mut impl Write) -> io::Result<()> {
    if !Root::exists(dir) {
        return Err(io::Error::other(
            "there is no store; give an object server's directory",
        ));
    }
    let lock = File::open(dir.join("LOCK"))?;
    match lock.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(io::Error::other("a server is using it; stop it first"));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let root = Root::open_to_look(dir)?;
    let mut groups = root.groups()?;
    groups.sort_unstable();
    for group in groups {
        for object in root.names(group)? {
            let key = ObjectKey {
                pg: group.pg,
                object,
            };
            let opened = ObjectFile::open(object, root.path(key), root.machine())?;
            let Some((mut file, slots)) = opened else {
                continue;
            };
            let record = root.record(key, &slots);
            file.settle(record.length_bytes, !record.clean);
            let length_bytes = file.length_bytes();
            let sum = sum_of(&mut file)?;
            let pg = group.pg.0;
            writeln!(out, "{object} {length_bytes} {sum:08x} {pg}")?;
        }
    }
    Ok(())
}

fn sum_of(file: &mut ObjectFile) -> io::Result<u32> {
    let mut sum = 0;
    let mut at = 0;
    while at < file.length_bytes() {
        let bytes = file.read_raw(at, CHUNK_BYTES)?;
        sum = crc32c::crc32c_append(sum, &bytes);
        at += bytes.len() as u64;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, ObjectId, PgId, VolumeId};

    #[test]
    fn every_object_is_listed_with_its_length_and_sum() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("LOCK")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let object = ObjectId {
            volume: VolumeId(1),
            inode: Inode(0x2a),
            column: 0,
        };
        let key = ObjectKey {
            pg: PgId(3),
            object,
        };
        let path = root.path(key);
        root.make_parents(key).unwrap();
        let mut file = ObjectFile::create(object, path, root.machine()).unwrap();
        file.write(0, b"some bytes").unwrap();

        let mut lines = Vec::new();
        store_sums(dir.path(), &mut lines).unwrap();

        // Without a record the length is that of the file, in whole blocks or not.
        let text = String::from_utf8(lines).unwrap();
        assert!(text.starts_with("1/2a.0 10 "), "{text}");
        assert!(text.ends_with(" 3\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn directory_without_a_store_and_a_used_one_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let none = store_sums(dir.path(), &mut Vec::new()).unwrap_err();
        assert!(none.to_string().contains("no store"));

        let lock = File::create(dir.path().join("LOCK")).unwrap();
        Root::open(dir.path()).unwrap();
        lock.lock().unwrap();
        let used = store_sums(dir.path(), &mut Vec::new()).unwrap_err();
        assert!(used.to_string().contains("stop it first"));
    }
}
