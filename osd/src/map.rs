//! The cluster as this server knows it: who serves which placement group, and where.
//!
//! The metadata cluster decides it; every server keeps the last map it got in its store, so that a
//! restart does not need the metadata cluster.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use osd_core::ReplicaSet;
use prost::Message as _;
use proto::mrc;
use shell::statedir::replace_file;
use types::{MemberId, OsdId, PgId, PgKey, Policy, VolumeId};

use crate::config::PG_MEMBERS_MAX;

const FILE: &str = "MAP";

/// Replica set of a placement group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pg {
    pub(crate) view: u64,
    /// The set, in order; the first is the natural first primary. While it is being changed, with the
    /// one before.
    pub(crate) replicas: ReplicaSet,
    /// The same as the lease protocol names it.
    pub(crate) membership: lease::Membership,
    /// Members whose store is new to the group.
    pub(crate) incomplete: Vec<OsdId>,
}

/// One version of the map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Map {
    pub(crate) version: u64,
    pub(crate) addresses: BTreeMap<OsdId, String>,
    pub(crate) pgs: HashMap<PgKey, Pg>,
    /// Volumes that are not here have the default.
    pub(crate) policies: HashMap<VolumeId, Policy>,
}

impl Pg {
    /// A replica set that takes the place of `previous`, which is empty if no change is under way.
    pub(crate) fn new(view: u64, osds: &[u64], previous: &[u64], incomplete: &[u64]) -> Self {
        let members = |osds: &[u64]| osds.iter().copied().map(MemberId).collect::<Vec<_>>();
        let servers = |osds: &[u64]| osds.iter().copied().map(OsdId).collect::<Vec<_>>();
        Self {
            view,
            replicas: ReplicaSet::changing(&servers(osds), &servers(previous)),
            membership: lease::Membership::changing(view, &members(osds), &members(previous)),
            incomplete: servers(incomplete),
        }
    }
}

impl Map {
    /// From the wire. Groups that make no sense are left out, as if unknown.
    pub(crate) fn from_wire(wire: &mrc::OsdMap) -> Self {
        let addresses = wire
            .osds
            .iter()
            .map(|osd| (OsdId(osd.osd), osd.address.clone()))
            .collect();
        let pgs = wire
            .pgs
            .iter()
            .filter(|pg| {
                let members = pg.osds.len() + pg.previous.len();
                !pg.osds.is_empty() && members <= PG_MEMBERS_MAX
            })
            .map(|pg| {
                let key = PgKey {
                    volume: VolumeId(pg.volume),
                    pg: PgId(pg.pg),
                };
                let group = Pg::new(pg.view, &pg.osds, &pg.previous, &pg.incomplete);
                (key, group)
            })
            .collect();
        let policies = wire.volumes.iter().map(|volume| {
            let policy = Policy::of_words(&volume.write_policy, &volume.quorum);
            (VolumeId(volume.volume), policy)
        });
        Self {
            version: wire.version,
            addresses,
            pgs,
            policies: policies.collect(),
        }
    }

    /// The groups that `osd` is a member of, or was before a change that is under way, in order.
    pub(crate) fn groups_of(&self, osd: OsdId) -> Vec<PgKey> {
        let mut keys: Vec<_> = self
            .pgs
            .iter()
            .filter(|(_, pg)| pg.replicas.contains(osd))
            .map(|(key, _)| *key)
            .collect();
        keys.sort_unstable();
        keys
    }
}

/// Keeps the map in the store directory.
pub(crate) fn save(dir: &Path, wire: &mrc::OsdMap) -> io::Result<()> {
    let mut bytes = wire.encode_to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    replace_file(&dir.join(FILE), &bytes)
}

/// Whether the metadata cluster ever gave this server a map, which it does once both have proved that
/// they belong to the same cluster.
pub(crate) fn is_there(dir: &Path) -> bool {
    !matches!(dir.join(FILE).try_exists(), Ok(false))
}

/// The map kept; none if there is none or it is damaged, which only means to wait for a new one.
pub(crate) fn load(dir: &Path) -> Option<mrc::OsdMap> {
    let bytes = fs::read(dir.join(FILE)).ok()?;
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        tracing::warn!(dir = %dir.display(), "the saved map is damaged; waiting for a new one");
        return None;
    }
    mrc::OsdMap::decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::WritePolicy;

    fn wire() -> mrc::OsdMap {
        let pg = |pg, osds: &[u64]| mrc::Pg {
            volume: 1,
            pg,
            view: 4,
            osds: osds.to_vec(),
            incomplete: vec![2],
            ..mrc::Pg::default()
        };
        mrc::OsdMap {
            version: 9,
            changed: true,
            osds: vec![mrc::Replica {
                osd: 2,
                address: "127.0.0.1:7".to_owned(),
            }],
            pgs: vec![pg(0, &[1, 2, 3]), pg(1, &[3]), pg(2, &[])],
            volumes: vec![mrc::VolumePolicy {
                volume: 1,
                write_policy: "async".to_owned(),
                quorum: String::new(),
            }],
            wall_ns: 0,
            mrcs: Vec::new(),
            pace: None,
        }
    }

    #[test]
    fn saved_map_is_loaded_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), None);

        save(dir.path(), &wire()).unwrap();
        assert_eq!(load(dir.path()), Some(wire()));

        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(load(dir.path()), None);
    }

    #[test]
    fn map_knows_the_groups_of_a_server_and_leaves_out_empty_ones() {
        let map = Map::from_wire(&wire());

        let key = |pg| PgKey {
            volume: VolumeId(1),
            pg: PgId(pg),
        };
        assert_eq!(map.groups_of(OsdId(2)), [key(0)]);
        assert_eq!(map.groups_of(OsdId(3)), [key(0), key(1)]);
        assert_eq!(map.pgs.len(), 2);
        assert_eq!(map.pgs[&key(0)].membership.view, 4);
        assert_eq!(map.policies[&VolumeId(1)].write, WritePolicy::Async);
    }
}
