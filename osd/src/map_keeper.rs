//! Follows the map: keeps it in the store, opens links, tells everybody.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use lease_shell::LeaseShell;
use proto::mrc;
use tokio::sync::{Notify, mpsc};
use types::{OsdId, PgKey};

use crate::board::Board;
use crate::cluster::{Cluster, Wall};
use crate::map::{self, Map};
use crate::peer::Peers;
use crate::reaper::Reaper;
use crate::recovery::Recovery;
use crate::seeding::Seeding;
use crate::shard_item::Item;
use crate::shards::Shards;

/// What following the map takes.
#[derive(Debug)]
pub(crate) struct MapKeeper {
    pub(crate) me: OsdId,
    pub(crate) dir: PathBuf,
    /// Absent objects are known to be absent: the last run ended in good order.
    pub(crate) trusted: bool,
    /// The store was made by this start.
    pub(crate) new_store: bool,
    pub(crate) wall: Arc<Wall>,
    pub(crate) shards: Shards,
    pub(crate) leases: Arc<LeaseShell>,
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) board: Arc<Board>,
    pub(crate) recovery: Arc<Recovery>,
    pub(crate) seeding: Arc<Seeding>,
    pub(crate) peers: Peers,
    /// A placement group is others' from now on.
    pub(crate) moved: Arc<Notify>,
    pub(crate) map: Map,
    /// Groups that existed before this store did.
    pub(crate) incomplete: BTreeSet<PgKey>,
}

impl MapKeeper {
    /// Follows until no map can come any more. `republish` says that a group's state changed.
    pub(crate) async fn run(
        mut self,
        mut maps: mpsc::Receiver<mrc::OsdMap>,
        republish: Arc<Notify>,
    ) {
        if let Some(saved) = map::load(&self.dir) {
            self.take(&saved);
        }
        loop {
            tokio::select! {
                map = maps.recv() => match map {
                    // What this server has declared in a view it must remember after a restart.
                    Some(map) if map.version > self.map.version => match map::save(&self.dir, &map) {
                        Ok(()) => self.take(&map),
                        Err(error) => {
                            tracing::warn!(%error, "a new map can't be kept in the store; going on with the old one");
                        }
                    },
                    Some(_) => {}
                    None => return,
                },
                () = republish.notified() => self.publish(),
            }
        }
    }

    fn take(&mut self, wire: &mrc::OsdMap) {
        let first = self.map.version == 0;
        let before = self.map.groups_of(self.me);
        self.map = Map::from_wire(wire);
        let now = self.map.groups_of(self.me);
        if before.iter().any(|group| !now.contains(group)) {
            self.moved.notify_one();
        }
        tracing::info!(
            version = self.map.version,
            groups = self.map.pgs.len(),
            "new map"
        );
        if first && self.new_store {
            // They may hold objects that this store lacks. The metadata cluster marks them, too, once
            // it knows that the store is new; alone, there is nobody to compare with.
            self.incomplete = self
                .map
                .groups_of(self.me)
                .into_iter()
                .filter(|group| {
                    self.map
                        .pgs
                        .get(group)
                        .is_some_and(|pg| pg.replicas.all().len() > 1)
                })
                .collect();
        }
        self.peers.follow(&self.map.addresses);
        self.publish();
    }

    fn publish(&mut self) {
        let recovered = self.board.recovered();
        self.incomplete.retain(|group| !recovered.contains(group));
        let trusted = match self.trusted {
            true => self.map.groups_of(self.me).into_iter().collect(),
            false => recovered,
        };
        let cluster = Arc::new(Cluster::new(
            self.me,
            self.map.clone(),
            self.peers.data(),
            &trusted,
            &self.incomplete,
        ));
        // Before the shards make what they are asked for.
        let gated = self.seeding.gate(&cluster);
        // The shards first: who sees a view on the wall may rely on that what shards are told from then on
        // finds them in that view.
        self.shards.tell_all(|| Item::Cluster(Arc::clone(&cluster)));
        self.wall.hang(Arc::clone(&cluster));
        self.leases.set_links(self.peers.leases());
        self.recovery.follow(&cluster);
        self.seeding.begin(gated);
        self.reaper
            .tidy(cluster.memberships.keys().copied().collect());
    }
}
