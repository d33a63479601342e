//! The rules of the planner, one test each or more.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that can't go on fails"
)]

mod needs;
mod rebalance;
mod running;
mod spread;
mod targets;

use std::collections::{BTreeMap, BTreeSet};

use planner::{Act, Group, Limits, Picture, Plan, Reason, Server, State, Wish, plan};
use types::{Duration, Instant, OsdId, PgId, PgKey, VolumeId};

/// Capacity of every server, bytes.
const CAPACITY: u64 = 1_000_000;

/// A picture to change, and the time.
struct Bed {
    picture: Picture,
    limits: Limits,
    now: Instant,
}

fn key(pg: u32) -> PgKey {
    PgKey {
        volume: VolumeId(1),
        pg: PgId(pg),
    }
}

fn osds(ids: &[u64]) -> Vec<OsdId> {
    ids.iter().copied().map(OsdId).collect()
}

impl Bed {
    /// Empty servers 1, 2, ... at these locations; rebalancing is off.
    fn new(locations: &[&str]) -> Self {
        let mut picture = Picture::default();
        for (osd, location) in (1..).zip(locations) {
            let server = Server {
                location: (*location).to_owned(),
                capacity_bytes: CAPACITY,
                free_bytes: CAPACITY,
                data_bytes: None,
                idle_since: None,
                state: State::Up,
                wish: Wish::Keep,
            };
            picture.servers.insert(OsdId(osd), server);
        }
        Self {
            picture,
            limits: Limits {
                rebalance: false,
                ..Limits::default()
            },
            now: Instant::ZERO + Duration::from_secs(10_000),
        }
    }

    /// A group of 1000 bytes with as many replicas wanted as it has members.
    fn group(&mut self, pg: u32, members: &[u64]) -> &mut Group {
        let group = Group {
            view: 1,
            members: osds(members),
            previous: Vec::new(),
            settling: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            bytes: 1000,
            held: BTreeMap::new(),
            idle_since: BTreeMap::new(),
            replicas: members.len(),
        };
        self.picture.groups.insert(key(pg), group);
        self.picture.groups.get_mut(&key(pg)).unwrap()
    }

    /// Such a group in a change from `previous` to `members`, with nothing declared.
    fn change(&mut self, pg: u32, previous: &[u64], members: &[u64]) -> &mut Group {
        let group = self.group(pg, members);
        group.previous = osds(previous);
        group.settling = group.members.iter().copied().collect();
        group.replicas = previous.len();
        group
    }

    fn server(&mut self, osd: u64) -> &mut Server {
        self.picture.servers.get_mut(&OsdId(osd)).unwrap()
    }

    fn down(&mut self, osd: u64, secs: u64) {
        let since = self.now - Duration::from_secs(secs);
        self.server(osd).state = State::Down { since };
    }

    /// Down for longer than the grace time.
    fn dead(&mut self, osd: u64) {
        self.down(osd, 600);
    }

    fn drain(&mut self, osd: u64) {
        self.server(osd).wish = Wish::Drain;
    }

    /// Sets how full a server is, in percent.
    fn fill(&mut self, osd: u64, percent: u64) {
        self.server(osd).free_bytes = CAPACITY / 100 * (100 - percent);
    }

    fn plan(&self) -> Plan {
        plan(&self.counted(), self.now, &self.limits)
    }

    /// The picture, with all complete replicas counted that no test has said anything else about.
    fn counted(&self) -> Picture {
        let mut picture = self.picture.clone();
        for group in picture.groups.values_mut() {
            let complete = match group.previous.is_empty() {
                true => &group.members,
                false => &group.previous,
            };
            for osd in complete {
                group.held.entry(*osd).or_insert(group.bytes);
            }
        }
        for (osd, server) in &mut picture.servers {
            let groups = picture.groups.values();
            let held: u64 = groups.filter_map(|group| group.held.get(osd)).sum();
            server.data_bytes = server.data_bytes.or(Some(held));
        }
        picture
    }

    /// A server has made no progress with a group for so long.
    fn idle(&mut self, pg: u32, osd: u64, secs: u64) {
        let since = self.now - Duration::from_secs(secs);
        let group = self.picture.groups.get_mut(&key(pg)).unwrap();
        group.idle_since.insert(OsdId(osd), since);
    }

    fn failed(&mut self, osd: u64, secs: u64) {
        let since = self.now - Duration::from_secs(secs);
        self.server(osd).state = State::Failed { since };
    }

    fn acts(&self) -> Vec<Act> {
        self.plan().acts
    }

    /// Why the group is not healthy.
    fn why(&self, pg: u32) -> String {
        self.plan().report.notes[&key(pg)].why.to_string()
    }
}

fn begin(pg: u32, members: &[u64], reason: Reason) -> Act {
    Act::Begin {
        group: key(pg),
        view: 1,
        members: osds(members),
        reason,
    }
}

fn retarget(pg: u32, members: &[u64], reason: Reason) -> Act {
    Act::Retarget {
        group: key(pg),
        view: 1,
        members: osds(members),
        reason,
    }
}

fn end(pg: u32) -> Act {
    Act::End {
        group: key(pg),
        view: 1,
    }
}
