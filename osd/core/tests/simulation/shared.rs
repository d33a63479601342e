//! A register that several clients write, each value once.
//!
//! A value has taken effect at the latest when its write is answered or a read shows it. A write that began
//! after that replaces it; so once the later write has taken effect, nobody who asks then may see the earlier
//! value again. That holds in every linearizable history, and a write that is done twice breaks it.

use crate::oracle::{SHARED, WORD_BYTES, WORDS};

#[derive(Clone, Copy, Debug)]
struct Written {
    begun_at: u64,
    /// When it is known to have taken effect; none if it is not.
    effective_at: Option<u64>,
    /// Its client has the answer: it is not asked for any more.
    answered: bool,
    /// Power was lost before: its bytes may have survived and what says that it was done not, so that it is
    /// done once more.
    may_come_again: bool,
}

/// What is known of it.
#[derive(Debug)]
pub(crate) struct SharedRegister {
    /// By value; the first one stands for what is there before any write.
    written: Vec<Written>,
    /// Power was lost: a value may be there in part.
    lost: bool,
}

impl Default for SharedRegister {
    fn default() -> Self {
        let nothing = Written {
            begun_at: 0,
            effective_at: Some(0),
            answered: true,
            may_come_again: false,
        };
        Self {
            written: vec![nothing],
            lost: false,
        }
    }
}

impl SharedRegister {
    /// A new value, asked for from now on.
    pub(crate) fn ask(&mut self, now: u64) -> u64 {
        self.written.push(Written {
            begun_at: now,
            effective_at: None,
            answered: false,
            may_come_again: false,
        });
        self.written.len() as u64 - 1
    }

    /// The write of a value is answered.
    pub(crate) fn answered(&mut self, value: u64, now: u64) {
        self.took_effect(value, now);
        if let Some(written) = self.written.get_mut(value as usize) {
            written.answered = true;
        }
    }

    fn took_effect(&mut self, value: u64, now: u64) {
        if let Some(written) = self.written.get_mut(value as usize) {
            written.effective_at.get_or_insert(now);
        }
    }

    /// Checks what a read shows that began and ended at these times.
    pub(crate) fn read(
        &mut self,
        (begun_at, now): (u64, u64),
        bytes: &[u8],
        lost: bool,
    ) -> Result<(), String> {
        let mut padded = bytes.to_vec();
        padded.resize(WORDS * WORD_BYTES, 0);
        let words = padded.as_chunks::<WORD_BYTES>().0.iter();
        let mut words = words.map(|word| u64::from_le_bytes(*word));
        let word = words.next().unwrap_or_default();
        if words.any(|other| other != word) {
            return match self.lost || lost {
                true => Ok(()),
                false => Err("the shared register has parts of two values".to_owned()),
            };
        }
        let value = word & ((1 << 48) - 1);
        let right = word == 0 || word >> 48 == SHARED as u64 + 1;
        let Some(read) = self.written.get(value as usize).filter(|_| right).copied() else {
            return Err(format!(
                "the shared register has {word:#x}, which nobody wrote"
            ));
        };
        if lost || read.may_come_again {
            return Ok(());
        }
        let later = self.written.iter().find(|other| {
            let effective = other.effective_at.is_some_and(|at| at < begun_at);
            effective && read.effective_at.is_some_and(|at| at < other.begun_at)
        });
        if let Some(later) = later {
            return Err(format!(
                "the shared register has value {value} again: {read:?}, replaced by {later:?}, \
                 read since {begun_at}"
            ));
        }
        self.took_effect(value, now);
        Ok(())
    }

    /// Everything may be as it was at any time before.
    pub(crate) fn power_lost(&mut self) {
        self.lost = true;
        for written in &mut self.written {
            written.effective_at = None;
            written.may_come_again |= !written.answered;
        }
    }
}
