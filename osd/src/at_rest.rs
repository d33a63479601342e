//! What of an object is at rest in its file, as its shard and the job that writes there both know it.
//!
//! Sums that a job is to write lie here until they are in the file. Whoever looks for a table of sums
//! looks into the shard's memory, then here, then into the file, and so never finds an older one; and
//! a newer one that reaches the file first takes the place of the one that waits.
//!
//! After a crash the sums in the file are right but for blocks that were being changed, which are those
//! in the [note](crate::note) and those behind the recorded length. Their sums are made anew from the
//! data group by group: by the shard when it needs one, which it does before it changes any byte of the
//! group, and by the job that is to vouch for all of them. Whoever comes first writes them to the file.
//!
//! If the note may lack blocks, all data is looked at. A block that does not fit keeps its sum, by which it
//! is mended, and is remembered, so that it is replaced when the object is brought up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use types::{BLOCK_BYTES, SUM_BYTES};

use crate::block_set::BlockSet;
use crate::config::UNFIT_MAX;
use crate::file_io::{is_no_space, read_up_to};
use crate::file_layout::Group;
use crate::note::{MachineBoot, NOTE_AT, Note};
use crate::object_file::seek_from;
use crate::sums::Table;

/// Generation, waiting sums, blocks being changed and stale groups of one object.
#[derive(Debug)]
pub(crate) struct AtRest(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of the newest record in the file.
    generation: u64,
    /// Encoded tables that a job is to write, by group.
    waiting: BTreeMap<u64, Vec<u8>>,
    /// This run of the machine.
    boot: MachineBoot,
    /// The note in the file; none if it has none that can be read.
    noted: Option<Note>,
    /// Changed since the newest job was made.
    changed: BlockSet,
    /// Changed before, and not known to be stable.
    unstable: BlockSet,
    /// Blocks from here on are not mentioned in a record, neither in the one in the file nor in that of
    /// a job, and need no note.
    recorded_end: u64,
    /// Blocks whose sums were not those of their data when the object was opened, perhaps.
    doubted: BlockSet,
    /// The note from before may have lacked some of them.
    incomplete: bool,
    /// Blocks that did not fit their sum, found while the note may lack some.
    unfit: BTreeSet<u64>,
    /// The sums of all in doubt had been made anew when the newest job was made.
    resolved: bool,
    /// Groups from the first to the last with such blocks, but for those whose sums were made anew since.
    stale: Range<u64>,
    anew: BTreeSet<u64>,
    /// The kernel may have given up some of its data for want of space.
    given_up: bool,
}

/// What a file says of an object that is being opened.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Generation of its newest record.
    pub(crate) generation: u64,
    /// Its note.
    pub(crate) note: Option<Note>,
}

impl AtRest {
    /// Of a file with this header, and whose sums are right.
    pub(crate) fn new(found: Found, boot: MachineBoot) -> Self {
        Self(Mutex::new(State {
            generation: found.generation,
            noted: found.note,
            boot,
            ..State::default()
        }))
    }

    /// Generation of the newest record in the file.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Takes note of how many blocks the record in the file is about.
    pub(crate) fn set_recorded(&self, blocks: u64) {
        self.lock().recorded_end = blocks;
    }

    /// Takes note that the object was not closed in good order: with a file of this length, sums can be
    /// believed of blocks that are recorded and not in the note.
    pub(crate) fn set_stale(&self, file_bytes: u64) {
        let mut state = self.lock();
        let state = &mut *state;
        let note = state.noted.as_ref();
        state.doubted = note.map_or_else(|| BlockSet::from(0), |note| note.blocks.clone());
        state.doubted.add_all(&BlockSet::from(state.recorded_end));
        state.incomplete =
            note.is_some_and(|note| note.incomplete || !note.boot.is_still(state.boot));
        state.stale = 0..Group::count_in(file_bytes);
        state.pass_sound();
    }

    /// Whether a block may have reached the disk although the note says nothing of it.
    pub(crate) fn is_note_incomplete(&self) -> bool {
        self.lock().incomplete
    }

    /// Those of some blocks that did not fit their sum when they were looked at.
    pub(crate) fn unfit(&self, blocks: Range<u64>) -> Vec<u64> {
        self.lock().unfit.range(blocks).copied().collect()
    }

    /// Takes note that a block fits.
    pub(crate) fn set_fit(&self, block: u64) {
        self.lock().unfit.remove(&block);
    }

    /// Notes in the file that blocks are about to be changed, unless it says so.
    pub(crate) fn note(&self, file: &File, blocks: Range<u64>) -> io::Result<()> {
        let mut state = self.lock();
        let blocks = blocks.start..blocks.end.min(state.recorded_end);
        if blocks.is_empty() || state.changed.covers(&blocks) {
            return Ok(());
        }
        state.changed.add(blocks);
        state.write_note(file)
    }

    /// Takes note that a job is made that makes stable all that was changed so far, and whose record is
    /// about so many blocks.
    pub(crate) fn job_made(&self, blocks: u64) {
        let mut state = self.lock();
        let changed = std::mem::take(&mut state.changed);
        state.unstable.add_all(&changed);
        state.resolved = state.stale.is_empty();
        // Never less: until the job is done, the record before it counts.
        state.recorded_end = state.recorded_end.max(blocks);
    }

    /// Brings the note into the file that is true before and after a job's record is written.
    pub(crate) fn write_note(&self, file: &File, job: Vouches) -> io::Result<()> {
        let mut state = self.lock();
        if job != Vouches::Nothing {
            state.unstable = BlockSet::default();
        }
        if job == Vouches::Everything || (job == Vouches::Changes && state.resolved) {
            state.doubted = BlockSet::default();
        }
        if job == Vouches::Everything {
            state.incomplete = false;
        }
        state.write_note(file)
    }

    /// Takes note that a record is in the file.
    pub(crate) fn record_written(&self, generation: u64) {
        self.lock().generation = generation;
    }

    /// Takes note that the kernel may have given up data: until the next start nothing that is recorded
    /// of the object would be true.
    pub(crate) fn give_up(&self) {
        self.lock().given_up = true;
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.lock().given_up
    }

    pub(crate) fn has_stale(&self) -> bool {
        !self.lock().stale.is_empty()
    }

    /// Leaves a table to the job that is being made.
    pub(crate) fn hand_over(&self, group: Group, sums: Vec<u8>) {
        self.lock().waiting.insert(group.0, sums);
    }

    /// Writes the tables that were handed over.
    pub(crate) fn write_waiting(&self, file: &File) -> io::Result<()> {
        loop {
            // Locked anew for each, so that the shard never waits for more than one write.
            let mut state = self.lock();
            let Some(first) = state.waiting.first_entry() else {
                return Ok(());
            };
            file.write_all_at(first.get(), Group(*first.key()).sums_at())?;
            first.remove();
        }
    }

    /// Writes a table that is newer than any.
    pub(crate) fn write_sums(&self, file: &File, group: Group, sums: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        file.write_all_at(sums, group.sums_at())?;
        state.waiting.remove(&group.0);
        Ok(())
    }

    /// Forgets the groups from this one on: the file is about to be cut before them.
    pub(crate) fn cut(&self, first_gone: Group) {
        let mut state = self.lock();
        state.waiting.split_off(&first_gone.0);
        state.stale.end = state.stale.end.min(first_gone.0);
        state.anew.split_off(&first_gone.0);
        state.pass_sound();
    }

    /// A group's table that is not in the shard's memory.
    pub(crate) fn load(&self, file: &File, group: Group) -> io::Result<Table> {
        if self.lock().is_stale(group.0) {
            self.make_anew(file, group)?;
        }
        if let Some(sums) = self.lock().waiting.get(&group.0) {
            return Ok(Table::decode(group, sums));
        }
        Ok(Table::decode(group, &read_sums(file, group)?))
    }

    /// Makes the sums of one stale group anew, if there is one.
    pub(crate) fn make_next_anew(&self, file: &File) -> io::Result<()> {
        let start = self.lock().stale.start;
        // A group without data or sums needs no look: what is written there later has its sums.
        let found = seek_from(file, Group(start).begins_at(), false)?;
        let found = found.map_or(u64::MAX, |data| Group::of_file_offset(data).0);
        let next = self.lock().pass_to(found);
        match next {
            Some(group) => self.make_anew(file, group),
            None => Ok(()),
        }
    }

    fn make_anew(&self, file: &File, group: Group) -> io::Result<()> {
        let sums = self.sums_anew(file, group)?;
        self.take_anew(file, group, sums)
    }

    /// The sums in the file, but for the blocks in doubt, whose data is what counts.
    fn sums_anew(&self, file: &File, group: Group) -> io::Result<Vec<u8>> {
        let blocks = group.blocks();
        let (doubted, incomplete) = {
            let state = self.lock();
            let doubted: Vec<_> = state.doubted.within(&blocks).collect();
            (doubted, state.incomplete)
        };
        let index = |block: u64| (block - blocks.start) as usize;
        let mut table = match *doubted == [blocks.clone()] {
            true => Table::zeroed(group),
            false => Table::decode(group, &read_sums(file, group)?),
        };
        for part in &doubted {
            sum_data(file, group, index(part.start)..index(part.end), &mut table)?;
        }
        if incomplete {
            let mut found = Table::zeroed(group);
            sum_data(file, group, 0..group.len(), &mut found)?;
            let unfit = blocks.clone().filter(|block| {
                let doubted = doubted.iter().any(|part| part.contains(block));
                !doubted && found.get(index(*block)) != table.get(index(*block))
            });
            let mut state = self.lock();
            let room = UNFIT_MAX.saturating_sub(state.unfit.len());
            state.unfit.extend(unfit.take(room));
        }
        Ok(table.encode())
    }

    fn take_anew(&self, file: &File, group: Group, sums: Vec<u8>) -> io::Result<()> {
        let mut state = self.lock();
        // If somebody else was faster, the data may have been changed since.
        if !state.is_stale(group.0) {
            return Ok(());
        }
        if read_sums(file, group)? != sums {
            match file.write_all_at(&sums, group.sums_at()) {
                Err(error) if is_no_space(&error) => {
                    state.waiting.insert(group.0, sums);
                }
                other => other?,
            }
        }
        state.anew.insert(group.0);
        state.pass_sound();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a record says of the object's blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Vouches {
    /// No more than the record before.
    Nothing,
    /// What was changed before the job was made is stable.
    Changes,
    /// That, and all sums are right.
    Everything,
}

impl State {
    fn is_stale(&self, group: u64) -> bool {
        let doubted = || self.doubted.within(&Group(group).blocks()).next().is_some();
        let all = self.incomplete;
        self.stale.contains(&group) && !self.anew.contains(&group) && (all || doubted())
    }

    /// Counts the groups before this one as sound and returns the next stale one.
    fn pass_to(&mut self, group: u64) -> Option<Group> {
        self.stale.start = self.stale.start.max(group);
        self.anew = self.anew.split_off(&group);
        self.pass_sound();
        (!self.stale.is_empty()).then_some(Group(self.stale.start))
    }

    /// Moves on to the first group that is stale.
    fn pass_sound(&mut self) {
        while !self.stale.is_empty() {
            let first = Group(self.stale.start).blocks().start;
            let next = self.doubted.next(first);
            let next = match self.incomplete {
                true => self.stale.start,
                false => next.map_or(u64::MAX, |block| Group::of_block(block).0.0),
            };
            self.stale.start = next;
            if !self.anew.remove(&next) {
                break;
            }
            self.stale.start += 1;
        }
        if self.stale.is_empty() {
            self.stale = 0..0;
            self.anew.clear();
        }
    }

    /// Writes the note unless the file has it. What was changed in vain, or is known to be stable, may be
    /// in it; what is not may not be missing.
    fn write_note(&mut self, file: &File) -> io::Result<()> {
        let mut blocks = self.changed.clone();
        blocks.add_all(&self.unstable);
        blocks.add_all(&self.doubted);
        let note = Note {
            boot: self.boot,
            incomplete: self.incomplete,
            blocks,
        };
        if self.noted.as_ref() != Some(&note) {
            // Whatever of it is in the file after an error.
            self.noted = None;
            file.write_all_at(&note.encode(), NOTE_AT)?;
            self.noted = Some(note);
        }
        Ok(())
    }
}

fn read_sums(file: &File, group: Group) -> io::Result<Vec<u8>> {
    let mut sums = vec![0; group.sums_bytes()];
    read_up_to(file, &mut sums, group.sums_at())?;
    Ok(sums)
}

/// Sets the sums of some of a group's blocks from their data.
fn sum_data(file: &File, group: Group, part: Range<usize>, table: &mut Table) -> io::Result<()> {
    let mut piece = vec![0; SUM_BYTES as usize];
    let mut index = part.start;
    while index < part.end {
        let mut at = group.data_at() + index as u64 * BLOCK_BYTES;
        let data = seek_from(file, at, false)?.unwrap_or(u64::MAX);
        let holes = data.saturating_sub(at) / BLOCK_BYTES;
        let found = index.saturating_add(usize::try_from(holes).unwrap_or(usize::MAX));
        table.clear(index..found.min(part.end));
        index = found;
        if index >= part.end {
            break;
        }
        at += holes * BLOCK_BYTES;
        let wanted = piece.len().min((part.end - index) * BLOCK_BYTES as usize);
        let Some(piece) = piece.get_mut(..wanted) else {
            break;
        };
        let read = read_up_to(file, piece, at)?;
        if let Some(rest) = piece.get_mut(read..) {
            rest.fill(0);
        }
        index = table.set_from_data(index, piece);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The job has read a group's data when the shard needs its table and changes the data.
    #[test]
    fn sums_of_data_that_was_changed_meanwhile_do_not_count() {
        let file = tempfile::tempfile().unwrap();
        let group = Group(1);
        file.write_all_at(&[1; 4096], group.data_at()).unwrap();
        let rest = AtRest::new(Found::default(), MachineBoot(1));
        rest.set_stale(file.metadata().unwrap().len());

        let late = rest.sums_anew(&file, group).unwrap();
        let before = rest.load(&file, group).unwrap().encode();
        file.write_all_at(&[2; 4096], group.data_at()).unwrap();
        let newer = rest.sums_anew(&file, group).unwrap();
        rest.write_sums(&file, group, &newer).unwrap();
        rest.take_anew(&file, group, late.clone()).unwrap();

        assert_eq!(before, late);
        assert_ne!(newer, late);
        assert_eq!(rest.load(&file, group).unwrap().encode(), newer);
    }
}
