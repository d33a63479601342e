//! All shards of the server, and the way to each.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use osd_core::{LeaseEvent, Obstacle};
use shell::link::Responder;
use shell::metrics::{self, Metric};
use tokio::sync::oneshot;
use types::{Duration, Instant, ObjectId, OsdId};

use crate::board::shard_of;
use crate::config::{INBOX_BYTES_MAX, INBOX_ITEMS_MAX};
use crate::inbox::Inbox;
use crate::shard::{Shard, Surroundings};
use crate::shard_item::Item;
use crate::stalls::StallBatch;
use crate::worker;

/// The inboxes of all shards.
#[derive(Clone, Debug)]
pub(crate) struct Shards(Arc<[Arc<Inbox<Item>>]>);

impl Shards {
    /// Inboxes for this many shards, which are started later.
    pub(crate) fn new(count: usize) -> Self {
        Self(
            (0..count)
                .map(|_| Arc::new(Inbox::new(INBOX_ITEMS_MAX, INBOX_BYTES_MAX)))
                .collect(),
        )
    }

    /// Starts the threads.
    pub(crate) fn start(&self, around: &Surroundings) -> io::Result<Vec<JoinHandle<()>>> {
        let start = |(number, inbox): (usize, &Arc<Inbox<Item>>)| {
            let shard = Shard::new(number, around.clone(), Arc::clone(inbox));
            worker::spawn(format!("shard-{number}"), move || shard.run())
        };
        self.0.iter().enumerate().map(start).collect()
    }

    /// Gives a request to the object's shard. False if too much waits there; the request is dropped
    /// then, and its responder asks to repeat it.
    pub(crate) fn offer(&self, object: ObjectId, item: Item, bytes: usize) -> bool {
        self.inbox(object)
            .is_some_and(|inbox| inbox.offer(item, bytes).is_ok())
    }

    /// Tells the object's shard something it must know.
    pub(crate) fn deliver(&self, object: ObjectId, item: Item) {
        if let Some(inbox) = self.inbox(object) {
            inbox.deliver(item);
        }
    }

    /// Tells all shards.
    pub(crate) fn tell_all(&self, item: impl Fn() -> Item) {
        for inbox in self.0.iter() {
            inbox.deliver(item());
        }
    }

    /// Asks all shards.
    pub(crate) fn ask_all<T>(
        &self,
        item: impl Fn(oneshot::Sender<T>) -> Item,
    ) -> Vec<oneshot::Receiver<T>> {
        let ask = |inbox: &Arc<Inbox<Item>>| {
            let (answer, answered) = oneshot::channel();
            inbox.deliver(item(answer));
            answered
        };
        self.0.iter().map(ask).collect()
    }

    /// Number of the object's shard.
    pub(crate) fn number_of(&self, object: ObjectId) -> usize {
        shard_of(object, self.0.len())
    }

    /// The longest of their queues, for collectors.
    pub(crate) fn metrics(&self) -> [Metric; 3] {
        let (mut longest, mut most, mut refused) = (0, 0, 0);
        for (waiting, max, over) in self.0.iter().map(|inbox| inbox.load()) {
            longest = longest.max(waiting);
            most = most.max(max);
            refused += over;
        }
        metrics::queue("requests_of_a_shard", longest as u64, most as u64, refused)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether the object's shard has something to do and has given no sign of life for `limit`.
    pub(crate) fn is_stuck(&self, object: ObjectId, now: Instant, limit: Duration) -> bool {
        let since = self.inbox(object).and_then(|inbox| inbox.silent_since());
        since.is_some_and(|since| now.since(since) >= limit)
    }

    /// Asks all shards to make their objects clean and release their leases; resolves when they have.
    pub(crate) fn shut_down(&self) -> impl Future<Output = ()> + use<> {
        let mut answers = Vec::new();
        for inbox in self.0.iter() {
            let (answer, answered) = oneshot::channel();
            inbox.deliver(Item::Shutdown(answer));
            answers.push(answered);
        }
        async move {
            for answered in answers {
                let _ = answered.await;
            }
        }
    }

    /// Ends the threads once they have done what waits.
    pub(crate) fn close(&self) {
        for inbox in self.0.iter() {
            inbox.close();
        }
    }

    /// Passes news of leases on to the objects' shards.
    pub(crate) fn lease_news(&self, events: &[lease::Event]) {
        for event in events {
            self.lease_event(*event);
        }
    }

    fn lease_event(&self, event: lease::Event) {
        let (cell, event) = match event {
            lease::Event::Held {
                cell,
                epoch,
                until,
                newborn,
            } => (
                cell,
                LeaseEvent::Held {
                    epoch,
                    until,
                    newborn,
                },
            ),
            lease::Event::HeldBy {
                cell,
                member,
                remaining,
            } => (
                cell,
                LeaseEvent::HeldBy {
                    member: OsdId(member.0),
                    remaining,
                },
            ),
            lease::Event::NoQuorum { cell } => (cell, LeaseEvent::Denied(Obstacle::NoMajority)),
            // Nobody answers until the next map.
            lease::Event::OldView { cell, .. } => (cell, LeaseEvent::Denied(Obstacle::OldView)),
            lease::Event::Refused { cell, error } => (cell, LeaseEvent::Denied(obstacle(error))),
            lease::Event::Lost { cell, epoch } => (cell, LeaseEvent::Lost { epoch }),
            lease::Event::Offered { cell, .. } => (cell, LeaseEvent::Offered),
        };
        let object = ObjectId::of_cell(cell);
        self.deliver(object, Item::Lease { object, event });
    }

    /// Asks all shards what waits there, at most `limit` objects of each; the last one to answer
    /// answers the administrator.
    pub(crate) fn stalls(&self, limit: usize, responder: Responder) {
        let batch = StallBatch::new(self.count(), responder);
        for inbox in self.0.iter() {
            let batch = Arc::clone(&batch);
            inbox.deliver(Item::Stalls { limit, batch });
        }
    }

    fn inbox(&self, object: ObjectId) -> Option<&Arc<Inbox<Item>>> {
        self.0.get(self.number_of(object))
    }
}

/// What keeps a server from asking for a lease.
const fn obstacle(error: lease::Error) -> Obstacle {
    match error {
        lease::Error::Quarantined { remaining } => Obstacle::Quarantine { remaining },
        lease::Error::TooManyCells { .. } => Obstacle::TooManyCells,
        lease::Error::Stopped => Obstacle::Stopping,
        // The rest speaks of the replica set.
        _ => Obstacle::OldView,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, VolumeId};

    #[test]
    fn shard_that_leaves_its_work_undone_is_stuck_and_the_others_are_not() {
        let shards = Shards::new(2);
        let object = |inode| ObjectId {
            volume: VolumeId(0),
            inode: Inode(inode),
            column: 0,
        };
        let limit = Duration::from_secs(1);
        let (answer, _answered) = oneshot::channel();

        shards.deliver(object(1), Item::Shutdown(answer));

        let now = shell::clock::boottime();
        let later = now + limit;
        assert!(!shards.is_stuck(object(1), now, limit));
        assert!(shards.is_stuck(object(1), later, limit));
        assert!(!shards.is_stuck(object(2), later, limit));
    }
}
