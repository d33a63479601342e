//! Starting an object server: what there is, and who knows whom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lease::Host;
use lease_shell::{LeaseDoor, LeaseShell};
use shell::clock::{boottime, wall};
use shell::link::{Identity, LinkOptions, Role, Server, ServiceKind};
use shell::statedir::{Owner, StateDir};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use types::{MemberId, ObjectId, Secret};

use super::stop::take_saved;
use super::{Error, Failure, MapSource, Running};
use crate::board::Board;
use crate::boot::Boot;
use crate::budget::Budget;
use crate::cluster::Wall;
use crate::cluster_clock::ClusterClock;
use crate::config::{Config, MAPS_MAX};
use crate::forward::Forwarder;
use crate::heartbeats::Heartbeats;
use crate::leftovers::Leftovers;
use crate::listing::Lister;
use crate::map::{self, Map};
use crate::map_keeper::MapKeeper;
use crate::metadata::MetadataClient;
use crate::moved::Moved;
use crate::pacer::Pacer;
use crate::peer::{PeerDoor, Peers};
use crate::pool_watch::PoolWatch;
use crate::reaper::Reaper;
use crate::recovery::Recovery;
use crate::scrub::{self, Scrub};
use crate::seeding::{self, Seeding, Senders};
use crate::service::OsdDoor;
use crate::shard::Surroundings;
use crate::shards::Shards;
use crate::size_counter::SizeCounter;
use crate::store_root::{Place, Root};
use crate::sync_pool::SyncPool;

impl Running {
    #[expect(
        clippy::too_many_lines,
        reason = "one step after the other, each named"
    )]
    pub(super) fn start(
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
        let (board, pacer, seed_counts) = match &maps {
            MapSource::Metadata => (Arc::new(Board::default()), Pacer::default(), Arc::default()),
            #[cfg(test)]
            MapSource::Channel {
                board,
                pacer,
                seed_counts,
                ..
            } => (Arc::clone(board), pacer.clone(), Arc::clone(seed_counts)),
        };
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
        let seeding = Seeding::new(
            seeding::Worth::of(config),
            seeding::Surroundings {
                me,
                root: Arc::clone(&root),
                wall: Arc::clone(&wall),
                recovery: Arc::clone(&recovery),
                board: Arc::clone(&board),
                pacer: pacer.clone(),
                counts: Arc::clone(&seed_counts),
            },
        );
        let senders = Senders::new(Arc::clone(&root), pacer.clone(), Arc::clone(&seed_counts));
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
            seeding,
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
            tokio::spawn(Arc::clone(&senders).run()),
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
        let counter = SizeCounter {
            me,
            root: Arc::clone(&root),
            wall: Arc::clone(&wall),
        };
        tasks.push(tokio::spawn(counter.run()));
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
                    groups: Moved {
                        me,
                        root: Arc::clone(&root),
                        wall: Arc::clone(&wall),
                        shards: shards.clone(),
                    },
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
            let on_zfs = root.datasets().is_some();
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
                if on_zfs {
                    all.extend(seed_counts.metrics());
                }
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
                    dir: dir.path().to_owned(),
                    store_uuid: dir.store_uuid().to_owned(),
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
                    seeds: Arc::clone(&senders),
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
            senders,
            failed,
            dir,
        })
    }
}
