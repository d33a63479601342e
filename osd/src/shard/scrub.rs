//! What a scrub has a shard do to a copy: the shard's thread is the only one that changes it.

use bytes::Bytes;
use osd_core::{Input, ObjectKey, ObjectStore, Position, StoreError};
use shell::clock::boottime;
use tokio::sync::oneshot;
use types::BLOCK_BYTES;

use super::Shard;

/// An order of the scrub.
#[derive(Debug)]
pub(crate) enum ScrubOrder {
    /// If a block is damaged, replace it by the first of these that fits its checksum.
    Mend {
        block: u64,
        candidates: Vec<Bytes>,
        answer: oneshot::Sender<Mended>,
    },
    /// Replace blocks, and their checksums, of a copy that is at rest at this position. Done when they are stable.
    Replace {
        position: Position,
        blocks: Vec<(u64, Bytes)>,
        answer: oneshot::Sender<bool>,
    },
    /// The copy, if it is at rest, should be at this newer position.
    Outdated(Position),
}

/// What has become of a damaged block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mended {
    /// It was not damaged for whoever knows all of the object.
    Sound,
    /// This one of the candidates took its place.
    By(usize),
    /// None fitted.
    No,
    /// The copy is gone, about to be brought up, or its disk failed.
    NotNow,
}

impl Shard {
    pub(super) fn scrub(&mut self, key: ObjectKey, order: ScrubOrder) {
        let deleted = self.tombstones.contains(key.object, boottime());
        match order {
            ScrubOrder::Mend {
                block,
                candidates,
                answer,
            } => {
                let mended = match deleted {
                    true => Mended::NotNow,
                    false => self.mend_block(key, block, &candidates),
                };
                let _scrub_ended = answer.send(mended);
            }
            ScrubOrder::Replace {
                position,
                blocks,
                answer,
            } => {
                let replaced = !deleted && self.replace_blocks(key, position, &blocks);
                let _scrub_ended = answer.send(replaced);
            }
            ScrubOrder::Outdated(newest) if !deleted => {
                if let Err(fault) = self.step_opened(key, Input::Outdated(newest)) {
                    tracing::debug!(%key, %fault, "copy can't be distrusted now");
                }
            }
            ScrubOrder::Outdated(_) => {}
        }
    }

    fn mend_block(&mut self, key: ObjectKey, block: u64, candidates: &[Bytes]) -> Mended {
        let in_memory = self.replicas.contains_key(&key.object);
        let usable =
            in_memory || matches!(self.store.open(key), Ok(Some(header)) if header.record.clean);
        let mended = match usable {
            true => mend(&mut self.store, key, block, candidates),
            false => Mended::NotNow,
        };
        if mended == Mended::Sound
            && self.is_at_rest(key)
            && let Err(error) = write_out(&mut self.store, key)
        {
            tracing::warn!(%key, %error, "checksums of an object at rest can't be written");
        }
        if !in_memory {
            self.store.close(key);
        }
        mended
    }

    fn is_at_rest(&self, key: ObjectKey) -> bool {
        let slot = self.replicas.get(&key.object);
        slot.is_none_or(|slot| slot.key == key && slot.replica.is_at_rest())
    }

    /// Nothing else may be going on with the copy: it keeps its position and its record.
    fn replace_blocks(
        &mut self,
        key: ObjectKey,
        position: Position,
        blocks: &[(u64, Bytes)],
    ) -> bool {
        if !self.is_at_rest(key) {
            return false;
        }
        let in_memory = self.replicas.contains_key(&key.object);
        let replaced = replace(&mut self.store, key, position, blocks);
        if !in_memory {
            self.store.close(key);
        }
        replaced.unwrap_or_else(|error| {
            tracing::warn!(%key, %error, "blocks that differ from the other replicas can't be replaced");
            false
        })
    }
}

/// A reader may have had a block mended whose checksum was damaged, too: the new one is in memory only then.
fn write_out(store: &mut dyn ObjectStore, key: ObjectKey) -> Result<(), StoreError> {
    match store.open(key)? {
        Some(header) if header.record.clean => store.sync(key, true, &header.record)?.run(),
        Some(_) | None => Ok(()),
    }
}

fn mend(store: &mut dyn ObjectStore, key: ObjectKey, block: u64, candidates: &[Bytes]) -> Mended {
    match store.read(key, block * BLOCK_BYTES, BLOCK_BYTES as u32) {
        Ok(_) => return Mended::Sound,
        Err(StoreError::Corrupt { .. }) => {}
        Err(_) => return Mended::NotNow,
    }
    for (index, bytes) in candidates.iter().enumerate() {
        match store.mend(key, block, bytes) {
            Ok(true) => return Mended::By(index),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%key, block, %error, "a damaged block can't be mended");
                return Mended::NotNow;
            }
        }
    }
    Mended::No
}

fn replace(
    store: &mut dyn ObjectStore,
    key: ObjectKey,
    position: Position,
    blocks: &[(u64, Bytes)],
) -> Result<bool, StoreError> {
    let Some(header) = store.open(key)? else {
        return Ok(false);
    };
    let whole = |block: u64| {
        let rest = header.length_bytes.saturating_sub(block * BLOCK_BYTES);
        rest.min(BLOCK_BYTES)
    };
    let fit = blocks
        .iter()
        .all(|(block, bytes)| !bytes.is_empty() && bytes.len() as u64 == whole(*block));
    if !header.record.clean || header.record.position != position || !fit {
        return Ok(false);
    }
    for (block, bytes) in blocks {
        store.write(key, block * BLOCK_BYTES, bytes)?;
    }
    // Two waits for the disk, on the thread that serves the object: it happens when damage was found.
    store.sync(key, true, &header.record)?.run()?;
    Ok(true)
}
