//! Counts what each placement group takes on the disk, one group at a time, so that heartbeats can tell.
//!
//! Each group once after a start, and again now and then: between two counts the store keeps the sizes
//! up to date by itself (`store_root/sizes`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use osd_core::ObjectKey;
use types::{OsdId, PgKey};

use crate::cluster::Wall;
use crate::config::{COUNT_AGAIN, COUNT_LOOK, COUNT_SHARE};
use crate::store_root::{Root, Size, disk_bytes};

/// Counts for one server.
#[derive(Debug)]
pub(crate) struct SizeCounter {
    pub(crate) me: OsdId,
    pub(crate) root: Arc<Root>,
    pub(crate) wall: Arc<Wall>,
}

impl SizeCounter {
    /// Counts for ever.
    pub(crate) async fn run(self) {
        let mut counted: BTreeMap<PgKey, Instant> = BTreeMap::new();
        loop {
            let ours = self.wall.newest().map.groups_of(self.me);
            let root = Arc::clone(&self.root);
            let there = blocking(move || root.groups()).await.unwrap_or_default();
            let groups: BTreeSet<PgKey> = ours.into_iter().chain(there).collect();
            counted.retain(|group, _| groups.contains(group));
            self.root.sizes().retain(|group| groups.contains(&group));
            for group in groups {
                let due = counted
                    .get(&group)
                    .is_none_or(|at| at.elapsed() >= COUNT_AGAIN);
                if !due {
                    continue;
                }
                let began = Instant::now();
                let root = Arc::clone(&self.root);
                match blocking(move || count(&root, group)).await {
                    Ok(()) => {
                        counted.insert(group, Instant::now());
                    }
                    Err(error) => tracing::debug!(%group, %error, "can't be counted now"),
                }
                tokio::time::sleep(began.elapsed() * COUNT_SHARE).await;
            }
            tokio::time::sleep(COUNT_LOOK).await;
        }
    }
}

/// Looks at every file of a group.
pub(crate) fn count(root: &Root, group: PgKey) -> io::Result<()> {
    root.sizes().begin(group);
    let names = root.names(group)?;
    let mut size = Size {
        bytes: 0,
        // One that is removed meanwhile is told of by whoever removes it.
        objects: names.len() as u64,
    };
    for object in names {
        let key = ObjectKey {
            pg: group.pg,
            object,
        };
        match fs::symlink_metadata(root.path(key)) {
            Ok(metadata) => size.bytes = size.bytes.saturating_add(disk_bytes(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    root.sizes().end(group, size);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use osd_core::{ObjectStore, Record};
    use types::{Inode, ObjectId, PgId, VolumeId};

    use super::*;
    use crate::store_dir::DirectoryStore;

    const GROUP: PgKey = PgKey {
        volume: VolumeId(1),
        pg: PgId(2),
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

    fn write(store: &mut DirectoryStore, inode: u64, offset: u64, bytes: usize) {
        let data = Bytes::from(vec![7; bytes]);
        store.write(key(inode), offset, &data).unwrap();
    }

    /// Writes the record, so that the object says all there is to say of it.
    fn sync(store: &mut DirectoryStore, inode: u64, length_bytes: u64) {
        let record = Record {
            length_bytes,
            clean: true,
            ..Record::default()
        };
        let mut job = store.sync(key(inode), true, &record).unwrap();
        job.run().unwrap();
    }

    fn by_looking(dir: &Path) -> Size {
        let root = Root::open(dir).unwrap();
        count(&root, GROUP).unwrap();
        root.sizes().of(GROUP).unwrap()
    }

    /// What the store notes comes to the same as a count of everything, whatever happens to objects.
    #[test]
    fn what_is_kept_up_to_date_is_what_a_count_finds() {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let mut store = DirectoryStore::new(Arc::clone(&root));
        count(&root, GROUP).unwrap();
        assert_eq!(root.sizes().of(GROUP), Some(Size::default()));

        for inode in 1..=4 {
            store.create(key(inode), &Record::default()).unwrap();
        }
        write(&mut store, 1, 0, 1 << 20);
        write(&mut store, 2, 1 << 30, 8192);
        sync(&mut store, 1, 1 << 20);
        store.close(key(1));
        sync(&mut store, 2, (1 << 30) + 8192);
        let size = root.sizes().of(GROUP).unwrap();
        assert_eq!(size, by_looking(dir.path()));
        assert_eq!(size.objects, 4);
        assert!((1 << 20..2 << 20).contains(&size.bytes), "{size:?}");

        // Opened again, cut, removed; and one that was never closed.
        store.truncate(key(1), 4096).unwrap();
        sync(&mut store, 1, 4096);
        write(&mut store, 3, 0, 100_000);
        store.close(key(3));
        store.delete(key(2)).unwrap();
        store.delete(key(4)).unwrap();
        let size = root.sizes().of(GROUP).unwrap();
        assert_eq!(size, by_looking(dir.path()));
        assert_eq!(size.objects, 2);
        assert!(size.bytes < 1 << 19, "{size:?}");
    }
}
