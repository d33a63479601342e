//! What the parts of the server tell each other about the state of placement groups.
//!
//! Shards note which replicas are behind and which copies were brought up; recovery notes what was
//! compared; reports to the metadata cluster are read off it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use osd_core::{ObjectKey, Position};
use proto::mrc;
use shell::clock::boottime;
use shell::metrics::Metric;
use tokio::sync::Notify;
use types::{Instant, ObjectId, OsdId, PgKey};

use crate::config::{HELD_SKIPPED_MAX, RECOVERIES_MAX};
use crate::lagging::Lagging;
use crate::lags::{Lags, ShardLags};
use crate::map::Map;

/// The notes of all threads.
#[derive(Debug, Default)]
pub(crate) struct Board {
    notes: Mutex<Notes>,
    /// Something happened that recovery wants to know.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    /// Replicas that this server, as primary, knows to be behind.
    lagging: Lagging,
    /// Copies here that are to be brought up: waiting and under way.
    waiting: VecDeque<ObjectKey>,
    /// And the change each of them must have at least.
    wanted: HashMap<ObjectKey, Position>,
    under_way: HashSet<ObjectKey>,
    /// Number of wanted copies per group; none is not listed.
    lacking: HashMap<PgKey, u64>,
    /// Groups that were compared with enough others since the start.
    recovered: BTreeSet<PgKey>,
    /// The view in which all that was acknowledged was seen last.
    seen: BTreeMap<PgKey, u64>,
    /// The view in which they were full last.
    full: BTreeMap<PgKey, u64>,
    lags: Lags,
    /// Groups that come as a whole: bytes received, and bytes that there may be.
    seeding: BTreeMap<PgKey, (u64, u64)>,
}

/// The placement group of a key.
pub(crate) const fn group_of(key: ObjectKey) -> PgKey {
    PgKey {
        volume: key.object.volume,
        pg: key.pg,
    }
}

impl Board {
    /// The set of replicas behind an object's primary changed.
    pub(crate) fn note_behind(&self, key: ObjectKey, replicas: &[OsdId]) {
        self.lock().lagging.note(key, replicas);
    }

    /// An object is idle, but not all its replicas are up.
    pub(crate) fn note_left(&self, key: ObjectKey) {
        self.lock().lagging.leave(key);
        self.changed.notify_one();
    }

    /// Takes idle objects with replicas to bring up that can be reached.
    pub(crate) fn next_left(&self, now: Instant, is_up: impl Fn(OsdId) -> bool) -> Vec<ObjectKey> {
        self.lock().lagging.take_due(now, is_up)
    }

    /// Groups to compare in order to find out what servers are behind with that can be reached.
    pub(crate) fn to_compare(&self, is_up: impl Fn(OsdId) -> bool) -> Vec<(OsdId, PgKey)> {
        self.lock().lagging.to_compare(is_up)
    }

    /// A group was compared with a server, which is behind with these objects.
    pub(crate) fn note_compared(&self, osd: OsdId, group: PgKey, behind: &[ObjectKey]) {
        self.lock().lagging.compared(osd, group, behind);
        self.changed.notify_one();
    }

    /// These copies here have to be brought up, to these changes at least.
    pub(crate) fn want(&self, copies: impl IntoIterator<Item = (ObjectKey, Position)>) {
        let mut notes = self.lock();
        for (key, newest) in copies {
            match notes.wanted.get_mut(&key) {
                Some(known) => *known = newest.max(*known),
                None => {
                    notes.wanted.insert(key, newest);
                    notes.waiting.push_back(key);
                    *notes.lacking.entry(group_of(key)).or_default() += 1;
                }
            }
        }
        drop(notes);
        self.changed.notify_one();
    }

    /// A copy here was brought up to a change. It may be wanted to have a newer one by now.
    pub(crate) fn brought_up(&self, key: ObjectKey, position: Position) {
        let mut notes = self.lock();
        let newest = notes.wanted.get(&key).copied();
        if newest.is_none_or(|newest| newest <= position) {
            drop(notes);
            self.done(key);
        } else if notes.under_way.remove(&key) {
            notes.waiting.push_back(key);
            drop(notes);
            self.changed.notify_one();
        }
    }

    /// Whether a copy here has to be brought up.
    pub(crate) fn is_wanted(&self, key: ObjectKey) -> bool {
        self.lock().wanted.contains_key(&key)
    }

    /// A copy here was brought up, or there is none any more.
    pub(crate) fn done(&self, key: ObjectKey) {
        let mut notes = self.lock();
        if notes.wanted.remove(&key).is_some() {
            notes.under_way.remove(&key);
            if let Some(lacking) = notes.lacking.get_mut(&group_of(key)) {
                *lacking -= 1;
                if *lacking == 0 {
                    notes.lacking.remove(&group_of(key));
                }
            }
            drop(notes);
            self.changed.notify_one();
        }
    }

    /// A copy here could not be brought up: it has to wait for its turn again. Says nothing to
    /// recovery, so that a copy that fails at once is not tried over and over.
    pub(crate) fn put_back(&self, key: ObjectKey) {
        let mut notes = self.lock();
        if notes.under_way.remove(&key) {
            notes.waiting.push_back(key);
        }
    }

    /// Forgets the copies of groups that this server has no part in any more, and what servers lack that
    /// have none.
    pub(crate) fn retain_members(
        &self,
        is_ours: impl Fn(PgKey) -> bool,
        is_member: impl Fn(OsdId, PgKey) -> bool,
    ) {
        let mut notes = self.lock();
        let Notes {
            lagging,
            waiting,
            wanted,
            under_way,
            lacking,
            recovered,
            seen,
            full,
            ..
        } = &mut *notes;
        recovered.retain(|group| is_ours(*group));
        seen.retain(|group, _| is_ours(*group));
        full.retain(|group, _| is_ours(*group));
        lagging.retain_members(is_member);
        waiting.retain(|key| is_ours(group_of(*key)));
        wanted.retain(|key, _| is_ours(group_of(*key)));
        under_way.retain(|key| is_ours(group_of(*key)));
        lacking.retain(|group, _| is_ours(*group));
    }

    /// Takes the next copies to bring up, as many as may be under way, but for groups that are held.
    pub(crate) fn next_recoveries(
        &self,
        is_held: impl Fn(PgKey) -> bool,
    ) -> Vec<(ObjectKey, Position)> {
        let mut notes = self.lock();
        let mut next = Vec::new();
        let mut skipped = 0;
        while notes.under_way.len() < RECOVERIES_MAX
            && skipped < notes.waiting.len().min(HELD_SKIPPED_MAX)
            && let Some(key) = notes.waiting.pop_front()
        {
            if is_held(group_of(key)) {
                notes.waiting.push_back(key);
                skipped += 1;
                continue;
            }
            // It may have been deleted meanwhile.
            if let Some(newest) = notes.wanted.get(&key).copied() {
                notes.under_way.insert(key);
                next.push((key, newest));
            }
        }
        next
    }

    /// How far a group is that comes as a whole; none: it does not, or not any more.
    pub(crate) fn note_seeding(&self, group: PgKey, progress: Option<(u64, u64)>) {
        let seeding = &mut self.lock().seeding;
        match progress {
            Some(progress) => seeding.insert(group, progress),
            None => seeding.remove(&group),
        };
    }

    /// A group was compared with enough others. True if that is news, and if all that was found
    /// missing has been brought up: until then an absent object may well exist.
    pub(crate) fn note_recovered(&self, group: PgKey) -> bool {
        let mut notes = self.lock();
        !notes.lacking.contains_key(&group) && notes.recovered.insert(group)
    }

    /// All that was ever acknowledged has been seen in this view, and what of it is missing is noted.
    /// True if the group is full from now on.
    pub(crate) fn note_seen(&self, group: PgKey, view: u64) -> bool {
        let mut notes = self.lock();
        notes.seen.insert(group, view);
        let full = notes.recovered.contains(&group) && !notes.lacking.contains_key(&group);
        full && notes.full.insert(group, view) != Some(view)
    }

    pub(crate) fn recovered(&self) -> BTreeSet<PgKey> {
        self.lock().recovered.clone()
    }

    /// The state of all groups of this server, for the metadata cluster.
    pub(crate) fn reports(&self, me: OsdId, map: &Map) -> Vec<mrc::PgReport> {
        let notes = self.lock();
        let lagging = notes.lagging.by_group();
        let mut lags = notes.lags.by_group(boottime());
        map.groups_of(me)
            .into_iter()
            .map(|group| {
                let objects_behind = notes.lacking.get(&group).copied().unwrap_or_default();
                let view = map.pgs.get(&group).map_or(0, |pg| pg.view);
                let (seed_done_bytes, seed_total_bytes) =
                    notes.seeding.get(&group).copied().unwrap_or_default();
                let seen = notes.seen.get(&group) == Some(&view);
                let full = objects_behind == 0 && seen && notes.recovered.contains(&group);
                mrc::PgReport {
                    volume: group.volume.0,
                    pg: group.pg.0,
                    view,
                    state: match full {
                        true => mrc::PgState::PgFull.into(),
                        false => mrc::PgState::PgRecovering.into(),
                    },
                    objects_behind,
                    lagging: lagging
                        .get(&group)
                        .map(|osds| osds.iter().map(|osd| osd.0).collect())
                        .unwrap_or_default(),
                    lags: lags.remove(&group).unwrap_or_default(),
                    seed_done_bytes,
                    seed_total_bytes,
                    // The store knows.
                    size: None,
                }
            })
            .collect()
    }

    /// How far backups are behind the primaries of a shard.
    pub(crate) fn note_lags(&self, shard: usize, lags: ShardLags) {
        self.lock().lags.note(shard, lags);
    }

    pub(crate) fn lag_metrics(&self) -> Vec<Metric> {
        self.lock().lags.metrics(boottime())
    }

    /// Forgets everything about a deleted object.
    pub(crate) fn forget(&self, key: ObjectKey) {
        self.note_behind(key, &[]);
        self.done(key);
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which shard an object belongs to.
pub(crate) fn shard_of(object: ObjectId, shards: usize) -> usize {
    // Inode numbers are given out one after the other, so neighbours go to different shards.
    let mixed = object.inode.0 ^ u64::from(object.column).rotate_left(32) ^ object.volume.0;
    (mixed % shards.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, PgId, VolumeId};

    use crate::map::Pg;

    fn key(inode: u64) -> ObjectKey {
        ObjectKey {
            pg: PgId(1),
            object: ObjectId {
                volume: VolumeId(1),
                inode: Inode(inode),
                column: 0,
            },
        }
    }

    fn map() -> Map {
        let pg = Pg::new(3, &[1, 2], &[], &[]);
        Map {
            pgs: HashMap::from([(group_of(key(1)), pg)]),
            ..Map::default()
        }
    }

    fn at(seq: u64) -> Position {
        Position {
            epoch: 1,
            seq,
            holder: OsdId(1),
        }
    }

    fn wanted(inode: u64) -> (ObjectKey, Position) {
        (key(inode), at(inode))
    }

    #[test]
    fn recoveries_under_way_are_bounded_and_asked_for_once() {
        let board = Board::default();
        let total = RECOVERIES_MAX as u64 + 5;

        board.want((0..total).map(wanted));
        board.want((0..total).map(wanted));
        let first = board.next_recoveries(|_| false);
        assert_eq!(first.len(), RECOVERIES_MAX);
        assert_eq!(board.next_recoveries(|_| false), []);
        for (key, _) in first {
            board.done(key);
        }

        assert_eq!(board.next_recoveries(|_| false).len(), 5);
    }

    #[test]
    fn copy_brought_up_to_less_than_was_seen_meanwhile_has_another_turn() {
        let board = Board::default();
        board.want([(key(1), at(10))]);
        assert_eq!(board.next_recoveries(|_| false), [(key(1), at(10))]);

        board.want([(key(1), at(20))]);
        board.want([(key(1), at(15))]);
        board.brought_up(key(1), at(10));

        assert!(!board.note_recovered(group_of(key(1))));
        assert_eq!(board.next_recoveries(|_| false), [(key(1), at(20))]);
        board.brought_up(key(1), at(20));
        assert!(board.note_recovered(group_of(key(1))));
    }

    #[test]
    fn copy_that_can_not_be_brought_up_makes_room_for_others_and_stays_wanted() {
        let board = Board::default();
        let total = RECOVERIES_MAX as u64 + 1;
        board.want((0..total).map(wanted));
        let first = board.next_recoveries(|_| false);

        for (key, _) in &first {
            board.put_back(*key);
        }

        assert_eq!(
            board.next_recoveries(|_| false)[0],
            wanted(RECOVERIES_MAX as u64)
        );
        assert!(!board.note_recovered(group_of(key(1))));
        board.retain_members(|_| false, |_, _| false);
        assert_eq!(board.next_recoveries(|_| false), []);
        assert!(board.note_recovered(group_of(key(1))));
    }

    #[test]
    fn group_is_full_once_compared_and_all_its_copies_are_brought_up() {
        let board = Board::default();
        let state = || board.reports(OsdId(1), &map())[0].clone();
        board.want([wanted(7)]);

        assert!(!board.note_recovered(group_of(key(1))));
        assert_eq!(state().state(), mrc::PgState::PgRecovering);
        assert_eq!(state().objects_behind, 1);
        board.done(key(7));
        assert_eq!(state().state(), mrc::PgState::PgRecovering);
        assert!(board.note_recovered(group_of(key(1))));
        board.note_seen(group_of(key(1)), 2);
        assert_eq!(state().state(), mrc::PgState::PgRecovering, "an older view");
        assert!(board.note_seen(group_of(key(1)), 3));
        assert_eq!(state().state(), mrc::PgState::PgFull);
        board.want([wanted(9)]);
        assert_eq!(state().state(), mrc::PgState::PgRecovering);
        board.done(key(9));

        board.note_behind(key(8), &[OsdId(2)]);
        assert_eq!(state().lagging, [2]);
        board.forget(key(8));
        assert!(state().lagging.is_empty());
    }

    #[test]
    fn idle_object_with_a_replica_behind_is_looked_after_once_that_can_be_reached() {
        let board = Board::default();
        let at = |seconds| Instant::ZERO + types::Duration::from_secs(seconds);
        board.note_behind(key(1), &[OsdId(2), OsdId(3)]);
        assert!(board.next_left(at(1), |_| true).is_empty());

        board.note_left(key(1));
        assert!(board.next_left(at(1), |_| false).is_empty());
        assert_eq!(board.next_left(at(1), |osd| osd == OsdId(3)), [key(1)]);
        assert!(board.next_left(at(1), |_| true).is_empty());
        assert_eq!(board.next_left(at(9), |_| true), [key(1)]);

        board.note_behind(key(1), &[]);
        assert!(board.next_left(at(99), |_| true).is_empty());
    }

    #[test]
    fn neighbouring_inodes_are_spread_over_shards() {
        let shards: BTreeSet<_> = (1..=4)
            .map(|inode| shard_of(key(inode).object, 4))
            .collect();

        assert_eq!(shards.len(), 4);
    }
}
