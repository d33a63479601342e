//! The leader's housekeeping: orphans, garbage, sessions that fell silent, replica sets.

use mrc_core::janitor::LostWriter;
use mrc_core::{internal, query};
use proto::index::Command;
use proto::index::command::Op;
use proto::mrc::{self, response};
use types::{Duration, OsdId, PgId, Policy, SessionId, VolumeId};

use super::{Meta, unix};
use crate::cluster::edit::Edit;
use crate::time::TrueTime;

/// Orphans this young may be between somebody's look at the name and the open.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);

impl Meta {
    /// Files to remove.
    pub(crate) fn orphans(&mut self, now: TrueTime) -> Option<Command> {
        let complete = self.soft.readers.have_all_listed();
        if !complete && self.edit != Some(Edit::RegistrationIgnored) {
            return None;
        }
        let orphans = mrc_core::janitor::orphans(&self.index, None).unwrap_or_default();
        let mut unused = Vec::new();
        for orphan in orphans {
            let inode = orphan.inode.0;
            let young = unix(now).0 - orphan.since.0 < unix(TrueTime(ORPHAN_GRACE.as_nanos())).0;
            let written =
                mrc_core::janitor::is_open_for_writing(&self.index, self.volume, orphan.inode);
            if young || written.unwrap_or(true) {
                continue;
            }
            let unused_by_readers = self.soft.readers.reap(self.volume, orphan.inode);
            if unused_by_readers || self.edit == Some(Edit::ReadersIgnored) {
                unused.push(inode);
            }
        }
        let reap = proto::index::Reap {
            volume: self.volume.0,
            inodes: unused,
        };
        (!reap.inodes.is_empty()).then(|| internal(Op::Reap(reap), unix(now)))
    }

    /// Objects a server should delete, and the numbers under which it is to be reported.
    pub(crate) fn garbage(&self, osd: OsdId) -> (Vec<u64>, Vec<proto::index::GarbageObject>) {
        let page = mrc_core::janitor::garbage(&self.index, osd, None).unwrap_or_default();
        let seqs = page.iter().map(|garbage| garbage.seq).collect();
        let objects = page.into_iter().flat_map(|garbage| garbage.record.objects);
        (seqs, objects.collect())
    }

    /// Which of a server's objects are of files that are gone.
    pub(crate) fn leftovers(&self, osd: OsdId, objects: &[mrc::HeldObject]) -> mrc::Leftovers {
        let find = mrc::FindLeftovers {
            osd: osd.0,
            objects: objects.to_vec(),
        };
        match query::leftovers(&self.index, &find) {
            Ok(Ok(mrc::Response {
                reply: Some(response::Reply::Leftovers(found)),
            })) => found,
            _ => mrc::Leftovers::default(),
        }
    }

    /// Ends sessions that were silent for too long.
    pub(crate) fn expired(&self, now: TrueTime) -> Vec<Command> {
        let sessions = self.soft.sessions.iter();
        let silent = sessions
            .filter(|(_, (heard, waiting))| *waiting == 0 && *heard + self.session_timeout < now);
        let expire = |session: u64| proto::index::ExpireSession { session };
        silent
            .map(|(session, _)| internal(Op::ExpireSession(expire(*session)), unix(now)))
            .collect()
    }

    /// Writers whose sessions ended, the epoch of truncations, and where their objects are; of files without
    /// one, nothing is to be asked.
    pub(crate) fn lost_writers(&self) -> Vec<(LostWriter, u64, Option<PgId>)> {
        let found = mrc_core::janitor::lost_writers(&self.index, None);
        let found = found.map(|page| page.found).unwrap_or_default();
        let place = |lost: LostWriter| {
            let record = query::inode(&self.index, lost.volume, lost.inode);
            let record = record.ok().flatten();
            let epoch = record.as_ref().map_or(0, |record| record.truncate_epoch);
            let record = record.filter(|record| record.has_object);
            (lost, epoch, record.map(|record| PgId(record.pg)))
        };
        found.into_iter().map(place).collect()
    }

    /// The size that a lost writer left, as it was found after this epoch was known.
    pub(crate) fn settles(
        now: TrueTime,
        lost: &LostWriter,
        (length_bytes, epoch): (u64, u64),
    ) -> Command {
        let settle = proto::index::SettleSize {
            volume: lost.volume.0,
            inode: lost.inode.0,
            session: lost.session.0,
            size_at_least_bytes: length_bytes,
            truncate_epoch: epoch,
        };
        internal(Op::SettleSize(settle), unix(now))
    }

    /// Sessions that left nothing. The mount of one that expired may still ask what became of its requests.
    pub(crate) fn forgets(&self, now: TrueTime) -> Vec<Command> {
        let lost = self.lost_writers();
        let ended = mrc_core::janitor::unsettled_sessions(&self.index).unwrap_or_default();
        let settled = ended.into_iter().filter(|(session, _)| {
            let mut lost = lost.iter();
            lost.all(|(lost, ..)| lost.session != *session)
        });
        let forget = |(session, record): (SessionId, proto::index::SessionRecord)| {
            let forget = proto::index::ForgetSession {
                session: session.0,
                keep_slots: record.expired,
            };
            internal(Op::ForgetSession(forget), unix(now))
        };
        settled.map(forget).collect()
    }

    // ---- object servers

    /// What a heartbeat has changed, and the map if the server has an older one; as `mrc/src/heartbeats.rs`.
    pub(crate) fn heartbeat(
        &self,
        now: TrueTime,
        beat: &mrc::OsdHeartbeat,
    ) -> (Vec<Command>, Option<mrc::OsdMap>) {
        let registration = mrc_core::registration(&self.index, beat).ok().flatten();
        if let Some(register) = registration {
            // The map comes with the next one, which finds this recorded.
            return (vec![internal(Op::RegisterOsd(register), unix(now))], None);
        }
        let full = |pg: &mrc::Pg| {
            let marked = pg.incomplete.contains(&beat.osd) || pg.settling.contains(&beat.osd);
            let mut reports = beat.pgs.iter();
            marked
                && reports.any(|report| {
                    (report.volume, report.pg, report.view) == (pg.volume, pg.pg, pg.view)
                        && report.state() == mrc::PgState::PgFull
                })
        };
        let pgs = self.pgs();
        let declared = pgs.iter().filter(|pg| full(pg)).map(|pg| {
            let full = proto::index::PgFull {
                volume: pg.volume,
                pg: pg.pg,
                view: pg.view,
                osd: beat.osd,
                store_uuid: beat.store_uuid.clone(),
            };
            internal(Op::PgFull(full), unix(now))
        });
        let map = self.map();
        let news = map.version != beat.map_version;
        (declared.collect(), news.then_some(map))
    }

    pub(crate) fn map(&self) -> mrc::OsdMap {
        query::osd_map(&self.index).unwrap_or_default()
    }

    /// Changes of replica sets that may end.
    pub(crate) fn ends_of_changes(&self, now: TrueTime) -> Vec<Command> {
        let mut ends = Vec::new();
        for pg in self.pgs() {
            let record = query::pg(&self.index, VolumeId(pg.volume), PgId(pg.pg));
            let Ok(Some(record)) = record else {
                continue;
            };
            if mrc_core::change_may_end(&record) {
                let end = proto::index::EndPgChange {
                    volume: pg.volume,
                    pg: pg.pg,
                    view: pg.view,
                };
                ends.push(internal(Op::EndPgChange(end), unix(now)));
            }
        }
        ends
    }

    pub(crate) fn change_of(now: TrueTime, pg: &mrc::Pg, osds: Vec<u64>) -> Command {
        let change = proto::index::ChangePg {
            volume: pg.volume,
            pg: pg.pg,
            view: pg.view,
            osds,
        };
        internal(Op::ChangePg(change), unix(now))
    }

    pub(crate) fn policy_set(now: TrueTime, policy: Policy) -> Command {
        let set = mrc::VolumeSet {
            name: "v".to_owned(),
            write_policy: policy.write.to_string(),
            quorum: policy.quorum.to_string(),
            ..mrc::VolumeSet::default()
        };
        internal(Op::VolumeSet(set), unix(now))
    }
}
