//! Three real object servers in one process, over loopback, with a map from a channel.

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
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, Role, ServiceKind};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use types::{
    Capability, ClusterId, Fault, Inode, ObjectId, OsdId, PgId, PgKey, Remedy, Rights, Secret,
    SessionId, UnixNanos, VolumeId,
};

use crate::board::Board;
use crate::config::Config;
use crate::map::Map;
use crate::server::{Error, MapSource, run_with};
use crate::store_dir::DirectoryStore;
use crate::store_root::Root;

const CLUSTER: ClusterId = ClusterId(7);
const SESSION: SessionId = SessionId(11);
const PG: PgKey = PgKey {
    volume: VolumeId(1),
    pg: PgId(0),
};
/// Longest wait for anything; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn secret() -> Secret {
    Secret::from_bytes([3; 32])
}

fn object(inode: u64) -> ObjectId {
    ObjectId {
        volume: PG.volume,
        inode: Inode(inode),
        column: 0,
    }
}

struct Node {
    dir: PathBuf,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    done: Option<JoinHandle<Result<(), Error>>>,
    board: Arc<Board>,
    address: String,
}

/// Three servers (or as many as wanted) and what the metadata cluster would tell them.
struct Bed {
    root: tempfile::TempDir,
    nodes: Vec<Node>,
    map: mrc::OsdMap,
    maps: watch::Sender<mrc::OsdMap>,
    change_id: Arc<AtomicU64>,
}

impl Bed {
    async fn new(count: u64) -> Self {
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
        };
        for id in 1..=count {
            bed.start(id).await;
        }
        // After the stores were made, as in a new cluster.
        bed.map.pgs.push(mrc::Pg {
            volume: PG.volume.0,
            pg: PG.pg.0,
            view: 1,
            osds: (1..=count).collect(),
            ..mrc::Pg::default()
        });
        bed.publish();
        bed
    }

    fn publish(&mut self) {
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

    fn config(&self, id: u64) -> Config {
        let text = format!(
            "cluster = \"{CLUSTER}\"\nsecret_file = {:?}\nid = {id}\nlisten = \"127.0.0.1:0\"\n\
             dir = {:?}\nmrc = [\"127.0.0.1:1\"]\nlease_ttl_ms = 400\ntrust_grace_ms = 200\n\
             backup_timeout_ms = 300\nidle_ms = 500\nshards = 2\nsync_threads = 2\n",
            self.root.path().join("secret"),
            self.nodes[id as usize - 1].dir,
        );
        toml::from_str::<Config>(&text)
            .unwrap()
            .validated()
            .unwrap()
    }

    async fn start(&mut self, id: u64) {
        let config = self.config(id);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let board = Arc::new(Board::default());
        let source = MapSource::Channel {
            maps: self.maps.subscribe(),
            board: Arc::clone(&board),
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
        node.done = Some(done);
        self.publish();
    }

    /// As `kill -9`: connections break, memory is gone, files are as they are.
    async fn kill(&mut self, id: u64) {
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

    async fn stop(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        node.stop.take().unwrap().send(()).unwrap();
        node.done.take().unwrap().await.unwrap().unwrap();
        node.runtime.take().unwrap().shutdown_background();
    }

    fn wipe(&self, id: u64) {
        fs::remove_dir_all(&self.nodes[id as usize - 1].dir).unwrap();
    }

    /// Waits until no server reports that it or another lacks anything, as the metadata cluster would
    /// see it.
    async fn until_full(&self) {
        let map = Map::from_wire(&self.map);
        let is_full = |(id, node): (u64, &Node)| {
            let report = &node.board.reports(OsdId(id), &map)[0];
            report.state() == mrc::PgState::PgFull && report.lagging.is_empty()
        };
        let running = || {
            (1..)
                .zip(&self.nodes)
                .filter(|(_, node)| node.runtime.is_some())
        };
        let deadline = Instant::now() + PATIENCE;
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

    async fn stop_all(&mut self) {
        for id in 1..=self.nodes.len() as u64 {
            if self.nodes[id as usize - 1].runtime.is_some() {
                self.stop(id).await;
            }
        }
    }

    fn assert_all_equal(&self, inodes: std::ops::RangeInclusive<u64>) {
        for inode in inodes {
            let first = self.at_rest(1, inode);
            assert!(first.is_some(), "{inode}");
            for id in 2..=self.nodes.len() as u64 {
                assert!(self.at_rest(id, inode) == first, "{inode} at {id}");
            }
        }
    }

    fn client(&self) -> Client {
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

    /// Bytes of an object as they lie in a stopped server's store.
    fn at_rest(&self, id: u64, inode: u64) -> Option<Bytes> {
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
    DirectoryStore::new(Arc::new(Root::open(dir).unwrap()))
}

fn link(address: &str, session: SessionId) -> Arc<Link> {
    let identity = Identity {
        cluster: CLUSTER,
        secret: secret(),
        role: Role::Mount,
        id: session.0,
    };
    Link::open(
        identity,
        ServiceKind::Osd,
        address.to_owned(),
        LinkOptions::default(),
    )
}

async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Does what a mount does: follows hints, repeats what may be repeated.
struct Client {
    links: BTreeMap<OsdId, Arc<Link>>,
    view: u64,
    change_id: Arc<AtomicU64>,
    last: std::sync::Mutex<OsdId>,
}

impl Client {
    fn request(&self, inode: u64, op: osd::request::Op) -> osd::Request {
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
            op: Some(op),
        }
    }

    async fn ask(
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

    async fn write(&self, inode: u64, offset: u64, bytes: &Bytes) -> osd::Response {
        let op = osd::request::Op::Write(osd::Write {
            offset,
            ..osd::Write::default()
        });
        self.ask(inode, op, bytes.clone()).await.unwrap().0
    }

    async fn append(&self, inode: u64, append_id: u64, bytes: &Bytes) -> osd::Response {
        let op = osd::request::Op::Write(osd::Write {
            append: true,
            append_id,
            ..osd::Write::default()
        });
        self.ask(inode, op, bytes.clone()).await.unwrap().0
    }

    async fn read(&self, inode: u64, offset: u64, length_bytes: u32) -> Bytes {
        let op = osd::request::Op::Read(osd::Read {
            offset,
            length_bytes,
        });
        self.ask(inode, op, Bytes::new()).await.unwrap().1
    }

    async fn sync(&self, inode: u64) -> osd::Response {
        let op = osd::request::Op::Sync(osd::Sync {});
        self.ask(inode, op, Bytes::new()).await.unwrap().0
    }

    async fn length(&self, inode: u64) -> u64 {
        let op = osd::request::Op::Stat(osd::Stat {});
        self.ask(inode, op, Bytes::new())
            .await
            .unwrap()
            .0
            .length_bytes
    }
}

fn bytes(length: usize, seed: u64) -> Bytes {
    (0..length as u64)
        .map(|at| ((at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_writes_reads_and_syncs_a_new_object() {
    let bed = Bed::new(1).await;
    let client = bed.client();
    let data = bytes(100_000, 1);

    let written = client.write(5, 10, &data).await;

    assert_eq!((written.offset, written.length_bytes), (10, 100_010));
    assert_eq!(client.read(5, 10, 200_000).await, data);
    assert_eq!(client.read(5, 0, 10).await, vec![0; 10]);
    assert_eq!(client.sync(5).await.length_bytes, 100_010);
    assert_eq!(client.length(5).await, 100_010);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_hold_the_same_bytes_after_a_clean_stop() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();

    for inode in 1..=8 {
        client.write(inode, 0, &bytes(70_000, inode)).await;
        client.write(inode, 30_000, &bytes(999, inode)).await;
    }
    client.sync(3).await;
    bed.stop_all().await;

    bed.assert_all_equal(1..=8);
    let first = bed.at_rest(1, 4).unwrap();
    assert_eq!(first.len(), 70_000);
    assert_eq!(first.slice(30_000..30_999), bytes(999, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_backup_is_gone_on_without_and_catches_up_after_its_restart() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=4 {
        client.write(inode, 0, &bytes(200_000, inode)).await;
    }

    bed.kill(3).await;
    client.write(1, 50_000, &bytes(100_000, 77)).await;
    client.write(5, 0, &bytes(10_000, 5)).await;
    client.sync(1).await;
    bed.start(3).await;
    bed.until_full().await;
    bed.stop_all().await;

    bed.assert_all_equal(1..=5);
    assert_eq!(
        bed.at_rest(3, 1).unwrap().slice(50_000..150_000),
        bytes(100_000, 77)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_primary_loses_nothing_that_was_acknowledged() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=4 {
        client.write(inode, 0, &bytes(50_000, inode)).await;
    }

    bed.kill(1).await;
    for inode in 1..=4 {
        assert_eq!(client.read(inode, 0, 50_000).await, bytes(50_000, inode));
        client.write(inode, 50_000, &bytes(1_000, inode)).await;
    }
    bed.start(1).await;
    bed.until_full().await;
    bed.stop_all().await;

    bed.assert_all_equal(1..=4);
    assert_eq!(bed.at_rest(1, 2).unwrap().len(), 51_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_append_is_done_once_even_by_another_primary() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    let first = client.append(1, 1, &bytes(1_000, 1)).await;
    let second = client.append(1, 2, &bytes(1_000, 2)).await;
    assert_eq!((first.offset, second.offset), (0, 1_000));

    let again = client.append(1, 2, &bytes(1_000, 2)).await;
    bed.kill(1).await;
    let after = client.append(1, 2, &bytes(1_000, 2)).await;
    let third = client.append(1, 3, &bytes(1_000, 3)).await;

    assert_eq!((again.offset, after.offset), (1_000, 1_000));
    assert_eq!((third.offset, third.length_bytes), (2_000, 3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_server_is_rebuilt_while_clients_write() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=20 {
        client.write(inode, 0, &bytes(100_000, inode)).await;
    }

    bed.kill(2).await;
    bed.wipe(2);
    // The metadata cluster sees a new store in the first report.
    bed.map.pgs[0].incomplete = vec![2];
    bed.start(2).await;
    for inode in 15..=25 {
        client.write(inode, 40_000, &bytes(30_000, inode)).await;
    }
    bed.until_full().await;
    bed.map.pgs[0].incomplete.clear();
    bed.publish();
    bed.stop_all().await;

    bed.assert_all_equal(1..=25);
}

#[tokio::test(flavor = "multi_thread")]
async fn crashed_server_becomes_full_although_another_stays_down() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=4 {
        client.write(inode, 0, &bytes(20_000, inode)).await;
        client.sync(inode).await;
    }

    bed.kill(3).await;
    bed.kill(2).await;
    bed.start(2).await;
    let client = bed.client();
    for inode in 3..=6 {
        client.write(inode, 5_000, &bytes(5_000, 9)).await;
    }
    let map = Map::from_wire(&bed.map);
    until("the restarted server to be full", || async {
        let report = &bed.nodes[1].board.reports(OsdId(2), &map)[0];
        report.state() == mrc::PgState::PgFull
    })
    .await;
    bed.stop(1).await;
    bed.stop(2).await;

    for inode in 1..=6 {
        assert!(bed.at_rest(1, inode).is_some());
        assert!(bed.at_rest(1, inode) == bed.at_rest(2, inode), "{inode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fsynced_data_survives_the_death_of_all_servers_at_once() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(300_000, 1)).await;
    client.sync(1).await;

    for id in 1..=3 {
        bed.kill(id).await;
    }
    for id in 1..=3 {
        bed.start(id).await;
    }
    let client = bed.client();

    assert_eq!(client.read(1, 0, 300_000).await, bytes(300_000, 1));
    bed.until_full().await;
    bed.stop_all().await;
    bed.assert_all_equal(1..=1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_restart_of_all_finds_everything_without_comparing_bytes() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(10_000, 1)).await;

    bed.stop_all().await;
    for id in 1..=3 {
        bed.start(id).await;
    }
    let client = bed.client();

    assert_eq!(client.read(1, 0, 20_000).await, bytes(10_000, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_object_is_gone_everywhere_and_refused_afterwards() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(10_000, 1)).await;
    client.write(2, 0, &bytes(10_000, 2)).await;

    for node in &bed.nodes {
        let identity = Identity {
            cluster: CLUSTER,
            secret: secret(),
            role: Role::Mrc,
            id: 1,
        };
        let link = Link::open(
            identity,
            ServiceKind::Osd,
            node.address.clone(),
            LinkOptions::default(),
        );
        let request = osd::Request {
            op: Some(osd::request::Op::Delete(osd::Delete {
                objects: vec![osd::ObjectInPg {
                    object: Some(object(1).into()),
                    pg: PG.pg.0,
                }],
            })),
            ..osd::Request::default()
        };
        link.call::<_, osd::Response>(&request, Payload::none(), PATIENCE)
            .await
            .unwrap();
    }
    let op = osd::request::Op::Read(osd::Read {
        offset: 0,
        length_bytes: 1,
    });
    let fault = client.ask(1, op, Bytes::new()).await.unwrap_err();
    assert_eq!(fault.errno, libc::ESTALE, "{fault}");
    bed.stop_all().await;

    for id in 1..=3 {
        assert_eq!(bed.at_rest(id, 1), None);
    }
    bed.assert_all_equal(2..=2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_may_not_be_done_get_a_clear_fault() {
    let bed = Bed::new(1).await;
    let client = bed.client();
    client.write(1, 0, &bytes(10, 1)).await;
    let link = &client.links[&OsdId(1)];
    let stat = || osd::request::Op::Stat(osd::Stat {});
    let fault_of = |request: osd::Request, payload: Payload| async move {
        let answer = link
            .call::<_, osd::Response>(&request, payload, PATIENCE)
            .await;
        match answer {
            Err(CallError::Fault(fault)) => fault,
            other => panic!("{other:?}"),
        }
    };

    let mut forged = client.request(1, stat());
    forged.capability = vec![7; Capability::ENCODED_BYTES].into();
    let fault = fault_of(forged, Payload::none()).await;
    assert_eq!((fault.remedy, fault.errno), (Remedy::Surface, libc::EACCES));

    let mut old_view = client.request(1, stat());
    old_view.view = 0;
    let fault = fault_of(old_view, Payload::none()).await;
    assert_eq!(fault.remedy, Remedy::Refresh, "{fault}");

    let mut new_view = client.request(1, stat());
    new_view.view = 9;
    let fault = fault_of(new_view, Payload::none()).await;
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");

    let write = osd::request::Op::Write(osd::Write {
        change_id: 99,
        ..osd::Write::default()
    });
    let damaged = Payload {
        crc32c: 1,
        ..Payload::of(bytes(10, 1))
    };
    let fault = fault_of(client.request(1, write), damaged).await;
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");

    let long = osd::request::Op::Read(osd::Read {
        offset: 0,
        length_bytes: u32::MAX,
    });
    let fault = fault_of(client.request(1, long), Payload::none()).await;
    assert_eq!(fault.errno, libc::EINVAL, "{fault}");

    let delete = osd::request::Op::Delete(osd::Delete::default());
    let fault = fault_of(client.request(1, delete), Payload::none()).await;
    assert_eq!(fault.errno, libc::EPERM, "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_is_refused_with_one_clear_sentence() {
    let bed = Bed::new(1).await;
    // It runs once it serves.
    bed.client().write(1, 0, &bytes(10, 1)).await;
    let start = |config: Config| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = MapSource::Channel {
            maps: watch::Sender::new(mrc::OsdMap::default()).subscribe(),
            board: Arc::default(),
        };
        run_with(config, listener, source, async {})
            .await
            .unwrap_err()
            .to_string()
    };

    let in_use = start(bed.config(1)).await;
    assert!(in_use.contains("in use"), "{in_use}");

    let mut no_secret = bed.config(1);
    no_secret.secret_file = bed.root.path().join("nowhere");
    let no_secret = start(no_secret).await;
    assert!(no_secret.contains("nowhere"), "{no_secret}");

    let mut foreign = bed.config(1);
    foreign.dir = bed.root.path().to_owned();
    let foreign = start(foreign).await;
    assert!(foreign.contains("not empty"), "{foreign}");

    let mut config = bed.config(1);
    config.listen = bed.nodes[0].address.parse().unwrap();
    let taken = crate::run(config, async {}).await.unwrap_err().to_string();
    assert!(taken.contains("port"), "{taken}");
}
