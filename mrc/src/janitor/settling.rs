//! Sizes that ended writers left unsettled, and sessions that can be forgotten then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mrc_core::config::ANSWERS_KEPT_MAX;
use mrc_core::janitor::{self, LostWriter};
use mrc_core::{IndexError, query};
use proto::index::command::Op;
use proto::mrc::Replica;
use proto::osd::Response;
use types::{Inode, OsdId, PgId, Rights, SessionId, VolumeId};

use super::Janitor;
use crate::config::{SETTLE_AT_ONCE_MAX, SETTLE_TAKE_TIME};
use crate::log_writer::lock;

/// One pass over all lost writers. It may take several rounds: what is silent must not keep those
/// behind it from being settled, so each round goes on where the one before was interrupted.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Sessions that had ended when the pass began, and whether their answers are kept.
    ended: Vec<(SessionId, bool)>,
    /// Of those, who still has something unsettled.
    unsettled: BTreeSet<SessionId>,
    /// How many of each session are being settled.
    under_way: BTreeMap<SessionId, usize>,
    /// Found and not asked about.
    queue: VecDeque<LostWriter>,
    /// Where the next page begins; `None` when there is none.
    next: Option<Vec<u8>>,
    running: bool,
}

impl Settling {
    /// Takes the next one to settle.
    fn take(&mut self) -> Option<LostWriter> {
        let lost = self.queue.pop_front()?;
        *self.under_way.entry(lost.session).or_default() += 1;
        Some(lost)
    }

    /// How it went with one that was taken.
    fn settled(&mut self, session: SessionId, done: bool) {
        if let Some(count) = self.under_way.get_mut(&session) {
            *count = count.saturating_sub(1);
        }
        if !done {
            self.unsettled.insert(session);
        }
    }

    /// A round ends. Of what was taken and is not settled nobody will hear how it went.
    fn end_round(&mut self) {
        let under_way = std::mem::take(&mut self.under_way);
        let lost = under_way.into_iter().filter(|(_, count)| *count > 0);
        self.unsettled.extend(lost.map(|(session, _)| session));
    }
}

impl Janitor {
    /// Settles the sizes that ended writers left, then forgets sessions that left nothing. The mount
    /// of one that expired may still ask what became of its requests.
    pub(super) async fn settle_sessions(&self, pass: &mut Settling) -> Result<(), IndexError> {
        let index = &**self.service.node.index();
        if !pass.running {
            let ended = janitor::unsettled_sessions(index)?;
            if ended.is_empty() {
                return Ok(());
            }
            let page = janitor::lost_writers(index, None)?;
            *pass = Settling {
                ended: ended
                    .into_iter()
                    .map(|(session, record)| (session, record.expired))
                    .collect(),
                queue: page.found.into(),
                next: page.next,
                running: true,
                ..Settling::default()
            };
        }
        // A round before may have been interrupted.
        pass.end_round();
        let done = self.settle_many(pass).await?;
        pass.end_round();
        if !done {
            // The next round goes on at once.
            self.service.node.machine.events().janitor.notify_one();
            return Ok(());
        }
        pass.running = false;
        for (session, keep_slots) in pass.ended.drain(..) {
            if !pass.unsettled.contains(&session) {
                self.forget(session, keep_slots).await;
            }
        }
        Ok(())
    }

    /// Settles what the pass has left, many at once, for a while; true if there is nothing more. The files of a
    /// restore that somebody waits for come first; if that fails they have their turn in the pass.
    async fn settle_many(&self, pass: &mut Settling) -> Result<bool, IndexError> {
        let index = &**self.service.node.index();
        let begun = Instant::now();
        let mut under_way = FuturesUnordered::new();
        loop {
            let late = begun.elapsed() >= SETTLE_TAKE_TIME;
            while under_way.len() < SETTLE_AT_ONCE_MAX && !late {
                let wanted = lock(&self.service.settle_first).pop_front();
                let is_wanted = wanted.is_some();
                let Some(lost) = wanted.or_else(|| pass.take()) else {
                    let Some(start) = pass.next.take() else {
                        break;
                    };
                    let page = janitor::lost_writers(index, Some(start))?;
                    pass.queue = page.found.into();
                    pass.next = page.next;
                    continue;
                };
                under_way.push(async move { (lost.session, is_wanted, self.settle(lost).await) });
            }
            match under_way.next().await {
                Some((_, true, _)) => {}
                Some((session, false, done)) => pass.settled(session, done),
                None => return Ok(pass.queue.is_empty() && pass.next.is_none()),
            }
        }
    }

    /// Forgets the answers of expired sessions that were kept long enough.
    pub(super) async fn forget_answers(&self) -> Result<(), IndexError> {
        let index = &**self.service.node.index();
        let now = self.service.node.now();
        for session in janitor::outlived_sessions(index, now, ANSWERS_KEPT_MAX)? {
            self.forget(session, false).await;
        }
        Ok(())
    }

    async fn forget(&self, session: SessionId, keep_slots: bool) {
        let op = Op::ForgetSession(proto::index::ForgetSession {
            session: session.0,
            keep_slots,
        });
        let _again = self.service.node.propose_internal(op).await;
    }

    /// Asks the object's primary how long it is; true when that is recorded.
    async fn settle(&self, lost: LostWriter) -> bool {
        let (shown, truncate_epoch) = match self.shown(lost.volume, lost.inode).await {
            Ok(found) => found,
            Err(reason) => {
                tracing::debug!(volume = %lost.volume, inode = %lost.inode, reason, "size not settled yet");
                return false;
            }
        };
        let index = &**self.service.node.index();
        let op = match mrc_core::is_restorer(index, lost.volume, lost.session) {
            Ok(false) => Op::SettleSize(proto::index::SettleSize {
                volume: lost.volume.0,
                inode: lost.inode.0,
                session: lost.session.0,
                size_at_least_bytes: shown.length_bytes,
                truncate_epoch,
            }),
            Ok(true) => Op::SettleRestored(proto::index::SettleRestored {
                volume: lost.volume.0,
                inode: lost.inode.0,
                session: lost.session.0,
                length_bytes: shown.length_bytes,
                // The first change of an object has the number 1.
                written: shown.seq > 0,
            }),
            Err(_) => return false,
        };
        self.service.node.propose_internal(op).await.is_ok()
    }

    /// What a file's primary says of its object, and the epoch of truncations before it was asked.
    async fn shown(&self, volume: VolumeId, inode: Inode) -> Result<(Response, u64), String> {
        let index = &**self.service.node.index();
        let record = query::inode(index, volume, inode).map_err(|error| error.to_string())?;
        let Some(record) = record.filter(|record| record.has_object) else {
            return Ok((Response::default(), 0));
        };
        let pg = PgId(record.pg);
        let map = self
            .service
            .map
            .get(index)
            .map_err(|error| error.to_string())?;
        let (view, replicas) = map.pg(volume, pg).map_err(|fault| fault.message)?;
        let up = self.service.osds.up(self.service.config.osd_timeout());
        let replicas = heard_first(replicas, &up);
        // Stat of a lease's holder; the right to write lets it take over what the writer left.
        let nobody = SessionId(0);
        let (capability, _) = self
            .service
            .grants
            .seal((nobody, volume), inode, pg, Rights::Write);
        let request = proto::osd::Request {
            object: Some(proto::osd::ObjectRef {
                volume: volume.0,
                inode: inode.0,
                column: 0,
            }),
            pg: pg.0,
            view,
            capability: capability.into(),
            forward_to: 0,
            op: Some(proto::osd::request::Op::Stat(proto::osd::Stat {})),
        };
        self.links
            .ask_primary(&replicas, &request)
            .await
            .map(|response| (response, record.truncate_epoch))
    }
}

/// The replicas in their order, but those that are down last: that one can't be reached may take half a second.
fn heard_first(replicas: &[Replica], up: &[OsdId]) -> Vec<Replica> {
    let mut replicas = replicas.to_vec();
    replicas.sort_by_key(|replica| !up.contains(&OsdId(replica.osd)));
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_up_are_asked_first() {
        let replica = |osd| Replica {
            osd,
            ..Replica::default()
        };
        let asked = heard_first(&[3, 1, 2].map(replica), &[OsdId(1), OsdId(2)]);
        assert_eq!(asked, [1, 2, 3].map(replica));
    }

    fn lost(session: u64) -> LostWriter {
        LostWriter {
            volume: VolumeId(1),
            inode: Inode(session),
            session: SessionId(session),
        }
    }

    #[test]
    fn session_counts_as_unsettled_if_one_failed_or_was_interrupted() {
        let mut pass = Settling {
            queue: [1, 2, 3, 3, 4].map(lost).into(),
            ..Settling::default()
        };

        // Nobody hears how it went with the first.
        let interrupted = pass.take();
        pass.end_round();
        let taken: Vec<_> = std::iter::from_fn(|| pass.take()).collect();
        for (session, done) in [(2, true), (3, true), (3, true), (4, false)] {
            pass.settled(SessionId(session), done);
        }
        pass.end_round();

        assert_eq!(interrupted, Some(lost(1)));
        assert_eq!(taken, [2, 3, 3, 4].map(lost));
        assert_eq!(pass.unsettled, [1, 4].map(SessionId).into());
    }

    #[test]
    fn session_with_one_settled_and_another_interrupted_is_unsettled() {
        let mut pass = Settling {
            queue: [1, 1].map(lost).into(),
            ..Settling::default()
        };

        let _both = (pass.take(), pass.take());
        pass.settled(SessionId(1), true);
        pass.end_round();

        assert_eq!(pass.unsettled, [SessionId(1)].into());
    }
}
