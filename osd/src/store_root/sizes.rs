//! What each placement group takes on the disk, kept up to date without looking at all of it.
//!
//! A group is counted once after a start and now and then afterwards ([`SizeCounter`](crate::size_counter)); in
//! between the store says what each object has grown or shrunk by when it is synced, closed, made or
//! removed. So a size is exact but for
//!
//! - what was written since the object was last synced, some seconds' worth;
//! - objects that were changed while they were being counted, by what they changed by, until the next count;
//! - what a file system allots later than it is told to write (ZFS, up to 5 s).

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use types::PgKey;

/// Bytes of a block as `st_blocks` counts them.
const STAT_BLOCK_BYTES: u64 = 512;

/// What a replica takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Size {
    /// Blocks of its files.
    pub(crate) bytes: u64,
    /// Number of its objects.
    pub(crate) objects: u64,
}

/// By how much a size changes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Change {
    pub(crate) bytes: i64,
    pub(crate) objects: i64,
}

/// The sizes of all groups.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Mutex<HashMap<PgKey, Counted>>);

#[derive(Debug, Default)]
struct Counted {
    /// None before it was counted.
    size: Option<Size>,
    /// What has changed since the count under way began.
    meanwhile: Change,
}

/// What a file takes.
pub(crate) fn disk_bytes(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(STAT_BLOCK_BYTES)
}

/// From one number of bytes to another.
pub(crate) fn difference(before: u64, after: u64) -> i64 {
    let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    signed(after).saturating_sub(signed(before))
}

impl Sizes {
    /// The size of a group; none if it has not been counted yet.
    pub(crate) fn of(&self, group: PgKey) -> Option<Size> {
        self.lock().get(&group)?.size
    }

    /// What the groups take that `is_ours` does not hold for.
    pub(crate) fn bytes_of_others(&self, is_ours: impl Fn(PgKey) -> bool) -> u64 {
        let groups = self.lock();
        let others = groups.iter().filter(|(group, _)| !is_ours(**group));
        let sizes = others.filter_map(|(_, counted)| counted.size);
        sizes.fold(0, |sum, size| sum.saturating_add(size.bytes))
    }

    /// Something of a group has changed.
    pub(crate) fn note(&self, group: PgKey, change: Change) {
        if change == Change::default() {
            return;
        }
        let mut groups = self.lock();
        let counted = groups.entry(group).or_default();
        counted.meanwhile.bytes = counted.meanwhile.bytes.saturating_add(change.bytes);
        counted.meanwhile.objects = counted.meanwhile.objects.saturating_add(change.objects);
        counted.size = counted.size.map(|size| size.changed(change));
    }

    /// A count of the group begins: before its names are listed.
    pub(crate) fn begin(&self, group: PgKey) {
        self.lock().entry(group).or_default().meanwhile = Change::default();
    }

    /// The count has ended, with what was found.
    pub(crate) fn end(&self, group: PgKey, found: Size) {
        let mut groups = self.lock();
        let counted = groups.entry(group).or_default();
        counted.size = Some(found.changed(counted.meanwhile));
    }

    /// Forgets groups that are not there any more.
    pub(crate) fn retain(&self, is_there: impl Fn(PgKey) -> bool) {
        self.lock().retain(|group, _| is_there(*group));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PgKey, Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Size {
    const fn changed(self, by: Change) -> Self {
        Self {
            bytes: self.bytes.saturating_add_signed(by.bytes),
            objects: self.objects.saturating_add_signed(by.objects),
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{PgId, VolumeId};

    use super::*;

    const GROUP: PgKey = PgKey {
        volume: VolumeId(1),
        pg: PgId(2),
    };

    fn change(bytes: i64, objects: i64) -> Change {
        Change { bytes, objects }
    }

    fn size(bytes: u64, objects: u64) -> Size {
        Size { bytes, objects }
    }

    #[test]
    fn size_is_what_was_counted_and_what_changed_since_the_count_began() {
        let sizes = Sizes::default();
        sizes.note(GROUP, change(9, 1));
        assert_eq!(sizes.of(GROUP), None, "it has not been counted");

        sizes.begin(GROUP);
        sizes.note(GROUP, change(10, 1));
        sizes.end(GROUP, size(100, 5));
        assert_eq!(sizes.of(GROUP), Some(size(110, 6)));
        sizes.note(GROUP, change(-60, -2));
        assert_eq!(sizes.of(GROUP), Some(size(50, 4)));

        // The next count corrects what was wrong.
        sizes.begin(GROUP);
        sizes.end(GROUP, size(70, 3));
        assert_eq!(sizes.of(GROUP), Some(size(70, 3)));
        sizes.note(GROUP, change(-99, -9));
        assert_eq!(sizes.of(GROUP), Some(size(0, 0)));
    }

    #[test]
    fn what_is_of_others_is_summed_up_until_it_is_gone() {
        let sizes = Sizes::default();
        let other = PgKey {
            pg: PgId(3),
            ..GROUP
        };
        sizes.end(GROUP, size(5, 1));
        sizes.end(other, size(7, 1));

        assert_eq!(sizes.bytes_of_others(|group| group == GROUP), 7);
        sizes.retain(|group| group == GROUP);
        assert_eq!(sizes.bytes_of_others(|group| group == GROUP), 0);
    }
}
