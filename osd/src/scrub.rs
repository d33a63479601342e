//! The scrub: reads everything this server holds at a bounded rate, verifies it, compares it with the other replicas,
//! and repairs what is wrong here.
//!
//! Each server judges its own copies only (`osd_core::scrub`). Files are read past the shards and past the kernel's
//! memory ([`copy_file`]); a shard is asked only to put a block right. No lease is taken to read: what an object at
//! rest is worth is in its file, and one that is being changed is its primary's.
//!
//! - A block that does not fit its checksum is replaced by any replica's that does.
//! - Copies of one state must be equal: where they are not, the majority is right.
//! - A copy that is missing, older or unreadable is brought up by the primary like one that was away.

mod answers;
mod copy_file;
mod group;
mod object;
mod outvoted;
mod repair;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use osd_core::ObjectKey;
use osd_core::scrub::{Ledger, Rate};
use proto::osd::{self, ScrubOutcome};
use shell::clock::{boottime, wall};
use shell::metrics::Metric;
use shell::statedir::replace_file;
use tokio::sync::Notify;
use types::{Instant, OsdId};

use crate::board::{Board, group_of};
use crate::cluster::Wall;
use crate::config::{Config, SCRUB_FIRST, SCRUB_LOOK, SCRUB_RETRY, SCRUB_SAVE, ScrubNow};
use crate::listing::Lister;
use crate::shards::Shards;
use crate::store_root::Root;

pub(crate) use answers::Answers;
use group::Scene;
pub(crate) use outvoted::Bringer;

/// Name of the file in the state directory that keeps the ledger.
const FILE: &str = "SCRUB";
/// Hours of a day.
const HOURS: u64 = 24;

/// What the scrub works with.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) root: Arc<Root>,
    pub(crate) lister: Arc<Lister>,
    pub(crate) wall: Arc<Wall>,
    pub(crate) shards: Shards,
    pub(crate) board: Arc<Board>,
}

/// The scrub of one server.
#[derive(Debug)]
pub(crate) struct Scrub {
    me: OsdId,
    rules: osd_core::Config,
    file: PathBuf,
    around: Surroundings,
    started_with: (u32, u64),
    now: ScrubNow,
    /// Days by which the next round was planned.
    planned_days: AtomicU32,
    /// How long what looks wrong may be on its way.
    patience: std::time::Duration,
    rate: Mutex<Rate>,
    ledger: Mutex<Ledger>,
    /// When the ledger was written last.
    saved_at: Mutex<Instant>,
    /// A round was asked for.
    asked: Notify,
    read_bytes: AtomicU64,
    repaired_blocks: AtomicU64,
}

impl Scrub {
    pub(crate) fn new(config: &Config, dir: PathBuf, around: Surroundings) -> Arc<Self> {
        let file = dir.join(FILE);
        let rules = config.replica();
        Arc::new(Self {
            me: config.osd(),
            ledger: Mutex::new(load(&file)),
            saved_at: Mutex::new(boottime()),
            file,
            around,
            started_with: (config.scrub_days, config.scrub_bytes_per_s),
            now: config.scrub_now.clone(),
            planned_days: AtomicU32::new(config.scrub_days),
            patience: rules.backup_timeout.scaled(3, 1).to_std(),
            rules,
            rate: Mutex::new(Rate::new(config.scrub_bytes_per_s)),
            asked: Notify::new(),
            read_bytes: AtomicU64::new(0),
            repaired_blocks: AtomicU64::new(0),
        })
    }

    /// Begins a round unless one is under way.
    pub(crate) fn start(&self) -> osd::Scrub {
        self.ledger().begin(now_ms(), self.interval_ms());
        self.asked.notify_one();
        self.status()
    }

    /// What was done and found.
    pub(crate) fn status(&self) -> osd::Scrub {
        osd::Scrub {
            bytes_per_s: self.bytes_per_s(),
            days: self.days(),
            ..self.ledger().view()
        }
    }

    /// What collectors are told.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let ledger = self.ledger();
        let count = |outcome| ledger.with(outcome).len() as u64;
        let help = "Damaged objects that the scrub found and remembers, by what became of them";
        let found = |word, outcomes: &[ScrubOutcome]| {
            let value = outcomes.iter().map(|outcome| count(*outcome)).sum();
            Metric::gauge("oxfs_osd_scrub_findings", help, value).with("outcome", word)
        };
        let last = ledger.view().last.map_or(0, |last| last.ended_ms);
        let read = self.read_bytes.load(Ordering::Relaxed);
        let repaired = self.repaired_blocks.load(Ordering::Relaxed);
        vec![
            Metric::gauge(
                "oxfs_osd_scrub_running",
                "1 while a scrub reads what the server holds",
                u64::from(ledger.is_running()),
            ),
            Metric::counter(
                "oxfs_osd_scrub_read_bytes",
                "Bytes that scrubs have read and verified",
                read,
            ),
            Metric::counter(
                "oxfs_osd_scrub_repaired_blocks",
                "Blocks of 4 KiB that scrubs have repaired",
                repaired,
            ),
            Metric::gauge(
                "oxfs_osd_scrub_finished_seconds",
                "When the last scrub ended, in seconds since 1970; 0: there was none",
                u64::try_from(last / 1000).unwrap_or(0),
            ),
            found("repaired", &[ScrubOutcome::ScrubRepaired]),
            found("repairing", &[ScrubOutcome::ScrubRepairing]),
            found(
                "unrepaired",
                &[
                    ScrubOutcome::ScrubNoGoodCopy,
                    ScrubOutcome::ScrubUndecided,
                    ScrubOutcome::ScrubLater,
                ],
            ),
        ]
    }

    /// Makes rounds for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut retry_at = boottime() + SCRUB_RETRY;
        self.plan();
        self.save().await;
        loop {
            if self.ledger().is_due(now_ms()) {
                self.ledger().begin(now_ms(), self.interval_ms());
            }
            if self.ledger().is_running() {
                self.round().await;
            }
            // The configuration may have been read again.
            if self.planned_days.swap(self.days(), Ordering::Relaxed) != self.days() {
                self.plan();
                self.save().await;
            }
            self.look_after_repairs().await;
            if retry_at <= boottime() {
                self.retry().await;
                retry_at = boottime() + SCRUB_RETRY;
            }
            let _look_again = tokio::time::timeout(SCRUB_LOOK, self.asked.notified()).await;
        }
    }

    /// Scrubs what is not done yet of the round under way, group by group.
    async fn round(&self) {
        let cluster = self.around.wall.newest();
        if cluster.map.version == 0 {
            // No map yet.
            return;
        }
        let mut groups: Vec<_> = cluster.memberships.keys().copied().collect();
        tracing::info!(groups = groups.len(), "scrub begins, or goes on");
        groups.sort_unstable();
        for group in groups {
            self.group(group).await;
        }
        self.forget_deleted().await;
        self.ledger().end(now_ms());
        self.plan();
        self.save().await;
        let took = self.status();
        tracing::info!(
            bytes = took.last.map_or(0, |last| last.bytes),
            objects = took.last.map_or(0, |last| last.objects),
            unrepaired = self.ledger().unrepaired().len(),
            "scrub ends"
        );
        if self.ledger().is_due(now_ms()) {
            tracing::warn!(
                days = self.days(),
                "a scrub took longer than `scrub_days`; raise it, or `scrub_bytes_per_s`"
            );
        }
    }

    /// Tries again what could not be repaired.
    async fn retry(&self) {
        let keys = self.ledger().unrepaired();
        for key in keys {
            if let Some(scene) = Scene::of(&self.around.wall, self.me, group_of(key)) {
                self.object(&Arc::new(scene), key).await;
            }
        }
        self.forget_deleted().await;
        self.save().await;
    }

    async fn forget_deleted(&self) {
        let keys = self.ledger().unrepaired();
        let root = Arc::clone(&self.around.root);
        let gone = blocking(move || {
            Ok::<Vec<_>, io::Error>(keys.into_iter().filter(|key| !root.holds(*key)).collect())
        });
        let gone = gone.await.unwrap_or_default();
        self.ledger().retain(|key| !gone.contains(&key));
    }

    fn plan(&self) {
        let first = SCRUB_FIRST.as_millis() * (self.me.0 % HOURS);
        let first = i64::try_from(first).unwrap_or(i64::MAX);
        self.ledger().plan(now_ms(), self.interval_ms(), first);
    }

    fn interval_ms(&self) -> i64 {
        i64::from(self.days()) * 86_400_000
    }

    fn days(&self) -> u32 {
        self.now.get(self.started_with).0
    }

    fn bytes_per_s(&self) -> u64 {
        self.now.get(self.started_with).1
    }

    /// Waits until more may be read.
    async fn wait_for_rate(&self) {
        let wait = {
            let mut rate = self.rate();
            rate.limit(self.bytes_per_s());
            rate.take(boottime(), 0)
        };
        tokio::time::sleep(wait.to_std()).await;
    }

    fn pay(&self, bytes: u64) {
        self.rate().take(boottime(), bytes);
    }

    async fn save_now_and_then(&self) {
        let is_due = {
            let mut saved_at = self.saved_at.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = boottime().since(*saved_at) >= SCRUB_SAVE;
            if is_due {
                *saved_at = boottime();
            }
            is_due
        };
        if is_due {
            self.save().await;
        }
    }

    async fn save(&self) {
        let (file, bytes) = (self.file.clone(), self.ledger().encode());
        if let Err(error) = blocking(move || replace_file(&file, &bytes)).await {
            tracing::warn!(%error, "the progress of the scrub can't be saved");
        }
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an earlier run left; nothing if that can't be read, which costs a round at most.
fn load(file: &std::path::Path) -> Ledger {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ledger::default(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the progress of the scrub is forgotten");
            return Ledger::default();
        }
    };
    Ledger::decode(&bytes).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "the progress of the scrub is forgotten");
        Ledger::default()
    })
}

fn now_ms() -> i64 {
    wall().0 / 1_000_000
}

/// Does disk work elsewhere.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// A look at a copy that failed, in words.
fn not_read(key: ObjectKey, error: &io::Error) {
    tracing::warn!(%key, %error, "the scrub can't read a copy");
}
