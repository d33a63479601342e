//! Housekeeping of the leader: sessions that fell silent, sizes their writers left unsettled,
//! files nobody needs any more, objects nobody needs any more, volumes that were deleted.
//!
//! Every step looks at a bounded number of things and proposes commands that may be repeated: what
//! was done already does nothing. What fails is tried again with the next round.

mod garbage;
mod settling;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mrc_core::{Effects, IndexError, janitor};
use proto::index::command::Op;
use shell::link::Identity;
use tokio::sync::watch;
use types::{Inode, UnixNanos, VolumeId};

use self::garbage::Cursors;
use self::settling::Settling;
use crate::config::{
    JANITOR_INTERVAL, JANITOR_LATE, JANITOR_PAUSE, JANITOR_ROUNDS_MAX, ORPHAN_GRACE,
    REAP_INODES_MAX, SETTLE_ROUND_TIMEOUT,
};
use crate::door::Service;
use crate::member_change;
use crate::osd_links::OsdLinks;

/// Runs until `stopped`.
pub(crate) async fn run(
    service: Arc<Service>,
    identity: Identity,
    mut stopped: watch::Receiver<bool>,
) {
    let janitor = Janitor {
        links: OsdLinks::new(identity),
        service,
    };
    let events = Arc::clone(janitor.service.node.machine.events());
    let work = async {
        let mut progress = Progress::default();
        loop {
            tokio::select! {
                () = events.janitor.notified() => {}
                () = tokio::time::sleep(JANITOR_INTERVAL) => {}
            }
            let effects = events.take();
            if let Err(error) = janitor.round(effects, &mut progress).await {
                tracing::error!(%error, "the janitor can't read the index");
            }
            // What happens meanwhile is done together.
            tokio::time::sleep(JANITOR_PAUSE).await;
        }
    };
    let expiry = async {
        loop {
            let start = Instant::now();
            tokio::time::sleep(JANITOR_INTERVAL).await;
            // Frozen: mounts may have called in vain meanwhile.
            if start.elapsed() > JANITOR_LATE {
                janitor.service.sessions.forgive();
            }
            janitor.expire_sessions().await;
        }
    };
    tokio::select! {
        () = work => {}
        () = expiry => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

struct Janitor {
    service: Arc<Service>,
    links: OsdLinks,
}

/// Where the next round goes on, so that everything gets its turn however much there is.
#[derive(Debug, Default)]
struct Progress {
    settling: Settling,
    orphans_after: Option<(VolumeId, Inode)>,
    garbage: Cursors,
}

/// Whether a program may be between looking up the name of an orphan and opening it.
fn is_young(since: UnixNanos, now: UnixNanos) -> bool {
    // The time was another leader's, whose clock may be ahead.
    let age = now
        .0
        .checked_sub(since.0)
        .and_then(|age| u64::try_from(age).ok());
    age.is_some_and(|age| Duration::from_nanos(age) < ORPHAN_GRACE)
}

impl Janitor {
    /// Everything once, if this server leads. The effects only say what is worth looking at first;
    /// all of it is looked at, because another leader may have seen them.
    async fn round(&self, _effects: Effects, progress: &mut Progress) -> Result<(), IndexError> {
        let Ok(leader) = self.service.node.leading() else {
            return Ok(());
        };
        let index = Arc::clone(self.service.node.index());
        self.service.sessions.enter(leader, &*index)?;
        member_change::finish_change(&self.service.node).await;
        // Servers that don't answer must not keep the janitor from everything else.
        let settling = self.settle_sessions(&mut progress.settling);
        if let Ok(settled) = tokio::time::timeout(SETTLE_ROUND_TIMEOUT, settling).await {
            settled?;
        }
        self.forget_answers().await?;
        self.reap_orphans(&mut progress.orphans_after).await?;
        self.collect_garbage(&mut progress.garbage).await?;
        self.purge_volumes().await
    }

    async fn expire_sessions(&self) {
        let Ok(leader) = self.service.node.leading() else {
            return;
        };
        // Without it these would be times from an earlier leadership.
        let index = &**self.service.node.index();
        if self.service.sessions.enter(leader, index).is_err() {
            return;
        }
        let timeout = self.service.config.session_timeout();
        for session in self.service.sessions.expired(timeout) {
            tracing::info!(%session, "the session was silent for too long and ends");
            let op = Op::ExpireSession(proto::index::ExpireSession { session: session.0 });
            if self.service.node.propose_internal(op).await.is_ok() {
                self.service.sessions.ended(session);
            }
        }
    }

    /// Removes inodes without links that nobody has open.
    async fn reap_orphans(&self, after: &mut Option<(VolumeId, Inode)>) -> Result<(), IndexError> {
        let sessions = &self.service.sessions;
        if !sessions.complete() {
            return Ok(());
        }
        let index = &**self.service.node.index();
        for _ in 0..JANITOR_ROUNDS_MAX {
            let page = janitor::orphans(index, *after)?;
            // Behind the last one the next round begins anew.
            *after = page.last().map(|last| (last.volume, last.inode));
            if page.is_empty() {
                break;
            }
            let mut unused: BTreeMap<VolumeId, Vec<u64>> = BTreeMap::new();
            let now = self.service.node.now();
            for orphan in page {
                if is_young(orphan.since, now) {
                    continue;
                }
                if !janitor::is_open_for_writing(index, orphan.volume, orphan.inode)?
                    && sessions.reap(orphan.volume, orphan.inode)
                {
                    unused
                        .entry(orphan.volume)
                        .or_default()
                        .push(orphan.inode.0);
                }
            }
            for (volume, inodes) in unused {
                self.reap(volume, &inodes).await;
            }
        }
        Ok(())
    }

    /// Removes orphans that nobody can open any more.
    async fn reap(&self, volume: VolumeId, inodes: &[u64]) {
        for inodes in inodes.chunks(REAP_INODES_MAX) {
            let op = Op::Reap(proto::index::Reap {
                volume: volume.0,
                inodes: inodes.to_vec(),
            });
            let _again = self.service.node.propose_internal(op).await;
            for inode in inodes {
                self.service.sessions.reaped(volume, Inode(*inode));
            }
        }
    }

    async fn purge_volumes(&self) -> Result<(), IndexError> {
        let index = &**self.service.node.index();
        for volume in janitor::deleted_volumes(index)? {
            for _ in 0..JANITOR_ROUNDS_MAX {
                let op = Op::VolumePurge(proto::index::VolumePurge {
                    volume: volume.0,
                    limit: 0,
                });
                let purged = self.service.node.propose_internal(op).await;
                if purged.is_err() || !janitor::deleted_volumes(index)?.contains(&volume) {
                    break;
                }
            }
        }
        Ok(())
    }
}
