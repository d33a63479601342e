//! Deletes the copies of placement groups that are others' by now.
//!
//! A server is left out of a group's set only when a majority of the new one has declared that it has
//! everything, and then for good: the map that says so says the truth of that group until another one names
//! the server again. So nobody has to be asked object by object. Each shard deletes a copy only while the
//! server is no member by the shard's own map.
//!
//! Groups of volumes that don't exist any more are in no map; what is left of them the metadata servers are
//! asked about ([`leftovers`](crate::leftovers)).

use std::sync::Arc;
use std::time::Instant;

use osd_core::ObjectKey;
use tokio::sync::oneshot;
use types::{Fault, OsdId, PgKey};

use crate::cluster::Wall;
use crate::config::{MOVED_BATCH_MAX, MOVED_SHARE, MOVED_TIMEOUT};
use crate::map::Map;
use crate::shard_item::{DeleteBatch, Item};
use crate::shards::Shards;
use crate::store_root::Root;

/// Deletes for one server.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) me: OsdId,
    pub(crate) root: Arc<Root>,
    pub(crate) wall: Arc<Wall>,
    pub(crate) shards: Shards,
}

impl Moved {
    /// Deletes all there is, a batch after the other. What can't be deleted now is left to the next time.
    pub(crate) async fn clear(&self) {
        let root = Arc::clone(&self.root);
        let groups = tokio::task::spawn_blocking(move || root.groups()).await;
        for group in groups.into_iter().flatten().flatten() {
            if !is_others(&self.wall.newest().map, self.me, group) {
                continue;
            }
            match self.clear_group(group).await {
                Ok(0) => {}
                Ok(objects) => {
                    tracing::info!(%group, objects, "copies of a group that moved away are deleted");
                }
                Err(fault) => {
                    tracing::warn!(%group, %fault, "copies of a group that moved away can't be deleted");
                }
            }
        }
    }

    async fn clear_group(&self, group: PgKey) -> Result<usize, Fault> {
        let root = Arc::clone(&self.root);
        let names = tokio::task::spawn_blocking(move || root.names(group)).await;
        let names = names.map_err(std::io::Error::other).flatten();
        let names = names.map_err(|error| Fault::retry(error.to_string()))?;
        for batch in names.chunks(MOVED_BATCH_MAX) {
            let began = Instant::now();
            let keys = batch.iter().map(|object| ObjectKey {
                pg: group.pg,
                object: *object,
            });
            self.delete(keys.collect()).await?;
            // Programs want the disk, too.
            tokio::time::sleep(began.elapsed() * MOVED_SHARE).await;
        }
        Ok(names.len())
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), Fault> {
        let (answer, answered) = oneshot::channel();
        let batch = DeleteBatch::new(
            keys.len(),
            Box::new(move |result| {
                // Whoever asked may have given up.
                let _ = answer.send(result);
            }),
        );
        for key in keys {
            let (moved, batch) = (true, Arc::clone(&batch));
            self.shards
                .deliver(key.object, Item::Delete { key, moved, batch });
        }
        match tokio::time::timeout(MOVED_TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            // The server ends.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(Fault::retry("the disk does not get on with deletions")),
        }
    }
}

/// Whether a map says that a group is kept by others.
fn is_others(map: &Map, me: OsdId, group: PgKey) -> bool {
    let pg = map.pgs.get(&group);
    pg.is_some_and(|pg| !pg.replicas.contains(me))
}

/// Compile-time check that a batch is no longer than what others may have deleted at once.
const _: () = assert!(MOVED_BATCH_MAX <= crate::config::DELETE_MAX);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use types::{PgId, VolumeId};

    use super::*;
    use crate::map::Pg;

    #[test]
    fn only_groups_that_the_map_gives_to_others_alone_are_cleared() {
        let group = |pg| PgKey {
            volume: VolumeId(1),
            pg: PgId(pg),
        };
        let map = Map {
            pgs: HashMap::from([
                (group(0), Pg::new(3, &[2, 3, 4], &[], &[])),
                (group(1), Pg::new(3, &[1, 2, 3], &[], &[])),
                (group(2), Pg::new(3, &[2, 3, 4], &[1, 2, 3], &[4])),
            ]),
            ..Map::default()
        };
        let cleared = |pg| is_others(&map, OsdId(1), group(pg));

        assert!(cleared(0));
        assert!(!cleared(1));
        assert!(!cleared(2), "it has a say until the change has ended");
        assert!(!cleared(3), "nobody says where the group is");
    }
}
