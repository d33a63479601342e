//! The leader's housekeeping, as far as it speaks to object servers.

use mrc_core::internal;
use osd_core::ObjectKey;
use proto::index::command::Op;
use types::{Duration, Inode, ObjectId, OsdId, PgId, VolumeId};

use crate::cluster::edit::Edit;
use crate::cluster::meta::{Origin, unix};
use crate::cluster::world::{Happening, World};

/// Time between rounds.
const JANITOR_INTERVAL: Duration = Duration::from_millis(500);

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
        for osd in self.osds() {
            self.collect(osd);
        }
    }

    fn collect(&mut self, osd: OsdId) {
        let excluded = self.plan.excluded == Some(osd) && self.plan.ill != Some(osd);
        if !self.server(osd).up || excluded {
            return;
        }
        let busy = self.deletions.values().any(|(to, _)| *to == osd);
        let (seqs, objects) = self.meta.garbage(osd);
        if seqs.is_empty() || busy {
            return;
        }
        let key = |object: &proto::index::GarbageObject| ObjectKey {
            pg: PgId(object.pg),
            object: ObjectId {
                volume: VolumeId(object.volume),
                inode: Inode(object.inode),
                column: 0,
            },
        };
        let keys = objects.iter().map(key).collect();
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
