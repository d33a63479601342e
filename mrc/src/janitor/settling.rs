//! Sizes that ended writers left unsettled, and sessions that can be forgotten then.

use std::collections::{BTreeSet, VecDeque};

use futures::StreamExt;
use mrc_core::config::ANSWERS_KEPT_MAX;
use mrc_core::janitor::{self, LostWriter};
use mrc_core::{IndexError, query};
use proto::index::command::Op;
use proto::osd::Response;
use types::{Inode, PgId, Rights, SessionId, VolumeId};

use super::Janitor;
use crate::config::SETTLE_AT_ONCE_MAX;
use crate::log_writer::lock;

/// One pass over all lost writers. It may take several rounds: what is silent must not keep those
/// behind it from being settled, so each round goes on where the one before was interrupted.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Sessions that had ended when the pass began, and whether their answers are kept.
    ended: Vec<(SessionId, bool)>,
    /// Of those, who still has something unsettled.
    unsettled: BTreeSet<SessionId>,
    /// Found and not asked about.
    queue: VecDeque<LostWriter>,
    /// Where the next page begins; `None` when there is none.
    next: Option<Vec<u8>>,
    running: bool,
}

impl Settling {
    /// Takes the next few to settle at once. Until [`settled`](Self::settled) says otherwise their
    /// sessions count as unsettled: the round may be interrupted.
    fn take(&mut self) -> (Vec<LostWriter>, BTreeSet<SessionId>) {
        let count = self.queue.len().min(SETTLE_AT_ONCE_MAX);
        let chunk: Vec<_> = self.queue.drain(..count).collect();
        let before = self.unsettled.clone();
        self.unsettled.extend(chunk.iter().map(|lost| lost.session));
        (chunk, before)
    }

    fn settled(&mut self, mut before: BTreeSet<SessionId>, outcomes: Vec<(SessionId, bool)>) {
        let failed = outcomes.into_iter().filter(|(_, done)| !done);
        before.extend(failed.map(|(session, _)| session));
        self.unsettled = before;
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
        loop {
            self.settle_wanted().await;
            let (chunk, before) = pass.take();
            if chunk.is_empty() {
                let Some(start) = pass.next.take() else {
                    break;
                };
                let page = janitor::lost_writers(index, Some(start))?;
                pass.queue = page.found.into();
                pass.next = page.next;
                continue;
            }
            let settling = chunk
                .into_iter()
                .map(|lost| async move { (lost.session, self.settle(lost).await) });
            let outcomes = futures::stream::iter(settling)
                .buffer_unordered(SETTLE_AT_ONCE_MAX)
                .collect()
                .await;
            pass.settled(before, outcomes);
        }
        pass.running = false;
        for (session, keep_slots) in pass.ended.drain(..) {
            if !pass.unsettled.contains(&session) {
                self.forget(session, keep_slots).await;
            }
        }
        Ok(())
    }

    /// Settles the files of a restore that somebody waits for. What fails has its turn in the pass.
    async fn settle_wanted(&self) {
        let mut first = std::mem::take(&mut *lock(&self.service.settle_first));
        while !first.is_empty() {
            let count = first.len().min(SETTLE_AT_ONCE_MAX);
            let chunk: Vec<_> = first.drain(..count).collect();
            futures::stream::iter(chunk.into_iter().map(|lost| self.settle(lost)))
                .buffer_unordered(SETTLE_AT_ONCE_MAX)
                .for_each(async |_| {})
                .await;
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
            .ask_primary(replicas, &request)
            .await
            .map(|response| (response, record.truncate_epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(session: u64) -> LostWriter {
        LostWriter {
            volume: VolumeId(1),
            inode: Inode(session),
            session: SessionId(session),
        }
    }

    #[test]
    fn interrupted_pass_goes_on_behind_those_that_were_silent() {
        let count = SETTLE_AT_ONCE_MAX as u64;
        let mut pass = Settling {
            queue: (0..count + 2).map(lost).collect(),
            ..Settling::default()
        };

        // Nobody hears how it went.
        let _interrupted = pass.take();
        let (chunk, before) = pass.take();
        let outcomes = chunk
            .iter()
            .map(|lost| (lost.session, lost.inode.0 == count));
        pass.settled(before, outcomes.collect());

        assert_eq!(chunk, [lost(count), lost(count + 1)]);
        assert!(pass.take().0.is_empty());
        assert!((0..count).all(|session| pass.unsettled.contains(&SessionId(session))));
        assert!(
            !pass.unsettled.contains(&SessionId(count)),
            "it was settled"
        );
        assert!(pass.unsettled.contains(&SessionId(count + 1)));
    }
}
