//! One object: read, verified and compared step by step.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use osd_core::scrub::Found;
use osd_core::{ObjectKey, Position};
use proto::osd::ScrubOutcome;
use proto::peer;
use tokio::task::JoinSet;

use super::copy_file::{BLOCKS_PER_SUM, CopyFile, Run};
use super::group::Scene;
use super::repair::Tally;
use super::{Scrub, blocking, not_read, now_ms};
use crate::config::{SCRUB_OBJECT_BYTES_MIN, SCRUB_STEP_BLOCKS};
use crate::store_root::Root;

/// What a step found here.
#[derive(Debug)]
struct Step {
    at_rest: Option<Position>,
    length_bytes: u64,
    blocks: u64,
    run: Run,
    read_bytes: u64,
}

impl Scrub {
    /// Reads an object's copy here, compares it, and repairs what is wrong with it. Goes on where it was before a restart,
    /// since one object may take longer than servers run.
    pub(super) async fn object(&self, scene: &Arc<Scene>, key: ObjectKey) {
        let mut tally = Tally::default();
        let mut compared = true;
        let (mut first, mut paid) = (self.ledger().reached(key.object), 0);
        let whole = first == 0;
        loop {
            self.wait_for_rate().await;
            let root = Arc::clone(&self.around.root);
            let step = match blocking(move || read_step(&root, key, first)).await {
                Ok(Some(step)) => step,
                // Deleted meanwhile, or missing, which others know.
                Ok(None) => break,
                Err(error) => {
                    not_read(key, &error);
                    compared = false;
                    break;
                }
            };
            paid += step.read_bytes;
            self.pay(step.read_bytes);
            self.read_bytes
                .fetch_add(step.read_bytes, Ordering::Relaxed);
            self.ledger().count_bytes(step.read_bytes);
            let mut suspicious: BTreeSet<u64> = step.run.unfit.iter().copied().collect();
            let same = self
                .compare(scene, key, (first, &step), &mut suspicious)
                .await;
            compared &= same.is_some();
            for run in runs(&suspicious) {
                self.examine(scene, key, run, &mut tally).await;
            }
            self.settle(key, &mut tally).await;
            let sums_end = first / BLOCKS_PER_SUM + step.run.sums.len() as u64;
            first = (sums_end + same.unwrap_or(step.run.zero_blocks)) * BLOCKS_PER_SUM;
            self.note(key, &tally);
            if first >= step.blocks || step.run.sums.is_empty() {
                break;
            }
            self.ledger().reach(key.object, first);
            self.save_now_and_then().await;
        }
        self.pay(SCRUB_OBJECT_BYTES_MIN.saturating_sub(paid));
        tally.log(key);
        if !compared {
            self.ledger().count_uncompared();
        } else if whole {
            self.conclude(key, &tally);
        }
    }

    /// Compares the sums of a step with those of the others and adds the blocks in which they may differ. Returns how
    /// many blocks of sums behind them are zeros everywhere, if all could be compared.
    async fn compare(
        &self,
        scene: &Arc<Scene>,
        key: ObjectKey,
        (first, step): (u64, &Step),
        suspicious: &mut BTreeSet<u64>,
    ) -> Option<u64> {
        let position = step.at_rest?;
        let first_sum = first / BLOCKS_PER_SUM;
        let mut asked = JoinSet::new();
        for osd in scene.others.iter().copied() {
            let scene = Arc::clone(scene);
            let inspect = peer::Inspect {
                first_block: first_sum,
                block_count: (SCRUB_STEP_BLOCKS / BLOCKS_PER_SUM) as u32,
                ..peer::Inspect::default()
            };
            asked.spawn(async move { scene.ask(osd, key, inspect).await });
        }
        let mut zeros = Some(step.run.zero_blocks);
        let sums = &step.run.sums;
        // Members whose sum is the same as here, and whether one has another.
        let mut votes = vec![(1_usize, false); sums.len()];
        for answer in asked.join_all().await {
            let same_state = |theirs: &peer::Inspected| {
                theirs.at_rest
                    && theirs.position.map(Position::from) == Some(position)
                    && theirs.length_bytes == step.length_bytes
            };
            let Some((theirs, _)) = answer.filter(|(theirs, _)| same_state(theirs)) else {
                zeros = None;
                continue;
            };
            zeros = zeros.map(|zeros| zeros.min(theirs.zero_blocks));
            for (index, (vote, sum)) in votes.iter_mut().zip(sums).enumerate() {
                match theirs.sums.get(index) == Some(sum) {
                    true => vote.0 += 1,
                    false => vote.1 = true,
                }
            }
        }
        for (sum, (same, differs)) in (first_sum..).zip(votes) {
            let blocks = sum * BLOCKS_PER_SUM..((sum + 1) * BLOCKS_PER_SUM).min(step.blocks);
            let is_sound = suspicious.range(blocks.clone()).next().is_none();
            // A sound copy in the majority is right: whoever differs finds that out by itself.
            if differs && !(is_sound && same >= scene.majority) {
                suspicious.extend(blocks);
            }
        }
        zeros
    }

    /// Takes note of what was found so far.
    fn note(&self, key: ObjectKey, tally: &Tally) {
        for (damage, count) in tally.kinds() {
            if count.blocks > 0 {
                let found = Found {
                    outcome: count.outcome(),
                    now_ms: now_ms(),
                    blocks: count.blocks,
                    repaired: count.repaired,
                };
                self.ledger().note(key, damage, found);
            }
        }
    }

    /// What an earlier look found and this one did not is repaired.
    fn conclude(&self, key: ObjectKey, tally: &Tally) {
        let mut ledger = self.ledger();
        for (damage, count) in tally.kinds() {
            if count.blocks == 0 && is_open(ledger.outcome(key, damage)) {
                ledger.note_repaired(key, damage);
            }
        }
    }
}

/// Blocks that lie together, none of them beyond a block of sums.
fn runs(blocks: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for block in blocks.iter().copied() {
        match runs.last_mut() {
            Some(run) if run.end == block && !block.is_multiple_of(BLOCKS_PER_SUM) => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

const fn is_open(outcome: Option<ScrubOutcome>) -> bool {
    matches!(
        outcome,
        Some(
            ScrubOutcome::ScrubNoGoodCopy | ScrubOutcome::ScrubUndecided | ScrubOutcome::ScrubLater
        )
    )
}

fn read_step(root: &Root, key: ObjectKey, first: u64) -> io::Result<Option<Step>> {
    let Some(mut copy) = CopyFile::open(root, key)? else {
        return Ok(None);
    };
    let run = copy.verify(first, SCRUB_STEP_BLOCKS)?;
    Ok(Some(Step {
        at_rest: copy.at_rest(),
        length_bytes: copy.length_bytes(),
        blocks: copy.blocks(),
        run,
        read_bytes: copy.read_bytes(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_gaps_and_between_blocks_of_sums() {
        let blocks = BTreeSet::from([3, 4, 7, 15, 16, 17, 40]);

        assert_eq!(runs(&blocks), [3..5, 7..8, 15..16, 16..18, 40..41]);
    }
}
