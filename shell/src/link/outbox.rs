//! Messages waiting to leave through one stream, and how they are packed into frames.

use std::collections::VecDeque;
use std::task::Waker;

use proto::link::{Frame, Message};

use super::limits::{FRAME_BYTES_MAX, FRAME_MESSAGES_MAX, MESSAGE_OVERHEAD_BYTES};

/// A queue of messages; its owner locks it and keeps its limits.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    messages: VecDeque<Message>,
    bytes: usize,
    waker: Option<Waker>,
    corked: u32,
}

/// Bytes a message counts for.
pub(crate) fn weight(message: &Message) -> usize {
    message.body.len() + message.payload.len() + MESSAGE_OVERHEAD_BYTES
}

impl Outbox {
    /// Bytes waiting.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Id of the oldest request that waits.
    pub(crate) fn first_request(&self) -> Option<u64> {
        let mut ids = self.messages.iter().map(|message| message.request_id);
        ids.find(|id| *id != 0)
    }

    /// Appends a message. The returned waker, if any, must be woken after unlocking.
    #[must_use]
    pub(crate) fn push(&mut self, message: Message) -> Option<Waker> {
        self.bytes += weight(&message);
        self.messages.push_back(message);
        self.take_waker()
    }

    /// The waker, unless the box is corked.
    #[must_use]
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        if self.corked > 0 {
            return None;
        }
        self.waker.take()
    }

    /// Holds back wake-ups while many messages are about to be pushed in a row.
    pub(crate) fn cork(&mut self) {
        self.corked += 1;
    }

    /// Ends a [`cork`](Self::cork). The returned waker must be woken after unlocking.
    #[must_use]
    pub(crate) fn uncork(&mut self) -> Option<Waker> {
        self.corked = self.corked.saturating_sub(1);
        if self.messages.is_empty() {
            return None;
        }
        self.take_waker()
    }

    /// Packs what waits into a frame, leaving out what is not `wanted` any more, or keeps the waker
    /// if nothing waits.
    pub(crate) fn pack(
        &mut self,
        waker: &Waker,
        mut wanted: impl FnMut(&Message) -> bool,
    ) -> Option<Frame> {
        let mut frame = Frame::default();
        let mut frame_bytes = 0;
        while let Some(message) = self.messages.pop_front() {
            let size = weight(&message);
            if !wanted(&message) {
                self.bytes -= size;
                continue;
            }
            let full =
                frame.messages.len() >= FRAME_MESSAGES_MAX || frame_bytes + size > FRAME_BYTES_MAX;
            if full && !frame.messages.is_empty() {
                self.messages.push_front(message);
                break;
            }
            self.bytes -= size;
            frame_bytes += size;
            frame.messages.push(message);
        }
        if !frame.messages.is_empty() {
            return Some(frame);
        }
        self.keep_waker(waker);
        None
    }

    /// Whom to wake when there is something to pack.
    pub(crate) fn keep_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Forgets everything; the stream is over. The returned waker must be woken after unlocking.
    #[must_use]
    pub(crate) fn clear(&mut self) -> Option<Waker> {
        self.messages.clear();
        self.bytes = 0;
        self.corked = 0;
        self.waker.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(id: u64, payload_bytes: usize) -> Message {
        Message {
            request_id: id,
            payload: Bytes::from(vec![0; payload_bytes]),
            ..Message::default()
        }
    }

    fn pack(outbox: &mut Outbox) -> Vec<u64> {
        let frame = outbox.pack(Waker::noop(), |_| true).unwrap_or_default();
        frame.messages.iter().map(|m| m.request_id).collect()
    }

    #[test]
    fn everything_queued_leaves_in_one_frame_in_order() {
        let mut outbox = Outbox::default();
        for id in 0..100 {
            let _ = outbox.push(message(id, 10));
        }

        assert_eq!(pack(&mut outbox), (0..100).collect::<Vec<_>>());
        assert_eq!(outbox.bytes(), 0);
        assert_eq!(pack(&mut outbox), Vec::<u64>::new());
    }

    #[test]
    fn frames_end_at_their_count_and_size_and_a_large_message_goes_alone() {
        let mut outbox = Outbox::default();
        for id in 0..300 {
            let _ = outbox.push(message(id, 1));
        }
        assert_eq!(pack(&mut outbox).len(), FRAME_MESSAGES_MAX);
        assert_eq!(pack(&mut outbox).len(), 300 - FRAME_MESSAGES_MAX);

        for (id, size) in [(1, 700_000), (2, 700_000), (3, 4 << 20), (4, 1)] {
            let _ = outbox.push(message(id, size));
        }
        let frames: Vec<_> = (0..4).map(|_| pack(&mut outbox)).collect();
        assert_eq!(frames, [vec![1], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn unwanted_messages_are_left_out_and_uncounted() {
        let mut outbox = Outbox::default();
        for id in 0..3 {
            let _ = outbox.push(message(id, 1));
        }

        let frame = outbox.pack(Waker::noop(), |m| m.request_id == 1).unwrap();

        assert_eq!(frame.messages.len(), 1);
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn corked_box_gives_its_waker_only_when_uncorked() {
        let mut outbox = Outbox::default();
        assert!(outbox.pack(Waker::noop(), |_| true).is_none());

        outbox.cork();
        assert!(outbox.push(message(1, 1)).is_none());

        assert!(outbox.uncork().is_some());
    }
}
