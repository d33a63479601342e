//! What clients and servers do meanwhile: writes at quorums, copying, declaring.

use planner::Group;
use types::{OsdId, PgKey, Quorum};

use crate::checks::{majority_of, servers_of};
use crate::world::World;

impl World {
    /// One round of everything that goes on between two plans.
    pub(crate) fn move_data(&mut self) -> Result<(), String> {
        let keys: Vec<PgKey> = self.picture.groups.keys().copied().collect();
        for key in keys {
            if self.is_served(key)? {
                self.copy(key);
                if self.writing && self.rng.once_in(2) {
                    self.write(key);
                }
            }
            self.declare(key);
        }
        Ok(())
    }

    fn record(&self, key: PgKey) -> &Group {
        self.picture.groups.get(&key).unwrap()
    }

    /// Whether the set that answers for the data has a majority of votes. It must know then what was
    /// acknowledged.
    fn is_served(&self, key: PgKey) -> Result<bool, String> {
        let (record, data) = (self.record(key), &self.data[&key]);
        let set = servers_of(record);
        let votes = |osd: &&OsdId| self.is_up(**osd) && !data.blank.contains(osd);
        let voters: Vec<&OsdId> = set.iter().filter(votes).collect();
        if voters.len() < majority_of(set) {
            return Ok(false);
        }
        if !voters.iter().any(|osd| data.is_current(**osd)) {
            return Err(format!(
                "{key}: a majority {voters:?} misses what was acknowledged"
            ));
        }
        Ok(true)
    }

    /// Copies that are behind catch up, each at some time, if the server is well and there is room.
    fn copy(&mut self, key: PgKey) {
        let whole = self.record(key).bytes;
        let copies: Vec<(OsdId, u64)> = self.data[&key]
            .copies
            .iter()
            .map(|(osd, version)| (*osd, *version))
            .collect();
        for (osd, version) in copies {
            let data = &self.data[&key];
            let lacks = !data.is_current(osd);
            let rounds = if version == 0 { 4 } else { 2 };
            let works = self.is_up(osd) && !self.ill.contains(&osd);
            if !lacks || !works || !self.rng.once_in(rounds) {
                continue;
            }
            let present = data.present.get(&osd).copied().unwrap_or(0);
            let part = self.rng.between(whole / 3 + 1, whole + 1);
            let more = whole.saturating_sub(present).min(part).min(self.free(osd));
            let data = self.data.get_mut(&key).unwrap();
            data.present.insert(osd, present + more);
            if present + more >= whole {
                data.copies.insert(osd, data.committed);
                data.blank.remove(&osd);
                let record = self.picture.groups.get_mut(&key).unwrap();
                record.incomplete.remove(&osd);
            } else if more == 0 {
                // Its disk is full.
                continue;
            }
            self.note_progress(key, osd);
        }
    }

    /// A write that reaches just enough copies, or some more.
    fn write(&mut self, key: PgKey) {
        let record = self.record(key).clone();
        let data = self.data.get_mut(&key).unwrap();
        let servers = &self.picture.servers;
        let up = |osd: &OsdId| {
            let server = servers.get(osd);
            server.is_some_and(|server| server.state == planner::State::Up)
        };
        let mut reached: Vec<OsdId> = data.copies.keys().copied().collect();
        reached.retain(|osd| up(osd) && data.is_current(*osd));
        if !is_quorum(&record, &reached) {
            return;
        }
        for _ in 0..self.rng.below(4) {
            let mut fewer = reached.clone();
            fewer.remove(self.rng.below(fewer.len() as u64) as usize);
            if is_quorum(&record, &fewer) {
                reached = fewer;
            }
        }
        data.committed += 1;
        for osd in reached {
            data.copies.insert(osd, data.committed);
        }
        if self.rng.once_in(10) {
            self.grow_by(key, 1);
        }
    }

    /// A group and all that was copied of it becomes larger.
    pub(crate) fn grow_by(&mut self, key: PgKey, bytes: u64) {
        self.picture.groups.get_mut(&key).unwrap().bytes += bytes;
        let data = self.data.get_mut(&key).unwrap();
        for (osd, version) in &data.copies {
            if *version > 0 {
                *data.present.entry(*osd).or_insert(0) += bytes;
            }
        }
    }

    /// Members that hold everything say so, each at some time.
    fn declare(&mut self, key: PgKey) {
        let settling: Vec<OsdId> = self.record(key).settling.iter().copied().collect();
        for osd in settling {
            let well = self.is_up(osd) && !self.ill.contains(&osd);
            if well && self.data[&key].is_current(osd) && self.rng.once_in(2) {
                let record = self.picture.groups.get_mut(&key).unwrap();
                record.settling.remove(&osd);
                self.note_progress(key, osd);
            }
        }
    }
}

/// Whether `reached` is a majority of each set.
fn is_quorum(record: &Group, reached: &[OsdId]) -> bool {
    let has = |set: &[OsdId]| {
        let count = set.iter().filter(|osd| reached.contains(osd)).count();
        set.is_empty() || count >= Quorum::Majority.of(set.len())
    };
    !reached.is_empty() && has(&record.members) && has(&record.previous)
}
