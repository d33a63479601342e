//! A block that looks wrong: judged by what every replica has there, and put right.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use osd_core::scrub::{Answer, Copy, Mine, Verdict, judge};
use osd_core::{ObjectKey, Position};
use proto::osd::ScrubOutcome;
use proto::peer;
use tokio::sync::oneshot;
use types::{BLOCK_BYTES, OsdId};

use super::copy_file::CopyFile;
use super::group::Scene;
use super::{Scrub, blocking, not_read};
use crate::shard::scrub::{Mended, ScrubOrder};
use crate::shard_item::Item;

/// What was found in an object.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Blocks that did not fit their checksum.
    pub(super) unfit: Count,
    /// Blocks that fitted it and differed from others.
    pub(super) different: Count,
    /// Written and not verified yet.
    written: Vec<(u64, bool, OsdId)>,
    /// To be written, at one position.
    replacements: Vec<Replacement>,
    position: Option<Position>,
}

#[derive(Debug)]
struct Replacement {
    block: u64,
    bytes: Bytes,
    unfit: bool,
    from: OsdId,
}

/// Blocks of one kind of damage.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) blocks: u64,
    pub(super) repaired: u64,
    worst: Option<ScrubOutcome>,
}

impl Count {
    fn left(&mut self, outcome: ScrubOutcome) {
        let rank = |outcome: ScrubOutcome| match outcome {
            ScrubOutcome::ScrubNoGoodCopy => 3,
            ScrubOutcome::ScrubUndecided => 2,
            _ => 1,
        };
        if self.worst.is_none_or(|worst| rank(worst) < rank(outcome)) {
            self.worst = Some(outcome);
        }
    }

    pub(super) fn outcome(&self) -> ScrubOutcome {
        self.worst.unwrap_or(ScrubOutcome::ScrubRepaired)
    }
}

impl Tally {
    const fn of(&mut self, unfit: bool) -> &mut Count {
        match unfit {
            true => &mut self.unfit,
            false => &mut self.different,
        }
    }
}

impl Scrub {
    /// Finds out what is wrong with a block and mends it, or notes what is to take its place.
    pub(super) async fn examine(
        &self,
        scene: &Arc<Scene>,
        key: ObjectKey,
        block: u64,
        tally: &mut Tally,
    ) {
        self.wait_for_rate().await;
        let Some(mine) = self.look_at(key, block).await else {
            return;
        };
        self.pay((scene.others.len() as u64 + 1) * BLOCK_BYTES);
        let mut theirs = Vec::new();
        for osd in scene.others.iter().copied() {
            let inspect = peer::Inspect {
                offset: block * BLOCK_BYTES,
                length_bytes: BLOCK_BYTES as u32,
                ..peer::Inspect::default()
            };
            theirs.push((osd, answer(scene.ask(osd, key, inspect).await)));
        }
        if !mine.fits {
            return self.mend(scene, key, (block, &mine), theirs, tally).await;
        }
        // Others may have gone on meanwhile.
        let differs = |theirs: &Answer| {
            matches!(theirs, Answer::Copy(copy)
                if copy.fits && copy.at_rest == mine.at_rest && copy.length_bytes == mine.length_bytes
                    && copy.bytes != mine.bytes)
        };
        if mine.at_rest.is_none() || !theirs.iter().any(|(_, theirs)| differs(theirs)) {
            return;
        }
        let verdict = judge(&self.rules, &mine, &theirs, scene.majority);
        self.carry_out((block, &mine), verdict, tally);
    }

    async fn look_at(&self, key: ObjectKey, block: u64) -> Option<Mine> {
        let root = Arc::clone(&self.around.root);
        let look = blocking(move || {
            let Some(mut copy) = CopyFile::open(&root, key)? else {
                return Ok(None);
            };
            let bytes = copy.block(block)?;
            if bytes.is_none() {
                // Else the shard would see what the kernel remembers, not what the disk has.
                copy.forget(block)?;
            }
            Ok(Some(Copy {
                at_rest: copy.at_rest(),
                length_bytes: copy.length_bytes(),
                fits: bytes.is_some(),
                bytes: bytes.unwrap_or_default(),
            }))
        });
        look.await.unwrap_or_else(|error| {
            not_read(key, &error);
            None
        })
    }

    /// Whatever fits the checksum here is what was there, wherever it comes from. Only if nothing does, the checksum
    /// itself may be damaged.
    async fn mend(
        &self,
        scene: &Scene,
        key: ObjectKey,
        (block, mine): (u64, &Mine),
        theirs: Vec<(OsdId, Answer)>,
        tally: &mut Tally,
    ) {
        let sound = theirs.iter().filter_map(|(osd, answer)| match answer {
            Answer::Copy(copy) if copy.fits => Some((*osd, copy.bytes.clone())),
            Answer::Copy(_) | Answer::Absent | Answer::None => None,
        });
        let (sources, candidates): (Vec<_>, Vec<_>) = sound.unzip();
        let (answer, mended) = oneshot::channel();
        let order = ScrubOrder::Mend {
            block,
            candidates,
            answer,
        };
        self.around
            .shards
            .deliver(key.object, Item::Scrub { key, order });
        match mended.await.unwrap_or(Mended::NotNow) {
            // Somebody has changed or mended it since. Else it is sound in memory only.
            Mended::Sound if mine.at_rest.is_none() => {}
            Mended::Sound if self.look_at(key, block).await.is_some_and(|now| now.fits) => {}
            Mended::By(index) => {
                tally.unfit.blocks += 1;
                if let Some(from) = sources.get(index) {
                    tally.written.push((block, true, *from));
                }
            }
            Mended::No => {
                let verdict = judge(&self.rules, mine, &theirs, scene.majority);
                if verdict == Verdict::NoGoodCopy {
                    self.around.root.damage().note(key, block, None);
                }
                self.carry_out((block, mine), verdict, tally);
            }
            Mended::Sound | Mended::NotNow => {
                tally.unfit.blocks += 1;
                tally.unfit.left(ScrubOutcome::ScrubLater);
            }
        }
    }

    fn carry_out(&self, (block, mine): (u64, &Mine), verdict: Verdict, tally: &mut Tally) {
        let unfit = !mine.fits;
        let outcome = match verdict {
            Verdict::Keep => return,
            Verdict::Replace { bytes, from } => {
                tally.of(unfit).blocks += 1;
                tally.position = mine.at_rest;
                tally.replacements.push(Replacement {
                    block,
                    bytes,
                    unfit,
                    from,
                });
                return;
            }
            Verdict::NoGoodCopy => ScrubOutcome::ScrubNoGoodCopy,
            Verdict::Undecided => ScrubOutcome::ScrubUndecided,
            Verdict::Later => ScrubOutcome::ScrubLater,
        };
        let count = tally.of(unfit);
        count.blocks += 1;
        count.left(outcome);
    }

    /// Writes what is to take the place of blocks, and counts as repaired what the disk then has.
    pub(super) async fn settle(&self, key: ObjectKey, tally: &mut Tally) {
        let replacements = std::mem::take(&mut tally.replacements);
        if let Some(position) = tally.position.take()
            && !replacements.is_empty()
        {
            let (answer, replaced) = oneshot::channel();
            let blocks = replacements
                .iter()
                .map(|one| (one.block, one.bytes.clone()));
            let order = ScrubOrder::Replace {
                position,
                blocks: blocks.collect(),
                answer,
            };
            self.around
                .shards
                .deliver(key.object, Item::Scrub { key, order });
            let done = replaced.await.unwrap_or(false);
            for one in replacements {
                match done {
                    true => tally.written.push((one.block, one.unfit, one.from)),
                    false => tally.of(one.unfit).left(ScrubOutcome::ScrubLater),
                }
            }
        }
        let written = std::mem::take(&mut tally.written);
        if written.is_empty() {
            return;
        }
        let blocks: Vec<u64> = written.iter().map(|(block, ..)| *block).collect();
        let root = Arc::clone(&self.around.root);
        let sound = blocking(move || {
            let Some(mut copy) = CopyFile::open(&root, key)? else {
                return Ok(Vec::new());
            };
            copy.sync()?;
            let sound = blocks
                .into_iter()
                .map(|block| Ok(copy.block(block)?.is_some()));
            sound.collect()
        });
        let sound: Vec<bool> = sound.await.unwrap_or_else(|error| {
            not_read(key, &error);
            Vec::new()
        });
        for (index, (block, unfit, from)) in written.into_iter().enumerate() {
            if sound.get(index) == Some(&true) {
                tally.of(unfit).repaired += 1;
                self.repaired_blocks.fetch_add(1, Ordering::Relaxed);
                self.around.root.damage().note(key, block, Some(from));
            } else {
                tally.of(unfit).left(ScrubOutcome::ScrubLater);
            }
        }
    }
}

fn answer(answer: Option<(peer::Inspected, Bytes)>) -> Answer {
    match answer {
        None => Answer::None,
        Some((theirs, _)) if !theirs.exists => Answer::Absent,
        Some((theirs, bytes)) => Answer::Copy(Copy {
            at_rest: theirs.position.filter(|_| theirs.at_rest).map(Into::into),
            length_bytes: theirs.length_bytes,
            fits: !theirs.damaged,
            bytes,
        }),
    }
}
