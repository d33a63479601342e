//! What happens to the cluster: deaths, returns, lost disks, drains, wishes, growth.

use planner::{State, Wish};
use types::OsdId;

use crate::checks::{majority_of, servers_of};
use crate::world::{REPLICAS_MAX, World};

impl World {
    /// Nothing, or one to three things at once.
    pub(crate) fn fault(&mut self) {
        if self.rng.once_in(2) {
            return;
        }
        for _ in 0..self.rng.between(1, 3) {
            match self.rng.below(17) {
                0..=2 => self.kill(),
                3..=6 => self.restart(),
                7 => self.drain(),
                8 => self.keep(),
                9 => self.want(),
                10 => self.grow(),
                11 => self.fill(),
                12 => self.clear(),
                13 => self.fail(),
                14 => self.fall_ill(),
                15 => self.cure(),
                _ => self.forget(),
            }
        }
        // The worst moment: redundancy has just come back.
        if self.is_whole() && self.rng.once_in(2) {
            for _ in 0..2 {
                self.kill();
            }
        }
    }

    /// Whether every group has all that it should have.
    fn is_whole(&self) -> bool {
        let mut groups = self.picture.groups.iter();
        groups.all(|(key, group)| {
            let sound = |osd: &OsdId| self.is_up(*osd) && self.data[key].is_current(*osd);
            group.previous.is_empty() && group.members.iter().all(sound)
        })
    }

    /// Others fill up a disk.
    fn fill(&mut self) {
        let servers = self.servers(|_| true);
        let Some(osd) = self.rng.pick(&servers) else {
            return;
        };
        let free = self.free(osd);
        let left = self.rng.below(free / 4 + 1);
        *self.foreign.entry(osd).or_insert(0) += free - left;
    }

    /// An operator frees space.
    fn clear(&mut self) {
        let full: Vec<OsdId> = self.foreign.keys().copied().collect();
        if let Some(osd) = self.rng.pick(&full) {
            self.foreign.remove(&osd);
        }
    }

    /// A write to a disk fails.
    fn fail(&mut self) {
        let (since, up) = (self.now, self.servers(|server| server.state == State::Up));
        if up.len() * 2 > self.picture.servers.len()
            && let Some(osd) = self.rng.pick(&up)
        {
            self.picture.servers.get_mut(&osd).unwrap().state = State::Failed { since };
        }
    }

    fn fall_ill(&mut self) {
        let up = self.servers(|server| server.state == State::Up);
        // With half of them nothing goes on.
        if (self.ill.len() + 1) * 3 <= up.len()
            && let Some(osd) = self.rng.pick(&up)
        {
            self.ill.insert(osd);
        }
    }

    fn cure(&mut self) {
        let ill: Vec<OsdId> = self.ill.iter().copied().collect();
        if let Some(osd) = self.rng.pick(&ill) {
            self.ill.remove(&osd);
        }
    }

    fn servers(&self, which: impl Fn(&planner::Server) -> bool) -> Vec<OsdId> {
        let servers = self.picture.servers.iter();
        let chosen = servers.filter(|(_, server)| which(server));
        chosen.map(|(osd, _)| *osd).collect()
    }

    /// A server goes down, sometimes with its disk.
    fn kill(&mut self) {
        let (now, up) = (self.now, self.servers(|server| server.state == State::Up));
        // Without half of the servers nothing goes on, and nothing is tested.
        if up.len() * 2 <= self.picture.servers.len() {
            return;
        }
        let Some(osd) = self.rng.pick(&up) else {
            return;
        };
        self.picture.servers.get_mut(&osd).unwrap().state = State::Down { since: now };
        if self.rng.once_in(4) && self.is_expendable(osd) {
            self.wipe(osd);
        }
    }

    /// A server comes back. What it lost is known then.
    fn restart(&mut self) {
        let down = self.servers(|server| server.state != State::Up);
        if let Some(osd) = self.rng.pick(&down) {
            self.bring_back(osd);
        }
    }

    pub(crate) fn bring_back(&mut self, osd: OsdId) {
        self.ill.remove(&osd);
        let server = self.picture.servers.get_mut(&osd).unwrap();
        (server.state, server.idle_since) = (State::Up, None);
        for (key, data) in &self.data {
            if data.blank.contains(&osd) {
                let record = self.picture.groups.get_mut(key).unwrap();
                record.incomplete.insert(osd);
            }
        }
    }

    fn wipe(&mut self, osd: OsdId) {
        for data in self.data.values_mut() {
            if let Some(version) = data.copies.get_mut(&osd) {
                *version = 0;
                data.blank.insert(osd);
            }
            data.present.remove(&osd);
        }
    }

    /// Whether every group has a majority of votes without the server, once all others are up. More
    /// losses than that are beyond what replication promises.
    pub(crate) fn is_expendable(&self, osd: OsdId) -> bool {
        self.picture.groups.iter().all(|(key, record)| {
            let set = servers_of(record);
            let data = &self.data[key];
            let others = set.iter().filter(|other| {
                let known = self.picture.servers.contains_key(other);
                known && **other != osd && !data.blank.contains(other)
            });
            !set.contains(&osd) || others.count() >= majority_of(set)
        })
    }

    fn drain(&mut self) {
        let kept = self.servers(|server| server.wish == Wish::Keep);
        if kept.len() > REPLICAS_MAX as usize
            && let Some(osd) = self.rng.pick(&kept)
        {
            self.picture.servers.get_mut(&osd).unwrap().wish = Wish::Drain;
        }
    }

    fn keep(&mut self) {
        let drained = self.servers(|server| server.wish == Wish::Drain);
        if let Some(osd) = self.rng.pick(&drained) {
            self.picture.servers.get_mut(&osd).unwrap().wish = Wish::Keep;
        }
    }

    /// A volume wants another number of replicas.
    fn want(&mut self) {
        let keys: Vec<_> = self.picture.groups.keys().copied().collect();
        let key = self.rng.pick(&keys).unwrap();
        let replicas = self.rng.between(1, REPLICAS_MAX) as usize;
        self.picture.groups.get_mut(&key).unwrap().replicas = replicas;
    }

    /// A group gets much larger, or the first bytes.
    fn grow(&mut self) {
        let keys: Vec<_> = self.picture.groups.keys().copied().collect();
        let key = self.rng.pick(&keys).unwrap();
        let more = self.rng.between(1, 40);
        let room = 150_u64.saturating_sub(self.picture.groups[&key].bytes);
        self.grow_by(key, more.min(room));
    }

    /// A dead server is removed by force; sometimes a new one comes in its place.
    fn forget(&mut self) {
        let down = self.servers(|server| server.state != State::Up);
        let Some(osd) = self.rng.pick(&down) else {
            return;
        };
        if !self.rng.once_in(3) || !self.is_expendable(osd) {
            return;
        }
        self.wipe(osd);
        let gone = self.picture.servers.remove(&osd).unwrap();
        self.foreign.remove(&osd);
        self.ill.remove(&osd);
        if self.picture.servers.len() < 4 || self.rng.once_in(2) {
            self.add_server(&gone.location, gone.capacity_bytes);
        }
    }
}
