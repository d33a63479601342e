//! Which object servers get nowhere with what they have to copy, compare or declare, as far as this leader
//! has seen.
//!
//! Progress is that fewer objects of a group are missing, that more bytes of it are there while some are
//! missing, or that the server has finished with it. One that works on another group is not idle: groups
//! have their turn one after the other. What a server that was restarted, or newly heard of, did before is
//! not held against it, nor is time in which copying is paused.

use std::collections::{BTreeMap, BTreeSet};

use types::{Duration, Instant, OsdId, PgKey};

/// How long a server that gave up nothing but its task is remembered as one that gets nowhere. 1 h: so seldom
/// is it tried again.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What a server says of a group that it has not finished with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unfinished {
    pub(crate) view: u64,
    /// Objects it lacks, as far as it knows.
    pub(crate) objects_behind: u64,
    /// Bytes that it has.
    pub(crate) bytes: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    tasks: BTreeMap<(PgKey, OsdId), (Unfinished, Instant)>,
    servers: BTreeMap<OsdId, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The process that was heard.
    pid: u64,
    idle_since: Option<Instant>,
    /// When it had something to do last.
    busy_at: Instant,
}

impl Progress {
    /// Takes note of what is unfinished now, on the servers that are up, which run as these processes.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        up: &BTreeMap<OsdId, u64>,
        unfinished: &BTreeMap<(PgKey, OsdId), Unfinished>,
        is_paused: bool,
    ) {
        self.servers.retain(|osd, seen| {
            let remembered = now.since(seen.busy_at) < REMEMBERED;
            up.get(osd) == Some(&seen.pid) && remembered
        });
        let mut moved: BTreeSet<OsdId> = BTreeSet::new();
        for ((group, osd), (before, _)) in &self.tasks {
            let is_left = unfinished.contains_key(&(*group, *osd));
            let mut others = unfinished.range((*group, OsdId(0))..=(*group, OsdId(u64::MAX)));
            // In a later view it may be no member any more: that was no success.
            if !is_left && others.all(|(_, other)| other.view == before.view) {
                moved.insert(*osd);
            }
        }
        let mut tasks = BTreeMap::new();
        for (task, state) in unfinished {
            let before = self.tasks.get(task);
            let since = match before {
                Some((before, since)) if !state.is_beyond(before) && before.view == state.view => {
                    *since
                }
                Some((before, _)) => {
                    if before.view == state.view {
                        moved.insert(task.1);
                    }
                    now
                }
                None => now,
            };
            tasks.insert(*task, (*state, since));
        }
        self.tasks = tasks;
        self.note_servers(now, up, &moved, is_paused);
    }

    fn note_servers(
        &mut self,
        now: Instant,
        up: &BTreeMap<OsdId, u64>,
        moved: &BTreeSet<OsdId>,
        is_paused: bool,
    ) {
        let mut working: BTreeMap<OsdId, Instant> = BTreeMap::new();
        for ((_, osd), (_, since)) in &mut self.tasks {
            let restarted = !self.servers.contains_key(osd);
            if is_paused || moved.contains(osd) || restarted {
                *since = now;
            }
            let earliest = working.entry(*osd).or_insert(*since);
            *earliest = (*earliest).min(*since);
        }
        for (osd, pid) in up {
            let seen = self.servers.entry(*osd).or_insert(Seen {
                pid: *pid,
                idle_since: None,
                busy_at: now,
            });
            match working.get(osd) {
                Some(since) => (seen.idle_since, seen.busy_at) = (Some(*since), now),
                None if moved.contains(osd) || is_paused => seen.idle_since = None,
                None => {}
            }
        }
    }

    /// Since when a server makes no progress with a group that it has not finished with.
    pub(crate) fn idle_since(&self, group: PgKey, osd: OsdId) -> Option<Instant> {
        self.tasks.get(&(group, osd)).map(|(_, since)| *since)
    }

    /// Since when a server has made no progress with anything; none if it had nothing to do.
    pub(crate) fn server_idle_since(&self, osd: OsdId) -> Option<Instant> {
        self.servers.get(&osd)?.idle_since
    }
}

impl Unfinished {
    /// Whether something was done between the two.
    const fn is_beyond(&self, before: &Self) -> bool {
        // With nothing missing, growth is what programs write.
        let copies = before.objects_behind > 0 && self.bytes > before.bytes;
        self.objects_behind < before.objects_behind || copies
    }
}

#[cfg(test)]
mod tests {
    use types::{PgId, VolumeId};

    use super::*;

    fn group(pg: u32) -> PgKey {
        PgKey {
            volume: VolumeId(1),
            pg: PgId(pg),
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn state(view: u64, objects_behind: u64, bytes: u64) -> Unfinished {
        Unfinished {
            view,
            objects_behind,
            bytes,
        }
    }

    struct Bed {
        progress: Progress,
        up: BTreeMap<OsdId, u64>,
    }

    impl Bed {
        fn new() -> Self {
            Self {
                progress: Progress::default(),
                up: BTreeMap::from([(OsdId(1), 10), (OsdId(2), 20)]),
            }
        }

        fn look(&mut self, seconds: u64, tasks: &[(u32, u64, Unfinished)]) {
            self.look_paused(seconds, tasks, false);
        }

        fn look_paused(&mut self, seconds: u64, tasks: &[(u32, u64, Unfinished)], paused: bool) {
            let tasks = tasks.iter();
            let tasks = tasks.map(|(pg, osd, state)| ((group(*pg), OsdId(*osd)), *state));
            self.progress
                .look(at(seconds), &self.up, &tasks.collect(), paused);
        }

        fn since(&self, pg: u32, osd: u64) -> Option<Instant> {
            self.progress.idle_since(group(pg), OsdId(osd))
        }
    }

    #[test]
    fn fewer_missing_objects_and_more_bytes_are_progress_and_growth_alone_is_not() {
        let mut bed = Bed::new();
        bed.look(1, &[(0, 1, state(2, 9, 5))]);
        bed.look(2, &[(0, 1, state(2, 9, 5))]);
        assert_eq!(bed.since(0, 1), Some(at(1)));
        bed.look(3, &[(0, 1, state(2, 8, 5))]);
        assert_eq!(bed.since(0, 1), Some(at(3)));
        bed.look(4, &[(0, 1, state(2, 8, 6))]);
        assert_eq!(bed.since(0, 1), Some(at(4)));

        bed.look(5, &[(0, 1, state(2, 0, 6))]);
        bed.look(6, &[(0, 1, state(2, 0, 99))]);
        assert_eq!(bed.since(0, 1), Some(at(5)), "programs write");
        bed.look(7, &[(0, 1, state(3, 0, 99))]);
        assert_eq!(bed.since(0, 1), Some(at(7)), "another view");
    }

    #[test]
    fn progress_with_one_group_counts_for_all_of_the_server_and_for_no_other_server() {
        let mut bed = Bed::new();
        let with = |behind| {
            [
                (0, 1, state(2, behind, 0)),
                (1, 1, state(2, 5, 0)),
                (1, 2, state(2, 5, 0)),
            ]
        };
        bed.look(1, &with(9));
        bed.look(5, &with(8));
        assert_eq!(bed.since(1, 1), Some(at(5)));
        assert_eq!(bed.since(1, 2), Some(at(1)));

        // It has finished with the first one.
        bed.look(9, &with(0)[1..]);
        assert_eq!(bed.since(1, 1), Some(at(9)));
        assert_eq!(bed.progress.server_idle_since(OsdId(2)), Some(at(1)));
    }

    #[test]
    fn server_that_got_nowhere_is_remembered_until_it_is_restarted_or_an_hour_is_over() {
        let mut bed = Bed::new();
        let since = |bed: &Bed| bed.progress.server_idle_since(OsdId(1));
        let others = [(0, 2, state(3, 1, 0))];
        bed.look(1, &[(0, 1, state(2, 9, 5)), (0, 2, state(2, 1, 0))]);
        // The group has another aim by now.
        bed.look(700, &others);
        assert_eq!((bed.since(0, 1), since(&bed)), (None, Some(at(1))));
        bed.look(3600, &others);
        assert_eq!(since(&bed), Some(at(1)));
        bed.look(3601, &others);
        assert_eq!(since(&bed), None);

        let mut bed = Bed::new();
        bed.look(1, &[(0, 1, state(2, 9, 5))]);
        bed.up.insert(OsdId(1), 11);
        bed.look(2, &[(0, 1, state(2, 9, 5))]);
        assert_eq!((bed.since(0, 1), since(&bed)), (Some(at(2)), Some(at(2))));
    }

    #[test]
    fn time_of_a_pause_does_not_count() {
        let mut bed = Bed::new();
        let task = [(0, 1, state(2, 9, 5))];
        bed.look(1, &task);
        bed.look_paused(500, &task, true);
        bed.look(600, &task);
        assert_eq!(bed.since(0, 1), Some(at(500)));
    }
}
