//! What object servers reported of placement groups.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::mrc::{self, PgReport, PgState};
use types::{OsdId, PgId, PgKey, VolumeId};

use super::Osds;
use crate::log_writer::lock;
use crate::progress::Unfinished;

/// How a placement group does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct PgHealth {
    /// Members that are up and up to date.
    pub full_replicas: u32,
    /// All of them are.
    pub full: bool,
}

impl Osds {
    /// Replicas that servers receive as a whole, ascending by server and group.
    pub(crate) fn seedings(&self, timeout: Duration) -> Vec<mrc::Seeding> {
        let osds = lock(&self.0);
        let up = osds
            .iter()
            .filter(|(_, soft)| soft.heard.elapsed() < timeout);
        let reports =
            up.flat_map(|(osd, soft)| soft.reports.values().map(move |report| (osd, report)));
        let coming = reports.filter(|(_, report)| report.seed_total_bytes > 0);
        let mut seedings: Vec<_> = coming
            .map(|(osd, report)| mrc::Seeding {
                volume: report.volume,
                pg: report.pg,
                osd: osd.0,
                done_bytes: report.seed_done_bytes,
                total_bytes: report.seed_total_bytes,
            })
            .collect();
        seedings.sort_unstable_by_key(|one| (one.osd, one.volume, one.pg));
        seedings
    }

    /// What the members of either set of a group hold of it, as far as they have counted it.
    pub(crate) fn sizes(&self, pg: &mrc::Pg) -> Vec<(OsdId, mrc::ReplicaSize)> {
        let osds = lock(&self.0);
        let gone = pg.previous.iter().filter(|osd| !pg.osds.contains(osd));
        let members = pg.osds.iter().chain(gone).map(|osd| OsdId(*osd));
        let sizes = members.filter_map(|osd| {
            let report = osds.get(&osd)?.reports.get(&(pg.volume, pg.pg))?;
            Some((osd, report.size?))
        });
        sizes.collect()
    }

    /// What the servers that are up have not finished with: members that have not declared in the view of a
    /// change, and members that are not full in any other.
    pub(crate) fn unfinished(
        &self,
        pgs: &[mrc::Pg],
        timeout: Duration,
    ) -> BTreeMap<(PgKey, OsdId), Unfinished> {
        let osds = lock(&self.0);
        let mut unfinished = BTreeMap::new();
        for pg in pgs {
            let key = PgKey {
                volume: VolumeId(pg.volume),
                pg: PgId(pg.pg),
            };
            let changing = !pg.previous.is_empty();
            let either = pg.osds.iter().chain(&pg.previous);
            for osd in either {
                let up = osds
                    .get(&OsdId(*osd))
                    .filter(|soft| soft.heard.elapsed() < timeout);
                let Some(soft) = up else {
                    continue;
                };
                let report = soft.reports.get(&(pg.volume, pg.pg));
                let full = report.is_some_and(|report| is_full(pg, *osd, report));
                let waited_for = pg.settling.contains(osd) || pg.incomplete.contains(osd);
                if (changing && !waited_for) || (!changing && full) {
                    continue;
                }
                let state = Unfinished {
                    view: pg.view,
                    objects_behind: report.map_or(0, |report| report.objects_behind),
                    bytes: report
                        .and_then(|report| report.size)
                        .map_or(0, |size| size.bytes),
                };
                unfinished.insert((key, OsdId(*osd)), state);
            }
        }
        unfinished
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
                    full_replicas += u32::from(is_full(pg, osd, report));
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

/// Whether a member says, in the group's view, that it has everything.
fn is_full(pg: &mrc::Pg, osd: u64, report: &PgReport) -> bool {
    report.view == pg.view
        && report.state() == PgState::PgFull
        && report.objects_behind == 0
        && !pg.incomplete.contains(&osd)
}
