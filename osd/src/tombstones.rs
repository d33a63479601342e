//! Objects that were deleted a short while ago, so that no catch-up brings them back.

use std::collections::{HashMap, VecDeque};

use types::{Duration, Instant, ObjectId};

use crate::config::{TOMBSTONE_TIME, TOMBSTONES_MAX};

/// Deleted objects, in the order of their deletion.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    order: VecDeque<(Instant, ObjectId)>,
    until: HashMap<ObjectId, Instant>,
}

impl Tombstones {
    /// Remembers a deleted object for a while.
    pub(crate) fn insert(&mut self, object: ObjectId, now: Instant) {
        let until = now + TOMBSTONE_TIME;
        self.until.insert(object, until);
        self.order.push_back((until, object));
        while let Some((oldest, object)) = self.order.front().copied()
            && (oldest <= now || self.order.len() > TOMBSTONES_MAX)
        {
            self.order.pop_front();
            if self.until.get(&object) == Some(&oldest) {
                self.until.remove(&object);
            }
        }
    }

    /// Whether the object was deleted.
    pub(crate) fn contains(&self, object: ObjectId, now: Instant) -> bool {
        self.until.get(&object).is_some_and(|until| now < *until)
    }
}

/// Compile-time check that a tombstone outlives every request that was under way.
const _: () = assert!(TOMBSTONE_TIME.as_nanos() > Duration::from_secs(30).as_nanos());

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, VolumeId};

    fn object(inode: u64) -> ObjectId {
        ObjectId {
            volume: VolumeId(1),
            inode: Inode(inode),
            column: 0,
        }
    }

    #[test]
    fn tombstones_end_by_time_and_by_number() {
        let mut tombstones = Tombstones::default();
        let start = Instant::ZERO;

        tombstones.insert(object(0), start);
        assert!(tombstones.contains(object(0), start));
        assert!(!tombstones.contains(object(1), start));
        assert!(!tombstones.contains(object(0), start + TOMBSTONE_TIME));

        for inode in 1..=TOMBSTONES_MAX as u64 {
            tombstones.insert(object(inode), start);
        }
        assert!(!tombstones.contains(object(0), start));
        assert!(tombstones.contains(object(1), start));
        tombstones.insert(object(0), start + TOMBSTONE_TIME);
        assert_eq!(tombstones.order.len(), 1);
    }
}
