//! A metadata server from start to end.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mrc_core::IndexError;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use shell::link::{Identity, Role, Server, ServiceKind};
use shell::statedir::{Owner, StateDir};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{Config, ConfigError, DRAIN_INTERVAL};
use crate::cushion::Cushion;
use crate::damage::Damage;
use crate::disk::{self, Disk, SpaceProbe};
use crate::door::{Door, Service};
use crate::farewell;
use crate::index_buffer::BufferedIndex;
use crate::index_file::IndexFile;
use crate::janitor;
use crate::log_dir::{self, LogError};
use crate::log_store::LogStore;
use crate::membership;
use crate::metrics;
use crate::node::{Node, Silence, raft_config};
use crate::raft_door::RaftDoor;
use crate::raft_link::Peers;
use crate::redundancy;
use crate::slow_disk;
use crate::state_machine::StateMachine;

/// Why a metadata server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The secret's file can't be used.
    #[error(transparent)]
    Secret(#[from] shell::config::ConfigError),
    /// The directory is someone else's, in use, or unreadable.
    #[error(transparent)]
    Directory(#[from] shell::statedir::StateDirError),
    /// The address can't be listened on.
    #[error(transparent)]
    Listen(#[from] shell::listen::ListenError),
    /// The log can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The index can't be used.
    #[error("index {}: {source}; remove this server's directory and start it again: it gets everything from the other metadata servers", path.display())]
    Index {
        /// Its file.
        path: PathBuf,
        /// What the engine said.
        source: IndexError,
    },
    /// The index lacks entries that the log does not have any more.
    #[error(
        "index {} ends at entry {applied}, but the log begins behind entry {purged}; remove this server's directory and start it again: it gets everything from the other metadata servers",
        path.display()
    )]
    Gap {
        /// File of the index.
        path: PathBuf,
        /// Last entry applied; 0 if none.
        applied: u64,
        /// Last entry purged.
        purged: u64,
    },
    /// A page of the index or a record of the log is not what was written.
    #[error(
        "{0}; check the disk, remove this server's directory and start it again: it gets everything from the other metadata servers"
    )]
    Damaged(String),
    /// Writing the log failed; what was being written may be lost, so the server stops.
    #[error("writing the log failed ({0}); check the disk, then start the server again")]
    LogWrite(String),
    /// Flushing the index failed; what a checkpoint promises can't be kept.
    #[error("writing the index failed ({0}); check the disk, then start the server again")]
    IndexWrite(String),
    /// The cluster goes on without this server.
    #[error("{0}")]
    Removed(String),
    /// Raft stopped.
    #[error("the consensus core stopped: {0}")]
    Raft(String),
    /// The listening socket failed.
    #[error(transparent)]
    Link(#[from] shell::link::LinkError),
}

/// Runs a metadata server until `shutdown` is done or it has to stop.
///
/// # Errors
///
/// [`Error`]: each is one sentence that names what to change.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let config = config.validated()?;
    let listener = shell::listen::bind(config.listen).await?;
    run_on(config, listener, shutdown).await
}

/// As [`run`], with a socket that listens already.
///
/// # Errors
///
/// As [`run`].
pub async fn run_on(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    run_on_disk(config, listener, disk::probe(), shutdown).await
}

/// As [`run_on`], told by `probe` how much of the disk is free.
///
/// # Errors
///
/// As [`run`].
pub async fn run_on_disk(
    config: Config,
    listener: TcpListener,
    probe: SpaceProbe,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let config = config.validated()?;
    let cluster = config.cluster_id()?;
    let secret = shell::config::load_secret(&config.secret_file)?;
    let owner = Owner {
        cluster,
        role: Role::Mrc,
        id: config.id,
    };
    let log_path = config.dir.join("log");
    let dir = StateDir::open(&config.dir, owner, |_| log_dir::is_unused(&log_path))?;
    if dir.is_new() {
        // Its number in Raft was told in another server's name.
        log_dir::remove_unused(&log_path)?;
    }
    let identity = Identity {
        cluster,
        secret,
        role: Role::Mrc,
        id: config.id,
        wire: config.wire.clone(),
    };
    let disk = Arc::new(Disk::new(&config.dir, probe));
    let running = start(&config, &identity, disk).await?;
    running.serve(&config, identity, listener, shutdown).await
}

/// A server whose Raft runs but that nobody reaches yet.
struct Running {
    node: Arc<Node>,
    silence: Silence,
    disk: Arc<Disk>,
}

async fn start(config: &Config, identity: &Identity, disk: Arc<Disk>) -> Result<Running, Error> {
    let log_path = config.dir.join("log");
    let log = LogStore::open(&log_path, config.log_segment_bytes, crate::draw())?;
    let damage = log.damage();
    let path = config.dir.join(format!("index-{:016x}", log.number()));
    let unusable = |source: IndexError| match damage.first() {
        Some(what) => Error::Damaged(what),
        None => Error::Index {
            path: path.clone(),
            source,
        },
    };
    let index = open_index(config, &path, damage).map_err(unusable)?;
    let machine = StateMachine::new(index).map_err(|error| unusable(IndexError::engine(error)))?;
    let applied = machine.applied().map(|id| id.index);
    if let Some(purged) = log.purged()
        && applied.is_none_or(|applied| applied < purged.index)
    {
        return Err(Error::Gap {
            path,
            applied: applied.unwrap_or(0),
            purged: purged.index,
        });
    }
    let silence = if log.promised_nothing() {
        Silence::none()
    } else {
        Silence::after_restart(config.lease())
    };
    let peers = Peers::new(identity.clone());
    let raft_config = raft_config(config).map_err(|error| Error::Raft(error.to_string()))?;
    let raft = Raft::new(
        log.number(),
        Arc::new(raft_config),
        peers.clone(),
        log.clone(),
        machine.clone(),
    )
    .await
    .map_err(|error| Error::Raft(error.to_string()))?;
    Ok(Running {
        node: Node::new(raft, log, machine, peers, config),
        silence,
        disk,
    })
}

/// The index belongs to the log of the same number; one of another log is what a lost log left.
fn open_index(
    config: &Config,
    path: &Path,
    damage: &Damage,
) -> Result<Arc<BufferedIndex>, IndexError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for item in std::fs::read_dir(&config.dir)
        .into_iter()
        .flatten()
        .flatten()
    {
        let other = item.file_name();
        let other = other.to_string_lossy();
        if other.starts_with("index-") && !other.starts_with(&*name) {
            tracing::warn!(file = %item.path().display(), "removing the index of a log that is gone");
            let _kept = std::fs::remove_file(item.path());
        }
    }
    let file = IndexFile {
        path: path.to_owned(),
        cushion: Cushion::at(&config.dir),
        cache_bytes: config.index_cache_bytes,
        damage: damage.clone(),
    };
    let index = Box::new(file.open()?);
    Ok(Arc::new(BufferedIndex::new(index, damage.clone())))
}

impl Running {
    async fn serve(
        self,
        config: &Config,
        identity: Identity,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let node = self.node;
        let service = Service::new(Arc::clone(&node), config.clone(), &identity, self.disk);
        let raft_door = RaftDoor::new(Arc::clone(&node), config.dir.clone(), self.silence);
        let (stop, stopped) = watch::channel(false);
        let server = Server::new(identity.clone())
            .service(ServiceKind::Mrc, Arc::new(Door(Arc::clone(&service))))
            .service(ServiceKind::Raft, Arc::new(raft_door));
        let metrics_listener = match config.metrics_listen {
            Some(address) => Some(shell::listen::bind(address).await?),
            None => None,
        };
        let numbers = metrics::source(&service, &identity, &server);
        let _first = service.numbers.set(Arc::clone(&numbers));
        let mut ended = stopped.clone();
        let serving = server.serve(listener, async move {
            let _gone = ended.wait_for(|stopped| *stopped).await;
        });
        let serve_metrics = |listener| tokio::spawn(shell::metrics::serve(listener, numbers));
        let metrics = metrics_listener.map(serve_metrics);
        let background = tokio::spawn(background(
            Arc::clone(&service),
            identity,
            self.silence,
            stopped,
        ));
        let mut serving = std::pin::pin!(serving);
        let result = tokio::select! {
            result = &mut serving => result.map_err(Error::from),
            error = failure(&node) => Err(error),
            () = shutdown => Ok(()),
        };
        let result = match result {
            // What comes meanwhile is served, or sent on to who leads then.
            Ok(()) => tokio::select! {
                () = farewell::hand_over_lead(&node) => Ok(()),
                ended = &mut serving => ended.map_err(Error::from),
            },
            failed => failed,
        };
        let _gone = stop.send(true);
        background.abort();
        if let Some(metrics) = metrics {
            metrics.abort();
        }
        let _ended = node.raft.shutdown().await;
        let flushed = node.machine.flush().await;
        if let Err(error) = flushed {
            tracing::warn!(%error, "could not flush the index; the next start repeats some of the log");
        }
        if result.is_ok() {
            // Errors of connections that are cut off now concern nobody.
            let _ended = tokio::time::timeout(Duration::from_secs(2), serving).await;
        }
        result
    }
}

/// Everything that happens by itself.
async fn background(
    service: Arc<Service>,
    identity: Identity,
    silence: Silence,
    stopped: watch::Receiver<bool>,
) {
    let node = Arc::clone(&service.node);
    let configured = service.config.addresses();
    let elections = async {
        silence.over().await;
        node.raft.runtime_config().elect(true);
        membership::belong(&node, &configured).await
    };
    let moved = membership::find_moved(&node, &configured);
    let flushes = flush_regularly(&node, service.config.flush_ms);
    let janitor = janitor::run(Arc::clone(&service), identity, stopped);
    let drains = drain_regularly(&node);
    let disk = disk::watch(Arc::clone(&node), Arc::clone(&service.disk));
    let leader = membership::tell_leader(&node);
    let redundancy = redundancy::run(Arc::clone(&service));
    let slow_disk = slow_disk::watch(Arc::clone(&node));
    tokio::join!(
        elections, moved, flushes, drains, janitor, redundancy, disk, leader, slow_disk
    );
}

async fn drain_regularly(node: &Node) {
    let events = node.machine.events();
    loop {
        tokio::select! {
            () = tokio::time::sleep(DRAIN_INTERVAL) => {}
            () = events.drain.notified() => {}
        }
        // A failure stops the server: see `failure`.
        let _failed = node.machine.drain().await;
    }
}

async fn flush_regularly(node: &Node, flush_ms: u64) {
    let events = node.machine.events();
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(flush_ms)) => {}
            () = events.flush.notified() => {}
        }
        // A failure stops the server: see `failure`.
        let _failed = node.machine.flush().await;
    }
}

/// Ends when the server must.
async fn failure(node: &Node) -> Error {
    let error = first_failure(node).await;
    // Whatever else fails then fails of it.
    node.log.damage().first().map_or(error, Error::Damaged)
}

async fn first_failure(node: &Node) -> Error {
    let mut damage = node.log.damage().watch();
    let mut log = node.log.failure();
    let mut index = node.machine.failure();
    let mut metrics = node.raft.metrics();
    let mut removed = node.removed.subscribe();
    loop {
        tokio::select! {
            removed = removed.wait_for(Option::is_some) => {
                let why = removed.ok().and_then(|why| why.clone());
                return Error::Removed(why.unwrap_or_default());
            }
            damage = damage.wait_for(Option::is_some) => {
                let what = damage.ok().and_then(|what| what.clone());
                return Error::Damaged(what.unwrap_or_default());
            }
            changed = index.changed() => {
                let reason = index.borrow().clone();
                if changed.is_err() || reason.is_some() {
                    return Error::IndexWrite(reason.unwrap_or_default());
                }
            }
            changed = log.changed() => {
                let reason = log.borrow().clone();
                if changed.is_err() || reason.is_some() {
                    return Error::LogWrite(reason.unwrap_or_default());
                }
            }
            changed = metrics.changed() => {
                let state = metrics.borrow_watched().running_state.clone();
                if let Some(failed) = log.borrow().clone() {
                    return Error::LogWrite(failed);
                }
                match state {
                    Err(fatal) => return Error::Raft(fatal.to_string()),
                    Ok(()) if changed.is_err() => return Error::Raft("it ended".to_owned()),
                    Ok(()) => {}
                }
            }
        }
    }
}
