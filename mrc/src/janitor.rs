//! Housekeeping of the leader: sessions that fell silent, sizes their writers left unsettled,
//! files nobody needs any more, objects nobody needs any more, volumes that were deleted.
//!
//! Every step looks at a bounded number of things and proposes commands that may be repeated: what
//! was done already does nothing. What fails is tried again with the next round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use mrc_core::janitor::{self, Garbage, LostWriter};
use mrc_core::{Effects, IndexError, query};
use proto::index::command::Op;
use proto::osd::ObjectInPg;
use shell::link::Identity;
use tokio::sync::watch;
use types::{Inode, OsdId, PgId, Rights, SessionId, VolumeId};

use crate::config::{
    DELETE_OBJECTS_MAX, JANITOR_INTERVAL, JANITOR_LATE, JANITOR_PAUSE, JANITOR_ROUNDS_MAX,
    REAP_INODES_MAX, SETTLE_AT_ONCE_MAX, SETTLE_ROUND_TIMEOUT,
};
use crate::door::Service;
use crate::membership;
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
        loop {
            tokio::select! {
                () = events.janitor.notified() => {}
                () = tokio::time::sleep(JANITOR_INTERVAL) => {}
            }
            let effects = events.take();
            if let Err(error) = janitor.round(effects).await {
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

impl Janitor {
    /// Everything once, if this server leads. The effects only say what is worth looking at first;
    /// all of it is looked at, because another leader may have seen them.
    async fn round(&self, _effects: Effects) -> Result<(), IndexError> {
        let Ok(leader) = self.service.node.leading() else {
            return Ok(());
        };
        let index = Arc::clone(self.service.node.index());
        self.service.sessions.enter(leader, &*index)?;
        membership::finish_change(&self.service.node).await;
        // Servers that don't answer must not keep the janitor from everything else.
        if let Ok(settled) =
            tokio::time::timeout(SETTLE_ROUND_TIMEOUT, self.settle_sessions()).await
        {
            settled?;
        }
        self.reap_orphans().await?;
        self.collect_garbage().await?;
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

    /// Settles the sizes that ended writers left, then forgets sessions that left nothing.
    async fn settle_sessions(&self) -> Result<(), IndexError> {
        let index = &**self.service.node.index();
        let ended = janitor::ended_sessions(index)?;
        if ended.is_empty() {
            return Ok(());
        }
        let mut unsettled: BTreeSet<SessionId> = BTreeSet::new();
        let mut start = None;
        loop {
            let page = janitor::lost_writers(index, start)?;
            let settling = page
                .found
                .into_iter()
                .map(|lost| async move { (lost.session, self.settle(lost).await) });
            let settled: Vec<_> = futures::stream::iter(settling)
                .buffer_unordered(SETTLE_AT_ONCE_MAX)
                .collect()
                .await;
            for (session, done) in settled {
                if !done {
                    unsettled.insert(session);
                }
            }
            start = page.next;
            if start.is_none() {
                break;
            }
        }
        for (session, _) in ended {
            if !unsettled.contains(&session) {
                let op = Op::ForgetSession(proto::index::ForgetSession { session: session.0 });
                let _again = self.service.node.propose_internal(op).await;
            }
        }
        Ok(())
    }

    /// Asks the object's primary how long it is; true when that is recorded.
    async fn settle(&self, lost: LostWriter) -> bool {
        let size_at_least_bytes = match self.length(lost.volume, lost.inode).await {
            Ok(length) => length,
            Err(reason) => {
                tracing::debug!(volume = %lost.volume, inode = %lost.inode, reason, "size not settled yet");
                return false;
            }
        };
        let op = Op::SettleSize(proto::index::SettleSize {
            volume: lost.volume.0,
            inode: lost.inode.0,
            session: lost.session.0,
            size_at_least_bytes,
        });
        self.service.node.propose_internal(op).await.is_ok()
    }

    async fn length(&self, volume: VolumeId, inode: Inode) -> Result<u64, String> {
        let index = &**self.service.node.index();
        let record = query::inode(index, volume, inode).map_err(|error| error.to_string())?;
        let Some(record) = record.filter(|record| record.has_object) else {
            return Ok(0);
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
            op: Some(proto::osd::request::Op::Stat(proto::osd::Stat {})),
        };
        self.links
            .ask_primary(replicas, &request)
            .await
            .map(|response| response.length_bytes)
    }

    /// Removes inodes without links that nobody has open.
    async fn reap_orphans(&self) -> Result<(), IndexError> {
        let sessions = &self.service.sessions;
        if !sessions.complete(self.service.config.session_timeout()) {
            return Ok(());
        }
        let index = &**self.service.node.index();
        let mut after = None;
        for _ in 0..JANITOR_ROUNDS_MAX {
            let page = janitor::orphans(index, after)?;
            let Some(last) = page.last() else {
                break;
            };
            after = Some((last.volume, last.inode));
            let mut unused: BTreeMap<VolumeId, Vec<u64>> = BTreeMap::new();
            for orphan in page {
                if !sessions.has_readers(orphan.volume, orphan.inode)
                    && !janitor::is_open_for_writing(index, orphan.volume, orphan.inode)?
                {
                    unused
                        .entry(orphan.volume)
                        .or_default()
                        .push(orphan.inode.0);
                }
            }
            for (volume, inodes) in unused {
                for inodes in inodes.chunks(REAP_INODES_MAX) {
                    let op = Op::Reap(proto::index::Reap {
                        volume: volume.0,
                        inodes: inodes.to_vec(),
                    });
                    let _again = self.service.node.propose_internal(op).await;
                }
            }
        }
        Ok(())
    }

    async fn collect_garbage(&self) -> Result<(), IndexError> {
        let index = &**self.service.node.index();
        let map = self.service.map.get(index)?;
        for osd in self.service.osds.up(self.service.config.osd_timeout()) {
            let address = map.whole.osds.iter().find(|replica| replica.osd == osd.0);
            let Some(address) = address.map(|replica| &replica.address) else {
                continue;
            };
            let mut after = None;
            for _ in 0..JANITOR_ROUNDS_MAX {
                let page = janitor::garbage(index, osd, after)?;
                let Some(last) = page.last() else {
                    break;
                };
                after = Some(last.seq);
                if !self.delete(osd, address, page).await {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Has one object server delete a page of garbage; false if it did not.
    async fn delete(&self, osd: OsdId, address: &str, page: Vec<Garbage>) -> bool {
        let mut batch: Vec<ObjectInPg> = Vec::new();
        let mut seqs = Vec::new();
        let mut rest = page.into_iter().peekable();
        while let Some(garbage) = rest.next() {
            seqs.push(garbage.seq);
            batch.extend(garbage.record.objects.into_iter().map(|object| ObjectInPg {
                object: Some(proto::osd::ObjectRef {
                    volume: object.volume,
                    inode: object.inode,
                    column: 0,
                }),
                pg: object.pg,
            }));
            if batch.len() < DELETE_OBJECTS_MAX && rest.peek().is_some() {
                continue;
            }
            let objects = std::mem::take(&mut batch);
            if let Err(reason) = self.links.delete(address, objects).await {
                tracing::debug!(%osd, reason, "objects not deleted yet");
                return false;
            }
            let op = Op::Collected(proto::index::Collected {
                osd: osd.0,
                seqs: std::mem::take(&mut seqs),
            });
            if self.service.node.propose_internal(op).await.is_err() {
                return false;
            }
        }
        true
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
