//! The model: servers, groups, and who holds what.

use std::collections::{BTreeMap, BTreeSet};

use planner::{Act, Group, Limits, Picture, Server, State, Wish, plan};
use types::{Duration, Instant, OsdId, PgId, PgKey, VolumeId};

use crate::apply::apply;
use crate::checks;
use crate::rng::Rng;

/// Locations of servers that are not unknown.
const LOCATIONS: [&str; 8] = [
    "s/r1/h1", "s/r1/h2", "s/r2/h3", "s/r2/h3", "t/r3/h4", "t/r3/h5", "t/r4/h6", "u",
];

/// Replicas that a volume may want.
pub(crate) const REPLICAS_MAX: u64 = 4;

/// The data of a group, as no record tells it.
pub(crate) struct Data {
    /// Number of the newest acknowledged write.
    pub(crate) committed: u64,
    /// Number of the newest write that each copy has, and all before; 0 if it has nothing yet.
    pub(crate) copies: BTreeMap<OsdId, u64>,
    /// Servers of the set before or of both that lost their copy and were not filled again.
    pub(crate) blank: BTreeSet<OsdId>,
    /// Bytes of it on disks, also of servers that are to delete it.
    pub(crate) present: BTreeMap<OsdId, u64>,
    /// Servers of either set that are up and lack something or have not said that they don't, and since when
    /// they made no progress.
    pub(crate) idle_since: BTreeMap<OsdId, Instant>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) limits: Limits,
    /// What the planner sees.
    pub(crate) picture: Picture,
    pub(crate) data: BTreeMap<PgKey, Data>,
    pub(crate) next_osd: u64,
    /// Bytes on disks that are no replicas.
    pub(crate) foreign: BTreeMap<OsdId, u64>,
    /// Servers that are up, but copy nothing and say nothing.
    pub(crate) ill: BTreeSet<OsdId>,
    /// Whether clients write. They stop in the calm.
    pub(crate) writing: bool,
    /// Whether the leader notes new members as incomplete until they have declared.
    marks_new: bool,
    /// Whether every act is held against the rules; if not, only what becomes of the data counts.
    pub(crate) judging: bool,
    /// Begins by reason, retargets and ends that were done.
    pub(crate) acts: BTreeMap<String, u64>,
    pub(crate) trace: u64,
}

impl Data {
    pub(crate) fn is_current(&self, osd: OsdId) -> bool {
        self.copies.get(&osd) == Some(&self.committed) && !self.blank.contains(&osd)
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let limits = Limits {
            grace: Duration::from_secs(600),
            patience: Duration::from_secs(rng.between(600, 1800)),
            changes_per_server_max: rng.between(1, 3) as u32,
            changes_max: rng.between(2, 8) as usize,
            paused: false,
            reserve_percent: rng.below(10) as u32,
            rebalance: !rng.once_in(4),
            rebalance_percent: rng.between(5, 20) as u32,
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        let mut world = Self {
            rng,
            now: Instant::ZERO + Duration::from_secs(1),
            limits,
            picture: Picture::default(),
            data: BTreeMap::new(),
            next_osd: 1,
            foreign: BTreeMap::new(),
            ill: BTreeSet::new(),
            writing: true,
            marks_new: false,
            judging: true,
            acts: BTreeMap::new(),
            trace: 0,
        };
        // In some runs there is hardly room for what is wanted.
        let tight = world.rng.once_in(3);
        world.marks_new = world.rng.once_in(2);
        for _ in 0..world.rng.between(4, 8) {
            let location = if world.rng.once_in(6) {
                ""
            } else {
                world.rng.pick(&LOCATIONS).unwrap()
            };
            let capacity = world.rng.between(500, 2000) / if tight { 4 } else { 1 };
            world.add_server(location, capacity);
        }
        for pg in 0..world.rng.between(3, 14) {
            world.add_group(pg as u32);
        }
        world.report_free(1);
        world
    }

    pub(crate) fn add_server(&mut self, location: &str, capacity_bytes: u64) -> OsdId {
        let osd = OsdId(self.next_osd);
        self.next_osd += 1;
        let server = Server {
            location: location.to_owned(),
            capacity_bytes,
            free_bytes: capacity_bytes,
            data_bytes: Some(0),
            idle_since: None,
            state: State::Up,
            wish: Wish::Keep,
        };
        self.picture.servers.insert(osd, server);
        osd
    }

    fn add_group(&mut self, pg: u32) {
        let replicas = self.rng.between(1, 3) as usize;
        let mut servers: Vec<OsdId> = self.picture.servers.keys().copied().collect();
        let mut members = Vec::new();
        while members.len() < replicas {
            let at = self.rng.below(servers.len() as u64) as usize;
            members.push(servers.remove(at));
        }
        let key = PgKey {
            volume: VolumeId(1),
            pg: PgId(pg),
        };
        let bytes = match self.rng.below(9) {
            0..3 => 0,
            // As large as all others together.
            3 => self.rng.between(60, 300),
            _ => self.rng.between(1, 60),
        };
        let data = Data {
            committed: 1,
            copies: members.iter().map(|osd| (*osd, 1)).collect(),
            blank: BTreeSet::new(),
            present: members.iter().map(|osd| (*osd, bytes)).collect(),
            idle_since: BTreeMap::new(),
        };
        let group = Group {
            view: 1,
            members,
            previous: Vec::new(),
            settling: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            bytes,
            held: BTreeMap::new(),
            idle_since: BTreeMap::new(),
            replicas,
        };
        self.picture.groups.insert(key, group);
        self.data.insert(key, data);
    }

    /// A minute or two: data moves, heartbeats report, the leader plans and does most of it.
    pub(crate) fn step(&mut self) -> Result<usize, String> {
        self.now += Duration::from_secs(self.rng.between(20, 120));
        self.move_data()?;
        self.delete_leftovers();
        self.report_free(2);
        self.note_idle();
        let plan = plan(&self.picture, self.now, &self.limits);
        if self.judging {
            checks::plan(&self.picture, self.now, &self.limits, &plan)?;
        }
        for act in &plan.acts {
            let kind = match act {
                Act::Begin { reason, .. } => reason.to_string(),
                Act::Retarget { .. } => "retarget".to_owned(),
                Act::End { .. } => "end".to_owned(),
            };
            // The leader lost its term, or the record changed in between.
            if self.rng.once_in(6) {
                continue;
            }
            *self.acts.entry(kind).or_insert(0) += 1;
            self.note(act);
            let (Act::Begin { group, .. } | Act::Retarget { group, .. } | Act::End { group, .. }) =
                act;
            let held = self.has_live_holder(*group);
            apply(&mut self.picture, act);
            self.follow(*group)
                .map_err(|why| format!("after {act:?}: {why}"))?;
            if held && !self.has_live_holder(*group) {
                return Err(format!("{act:?} drops the last live copy"));
            }
        }
        Ok(plan.acts.len())
    }

    /// What servers do when a record has changed: start a copy, delete one.
    fn follow(&mut self, key: PgKey) -> Result<(), String> {
        let record = self.picture.groups.get_mut(&key).unwrap();
        let data = self.data.get_mut(&key).unwrap();
        let held = |osd: &OsdId| record.members.contains(osd) || record.previous.contains(osd);
        data.copies.retain(|osd, _| held(osd));
        data.blank.retain(held);
        for osd in &record.members {
            if !data.copies.contains_key(osd) {
                data.copies.insert(*osd, 0);
                if self.marks_new {
                    record.incomplete.insert(*osd);
                }
            }
        }
        checks::data(key, record, data)
    }

    fn has_live_holder(&self, key: PgKey) -> bool {
        let data = &self.data[&key];
        let mut holders = data.copies.keys();
        holders.any(|osd| self.is_up(*osd) && data.is_current(*osd))
    }

    /// What is free on a disk.
    pub(crate) fn free(&self, osd: OsdId) -> u64 {
        let capacity = self.picture.servers[&osd].capacity_bytes;
        let foreign = self.foreign.get(&osd).copied().unwrap_or(0);
        capacity.saturating_sub(foreign + self.data_on(osd))
    }

    fn data_on(&self, osd: OsdId) -> u64 {
        let present = self.data.values().filter_map(|data| data.present.get(&osd));
        present.sum()
    }

    /// Heartbeats of one server in `every`.
    pub(crate) fn report_free(&mut self, every: u64) {
        let osds: Vec<OsdId> = self.picture.servers.keys().copied().collect();
        for osd in osds {
            if !self.is_up(osd) || !self.rng.once_in(every) {
                continue;
            }
            // One that was just started has not counted everything.
            let counted = every == 1 || !self.rng.once_in(10);
            let (free, data) = (self.free(osd), self.data_on(osd));
            let server = self.picture.servers.get_mut(&osd).unwrap();
            server.free_bytes = free;
            server.data_bytes = counted.then_some(data);
            for (key, group) in &mut self.picture.groups {
                let data = &self.data[key];
                let told = counted && data.copies.contains_key(&osd);
                match data.present.get(&osd).filter(|_| told) {
                    Some(bytes) => group.held.insert(osd, *bytes),
                    None => group.held.remove(&osd),
                };
            }
        }
    }

    /// What was given up is deleted sooner or later.
    fn delete_leftovers(&mut self) {
        let (rng, servers) = (&mut self.rng, &self.picture.servers);
        for data in self.data.values_mut() {
            let copies = &data.copies;
            data.present.retain(|osd, _| {
                let server = servers.get(osd);
                let up = server.is_some_and(|server| server.state == State::Up);
                copies.contains_key(osd) || (server.is_some() && !(up && rng.once_in(4)))
            });
        }
    }

    /// Who lacks something, and since when it got nowhere: the leader's notes.
    fn note_idle(&mut self) {
        let mut working: BTreeMap<OsdId, Instant> = BTreeMap::new();
        for (key, group) in &mut self.picture.groups {
            let data = self.data.get_mut(key).unwrap();
            let current = |osd: &OsdId| data.is_current(*osd);
            let members = group.members.iter().chain(&group.previous).copied();
            let unfinished: BTreeSet<OsdId> = members
                .filter(|osd| {
                    let server = self.picture.servers.get(osd);
                    let up = server.is_some_and(|server| server.state == State::Up);
                    let declared = match group.previous.is_empty() {
                        true => current(osd),
                        false => !group.settling.contains(osd),
                    };
                    up && (!declared || group.incomplete.contains(osd))
                })
                .collect();
            data.idle_since.retain(|osd, _| unfinished.contains(osd));
            for osd in unfinished {
                let since = data.idle_since.entry(osd).or_insert(self.now);
                let earliest = working.entry(osd).or_insert(*since);
                *earliest = (*earliest).min(*since);
            }
            group.idle_since.clone_from(&data.idle_since);
        }
        for (osd, server) in &mut self.picture.servers {
            // It is remembered as long as the server has not done anything.
            let idle = working.get(osd).copied().or(server.idle_since);
            server.idle_since = idle.filter(|_| server.state == State::Up);
        }
    }

    /// A server has made progress with a group.
    pub(crate) fn note_progress(&mut self, key: PgKey, osd: OsdId) {
        self.data.get_mut(&key).unwrap().idle_since.remove(&osd);
        if let Some(server) = self.picture.servers.get_mut(&osd) {
            server.idle_since = None;
        }
    }

    fn note(&mut self, act: &Act) {
        // FNV-1a.
        for byte in format!("{act:?}").bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn is_up(&self, osd: OsdId) -> bool {
        let server = self.picture.servers.get(&osd);
        server.is_some_and(|server| server.state == State::Up)
    }
}
