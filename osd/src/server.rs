//! The object server as a whole: starts its parts in order and stops them in order.

mod start;
mod stop;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use lease_shell::LeaseShell;
use shell::link::{Identity, Role};
use shell::listen::{ListenError, bind};
use shell::statedir::{StateDir, StateDirError};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle as Task;

#[cfg(test)]
use crate::board::Board;
use crate::boot::{Boot, BootError};
use crate::config::{Config, ConfigError};
use crate::limits::raise_open_files;
use crate::pacer::Pacer;
use crate::pool_watch::PoolWatch;
use crate::reaper::Reaper;
#[cfg(test)]
use crate::seeding;
use crate::seeding::Senders;
use crate::shards::Shards;
use crate::store_root::Root;
use crate::sync_pool::SyncPool;

/// Why an object server could not start or did not stop in good order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The secret can't be used.
    #[error(transparent)]
    Secret(#[from] shell::config::ConfigError),
    /// The store directory can't be used.
    #[error(transparent)]
    Dir(#[from] StateDirError),
    /// The starts of the store can't be counted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The address can't be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The socket failed later.
    #[error(transparent)]
    Link(#[from] shell::link::LinkError),
    /// The lease settings contradict each other.
    #[error("`lease_ttl_ms`: {0}")]
    Lease(#[from] lease::ConfigError),
    /// A file operation of the store failed.
    #[error("can't {doing} {}: {cause}", path.display())]
    Store {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// The metadata servers don't take this server.
    #[error("{0}")]
    Refused(String),
    /// A thread can't be started.
    #[error("can't start a thread: {0}; check the limits of the service")]
    Thread(#[source] io::Error),
}

/// Where maps come from.
pub(crate) enum MapSource {
    /// The metadata cluster.
    Metadata,
    /// A channel of tests, which look at the board themselves.
    #[cfg(test)]
    Channel {
        /// The newest map.
        maps: watch::Receiver<proto::mrc::OsdMap>,
        /// Where the states of groups are noted.
        board: Arc<Board>,
        /// How fast copies are brought up.
        pacer: Pacer,
        /// How groups came as a whole.
        seed_counts: Arc<seeding::Counts>,
    },
}

/// Votes that a run leaves to the next, in the state directory.
const LEASES: &str = "LEASES";

/// Serves until `shutdown`, then makes everything clean, releases the leases and returns.
///
/// # Errors
///
/// [`Error`]; each message says what to do.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let config = config.validated()?;
    raise_open_files();
    let listener = bind(config.listen).await?;
    run_with(config, listener, MapSource::Metadata, shutdown).await
}

pub(crate) async fn run_with(
    config: Config,
    listener: TcpListener,
    maps: MapSource,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let cluster = config.cluster_id()?;
    let secret = shell::config::load_secret(&config.secret_file)?;
    let identity = Identity {
        cluster,
        secret: secret.clone(),
        role: Role::Osd,
        id: config.id,
        wire: config.wire.clone(),
    };
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let listeners = (listener, metrics_listener);
    let running = Running::start(&config, identity, secret, listeners, maps)?;
    let failure = tokio::select! {
        () = shutdown => None,
        failure = running.failed() => failure,
    };
    let stopped = running.stop().await;
    match failure {
        Some(Failure::Refused(why)) => Err(Error::Refused(why)),
        Some(Failure::Socket) | None => stopped,
    }
}

/// Why a server can't go on.
#[derive(Clone, Debug)]
enum Failure {
    /// The listening socket failed; it says why when it is asked to end.
    Socket,
    /// The metadata servers don't want it.
    Refused(String),
}

/// Everything that runs. Dropped without [`Running::stop`], it ends at once, as in a crash.
struct Running {
    boot: Boot,
    root: Arc<Root>,
    shards: Shards,
    leases: Arc<LeaseShell>,
    pool: Arc<SyncPool>,
    reaper: Arc<Reaper>,
    watch: Option<PoolWatch>,
    threads: Vec<JoinHandle<()>>,
    tasks: Vec<Task<()>>,
    server: Task<Result<(), shell::link::LinkError>>,
    stop_server: Option<oneshot::Sender<()>>,
    pacer: Pacer,
    senders: Arc<Senders>,
    failed: watch::Receiver<Option<Failure>>,
    /// Last: the directory is unlocked when nothing uses it any more.
    dir: StateDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.server.abort();
        self.leases.halt();
        self.shards.close();
        self.pool.stop();
        self.reaper.stop();
        self.watch = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
