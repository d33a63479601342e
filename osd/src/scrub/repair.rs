//! A block that looks wrong: judged by what every replica has there, and put right.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use osd_core::scrub::{Answer, Copy, Mine, Verdict, judge};
use osd_core::{ObjectKey, Position};
use proto::osd::{ScrubDamage, ScrubOutcome};
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
    /// Whose blocks took the place of the last ones.
    from: Option<OsdId>,
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
    pub(super) const fn kinds(&self) -> [(ScrubDamage, &Count); 2] {
        [
            (ScrubDamage::ScrubBlocks, &self.unfit),
            (ScrubDamage::ScrubDifferent, &self.different),
        ]
    }

    /// Says what was found in an object, once for all of it.
    pub(super) fn log(&self, key: ObjectKey) {
        let kinds = [
            (&self.unfit, "did not fit their checksums"),
            (&self.different, "differed from the other replicas"),
        ];
        for (
            Count {
                blocks,
                repaired,
                from,
                worst,
            },
            what,
        ) in kinds
        {
            match (blocks, worst) {
                (0, _) => {}
                (_, None) => tracing::warn!(
                    %key, blocks, ?from,
                    "blocks on this server's disk {what}, and are replaced from another replica; check the disk"
                ),
                (_, Some(outcome)) => tracing::error!(
                    %key, blocks, repaired, ?outcome,
                    "blocks on this server's disk {what}, and not all could be replaced; check the disk"
                ),
            }
        }
    }

    const fn of(&mut self, unfit: bool) -> &mut Count {
        match unfit {
            true => &mut self.unfit,
            false => &mut self.different,
        }
    }
}

impl Scrub {
    /// Finds out what is wrong with some blocks that lie together, and mends them or notes what is to take their place.
    pub(super) async fn examine(
        &self,
        scene: &Arc<Scene>,
        key: ObjectKey,
        run: Range<u64>,
        tally: &mut Tally,
    ) {
        self.wait_for_rate().await;
        let mine = self.look_at(key, run.clone()).await;
        let members = scene.others.len() as u64 + 1;
        self.pay(members * (run.end - run.start) * BLOCK_BYTES);
        let mut theirs = Vec::new();
        for osd in scene.others.iter().copied() {
            theirs.push((osd, answers(scene, osd, key, run.clone()).await));
        }
        for (index, (block, mine)) in run.zip(mine).enumerate() {
            let of_block = |(osd, answers): &(OsdId, Vec<Answer>)| {
                (*osd, answers.get(index).cloned().unwrap_or(Answer::None))
            };
            let theirs: Vec<_> = theirs.iter().map(of_block).collect();
            if mine.fits {
                self.decide(scene, (block, &mine), &theirs, tally);
            } else {
                self.mend(scene, key, (block, &mine), theirs, tally).await;
            }
        }
    }

    /// Notes what is to be done about a block that fits its checksum and may not be what the others have.
    fn decide(
        &self,
        scene: &Scene,
        (block, mine): (u64, &Mine),
        theirs: &[(OsdId, Answer)],
        tally: &mut Tally,
    ) {
        let differs = |theirs: &Answer| {
            matches!(theirs, Answer::Copy(copy)
                if copy.fits && copy.at_rest == mine.at_rest && copy.length_bytes == mine.length_bytes
                    && copy.bytes != mine.bytes)
        };
        // Else the others have gone on meanwhile.
        if mine.at_rest.is_some() && theirs.iter().any(|(_, theirs)| differs(theirs)) {
            let verdict = judge(&self.rules, mine, theirs, scene.majority);
            self.carry_out((block, mine), verdict, tally);
        }
    }

    /// The blocks as the disk has them; none if the copy is gone.
    async fn look_at(&self, key: ObjectKey, run: Range<u64>) -> Vec<Mine> {
        let root = Arc::clone(&self.around.root);
        let look = blocking(move || {
            let Some(mut copy) = CopyFile::open(&root, key)? else {
                return Ok(Vec::new());
            };
            let mut blocks = Vec::new();
            for block in run {
                let bytes = copy.block(block)?;
                if bytes.is_none() {
                    // Else the shard would see what the kernel remembers, not what the disk has.
                    copy.forget(block)?;
                }
                blocks.push(Copy {
                    at_rest: copy.at_rest(),
                    length_bytes: copy.length_bytes(),
                    fits: bytes.is_some(),
                    bytes: bytes.unwrap_or_default(),
                });
            }
            Ok(blocks)
        });
        look.await.unwrap_or_else(|error| {
            not_read(key, &error);
            Vec::new()
        })
    }

    async fn is_sound(&self, key: ObjectKey, block: u64) -> bool {
        let look = self.look_at(key, block..block + 1).await;
        look.first().is_some_and(|now| now.fits)
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
            Mended::Sound if self.is_sound(key, block).await => {}
            Mended::By(index) => {
                tally.unfit.blocks += 1;
                if let Some(from) = sources.get(index) {
                    tally.written.push((block, true, *from));
                }
            }
            Mended::No => {
                let verdict = judge(&self.rules, mine, &theirs, scene.majority);
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
            // What was judged by another state of the object is judged anew some other day.
            Verdict::Replace { .. }
                if !tally.replacements.is_empty() && tally.position != mine.at_rest =>
            {
                ScrubOutcome::ScrubLater
            }
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
        let first = written.iter().map(|(block, ..)| *block).min().unwrap_or(0);
        let end = written
            .iter()
            .map(|(block, ..)| *block + 1)
            .max()
            .unwrap_or(0);
        let root = Arc::clone(&self.around.root);
        let unfit = blocking(move || match CopyFile::open(&root, key)? {
            Some(mut copy) => {
                copy.sync()?;
                copy.unfit(first..end).map(Some)
            }
            None => Ok(None),
        });
        let unfit = unfit.await.unwrap_or_else(|error| {
            not_read(key, &error);
            None
        });
        for (block, unfit_before, from) in written {
            let count = tally.of(unfit_before);
            match &unfit {
                Some(unfit) if !unfit.contains(&block) => {
                    count.repaired += 1;
                    count.from = Some(from);
                    self.repaired_blocks.fetch_add(1, Ordering::Relaxed);
                }
                _ => count.left(ScrubOutcome::ScrubLater),
            }
        }
    }
}

/// What another member has of some blocks. Of those it can't give together, it is asked one by one.
async fn answers(scene: &Scene, osd: OsdId, key: ObjectKey, run: Range<u64>) -> Vec<Answer> {
    let ask = |blocks: Range<u64>| {
        let inspect = peer::Inspect {
            offset: blocks.start * BLOCK_BYTES,
            length_bytes: ((blocks.end - blocks.start) * BLOCK_BYTES) as u32,
            ..peer::Inspect::default()
        };
        scene.ask(osd, key, inspect)
    };
    let mut answers = Vec::new();
    let whole = ask(run.clone()).await;
    if whole.as_ref().is_some_and(|(theirs, _)| theirs.damaged) {
        for block in run {
            answers.push(answer(ask(block..block + 1).await));
        }
        return answers;
    }
    for index in 0..run.end - run.start {
        let start = (index * BLOCK_BYTES) as usize;
        answers.push(answer(whole.as_ref().map(|(theirs, bytes)| {
            let end = bytes.len().min(start + BLOCK_BYTES as usize);
            (theirs.clone(), bytes.slice(start.min(end)..end))
        })));
    }
    answers
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
