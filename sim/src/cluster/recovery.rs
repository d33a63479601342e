//! What a server missed: its groups are compared with the other members, copies are brought up.
//!
//! What must have been compared is `osd_core::comparing`; when that is done follows the shell of an object
//! server (`osd/src/recovery.rs` and `board.rs`), which is not part of its core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use osd_core::comparing::{has_seen_all, is_changing_alone, is_enough, missing};
use osd_core::{ObjectKey, Position};
use proto::{mrc, peer};
use types::{Duration, Instant, OsdId, PgKey};

use crate::cluster::map::{Map, Pg};
use crate::cluster::server::group_of;

/// Time between attempts to bring others up, and before members that could not answer, or lack
/// something themselves, are asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Copies brought up at once.
const RECOVERIES_MAX: usize = 32;

#[derive(Debug, Default)]
struct Comparing {
    /// In which everything below was found out.
    view: u64,
    compared: BTreeSet<OsdId>,
    /// Of these, those that had lost nothing.
    vouching: BTreeSet<OsdId>,
    due: BTreeSet<OsdId>,
    /// Asked for their list just now.
    asked: BTreeSet<OsdId>,
    /// Nobody is asked before.
    pause_until: Instant,
    /// This server's own copies were looked at.
    looked_at: bool,
}

/// What others lack, as a primary found out.
#[derive(Debug, Default)]
struct Behind {
    who: BTreeSet<OsdId>,
    /// The object is idle: somebody has to look after it, from then on.
    due: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) recovered: BTreeSet<PgKey>,
    pub(crate) up: BTreeSet<OsdId>,
    groups: BTreeMap<PgKey, Comparing>,
    silent: BTreeMap<OsdId, Instant>,
    /// Of these, those whose groups the others compare, or have compared since.
    missed: BTreeSet<OsdId>,
    wanted: BTreeMap<ObjectKey, Position>,
    waiting: VecDeque<ObjectKey>,
    under_way: BTreeSet<ObjectKey>,
    behind: BTreeMap<ObjectKey, Behind>,
    /// The view in which all that was acknowledged was seen last.
    seen: BTreeMap<PgKey, u64>,
}

impl Recovery {
    /// A new map, or one that is known since the last run: new groups and views have to be compared.
    pub(crate) fn follow(&mut self, now: Instant, me: OsdId, map: &Map) {
        let ours: BTreeSet<_> = map.groups_of(me).into_iter().collect();
        self.groups.retain(|key, _| ours.contains(key));
        for (key, pg) in map.pgs.iter().filter(|(key, _)| ours.contains(key)) {
            let others = others(me, pg);
            for osd in others.iter().filter(|osd| !self.up.contains(osd)) {
                self.silent.entry(*osd).or_insert(now);
            }
            let group = self.groups.entry(*key).or_default();
            // In another view what was found out before may have been outdated the moment after.
            if group.view != pg.view {
                *group = Comparing {
                    view: pg.view,
                    due: others,
                    ..Comparing::default()
                };
            }
        }
        self.recovered.retain(|group| ours.contains(group));
        self.seen.retain(|group, _| ours.contains(group));
        self.waiting.retain(|key| ours.contains(&group_of(*key)));
        self.wanted.retain(|key, _| ours.contains(&group_of(*key)));
        self.under_way.retain(|key| ours.contains(&group_of(*key)));
        for (key, behind) in &mut self.behind {
            let pg = map.group(me, group_of(*key));
            let is_member = |osd: &OsdId| pg.is_some_and(|pg| pg.replicas.contains(*osd));
            behind.who.retain(is_member);
        }
        self.behind.retain(|_, behind| !behind.who.is_empty());
    }

    /// Whether nothing is left to find or to bring up here.
    pub(crate) fn is_over(&self) -> bool {
        self.wanted.is_empty() && self.recovered.len() == self.groups.len()
    }

    /// Whether nothing of a group is left to bring up here.
    pub(crate) fn lacks(&self, group: PgKey) -> bool {
        self.wanted.keys().any(|wanted| group_of(*wanted) == group)
    }

    pub(crate) fn describe(&self) -> String {
        let lacking = self.wanted.len();
        format!(
            "recovered {:?}, lacking {lacking}, comparing {:?}",
            self.recovered, self.groups
        )
    }

    pub(crate) fn peer_up(&mut self, osd: OsdId) {
        self.up.insert(osd);
        self.silent.remove(&osd);
        self.missed.remove(&osd);
        for group in self.groups.values_mut() {
            group.due.insert(osd);
        }
    }

    pub(crate) fn peer_lost(&mut self, now: Instant, osd: OsdId) {
        self.up.remove(&osd);
        self.silent.entry(osd).or_insert(now);
        for group in self.groups.values_mut() {
            if group.asked.remove(&osd) {
                group.due.insert(osd);
            }
        }
    }

    pub(crate) fn next_recoveries(&mut self) -> Vec<(ObjectKey, Position)> {
        let mut next = Vec::new();
        while self.under_way.len() < RECOVERIES_MAX
            && let Some(key) = self.waiting.pop_front()
        {
            if let Some(newest) = self.wanted.get(&key).copied()
                && self.under_way.insert(key)
            {
                next.push((key, newest));
            }
        }
        next
    }

    pub(crate) fn next_left(&mut self, now: Instant) -> Vec<ObjectKey> {
        let mut next = Vec::new();
        for (key, behind) in &mut self.behind {
            let reachable = behind.who.iter().any(|osd| self.up.contains(osd));
            if reachable && behind.due.is_some_and(|due| due <= now) {
                behind.due = Some(now + PAUSE);
                next.push(*key);
            }
        }
        next
    }

    /// Whom to ask for the list of a group, and in which view.
    pub(crate) fn next_asked(
        &mut self,
        now: Instant,
        me: OsdId,
        map: &Map,
    ) -> Vec<(OsdId, PgKey, u64)> {
        let mut asks = Vec::new();
        for (key, group) in &mut self.groups {
            let pg = map.pgs.get(key).filter(|pg| pg.view == group.view);
            let Some(pg) = pg.filter(|_| group.asked.is_empty() && group.pause_until <= now) else {
                continue;
            };
            let members = others(me, pg);
            group.due.retain(|osd| members.contains(osd));
            let ready: BTreeSet<_> = group.due.intersection(&self.up).copied().collect();
            group.due.retain(|osd| !ready.contains(osd));
            asks.extend(ready.iter().map(|osd| (*osd, *key, group.view)));
            group.asked = ready;
        }
        asks
    }

    pub(crate) fn not_listed(&mut self, now: Instant, osd: OsdId, group: PgKey) {
        if let Some(group) = self.groups.get_mut(&group)
            && group.asked.remove(&osd)
        {
            group.due.insert(osd);
            group.pause_until = now + PAUSE;
        }
    }

    /// Groups that change with nobody else, of which this server has not looked at its own copies.
    pub(crate) fn alone(&self, me: OsdId, map: &Map) -> Vec<PgKey> {
        let groups = self.groups.iter();
        let alone = groups.filter(|(key, group)| {
            let pg = map.pgs.get(key).filter(|pg| pg.view == group.view);
            !group.looked_at && pg.is_some_and(|pg| is_changing_alone(me, &pg.replicas))
        });
        alone.map(|(key, _)| *key).collect()
    }

    pub(crate) fn looked_at(&mut self, group: PgKey, ours: &[peer::ObjectState]) {
        self.want(missing(group, ours, &[]));
        if let Some(group) = self.groups.get_mut(&group) {
            group.looked_at = true;
        }
    }

    /// A member's list of a group in a view. `vouches`: what is not in it does not exist there.
    pub(crate) fn listed(
        &mut self,
        now: Instant,
        (osd, group, view): (OsdId, PgKey, u64),
        ours: &[peer::ObjectState],
        (theirs, vouches): (&[peer::ObjectState], bool),
    ) {
        self.want(missing(group, ours, theirs));
        let vouches = vouches && theirs.iter().all(|their| !their.suspect);
        let Some(group) = self.groups.get_mut(&group) else {
            return;
        };
        if group.view != view || !group.asked.remove(&osd) {
            return;
        }
        group.compared.insert(osd);
        group.looked_at = true;
        match vouches {
            true => {
                group.vouching.insert(osd);
            }
            // One that lacks something has to be asked again when it does not any more.
            false => {
                group.due.insert(osd);
                group.pause_until = now + PAUSE;
            }
        }
    }

    pub(crate) fn want(&mut self, copies: impl IntoIterator<Item = (ObjectKey, Position)>) {
        for (key, newest) in copies {
            match self.wanted.get_mut(&key) {
                Some(known) => *known = newest.max(*known),
                None => {
                    self.wanted.insert(key, newest);
                    self.waiting.push_back(key);
                }
            }
        }
    }

    pub(crate) fn brought_up(&mut self, key: ObjectKey, position: Position) {
        match self.wanted.get(&key) {
            Some(newest) if *newest > position => self.put_back(key),
            _ => self.done(key),
        }
    }

    pub(crate) fn done(&mut self, key: ObjectKey) {
        self.wanted.remove(&key);
        self.under_way.remove(&key);
    }

    pub(crate) fn put_back(&mut self, key: ObjectKey) {
        if self.under_way.remove(&key) {
            self.waiting.push_back(key);
        }
    }

    pub(crate) fn note_behind(&mut self, key: ObjectKey, who: &[OsdId]) {
        match who.is_empty() {
            true => self.behind.remove(&key).map(|_| ()),
            false => {
                self.behind.entry(key).or_default().who = who.iter().copied().collect();
                None
            }
        };
    }

    pub(crate) fn note_left(&mut self, key: ObjectKey) {
        if let Some(behind) = self.behind.get_mut(&key) {
            behind.due.get_or_insert(Instant::ZERO);
        }
    }

    pub(crate) fn forget(&mut self, key: ObjectKey) {
        self.behind.remove(&key);
        self.done(key);
    }

    /// Has the groups of those that have been silent for long compared among the others, once.
    pub(crate) fn miss_silent(&mut self, now: Instant, grace: Duration, me: OsdId, map: &Map) {
        let long = |since: &Instant| now.since(*since) >= grace;
        let silent = self.silent.iter().filter(|(_, since)| long(since));
        let lost: BTreeSet<OsdId> = silent
            .map(|(osd, _)| *osd)
            .filter(|osd| self.missed.insert(*osd))
            .collect();
        for (key, group) in &mut self.groups {
            let members = map.pgs.get(key).map(|pg| others(me, pg));
            let members = members.unwrap_or_default();
            if !members.is_disjoint(&lost) {
                group.due.extend(members);
            }
        }
    }

    /// Notes the groups that were compared with enough members; `wiped` says of which this server's store is
    /// new. True if there is a new one.
    pub(crate) fn conclude(
        &mut self,
        now: Instant,
        grace: Duration,
        (me, map): (OsdId, &Map),
        own: impl Fn(PgKey, bool) -> (bool, bool),
    ) -> bool {
        let mut news = false;
        for (key, group) in &self.groups {
            let pg = map.pgs.get(key).filter(|pg| pg.view == group.view);
            let Some(pg) = pg else {
                continue;
            };
            let silent = |osd: &OsdId| {
                let since = self.silent.get(osd);
                !self.up.contains(osd) && since.is_some_and(|since| now.since(*since) >= grace)
            };
            // As it was told to the shards.
            let (incomplete, recovered) = own(*key, self.recovered.contains(key));
            let lacking = self.lacks(*key);
            if is_enough(me, pg.sets(), &group.compared, incomplete, silent) && !lacking {
                news |= self.recovered.insert(*key);
            }
            let looked_at = group.looked_at || !pg.is_changing();
            let vouches = recovered && !incomplete;
            if looked_at && has_seen_all(me, pg.sets(), &group.vouching, vouches) {
                self.seen.insert(*key, group.view);
            }
        }
        news
    }

    /// What the metadata cluster is told of all groups.
    pub(crate) fn reports(&self, me: OsdId, map: &Map) -> Vec<mrc::PgReport> {
        let groups = map.groups_of(me).into_iter();
        let report = |key: PgKey| {
            let view = map.pgs.get(&key).map_or(0, |pg| pg.view);
            let seen = self.seen.get(&key) == Some(&view);
            let full = seen && self.recovered.contains(&key) && !self.lacks(key);
            let state = match full {
                true => mrc::PgState::PgFull,
                false => mrc::PgState::PgRecovering,
            };
            mrc::PgReport {
                volume: key.volume.0,
                pg: key.pg.0,
                view,
                state: state.into(),
                ..mrc::PgReport::default()
            }
        };
        groups.map(report).collect()
    }
}

fn others(me: OsdId, pg: &Pg) -> BTreeSet<OsdId> {
    let all = pg.replicas.all().iter();
    all.copied().filter(|osd| *osd != me).collect()
}
