//! What a lease host said and heard.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::FrameError;

/// Totals since the start; every field only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Traffic {
    /// Lease messages sent.
    pub messages_sent: u64,
    /// Frames they went out in.
    pub frames_sent: u64,
    /// Bytes of those frames.
    pub bytes_sent: u64,
    /// Frames that a link did not take: it is full, or the peer is out of reach.
    pub frames_dropped: u64,
    /// Lease messages received.
    pub messages_received: u64,
    /// Frames they came in.
    pub frames_received: u64,
    /// Frames dropped as a whole because they are cut short or not what a frame looks like.
    pub frames_broken: u64,
    /// Frames dropped as a whole because they have more messages than a frame may have.
    pub frames_overfull: u64,
    /// Messages dropped because a number in them is not believable, or they say nothing known.
    pub messages_refused: u64,
    /// Renewals not sent because the lease's user shows no sign of life.
    pub renewals_withheld: u64,
}

/// The totals, where they grow.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    messages_sent: AtomicU64,
    frames_sent: AtomicU64,
    bytes_sent: AtomicU64,
    frames_dropped: AtomicU64,
    messages_received: AtomicU64,
    frames_received: AtomicU64,
    frames_broken: AtomicU64,
    frames_overfull: AtomicU64,
    messages_refused: AtomicU64,
    renewals_withheld: AtomicU64,
}

impl Meter {
    pub(crate) fn withheld(&self, renewals: usize) {
        add(&self.renewals_withheld, renewals);
    }

    pub(crate) fn sent(&self, messages: usize, bytes: usize) {
        add(&self.messages_sent, messages);
        add(&self.frames_sent, 1);
        add(&self.bytes_sent, bytes);
    }

    pub(crate) fn dropped(&self) {
        add(&self.frames_dropped, 1);
    }

    pub(crate) fn received(&self, messages: usize) {
        add(&self.messages_received, messages);
        add(&self.frames_received, 1);
    }

    pub(crate) fn refused(&self, messages: usize) {
        add(&self.messages_refused, messages);
    }

    pub(crate) fn bad_frame(&self, error: FrameError) {
        let counter = match error {
            FrameError::Broken => &self.frames_broken,
            FrameError::Overfull => &self.frames_overfull,
        };
        add(counter, 1);
    }

    pub(crate) fn read(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            messages_sent: read(&self.messages_sent),
            frames_sent: read(&self.frames_sent),
            bytes_sent: read(&self.bytes_sent),
            frames_dropped: read(&self.frames_dropped),
            messages_received: read(&self.messages_received),
            frames_received: read(&self.frames_received),
            frames_broken: read(&self.frames_broken),
            frames_overfull: read(&self.frames_overfull),
            messages_refused: read(&self.messages_refused),
            renewals_withheld: read(&self.renewals_withheld),
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
