//! Keeps every placement group at the replicas it should have: the leader asks the planner what to do
//! next and proposes it. What runs is in the replicated records, so the next leader goes on with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mrc_core::{IndexError, IndexRead, query};
use planner::{Act, Group, Limits, Picture, Report, Server, State, Wish};
use proto::index::command::Op;
use proto::index::{ChangePg, EndPgChange, JobsRecord, OsdDown, OsdRecord};
use proto::mrc;
use shell::clock::boottime;
use types::{Instant, OsdId, PgId, PgKey, UnixNanos, VolumeId};

use crate::config::{ILL_PATIENCE_LEAST, PLAN_AFTER_ACT, PLAN_INTERVAL, PLANNED_ACTS_MAX};
use crate::door::Service;
use crate::log_writer::lock;
use crate::pacing::{Pacing, Rate};
use crate::progress::Progress;

/// Runs for ever; does something only while this server leads.
pub(crate) async fn run(service: Arc<Service>) {
    let mut progress = Progress::default();
    loop {
        let busy = match round(&service, &mut progress).await {
            Ok(busy) => busy,
            Err(error) => {
                tracing::error!(%error, "the redundancy of the replicas can't be looked after");
                false
            }
        };
        tokio::time::sleep(match busy {
            true => PLAN_AFTER_ACT,
            false => PLAN_INTERVAL,
        })
        .await;
    }
}

/// Plans once and does it; returns whether there is more to come soon.
async fn round(service: &Service, progress: &mut Progress) -> Result<bool, IndexError> {
    let Ok(leader) = service.node.leading() else {
        *progress = Progress::default();
        service.set_redundancy(None);
        *lock(&service.pacing) = None;
        *lock(&service.rate) = Rate::default();
        return Ok(false);
    };
    let since = service.osds.leads_since(leader);
    // Before that nobody can be told from a server that has not reported yet.
    if since.elapsed() < service.config.osd_timeout() {
        return Ok(false);
    }
    let index = Arc::clone(service.node.index());
    let restored = query::restored(&*index)?;
    if restored.restored && !restored.finished {
        return Ok(false);
    }
    let silent = fallen_silent(service, &*index)?;
    note_down(service, silent).await;
    let jobs = query::jobs(&*index)?;
    look(service, &*index, progress, jobs.paused)?;
    let picture = picture(service, &*index, since, progress)?;
    pace(service, &*index, &picture, &jobs)?;
    let limits = Limits {
        paused: jobs.paused,
        ..service.config.limits()
    };
    let plan = planner::plan(&picture, boottime(), &limits);
    let busy = plan.report.changing_count > 0 || !plan.acts.is_empty();
    service.set_redundancy(Some(plan.report));
    for act in plan.acts.into_iter().take(PLANNED_ACTS_MAX) {
        perform(service, &act).await?;
    }
    Ok(busy)
}

/// Servers that fell silent, which is not noted yet.
fn fallen_silent(service: &Service, index: &dyn IndexRead) -> Result<Vec<OsdId>, IndexError> {
    let timeout = service.config.osd_timeout();
    let known = query::osds(index)?.into_iter();
    let silent = known.filter(|(osd, record)| {
        let heard = service.osds.get(*osd, timeout);
        record.down_since_ns == 0 && !heard.is_some_and(|heard| heard.up)
    });
    let silent = silent.map(|(osd, _)| osd);
    Ok(silent.take(PLANNED_ACTS_MAX).collect())
}

/// Remembers that they are, for leaders to come.
async fn note_down(service: &Service, silent: Vec<OsdId>) {
    for osd in silent {
        let op = Op::OsdDown(OsdDown { osd: osd.0 });
        if let Err(fault) = service.node.propose_internal(op).await {
            tracing::debug!(%osd, %fault, "could not note that an object server is down");
        }
    }
}

/// Looks who gets on with what it has to do.
fn look(
    service: &Service,
    index: &dyn IndexRead,
    progress: &mut Progress,
    is_paused: bool,
) -> Result<(), IndexError> {
    let timeout = service.config.osd_timeout();
    let pgs = query::pgs(index, None)?;
    let unfinished = service.osds.unfinished(&pgs, timeout);
    let up = service.osds.up(timeout).into_iter();
    let up = up.filter_map(|osd| Some((osd, service.osds.get(osd, timeout)?.pid)));
    progress.look(boottime(), &up.collect(), &unfinished, is_paused);
    Ok(())
}

/// Looks who has copies to bring up, and how fast that may be.
fn pace(
    service: &Service,
    index: &dyn IndexRead,
    picture: &Picture,
    jobs: &JobsRecord,
) -> Result<(), IndexError> {
    let pgs = query::pgs(index, None)?;
    let health = service.osds.health(&pgs, service.config.osd_timeout());
    let unfinished = pgs.iter().zip(health).filter(|(_, health)| !health.full);
    let unfinished = unfinished.map(|(pg, _)| PgKey {
        volume: VolumeId(pg.volume),
        pg: PgId(pg.pg),
    });
    let pacing = Pacing::plan(picture, jobs, unfinished);
    *lock(&service.pacing) = Some(Arc::new(pacing));
    let total = service.osds.repaired_bytes();
    lock(&service.rate).note(std::time::Instant::now(), total);
    Ok(())
}

async fn perform(service: &Service, act: &Act) -> Result<(), IndexError> {
    let op = match act {
        Act::Begin {
            group,
            view,
            members,
            reason,
        }
        | Act::Retarget {
            group,
            view,
            members,
            reason,
        } => {
            let members: Vec<u64> = members.iter().map(|osd| osd.0).collect();
            tracing::info!(%group, %reason, ?members, "the replica set is to change");
            Op::ChangePg(ChangePg {
                volume: group.volume.0,
                pg: group.pg.0,
                view: *view,
                osds: members,
            })
        }
        Act::End { group, view } => {
            let index = &**service.node.index();
            let record = query::pg(index, group.volume, group.pg)?;
            if !record.is_some_and(|record| mrc_core::change_may_end(&record)) {
                // Servers of the set before have not said yet that they know of the change.
                return Ok(());
            }
            tracing::info!(%group, "the replica set has changed");
            Op::EndPgChange(EndPgChange {
                volume: group.volume.0,
                pg: group.pg.0,
                view: *view,
            })
        }
    };
    if let Err(fault) = service.node.propose_internal(op).await {
        tracing::debug!(?act, %fault, "planned, but not so any more");
    }
    Ok(())
}

fn picture(
    service: &Service,
    index: &dyn IndexRead,
    since: std::time::Instant,
    progress: &Progress,
) -> Result<Picture, IndexError> {
    let mut picture = Picture::default();
    for (osd, record) in query::osds(index)? {
        let mut server = server(service, (osd, record), since);
        server.idle_since = progress.server_idle_since(osd);
        picture.servers.insert(osd, server);
    }
    let mut volumes: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
    for volume in query::volumes(index)? {
        let share = volume.size_bytes / u64::from(volume.pgs.max(1));
        volumes.insert(volume.volume, (volume.replicas as usize, share));
    }
    for pg in query::pgs(index, None)? {
        // Those of deleted volumes are left as they are.
        let Some((replicas, share)) = volumes.get(&pg.volume).copied() else {
            continue;
        };
        let key = PgKey {
            volume: VolumeId(pg.volume),
            pg: PgId(pg.pg),
        };
        let sizes = service.osds.sizes(&pg);
        let held: BTreeMap<OsdId, u64> = sizes.iter().map(|(osd, it)| (*osd, it.bytes)).collect();
        let bytes = bytes_of(&pg, &held, share);
        let mut group = Group {
            view: pg.view,
            members: pg.osds.into_iter().map(OsdId).collect(),
            previous: pg.previous.into_iter().map(OsdId).collect(),
            settling: pg.settling.into_iter().map(OsdId).collect(),
            incomplete: pg.incomplete.into_iter().map(OsdId).collect(),
            bytes,
            held,
            idle_since: BTreeMap::new(),
            replicas,
        };
        for osd in group.members.iter().chain(&group.previous) {
            if let Some(since) = progress.idle_since(key, *osd) {
                group.idle_since.insert(*osd, since);
            }
        }
        picture.groups.insert(key, group);
    }
    Ok(picture)
}

/// The largest replica that should be complete; while none was counted, an even share of its volume.
fn bytes_of(pg: &mrc::Pg, held: &BTreeMap<OsdId, u64>, share: u64) -> u64 {
    let complete = match pg.previous.is_empty() {
        true => &pg.osds,
        false => &pg.previous,
    };
    let complete = complete.iter().filter(|osd| !pg.incomplete.contains(osd));
    let counted = complete.filter_map(|osd| held.get(&OsdId(*osd)).copied());
    counted.max().unwrap_or(share)
}

/// A server as it is heard, by a leader that has led since then.
fn server(
    service: &Service,
    (osd, record): (OsdId, OsdRecord),
    since: std::time::Instant,
) -> Server {
    let (now, wall) = (boottime(), service.node.now());
    let heard = service.osds.get(osd, service.config.osd_timeout());
    let silent = heard.map_or_else(|| since.elapsed(), |heard| heard.age);
    let silent = silent.max(down_for(record.down_since_ns, wall));
    let failed_for = heard.and_then(|heard| heard.failed_for);
    let state = match (heard.is_some_and(|heard| heard.up), failed_for) {
        (true, None) => State::Up,
        (true, Some(failed_for)) => State::Failed {
            since: before(now, failed_for),
        },
        (false, _) => State::Down {
            since: before(now, silent),
        },
    };
    Server {
        location: record.location,
        capacity_bytes: record.capacity_bytes,
        free_bytes: heard.map_or(0, |heard| heard.free_bytes),
        data_bytes: heard.and_then(|heard| heard.data_bytes),
        idle_since: None,
        state,
        wish: match record.draining {
            true => Wish::Drain,
            false => Wish::Keep,
        },
    }
}

/// For how long a server has been down by what leaders have noted, whose clocks may have differed.
fn down_for(down_since_ns: i64, now: UnixNanos) -> Duration {
    let nanos = match down_since_ns {
        0 => 0,
        since => u64::try_from(now.0.saturating_sub(since)).unwrap_or(0),
    };
    Duration::from_nanos(nanos)
}

fn before(now: Instant, silent: Duration) -> Instant {
    let silent = u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX);
    Instant::from_nanos(now.as_nanos().saturating_sub(silent))
}

impl Service {
    /// What the newest plan found; none if this server does not lead, or leads for too short a time.
    pub(crate) fn redundancy(&self) -> Option<Arc<Report>> {
        crate::log_writer::lock(&self.redundancy).clone()
    }

    fn set_redundancy(&self, report: Option<Report>) {
        *crate::log_writer::lock(&self.redundancy) = report.map(Arc::new);
    }
}

impl crate::config::Config {
    /// What the planner keeps to.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            grace: types::Duration::from_millis(self.rescue_grace_ms),
            patience: types::Duration::from_millis(self.rescue_grace_ms).max(ILL_PATIENCE_LEAST),
            rebalance: self.rebalance,
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_as_large_as_its_largest_replica_that_should_be_complete() {
        let held = BTreeMap::from([(1, 90), (2, 100), (4, 300)].map(|(osd, it)| (OsdId(osd), it)));
        let mut pg = mrc::Pg {
            osds: vec![1, 2, 3],
            ..mrc::Pg::default()
        };
        assert_eq!(bytes_of(&pg, &held, 7), 100);
        pg.incomplete = vec![2];
        assert_eq!(bytes_of(&pg, &held, 7), 90);

        (pg.osds, pg.previous) = (vec![1, 2, 4], vec![1, 2, 3]);
        assert_eq!(bytes_of(&pg, &held, 7), 90, "4 is new");
        assert_eq!(bytes_of(&pg, &BTreeMap::new(), 7), 7);
    }
}
