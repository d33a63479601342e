//! Lists the objects of placement groups, for comparing replicas, away from the shards' threads.
//!
//! What is in memory is asked from the shards; the rest is read from the headers. Names are read
//! once per listing, not once per page.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use osd_core::{Header, ObjectKey};
use proto::peer;
use tokio::sync::oneshot;
use types::{ObjectId, PgKey};

use crate::config::{LIST_PAGE_MAX, LISTINGS_MAX};
use crate::quarantine::is_damaged;
use crate::shard_item::Item;
use crate::shards::Shards;
use crate::store_root::Root;

/// Lists objects.
#[derive(Debug)]
pub(crate) struct Lister {
    root: Arc<Root>,
    shards: Shards,
    /// Names of groups that are being listed.
    names: Mutex<HashMap<PgKey, Names>>,
    /// Numbers lists of names in the order in which they were begun.
    begun: AtomicU64,
}

/// Names of all objects of a group.
#[derive(Clone, Debug)]
struct Names {
    begun: u64,
    names: Arc<Vec<ObjectId>>,
}

impl Lister {
    pub(crate) fn new(root: Arc<Root>, shards: Shards) -> Arc<Self> {
        Arc::new(Self {
            root,
            shards,
            names: Mutex::default(),
            begun: AtomicU64::new(0),
        })
    }

    /// Where the objects are.
    pub(crate) fn root(&self) -> Arc<Root> {
        Arc::clone(&self.root)
    }

    /// At most `limit` objects of a group after `after`, ascending. Whatever shards were told before is
    /// in the list, at the latest.
    pub(crate) async fn page(
        self: &Arc<Self>,
        group: PgKey,
        after: Option<ObjectId>,
        limit: usize,
    ) -> io::Result<peer::Objects> {
        self.any_page(group, (after, limit), false).await
    }

    /// With `strict` objects whose newest changes are in memory only are suspect.
    async fn any_page(
        self: &Arc<Self>,
        group: PgKey,
        (after, limit): (Option<ObjectId>, usize),
        strict: bool,
    ) -> io::Result<peer::Objects> {
        let limit = limit.clamp(1, LIST_PAGE_MAX);
        let mut after = after;
        if after.is_none() {
            self.wait_for_shards().await;
        }
        loop {
            let this = Arc::clone(self);
            let (names, end) = blocking(move || this.names(group, after, limit)).await?;
            after = names.last().copied();
            let key = |object| ObjectKey {
                pg: group.pg,
                object,
            };
            let keys: Vec<_> = names.into_iter().map(key).collect();
            let live = self.live(&keys, strict).await;
            let this = Arc::clone(self);
            let objects = blocking(move || this.states(&keys, live)).await?;
            // A page of objects that were all deleted meanwhile must not look like the beginning.
            if end || !objects.is_empty() {
                return Ok(peer::Objects {
                    objects,
                    end,
                    incomplete: false,
                });
            }
        }
    }

    /// All objects of a group. With `strict` those whose newest changes are in memory only are suspect, too.
    pub(crate) async fn all(
        self: &Arc<Self>,
        group: PgKey,
        strict: bool,
    ) -> io::Result<Vec<peer::ObjectState>> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.any_page(group, (after, LIST_PAGE_MAX), strict).await?;
            after = last_of(&page.objects);
            all.extend(page.objects);
            if page.end {
                return Ok(all);
            }
        }
    }

    /// These objects as they are now, but for those that are gone.
    pub(crate) async fn look(
        self: &Arc<Self>,
        keys: Vec<ObjectKey>,
    ) -> io::Result<Vec<peer::ObjectState>> {
        let live = self.live(&keys, false).await;
        let this = Arc::clone(self);
        blocking(move || this.states(&keys, live)).await
    }

    fn names(
        &self,
        group: PgKey,
        after: Option<ObjectId>,
        limit: usize,
    ) -> io::Result<(Vec<ObjectId>, bool)> {
        let known = match after {
            Some(_) => self.cache().get(&group).cloned(),
            None => None,
        };
        let Names { begun, names } = match known {
            Some(names) => names,
            None => Names {
                begun: self.begun.fetch_add(1, Ordering::Relaxed),
                names: Arc::new(self.root.names(group)?),
            },
        };
        let start = match after {
            Some(after) => names.partition_point(|object| *object <= after),
            None => 0,
        };
        let page: Vec<_> = names.iter().skip(start).take(limit).copied().collect();
        let end = start + page.len() >= names.len();
        let mut cache = self.cache();
        if end {
            cache.remove(&group);
        } else if cache.len() < LISTINGS_MAX {
            // Where listings overlap, the names read last serve all: an older list may lack an object.
            let listed = cache.entry(group).or_insert_with(|| Names {
                begun,
                names: Arc::clone(&names),
            });
            if listed.begun < begun {
                *listed = Names { begun, names };
            }
        }
        Ok((page, end))
    }

    /// Until every shard has done all that it was told before.
    async fn wait_for_shards(&self) {
        let answers = self.shards.ask_all(|answer| Item::States {
            keys: Vec::new(),
            strict: false,
            answer,
        });
        for answered in answers {
            let _stopping = answered.await;
        }
    }

    async fn live(&self, keys: &[ObjectKey], strict: bool) -> HashMap<ObjectId, peer::ObjectState> {
        let mut of_shard: Vec<Vec<ObjectKey>> = vec![Vec::new(); self.shards.count()];
        for key in keys {
            if let Some(keys) = of_shard.get_mut(self.shards.number_of(key.object)) {
                keys.push(*key);
            }
        }
        let mut answers = Vec::new();
        for keys in of_shard {
            if let Some(first) = keys.first().copied() {
                let (answer, answered) = oneshot::channel();
                self.shards.deliver(
                    first.object,
                    Item::States {
                        keys,
                        strict,
                        answer,
                    },
                );
                answers.push(answered);
            }
        }
        let mut live = HashMap::new();
        for answered in answers {
            // A shard that is stopping does not answer; the headers must do then.
            for state in answered.await.unwrap_or_default() {
                if let Some(object) = state.object {
                    live.insert(object.into(), state);
                }
            }
        }
        live
    }

    fn states(
        &self,
        keys: &[ObjectKey],
        mut live: HashMap<ObjectId, peer::ObjectState>,
    ) -> io::Result<Vec<peer::ObjectState>> {
        let mut states = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(state) = live.remove(&key.object) {
                states.push(state);
                continue;
            }
            let header = match self.root.header(*key) {
                Ok(header) => header,
                // It vouches for nothing, and is put aside when it is opened to be brought up.
                Err(error) if is_damaged(&error) => Some(Header::default()),
                Err(error) => return Err(error),
            };
            // Deleted since its name was read: not there.
            if let Some(header) = header {
                states.push(peer::ObjectState {
                    object: Some(key.object.into()),
                    position: Some(header.record.position.into()),
                    // Nobody has had it open since a crash.
                    suspect: !header.record.clean,
                    length_bytes: header.length_bytes,
                });
            }
        }
        Ok(states)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<PgKey, Names>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object a page ends with.
pub(crate) fn last_of(objects: &[peer::ObjectState]) -> Option<ObjectId> {
    objects.last()?.object.map(Into::into)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
