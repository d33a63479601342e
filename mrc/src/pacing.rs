//! How fast object servers may bring copies up, divided among those that have something to send, and of
//! which groups nothing more is begun while changes are paused.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use planner::{Group, Picture, State};
use proto::index::JobsRecord;
use proto::mrc::{HeldGroup, Pace};
use types::{OsdId, PgKey};

use crate::config::{PACE_LEAST_BYTES_PER_S, RATE_WINDOW, REPAIR_BYTES_PER_S_EACH};

/// What object servers are told, until the next look.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    bytes_per_s: u64,
    held: Vec<(PgKey, BTreeSet<OsdId>)>,
}

impl Pacing {
    /// Plans it. `unfinished` are the groups of which something is or may be copied.
    pub(crate) fn plan(
        picture: &Picture,
        jobs: &JobsRecord,
        unfinished: impl Iterator<Item = PgKey>,
    ) -> Self {
        let mut senders = BTreeSet::new();
        for key in unfinished {
            if let Some(group) = picture.groups.get(&key) {
                senders.extend(everybody(group).filter(|osd| is_up(picture, *osd)));
            }
        }
        let held = picture.groups.iter().filter(|(_, group)| {
            jobs.paused && !group.previous.is_empty() && complete(picture, group) > 1
        });
        let held = held.map(|(key, group)| (*key, everybody(group).collect()));
        Self {
            bytes_per_s: share(jobs.limit_bytes_per_s, senders.len()),
            held: held.collect(),
        }
    }

    /// What one server is told.
    pub(crate) fn of(&self, osd: OsdId) -> Pace {
        let held = self
            .held
            .iter()
            .filter(|(_, members)| members.contains(&osd));
        let held = held.map(|(key, _)| HeldGroup {
            volume: key.volume.0,
            pg: key.pg.0,
        });
        Pace {
            bytes_per_s: self.bytes_per_s,
            held: held.collect(),
        }
    }
}

/// Members of the set and of the one before.
fn everybody(group: &Group) -> impl Iterator<Item = OsdId> {
    group.members.iter().chain(&group.previous).copied()
}

fn is_up(picture: &Picture, osd: OsdId) -> bool {
    let server = picture.servers.get(&osd);
    server.is_some_and(|server| server.state == State::Up)
}

/// How many servers of a group are up with all its data.
fn complete(picture: &Picture, group: &Group) -> usize {
    let all: BTreeSet<OsdId> = everybody(group).collect();
    let complete = all.into_iter().filter(|osd| {
        let new = !group.previous.contains(osd);
        let declared = !group.settling.contains(osd);
        is_up(picture, *osd) && !group.incomplete.contains(osd) && (declared || !new)
    });
    complete.count()
}

/// One server's part of the cluster's limit.
fn share(limit_bytes_per_s: u64, senders: usize) -> u64 {
    match limit_bytes_per_s {
        0 => REPAIR_BYTES_PER_S_EACH,
        limit => (limit / senders.max(1) as u64).max(PACE_LEAST_BYTES_PER_S),
    }
}

/// How many bytes were sent, and how fast lately.
#[derive(Debug, Default)]
pub(crate) struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// So many bytes were sent until now.
    pub(crate) fn note(&mut self, now: Instant, total: u64) {
        self.0.push_back((now, total));
        let old = |at: &(Instant, u64)| now.duration_since(at.0) > RATE_WINDOW;
        while self.0.len() > 2 && self.0.get(1).is_some_and(old) {
            self.0.pop_front();
        }
    }

    /// Bytes per second over the window.
    pub(crate) fn bytes_per_s(&self) -> u64 {
        let (Some((begin, before)), Some((end, after))) = (self.0.front(), self.0.back()) else {
            return 0;
        };
        let time = end.duration_since(*begin).max(Duration::from_millis(1));
        let bytes = u128::from(after.saturating_sub(*before));
        u64::try_from(bytes * 1_000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
    }
}

/// Where what was planned hangs; none if this server does not lead, or leads for too short a time.
pub(crate) type Planned = Option<Arc<Pacing>>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use planner::{Server, Wish};
    use types::{Instant as Moment, PgId, VolumeId};

    use super::*;

    fn picture(up: &[u64], down: &[u64], group: Group) -> (Picture, PgKey) {
        let mut picture = Picture::default();
        let server = |state| Server {
            location: String::new(),
            capacity_bytes: 1,
            free_bytes: 1,
            data_bytes: None,
            idle_since: None,
            state,
            wish: Wish::Keep,
        };
        for osd in up {
            picture.servers.insert(OsdId(*osd), server(State::Up));
        }
        for osd in down {
            let since = Moment::ZERO;
            let state = State::Down { since };
            picture.servers.insert(OsdId(*osd), server(state));
        }
        let (volume, pg) = (VolumeId(1), PgId(0));
        let key = PgKey { volume, pg };
        picture.groups.insert(key, group);
        (picture, key)
    }

    fn changing(previous: &[u64], members: &[u64], settling: &[u64]) -> Group {
        let ids = |ids: &[u64]| ids.iter().copied().map(OsdId).collect();
        Group {
            view: 2,
            members: ids(members),
            previous: ids(previous),
            settling: settling.iter().copied().map(OsdId).collect(),
            incomplete: members
                .iter()
                .filter(|osd| !previous.contains(osd) && settling.contains(osd))
                .copied()
                .map(OsdId)
                .collect(),
            bytes: 0,
            held: BTreeMap::new(),
            idle_since: BTreeMap::new(),
            replicas: members.len(),
        }
    }

    #[test]
    fn limit_is_divided_among_the_servers_that_have_something_to_send() {
        let jobs = |limit_bytes_per_s| JobsRecord {
            paused: false,
            limit_bytes_per_s,
        };
        let group = changing(&[1, 2, 3], &[1, 2, 4], &[1, 2, 3, 4]);
        let (picture, key) = picture(&[1, 2, 4, 5, 6], &[3], group);
        let each = |limit, keys: &[PgKey]| {
            let pacing = Pacing::plan(&picture, &jobs(limit), keys.iter().copied());
            pacing.of(OsdId(1)).bytes_per_s
        };
        assert_eq!(
            each(300 << 20, &[key]),
            100 << 20,
            "3 is down, 5 and 6 are no members"
        );
        assert_eq!(each(300 << 20, &[]), 300 << 20);
        assert_eq!(each(0, &[key]), REPAIR_BYTES_PER_S_EACH);
        assert_eq!(each(1, &[key]), PACE_LEAST_BYTES_PER_S);
    }

    #[test]
    fn paused_change_is_held_unless_one_copy_is_left() {
        let jobs = JobsRecord {
            paused: true,
            limit_bytes_per_s: 0,
        };
        let held = |up: &[u64], down: &[u64], osd| {
            let group = changing(&[1, 2, 3], &[1, 2, 4], &[1, 2, 3, 4]);
            let (picture, _) = picture(up, down, group);
            let pacing = Pacing::plan(&picture, &jobs, std::iter::empty());
            pacing.of(OsdId(osd)).held.len()
        };
        assert_eq!(held(&[1, 2, 4, 5], &[3], 4), 1);
        assert_eq!(held(&[1, 2, 4, 5], &[3], 5), 0, "of no concern to it");
        assert_eq!(held(&[1, 4], &[2, 3], 4), 0, "only 1 has everything");
    }

    #[test]
    fn rate_is_that_of_the_window() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.bytes_per_s(), 0);
        for second in 0..30 {
            let bytes = if second < 15 {
                0
            } else {
                (second - 15) * 1_000
            };
            rate.note(begin + Duration::from_secs(second), bytes);
        }
        assert_eq!(rate.bytes_per_s(), 1_000);
    }
}
