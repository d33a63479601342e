//! What of an object is at rest in its file, as its shard and the job that writes there both know it.
//!
//! Sums that a job is to write lie here until they are in the file. Whoever looks for a table of sums
//! looks into the shard's memory, then here, then into the file, and so never finds an older one; and
//! a newer one that reaches the file first takes the place of the one that waits.
//!
//! After a crash the sums in the file are stale. They are made anew from the data group by group: by
//! the shard when it needs one, which it does before it changes any byte of the group, and by the job
//! that is to vouch for all of them. Whoever comes first writes them to the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use types::{BLOCK_BYTES, SUM_BYTES};

use crate::file_io::{is_no_space, read_up_to};
use crate::file_layout::Group;
use crate::object_file::seek_from;
use crate::sums::Table;

/// Generation, waiting sums and stale groups of one object.
#[derive(Debug)]
pub(crate) struct AtRest(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of the newest record in the file.
    generation: u64,
    /// Encoded tables that a job is to write, by group.
    waiting: BTreeMap<u64, Vec<u8>>,
    /// Groups whose sums can't be believed, but for those made anew since.
    stale: Range<u64>,
    anew: BTreeSet<u64>,
    /// The kernel may have given up some of its data for want of space.
    given_up: bool,
}

impl AtRest {
    /// Of a file whose newest record has this generation, and whose sums are right.
    pub(crate) fn new(generation: u64) -> Self {
        Self(Mutex::new(State {
            generation,
            ..State::default()
        }))
    }

    /// Generation of the newest record in the file.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Takes note that a record is in the file.
    pub(crate) fn record_written(&self, generation: u64) {
        self.lock().generation = generation;
    }

    /// Takes note that no sums in a file of this length can be believed.
    pub(crate) fn set_stale(&self, file_bytes: u64) {
        self.lock().stale = 0..Group::count_in(file_bytes);
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
        state.pass_anew();
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
        let sums = sums_of_data(file, group)?;
        self.take_anew(file, group, sums)
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
        state.pass_anew();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_stale(&self, group: u64) -> bool {
        self.stale.contains(&group) && !self.anew.contains(&group)
    }

    /// Counts the groups before this one as sound and returns the next stale one.
    fn pass_to(&mut self, group: u64) -> Option<Group> {
        self.stale.start = self.stale.start.max(group);
        self.anew = self.anew.split_off(&group);
        self.pass_anew();
        (!self.stale.is_empty()).then_some(Group(self.stale.start))
    }

    fn pass_anew(&mut self) {
        while self.anew.remove(&self.stale.start) {
            self.stale.start += 1;
        }
        if self.stale.is_empty() {
            self.stale = 0..0;
            self.anew.clear();
        }
    }
}

fn read_sums(file: &File, group: Group) -> io::Result<Vec<u8>> {
    let mut sums = vec![0; group.sums_bytes()];
    read_up_to(file, &mut sums, group.sums_at())?;
    Ok(sums)
}

fn sums_of_data(file: &File, group: Group) -> io::Result<Vec<u8>> {
    let mut table = Table::zeroed(group);
    let mut piece = vec![0; SUM_BYTES as usize];
    let mut index = 0;
    while index < group.len() {
        let mut at = group.data_at() + index as u64 * BLOCK_BYTES;
        let Some(data) = seek_from(file, at, false)? else {
            break;
        };
        let holes = data.saturating_sub(at) / BLOCK_BYTES;
        index = index.saturating_add(usize::try_from(holes).unwrap_or(usize::MAX));
        if index >= group.len() {
            break;
        }
        at += holes * BLOCK_BYTES;
        let read = read_up_to(file, &mut piece, at)?;
        if read == 0 {
            break;
        }
        if let Some(rest) = piece.get_mut(read..) {
            rest.fill(0);
        }
        index = table.set_from_data(index, &piece);
    }
    Ok(table.encode())
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
        let rest = AtRest::new(1);
        rest.set_stale(file.metadata().unwrap().len());

        let late = sums_of_data(&file, group).unwrap();
        let before = rest.load(&file, group).unwrap().encode();
        file.write_all_at(&[2; 4096], group.data_at()).unwrap();
        let newer = sums_of_data(&file, group).unwrap();
        rest.write_sums(&file, group, &newer).unwrap();
        rest.take_anew(&file, group, late.clone()).unwrap();

        assert_eq!(before, late);
        assert_ne!(newer, late);
        assert_eq!(rest.load(&file, group).unwrap().encode(), newer);
    }
}
