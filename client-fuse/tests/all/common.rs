//! A cluster in this process: the real metadata core without Raft, and object servers that keep
//! one shared copy in memory. What the network and the servers do to a mount can be arranged.

mod metadata;
mod objects;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use client_fuse::{Caller, ConnectOptions, Flags, MountOptions, NewFile, OxFs};
use shell::link::{Handler, Identity, Role, Server, ServiceKind, Wire};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use types::{ClusterId, Secret};

pub(crate) use metadata::Metadata;
pub(crate) use objects::{Mood, Objects};

pub(crate) const CLUSTER: ClusterId = ClusterId(0x1234);
pub(crate) const ROOT: u64 = 1;

pub(crate) fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

pub(crate) struct Cluster {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) addresses: Vec<String>,
    stops: Vec<oneshot::Sender<()>>,
}

impl Cluster {
    /// One metadata server, three object servers, one volume "default".
    pub(crate) async fn start() -> Self {
        let mut stops = Vec::new();
        let objects = Arc::new(Objects::default());
        let mut osds = Vec::new();
        for osd in 1..=3 {
            let handler = Arc::new(objects::Osd::new(osd, objects.clone()));
            let (address, stop) = serve(Role::Osd, osd, ServiceKind::Osd, handler).await;
            osds.push((osd, address));
            stops.push(stop);
        }
        let metadata = Arc::new(Metadata::new(&osds));
        let handler = metadata.clone();
        let (address, stop) = serve(Role::Mrc, 1, ServiceKind::Mrc, handler).await;
        stops.push(stop);
        Self {
            metadata,
            objects,
            addresses: vec![address],
            stops,
        }
    }

    /// Adds a metadata server that mounts ask first; returns how to cut it off from the others.
    pub(crate) async fn add_former_leader(&mut self) -> Arc<AtomicBool> {
        let cut_off = Arc::new(AtomicBool::new(false));
        let handler = Arc::new(metadata::Former {
            metadata: self.metadata.clone(),
            cut_off: cut_off.clone(),
        });
        let (address, stop) = serve(Role::Mrc, 2, ServiceKind::Mrc, handler).await;
        self.addresses.insert(0, address);
        self.stops.push(stop);
        cut_off
    }

    pub(crate) fn connect_options(&self) -> ConnectOptions {
        ConnectOptions {
            addresses: self.addresses.clone(),
            volume: "default".to_owned(),
            cluster: CLUSTER,
            secret: secret(),
            mount_point: None,
            soft: None,
            connect_timeout: Duration::from_secs(10),
            read_ahead_age: Duration::from_millis(100),
            wire: Wire::default(),
        }
    }

    pub(crate) async fn client(&self) -> OxFs {
        OxFs::connect(self.connect_options()).await.unwrap()
    }

    pub(crate) async fn mount(&self) -> Mounted {
        self.mount_with(Flags::default()).await
    }

    pub(crate) async fn mount_with(&self, flags: Flags) -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        let options = MountOptions {
            addresses: self.addresses.clone(),
            volume: "default".to_owned(),
            mount_point: dir.path().to_owned(),
            cluster: CLUSTER,
            secret: secret(),
            flags,
            wire: Wire::default(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let task = tokio::spawn(client_fuse::mount_and_tell(
            options,
            async {
                let _ = stopped.await;
            },
            || {
                let _ = tell.send(());
            },
        ));
        if told.await.is_err() {
            panic!("{:?}", task.await);
        }
        Mounted {
            dir,
            running: Some((stop, task)),
        }
    }
}

type Running = (
    oneshot::Sender<()>,
    tokio::task::JoinHandle<Result<(), client_fuse::MountError>>,
);

pub(crate) struct Mounted {
    dir: tempfile::TempDir,
    running: Option<Running>,
}

impl Mounted {
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub(crate) async fn unmount(mut self) {
        if let Some((stop, task)) = self.running.take() {
            let _ = stop.send(());
            task.await.unwrap().unwrap();
        }
    }
}

impl Drop for Mounted {
    /// A test that failed leaves no mount behind.
    fn drop(&mut self) {
        if self.running.is_some() {
            let mut umount = std::process::Command::new("umount");
            let _ = umount.arg("-l").arg(self.dir.path()).status();
        }
    }
}

async fn serve(
    role: Role,
    id: u64,
    service: ServiceKind,
    handler: Arc<dyn Handler>,
) -> (String, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let identity = Identity {
        cluster: CLUSTER,
        secret: secret(),
        role,
        id,
        wire: Wire::default(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::new(identity).service(service, handler);
    tokio::spawn(async move {
        let ended = async {
            let _ = stopped.await;
        };
        server.serve(listener, ended).await.unwrap();
    });
    (address, stop)
}

/// Runs file system calls of a program off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub(crate) async fn create(fs: &OxFs, name: &str) -> (u64, u64) {
    let new = NewFile {
        mode: 0o644,
        flags: libc::O_RDWR | libc::O_CREAT,
        owner: Caller::default(),
    };
    let name = Bytes::copy_from_slice(name.as_bytes());
    let (attr, handle) = fs.create(ROOT, name, new).await.unwrap();
    (attr.inode, handle)
}

/// Reads a whole file of a mount.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Waits for something that other tasks bring about.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
