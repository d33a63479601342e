//! What all open files of a mount share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use client_core::{ChangeLimits, IdSource, ReadAheadLimits};
use shell::link::Wire;
use shell::metrics::{self, Metric};
use tokio::sync::Notify;

use crate::config::DIRTY_BYTES_MAX;
use crate::metadata::Metadata;
use crate::peer::ObjectServers;
use crate::served::Served;
use crate::stall::Stalls;
use crate::timer::Timers;

/// Bytes written and not acknowledged, of all files.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    used: AtomicU64,
    /// Some were acknowledged after there had been too many.
    pub(crate) room: Notify,
}

impl Budget {
    pub(crate) fn is_exhausted(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= DIRTY_BYTES_MAX
    }

    /// For collectors: programs wait while it is full, nothing is refused.
    pub(crate) fn metrics(&self) -> [Metric; 3] {
        let used = self.used.load(Ordering::Relaxed);
        metrics::queue("written_bytes", used, DIRTY_BYTES_MAX, 0)
    }

    /// A file that held `before` bytes now holds `after`.
    pub(crate) fn account(&self, before: u64, after: u64) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            let used = self.used.fetch_sub(before - after, Ordering::Relaxed);
            if used >= DIRTY_BYTES_MAX {
                self.room.notify_waiters();
            }
        }
    }
}

/// The parts of a mount that its files use.
pub(crate) struct Shared {
    /// For what is begun by threads of the FUSE device, which are not the runtime's.
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) metadata: Metadata,
    pub(crate) servers: ObjectServers,
    pub(crate) stalls: Arc<Stalls>,
    pub(crate) ids: IdSource,
    pub(crate) timers: Timers,
    pub(crate) budget: Budget,
    pub(crate) change_limits: ChangeLimits,
    pub(crate) read_ahead_limits: ReadAheadLimits,
    /// After how long a `soft` mount gives up.
    pub(crate) give_up: Option<types::Duration>,
    pub(crate) served: Arc<Served>,
    /// Where numbers are served to collectors, if they are.
    pub(crate) metrics_address: OnceLock<SocketAddr>,
    /// For what became of requests to servers.
    pub(crate) wire: Wire,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Number of the volume; 0 before there is a session.
    pub(crate) fn volume(&self) -> u64 {
        self.metadata.session().map_or(0, |session| session.volume)
    }
}
