//! What a new metadata cluster makes of a dump and of what the object servers still know.
//!
//! Replica sets may have changed after the dump. Object servers keep the newest map they were told; a map
//! is always whole, and a greater version is a later one. So the newest map among theirs and the dump's says what
//! the sets are, if nobody can know a later one of which it matters. That is so if a majority of the set (and of the
//! one before, while it changes) was asked: a set is left only when a majority of it knows the one that
//! comes, and nothing is acknowledged in a view that no majority of the set before knows
//! ([`crate`]'s `groups`). Whoever was not asked may go by another view, even with others like it; it
//! follows once it hears the new map, whose versions and views are beyond all that can have been.

use std::collections::{BTreeMap, BTreeSet};

use proto::{dump, mrc};
use types::Quorum;

use crate::config::{OSDS_MAX, VERSIONS_SKIPPED};

/// What the dump says, apart from the namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registry {
    /// All volumes.
    pub volumes: Vec<dump::Volume>,
    /// Their placement groups.
    pub groups: Vec<dump::Group>,
    /// Object servers.
    pub object_servers: Vec<dump::ObjectServer>,
    /// Version of the map of object servers.
    pub map_version: u64,
}

/// An object server that was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its number.
    pub osd: u64,
    /// Its store.
    pub store_uuid: String,
    /// The map that it has kept.
    pub map: Option<mrc::OsdMap>,
}

/// Why the dump can't be restored with what these object servers know.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Others may know a later replica set.
    #[error(
        "{count} placement groups may have other replica sets by now, the first is {volume}.{group}: of its \
         object servers {set:?} only {known:?} were asked and know it; start a majority of them"
    )]
    TooFew {
        /// How many placement groups.
        count: usize,
        /// Name of the first one's volume.
        volume: String,
        /// The first one.
        group: u32,
        /// Its replica set, as far as it is known.
        set: Vec<u64>,
        /// Of these, those that were asked and know the group.
        known: Vec<u64>,
    },
    /// An older map with a later view: not all are of one cluster's history.
    #[error(
        "placement group {volume}.{group} has view {view} in an older map or dump and view {newest} in the \
         newest: they are of different metadata clusters, or object server {osd} followed another one; stop \
         that one, or take another dump"
    )]
    Contradiction {
        /// One of the servers concerned.
        osd: u64,
        /// Volume of the group.
        volume: u64,
        /// The group.
        group: u32,
        /// View of the older one.
        view: u64,
        /// View of the newest map.
        newest: u64,
    },
    /// A number is so great that none follows.
    #[error("the map's version {version} or a view of it is too great to go on from")]
    TooGreat {
        /// Version of the newest map.
        version: u64,
    },
    /// More than a cluster has.
    #[error(
        "the dump and the maps name {count} object servers, more than the {OSDS_MAX} there can be"
    )]
    TooManyServers {
        /// How many.
        count: usize,
    },
}

/// Decides on the replica sets, object servers, policies and version of the map: the registry as the new
/// cluster should have it.
///
/// # Errors
///
/// [`Refusal`], if it would not be safe.
pub fn plan(dumped: &Registry, asked: &[Asked]) -> Result<Registry, Refusal> {
    let newest = newest(dumped, asked);
    let version = newest.map_or(dumped.map_version, |map| map.version);
    let too_great = Refusal::TooGreat { version };
    let planner = Planner::new(dumped, asked, newest);
    let groups = planner.groups()?;
    let object_servers = planner.object_servers(&groups);
    if object_servers.len() > OSDS_MAX {
        let count = object_servers.len();
        return Err(Refusal::TooManyServers { count });
    }
    let groups = groups.into_iter().map(|group| {
        let view = group.view.checked_add(VERSIONS_SKIPPED)?;
        Some(dump::Group { view, ..group })
    });
    let groups: Option<Vec<_>> = groups.collect();
    let map_version = version.checked_add(VERSIONS_SKIPPED);
    let (Some(groups), Some(map_version)) = (groups, map_version) else {
        return Err(too_great);
    };
    Ok(Registry {
        volumes: planner.volumes(),
        groups,
        object_servers,
        map_version,
    })
}

/// The newest map, if it is newer than the dump.
fn newest<'a>(dumped: &Registry, asked: &'a [Asked]) -> Option<&'a mrc::OsdMap> {
    let maps = asked.iter().filter_map(|asked| asked.map.as_ref());
    maps.filter(|map| map.version > dumped.map_version)
        .max_by_key(|map| map.version)
}

struct Planner<'a> {
    dumped: &'a Registry,
    newest: Option<&'a mrc::OsdMap>,
    asked: Vec<Witness<'a>>,
}

/// A server that was asked.
struct Witness<'a> {
    osd: u64,
    /// It has the store that the dump knows.
    same_store: bool,
    groups: BTreeMap<(u64, u32), &'a mrc::Pg>,
}

impl<'a> Planner<'a> {
    fn new(dumped: &'a Registry, asked: &'a [Asked], newest: Option<&'a mrc::OsdMap>) -> Self {
        let servers = dumped.object_servers.iter();
        let stores: BTreeMap<u64, &str> = servers
            .map(|server| (server.osd, server.store_uuid.as_str()))
            .collect();
        let asked = asked.iter().map(|asked| Witness {
            osd: asked.osd,
            same_store: stores.get(&asked.osd) == Some(&asked.store_uuid.as_str()),
            groups: by_number(asked.map.as_ref()),
        });
        Self {
            dumped,
            newest,
            asked: asked.collect(),
        }
    }

    fn groups(&self) -> Result<Vec<dump::Group>, Refusal> {
        let later = by_number(self.newest);
        let deleted = self.dumped.volumes.iter().filter(|volume| volume.deleted);
        let deleted: BTreeSet<u64> = deleted.map(|volume| volume.volume).collect();
        let mut found = Vec::new();
        let mut unsure: Option<(usize, dump::Group, Vec<u64>)> = None;
        for dumped in &self.dumped.groups {
            let mut group = match later.get(&(dumped.volume, dumped.group)) {
                Some(later) => of_map(later),
                None => dumped.clone(),
            };
            if !deleted.contains(&group.volume) {
                let witnesses = self.witnesses(dumped, &group)?;
                let known = |set: &[u64]| is_majority(&witnesses, set);
                if !known(&group.osds) || (!group.previous.is_empty() && !known(&group.previous)) {
                    let (count, ..) = unsure.get_or_insert((0, group.clone(), witnesses));
                    *count += 1;
                }
            }
            self.distrust(&mut group);
            found.push(group);
        }
        match unsure {
            Some((count, group, witnesses)) => Err(self.too_few(count, &group, &witnesses)),
            None => Ok(found),
        }
    }

    /// Who knows the group, and no later view of it.
    fn witnesses(&self, dumped: &dump::Group, group: &dump::Group) -> Result<Vec<u64>, Refusal> {
        let contradiction = |osd, view| Refusal::Contradiction {
            osd,
            volume: group.volume,
            group: group.group,
            view,
            newest: group.view,
        };
        let mut witnesses = Vec::new();
        for asked in &self.asked {
            let Some(told) = asked.groups.get(&(group.volume, group.group)) else {
                continue;
            };
            let before = told.view.max(dumped.view);
            if before > group.view {
                return Err(contradiction(asked.osd, before));
            }
            witnesses.push(asked.osd);
        }
        Ok(witnesses)
    }

    /// Servers with another store than the dump knows, and without a map of the group, may have lost what they
    /// had: nobody has marked them yet. While the set changes all have to declare anew.
    fn distrust(&self, group: &mut dump::Group) {
        let members = members(group);
        let number = (group.volume, group.group);
        for asked in &self.asked {
            if members.contains(&asked.osd)
                && !asked.same_store
                && !asked.groups.contains_key(&number)
                && !group.incomplete.contains(&asked.osd)
            {
                group.incomplete.push(asked.osd);
            }
        }
        group.settling = match group.previous.is_empty() {
            true => Vec::new(),
            false => members,
        };
    }

    fn too_few(&self, count: usize, group: &dump::Group, witnesses: &[u64]) -> Refusal {
        let mut volumes = self.dumped.volumes.iter();
        let volume = volumes.find(|volume| volume.volume == group.volume);
        let set = members(group);
        Refusal::TooFew {
            count,
            volume: volume.map_or_else(|| group.volume.to_string(), |it| it.name.clone()),
            group: group.group,
            known: witnesses
                .iter()
                .filter(|osd| set.contains(osd))
                .copied()
                .collect(),
            set,
        }
    }

    /// Those of the dump that were not removed since, and further members of replica sets.
    fn object_servers(&self, groups: &[dump::Group]) -> Vec<dump::ObjectServer> {
        let needed: BTreeSet<u64> = groups.iter().flat_map(members).collect();
        let listed = self.newest.map(|map| &map.osds);
        let addresses: BTreeMap<u64, &str> = listed
            .into_iter()
            .flatten()
            .map(|replica| (replica.osd, replica.address.as_str()))
            .collect();
        let mut servers = BTreeMap::new();
        for server in &self.dumped.object_servers {
            let there = self.newest.is_none() || addresses.contains_key(&server.osd);
            if there || needed.contains(&server.osd) {
                servers.insert(server.osd, server.clone());
            }
        }
        for osd in needed {
            // It came after the dump. With which store it says when it comes back, and counts as one that
            // lost what it had, unless it has registered here already.
            servers.entry(osd).or_insert_with(|| dump::ObjectServer {
                osd,
                address: addresses
                    .get(&osd)
                    .copied()
                    .unwrap_or("unknown:0")
                    .to_owned(),
                store_uuid: "unknown".to_owned(),
                ..dump::ObjectServer::default()
            });
        }
        servers.into_values().collect()
    }

    /// With the policies that object servers go by.
    fn volumes(&self) -> Vec<dump::Volume> {
        let later = self.newest.map(|map| &map.volumes);
        let later: BTreeMap<u64, &mrc::VolumePolicy> = later
            .into_iter()
            .flatten()
            .map(|policy| (policy.volume, policy))
            .collect();
        let volumes = self.dumped.volumes.iter().cloned().map(|mut volume| {
            if let Some(policy) = later.get(&volume.volume) {
                volume.write_policy.clone_from(&policy.write_policy);
                volume.quorum.clone_from(&policy.quorum);
            }
            volume
        });
        volumes.collect()
    }
}

fn by_number(map: Option<&mrc::OsdMap>) -> BTreeMap<(u64, u32), &mrc::Pg> {
    let groups = map.into_iter().flat_map(|map| &map.pgs);
    groups.map(|pg| ((pg.volume, pg.pg), pg)).collect()
}

fn of_map(pg: &mrc::Pg) -> dump::Group {
    dump::Group {
        volume: pg.volume,
        group: pg.pg,
        view: pg.view,
        osds: pg.osds.clone(),
        incomplete: pg.incomplete.clone(),
        previous: pg.previous.clone(),
        settling: Vec::new(),
    }
}

/// Of the set, in order, then of the one before.
fn members(group: &dump::Group) -> Vec<u64> {
    let gone = group.previous.iter();
    let gone = gone.filter(|osd| !group.osds.contains(osd));
    group.osds.iter().chain(gone).copied().collect()
}

fn is_majority(some: &[u64], set: &[u64]) -> bool {
    let count = set.iter().filter(|osd| some.contains(osd)).count();
    count >= Quorum::Majority.of(set.len())
}

#[cfg(test)]
mod tests;
