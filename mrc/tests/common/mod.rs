//! Metadata servers in this process, each on a runtime of its own so that it can be killed, and a
//! client that finds the leader.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may fail anywhere"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mrc::{Config, MemberAddress, Space, SpaceProbe};
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{self as wire, Request, Response};
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, Role, ServiceKind, Wire};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use types::{ClusterId, Fault, Remedy, Secret};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xabc);
/// Far more than anything here takes: a busy disk was seen to hold up an fsync for half a minute.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

pub(crate) fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

/// Servers 1..=n; `None` while one is down.
pub(crate) struct Cluster {
    pub dir: TempDir,
    pub addresses: Vec<SocketAddr>,
    servers: Vec<Option<Running>>,
    /// How many of them formed the cluster; the others are configured with these and themselves.
    formed: usize,
    tune: fn(&mut Config),
    /// Bytes free on every server's disk, which has 1 TiB.
    pub free_bytes: Arc<AtomicU64>,
}

struct Running {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<(), mrc::Error>>,
}

pub(crate) fn config(dir: &Path, id: u64, addresses: &[SocketAddr]) -> Config {
    Config {
        cluster: CLUSTER.to_string(),
        secret_file: dir.join("secret"),
        id,
        listen: addresses[id as usize - 1],
        dir: dir.join(format!("mrc-{id}")),
        members: (1..)
            .zip(addresses)
            .map(|(id, address)| MemberAddress {
                id,
                address: address.to_string(),
            })
            .collect(),
        insecure_network: false,
        metrics_listen: None,
        wire: Wire::default(),
        log: shell::telemetry::DEFAULT_LOG.to_owned(),
        heartbeat_ms: 100,
        election_ms: 600,
        session_timeout_ms: 30_000,
        osd_timeout_ms: 3_000,
        rescue_grace_ms: 600_000,
        rebalance: false,
        index_cache_bytes: 4 << 20,
        flush_ms: 1_000,
        checkpoint_entries: 20_000,
        log_keep_entries: 50_000,
        log_segment_bytes: 1 << 20,
    }
}

impl Cluster {
    pub(crate) fn start(count: usize) -> Self {
        Self::start_tuned(count, |_| {})
    }

    pub(crate) fn start_tuned(count: usize, tune: fn(&mut Config)) -> Self {
        Self::start_some(count, count, tune)
    }

    /// The first `formed` of `count` servers; the others have addresses, and can be restarted.
    pub(crate) fn start_some(count: usize, formed: usize, tune: fn(&mut Config)) -> Self {
        // `RUST_LOG=info` shows what happened.
        shell::telemetry::init("off", None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_secret(dir.path());
        let listeners: Vec<_> = (0..count)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<_> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap())
            .collect();
        let mut cluster = Self {
            dir,
            addresses,
            servers: (0..count).map(|_| None).collect(),
            formed,
            tune,
            free_bytes: Arc::new(AtomicU64::new(1 << 40)),
        };
        for (id, listener) in (1..).zip(listeners).take(formed) {
            cluster.run(id, listener);
        }
        cluster
    }

    pub(crate) fn config(&self, id: u64) -> Config {
        let mut config = config(self.dir.path(), id, &self.addresses);
        let formed = self.formed as u64;
        config
            .members
            .retain(|member| member.id <= formed || member.id == id);
        (self.tune)(&mut config);
        config
    }

    fn run(&mut self, id: u64, listener: std::net::TcpListener) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let config = self.config(id);
        let free_bytes = Arc::clone(&self.free_bytes);
        let probe: SpaceProbe = Arc::new(move |_| {
            Ok(Space {
                capacity_bytes: 1 << 40,
                free_bytes: free_bytes.load(Ordering::Relaxed),
            })
        });
        runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            let result = mrc::run_on_disk(config, listener, probe, async {
                let _ = stopped.await;
            })
            .await;
            if let Err(error) = &result {
                eprintln!("server {id} ended: {error}");
            }
            let _ = end.send(result);
        });
        self.servers[id as usize - 1] = Some(Running {
            runtime,
            stop,
            ended,
        });
    }

    /// Starts a server that is down.
    pub(crate) fn restart(&mut self, id: u64) {
        let address = self.addresses[id as usize - 1];
        let deadline = Instant::now() + DEADLINE;
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => std::thread::yield_now(),
            }
        };
        self.wait_until_free(id);
        self.run(id, listener);
    }

    /// A server that was ended lets go of its directory when its last task is gone.
    pub(crate) fn wait_until_free(&self, id: u64) {
        let deadline = Instant::now() + DEADLINE;
        let dir = self.config(id).dir;
        while !is_free(&dir) {
            assert!(Instant::now() < deadline, "the directory stays locked");
            std::thread::yield_now();
        }
    }

    /// Ends a server without letting it do anything more.
    pub(crate) fn kill(&mut self, id: u64) {
        if let Some(server) = self.servers[id as usize - 1].take() {
            server.runtime.shutdown_background();
        }
    }

    /// Ends a server as its operator would.
    pub(crate) fn stop(&mut self, id: u64) -> Result<(), mrc::Error> {
        let server = self.servers[id as usize - 1].take().unwrap();
        let _ = server.stop.send(());
        let result = server.ended.blocking_recv().unwrap();
        server.runtime.shutdown_background();
        result
    }

    /// How a server ended by itself.
    pub(crate) fn ended(&mut self, id: u64) -> Result<(), mrc::Error> {
        let server = self.servers[id as usize - 1].take().unwrap();
        let result = server.ended.blocking_recv().unwrap();
        server.runtime.shutdown_background();
        result
    }

    /// Gives a server that is down another address, in the configurations of all that are started from
    /// now on.
    pub(crate) fn move_away(&mut self, id: u64) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        self.addresses[id as usize - 1] = listener.local_addr().unwrap();
    }

    pub(crate) fn wipe(&self, id: u64) {
        std::fs::remove_dir_all(self.dir_of(id)).unwrap();
    }

    pub(crate) fn dir_of(&self, id: u64) -> PathBuf {
        self.config(id).dir
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.addresses, Role::Mount, 1)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in 1..=self.servers.len() as u64 {
            self.kill(id);
        }
    }
}

/// Whether nobody has locked the directory, the log or the index in it.
fn is_free(dir: &Path) -> bool {
    let Ok(items) = std::fs::read_dir(dir) else {
        return true;
    };
    let log = std::fs::File::open(dir.join("log/LOCK"));
    if log.is_ok_and(|file| file.try_lock().is_err()) {
        return false;
    }
    items.flatten().all(|item| {
        let name = item.file_name().into_string().unwrap();
        let locked = name == "LOCK" || name.starts_with("index-");
        let free = |path| std::fs::File::open(path).is_ok_and(|file| file.try_lock().is_ok());
        !locked || free(item.path())
    })
}

pub(crate) fn write_secret(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("secret");
    std::fs::write(&path, secret().to_hex()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Asks until somebody answers for good.
pub(crate) struct Client {
    runtime: Runtime,
    links: Vec<Arc<Link>>,
    answered: AtomicU64,
    pub session: u64,
    pub slot_seq: u64,
}

impl Client {
    pub(crate) fn new(addresses: &[SocketAddr], role: Role, id: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let identity = Identity {
            cluster: CLUSTER,
            secret: secret(),
            role,
            id,
            wire: Wire::default(),
        };
        let links = {
            let _inside = runtime.enter();
            let open = |address: &SocketAddr| {
                let options = LinkOptions::default();
                Link::open(
                    identity.clone(),
                    ServiceKind::Mrc,
                    address.to_string(),
                    options,
                )
            };
            addresses.iter().map(open).collect()
        };
        Self {
            runtime,
            links,
            answered: AtomicU64::new(0),
            session: 0,
            slot_seq: 0,
        }
    }

    /// How many servers it knows.
    pub(crate) fn servers(&self) -> u64 {
        self.links.len() as u64
    }

    /// What one server says, whatever it is.
    pub(crate) fn ask_one(&self, server: u64, request: &Request) -> Result<Reply, CallError> {
        let link = &self.links[server as usize - 1];
        let timeout = Duration::from_secs(5);
        let call = link.call::<_, Response>(request, Payload::none(), timeout);
        let (response, _) = self.runtime.block_on(call)?;
        Ok(response.reply.expect("a reply"))
    }

    /// Asks all servers in turn until one answers or refuses for good.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply, Fault> {
        let deadline = Instant::now() + DEADLINE;
        let (all, first) = (self.servers(), self.answered.load(Ordering::Relaxed));
        for turn in 0.. {
            // Who is down is waited for, so the one that answered last comes first.
            let server = (first + turn) % all + 1;
            match self.ask_one(server, request) {
                Ok(reply) => {
                    self.answered.store(server - 1, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(CallError::Fault(fault))
                    if !matches!(fault.remedy, Remedy::Retry | Remedy::Redirect) =>
                {
                    return Err(fault);
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
        unreachable!("the cycle never ends")
    }

    pub(crate) fn read(&self, op: Op) -> Result<Reply, Fault> {
        self.ask(&Request {
            session: self.session,
            slot: 0,
            slot_seq: 0,
            forward: false,
            order: 0,
            op: Some(op),
        })
    }

    /// The next request of slot 0.
    pub(crate) fn next(&mut self, op: Op) -> Request {
        self.slot_seq += 1;
        Request {
            session: self.session,
            slot: 0,
            slot_seq: self.slot_seq,
            forward: false,
            order: 0,
            op: Some(op),
        }
    }

    pub(crate) fn change(&mut self, op: Op) -> Result<Reply, Fault> {
        let request = self.next(op);
        self.ask(&request)
    }

    /// A volume on one object server, and a session on it.
    pub(crate) fn open_volume(&mut self, osd: &Client) {
        self.open_volume_on(osd, heartbeat(1));
    }

    pub(crate) fn open_volume_on(&mut self, osd: &Client, beat: wire::OsdHeartbeat) {
        osd.read(Op::OsdHeartbeat(beat)).unwrap();
        let create = wire::VolumeCreate {
            name: "v".to_owned(),
            nonce: 5,
            ..wire::VolumeCreate::default()
        };
        self.read(Op::VolumeCreate(create)).unwrap();
        self.open_session(9);
    }

    pub(crate) fn open_session(&mut self, nonce: u64) {
        let open = wire::OpenSession {
            volume: "v".to_owned(),
            client: "test".to_owned(),
            mount_point: "/mnt".to_owned(),
            pid: 1,
            nonce,
        };
        let Reply::SessionOpened(opened) = self.read(Op::OpenSession(open)).unwrap() else {
            panic!("no session");
        };
        self.session = opened.session;
        self.slot_seq = 0;
    }

    /// Id of the leader, when all servers are up and agree.
    pub(crate) fn leader(&self) -> u64 {
        self.wait(|| {
            let Ok(Reply::ClusterStatus(status)) = self.read(Op::Status(wire::Status {})) else {
                return None;
            };
            let mrcs = || status.servers.iter().filter(|server| server.role == "mrc");
            let followers = mrcs().filter(|server| server.state == "follower").count();
            let leader = mrcs().find(|server| server.state == "leader")?;
            (followers + 1 == self.links.len()).then_some(leader.id)
        })
    }

    /// Polls until there is something.
    pub(crate) fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain");
            std::thread::yield_now();
        }
    }
}

pub(crate) fn heartbeat(osd: u64) -> wire::OsdHeartbeat {
    wire::OsdHeartbeat {
        osd,
        address: format!("127.0.0.1:{}", 40_000 + osd),
        store_uuid: format!("store-{osd}"),
        capacity_bytes: 1 << 30,
        free_bytes: 1 << 29,
        map_version: 0,
        pgs: Vec::new(),
        pid: 1,
        dir: "/osd".to_owned(),
        file_system: String::new(),
        location: String::new(),
        repaired_bytes: 0,
        pool: None,
        leftover_bytes: 0,
        store_failed: false,
    }
}

pub(crate) fn make_dir(name: &str) -> Op {
    Op::MkDir(wire::MkDir {
        parent: 1,
        name: name.as_bytes().to_vec().into(),
        mode: 0o755,
        owner: Some(wire::Owner { uid: 0, gid: 0 }),
    })
}

pub(crate) fn lookup(name: &str) -> Op {
    Op::Lookup(wire::Lookup {
        parent: 1,
        name: name.as_bytes().to_vec().into(),
    })
}

pub(crate) fn create(name: &str, write: bool) -> Op {
    Op::Create(wire::Create {
        parent: 1,
        name: name.as_bytes().to_vec().into(),
        mode: 0o644,
        owner: Some(wire::Owner { uid: 0, gid: 0 }),
        exclusive: true,
        write,
    })
}

pub(crate) fn inode_of(reply: Reply) -> u64 {
    match reply {
        Reply::Entry(entry) => entry.attr.unwrap().inode,
        Reply::Opened(opened) => opened.attr.unwrap().inode,
        other => panic!("no inode in {other:?}"),
    }
}
