//! A volume as an async library: the operations of a POSIX file system in terms of inodes and
//! descriptors.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client_core::{ChangeLimits, IdSource, ReadAheadLimits};
use dashmap::DashMap;
use proto::mrc;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use tokio::task::JoinHandle;

use crate::config::DRAIN_TIMEOUT;
use crate::connect::{ConnectError, ConnectOptions, first_session, identity};
use crate::dir::Dir;
use crate::errno::Errno;
use crate::files::Files;
use crate::io::Descriptor;
use crate::metadata::{Introduction, Metadata};
use crate::peer::ObjectServers;
use crate::registration::keep_alive;
use crate::shared::{Budget, Shared};
use crate::stall::Stalls;
use crate::timer::Timers;

/// On whose behalf something is created.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<Caller> for mrc::Owner {
    fn from(caller: Caller) -> Self {
        Self {
            uid: caller.uid,
            gid: caller.gid,
        }
    }
}

/// How to create a file that is opened at once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NewFile {
    /// Permission bits, umask already applied.
    pub mode: u32,
    /// Flags of open(2).
    pub flags: i32,
    /// Who creates it.
    pub owner: Caller,
}

/// A volume of a cluster, with a session of its own. Clones share the session.
#[derive(Clone)]
pub struct OxFs {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Files,
    pub(crate) descriptors: DashMap<u64, Arc<Descriptor>>,
    pub(crate) dirs: DashMap<u64, Arc<Dir>>,
    pub(crate) next_handle: std::sync::atomic::AtomicU64,
    soft: Option<Duration>,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for OxFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OxFs").finish_non_exhaustive()
    }
}

impl OxFs {
    /// Joins the cluster and opens a session on the volume.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], after some seconds of trying if nobody answers.
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        if options.addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let stalls = Arc::new(Stalls::default());
        let mount_point = options.mount_point.as_ref();
        let introduction = Introduction {
            volume: options.volume.clone(),
            client: client_name(),
            mount_point: mount_point.map_or_else(String::new, |p| p.display().to_string()),
        };
        let metadata = Metadata::new(
            identity(&options),
            options.addresses.clone(),
            introduction,
            stalls.clone(),
        );
        first_session(&metadata, &options).await?;
        let age = u64::try_from(options.read_ahead_age.as_nanos()).unwrap_or(u64::MAX);
        let give_up = options.soft.map(|soft| {
            types::Duration::from_nanos(u64::try_from(soft.as_nanos()).unwrap_or(u64::MAX))
        });
        let shared = Arc::new(Shared {
            runtime: tokio::runtime::Handle::current(),
            metadata,
            servers: ObjectServers::new(identity(&options)),
            stalls,
            ids: IdSource::new(),
            timers: Timers::start(),
            budget: Budget::default(),
            change_limits: ChangeLimits::default(),
            read_ahead_limits: ReadAheadLimits {
                age_max: types::Duration::from_nanos(age),
                ..ReadAheadLimits::default()
            },
            give_up,
            served: Arc::default(),
            metrics_address: OnceLock::new(),
            wire: options.wire.clone(),
        });
        let inner = Arc::new(Inner {
            files: Files::new(shared.clone()),
            shared,
            descriptors: DashMap::new(),
            dirs: DashMap::new(),
            next_handle: std::sync::atomic::AtomicU64::new(1),
            soft: options.soft,
            tasks: std::sync::Mutex::default(),
        });
        let fs = Self { inner };
        fs.start_tasks();
        Ok(fs)
    }

    fn start_tasks(&self) {
        let weak = Arc::downgrade(&self.inner);
        let shared = self.inner.shared.clone();
        let alive = tokio::spawn(keep_alive(weak, shared));
        let weak = Arc::downgrade(&self.inner);
        let shared = self.inner.shared.clone();
        let reopen = tokio::spawn(async move {
            loop {
                shared.metadata.session_changed.notified().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.files.reopen().await;
            }
        });
        crate::lock(&self.inner.tasks).extend([alive, reopen]);
    }

    /// Waits until everything written is acknowledged and told to the metadata cluster, and ends
    /// the session. Descriptors still open are void afterwards.
    ///
    /// # Errors
    ///
    /// EIO if that was not possible in time; what could not be sent is lost.
    pub async fn shutdown(&self) -> Result<(), Errno> {
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, self.inner.files.close_all()).await;
        let close = Op::CloseSession(mrc::CloseSession {});
        // A session that can't be closed expires.
        let closed = tokio::time::timeout(
            Duration::from_secs(2),
            self.inner.shared.metadata.ask(close),
        )
        .await;
        if !matches!(closed, Ok(Ok(_))) {
            tracing::warn!("the session could not be closed; it ends by itself");
        }
        for task in crate::lock(&self.inner.tasks).drain(..) {
            task.abort();
        }
        drained.unwrap_or(Err(Errno(libc::EIO)))
    }

    /// Asks for something that changes nothing.
    pub(crate) async fn ask(&self, op: Op) -> Result<Reply, Errno> {
        self.softly(self.inner.shared.metadata.ask(op)).await
    }

    /// Asks for a change.
    pub(crate) async fn change(&self, op: Op) -> Result<Reply, Errno> {
        let shared = self.inner.shared.clone();
        self.softly_done(async move { shared.metadata.change(op).await })
            .await
    }

    /// Gives up after the mount's `soft` time, if it has one. For work that may be dropped.
    pub(crate) async fn softly<T>(
        &self,
        work: impl Future<Output = Result<T, Errno>>,
    ) -> Result<T, Errno> {
        match self.inner.soft {
            None => work.await,
            Some(soft) => tokio::time::timeout(soft, work)
                .await
                .unwrap_or(Err(Errno(libc::EIO))),
        }
    }

    /// As [`OxFs::softly`] for work that must come to its end, without the caller if need be: it
    /// holds a slot or a count.
    pub(crate) async fn softly_done<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Errno>> + Send + 'static,
    ) -> Result<T, Errno> {
        match self.inner.soft {
            None => work.await,
            Some(_) => self.softly(to_its_end(work)).await,
        }
    }

    pub(crate) fn new_handle(&self) -> u64 {
        self.inner
            .next_handle
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in crate::lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

/// Starts work that must come to its end although whoever waits for it may give up: it holds a slot
/// of the session or a count.
pub(crate) fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Errno>> + Send + 'static,
) -> impl Future<Output = Result<T, Errno>> {
    let task = tokio::spawn(work);
    async move { task.await.unwrap_or(Err(Errno(libc::EIO))) }
}

/// What administrators see: host and process.
fn client_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.unwrap_or_else(|_| "unknown host".to_owned());
    let host = host.trim();
    format!("{host} pid {}", std::process::id())
}
