//! Makes copies that came from another server's store vouch for nothing.
//!
//! A record says what one replica promised, which changes it has and that it lost none of them. Of a copy that came
//! as a stream nothing of that is this server's own word, so all of it is taken out: what stays are the bytes, their
//! checksums and which of these may not fit. That is a copy as it is found after a crash in which everything was
//! lost but the bytes: it never votes, and counts once a primary has compared all of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use osd_core::Record;
use types::{ObjectId, PgKey};

use crate::block_set::BlockSet;
use crate::file_io::read_up_to;
use crate::file_layout::{HEADER_BYTES, SLOT_BYTES};
use crate::header::{Header, Slot};
use crate::note::{MachineBoot, NOTE_AT, Note};
use crate::store_root::parse_name;

/// Both slots of records, the note included.
const SLOTS_BYTES: usize = 2 * SLOT_BYTES;

/// What was found in a dataset that was received.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stripped {
    /// Copies that vouch for nothing now.
    pub(crate) objects: u64,
    /// Files that were removed, since they tell nothing: objects without a record, and what the sender put aside.
    pub(crate) removed: u64,
}

/// Strips all objects of a group that lie in a directory. Nothing is synced.
///
/// # Errors
///
/// The first one; some may be stripped then and others not, so none may be used.
pub(crate) fn strip(dir: &Path, group: PgKey, machine: MachineBoot) -> io::Result<Stripped> {
    let mut stripped = Stripped::default();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(low) = name.to_str().filter(|name| is_objects(name)) else {
            continue;
        };
        for file in fs::read_dir(entry.path())? {
            let path = file?.path();
            let object = parse_name(group, &path)
                .filter(|object| format!("{:02x}", object.inode.0 & 0xff) == low);
            let kept = match object {
                Some(object) => strip_file(&path, object, machine)?,
                None => false,
            };
            if kept {
                stripped.objects += 1;
            } else {
                fs::remove_file(&path)?;
                stripped.removed += 1;
            }
        }
    }
    Ok(stripped)
}

/// Whether a directory is one of objects.
fn is_objects(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.len() == 2 && name.bytes().all(is_digit)
}

/// Strips one file; false if it has no record that can be read.
fn strip_file(path: &Path, object: ObjectId, machine: MachineBoot) -> io::Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut header = vec![0; HEADER_BYTES as usize];
    let read = read_up_to(&file, &mut header, 0)?;
    header.truncate(read);
    match slots_of(&header, object, machine) {
        Some(slots) => file.write_all_at(&slots, 0).map(|()| true),
        None => Ok(false),
    }
}

/// What takes the place of both slots of a header; none if it has no record that can be read.
fn slots_of(header: &[u8], object: ObjectId, machine: MachineBoot) -> Option<Vec<u8>> {
    let Header::Valid(slot) = Header::decode(object, header) else {
        return None;
    };
    let record = Record::decode(&slot.record).ok()?;
    let note = match record.clean {
        // All sums in the file fit.
        true => Note {
            boot: machine,
            ..Note::default()
        },
        // It was being changed. Which blocks the sender's note lacked only the sender could tell.
        false => Note {
            boot: machine,
            incomplete: true,
            blocks: Note::of_header(header).map_or_else(|| BlockSet::from(0), |note| note.blocks),
        },
    };
    let record = Record {
        length_bytes: record.length_bytes,
        ..Record::default()
    };
    let mut slots = vec![0; SLOTS_BYTES];
    // In either place: what was there before must not be found once the other one is damaged.
    for generation in [
        slot.generation.checked_add(1)?,
        slot.generation.checked_add(2)?,
    ] {
        let slot = Slot {
            generation,
            record: record.encode(),
            full: false,
        };
        put(
            &mut slots,
            slot.file_offset() as usize,
            &slot.encode(object)?,
        )?;
    }
    put(&mut slots, NOTE_AT as usize, &note.encode())?;
    Some(slots)
}

fn put(into: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    into.get_mut(at..at.checked_add(bytes.len())?)?
        .copy_from_slice(bytes);
    Some(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use osd_core::{Mark, ObjectKey, ObjectStore, Position, Promise};
    use types::{Inode, OsdId, PgId, SessionId, VolumeId};

    use super::*;
    use crate::store_dir::DirectoryStore;
    use crate::store_root::Root;

    const GROUP: PgKey = PgKey {
        volume: VolumeId(1),
        pg: PgId(3),
    };

    fn key(inode: u64) -> ObjectKey {
        ObjectKey {
            pg: GROUP.pg,
            object: ObjectId {
                volume: GROUP.volume,
                inode: Inode(inode),
                column: 0,
            },
        }
    }

    fn record(length_bytes: u64, clean: bool) -> Record {
        Record {
            promised: Promise {
                epoch: 9,
                holder: OsdId(2),
            },
            position: Position {
                epoch: 9,
                holder: OsdId(2),
                seq: 4,
            },
            length_bytes,
            clean,
            marks: vec![Mark {
                session: SessionId(5),
                change_id: 6,
                ..Mark::default()
            }],
        }
    }

    fn data(seed: u8) -> Bytes {
        (0..300_000_u32)
            .map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ seed)
            .collect()
    }

    /// A store with a copy at rest (1), one that was being changed when it was looked at (2), one without a record
    /// (3) and one that was put aside.
    fn store(dir: &Path) -> Arc<Root> {
        let root = Arc::new(Root::open(dir).unwrap());
        let mut store = DirectoryStore::new(Arc::clone(&root));
        for (inode, clean) in [(1, true), (2, false)] {
            store.create(key(inode), &Record::default()).unwrap();
            store.write(key(inode), 0, &data(1)).unwrap();
            let record = record(300_000, clean);
            store
                .sync(key(inode), true, &record)
                .unwrap()
                .run()
                .unwrap();
        }
        store
            .write(key(2), 50_000, &data(2).slice(..70_000))
            .unwrap();
        store.create(key(3), &Record::default()).unwrap();
        fs::write(root.path(key(1)).with_extension("0.bad"), "x").unwrap();
        root
    }

    #[test]
    fn nothing_that_the_sender_said_of_itself_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = store(dir.path());
        let group = root.path(key(1)).ancestors().nth(2).unwrap().to_owned();

        let stripped = strip(&group, GROUP, MachineBoot(77)).unwrap();

        assert_eq!((stripped.objects, stripped.removed), (2, 2));
        assert_eq!(root.names(GROUP).unwrap(), [key(1).object, key(2).object]);
        for inode in [1, 2] {
            let header = root.header(key(inode)).unwrap().unwrap();
            let nothing = Record {
                length_bytes: 300_000,
                ..Record::default()
            };
            assert_eq!(header.record, nothing, "{inode}");
            // Whichever slot is damaged later.
            let bytes = fs::read(root.path(key(inode))).unwrap();
            for slot in [0, SLOT_BYTES] {
                let mut torn = bytes.clone();
                torn[slot + 20] ^= 1;
                let Header::Valid(left) = Header::decode(key(inode).object, &torn) else {
                    panic!("no record is left");
                };
                assert_eq!(Record::decode(&left.record).unwrap(), nothing, "{inode}");
            }
        }
    }

    /// Bytes that rotted on their way or at rest are noticed, and those that were being changed are taken as found.
    #[test]
    fn bytes_are_read_back_and_checksums_are_those_of_the_sender() {
        let dir = tempfile::tempdir().unwrap();
        let root = store(dir.path());
        let group = root.path(key(1)).ancestors().nth(2).unwrap().to_owned();
        strip(&group, GROUP, root.machine()).unwrap();
        let mut bytes = fs::read(root.path(key(1))).unwrap();
        bytes[HEADER_BYTES as usize + 9 * 4096 + 5] ^= 4;
        fs::write(root.path(key(1)), bytes).unwrap();

        let mut store = DirectoryStore::new(Arc::clone(&root));
        let read = |store: &mut DirectoryStore, inode, at: u64, length| {
            store
                .read(key(inode), at, length)
                .map(|bytes| bytes.to_vec())
        };

        assert_eq!(read(&mut store, 1, 0, 30_000).unwrap(), data(1)[..30_000]);
        assert!(
            read(&mut store, 1, 9 * 4096, 4096).is_err(),
            "it fits no checksum"
        );
        assert_eq!(read(&mut store, 2, 0, 50_000).unwrap(), data(1)[..50_000]);
        assert_eq!(
            read(&mut store, 2, 53_248, 60_000).unwrap(),
            data(2)[3_248..63_248]
        );
    }

    #[test]
    fn file_that_can_not_be_read_is_an_error_and_none_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("07").join("7.0")).unwrap();

        assert!(strip(dir.path(), GROUP, MachineBoot(7)).is_err());
    }
}
