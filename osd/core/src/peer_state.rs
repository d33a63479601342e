//! What a primary knows of one other replica.

use std::collections::VecDeque;

use types::{Instant, OsdId};

use crate::block_plan::BlockPlan;
use crate::copy::Answer;
use crate::recent::Span;
use crate::unapplied::Unapplied;

/// Another replica of the object.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: OsdId,
    /// The present attempt; answers of others are ignored.
    pub(crate) attempt: u64,
    pub(crate) state: PeerState,
    /// Newest change it said it applied in this attempt.
    pub(crate) applied: u64,
    /// Newest change sent in this attempt.
    pub(crate) sent: u64,
    /// Newest change it has on disk, in this tenure.
    pub(crate) durable: Option<u64>,
    /// Newest change it was asked to sync in this attempt.
    pub(crate) asked_sync: Option<u64>,
    /// What was changed in this tenure that it has not applied.
    pub(crate) unapplied: Unapplied,
    /// Since when it owes an answer to a change.
    pub(crate) owing_since: Option<Instant>,
    pub(crate) connected: bool,
    /// It refused for want of space, and has not said since that it has some.
    pub(crate) is_full: bool,
    /// It said lately that it would.
    pub(crate) reports_full: bool,
    /// When the present attempt began.
    pub(crate) attempted_at: Instant,
    /// It made itself clean at the end of the tenure.
    pub(crate) is_clean: bool,
}

/// How far it has come in an attempt.
#[derive(Debug)]
pub(crate) enum PeerState {
    /// Told of the epoch, has not answered. A newborn object's changes are sent already.
    Asked { newborn: bool },
    /// Answered, but what the object's state is has not been decided yet.
    Answered(Answer),
    /// Its blocks are being compared and replaced; changes are sent.
    CatchingUp(CatchUp),
    /// Told that it is where the primary is; changes are sent.
    Adopting { seq: u64 },
    /// Counts towards the quorum.
    Joined,
    /// Left behind until the next attempt.
    Behind { retry_at: Instant },
}

/// The comparison of one replica with the primary.
#[derive(Debug)]
pub(crate) struct CatchUp {
    pub(crate) plan: BlockPlan,
    /// All bytes it can lack, if that is known.
    pub(crate) spans: Option<Vec<Span>>,
    /// Its sums of a window are under way.
    pub(crate) comparing: bool,
    /// How many blocks it was asked for last.
    pub(crate) window: u32,
    /// First bytes of blocks that differ.
    pub(crate) differing: VecDeque<u64>,
    pub(crate) repairs: usize,
}

impl Peer {
    pub(crate) fn new(id: OsdId, now: Instant) -> Self {
        Self {
            id,
            attempt: 0,
            state: PeerState::Behind { retry_at: now },
            applied: 0,
            sent: 0,
            durable: None,
            asked_sync: None,
            unapplied: Unapplied::default(),
            owing_since: None,
            connected: true,
            is_full: false,
            reports_full: false,
            attempted_at: now,
            is_clean: false,
        }
    }

    /// Whether changes are sent to it.
    pub(crate) const fn follows(&self) -> bool {
        match self.state {
            PeerState::Asked { newborn } => newborn,
            PeerState::CatchingUp(_) | PeerState::Adopting { .. } | PeerState::Joined => true,
            PeerState::Answered(_) | PeerState::Behind { .. } => false,
        }
    }

    pub(crate) const fn is_joined(&self) -> bool {
        matches!(self.state, PeerState::Joined)
    }

    pub(crate) const fn is_behind(&self) -> bool {
        matches!(self.state, PeerState::Behind { .. })
    }

    /// Whether something is being done that will make it join or fall behind.
    pub(crate) const fn is_coming(&self) -> bool {
        matches!(
            self.state,
            PeerState::Asked { .. } | PeerState::CatchingUp(_) | PeerState::Adopting { .. }
        )
    }

    pub(crate) fn leave_behind(&mut self, retry_at: Instant) {
        self.state = PeerState::Behind { retry_at };
        self.owing_since = None;
    }

    /// Notes that changes up to `seq` were answered.
    pub(crate) fn note_applied(&mut self, now: Instant, seq: u64) {
        // Never more than was sent, whatever it claims.
        self.applied = self.applied.max(seq.min(self.sent));
        self.owing_since = (self.applied < self.sent).then_some(now);
        // Before, it has applied them without having what they follow.
        if self.is_joined() {
            self.unapplied.applied(self.applied);
        }
    }

    /// Notes that a change is sent.
    pub(crate) fn note_sent(&mut self, now: Instant, seq: u64) {
        self.sent = seq;
        self.owing_since.get_or_insert(now);
    }
}
