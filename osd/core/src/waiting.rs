//! Requests that wait until they can be done here, bounded in number, bytes and time.

use std::collections::VecDeque;

use types::{Instant, SessionId};

use crate::config::{WAITING_BYTES_MAX, WAITING_REQUESTS_MAX};
use crate::event::{Op, RequestId};

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) request: RequestId,
    pub(crate) session: SessionId,
    pub(crate) op: Op,
    pub(crate) deadline: Instant,
}

impl Queued {
    pub(crate) fn is_change(&self) -> bool {
        matches!(self.op, Op::Write { .. } | Op::Truncate { .. })
    }

    fn bytes(&self) -> u64 {
        match &self.op {
            Op::Write { data, .. } => data.bytes.len() as u64,
            _ => 0,
        }
    }
}

/// The queue, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Queued>,
    bytes: u64,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn front(&self) -> Option<&Queued> {
        self.queue.front()
    }

    /// Adds a request, or gives it back if there is no room.
    pub(crate) fn push(&mut self, queued: Queued) -> Result<(), Queued> {
        let bytes = self.bytes + queued.bytes();
        if self.queue.len() >= WAITING_REQUESTS_MAX || bytes > WAITING_BYTES_MAX {
            return Err(queued);
        }
        self.bytes = bytes;
        self.queue.push_back(queued);
        Ok(())
    }

    /// Puts back a request that was taken too early; there is always room for it.
    pub(crate) fn push_front(&mut self, queued: Queued) {
        self.bytes += queued.bytes();
        self.queue.push_front(queued);
    }

    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.bytes -= queued.bytes();
        Some(queued)
    }

    /// Takes all changes.
    pub(crate) fn take_changes(&mut self) -> Vec<RequestId> {
        let all = std::mem::take(&mut self.queue).into_iter();
        let (changes, rest): (Vec<_>, Vec<_>) = all.partition(Queued::is_change);
        self.queue = rest.into();
        self.bytes -= changes.iter().map(Queued::bytes).sum::<u64>();
        changes.into_iter().map(|queued| queued.request).collect()
    }

    /// Takes the oldest request if its time is over.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<Queued> {
        self.front().filter(|queued| queued.deadline <= now)?;
        self.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ChangeOrder, Payload};
    use bytes::Bytes;
    use types::Duration;

    fn write(request: u64, bytes: usize) -> Queued {
        Queued {
            request,
            session: SessionId(1),
            op: Op::Write {
                offset: 0,
                data: Payload {
                    bytes: Bytes::from(vec![0; bytes]),
                    crc32c: 0,
                },
                append: false,
                order: ChangeOrder::first(request),
            },
            deadline: Instant::ZERO + Duration::from_millis(request),
        }
    }

    #[test]
    fn full_queue_gives_the_request_back() {
        let mut waiting = Waiting::default();
        let half = (WAITING_BYTES_MAX / 2) as usize;
        assert!(waiting.push(write(1, half)).is_ok());
        assert!(waiting.push(write(2, half)).is_ok());

        assert_eq!(waiting.push(write(3, 1)).unwrap_err().request, 3);
        assert!(waiting.push(write(4, 0)).is_ok());

        assert_eq!(waiting.pop().unwrap().request, 1);
        assert!(waiting.push(write(5, 1)).is_ok());
    }

    #[test]
    fn only_requests_whose_time_is_over_expire() {
        let mut waiting = Waiting::default();
        waiting.push(write(1, 0)).unwrap();
        waiting.push(write(9, 0)).unwrap();

        let now = Instant::ZERO + Duration::from_millis(5);
        assert_eq!(waiting.pop_expired(now).unwrap().request, 1);
        assert!(waiting.pop_expired(now).is_none());
    }
}
