//! What a link remembers between two messages.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use proto::link::{Kind, Message};
use tokio::time::Instant;

use super::super::counts::Counts;
use super::super::encoding::Agreed;
use super::super::error::CallError;
use super::super::limits::DEADLINE_GRAIN;
use super::super::outbox::Outbox;
use super::turns::Turns;
use super::{OnReply, Shared};

/// Where the link stands.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Never used.
    #[default]
    Idle,
    /// Trying to connect.
    Connecting,
    /// Connected.
    Connected,
    /// Waiting for the next attempt.
    Resting,
    /// The server does not talk to us, with its words.
    Refused(String),
    /// Ended by its owner.
    Closed,
}

/// Everything behind the link's lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Which stream may send.
    pub(super) turns: Turns,
    /// What payloads look like on the connection.
    pub(super) agreed: Agreed,
    pub(super) outbox: Outbox,
    pending: HashMap<u64, Pending, BuildHasherDefault<CountHasher>>,
    last_id: u64,
    /// No deadline is earlier than this. Answered requests leave it as it is, so it is looked at
    /// about once per timeout and not once per request.
    earliest: Option<Instant>,
    /// Of all links of the process.
    pub(super) counts: Arc<Counts>,
}

struct Pending {
    deadline: Instant,
    on_reply: OnReply,
}

impl State {
    /// Moves on, unless the owner ended the link meanwhile.
    pub(super) fn enter(&mut self, phase: Phase) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = phase;
        }
    }

    /// Whether one more message of `size` bytes may be queued.
    pub(super) fn admit(&self, size: usize, shared: &Shared) -> Result<(), CallError> {
        match &self.phase {
            Phase::Refused(why) => return Err(CallError::Refused(why.clone())),
            Phase::Closed => return Err(CallError::Disconnected(shared.closed_text())),
            Phase::Idle | Phase::Connecting | Phase::Connected | Phase::Resting => {}
        }
        let options = &shared.options;
        // One message always fits an empty queue, however small the limit.
        let full = self.outbox.bytes() > 0 && self.outbox.bytes() + size > options.queue_bytes_max;
        if full || self.pending.len() >= options.in_flight_max {
            return Err(CallError::Full);
        }
        Ok(())
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether this is the link's first message; says so once.
    pub(super) fn is_first_use(&mut self) -> bool {
        let first = matches!(self.phase, Phase::Idle);
        if first {
            self.phase = Phase::Connecting;
        }
        first
    }

    /// Remembers a request. True if its deadline is earlier than any before.
    pub(super) fn expect(&mut self, id: u64, deadline: Instant, on_reply: OnReply) -> bool {
        self.pending.insert(id, Pending { deadline, on_reply });
        self.counts.asked();
        let earlier = self.earliest.is_none_or(|earliest| deadline < earliest);
        if earlier {
            self.earliest = Some(deadline);
        }
        earlier
    }

    /// The answered request's owner, if it still waits.
    pub(super) fn answered(&mut self, id: u64) -> Option<OnReply> {
        let pending = self.pending.remove(&id)?;
        self.counts.settled(1);
        Some(pending.on_reply)
    }

    /// Whether a queued message should still be sent: a request that timed out should not.
    pub(super) fn pack(&mut self, waker: &std::task::Waker) -> Option<proto::link::Frame> {
        let Self {
            outbox, pending, ..
        } = self;
        outbox.pack(waker, |message: &Message| {
            message.kind() != Kind::Request || pending.contains_key(&message.request_id)
        })
    }

    /// Requests before this one have been sent; what waits to be sent does not go below it.
    pub(super) fn first_unsent(&self) -> u64 {
        let first = self.outbox.first_request();
        first.unwrap_or(self.last_id + 1)
    }

    /// Whether requests before this one wait for their answers.
    pub(super) fn waits_before(&self, id: u64) -> bool {
        self.pending.keys().any(|waiting| *waiting < id)
    }

    /// Takes the requests before this one, oldest first.
    pub(super) fn take_before(&mut self, id: u64) -> Vec<OnReply> {
        let mut before: Vec<u64> = self.pending.keys().copied().filter(|it| *it < id).collect();
        before.sort_unstable();
        before
            .into_iter()
            .filter_map(|id| self.answered(id))
            .collect()
    }

    pub(super) fn messages(&self) -> u64 {
        self.last_id
    }

    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// When deadlines should be looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.earliest
    }

    /// Takes the requests whose time is over, oldest first.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<OnReply> {
        let mut expired: Vec<u64> = Vec::new();
        let mut earliest: Option<Instant> = None;
        for (&id, request) in &self.pending {
            if request.deadline <= now {
                expired.push(id);
            } else {
                earliest = Some(earliest.map_or(request.deadline, |at| at.min(request.deadline)));
            }
        }
        self.earliest = earliest.map(|at| at.max(now + DEADLINE_GRAIN));
        expired.sort_unstable();
        expired
            .into_iter()
            .filter_map(|id| self.answered(id))
            .collect()
    }

    /// Takes all requests, oldest first.
    pub(super) fn take_pending(&mut self) -> Vec<OnReply> {
        let mut pending: Vec<_> = self.pending.drain().collect();
        self.counts.settled(pending.len());
        pending.sort_unstable_by_key(|(id, _)| *id);
        pending
            .into_iter()
            .map(|(_, pending)| pending.on_reply)
            .collect()
    }
}

/// Hashes request ids, which are our own count, by spreading them with one multiplication.
#[derive(Default)]
pub(super) struct CountHasher(u64);

impl Hasher for CountHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 / golden ratio, Fibonacci hashing: Knuth, TAOCP vol. 3, section 6.4.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
