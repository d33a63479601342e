//! What the leader remembers of object servers: when they were heard and what they reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mrc_core::{IndexError, IndexRead, query};
use proto::index::OsdRecord;
use proto::mrc::{self, OsdHeartbeat, OsdMap, PgReport, PgState, Replica};
use types::{Fault, OsdId, PgId, VolumeId};

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
}

/// How a placement group does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct PgHealth {
    /// Members that are up and up to date.
    pub full_replicas: u32,
    /// All of them are.
    pub full: bool,
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
            reports: reports.collect(),
        };
        let mut osds = lock(&self.0);
        if let Some(before) = osds.insert(OsdId(beat.osd), soft)
            && let Some(soft) = osds.get_mut(&OsdId(beat.osd))
            && before.store_uuid == soft.store_uuid
        {
            soft.told = before.told;
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

    /// Capacity and free bytes of these servers. A file system that several of them share counts
    /// once; a server that is not heard has its capacity and nothing free.
    pub(crate) fn space(
        &self,
        servers: impl Iterator<Item = (OsdId, u64)>,
        timeout: Duration,
    ) -> (u64, u64) {
        let osds = lock(&self.0);
        let mut shared: HashMap<&str, (u64, u64)> = HashMap::new();
        let (mut capacity, mut free) = (0_u64, 0_u64);
        for (osd, capacity_bytes) in servers {
            let soft = osds.get(&osd);
            let heard = soft.filter(|soft| soft.heard.elapsed() < timeout);
            let free_bytes = heard.map_or(0, |soft| soft.free_bytes);
            match soft.map_or("", |soft| &soft.file_system) {
                "" => {
                    capacity = capacity.saturating_add(capacity_bytes);
                    free = free.saturating_add(free_bytes);
                }
                name => {
                    let (most, most_free) = shared.entry(name).or_default();
                    *most = capacity_bytes.max(*most);
                    *most_free = free_bytes.max(*most_free);
                }
            }
        }
        for (capacity_bytes, free_bytes) in shared.into_values() {
            capacity = capacity.saturating_add(capacity_bytes);
            free = free.saturating_add(free_bytes);
        }
        (capacity, free)
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

    /// How far the members of a group are behind, by what the primaries of its objects reported.
    pub(crate) fn lags(&self, pg: &mrc::Pg, timeout: Duration) -> Vec<mrc::ReplicaLag> {
        let osds = lock(&self.0);
        let heard = pg.osds.iter().filter_map(|osd| osds.get(&OsdId(*osd)));
        let heard = heard.filter(|soft| soft.heard.elapsed() < timeout);
        let reports = heard.filter_map(|soft| soft.reports.get(&(pg.volume, pg.pg)));
        let mut lags: BTreeMap<u64, mrc::ReplicaLag> = BTreeMap::new();
        for lag in reports.flat_map(|report| &report.lags) {
            // Each is primary of other objects of the group.
            let whole = lags.entry(lag.osd).or_insert(mrc::ReplicaLag {
                osd: lag.osd,
                ..mrc::ReplicaLag::default()
            });
            whole.bytes = whole.bytes.saturating_add(lag.bytes);
            whole.age_ms = whole.age_ms.max(lag.age_ms);
        }
        lags.into_values().collect()
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

    /// Judges groups by what their members reported of their current view.
    pub(crate) fn health(&self, pgs: &[mrc::Pg], timeout: Duration) -> Vec<PgHealth> {
        let osds = lock(&self.0);
        pgs.iter()
            .map(|pg| {
                let reports = pg.osds.iter().map(|osd| {
                    let soft = osds
                        .get(&OsdId(*osd))
                        .filter(|soft| soft.heard.elapsed() < timeout)?;
                    let report = soft.reports.get(&(pg.volume, pg.pg))?;
                    (report.view == pg.view).then_some((*osd, report))
                });
                let mut full_replicas = 0;
                let mut lagging = false;
                for (osd, report) in reports.flatten() {
                    lagging |= !report.lagging.is_empty();
                    let full = report.state() == PgState::PgFull
                        && report.objects_behind == 0
                        && !pg.incomplete.contains(&osd);
                    full_replicas += u32::from(full);
                }
                PgHealth {
                    full_replicas,
                    full: full_replicas as usize == pg.osds.len()
                        && pg.previous.is_empty()
                        && !lagging,
                }
            })
            .collect()
    }
}

/// The map of object servers as grants and heartbeats need it, remade when its version changes.
#[derive(Debug, Default)]
pub(crate) struct MapCache(Mutex<Arc<Map>>);

#[derive(Debug, Default)]
pub(crate) struct Map {
    pub version: u64,
    pub whole: OsdMap,
    pgs: BTreeMap<(VolumeId, PgId), (u64, Vec<Replica>)>,
}

impl MapCache {
    pub(crate) fn get(&self, index: &dyn IndexRead) -> Result<Arc<Map>, IndexError> {
        let version = query::map_version(index)?;
        let mut cached = lock(&self.0);
        if cached.version != version {
            *cached = Arc::new(Map::new(query::osd_map(index)?));
        }
        Ok(Arc::clone(&cached))
    }
}

impl Map {
    fn new(whole: OsdMap) -> Self {
        let addresses: BTreeMap<u64, &Replica> = whole
            .osds
            .iter()
            .map(|replica| (replica.osd, replica))
            .collect();
        let pgs = whole
            .pgs
            .iter()
            .map(|pg| {
                let replicas = pg
                    .osds
                    .iter()
                    .filter_map(|osd| addresses.get(osd).copied().cloned());
                let key = (VolumeId(pg.volume), PgId(pg.pg));
                (key, (pg.view, replicas.collect()))
            })
            .collect();
        Self {
            version: whole.version,
            whole,
            pgs,
        }
    }

    /// View and replicas of a group.
    pub(crate) fn pg(&self, volume: VolumeId, pg: PgId) -> Result<(u64, &[Replica]), Fault> {
        match self.pgs.get(&(volume, pg)) {
            Some((view, replicas)) => Ok((*view, replicas)),
            None => Err(Fault::refresh(format!(
                "placement group {volume}.{pg} does not exist"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn beat(osd: u64, report: PgReport) -> OsdHeartbeat {
        OsdHeartbeat {
            osd,
            pgs: vec![report],
            ..OsdHeartbeat::default()
        }
    }

    fn report(view: u64, state: PgState) -> PgReport {
        PgReport {
            volume: 1,
            pg: 2,
            view,
            state: state.into(),
            ..PgReport::default()
        }
    }

    fn pg() -> mrc::Pg {
        mrc::Pg {
            volume: 1,
            pg: 2,
            view: 4,
            osds: vec![1, 2],
            ..mrc::Pg::default()
        }
    }

    fn health(osds: &Osds, pg: mrc::Pg) -> (u32, bool) {
        let health = osds.health(&[pg], LONG).remove(0);
        (health.full_replicas, health.full)
    }

    #[test]
    fn group_is_full_only_when_every_member_says_so_of_the_current_view() {
        let osds = Osds::default();
        assert_eq!(health(&osds, pg()), (0, false));
        osds.heard(&beat(1, report(4, PgState::PgFull)));
        assert_eq!(health(&osds, pg()), (1, false));
        osds.heard(&beat(2, report(3, PgState::PgFull)));
        assert_eq!(health(&osds, pg()), (1, false));
        osds.heard(&beat(2, report(4, PgState::PgRecovering)));
        assert_eq!(health(&osds, pg()), (1, false));
        osds.heard(&beat(2, report(4, PgState::PgFull)));
        assert_eq!(health(&osds, pg()), (2, true));
    }

    #[test]
    fn another_store_takes_an_id_only_when_the_known_one_is_silent_or_gone_from_its_address() {
        let leader = |term| LeaderId { term, node_id: 1 };
        let beat = |store_uuid: &str, address: &str| OsdHeartbeat {
            osd: 2,
            store_uuid: store_uuid.to_owned(),
            address: address.to_owned(),
            ..OsdHeartbeat::default()
        };
        let known = OsdRecord {
            store_uuid: "old".to_owned(),
            address: "a:1".to_owned(),
            dir: "/old".to_owned(),
            ..OsdRecord::default()
        };
        let osds = Osds::default();
        let admit = |beat: &OsdHeartbeat, term, timeout| {
            let admitted = osds.admit(beat, Some(&known), leader(term), timeout);
            admitted.map_err(|fault| fault.errno)
        };
        let new = beat("new", "a:2");
        assert!(osds.admit(&new, None, leader(1), LONG).is_ok());

        // The leader is too new to know.
        assert_eq!(admit(&new, 1, LONG), Err(libc::EAGAIN));
        osds.heard(&beat("old", "a:1"));
        assert_eq!(admit(&new, 1, LONG), Err(libc::EEXIST));
        assert_eq!(admit(&beat("old", "a:9"), 1, LONG), Ok(()));
        assert_eq!(admit(&beat("new", "a:1"), 1, LONG), Ok(()));
        assert_eq!(admit(&new, 2, Duration::ZERO), Ok(()));
    }

    #[test]
    fn lags_of_a_member_are_those_of_all_primaries_together() {
        let osds = Osds::default();
        let lag = |osd, bytes, age_ms| mrc::ReplicaLag { osd, bytes, age_ms };
        let tells = |lags: &[mrc::ReplicaLag]| PgReport {
            lags: lags.to_vec(),
            ..report(4, PgState::PgFull)
        };
        let pg = mrc::Pg {
            osds: vec![1, 2, 3],
            ..pg()
        };
        osds.heard(&beat(1, tells(&[lag(2, 10, 5), lag(3, 1, 1)])));
        osds.heard(&beat(2, tells(&[lag(3, 7, 9)])));

        assert_eq!(osds.lags(&pg, LONG), [lag(2, 10, 5), lag(3, 8, 9)]);
        assert_eq!(osds.lags(&pg, Duration::ZERO), []);
    }

    #[test]
    fn server_is_outdated_until_it_reports_the_map() {
        let osds = Osds::default();
        let beat = |osd, map_version| OsdHeartbeat {
            osd,
            map_version,
            ..OsdHeartbeat::default()
        };
        osds.heard(&beat(1, 7));
        assert_eq!(osds.outdated(&[pg()], 7), [2]);
        assert_eq!(osds.outdated(&[pg()], 8), [1, 2]);
        osds.heard(&beat(2, 8));
        assert_eq!(osds.outdated(&[pg()], 8), [1]);
    }

    #[test]
    fn shared_file_system_counts_once() {
        let osds = Osds::default();
        for (osd, file_system, free_bytes) in [(1, "a", 10), (2, "a", 11), (3, "b", 7), (4, "", 1)]
        {
            osds.heard(&OsdHeartbeat {
                osd,
                file_system: file_system.to_owned(),
                free_bytes,
                ..OsdHeartbeat::default()
            });
        }
        let servers = || (1..=5).map(|osd| (OsdId(osd), 100));

        let hour = Duration::from_secs(3600);
        assert_eq!(osds.space(servers(), hour), (400, 19));
        assert_eq!(osds.space(servers(), Duration::ZERO), (400, 0));
    }

    #[test]
    fn incomplete_behind_lagging_or_silent_members_make_it_degraded() {
        let osds = Osds::default();
        osds.heard(&beat(1, report(4, PgState::PgFull)));
        osds.heard(&beat(2, report(4, PgState::PgFull)));

        let incomplete = mrc::Pg {
            incomplete: vec![2],
            ..pg()
        };
        assert_eq!(health(&osds, incomplete), (1, false));
        assert!(!osds.health(&[pg()], Duration::ZERO).remove(0).full);

        let mut lagging = report(4, PgState::PgFull);
        lagging.lagging = vec![2];
        osds.heard(&beat(1, lagging));
        assert_eq!(health(&osds, pg()), (2, false));

        let mut behind = report(4, PgState::PgFull);
        behind.objects_behind = 1;
        osds.heard(&beat(1, behind));
        assert_eq!(health(&osds, pg()), (1, false));
    }
}
