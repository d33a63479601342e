//! What a server missed: its groups are compared with the other members, copies are brought up.
//!
//! The same rules as in the shell of an object server (`osd/src/recovery.rs` and `board.rs`), which
//! are not part of its core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use osd_core::{ObjectKey, Position};
use proto::peer;
use types::{Duration, Instant, ObjectId, OsdId, PgKey};

use crate::cluster::server::group_of;

/// Time between attempts to bring others up.
const BRING_UP_PAUSE: Duration = Duration::from_millis(500);

/// Copies brought up at once.
const RECOVERIES_MAX: usize = 32;

#[derive(Debug, Default)]
struct Comparing {
    others: BTreeSet<OsdId>,
    compared: BTreeSet<OsdId>,
    due: BTreeSet<OsdId>,
    /// Asked for their list just now.
    asked: BTreeSet<OsdId>,
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
}

impl Recovery {
    pub(crate) fn new<'a>(
        now: Instant,
        me: OsdId,
        groups: impl Iterator<Item = (&'a PgKey, &'a Vec<OsdId>)>,
    ) -> Self {
        let mut this = Self::default();
        for (group, members) in groups {
            let others: BTreeSet<_> = members.iter().copied().filter(|osd| *osd != me).collect();
            this.silent.extend(others.iter().map(|osd| (*osd, now)));
            let comparing = Comparing {
                due: others.clone(),
                others,
                ..Comparing::default()
            };
            this.groups.insert(*group, comparing);
        }
        this
    }

    /// Whether nothing is left to find or to bring up here.
    pub(crate) fn is_over(&self) -> bool {
        self.wanted.is_empty() && self.recovered.len() == self.groups.len()
    }

    pub(crate) fn describe(&self) -> String {
        let lacking = self.wanted.len();
        format!("recovered {:?}, lacking {lacking}", self.recovered)
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
                behind.due = Some(now + BRING_UP_PAUSE);
                next.push(*key);
            }
        }
        next
    }

    /// Whom to ask for the list of a group.
    pub(crate) fn next_asked(&mut self) -> Vec<(OsdId, PgKey)> {
        let mut asks = Vec::new();
        for (key, group) in &mut self.groups {
            if !group.asked.is_empty() {
                continue;
            }
            let ready = group.due.intersection(&group.others);
            let ready: BTreeSet<_> = ready.copied().filter(|osd| self.up.contains(osd)).collect();
            group.due.retain(|osd| !ready.contains(osd));
            asks.extend(ready.iter().map(|osd| (*osd, *key)));
            group.asked = ready;
        }
        asks
    }

    pub(crate) fn not_listed(&mut self, osd: OsdId, group: PgKey) {
        if let Some(group) = self.groups.get_mut(&group)
            && group.asked.remove(&osd)
        {
            group.due.insert(osd);
        }
    }

    pub(crate) fn listed(
        &mut self,
        osd: OsdId,
        group: PgKey,
        ours: &[peer::ObjectState],
        theirs: &[peer::ObjectState],
    ) {
        self.want(missing(group, ours, theirs));
        if let Some(group) = self.groups.get_mut(&group)
            && group.asked.remove(&osd)
        {
            group.compared.insert(osd);
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
    pub(crate) fn miss_silent(&mut self, now: Instant, grace: Duration) {
        let long = |since: &Instant| now.since(*since) >= grace;
        let silent = self.silent.iter().filter(|(_, since)| long(since));
        let lost: BTreeSet<OsdId> = silent
            .map(|(osd, _)| *osd)
            .filter(|osd| self.missed.insert(*osd))
            .collect();
        for group in self.groups.values_mut() {
            if !group.others.is_disjoint(&lost) {
                group.due.extend(group.others.iter().copied());
            }
        }
    }

    /// Notes the groups that were compared with enough members. True if there is a new one.
    pub(crate) fn conclude(&mut self, now: Instant, grace: Duration) -> bool {
        let mut news = false;
        for (key, group) in &self.groups {
            let members = group.others.len() + 1;
            let silent = |osd: &OsdId| {
                let since = self.silent.get(osd);
                !self.up.contains(osd) && since.is_some_and(|since| now.since(*since) >= grace)
            };
            let (seen, unseen): (Vec<_>, Vec<_>) = group
                .others
                .iter()
                .partition(|osd| group.compared.contains(osd));
            let enough = unseen.is_empty()
                || (seen.len() + 1 > members / 2 && unseen.into_iter().all(silent));
            let lacking = self.wanted.keys().any(|wanted| group_of(*wanted) == *key);
            if enough && !lacking {
                news |= self.recovered.insert(*key);
            }
        }
        news
    }
}

/// Objects of which the other's copy is newer than ours, or ours can't be trusted, and the newest change of either.
fn missing(
    group: PgKey,
    ours: &[peer::ObjectState],
    theirs: &[peer::ObjectState],
) -> BTreeMap<ObjectKey, Position> {
    let positions = |states: &[peer::ObjectState]| -> BTreeMap<ObjectId, Position> {
        let states = states.iter();
        let known = states.filter_map(|state| {
            let position = state.position.unwrap_or_default();
            Some((state.object?.into(), position.into()))
        });
        known.collect()
    };
    let (have, their) = (positions(ours), positions(theirs));
    let behind = their
        .iter()
        .filter(|(object, position)| have.get(object).is_none_or(|have| have < position))
        .map(|(object, position)| (*object, *position));
    let suspect = ours
        .iter()
        .filter(|our| our.suspect)
        .filter_map(|our| our.object.map(ObjectId::from))
        .map(|object| {
            let newest = have.get(&object).max(their.get(&object));
            (object, newest.copied().unwrap_or_default())
        });
    behind
        .chain(suspect)
        .filter(|(object, _)| object.volume == group.volume)
        .map(|(object, newest)| {
            let key = ObjectKey {
                pg: group.pg,
                object,
            };
            (key, newest)
        })
        .collect()
}
