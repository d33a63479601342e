//! Damaged blocks that were found: reported and counted, since nobody notices them otherwise.

use std::sync::atomic::{AtomicU64, Ordering};

use osd_core::ObjectKey;
use shell::metrics::Metric;
use types::{BLOCK_BYTES, OsdId};

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    mended: AtomicU64,
    left: AtomicU64,
    taken: AtomicU64,
}

impl Damage {
    /// Takes note of a damaged block.
    pub(crate) fn note(&self, key: ObjectKey, block: u64, mended_from: Option<OsdId>) {
        let offset = block * BLOCK_BYTES;
        match mended_from {
            Some(osd) => {
                self.mended.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    %key, block, offset, from = %osd,
                    "a block was damaged on this server's disk and is replaced from another replica; \
                     check the disk"
                );
            }
            None => {
                self.left.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    %key, block, offset,
                    "a block is damaged on this server's disk and no other replica can replace it now"
                );
            }
        }
    }

    /// Takes note of a block that was being changed when the power failed.
    pub(crate) fn note_taken(&self, key: ObjectKey, block: u64) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let offset = block * BLOCK_BYTES;
        tracing::warn!(
            %key, block, offset,
            "a block that was being changed when the power failed fits its checksum on no replica; it is              taken as it was found here"
        );
    }

    /// The counts, for collectors.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let help =
            "Blocks that did not fit their checksum, found by reading, by what became of them";
        let metric = |outcome, count: &AtomicU64| {
            let value = count.load(Ordering::Relaxed);
            Metric::counter("oxfs_osd_damaged_blocks", help, value).with("outcome", outcome)
        };
        vec![
            metric("mended", &self.mended),
            metric("left", &self.left),
            metric("taken_as_found", &self.taken),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, ObjectId, PgId, VolumeId};

    #[test]
    fn damaged_blocks_are_counted_by_what_became_of_them() {
        let key = ObjectKey {
            pg: PgId(0),
            object: ObjectId {
                volume: VolumeId(1),
                inode: Inode(2),
                column: 0,
            },
        };
        let damage = Damage::default();

        damage.note(key, 3, Some(OsdId(2)));
        damage.note(key, 4, Some(OsdId(3)));
        damage.note(key, 5, None);
        for block in 6..9 {
            damage.note_taken(key, block);
        }

        let counts: Vec<_> = damage.metrics().iter().map(|m| m.value).collect();
        assert_eq!(counts, [2, 1, 3]);
    }
}
