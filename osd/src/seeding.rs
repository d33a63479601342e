//! Placement groups that come to this server as a whole, by `zfs send` and `zfs receive`, before the ordinary
//! recovery brings them up to now.
//!
//! Only a group that this server has nothing of is waited for in this way, and only while the others can go on
//! without this server. What comes is never believed: all copies vouch for nothing, as after a crash that left
//! nothing but bytes, and each counts only once a primary has compared all of it. So nothing depends on a stream:
//! one that is late, damaged or of another version costs the time it took, and the group is copied object by object.
//!
//! The receiver drives: it asks one of the others for a stream piece by piece over the link they have anyway.

mod ask;
mod counts;
mod limits;
mod plan;
mod receive;
mod send;
mod strip;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::peer::request::Op;
use proto::peer::{SeedClose, SeedOpened, SeedRead};
use shell::link::CallError;
use tokio::sync::{OnceCell, Semaphore, oneshot};
use types::{OsdId, PgKey, Remedy};
use zfs_driver::StreamOptions;

use ask::ask;
pub(crate) use counts::{Counts, Outcome};
use limits::{
    INCREMENTS_MAX, LOOK, NEEDED, OPEN_TIMEOUT, PATIENCE, RECEIVED_MAX, ROOM_PERCENT, SILENCE,
};
use receive::{Intake, Received};
pub(crate) use send::Senders;
use strip::Stripped;

use crate::board::Board;
use crate::cluster::{Cluster, Wall};
use crate::config::Config;
use crate::map::Pg;
use crate::pacer::Pacer;
use crate::recovery::Recovery;
use crate::store_root::Root;

/// When a group is worth to come as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Worth {
    enabled: bool,
    bytes_min: u64,
    object_bytes_min: u64,
    increment_after: Duration,
}

impl Worth {
    pub(crate) const fn of(config: &Config) -> Self {
        Self {
            enabled: config.zfs_seed,
            bytes_min: config.zfs_seed_min_bytes,
            object_bytes_min: config.limits.seed_object_bytes_min,
            increment_after: config.limits.seed_increment_after,
        }
    }
}

/// What seeding works with.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) me: OsdId,
    pub(crate) root: Arc<Root>,
    pub(crate) wall: Arc<Wall>,
    pub(crate) recovery: Arc<Recovery>,
    pub(crate) board: Arc<Board>,
    pub(crate) pacer: Pacer,
    pub(crate) counts: Arc<Counts>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Seeding {
    worth: Worth,
    around: Surroundings,
    /// Groups that were waited for since this server has a part in them.
    tried: Mutex<BTreeSet<PgKey>>,
    turns: Semaphore,
    options: OnceCell<StreamOptions>,
}

/// Why a group does not come as a whole.
#[derive(Debug)]
enum Failure {
    /// Nobody has enough of it.
    NotWorth(String),
    /// Something went wrong, or this server is needed.
    Broken(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

/// A stream that was opened, and how large it may become.
#[derive(Clone, Copy, Debug)]
struct Source {
    osd: OsdId,
    opened: u64,
    bytes: u64,
    /// What it brings; 0: no stream can follow.
    guid: u64,
}

impl Seeding {
    pub(crate) fn new(worth: Worth, around: Surroundings) -> Arc<Self> {
        Arc::new(Self {
            worth,
            around,
            tried: Mutex::default(),
            turns: Semaphore::new(RECEIVED_MAX),
            options: OnceCell::new(),
        })
    }

    /// A new map, before the shards see it, since they make what they are asked for: keeps them from making groups
    /// that may come as a whole, which is to be begun once the map is known to all.
    pub(crate) fn gate(&self, cluster: &Cluster) -> Vec<PgKey> {
        let Some(datasets) = self.around.root.datasets() else {
            return Vec::new();
        };
        if !self.worth.enabled {
            return Vec::new();
        }
        let mut tried = self.tried();
        tried.retain(|group| cluster.memberships.contains_key(group));
        let may = cluster.memberships.iter().filter(|(group, membership)| {
            let pg = cluster.group(**group);
            pg.is_some_and(|pg| plan::may_be_seeded(self.around.me, pg, membership))
        });
        let new = may.filter(|(group, _)| tried.insert(**group) && datasets.gate(**group));
        new.map(|(group, _)| *group).collect()
    }

    /// Begins what was gated.
    pub(crate) fn begin(self: &Arc<Self>, groups: Vec<PgKey>) {
        for group in groups {
            tokio::spawn(Arc::clone(self).seed(group));
        }
    }

    /// Has a group come as a whole, or lets it be copied object by object.
    async fn seed(self: Arc<Self>, group: PgKey) {
        let began = Instant::now();
        let progress = Arc::new(Progress::default());
        let outcome = tokio::select! {
            outcome = self.transfer(group, &progress) => outcome,
            why = self.broken_off(group) => Err(Failure::Broken(why)),
        };
        if let Some(datasets) = self.around.root.datasets() {
            // Unless it was taken in.
            datasets.open_gate(group);
        }
        self.around.board.note_seeding(group, None);
        let bytes = progress.done_bytes.load(Ordering::Relaxed);
        let outcome = match outcome {
            Ok(stripped) => {
                tracing::info!(
                    %group, bytes, objects = stripped.objects, seconds = began.elapsed().as_secs(),
                    "a placement group came as a whole; its objects are compared now"
                );
                Outcome::Seeded
            }
            Err(Failure::NotWorth(why)) => {
                tracing::info!(%group, why, "a placement group is copied object by object");
                Outcome::NotWorth
            }
            Err(Failure::Broken(why)) => {
                tracing::warn!(
                    %group, bytes, why,
                    "a placement group could not come as a whole; it is copied object by object"
                );
                Outcome::Failed
            }
        };
        self.around.counts.ended(outcome);
        self.around.board.changed.notify_one();
    }

    /// Waits until a group should not be waited for any more, and says why.
    async fn broken_off(&self, group: PgKey) -> String {
        let mut needed_since: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let cluster = self.around.wall.newest();
            let pg = cluster.group(group);
            let (Some(pg), Some(membership)) = (pg, cluster.memberships.get(&group)) else {
                return "it is others' now".to_owned();
            };
            if !pg.replicas.is_current(self.around.me) {
                return "it is to be others'".to_owned();
            }
            let is_up = |osd| self.around.recovery.is_up(osd);
            if plan::can_do_without(self.around.me, pg, membership.policy.quorum, is_up) {
                needed_since = None;
            } else if needed_since.get_or_insert_with(Instant::now).elapsed() >= NEEDED {
                return "too few others are up to go on without this server".to_owned();
            }
        }
    }

    async fn transfer(&self, group: PgKey, progress: &Progress) -> Result<Stripped, Failure> {
        let osd = self.find_source(group).await?;
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let mut source = self.open(group, osd).await?;
        progress.set_total(source.bytes);
        let outcome = self.receive(group, &mut source, progress).await;
        // The sender need not keep its snapshot any longer. If it does not hear of it, it finds out by itself.
        let close = Op::SeedClose(SeedClose {
            seed: source.opened,
        });
        let (wall, request) = (Arc::clone(&self.around.wall), self.request(group, close));
        tokio::spawn(async move { ask(&wall, osd, &request?, OPEN_TIMEOUT).await.ok() });
        self.take_in(group, outcome?).await
    }

    /// The first of the others that has a group worth sending.
    async fn find_source(&self, group: PgKey) -> Result<OsdId, Failure> {
        let began = Instant::now();
        loop {
            let (mut small, mut unsure) = (None, false);
            let mut refused = Vec::new();
            for osd in plan::sources(self.around.me, &self.pg(group)?) {
                match self.ask_open(group, osd, true, 0).await {
                    Ok(SeedOpened {
                        refused: why,
                        small: true,
                        ..
                    }) => small = Some(why),
                    Ok(opened) if opened.refused.is_empty() => {
                        self.check_room(opened.bytes)?;
                        return Ok(osd);
                    }
                    Ok(opened) => refused.push(format!("object server {osd}: {}", opened.refused)),
                    // A link may need a moment after a start, and a server for a new map.
                    Err(error) => {
                        unsure = true;
                        refused.push(format!("object server {osd}: {error}"));
                    }
                }
            }
            if let Some(why) = small {
                return Err(Failure::NotWorth(why));
            }
            if !unsure || began.elapsed() >= NEEDED {
                return Err(Failure::NotWorth(refused.join("; ")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let wanted = bytes.saturating_add(bytes / 100 * ROOM_PERCENT);
        let (_, free) = self.around.root.space().unwrap_or_default();
        if free < wanted {
            return Err(Failure::Broken(format!(
                "it takes {wanted} bytes and {free} are free here"
            )));
        }
        Ok(())
    }

    /// Opens a stream, when it is this server's turn at the sender.
    async fn open(&self, group: PgKey, osd: OsdId) -> Result<Source, Failure> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.around.pacer.holds(group) {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let opened = self.ask_open(group, osd, false, 0).await;
            let opened = opened.map_err(|error| error.to_string())?;
            match opened.seed {
                0 if opened.later => tokio::time::sleep(LOOK).await,
                0 => return Err(Failure::Broken(opened.refused)),
                seed => {
                    return Ok(Source {
                        osd,
                        opened: seed,
                        bytes: opened.bytes,
                        guid: opened.guid,
                    });
                }
            }
        }
        Err(Failure::Broken(format!(
            "changes are paused, or object server {osd} is busy, for longer than {PATIENCE:?}"
        )))
    }

    /// Receives all, and then what has changed meanwhile, as often as that took long.
    async fn receive(
        &self,
        group: PgKey,
        source: &mut Source,
        progress: &Progress,
    ) -> Result<Received, Failure> {
        let Surroundings { me, root, .. } = &self.around;
        let intake =
            Intake::start(Arc::clone(root), group, *me).map_err(|error| error.to_string())?;
        let mut began = Instant::now();
        let mut whole = self.stream(group, *source, &intake, progress).await?;
        for _ in 0..INCREMENTS_MAX {
            if !whole || began.elapsed() < self.worth.increment_after || source.guid == 0 {
                break;
            }
            began = Instant::now();
            let opened = match self.ask_open(group, source.osd, false, source.opened).await {
                Ok(opened) if opened.seed != 0 => opened,
                refused => {
                    tracing::debug!(%group, ?refused, "what has changed is brought by the recovery");
                    break;
                }
            };
            let base_guid = source.guid;
            (source.opened, source.guid) = (opened.seed, opened.guid);
            if !intake.go_on_with_increment(base_guid).await {
                break;
            }
            whole = match self.stream(group, *source, &intake, progress).await {
                Ok(whole) => whole,
                Err(Failure::Broken(why) | Failure::NotWorth(why)) => {
                    tracing::info!(%group, why, "what has changed is brought by the recovery");
                    return Ok(intake.finish_without_increment().await?);
                }
            };
            if whole {
                self.around.counts.incremented();
            }
        }
        Ok(intake.finish().await?)
    }

    /// Receives a stream to its end, or until no more of it is taken; whether it came to its end.
    async fn stream(
        &self,
        group: PgKey,
        source: Source,
        intake: &Intake,
        progress: &Progress,
    ) -> Result<bool, Failure> {
        let mut offset = 0;
        loop {
            self.wait_while_held(group, source).await?;
            let (bytes, end) = self.read(group, source, offset).await?;
            let size = bytes.len() as u64;
            offset += size;
            progress.add(size);
            self.around.counts.received(size);
            self.around.board.note_seeding(group, Some(progress.seen()));
            if !intake.give(bytes).await {
                return Ok(false);
            }
            if end {
                return Ok(true);
            }
        }
    }

    /// While changes are paused nothing is asked for; the sender keeps the stream.
    async fn wait_while_held(&self, group: PgKey, source: Source) -> Result<(), Failure> {
        let began = Instant::now();
        while self.around.pacer.holds(group) {
            if began.elapsed() >= PATIENCE {
                return Err(Failure::Broken(format!(
                    "changes are paused for longer than {PATIENCE:?}"
                )));
            }
            let wait = SeedRead {
                seed: source.opened,
                offset: 0,
                wait: true,
            };
            self.ask_piece(group, source.osd, wait)
                .await
                .map_err(|error| error.to_string())?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The piece at an offset of a stream; asks again while the link is down.
    async fn read(
        &self,
        group: PgKey,
        source: Source,
        offset: u64,
    ) -> Result<(Bytes, bool), String> {
        let began = Instant::now();
        loop {
            let read = SeedRead {
                seed: source.opened,
                offset,
                wait: false,
            };
            match self.ask_piece(group, source.osd, read).await {
                Ok(piece) => return Ok(piece),
                Err(CallError::Fault(fault)) if fault.remedy != Remedy::Retry => {
                    return Err(fault.to_string());
                }
                Err(error) if began.elapsed() >= SILENCE => return Err(error.to_string()),
                Err(error) => {
                    tracing::debug!(%group, %error, "a piece of a stream is asked for again")
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn take_in(&self, group: PgKey, received: Received) -> Result<Stripped, Failure> {
        let Some(datasets) = self.around.root.datasets() else {
            return Err(Failure::Broken("there is no store on ZFS".to_owned()));
        };
        let (tell, told) = oneshot::channel();
        let stripped = received.take();
        datasets.take_in(
            group,
            Box::new(move |outcome| {
                // Whoever asked may have given up; then it is as good.
                let _ = tell.send(outcome);
            }),
        );
        told.await.map_err(|error| error.to_string())??;
        Ok(stripped)
    }

    fn pg(&self, group: PgKey) -> Result<Pg, Failure> {
        let cluster = self.around.wall.newest();
        let pg = cluster.group(group).cloned();
        pg.ok_or_else(|| Failure::Broken("it is others' now".to_owned()))
    }

    fn tried(&self) -> MutexGuard<'_, BTreeSet<PgKey>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a seeding is.
#[derive(Debug, Default)]
struct Progress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Progress {
    fn set_total(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes received, and bytes that there may be.
    fn seen(&self) -> (u64, u64) {
        let done = self.done_bytes.load(Ordering::Relaxed);
        (done, done.max(self.total_bytes.load(Ordering::Relaxed)))
    }
}
