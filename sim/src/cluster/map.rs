//! The map as a server knows it: the rules of `osd/src/map.rs` and `map_keeper.rs`.

use std::collections::BTreeMap;

use osd_core::ReplicaSet;
use proto::mrc;
use types::{MemberId, OsdId, PgId, PgKey, Policy, VolumeId};

/// Replica set of a placement group, while it is being changed with the one before.
#[derive(Clone, Debug)]
pub(crate) struct Pg {
    pub(crate) view: u64,
    pub(crate) replicas: ReplicaSet,
    pub(crate) membership: lease::Membership,
    /// Members whose store is new to the group.
    pub(crate) incomplete: Vec<OsdId>,
}

impl Pg {
    pub(crate) fn of(pg: &mrc::Pg) -> Self {
        let members = |osds: &[u64]| osds.iter().copied().map(MemberId).collect::<Vec<_>>();
        let servers = |osds: &[u64]| osds.iter().copied().map(OsdId).collect::<Vec<_>>();
        let (osds, previous) = (&pg.osds[..], &pg.previous[..]);
        Self {
            view: pg.view,
            replicas: ReplicaSet::changing(&servers(osds), &servers(previous)),
            membership: lease::Membership::changing(pg.view, &members(osds), &members(previous)),
            incomplete: servers(&pg.incomplete),
        }
    }

    /// What the rules for comparing a group want of it.
    pub(crate) fn sets(&self) -> (&ReplicaSet, &[OsdId]) {
        (&self.replicas, &self.incomplete)
    }

    pub(crate) fn is_changing(&self) -> bool {
        !self.replicas.previous().is_empty()
    }
}

/// One version of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    pub(crate) version: u64,
    pub(crate) pgs: BTreeMap<PgKey, Pg>,
    pub(crate) policy: Policy,
}

impl Map {
    pub(crate) fn of(wire: &mrc::OsdMap) -> Self {
        let pgs = wire.pgs.iter().map(|pg| (key_of(pg), Pg::of(pg)));
        let policy = wire.volumes.first().map(|volume| {
            // There is one volume.
            Policy::of_words(&volume.write_policy, &volume.quorum)
        });
        Self {
            version: wire.version,
            pgs: pgs.collect(),
            policy: policy.unwrap_or_default(),
        }
    }

    /// The group, if the server has a say in it.
    pub(crate) fn group(&self, osd: OsdId, key: PgKey) -> Option<&Pg> {
        self.pgs.get(&key).filter(|pg| pg.replicas.contains(osd))
    }

    pub(crate) fn groups_of(&self, osd: OsdId) -> Vec<PgKey> {
        let groups = self.pgs.iter();
        let ours = groups.filter(|(_, pg)| pg.replicas.contains(osd));
        ours.map(|(key, _)| *key).collect()
    }
}

pub(crate) const fn key_of(pg: &mrc::Pg) -> PgKey {
    PgKey {
        volume: VolumeId(pg.volume),
        pg: PgId(pg.pg),
    }
}
