//! What may be read of one file: each register has one writer, whose values grow, so an answer is
//! right if it is neither older than what was known to be there nor newer than what was asked for.
//! Appended records are each there once, wherever they were said to be.

use std::collections::BTreeMap;

use types::SUM_BYTES;

/// Registers of a file; register `r` belongs to mount `r % MOUNTS`.
pub(crate) const REGISTERS: usize = 6;
/// Mounts of a run.
pub(crate) const MOUNTS: usize = 3;
const WORDS: usize = 150;
const WORD_BYTES: usize = 8;
pub(crate) const REGISTER_BYTES: u64 = (WORDS * WORD_BYTES) as u64;
/// Across the boundaries of blocks and sums, but with no word across those of sectors.
pub(crate) const OFFSETS: [u64; REGISTERS] = [0, 3_904, 9_000, 13_000, 65_000, 67_000];
/// The length's register begins here.
const BASE: u64 = 70_000;

/// A value with one writer.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    /// Newest value asked for.
    pub(crate) asked: u64,
    /// Newest value acknowledged since power was lost.
    acked: u64,
    /// Of each word: the newest value known to be there.
    known: Vec<u64>,
    /// Newest value acknowledged before an acknowledged sync.
    durable: u64,
    /// Newest value acknowledged to its writer, who still has the file open and was told of no loss.
    owed: u64,
}

/// An appended record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) offset: u64,
    pub(crate) words: usize,
}

impl Record {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.id.to_le_bytes().repeat(self.words)
    }

    fn end(&self) -> u64 {
        self.offset + (self.words * WORD_BYTES) as u64
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// What was known when something was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    words: Vec<u64>,
    acked: Vec<u64>,
    length: u64,
    appends: usize,
    pub(crate) losses: u64,
}

/// What a run promises of contents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keeps {
    /// What is acknowledged may be lost at any time, before it is synced (`async`).
    pub(crate) loses: bool,
    /// What was read may be lost, what is acknowledged may not.
    pub(crate) reads_lose: bool,
    /// What is acknowledged survives the loss of power (`fullsync`).
    pub(crate) is_stable: bool,
}

/// One file's content as a reference.
#[derive(Debug)]
pub(crate) struct Content {
    /// Records are appended to it, instead of values being written.
    pub(crate) log: bool,
    registers: Vec<Register>,
    length: Register,
    appended: Vec<Record>,
    durable_appends: usize,
    owed_appends: Vec<(usize, Record)>,
    /// Words of each record that anybody asked to append.
    asked_appends: BTreeMap<u64, usize>,
    /// Losses of power everywhere; what spans one proves nothing.
    losses: u64,
    keeps: Keeps,
}

pub(crate) fn register_bytes(register: usize, value: u64) -> Vec<u8> {
    let word = ((register as u64 + 1) << 48 | value).to_le_bytes();
    word.repeat(WORDS)
}

/// Lengths go up and down, all different within a window.
pub(crate) const fn length_of(value: u64) -> u64 {
    match value {
        0 => 0,
        value => BASE + (value * 7_919 % 997) * 64 + 77,
    }
}

impl Content {
    pub(crate) fn new(log: bool, losses: u64, keeps: Keeps) -> Self {
        let register = Register {
            asked: 0,
            acked: 0,
            known: vec![0; WORDS],
            durable: 0,
            owed: 0,
        };
        Self {
            log,
            registers: vec![register.clone(); REGISTERS],
            length: register,
            appended: Vec::new(),
            durable_appends: 0,
            owed_appends: Vec::new(),
            asked_appends: BTreeMap::new(),
            losses,
            keeps,
        }
    }

    /// Whether what was known then may be lost by now, though it was acknowledged.
    const fn lost_since(&self, known: &Known) -> bool {
        known.losses != self.losses || self.keeps.loses
    }

    /// Nothing is acknowledged before it is stable.
    fn acked_is_durable(&mut self) {
        if !self.keeps.is_stable {
            return;
        }
        for register in self.registers.iter_mut().chain([&mut self.length]) {
            register.durable = register.durable.max(register.acked);
        }
        self.durable_appends = self.appended.len();
    }

    pub(crate) fn known(&self, register: usize) -> Known {
        Known {
            words: self.registers[register].known.clone(),
            acked: self.registers.iter().map(|one| one.acked).collect(),
            length: self.length.known[0],
            appends: self.appended.len(),
            losses: self.losses,
        }
    }

    pub(crate) fn ask(&mut self, register: usize) -> u64 {
        let register = &mut self.registers[register];
        register.asked += 1;
        register.asked
    }

    pub(crate) const fn ask_length(&mut self) -> u64 {
        self.length.asked += 1;
        self.length.asked
    }

    pub(crate) fn ask_append(&mut self, id: u64, words: usize) {
        self.asked_appends.insert(id, words);
    }

    /// An append that failed may have been done in part.
    pub(crate) fn gives_up(&mut self, id: u64) {
        self.asked_appends.remove(&id);
    }

    pub(crate) fn appended(&self) -> &[Record] {
        &self.appended
    }

    pub(crate) fn write_acked(&mut self, register: usize, value: u64, known: &Known) {
        let lost = self.lost_since(known);
        let register = &mut self.registers[register];
        register.owed = value;
        if !lost {
            register.acked = register.acked.max(value);
            for word in &mut register.known {
                *word = (*word).max(value);
            }
            self.acked_is_durable();
        }
    }

    pub(crate) fn length_acked(&mut self, value: u64, known: &Known) {
        self.length.owed = value;
        if !self.lost_since(known) {
            self.length.acked = self.length.acked.max(value);
            self.length.known[0] = self.length.known[0].max(value);
            self.acked_is_durable();
        }
    }

    pub(crate) fn append_acked(
        &mut self,
        mount: usize,
        record: Record,
        known: &Known,
    ) -> Result<(), String> {
        self.owed_appends.push((mount, record.clone()));
        if self.lost_since(known) {
            return Ok(());
        }
        if let Some(other) = self.appended.iter().find(|other| other.overlaps(&record)) {
            return Err(format!("appends {record:?} and {other:?} overlap"));
        }
        self.appended.push(record);
        self.acked_is_durable();
        Ok(())
    }

    /// Checks bytes read from a register.
    pub(crate) fn read(&mut self, index: usize, known: &Known, bytes: &[u8]) -> Result<(), String> {
        let lost = self.lost_since(known);
        let reads_lose = self.keeps.reads_lose;
        let register = &mut self.registers[index];
        let mut padded = bytes.to_vec();
        padded.resize(WORDS * WORD_BYTES, 0);
        for (at, word) in padded.as_chunks::<WORD_BYTES>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            let value = word & ((1 << 48) - 1);
            let right = word == 0 || word >> 48 == index as u64 + 1;
            let least = match lost {
                true => register.durable.min(known.words[at]),
                false => known.words[at],
            };
            if !right || value > register.asked || value < least {
                return Err(format!(
                    "register {index} word {at}: read {word:#x}, must be between {least} and {}",
                    register.asked
                ));
            }
            if !lost && !reads_lose {
                register.known[at] = register.known[at].max(value);
            }
        }
        Ok(())
    }

    /// Checks a record read where it was said to be.
    pub(crate) fn read_record(
        &self,
        record: &Record,
        known: &Known,
        bytes: &[u8],
    ) -> Result<(), String> {
        let still = self.appended.contains(record) && !self.lost_since(known);
        match still && bytes != record.bytes() {
            true => Err(format!("{record:?} is not read as appended")),
            false => Ok(()),
        }
    }

    /// Checks the object's length.
    pub(crate) fn stat(&mut self, known: &Known, length: u64) -> Result<(), String> {
        if self.log {
            return Ok(());
        }
        let lost = self.lost_since(known);
        let least = match lost {
            true => self.length.durable.min(known.length),
            false => known.length,
        };
        let mut possible = (least..=self.length.asked).filter(|value| {
            // Until the first length is set, the registers make the object as long as they reach.
            length_of(*value) == length || *value == 0 && length < BASE
        });
        let Some(found) = possible.next() else {
            // Power failed while a copy was brought up to a length that was not synced: the new length was lost
            // and some of the blocks were not.
            let unsynced = self.length.durable < self.length.asked;
            let given = || (self.length.durable..=self.length.asked).map(length_of);
            let between = given().min() <= Some(length) && Some(length) <= given().max();
            if self.losses > 0 && unsynced && between && length.is_multiple_of(SUM_BYTES) {
                return Ok(());
            }
            return Err(format!(
                "length {length}: none of values {least} to {}",
                self.length.asked
            ));
        };
        if !lost && !self.keeps.reads_lose {
            self.length.known[0] = self.length.known[0].max(found);
        }
        Ok(())
    }

    /// A sync asked when `known` was known is acknowledged to a mount.
    pub(crate) fn synced(&mut self, mount: usize, known: &Known) -> Result<(), String> {
        if !self.lost_since(known) {
            for (register, acked) in self.registers.iter_mut().zip(&known.acked) {
                register.durable = register.durable.max(*acked);
            }
            self.length.durable = self.length.durable.max(known.length);
            self.durable_appends = self.durable_appends.max(known.appends);
        }
        // Whatever was acknowledged to it is there, or it would have been told.
        for register in self.registers_of(mount) {
            register.durable = register.durable.max(register.owed);
            register.acked = register.acked.max(register.owed);
            for word in &mut register.known {
                *word = (*word).max(register.owed);
            }
        }
        let owed = self.owed_appends.iter().filter(|(to, _)| *to == mount);
        for (_, record) in owed {
            if self.appended.contains(record) {
                continue;
            }
            if self.appended.iter().any(|other| other.overlaps(record)) {
                return Err(format!("a sync hides the loss of {record:?}"));
            }
            self.appended.insert(0, record.clone());
            self.durable_appends += 1;
        }
        Ok(())
    }

    fn registers_of(&mut self, mount: usize) -> impl Iterator<Item = &mut Register> {
        let length = std::iter::once(&mut self.length).filter(move |_| mount == 0);
        self.registers
            .iter_mut()
            .skip(mount)
            .step_by(MOUNTS)
            .chain(length)
    }

    /// A mount was told of a loss, or has closed the file: from now on nobody will tell it.
    pub(crate) fn owes_nothing(&mut self, mount: usize) {
        for register in self.registers_of(mount) {
            register.owed = register.durable;
        }
        self.owed_appends.retain(|(to, _)| *to != mount);
    }

    /// Everything that was not synced may be gone, or be there in part.
    pub(crate) fn power_lost(&mut self) {
        self.losses += 1;
        for register in self.registers.iter_mut().chain([&mut self.length]) {
            register.acked = register.durable;
            register.known.fill(register.durable);
        }
        self.appended.truncate(self.durable_appends);
    }

    /// Checks a whole object.
    pub(crate) fn whole(&mut self, bytes: &[u8]) -> Result<(), String> {
        let registers = if self.log { &[][..] } else { &OFFSETS };
        for (index, offset) in registers.iter().copied().enumerate() {
            let start = (offset as usize).min(bytes.len());
            let end = ((offset + REGISTER_BYTES) as usize).min(bytes.len());
            let known = self.known(index);
            self.read(index, &known, &bytes[start..end.max(start)])?;
        }
        for record in &self.appended {
            let start = record.offset as usize;
            let found = bytes.get(start..record.end() as usize);
            if found != Some(&record.bytes()[..]) {
                return Err(format!("{record:?} is gone or damaged"));
            }
        }
        if self.log && self.losses == 0 && !self.keeps.loses {
            let mut found = BTreeMap::<u64, usize>::new();
            for word in bytes.as_chunks::<WORD_BYTES>().0 {
                *found.entry(u64::from_le_bytes(*word)).or_default() += 1;
            }
            for (id, words) in &self.asked_appends {
                let count = found.get(id).copied().unwrap_or(0);
                if count != 0 && count != *words {
                    return Err(format!(
                        "append {id} of {words} words is there {count} long"
                    ));
                }
            }
        }
        Ok(())
    }
}
