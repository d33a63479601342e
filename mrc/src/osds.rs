//! What the leader remembers of object servers: when they were heard and what they reported.

mod groups;
mod map;
mod space;

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::index::OsdRecord;
use proto::mrc::{self, OsdHeartbeat, PgReport};
use types::{Fault, OsdId};

pub(crate) use self::map::MapCache;
use crate::consensus::LeaderId;
use crate::log_writer::lock;

/// Object servers as the leader knows them.
#[derive(Debug, Default)]
pub(crate) struct Osds(
    Mutex<HashMap<OsdId, Soft>>,
    Mutex<Option<Leadership>>,
    /// Bytes that servers have sent to bring copies up, as far as it was heard.
    AtomicU64,
);

/// Who leads, and since when as far as this server has seen.
type Leadership = (LeaderId, Instant);

#[derive(Debug)]
struct Soft {
    heard: Instant,
    store_uuid: String,
    capacity_bytes: u64,
    free_bytes: u64,
    file_system: String,
    pool: Option<mrc::PoolState>,
    /// Version of the map it has taken.
    map_version: u64,
    /// Addresses of metadata servers that it was told last.
    told: Vec<String>,
    /// Bytes it had sent to bring copies up.
    repaired_bytes: u64,
    pid: u64,
    /// What copies take that it is about to delete.
    leftover_bytes: u64,
    /// When it was first heard that it takes no change.
    failed_since: Option<Instant>,
    reports: HashMap<(u64, u32), PgReport>,
}

/// What the newest heartbeat of a server said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub up: bool,
    pub age: Duration,
    pub capacity_bytes: u64,
    pub free_bytes: u64,
    pub objects_behind: u64,
    /// The process.
    pub pid: u64,
    /// What replicas take, those that are to be deleted included; none unless all were counted.
    pub data_bytes: Option<u64>,
    /// How long it has taken no change, since a write to its disk failed.
    pub failed_for: Option<Duration>,
}

impl Osds {
    /// Whether a server may take its id, which has been that of `known`: not while another store's
    /// server is alive, which must listen somewhere else then.
    pub(crate) fn admit(
        &self,
        beat: &OsdHeartbeat,
        known: Option<&OsdRecord>,
        leader: LeaderId,
        timeout: Duration,
    ) -> Result<(), Fault> {
        let since = self.leads_since(leader);
        let Some(known) = known
            .filter(|known| known.store_uuid != beat.store_uuid && known.address != beat.address)
        else {
            return Ok(());
        };
        let osds = lock(&self.0);
        let alive = osds.get(&OsdId(beat.osd)).is_some_and(|soft| {
            soft.store_uuid == known.store_uuid && soft.heard.elapsed() < timeout
        });
        if alive {
            let text = format!(
                "object server {} is running already, at {} in {}; give this one another `id`, or \
                 stop that one and start this one {} s later",
                beat.osd,
                known.address,
                known.dir,
                timeout.as_secs_f64()
            );
            return Err(Fault::surface(libc::EEXIST, text));
        }
        if since.elapsed() < timeout {
            return Err(Fault::retry(format!(
                "object server {} was known with another store, which may still be heard",
                beat.osd
            )));
        }
        Ok(())
    }

    /// Since when this leader leads, as far as it was asked before.
    pub(crate) fn leads_since(&self, leader: LeaderId) -> Instant {
        let mut leadership = lock(&self.1);
        match *leadership {
            Some((id, since)) if id == leader => since,
            _ => leadership.insert((leader, Instant::now())).1,
        }
    }

    pub(crate) fn heard(&self, beat: &OsdHeartbeat) {
        let reports = beat
            .pgs
            .iter()
            .map(|report| ((report.volume, report.pg), report.clone()));
        let soft = Soft {
            heard: Instant::now(),
            store_uuid: beat.store_uuid.clone(),
            capacity_bytes: beat.capacity_bytes,
            free_bytes: beat.free_bytes,
            file_system: beat.file_system.clone(),
            pool: beat.pool.clone(),
            map_version: beat.map_version,
            told: Vec::new(),
            repaired_bytes: beat.repaired_bytes,
            pid: beat.pid,
            leftover_bytes: beat.leftover_bytes,
            failed_since: beat.store_failed.then(Instant::now),
            reports: reports.collect(),
        };
        let mut osds = lock(&self.0);
        if let Some(before) = osds.insert(OsdId(beat.osd), soft)
            && let Some(soft) = osds.get_mut(&OsdId(beat.osd))
            && before.store_uuid == soft.store_uuid
        {
            soft.told = before.told;
            if before.pid == soft.pid {
                let since = before.failed_since;
                soft.failed_since = soft.failed_since.map(|now| since.unwrap_or(now));
            }
            // Less than before: it was restarted.
            let sent = soft.repaired_bytes.checked_sub(before.repaired_bytes);
            self.2
                .fetch_add(sent.unwrap_or(soft.repaired_bytes), Ordering::Relaxed);
        }
    }

    /// Bytes that servers have sent to bring copies up since this server was heard of first.
    pub(crate) fn repaired_bytes(&self) -> u64 {
        self.2.load(Ordering::Relaxed)
    }

    /// The server was told these addresses of metadata servers.
    pub(crate) fn told(&self, osd: OsdId, addresses: &[String]) {
        if let Some(soft) = lock(&self.0).get_mut(&osd) {
            addresses.clone_into(&mut soft.told);
        }
    }

    /// How many servers that are up were told others, or nothing yet by this leader.
    pub(crate) fn untold(&self, addresses: &[String], timeout: Duration) -> usize {
        let osds = lock(&self.0);
        let up = osds.values().filter(|soft| soft.heard.elapsed() < timeout);
        up.filter(|soft| soft.told != addresses).count()
    }

    /// `None`: not since this server leads.
    pub(crate) fn get(&self, osd: OsdId, timeout: Duration) -> Option<Heard> {
        let osds = lock(&self.0);
        let soft = osds.get(&osd)?;
        let age = soft.heard.elapsed();
        Some(Heard {
            up: age < timeout,
            age,
            capacity_bytes: soft.capacity_bytes,
            free_bytes: soft.free_bytes,
            objects_behind: soft
                .reports
                .values()
                .map(|report| report.objects_behind)
                .sum(),
            pid: soft.pid,
            data_bytes: soft.data_bytes(),
            failed_for: soft.failed_since.map(|since| since.elapsed()),
        })
    }

    /// How many servers are up, and how many were heard before and are not now.
    pub(crate) fn heard_count(&self, timeout: Duration) -> (usize, usize) {
        let osds = lock(&self.0);
        let up = osds.values().filter(|soft| soft.heard.elapsed() < timeout);
        let up = up.count();
        (up, osds.len() - up)
    }

    /// How the pool of a server's store is, by its newest heartbeat.
    pub(crate) fn pool(&self, osd: OsdId) -> Option<mrc::PoolState> {
        lock(&self.0).get(&osd)?.pool.clone()
    }

    /// Members of these groups that have not told that they know a map as new as `version`.
    pub(crate) fn outdated(&self, pgs: &[mrc::Pg], version: u64) -> Vec<u64> {
        let osds = lock(&self.0);
        let members: BTreeSet<u64> = pgs.iter().flat_map(|pg| &pg.osds).copied().collect();
        let knows = |osd: &u64| {
            let soft = osds.get(&OsdId(*osd));
            soft.is_some_and(|soft| soft.map_version >= version)
        };
        members.into_iter().filter(|osd| !knows(osd)).collect()
    }

    /// A server that is up and knows a newer map than `version`, and which.
    pub(crate) fn ahead_of(&self, version: u64, timeout: Duration) -> Option<(OsdId, u64)> {
        let osds = lock(&self.0);
        let up = osds
            .iter()
            .filter(|(_, soft)| soft.heard.elapsed() < timeout);
        let ahead = up.filter(|(_, soft)| soft.map_version > version);
        ahead.map(|(osd, soft)| (*osd, soft.map_version)).min()
    }

    pub(crate) fn up(&self, timeout: Duration) -> Vec<OsdId> {
        let osds = lock(&self.0);
        let up = osds
            .iter()
            .filter(|(_, soft)| soft.heard.elapsed() < timeout);
        let mut up: Vec<_> = up.map(|(osd, _)| *osd).collect();
        up.sort_unstable();
        up
    }
}

impl Soft {
    fn data_bytes(&self) -> Option<u64> {
        let sizes = self.reports.values().map(|report| report.size);
        let mut bytes = self.leftover_bytes;
        for size in sizes {
            bytes = bytes.saturating_add(size?.bytes);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests;
