//! The volume's quota: asking the leader how much room it leaves, and telling it how files grow.
//!
//! A write is refused here before it is taken, by what [`Room`] knows: a question is asked only before a
//! program is refused, and once in [`QUOTA_INTERVAL`] while files grow. Nothing else waits for it.

use std::sync::{Arc, Mutex, Weak};

use client_core::{Growth, Room, Verdict, Volume};
use proto::mrc;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::config::{QUOTA_INTERVAL, QUOTA_QUESTIONS_MAX, QUOTA_REPORTS_MAX, QUOTA_SECOND_LOOK};
use crate::errno::Errno;
use crate::file::{File, State};
use crate::files::Files;
use crate::lock;
use crate::names::MISFIT;
use crate::oxfs::Inner;
use crate::shared::Shared;
use crate::size::Closing;

/// The room of all files together.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    room: Mutex<Room>,
    /// Files became longer.
    grown: Notify,
    /// It is known what became of a report.
    reported: Notify,
}

impl Quota {
    /// Takes over how much longer a file is than the metadata cluster knows.
    pub(crate) fn account(&self, before: Growth, after: Growth) {
        if before != after && lock(&self.room).account(before, after) {
            self.grown.notify_one();
        }
    }

    /// Whether files may become longer by so many bytes, which are counted only if there is a quota.
    fn admits(&self, bytes: impl FnOnce() -> u64) -> bool {
        let room = lock(&self.room);
        !room.is_limited() || room.admits(bytes())
    }
}

impl Shared {
    /// Asks the leader for the quota and what is used of it, and judges whether so many bytes more fit.
    pub(crate) async fn ask_room(&self, bytes: u64) -> Result<Verdict, Errno> {
        let question = lock(&self.quota.room).ask();
        let ask = Op::StatFs(mrc::StatFs { use_only: true });
        let Reply::FsStat(stat) = self.metadata.ask(ask).await? else {
            return Err(MISFIT);
        };
        let volume = Volume {
            limit_bytes: (stat.quota_bytes > 0).then_some(stat.quota_bytes),
            used_bytes: stat.used_bytes,
        };
        Ok(lock(&self.quota.room).answered(question, volume, bytes))
    }
}

/// Exchanges growth for the volume's numbers while files grow, until the mount is gone.
pub(crate) async fn watch(mount: Weak<Inner>, shared: Arc<Shared>) {
    loop {
        shared.quota.grown.notified().await;
        tokio::time::sleep(QUOTA_INTERVAL).await;
        let Some(mount) = mount.upgrade() else {
            return;
        };
        let is_limited = lock(&shared.quota.room).is_limited();
        if is_limited {
            mount.files.report_grown().await;
        }
        drop(mount);
        if let Err(errno) = shared.ask_room(0).await {
            tracing::debug!(%errno, "can't ask how much room the volume's quota leaves");
        }
        let room = lock(&shared.quota.room);
        if room.is_limited() && room.is_ahead() {
            // What was not acknowledged yet, or whose report was broken off, is told next time, whether
            // more is written or not.
            shared.quota.grown.notify_one();
        }
    }
}

impl Files {
    /// Tells the metadata cluster how long the files are that grew most.
    async fn report_grown(&self) {
        let mut grown: Vec<(u64, Arc<File>)> = self
            .all()
            .into_iter()
            .map(|file| {
                let growth = lock(&file.state).growth;
                (growth.untold.saturating_add(growth.told), file)
            })
            .filter(|(grown, _)| *grown > 0)
            .collect();
        grown.sort_by_key(|(grown, _)| std::cmp::Reverse(*grown));
        grown.truncate(QUOTA_REPORTS_MAX);
        let mut reports = JoinSet::new();
        for (_, file) in grown {
            reports.spawn(async move {
                // Whoever opens or closes it reports it, too.
                let Ok(_gate) = file.gate.try_lock() else {
                    return;
                };
                if let Err(errno) = file.report(Closing::No).await {
                    tracing::debug!(inode = file.inode, %errno, "a file's size can't be reported");
                }
            });
        }
        while reports.join_next().await.is_some() {}
    }
}

impl File {
    /// Whether the file may become `end` bytes long, by what is known here.
    pub(crate) fn admits_end(&self, state: &State, end: u64) -> bool {
        self.shared.quota.admits(|| state.growth_to(end))
    }

    /// Waits until it is known whether the file may become `end` bytes long.
    ///
    /// # Errors
    ///
    /// EDQUOT if it may not.
    pub(crate) async fn admit_end(&self, end: u64) -> Result<(), Errno> {
        let growth = lock(&self.state).growth_to(end);
        self.admit(growth).await
    }

    /// The same of a file that becomes longer by so many bytes.
    pub(crate) async fn admit(&self, bytes: u64) -> Result<(), Errno> {
        let quota = &self.shared.quota;
        if quota.admits(|| bytes) {
            return Ok(());
        }
        let mut is_second = false;
        for _ in 0..QUOTA_QUESTIONS_MAX {
            let reported = quota.reported.notified();
            tokio::pin!(reported);
            reported.as_mut().enable();
            match self.shared.ask_room(bytes).await? {
                Verdict::Fits => return Ok(()),
                Verdict::Over if is_second => break,
                Verdict::Over => {
                    is_second = true;
                    tokio::time::sleep(QUOTA_SECOND_LOOK).await;
                }
                Verdict::Unclear => {
                    // One whose program was killed is repeated with the next exchange.
                    let _ = tokio::time::timeout(QUOTA_INTERVAL, reported).await;
                }
            }
        }
        Err(Errno(libc::EDQUOT))
    }

    /// Accounts by how much this mount made the file longer, after anything that may have changed it.
    pub(crate) fn account_growth(&self, state: &mut State) {
        let growth = Growth::of(state.known_size(), state.size, state.telling);
        self.shared.quota.account(state.growth, growth);
        state.growth = growth;
    }

    /// The metadata cluster is being told of the file: it may count that from now on.
    pub(crate) fn begin_report(&self, state: &mut State) {
        state.telling = state.written_end;
        self.account_growth(state);
    }

    /// The metadata cluster was told, and answered with attributes; or it was not.
    pub(crate) fn end_report(&self, state: &mut State, attr: Option<&mrc::Attr>) {
        state.telling = 0;
        if let Some(attr) = attr {
            lock(&self.shared.quota.room).reported(state.growth.told);
            state.know(attr);
        }
        self.account_growth(state);
        self.shared.quota.reported.notify_waiters();
    }
}

impl State {
    /// By how much the file becomes longer if something is written up to `end`.
    fn growth_to(&self, end: u64) -> u64 {
        end.saturating_sub(self.known_size())
    }
}
