//! Slots of a session: each carries one change at a time, so that a repeated one is recognised.
//!
//! Source: NFSv4.1, RFC 8881 section 2.10.6. A change keeps its slot and sequence number through
//! every repetition; the slot is used again only after its outcome is known.

/// A slot taken for one change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Its number in the session.
    pub number: u32,
    /// Grows by one with every change sent in the slot, from 1.
    pub seq: u64,
}

/// The free slots of a session.
#[derive(Debug)]
pub struct Slots {
    /// Slots with the sequence number used last. The one freed last is taken first: the fewer
    /// slots are ever used, the fewer replies the metadata cluster keeps.
    free: Vec<Slot>,
}

impl Slots {
    /// All slots of a new session.
    #[must_use]
    pub fn new(count: u32) -> Self {
        Self {
            free: (0..count)
                .rev()
                .map(|number| Slot { number, seq: 0 })
                .collect(),
        }
    }

    /// A slot for a new change, if one is free.
    pub fn take(&mut self) -> Option<Slot> {
        let mut slot = self.free.pop()?;
        slot.seq += 1;
        Some(slot)
    }

    /// The outcome of the change in the slot is known.
    pub fn give_back(&mut self, slot: Slot) {
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_used_by_one_change_at_a_time_with_growing_numbers() {
        let mut slots = Slots::new(2);

        let first = slots.take().unwrap();
        let second = slots.take().unwrap();

        assert_ne!(first.number, second.number);
        assert_eq!(slots.take(), None);
        slots.give_back(first);
        assert_eq!(
            slots.take(),
            Some(Slot {
                number: first.number,
                seq: first.seq + 1
            })
        );
    }
}
