//! The groups a server has a part in: its map, lists of what it holds, copies that others keep by now. The rules
//! of `osd/src/map_keeper.rs`, `listing.rs` and `moved.rs`.

use osd_core::{Input, Membership, ObjectKey, ObjectStore};
use proto::peer;
use types::{Instant, ObjectId, OsdId, PgKey};

use crate::cluster::edit::Edit;
use crate::cluster::map::{Map, Pg};
use crate::cluster::server::{Act, List, Server, group_of};

impl Server {
    /// Deletes the copies of groups that are others' by now, as `osd/src/moved.rs` does.
    pub(super) fn clear(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let groups = self.map.pgs.iter();
        let gone = groups.filter(|(_, pg)| !pg.replicas.contains(self.me));
        for group in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
            let listed = self.store.list(group, None, usize::MAX).unwrap_or_default();
            for (object, _) in listed {
                let pg = group.pg;
                self.delete(now, ObjectKey { pg, object }, (None, true), acts);
            }
        }
    }

    // ---- the map

    pub(super) fn take_map(&mut self, now: Instant, map: Map, acts: &mut Vec<Act>) {
        if map.version <= self.map.version {
            return;
        }
        let first = self.map.version == 0;
        if first && self.first_map.version == 0 {
            self.first_map = map.clone();
        }
        self.map = map;
        if self.common.edit == Some(Edit::PolicyUnheard) {
            self.map.policy = Default::default();
        }
        if first && self.new_store {
            // They may hold objects that this store lacks.
            let groups = self.map.groups_of(self.me).into_iter();
            let many = |group: &PgKey| {
                let pg = self.map.pgs.get(group);
                pg.is_some_and(|pg| pg.replicas.all().len() > 1)
            };
            self.incomplete = groups.filter(many).collect();
        }
        self.publish(now, acts);
        self.recovery.follow(now, self.me, &self.map);
    }

    /// Tells replicas what this server is in their groups.
    pub(super) fn publish(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let recovered = &self.recovery.recovered;
        self.incomplete.retain(|group| !recovered.contains(group));
        for object in self.slots.keys().copied().collect::<Vec<_>>() {
            let Some(slot) = self.slots.get(&object) else {
                continue;
            };
            let ours = self.membership(slot.key);
            // Others keep it from now on.
            let others = self.map.pgs.get(&group_of(slot.key)).map(|pg| Membership {
                view: pg.view,
                replicas: pg.replicas.clone(),
                ..slot.membership.clone()
            });
            let Some(membership) = ours.or(others).filter(|one| *one != slot.membership) else {
                continue;
            };
            if let Some(slot) = self.slots.get_mut(&object) {
                slot.membership = membership.clone();
            }
            self.step(now, object, Input::Membership(membership), acts);
        }
    }

    /// The objects of a group for a member that goes by the same view.
    pub(super) fn list(&mut self, group: PgKey, view: u64) -> Option<List> {
        let known = self.map.group(self.me, group)?.view;
        if known != view {
            return None;
        }
        let (incomplete, recovered) = self.own(group, self.recovery.recovered.contains(&group));
        Some((self.states(group, false), !incomplete && recovered))
    }

    /// All objects of a group, for comparing. With `strict` those whose newest changes are in memory only
    /// are suspect.
    pub(super) fn states(&mut self, group: PgKey, strict: bool) -> Vec<peer::ObjectState> {
        let listed = self.store.list(group, None, usize::MAX).unwrap_or_default();
        let state = |(object, header): (ObjectId, osd_core::Header)| match self.slots.get(&object) {
            Some(slot) => {
                let status = slot.replica.status();
                peer::ObjectState {
                    suspect: !status.trusted || strict && !status.clean,
                    ..slot.replica.object_state()
                }
            }
            None => peer::ObjectState {
                object: Some(object.into()),
                position: Some(header.record.position.into()),
                suspect: !header.record.clean,
                length_bytes: header.length_bytes,
            },
        };
        listed.into_iter().map(state).collect()
    }

    /// A member answered with its list.
    pub(crate) fn listed(
        &mut self,
        now: Instant,
        (from, group, view): (OsdId, PgKey, u64),
        list: Option<List>,
    ) {
        let Some((theirs, vouches)) = list else {
            return self.recovery.not_listed(now, from, group);
        };
        // What is declared while the set changes must be on disk: copies elsewhere are deleted then.
        let changing = self.map.pgs.get(&group).is_some_and(Pg::is_changing);
        let ours = self.states(group, changing);
        let asked = (from, group, view);
        self.recovery.listed(now, asked, &ours, (&theirs, vouches));
    }
}
