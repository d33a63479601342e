//! The object server as a whole: starts its parts in order and stops them in order.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use lease::{Host, Saved};
use lease_shell::{LeaseDoor, LeaseShell};
use shell::clock::{boottime, wall};
use shell::link::{Identity, LinkOptions, Role, Server, ServiceKind};
use shell::listen::{ListenError, bind};
use shell::statedir::{Owner, StateDir, StateDirError, replace_file};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle as Task;
use types::{MemberId, ObjectId, Secret};

use crate::board::Board;
use crate::boot::{Boot, BootError};
use crate::budget::Budget;
use crate::cluster::Wall;
use crate::cluster_clock::ClusterClock;
use crate::config::{Config, ConfigError, MAPS_MAX, SHUTDOWN_TIME};
use crate::file_io::is_no_space;
use crate::forward::Forwarder;
use crate::heartbeats::Heartbeats;
use crate::leftovers::Leftovers;
use crate::limits::raise_open_files;
use crate::listing::Lister;
use crate::map::{self, Map};
use crate::map_keeper::MapKeeper;
use crate::metadata::MetadataClient;
use crate::pacer::Pacer;
use crate::peer::{PeerDoor, Peers};
use crate::pool_watch::PoolWatch;
use crate::reaper::Reaper;
use crate::recovery::Recovery;
use crate::scrub::{self, Scrub};
use crate::service::OsdDoor;
use crate::shard::Surroundings;
use crate::shards::Shards;
use crate::store_root::{Place, Root};
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
    },
}

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

impl Running {
    #[expect(
        clippy::too_many_lines,
        reason = "one step after the other, each named"
    )]
    fn start(
        config: &Config,
        identity: Identity,
        secret: Secret,
        (listener, metrics_listener): (TcpListener, Option<TcpListener>),
        maps: MapSource,
    ) -> Result<Self, Error> {
        let me = config.osd();
        let owner = Owner {
            cluster: identity.cluster,
            role: Role::Osd,
            id: config.id,
        };
        let dir = StateDir::open(&config.dir, owner, |dir| {
            !map::is_there(dir) && !Root::holds_groups(dir)
        })?;
        let boot = Boot::count(dir.path(), Root::exists(dir.path()), wall())?;
        let store = |doing| {
            let path = dir.path().to_owned();
            move |cause| Error::Store { doing, path, cause }
        };
        let root = match config.dataset()? {
            None => Root::open(dir.path()),
            Some(dataset) => {
                let place = Place {
                    dataset,
                    cluster: identity.cluster,
                    store_uuid: dir.store_uuid().to_owned(),
                };
                Root::open_on(dir.path(), place)
            }
        };
        let root = Arc::new(root.map_err(store("open the store in"))?);
        let watch = PoolWatch::start(&root).map_err(Error::Thread)?;
        let lease_config = lease::Config {
            ttl: config.lease_ttl(),
            phase_max: config.lease_ttl().scaled(1, 3),
            retransmit: config.lease_ttl().scaled(1, 15),
            ..lease::Config::default()
        }
        .validated()?;
        let host = Host::new(
            MemberId(me.0),
            lease_config,
            boottime(),
            boot.number(),
            rand::random(),
            take_saved(dir.path()).map_err(store("use the saved leases in"))?,
        );

        let shards = Shards::new(config.shards);
        let map_wanted = Arc::new(Notify::new());
        let (news, wanted) = (shards.clone(), Arc::clone(&map_wanted));
        let on_news = move |events: &[lease::Event]| {
            let is_old = |event: &lease::Event| matches!(event, lease::Event::OldView { .. });
            if events.iter().any(is_old) {
                wanted.notify_one();
            }
            news.lease_news(events);
        };
        let (users, patience) = (shards.clone(), config.shard_patience());
        let may_renew = move |cell| !users.is_stuck(ObjectId::of_cell(cell), boottime(), patience);
        let (leases, lease_thread) =
            LeaseShell::start_watched(host, Box::new(on_news), Box::new(may_renew))
                .map_err(Error::Thread)?;
        let (pool, mut threads) =
            SyncPool::start(Arc::clone(&root), config.sync_threads).map_err(Error::Thread)?;
        threads.push(lease_thread);
        let (reaper, reaper_thread) = Reaper::start(Arc::clone(&root)).map_err(Error::Thread)?;
        threads.push(reaper_thread);
        let board = match &maps {
            MapSource::Metadata => Arc::new(Board::default()),
            #[cfg(test)]
            MapSource::Channel { board, .. } => Arc::clone(board),
        };
        let pacer = Pacer::default();
        let around = Surroundings {
            me,
            config: config.replica(),
            root: Arc::clone(&root),
            leases: Arc::clone(&leases),
            pool: Arc::clone(&pool),
            reaper: Arc::clone(&reaper),
            board: Arc::clone(&board),
            pacer: pacer.clone(),
            map_wanted: Arc::clone(&map_wanted),
        };
        threads.extend(shards.start(&around).map_err(Error::Thread)?);

        let wall = Arc::new(Wall::default());
        let recovery = Recovery::new(
            me,
            config.replica().trust_grace,
            Arc::clone(&board),
            pacer.clone(),
        );
        let lister = Lister::new(Arc::clone(&root), shards.clone());
        let moved = Arc::new(Notify::new());
        let keeper = MapKeeper {
            me,
            dir: dir.path().to_owned(),
            trusted: boot.was_clean(),
            new_store: dir.is_new(),
            wall: Arc::clone(&wall),
            shards: shards.clone(),
            leases: Arc::clone(&leases),
            reaper: Arc::clone(&reaper),
            board: Arc::clone(&board),
            recovery: Arc::clone(&recovery),
            peers: Peers::new(me, identity.clone(), shards.clone(), Arc::clone(&recovery)),
            moved: Arc::clone(&moved),
            map: Map::default(),
            incomplete: BTreeSet::new(),
        };
        let (failing, failed) = watch::channel(None);
        let (map_sender, map_receiver) = mpsc::channel(MAPS_MAX);
        let republish = Arc::new(Notify::new());
        let on_recovered = {
            let republish = Arc::clone(&republish);
            move || republish.notify_one()
        };
        let on_full = {
            let report = Arc::clone(&map_wanted);
            move || report.notify_one()
        };
        let address = listener.local_addr().unwrap_or(config.listen).to_string();
        let mut tasks = vec![
            tokio::spawn(pacer.clone().run()),
            tokio::spawn(keeper.run(map_receiver, republish)),
            tokio::spawn(recovery.run(
                Arc::clone(&wall),
                Arc::clone(&lister),
                shards.clone(),
                on_recovered,
                on_full,
            )),
        ];
        let scrub = Scrub::new(
            config,
            dir.path().to_owned(),
            scrub::Surroundings {
                root: Arc::clone(&root),
                lister: Arc::clone(&lister),
                wall: Arc::clone(&wall),
                shards: shards.clone(),
                board: Arc::clone(&board),
            },
        );
        tasks.push(tokio::spawn(Arc::clone(&scrub).run()));
        let clock = Arc::new(ClusterClock::default());
        match maps {
            MapSource::Metadata => {
                let heartbeats = Heartbeats {
                    osd: me,
                    address,
                    store_uuid: dir.store_uuid().to_owned(),
                    dir: dir.path().to_owned(),
                    location: config.location.clone(),
                    interval: Duration::from_millis(config.heartbeat_ms),
                    root: Arc::clone(&root),
                    board: Arc::clone(&board),
                    wall: Arc::clone(&wall),
                    clock: Arc::clone(&clock),
                    pacer: pacer.clone(),
                    wanted: Arc::clone(&map_wanted),
                };
                let client = MetadataClient::new(identity.clone(), &config.mrc).kept_in(dir.path());
                let leftovers = Leftovers {
                    osd: me,
                    interval: Duration::from_millis(config.leftovers_ms),
                    root: Arc::clone(&root),
                    client: client.clone(),
                    moved,
                };
                tasks.push(tokio::spawn(leftovers.run()));
                let refused = failing.clone();
                tasks.push(tokio::spawn(async move {
                    let why = heartbeats.run(client, map_sender).await;
                    let _ = refused.send(Some(Failure::Refused(why)));
                }));
            }
            #[cfg(test)]
            MapSource::Channel { mut maps, .. } => tasks.push(tokio::spawn(async move {
                loop {
                    let map = maps.borrow_and_update().clone();
                    if map_sender.send(map).await.is_err() || maps.changed().await.is_err() {
                        return;
                    }
                }
            })),
        }

        let server = Server::new(identity.clone());
        let budget = Budget::new(config.limits.request_bytes_max);
        let metrics: shell::metrics::Source = {
            let (leases, refusals) = (Arc::clone(&leases), server.refusals());
            let (root, board) = (Arc::clone(&root), Arc::clone(&board));
            let scrub = Arc::clone(&scrub);
            let (shards, budget, pacer) = (shards.clone(), Arc::clone(&budget), pacer.clone());
            let (served, wire) = (server.served(), identity.wire.clone());
            let services = [ServiceKind::Osd, ServiceKind::Peer, ServiceKind::Lease];
            Arc::new(move || {
                let mut all = lease_shell::metrics(&leases);
                all.extend(root.metrics());
                all.extend(board.lag_metrics());
                all.extend(scrub.metrics());
                all.extend(pacer.metrics());
                all.extend(served.metrics(&services));
                all.extend(wire.counts().metrics(LinkOptions::default().in_flight_max));
                all.extend(shards.metrics());
                all.extend(budget.metrics());
                all.extend(refusals.metrics());
                all
            })
        };
        if let Some(listener) = metrics_listener {
            let source = Arc::clone(&metrics);
            tasks.push(tokio::spawn(async move {
                match shell::metrics::serve(listener, source).await {}
            }));
        }
        let (stop_server, stopped) = oneshot::channel::<()>();
        let serving = server
            .service(
                ServiceKind::Osd,
                Arc::new(OsdDoor {
                    me,
                    budget,
                    cluster: identity.cluster,
                    secret,
                    wall: Arc::clone(&wall),
                    clock,
                    shards: shards.clone(),
                    leases: Arc::clone(&leases),
                    metrics,
                    metrics_address: config
                        .metrics_listen
                        .map_or_else(String::new, |address| address.to_string()),
                    map_wanted: Arc::clone(&map_wanted),
                    forwarder: Forwarder::new(identity.clone()),
                    scrub,
                }),
            )
            .service(
                ServiceKind::Peer,
                Arc::new(PeerDoor {
                    shards: shards.clone(),
                    wall: Arc::clone(&wall),
                    map_wanted: Arc::clone(&map_wanted),
                    lister,
                    scrub: scrub::Answers::new(Arc::clone(&root)),
                    runtime: tokio::runtime::Handle::current(),
                }),
            )
            .service(ServiceKind::Lease, Arc::new(LeaseDoor(Arc::clone(&leases))));
        let server = tokio::spawn(async move {
            let result = serving
                .serve(listener, async {
                    let _ = stopped.await;
                })
                .await;
            let _ = failing.send(Some(Failure::Socket));
            result
        });
        tracing::info!(osd = %me, boot = boot.number(), clean = boot.was_clean(), "object server runs");
        Ok(Self {
            boot,
            root,
            shards,
            leases,
            pool,
            reaper,
            watch,
            threads,
            tasks,
            server,
            stop_server: Some(stop_server),
            pacer,
            failed,
            dir,
        })
    }

    /// Returns once the server can't go on.
    async fn failed(&self) -> Option<Failure> {
        let mut failed = self.failed.clone();
        let failure = failed.wait_for(Option::is_some).await;
        failure.ok().and_then(|failure| failure.clone())
    }

    async fn stop(mut self) -> Result<(), Error> {
        tracing::info!("stopping: making all objects clean");
        self.pacer.let_go();
        let clean = self.shards.shut_down();
        if tokio::time::timeout(SHUTDOWN_TIME, clean).await.is_err() {
            tracing::warn!(
                "some objects could not be made clean in time; they are compared at the next start"
            );
        }
        let saved = self.leases.stop();
        if let Some(stop) = self.stop_server.take() {
            let _ = stop.send(());
        }
        let served = (&mut self.server).await;
        let finished = tokio::task::spawn_blocking(move || self.finish(saved));
        match finished.await {
            Ok(result) => result?,
            Err(error) => return Err(Error::Thread(io::Error::other(error))),
        }
        match served {
            Ok(result) => Ok(result?),
            Err(error) => Err(Error::Thread(io::Error::other(error))),
        }
    }

    /// Ends the threads and leaves the store so that the next start trusts it.
    fn finish(mut self, saved: Option<Saved>) -> Result<(), Error> {
        self.shards.close();
        self.pool.stop();
        self.reaper.stop();
        self.watch = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if self.root.is_poisoned() {
            // Nobody knows what is stable, so nothing may be called clean.
            return Ok(());
        }
        let path = self.dir.path();
        let failed = |doing| {
            move |cause| Error::Store {
                doing,
                path: path.to_owned(),
                cause,
            }
        };
        self.root.sync_all().map_err(failed("sync the store in"))?;
        if let Some(saved) = saved {
            match replace_file(&path.join(LEASES), &saved.encode()) {
                // Without them the next start keeps quiet for a lease time.
                Err(error) if is_no_space(&error) => {
                    tracing::warn!(%error, "the leases are not saved");
                }
                saved => saved.map_err(failed("save the leases in"))?,
            }
        }
        let forgotten = self.root.forget_failure();
        forgotten.map_err(failed("forget the failed write in"))?;
        self.boot.mark_clean()?;
        Ok(())
    }
}

/// Reads the votes of the last run and removes them durably: they may be used once.
fn take_saved(dir: &Path) -> io::Result<Option<Saved>> {
    let path = dir.join(LEASES);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    fs::remove_file(&path)?;
    fs::File::open(dir)?.sync_all()?;
    match Saved::decode(&bytes) {
        Ok(saved) => Ok(Some(saved)),
        Err(error) => {
            tracing::warn!(%error, "starting without the saved leases");
            Ok(None)
        }
    }
}
