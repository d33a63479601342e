//! Finds objects whose files are gone, and has them deleted everywhere; and copies that others keep since
//! their placement group [moved](crate::moved), and has them deleted here.
//!
//! A deletion is asked of each replica until it is confirmed, and forgotten then. But a copy can come
//! back: from a server that was away while the others deleted theirs and have forgotten it since, or
//! from a mount that was cut off and still has the right to write. So each server now and then asks
//! the metadata cluster about everything it holds. What is left over is kept for a round, and if it is still
//! there then, it becomes garbage of all replicas at once, so that they delete it while each of them
//! remembers the deletion and none gives it back to another.
//!
//! Nothing is decided here: which files are gone the metadata cluster finds out anew with each step.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use osd_core::ObjectKey;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{self, HeldObject};
use shell::link::CallError;
use tokio::sync::Notify;
use types::{Fault, Inode, ObjectId, OsdId, PgId, PgKey, Remedy, VolumeId};

use crate::config::{
    LEFTOVERS_BATCH_MAX, LEFTOVERS_MAX, LEFTOVERS_PAGE_MAX, LEFTOVERS_PAUSE, LEFTOVERS_SOON,
    LEFTOVERS_SOON_ROUNDS,
};
use crate::metadata::MetadataClient;
use crate::moved::Moved;
use crate::store_root::Root;

/// Asks for one server.
#[derive(Debug)]
pub(crate) struct Leftovers {
    pub(crate) osd: OsdId,
    /// Between two rounds.
    pub(crate) interval: Duration,
    pub(crate) root: Arc<Root>,
    pub(crate) client: MetadataClient,
    /// A placement group is others' from now on.
    pub(crate) moved: Arc<Notify>,
    /// Deletes what is left of such groups.
    pub(crate) groups: Moved,
}

/// What a round found.
#[derive(Debug, Default)]
struct Found {
    objects: Vec<HeldObject>,
    /// Garbage of before they were found has smaller numbers.
    garbage_below: u64,
}

impl Leftovers {
    /// Makes rounds for ever.
    pub(crate) async fn run(mut self) {
        let mut found = Found::default();
        let mut soon = 0;
        loop {
            let pause = match soon {
                0 => self.interval,
                _ => LEFTOVERS_SOON,
            };
            soon = u32::saturating_sub(soon, 1);
            // A group that moved away leaves copies here that are needed no more.
            if tokio::time::timeout(pause, self.moved.notified())
                .await
                .is_ok()
            {
                soon = LEFTOVERS_SOON_ROUNDS;
                continue;
            }
            self.groups.clear().await;
            if let Err(fault) = self.discard(std::mem::take(&mut found)).await {
                tracing::warn!(%fault, "objects of files that are gone can't be deleted");
            }
            if let Err(fault) = self.look(&mut found).await {
                tracing::warn!(%fault, "can't find out which objects are of files that are gone");
            }
            if !found.objects.is_empty() {
                // There may be more than one round can take.
                soon = soon.max(1);
            }
        }
    }

    /// Asks about everything this server holds.
    async fn look(&mut self, found: &mut Found) -> Result<(), Fault> {
        let root = Arc::clone(&self.root);
        let groups = blocking(move || root.groups()).await;
        let mut page = Vec::new();
        for group in groups {
            let root = Arc::clone(&self.root);
            let names = blocking(move || root.names(group)).await;
            for object in names.into_iter().filter(|object| object.column == 0) {
                page.push(held(group, object));
                if page.len() >= LEFTOVERS_PAGE_MAX {
                    self.find(std::mem::take(&mut page), found).await?;
                    tokio::time::sleep(LEFTOVERS_PAUSE).await;
                }
                if found.objects.len() >= LEFTOVERS_MAX {
                    return Ok(());
                }
            }
        }
        self.find(page, found).await
    }

    /// Asks about a page until somebody leads who can answer.
    async fn find(&mut self, objects: Vec<HeldObject>, found: &mut Found) -> Result<(), Fault> {
        if objects.is_empty() {
            return Ok(());
        }
        let op = Op::FindLeftovers(mrc::FindLeftovers {
            osd: self.osd.0,
            objects,
        });
        if let Some(Reply::Leftovers(answer)) = self.ask(op).await? {
            found.objects.extend(answer.objects);
            found.garbage_below = found.garbage_below.max(answer.garbage_below);
        }
        Ok(())
    }

    /// Has deleted what an earlier round found and what is still there.
    async fn discard(&mut self, found: Found) -> Result<(), Fault> {
        let root = Arc::clone(&self.root);
        let held = blocking(move || {
            let still = found
                .objects
                .into_iter()
                .filter(|one| root.holds(key_of(one)));
            Ok(still.collect())
        });
        let held: Vec<HeldObject> = held.await;
        if !held.is_empty() {
            tracing::info!(
                objects = held.len(),
                "objects of files that are gone: to be deleted"
            );
        }
        for objects in held.chunks(LEFTOVERS_BATCH_MAX) {
            let op = Op::DiscardLeftovers(mrc::DiscardLeftovers {
                osd: self.osd.0,
                objects: objects.to_vec(),
                garbage_below: found.garbage_below,
            });
            self.ask(op).await?;
        }
        Ok(())
    }

    /// Asks until there is an answer; both questions may be repeated.
    async fn ask(&mut self, op: Op) -> Result<Option<Reply>, Fault> {
        let request = mrc::Request {
            op: Some(op),
            ..mrc::Request::default()
        };
        loop {
            match self.client.ask(&request).await {
                Ok(response) => return Ok(response.reply),
                Err(CallError::Fault(fault)) if fault.remedy == Remedy::Surface => {
                    return Err(fault);
                }
                Err(_) => tokio::time::sleep(LEFTOVERS_PAUSE).await,
            }
        }
    }
}

const fn held(group: PgKey, object: ObjectId) -> HeldObject {
    HeldObject {
        volume: group.volume.0,
        inode: object.inode.0,
        pg: group.pg.0,
    }
}

const fn key_of(held: &HeldObject) -> ObjectKey {
    ObjectKey {
        pg: PgId(held.pg),
        object: ObjectId {
            volume: VolumeId(held.volume),
            inode: Inode(held.inode),
            column: 0,
        },
    }
}

/// Does disk work elsewhere. What can't be read now is left to the next round.
async fn blocking<T: Default + Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            tracing::warn!(%error, "can't list objects");
            T::default()
        }
        // The server ends.
        Err(_) => T::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Mutex;
    use std::time::Instant;

    use bytes::Bytes;
    use osd_core::{ObjectStore, Record};
    use prost::Message as _;
    use shell::link::{
        Connection, Handler, Identity, Payload, Responder, Role, Server, ServiceKind, Wire,
    };
    use tokio::net::TcpListener;
    use types::{ClusterId, Secret};

    use super::*;
    use crate::shards::Shards;
    use crate::store_dir::DirectoryStore;

    /// Longest wait for anything; only a failing test waits so long.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A leader that knows some files.
    #[derive(Default)]
    struct Leader {
        files: BTreeSet<u64>,
        asked: Mutex<Vec<(Instant, mrc::FindLeftovers)>>,
        told: Mutex<Vec<(Instant, mrc::DiscardLeftovers)>>,
    }

    impl Handler for Leader {
        fn request(&self, _: &Arc<Connection>, body: Bytes, _: Payload, responder: Responder) {
            let now = Instant::now();
            let reply = match mrc::Request::decode(body).unwrap().op.unwrap() {
                Op::FindLeftovers(find) => {
                    let mut asked = self.asked.lock().unwrap();
                    asked.push((now, find.clone()));
                    let gone = find.objects.into_iter();
                    let gone = gone.filter(|object| !self.files.contains(&object.inode));
                    Reply::Leftovers(mrc::Leftovers {
                        objects: gone.collect(),
                        garbage_below: 100 - asked.len() as u64,
                    })
                }
                Op::DiscardLeftovers(discard) => {
                    self.told.lock().unwrap().push((now, discard));
                    Reply::Done(mrc::Done {})
                }
                other => panic!("{other:?}"),
            };
            let response = mrc::Response { reply: Some(reply) };
            responder.ok(&response, Payload::none());
        }
    }

    fn identity(role: Role, id: u64) -> Identity {
        Identity {
            cluster: ClusterId(7),
            secret: Secret::from_bytes([3; 32]),
            role,
            id,
            wire: Wire::default(),
        }
    }

    async fn serve(leader: &Arc<Leader>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Server::new(identity(Role::Mrc, 1)).service(ServiceKind::Mrc, leader.clone());
        tokio::spawn(server.serve(listener, std::future::pending()));
        address
    }

    /// A store with these objects of group 1.2.
    fn store(dir: &Path, inodes: impl Iterator<Item = u64>) -> Arc<Root> {
        let root = Arc::new(Root::open(dir).unwrap());
        let mut store = DirectoryStore::with_reaper(Arc::clone(&root));
        for inode in inodes {
            let key = key_of(&object(inode));
            store.create(key, &Record::default()).unwrap();
        }
        root
    }

    fn object(inode: u64) -> HeldObject {
        HeldObject {
            volume: 1,
            inode,
            pg: 2,
        }
    }

    async fn asking(leader: &Arc<Leader>, root: &Arc<Root>, interval: Duration) -> Leftovers {
        let address = serve(leader).await;
        Leftovers {
            osd: OsdId(4),
            interval,
            root: Arc::clone(root),
            client: MetadataClient::new(identity(Role::Osd, 4), &[address]),
            moved: Arc::new(Notify::new()),
            groups: Moved {
                me: OsdId(4),
                root: Arc::clone(root),
                wall: Arc::default(),
                shards: Shards::new(1),
            },
        }
    }

    #[tokio::test]
    async fn what_is_found_and_still_there_is_to_be_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let root = store(dir.path(), 1..=LEFTOVERS_PAGE_MAX as u64 + 3);
        let leader = Arc::new(Leader {
            files: (4..=LEFTOVERS_PAGE_MAX as u64 + 2).collect(),
            ..Leader::default()
        });
        root.doom(key_of(&object(1)));
        let mut leftovers = asking(&leader, &root, Duration::ZERO).await;
        let mut found = Found::default();

        leftovers.look(&mut found).await.unwrap();
        // It goes by itself meanwhile.
        root.doom(key_of(&object(2)));
        root.reap(key_of(&object(2))).unwrap();
        leftovers.discard(found).await.unwrap();

        let asked = leader.asked.lock().unwrap();
        let pages = asked.iter().map(|(_, find)| find.objects.len());
        assert_eq!(pages.collect::<Vec<_>>(), [LEFTOVERS_PAGE_MAX, 2]);
        let told = leader.told.lock().unwrap();
        let [(_, told)] = &told[..] else {
            panic!("{told:?}");
        };
        let last = LEFTOVERS_PAGE_MAX as u64 + 3;
        assert_eq!(told.objects, [object(3), object(last)]);
        assert_eq!((told.osd, told.garbage_below), (4, 99), "the greatest");
    }

    #[tokio::test]
    async fn nothing_is_deleted_in_the_round_that_finds_it() {
        const INTERVAL: Duration = Duration::from_millis(30);
        let dir = tempfile::tempdir().unwrap();
        let root = store(dir.path(), 1..=2);
        let leader = Arc::new(Leader {
            files: BTreeSet::from([1]),
            ..Leader::default()
        });

        let rounds = tokio::spawn(asking(&leader, &root, INTERVAL).await.run());
        let deadline = Instant::now() + PATIENCE;
        while leader.told.lock().unwrap().is_empty() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        rounds.abort();

        let (asked, told) = (leader.asked.lock().unwrap(), leader.told.lock().unwrap());
        assert_eq!(told[0].1.objects, [object(2)]);
        assert!(told[0].0 >= asked[0].0 + INTERVAL);
    }
}
