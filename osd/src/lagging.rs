//! Which objects other servers are behind with, as far as this server knows, by server.
//!
//! While a server is away every object that is written counts, so the list is bounded: beyond that
//! only the groups are noted, and comparing them finds the objects once the server is back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use osd_core::ObjectKey;
use types::{Instant, OsdId, PgKey};

use crate::board::group_of;
use crate::config::{BEHIND_MAX, BRING_UP_PAUSE, RECOVERIES_MAX};

/// Servers that are behind with something.
#[derive(Debug, Default)]
pub(crate) struct Lagging(BTreeMap<OsdId, Lacks>);

/// What one of them lacks.
#[derive(Debug, Default)]
struct Lacks {
    /// Objects; of those whose primary here has gone idle, when to bring the server up (again).
    objects: HashMap<ObjectKey, Option<Instant>>,
    /// The latter, soonest first.
    due: BTreeSet<(Instant, ObjectKey)>,
    /// Number of objects of each group.
    counts: BTreeMap<PgKey, usize>,
    /// Groups of which it lacks more.
    unlisted: BTreeSet<PgKey>,
}

impl Lacks {
    fn insert(&mut self, key: ObjectKey) {
        if self.objects.contains_key(&key) {
            return;
        }
        if self.objects.len() >= BEHIND_MAX {
            self.unlisted.insert(group_of(key));
            return;
        }
        self.objects.insert(key, None);
        *self.counts.entry(group_of(key)).or_default() += 1;
    }

    fn remove(&mut self, key: ObjectKey) {
        let Some(due) = self.objects.remove(&key) else {
            return;
        };
        if let Some(at) = due {
            self.due.remove(&(at, key));
        }
        let group = group_of(key);
        if let Some(count) = self.counts.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&group);
            }
        }
    }

    fn leave(&mut self, key: ObjectKey) {
        if let Some(due @ None) = self.objects.get_mut(&key) {
            *due = Some(Instant::ZERO);
            self.due.insert((Instant::ZERO, key));
        }
    }

    fn postpone(&mut self, key: ObjectKey, again: Instant) {
        if let Some(Some(at)) = self.objects.get_mut(&key) {
            self.due.remove(&(*at, key));
            *at = again;
            self.due.insert((again, key));
        }
    }

    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.unlisted.is_empty()
    }
}

impl Lagging {
    /// These servers, and no others, are behind with an object.
    pub(crate) fn note(&mut self, key: ObjectKey, osds: &[OsdId]) {
        for (osd, lacks) in &mut self.0 {
            if !osds.contains(osd) {
                lacks.remove(key);
            }
        }
        for osd in osds {
            self.0.entry(*osd).or_default().insert(key);
        }
        self.0.retain(|_, lacks| !lacks.is_empty());
    }

    /// An object's primary here has gone idle: nobody brings the others up any more.
    pub(crate) fn leave(&mut self, key: ObjectKey) {
        for lacks in self.0.values_mut() {
            lacks.leave(key);
        }
    }

    /// Takes idle objects that servers which can be reached are behind with.
    pub(crate) fn take_due(
        &mut self,
        now: Instant,
        is_up: impl Fn(OsdId) -> bool,
    ) -> Vec<ObjectKey> {
        let again = now + BRING_UP_PAUSE;
        let mut taken = BTreeSet::new();
        for (_, lacks) in self.0.iter().filter(|(osd, _)| is_up(**osd)) {
            let due = lacks.due.iter().take_while(|(at, _)| *at <= now);
            let room = RECOVERIES_MAX.saturating_sub(taken.len());
            taken.extend(due.map(|(_, key)| *key).take(room));
        }
        for lacks in self.0.values_mut() {
            for key in &taken {
                lacks.postpone(*key, again);
            }
        }
        taken.into_iter().collect()
    }

    /// Groups to compare with servers that can be reached, because not all they lack is listed and
    /// there is room on the list.
    pub(crate) fn to_compare(&self, is_up: impl Fn(OsdId) -> bool) -> Vec<(OsdId, PgKey)> {
        let roomy = self
            .0
            .iter()
            .filter(|(osd, lacks)| is_up(**osd) && lacks.objects.len() <= BEHIND_MAX / 2);
        roomy
            .flat_map(|(osd, lacks)| lacks.unlisted.iter().map(|group| (*osd, *group)))
            .collect()
    }

    /// A group was compared with a server, which is behind with these objects.
    pub(crate) fn compared(&mut self, osd: OsdId, group: PgKey, behind: &[ObjectKey]) {
        let Some(lacks) = self.0.get_mut(&osd) else {
            return;
        };
        // What it lacks of a group that is listed is known.
        if lacks.unlisted.remove(&group) {
            for key in behind {
                lacks.insert(*key);
                lacks.leave(*key);
            }
        }
        self.0.retain(|_, lacks| !lacks.is_empty());
    }

    /// The servers behind with something, by group.
    pub(crate) fn by_group(&self) -> BTreeMap<PgKey, BTreeSet<OsdId>> {
        let mut groups: BTreeMap<PgKey, BTreeSet<OsdId>> = BTreeMap::new();
        for (osd, lacks) in &self.0 {
            for group in lacks.counts.keys().chain(&lacks.unlisted) {
                groups.entry(*group).or_default().insert(*osd);
            }
        }
        groups
    }

    /// Forgets what servers lack of groups that they are no members of, or this server is not.
    pub(crate) fn retain_members(&mut self, is_member: impl Fn(OsdId, PgKey) -> bool) {
        for (osd, lacks) in &mut self.0 {
            let keep = |group| is_member(*osd, group);
            lacks.objects.retain(|key, _| keep(group_of(*key)));
            lacks.due.retain(|(_, key)| keep(group_of(*key)));
            lacks.counts.retain(|group, _| keep(*group));
            lacks.unlisted.retain(|group| keep(*group));
        }
        self.0.retain(|_, lacks| !lacks.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Duration, Inode, ObjectId, PgId, VolumeId};

    const AWAY: OsdId = OsdId(2);

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

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn what_a_server_lacks_is_listed_up_to_a_bound_and_found_by_comparing_beyond_it() {
        let mut lagging = Lagging::default();
        let total = BEHIND_MAX as u64 + 100;
        let group = group_of(key(1));
        for inode in 0..total {
            lagging.note(key(inode), &[AWAY]);
            lagging.leave(key(inode));
        }
        assert_eq!(lagging.0[&AWAY].objects.len(), BEHIND_MAX);
        assert_eq!(lagging.by_group()[&group], BTreeSet::from([AWAY]));
        assert!(lagging.to_compare(|_| true).is_empty(), "no room");

        for inode in 0..BEHIND_MAX as u64 {
            lagging.note(key(inode), &[]);
        }
        assert!(lagging.to_compare(|_| false).is_empty());
        assert_eq!(lagging.to_compare(|_| true), [(AWAY, group)]);
        assert_eq!(lagging.by_group()[&group], BTreeSet::from([AWAY]));
        lagging.compared(AWAY, group, &[key(total - 1)]);

        assert_eq!(lagging.take_due(at(1), |_| true), [key(total - 1)]);
        lagging.note(key(total - 1), &[]);
        assert!(lagging.by_group().is_empty() && lagging.0.is_empty());
    }

    #[test]
    fn objects_are_taken_a_few_at_a_time_and_in_turn() {
        let mut lagging = Lagging::default();
        let total = RECOVERIES_MAX as u64 + 5;
        for inode in 0..total {
            lagging.note(key(inode), &[AWAY, OsdId(3)]);
            lagging.leave(key(inode));
        }

        assert!(lagging.take_due(at(1), |_| false).is_empty());
        let first = lagging.take_due(at(1), |osd| osd == AWAY);
        let second = lagging.take_due(at(1), |osd| osd == AWAY);

        assert_eq!((first.len(), second.len()), (RECOVERIES_MAX, 5));
        assert!(lagging.take_due(at(1), |osd| osd == AWAY).is_empty());
        assert_eq!(
            lagging.take_due(at(9), |osd| osd == AWAY).len(),
            RECOVERIES_MAX
        );
    }

    #[test]
    fn servers_and_groups_that_are_gone_are_forgotten() {
        let mut lagging = Lagging::default();
        lagging.note(key(1), &[AWAY, OsdId(3)]);
        lagging.leave(key(1));
        lagging.note(key(1), &[OsdId(3)]);
        let group = group_of(key(1));
        assert_eq!(lagging.by_group()[&group], BTreeSet::from([OsdId(3)]));
        // Nothing is unlisted, so a comparison tells nothing new.
        lagging.compared(OsdId(3), group, &[key(2)]);
        assert_eq!(lagging.take_due(at(1), |_| true), [key(1)]);

        lagging.retain_members(|_, _| false);

        assert!(lagging.by_group().is_empty() && lagging.0.is_empty());
    }
}
