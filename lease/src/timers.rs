//! All timers of a host, at most one per cell, in slots of about a millisecond.
//!
//! Setting and firing a timer costs the same however many there are: it goes into the list of its
//! slot, and the tree of slots has no more entries than there are milliseconds to the last one.

use std::collections::{BTreeMap, VecDeque};

use types::{CellId, Instant};

/// log2 of the length of a slot in nanoseconds: 1.05 ms. Timers fire no earlier than they are set for,
/// whatever the slot; it only decides how many share a list.
const SLOT_BITS: u32 = 20;
/// Emptied lists kept for reuse. 64: a slot or two is filled and one emptied at a time.
const SPARE_MAX: usize = 64;

type Entry = (Instant, CellId);

/// Which cell wants to be looked at when.
///
/// A cell's timer is only ever moved forward in time by firing early and being set again, so that a
/// busy cell costs no update for each message. A timer that is moved to an earlier time leaves its
/// old entry behind, which is told apart by the time that the cell notes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    slots: BTreeMap<u64, Slot>,
    /// Taken out of their slot because they are due, oldest slot first.
    due: VecDeque<Entry>,
    /// Entries that stand for a cell's present timer.
    live: usize,
    /// All entries.
    entries: usize,
    spare: Vec<Vec<Entry>>,
}

#[derive(Clone, Debug)]
struct Slot {
    /// The earliest time in the list.
    first: Instant,
    list: Vec<Entry>,
}

impl Timers {
    /// Makes sure that `cell` is looked at no later than `at`; `current` is its present timer.
    pub(crate) fn set(&mut self, cell: CellId, current: &mut Option<Instant>, at: Instant) {
        match *current {
            Some(earlier) if earlier <= at => return,
            Some(_) => {}
            None => self.live += 1,
        }
        *current = Some(at);
        self.entries += 1;
        let slot = self
            .slots
            .entry(at.as_nanos() >> SLOT_BITS)
            .or_insert_with(|| Slot {
                first: at,
                list: self.spare.pop().unwrap_or_default(),
            });
        slot.first = slot.first.min(at);
        slot.list.push((at, cell));
    }

    /// Takes a timer that is due. It counts if it is the cell's present one: see [`Self::fired`].
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Entry> {
        while self.due.is_empty() {
            let mut first = self.slots.first_entry()?;
            let slot = first.get_mut();
            if slot.first > now {
                return None;
            }
            let due = &mut self.due;
            slot.list.retain(|entry| {
                let stays = entry.0 > now;
                if !stays {
                    due.push_back(*entry);
                }
                stays
            });
            // In order of time, so that what happens does not depend on how the list came about.
            due.make_contiguous().sort_unstable();
            match slot.list.iter().map(|(at, _)| *at).min() {
                Some(earliest) => slot.first = earliest,
                None => {
                    let list = first.remove().list;
                    if self.spare.len() < SPARE_MAX {
                        self.spare.push(list);
                    }
                }
            }
        }
        self.entries -= 1;
        self.due.pop_front()
    }

    /// Whether an entry that was taken is its cell's present timer, which thereby has fired.
    pub(crate) fn fired(&mut self, at: Instant, current: &mut Option<Instant>) -> bool {
        let present = *current == Some(at);
        if present {
            self.live -= 1;
            *current = None;
        }
        present
    }

    /// A time at or before the next timer; later than now if nothing is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let due = self.due.front().map(|(at, _)| *at);
        due.or_else(|| self.slots.first_key_value().map(|(_, slot)| slot.first))
    }

    /// Cells with a timer.
    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    /// Whether so many entries were left behind that they should be swept out.
    pub(crate) const fn is_littered(&self) -> bool {
        self.entries > 2 * self.live + SWEEP_MIN
    }

    /// Removes what was left behind.
    pub(crate) fn sweep(&mut self, is_present: impl Fn(&Entry) -> bool) {
        self.due.retain(&is_present);
        self.slots.retain(|_, slot| {
            slot.list.retain(&is_present);
            !slot.list.is_empty()
        });
        let lists = self.slots.values().map(|slot| slot.list.len());
        self.entries = lists.sum::<usize>() + self.due.len();
    }
}

/// Entries left behind that are not worth a sweep: some 300 KB.
const SWEEP_MIN: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: CellId = CellId(7);

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    /// Takes all that count.
    fn pop_all(timers: &mut Timers, now: Instant, current: &mut Option<Instant>) -> usize {
        let mut fired = 0;
        while let Some((at, _)) = timers.pop(now) {
            fired += usize::from(timers.fired(at, current));
        }
        fired
    }

    #[test]
    fn a_cell_has_one_timer_that_only_gets_earlier() {
        let mut timers = Timers::default();
        let mut current = None;

        timers.set(CELL, &mut current, at(50));
        timers.set(CELL, &mut current, at(90));
        timers.set(CELL, &mut current, at(20));

        assert_eq!(timers.len(), 1);
        assert_eq!(timers.next(), Some(at(20)));
        assert_eq!(timers.pop(at(19)), None);
        assert_eq!(pop_all(&mut timers, at(100), &mut current), 1);
        assert_eq!(timers.next(), None);
        assert_eq!(timers.len(), 0);
    }

    #[test]
    fn no_timer_fires_early_or_is_forgotten_whatever_its_slot() {
        let mut timers = Timers::default();
        let times: Vec<u64> = (0..200)
            .map(|step| step * step * 300_007 % 40_000_000)
            .collect();
        for (cell, time) in times.iter().enumerate() {
            timers.set(CellId(cell as u128), &mut None, at(*time));
        }

        let mut fired = 0;
        while let Some(next) = timers.next() {
            if let Some(before) = next.as_nanos().checked_sub(1) {
                assert_eq!(timers.pop(at(before)), None);
            }
            while let Some((time, cell)) = timers.pop(next) {
                assert_eq!(time, at(times[cell.0 as usize]));
                assert!(time <= next);
                fired += 1;
            }
        }

        assert_eq!(fired, times.len());
    }

    #[test]
    fn entries_left_behind_are_swept_out() {
        let mut timers = Timers::default();
        let mut current = None;
        let mut time = 1 << 40;
        while !timers.is_littered() {
            time -= 1;
            timers.set(CELL, &mut current, at(time));
        }

        let present = current;
        timers.sweep(|(at, _)| Some(*at) == present);

        assert!(!timers.is_littered());
        assert_eq!(timers.len(), 1);
        assert_eq!(pop_all(&mut timers, at(1 << 40), &mut current), 1);
        assert_eq!(timers.next(), None);
    }
}
