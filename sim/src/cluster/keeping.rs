//! The leader's housekeeping, as far as it speaks to object servers, and what they ask it for: the rules
//! of `mrc/src/janitor` and `osd/src/leftovers.rs`.

use mrc_core::internal;
use osd_core::{ObjectKey, ObjectStore as _};
use proto::index::command::Op;
use proto::mrc::HeldObject;
use rand::RngExt as _;
use types::{Duration, Inode, ObjectId, OsdId, PgId, VolumeId};

use crate::cluster::edit::Edit;
use crate::cluster::happening::{Happening, Right};
use crate::cluster::meta::{Meta, Origin, unix};
use crate::cluster::server::{Found, Item};
use crate::cluster::world::World;

/// Who asks for the metadata cluster, in the place of a mount.
pub(crate) const SETTLER: usize = usize::MAX;

/// Time between rounds.
const JANITOR_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two rounds in which a server looks for objects of files that are gone.
const LEFTOVERS_INTERVAL: Duration = Duration::from_secs(4);

impl World {
    pub(crate) fn janitor(&mut self) {
        let now = self.schedule.now();
        self.schedule.after(JANITOR_INTERVAL, Happening::Janitor);
        if self.meta.leader.is_none() {
            return;
        }
        if let Some(command) = self.meta.orphans(now) {
            let inodes = match &command.op {
                Some(Op::Reap(reap)) => reap.inodes.clone(),
                _ => Vec::new(),
            };
            let id = self.meta.propose(command, Origin::Reap(inodes));
            self.plan_commit(id);
        }
        let mut commands = self.meta.expired(now);
        commands.extend(self.meta.forgets(now));
        for command in commands {
            let id = self.meta.propose(command, Origin::Nobody);
            self.plan_commit(id);
        }
        self.settles();
        for osd in self.osds() {
            self.collect(osd);
            self.look_for_leftovers(osd);
        }
    }

    /// Asks how long the objects are whose writers' sessions ended.
    fn settles(&mut self) {
        let now = self.schedule.now();
        for (lost, epoch, place) in self.meta.lost_writers() {
            let Some(pg) = place else {
                let command = Meta::settles(now, &lost, (0, epoch));
                let id = self.meta.propose(command, Origin::Nobody);
                self.plan_commit(id);
                continue;
            };
            let key = key_of(lost.volume.0, lost.inode.0, pg.0);
            let members = self.members(key);
            let member = members[self.rng.random_range(0..members.len())];
            if !self.reaches(member) {
                continue;
            }
            let right = self.meta.grant(
                now,
                types::SessionId(0),
                lost.inode,
                (pg, types::Rights::Write),
            );
            let right = Right {
                capability: right.capability.to_vec(),
                view: right.view,
            };
            self.next_id += 1;
            let call = self.next_id;
            self.settling.insert(call, (lost, epoch));
            let asks = Happening::AsksObject {
                mount: SETTLER,
                osd: member,
                life: self.server(member).life,
                call,
                key,
                right,
                op: Box::new(osd_core::Op::Stat),
            };
            let delay = self.delay();
            self.schedule.after(delay, asks);
        }
    }

    /// An object's primary said how long it is, or somebody that it is not the primary.
    pub(crate) fn shown(&mut self, call: u64, result: &Result<osd_core::Done, types::Fault>) {
        let known = self.settling.remove(&call);
        let (Some((lost, epoch)), Ok(done)) = (known, result) else {
            return;
        };
        if self.meta.leader.is_some() {
            let found = (done.length_bytes, epoch);
            let command = Meta::settles(self.schedule.now(), &lost, found);
            let id = self.meta.propose(command, Origin::Nobody);
            self.plan_commit(id);
        }
    }

    /// A server asks what of all it holds is of files that are gone, and has deleted what it found in the
    /// round before and still holds.
    fn look_for_leftovers(&mut self, osd: OsdId) {
        let now = self.schedule.now();
        let asks = !self.options.edit.is_some_and(Edit::is_without_leftovers);
        let server = self.server(osd);
        let frozen = server.paused_until > now || server.looked_at + LEFTOVERS_INTERVAL > now;
        if !self.reaches(osd) || frozen || !asks {
            return;
        }
        if self.options.edit != Some(Edit::MovedKept) {
            self.deliver(osd, Item::Clear);
        }
        let found = self.look(osd);
        let server = self.server(osd);
        server.looked_at = now;
        let before = std::mem::replace(&mut server.found, found);
        let store = &server.store;
        let objects = before.objects.into_iter();
        let still =
            objects.filter(|one| store.bytes(key_of(one.volume, one.inode, one.pg)).is_some());
        let discard = proto::mrc::DiscardLeftovers {
            osd: osd.0,
            objects: still.take(mrc_core::config::LEFTOVERS_MAX).collect(),
            garbage_below: before.garbage_below,
        };
        if !discard.objects.is_empty() {
            let command = internal(Op::DiscardLeftovers(discard), unix(now));
            let id = self.meta.propose(command, Origin::Nobody);
            self.plan_commit(id);
        }
    }

    fn look(&mut self, osd: OsdId) -> Found {
        let groups: Vec<_> = self.server(osd).map.pgs.keys().copied().collect();
        let mut objects = Vec::new();
        for group in groups {
            let listed = self.server(osd).store.list(group, None, usize::MAX);
            let held = listed.unwrap_or_default();
            objects.extend(held.into_iter().map(|(object, _)| HeldObject {
                volume: object.volume.0,
                inode: object.inode.0,
                pg: group.pg.0,
            }));
        }
        let mut found = Found::default();
        for page in objects.chunks(mrc_core::config::HELD_OBJECTS_MAX) {
            let answer = self.meta.leftovers(osd, page);
            found.garbage_below = found.garbage_below.max(answer.garbage_below);
            found.objects.extend(answer.objects);
        }
        found
    }

    /// Whether the server runs and is not cut off for good.
    fn reaches(&mut self, osd: OsdId) -> bool {
        let excluded = self.plan.excluded == Some(osd) && self.plan.ill != Some(osd);
        self.server(osd).up && !excluded
    }

    fn collect(&mut self, osd: OsdId) {
        if !self.reaches(osd) {
            return;
        }
        let busy = self.deletions.values().any(|(to, _)| *to == osd);
        let (seqs, objects) = self.meta.garbage(osd);
        if seqs.is_empty() || busy {
            return;
        }
        let objects = objects.iter();
        let keys = objects.map(|one| (key_of(one.volume, one.inode, one.pg), one.moved));
        let keys = keys.collect();
        self.next_id += 1;
        let batch = self.next_id;
        self.deletions.insert(batch, (osd, seqs));
        let life = self.server(osd).life;
        let delay = self.delay();
        let deletes = Happening::Deletes {
            osd,
            life,
            batch,
            keys,
        };
        self.schedule.after(delay, deletes);
        let done = self.options.edit == Some(Edit::DeletionBelieved);
        let patience = match done {
            true => Duration::ZERO,
            false => Duration::from_secs(5),
        };
        self.schedule
            .after(patience, Happening::Deleted { osd, batch, done });
    }

    pub(crate) fn deleted(&mut self, osd: OsdId, batch: u64, done: bool) {
        let Some((_, seqs)) = self.deletions.remove(&batch) else {
            return;
        };
        if !done || self.meta.leader.is_none() {
            return;
        }
        let collected = proto::index::Collected { osd: osd.0, seqs };
        let command = internal(Op::Collected(collected), unix(self.schedule.now()));
        let id = self.meta.propose(command, Origin::Nobody);
        self.plan_commit(id);
    }
}

const fn key_of(volume: u64, inode: u64, pg: u32) -> ObjectKey {
    ObjectKey {
        pg: PgId(pg),
        object: ObjectId {
            volume: VolumeId(volume),
            inode: Inode(inode),
            column: 0,
        },
    }
}
