//! What the machine is asked to do, what it asks for, and the ids it draws.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use types::{OsdId, SessionId};

/// Change ids of a whole mount; they only grow, also when a file is opened again.
#[derive(Debug)]
pub struct IdSource(AtomicU64);

impl IdSource {
    /// Starts at 1.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(1))
    }

    /// An id greater than all before.
    pub fn draw(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

/// Something the primary shall do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Write bytes.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Write bytes at the end.
    Append {
        /// What.
        bytes: Bytes,
    },
    /// Set the length.
    Truncate {
        /// The length.
        length: u64,
    },
    /// Make everything acknowledged stable.
    Sync,
}

impl Change {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Write { bytes, .. } | Self::Append { bytes, .. } => bytes.len() as u64,
            Self::Truncate { .. } | Self::Sync => 0,
        }
    }

    /// Whether the file's bytes or length are others afterwards.
    pub(super) const fn alters(&self) -> bool {
        !matches!(self, Self::Sync)
    }

    /// The range of a write; everything else stands alone.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Write { offset, bytes } => Some((*offset, offset + bytes.len() as u64)),
            Self::Append { .. } | Self::Truncate { .. } | Self::Sync => None,
        }
    }
}

/// What the primary said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Id under which it was sent, in the attempt that was answered.
    pub change_id: u64,
    /// Where a write or append went.
    pub offset: u64,
    /// Length of the object afterwards.
    pub length: u64,
}

/// By what a server knows whether a change is new, done or too early.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SendOrder {
    /// Id of this attempt.
    pub change_id: u64,
    /// Id of the change's first attempt.
    pub first_id: u64,
    /// The session in which that was sent.
    pub first_session: SessionId,
    /// First id of the change before it that is not answered; 0 if there is none.
    pub after: u64,
}

/// What another replica said when asked who the primary is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProbeAnswer {
    /// This one is.
    Primary(OsdId),
    /// Capability or view are out of date.
    Refresh,
    /// No useful answer.
    Nothing,
}

/// What must be done, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Send; report with [`Changes::answered`] or [`Changes::failed`].
    Send {
        /// Names the change in reports.
        token: u64,
        /// Names the attempt in reports.
        attempt: u64,
        /// To whom.
        osd: OsdId,
        /// What the server recognises it by.
        order: SendOrder,
        /// What.
        change: Change,
    },
    /// The change is done, or failed for good with an errno.
    Settled {
        /// The change.
        token: u64,
        /// How it went.
        outcome: Result<Answer, i32>,
        /// End of the range it wrote, 0 if it is no write.
        end: u64,
        /// It is a truncation.
        truncates: bool,
    },
    /// Fetch a new grant; report with [`Changes::granted`] or [`Changes::abandon`].
    Renew,
    /// Ask this replica who the primary is; report with [`Changes::probed`].
    Probe {
        /// Names the attempt in the report.
        attempt: u64,
        /// Whom to ask.
        osd: OsdId,
    },
    /// This server is the primary and lives, but is not reached from here. Whatever is pending is sent
    /// again.
    CutOff(OsdId),
    /// The primary does not know changes that were acknowledged: they are lost. Whatever is pending is
    /// sent again.
    Lost,
    /// Changes have waited long for this server.
    Stalled(OsdId),
    /// They wait no more.
    Resumed,
}
