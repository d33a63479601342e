//! One picture of the cluster, never changed once made: replica sets and the links to the others.
//!
//! The door, the shards and recovery all look at the newest picture; a change makes a new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use osd_core::Membership;
use shell::link::Link;
use types::{OsdId, PgKey};

use crate::map::{Map, Pg};

/// The picture.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) map: Map,
    /// Links to the other object servers.
    pub(crate) links: BTreeMap<OsdId, Arc<Link>>,
    /// What this server is in each placement group it is a member of.
    pub(crate) memberships: HashMap<PgKey, Membership>,
}

impl Cluster {
    /// A picture from its parts. `recovered` says in which groups absent objects are known to be so,
    /// `incomplete` in which this server does not vote although the map does not say so (yet).
    pub(crate) fn new(
        me: OsdId,
        map: Map,
        links: BTreeMap<OsdId, Arc<Link>>,
        recovered: &BTreeSet<PgKey>,
        incomplete: &BTreeSet<PgKey>,
    ) -> Self {
        let memberships = map
            .pgs
            .iter()
            .filter(|(_, pg)| pg.replicas.contains(me))
            .map(|(key, pg)| {
                let membership = Membership {
                    view: pg.view,
                    replicas: pg.replicas.clone(),
                    incomplete: pg.incomplete.contains(&me) || incomplete.contains(key),
                    recovered: recovered.contains(key),
                    policy: map.policies.get(&key.volume).copied().unwrap_or_default(),
                };
                (*key, membership)
            })
            .collect();
        Self {
            map,
            links,
            memberships,
        }
    }

    /// The replica set of a group that this server is a member of.
    pub(crate) fn group(&self, key: PgKey) -> Option<&Pg> {
        self.memberships
            .contains_key(&key)
            .then(|| self.map.pgs.get(&key))
            .flatten()
    }
}

/// Where the newest picture hangs.
#[derive(Debug, Default)]
pub(crate) struct Wall(RwLock<Arc<Cluster>>);

impl Wall {
    pub(crate) fn newest(&self) -> Arc<Cluster> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn hang(&self, picture: Arc<Cluster>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = picture;
    }
}
