//! A bed for tests: real object servers in one process, over loopback, with a map from a channel.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use osd_core::{ObjectKey, ObjectStore};
use proto::{mrc, osd};
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, Role, ServiceKind, Wire};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use types::{
    Capability, ClusterId, Fault, Inode, ObjectId, OsdId, PgId, PgKey, Remedy, Rights, Secret,
    SessionId, UnixNanos, VolumeId,
};

use crate::board::Board;
use crate::config::{Config, Limits};
use crate::map::{self, Map};
use crate::pacer::Pacer;
use crate::seeding::Counts;
use crate::server::{Error, MapSource, run_with};
use crate::store_dir::DirectoryStore;
use crate::store_root::Root;

pub(super) const CLUSTER: ClusterId = ClusterId(7);
const SESSION: SessionId = SessionId(11);
pub(super) const PG: PgKey = PgKey {
    volume: VolumeId(1),
    pg: PgId(0),
};
/// Longest wait for anything; only a failing test waits so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn secret() -> Secret {
    Secret::from_bytes([3; 32])
}

pub(super) fn object(inode: u64) -> ObjectId {
    ObjectId {
        volume: PG.volume,
        inode: Inode(inode),
        column: 0,
    }
}

pub(super) struct Node {
    pub(super) dir: PathBuf,
    pub(super) runtime: Option<Runtime>,
    pub(super) stop: Option<oneshot::Sender<()>>,
    pub(super) done: Option<JoinHandle<Result<(), Error>>>,
    pub(super) board: Arc<Board>,
    pub(super) pacer: Pacer,
    pub(super) seed_counts: Arc<Counts>,
    pub(super) address: String,
}

/// Three servers (or as many as wanted) and what the metadata cluster would tell them.
pub(super) struct Bed {
    pub(super) root: tempfile::TempDir,
    pub(super) nodes: Vec<Node>,
    pub(super) map: mrc::OsdMap,
    pub(super) maps: watch::Sender<mrc::OsdMap>,
    pub(super) change_id: Arc<AtomicU64>,
    pub(super) limits: Limits,
    /// Each server's store is in a dataset below this one.
    pub(super) dataset: Option<String>,
    /// Groups may come as a whole, however small they are.
    pub(super) seeds: bool,
    /// Servers with directory stores although there is a dataset.
    pub(super) plain: Vec<u64>,
}

impl Bed {
    pub(super) async fn new(count: u64) -> Self {
        Self::with_policy(count, "", "").await
    }

    /// With stores on ZFS, below this dataset.
    pub(super) async fn on_zfs(count: u64, dataset: &str) -> Self {
        Self::with(count, ("", ""), (Some(dataset.to_owned()), &[])).await
    }

    /// The same, but for these servers.
    pub(super) async fn on_zfs_but(count: u64, dataset: &str, plain: &[u64]) -> Self {
        Self::with(count, ("", ""), (Some(dataset.to_owned()), plain)).await
    }

    pub(super) async fn with_policy(count: u64, write_policy: &str, quorum: &str) -> Self {
        Self::with(count, (write_policy, quorum), (None, &[])).await
    }

    async fn with(
        count: u64,
        (write_policy, quorum): (&str, &str),
        (dataset, plain): (Option<String>, &[u64]),
    ) -> Self {
        // With RUST_LOG, a failing test tells more.
        shell::telemetry::init("off", None).unwrap();
        let root = tempfile::tempdir().unwrap();
        let secret_file = root.path().join("secret");
        fs::write(&secret_file, secret().to_hex()).unwrap();
        fs::set_permissions(&secret_file, fs::Permissions::from_mode(0o600)).unwrap();
        let nodes = (1..=count)
            .map(|id| Node {
                dir: root.path().join(format!("osd{id}")),
                runtime: None,
                stop: None,
                done: None,
                board: Arc::default(),
                pacer: Pacer::default(),
                seed_counts: Arc::default(),
                address: String::new(),
            })
            .collect();
        let map = mrc::OsdMap {
            version: 1,
            changed: true,
            ..mrc::OsdMap::default()
        };
        let mut bed = Self {
            root,
            nodes,
            maps: watch::Sender::new(map.clone()),
            map,
            change_id: Arc::new(AtomicU64::new(1)),
            limits: Limits {
                seed_object_bytes_min: 0,
                seed_increment_after: std::time::Duration::ZERO,
                ..Limits::default()
            },
            dataset,
            seeds: true,
            plain: plain.to_vec(),
        };
        for id in 1..=count {
            bed.start(id).await;
        }
        // After the stores were made and their servers registered, as in a new cluster: a new store takes
        // for older than itself what is in the first map.
        until("all servers to follow the map", || async {
            let follows = |node: &Node| map::load(&node.dir).is_some();
            bed.nodes.iter().all(follows)
        })
        .await;
        bed.map.pgs.push(mrc::Pg {
            volume: PG.volume.0,
            pg: PG.pg.0,
            view: 1,
            osds: (1..=count).collect(),
            ..mrc::Pg::default()
        });
        bed.map.volumes.push(mrc::VolumePolicy {
            volume: PG.volume.0,
            write_policy: write_policy.to_owned(),
            quorum: quorum.to_owned(),
        });
        bed.publish();
        bed
    }

    pub(super) fn publish(&mut self) {
        self.map.version += 1;
        self.map.osds = (1..)
            .zip(&self.nodes)
            .map(|(osd, node)| mrc::Replica {
                osd,
                address: node.address.clone(),
            })
            .collect();
        self.maps.send_replace(self.map.clone());
    }

    pub(super) fn config(&self, id: u64) -> Config {
        let text = format!(
            "cluster = \"{CLUSTER}\"\nsecret_file = {:?}\nid = {id}\nlisten = \"127.0.0.1:0\"\n\
             dir = {:?}\nmrc = [\"127.0.0.1:1\"]\nlease_ttl_ms = 400\ntrust_grace_ms = 200\n\
             backup_timeout_ms = 300\nidle_ms = 500\nshards = 2\nsync_threads = 2\n",
            self.root.path().join("secret"),
            self.nodes[id as usize - 1].dir,
        );
        let dataset = self.dataset.as_ref().filter(|_| !self.plain.contains(&id));
        let store = dataset.map_or_else(String::new, |above| {
            format!(
                "store = \"zfs\"\nzfs_dataset = \"{above}/osd-{id}\"\n\
                 zfs_seed = {}\nzfs_seed_min_bytes = 0\n",
                self.seeds
            )
        });
        let config: Config = toml::from_str(&(text + &store)).unwrap();
        let limits = self.limits;
        Config { limits, ..config }.validated().unwrap()
    }

    pub(super) async fn start(&mut self, id: u64) {
        let config = self.config(id);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let board = Arc::new(Board::default());
        // Of a server that is started again, too: tests look at what it does from then on.
        let (pacer, seed_counts) = (Pacer::default(), Arc::new(Counts::default()));
        let source = MapSource::Channel {
            maps: self.maps.subscribe(),
            board: Arc::clone(&board),
            pacer: pacer.clone(),
            seed_counts: Arc::clone(&seed_counts),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = oneshot::channel();
        let done = runtime.spawn(async move {
            let listener = tokio::net::TcpListener::bind(config.listen).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let shutdown = async {
                let _ = stopped.await;
            };
            run_with(config, listener, source, shutdown).await
        });
        let node = &mut self.nodes[id as usize - 1];
        node.address = address.await.unwrap().to_string();
        node.runtime = Some(runtime);
        node.stop = Some(stop);
        node.board = board;
        node.pacer = pacer;
        node.seed_counts = seed_counts;
        node.done = Some(done);
        self.publish();
    }

    /// As `kill -9`: connections break, memory is gone, files are as they are.
    pub(super) async fn kill(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        node.runtime.take().unwrap().shutdown_background();
        let done = node.done.take().unwrap();
        assert!(done.await.unwrap_err().is_cancelled());
        // Its threads hold the directory until they are out.
        let lock = fs::File::open(node.dir.join("LOCK")).unwrap();
        until("killed server to be gone", || async {
            lock.try_lock().is_ok()
        })
        .await;
    }

    pub(super) async fn stop(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        node.stop.take().unwrap().send(()).unwrap();
        node.done.take().unwrap().await.unwrap().unwrap();
        node.runtime.take().unwrap().shutdown_background();
    }

    pub(super) fn wipe(&self, id: u64) {
        fs::remove_dir_all(&self.nodes[id as usize - 1].dir).unwrap();
    }

    /// Waits until no server reports that it or another lacks anything, as the metadata cluster would
    /// see it.
    pub(super) async fn until_full(&self) {
        self.until_full_within(PATIENCE).await;
    }

    pub(super) async fn until_full_within(&self, patience: Duration) {
        let map = Map::from_wire(&self.map);
        let is_full = |(id, node): (u64, &Node)| {
            // One that has no part in the group says nothing of it.
            let reports = node.board.reports(OsdId(id), &map);
            reports
                .iter()
                .all(|report| report.state() == mrc::PgState::PgFull && report.lagging.is_empty())
        };
        let running = || {
            (1..)
                .zip(&self.nodes)
                .filter(|(_, node)| node.runtime.is_some())
        };
        let deadline = Instant::now() + patience;
        while !running().all(is_full) {
            assert!(
                Instant::now() < deadline,
                "not full: {:?}",
                self.nodes
                    .iter()
                    .map(|node| &node.board)
                    .collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn stop_all(&mut self) {
        for id in 1..=self.nodes.len() as u64 {
            if self.nodes[id as usize - 1].runtime.is_some() {
                self.stop(id).await;
            }
        }
    }

    pub(super) fn assert_all_equal(&self, inodes: std::ops::RangeInclusive<u64>) {
        for inode in inodes {
            let first = self.at_rest(1, inode);
            assert!(first.is_some(), "{inode}");
            for id in 2..=self.nodes.len() as u64 {
                assert!(self.at_rest(id, inode) == first, "{inode} at {id}");
            }
        }
    }

    pub(super) fn client(&self) -> Client {
        let links = (1..)
            .zip(&self.nodes)
            .map(|(osd, node)| (OsdId(osd), link(&node.address, SESSION)))
            .collect();
        Client {
            links,
            view: self.map.pgs[0].view,
            change_id: Arc::clone(&self.change_id),
            last: std::sync::Mutex::new(OsdId(1)),
        }
    }

    /// The newest change that the record in a stopped server's store vouches for.
    pub(super) fn recorded_seq(&self, id: u64, inode: u64) -> u64 {
        let key = ObjectKey {
            pg: PG.pg,
            object: object(inode),
        };
        let header = store(&self.nodes[id as usize - 1].dir).open(key).unwrap();
        header.map_or(0, |header| header.record.position.seq)
    }

    /// Bytes of an object as they lie in a stopped server's store.
    pub(super) fn at_rest(&self, id: u64, inode: u64) -> Option<Bytes> {
        let mut store = store(&self.nodes[id as usize - 1].dir);
        let key = ObjectKey {
            pg: PG.pg,
            object: object(inode),
        };
        let header = store.open(key).unwrap()?;
        let read = store.read(key, 0, header.length_bytes as u32);
        assert!(
            read.is_ok(),
            "{inode} at {id}: {read:?}, {:?}",
            header.record
        );
        read.ok()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(runtime) = node.runtime.take() {
                runtime.shutdown_background();
            }
        }
    }
}

fn store(dir: &Path) -> DirectoryStore {
    DirectoryStore::new(Arc::new(Root::open_to_look(dir).unwrap()))
}

fn link(address: &str, session: SessionId) -> Arc<Link> {
    let identity = Identity {
        cluster: CLUSTER,
        secret: secret(),
        role: Role::Mount,
        id: session.0,
        wire: Wire::default(),
    };
    Link::open(
        identity,
        ServiceKind::Osd,
        address.to_owned(),
        LinkOptions::default(),
    )
}

pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Does what a mount does: follows hints, repeats what may be repeated.
pub(super) struct Client {
    pub(super) links: BTreeMap<OsdId, Arc<Link>>,
    pub(super) view: u64,
    pub(super) change_id: Arc<AtomicU64>,
    pub(super) last: std::sync::Mutex<OsdId>,
}

impl Client {
    pub(super) fn request(&self, inode: u64, op: osd::request::Op) -> osd::Request {
        let capability = Capability {
            cluster: CLUSTER,
            volume: PG.volume,
            inode: Inode(inode),
            pg: PG.pg,
            session: SESSION,
            rights: Rights::Write,
            expires: UnixNanos(i64::MAX),
        };
        osd::Request {
            object: Some(object(inode).into()),
            pg: PG.pg.0,
            view: self.view,
            capability: capability.seal(&secret()).into(),
            forward_to: 0,
            op: Some(op),
        }
    }

    pub(super) async fn ask(
        &self,
        inode: u64,
        op: osd::request::Op,
        bytes: Bytes,
    ) -> Result<(osd::Response, Bytes), Fault> {
        let mut request = self.request(inode, op);
        let deadline = Instant::now() + PATIENCE;
        let mut at = *self.last.lock().unwrap();
        loop {
            // Each repetition is a new change, so that a delayed one is known to be old.
            if let Some(osd::request::Op::Write(write)) = &mut request.op {
                write.change_id = self.change_id.fetch_add(1, Ordering::Relaxed);
            }
            let answer = self.links[&at]
                .call::<_, osd::Response>(
                    &request,
                    Payload::of(bytes.clone()),
                    Duration::from_secs(2),
                )
                .await;
            let (next, reason) = match answer {
                Ok((response, payload)) => {
                    *self.last.lock().unwrap() = at;
                    return Ok((response, payload.verified()?));
                }
                Err(CallError::Fault(fault)) if fault.remedy == Remedy::Surface => {
                    return Err(fault);
                }
                Err(CallError::Fault(fault)) => (fault.osd_hint, fault.message),
                Err(error) => (None, error.to_string()),
            };
            assert!(Instant::now() < deadline, "gave up: {reason}");
            let count = self.links.len() as u64;
            at = match next {
                Some(hint) if hint != at => hint,
                _ => OsdId(at.0 % count + 1),
            };
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn write(&self, inode: u64, offset: u64, bytes: &Bytes) -> osd::Response {
        let op = osd::request::Op::Write(osd::Write {
            offset,
            ..osd::Write::default()
        });
        self.ask(inode, op, bytes.clone()).await.unwrap().0
    }

    /// Appends; the same `first_id` is the same change.
    pub(super) async fn append(&self, inode: u64, first_id: u64, bytes: &Bytes) -> osd::Response {
        let op = osd::request::Op::Write(osd::Write {
            append: true,
            first_id,
            ..osd::Write::default()
        });
        self.ask(inode, op, bytes.clone()).await.unwrap().0
    }

    pub(super) async fn read(&self, inode: u64, offset: u64, length_bytes: u32) -> Bytes {
        let op = osd::request::Op::Read(osd::Read {
            offset,
            length_bytes,
        });
        self.ask(inode, op, Bytes::new()).await.unwrap().1
    }

    pub(super) async fn sync(&self, inode: u64) -> osd::Response {
        let op = osd::request::Op::Sync(osd::Sync::default());
        self.ask(inode, op, Bytes::new()).await.unwrap().0
    }

    pub(super) async fn length(&self, inode: u64) -> u64 {
        let op = osd::request::Op::Stat(osd::Stat {});
        self.ask(inode, op, Bytes::new())
            .await
            .unwrap()
            .0
            .length_bytes
    }
}

pub(super) fn bytes(length: usize, seed: u64) -> Bytes {
    (0..length as u64)
        .map(|at| ((at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}
