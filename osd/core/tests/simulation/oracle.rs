//! What clients may see: every register has one writer, whose values grow, so an answer is right if
//! it is neither older than what was known to be there nor newer than what was ever asked for. One more
//! register is written by all of them.

use crate::clients::CLIENTS;
use crate::shared::SharedRegister;

/// What a disk writes as a whole.
const SECTOR_BYTES: u64 = 512;

pub(crate) const REGISTERS: usize = 6;
pub(crate) const WORDS: usize = 150;
pub(crate) const WORD_BYTES: usize = 8;
pub(crate) const REGISTER_BYTES: u64 = (WORDS * WORD_BYTES) as u64;
/// Registers lie across block and sum boundaries, and far from each other; no word lies across those of sectors,
/// where a loss of power tears it.
pub(crate) const OFFSETS: [u64; REGISTERS + 1] =
    [0, 3_904, 9_000, 65_000, 131_072, 262_000, 200_000];
/// The register that all clients write.
pub(crate) const SHARED: usize = REGISTERS;
/// Appended records and the length's register begin here.
pub(crate) const BASE: u64 = 300_000;

#[derive(Clone, Debug)]
pub(crate) struct Register {
    /// Newest value asked for.
    pub(crate) asked: u64,
    /// Newest value acknowledged since power was lost.
    pub(crate) acked: u64,
    /// Of each word: the newest value known to be there.
    pub(crate) known: Vec<u64>,
    /// The newest value acknowledged before a sync that was acknowledged.
    pub(crate) durable: u64,
    /// The newest value acknowledged to its writer, who was not told that it is lost.
    pub(crate) owed: u64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) registers: Vec<Register>,
    pub(crate) length: Register,
    pub(crate) shared: SharedRegister,
    /// Appends acknowledged since power was lost, and those before a sync.
    pub(crate) appended: Vec<Record>,
    pub(crate) durable_appends: usize,
    /// Appends acknowledged to a client that was not told that they are lost.
    pub(crate) owed_appends: Vec<(usize, Record)>,
    /// Counts losses of power: what spans one proves nothing.
    pub(crate) losses: u64,
    /// What is acknowledged may be lost at any time.
    loses: bool,
    /// What was read may be lost, what is acknowledged may not.
    reads_lose: bool,
}

/// What was known when a request was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) words: Vec<u64>,
    pub(crate) acked: Vec<u64>,
    pub(crate) length_acked: u64,
    pub(crate) appends: usize,
    pub(crate) losses: u64,
}

pub(crate) fn register_bytes(register: usize, value: u64) -> Vec<u8> {
    let word = ((register as u64 + 1) << 48 | value).to_le_bytes();
    word.repeat(WORDS)
}

/// Lengths go up and down, all different within a window.
pub(crate) fn length_of(value: u64) -> u64 {
    match value {
        0 => 0,
        value => BASE + (value * 7_919 % 997) * 512 + 77,
    }
}

impl Oracle {
    pub(crate) fn new(loses: bool, reads_lose: bool) -> Self {
        let register = Register {
            asked: 0,
            acked: 0,
            known: vec![0; WORDS],
            durable: 0,
            owed: 0,
        };
        Self {
            registers: vec![register.clone(); REGISTERS],
            length: register,
            shared: SharedRegister::default(),
            appended: Vec::new(),
            durable_appends: 0,
            owed_appends: Vec::new(),
            losses: 0,
            loses,
            reads_lose,
        }
    }

    pub(crate) fn known(&self, register: usize) -> Known {
        Known {
            words: match register {
                SHARED => Vec::new(),
                _ => self.registers[register].known.clone(),
            },
            acked: self
                .registers
                .iter()
                .map(|register| register.acked)
                .collect(),
            length_acked: self.length.known[0],
            appends: self.appended.len(),
            losses: self.losses,
        }
    }

    pub(crate) fn write_acked(&mut self, register: usize, value: u64) {
        let register = &mut self.registers[register];
        register.acked = register.acked.max(value);
        for word in &mut register.known {
            *word = (*word).max(value);
        }
    }

    pub(crate) fn length_acked(&mut self, value: u64) {
        let length = &mut self.length;
        length.acked = length.acked.max(value);
        length.known[0] = length.known[0].max(value);
    }

    /// Checks bytes read from a register.
    pub(crate) fn read(&mut self, index: usize, known: &Known, bytes: &[u8]) -> Result<(), String> {
        let lost = known.losses != self.losses || self.loses;
        let reads_lose = self.reads_lose;
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

    /// Checks the object's length.
    pub(crate) fn stat(&mut self, known: &Known, length: u64) -> Result<(), String> {
        let lost = known.losses != self.losses || self.loses;
        let least = match lost {
            true => self.length.durable.min(known.length_acked),
            false => known.length_acked,
        };
        let mut possible = (least..=self.length.asked).filter(|value| {
            // Until the first length is set, the registers make the object as long as they reach.
            length_of(*value) == length || *value == 0 && length < BASE
        });
        let Some(found) = possible.next() else {
            // Power failed while a copy was brought up to a length that was not synced: the new length was lost
            // and some of the blocks were not, of the last one perhaps only some sectors.
            let unsynced = self.length.durable < self.length.asked;
            let given = || (self.length.durable..=self.length.asked).map(length_of);
            let between = given().min() <= Some(length) && Some(length) <= given().max();
            if self.losses > 0 && unsynced && between && length.is_multiple_of(SECTOR_BYTES) {
                return Ok(());
            }
            return Err(format!(
                "length {length}: none of values {least} to {}",
                self.length.asked
            ));
        };
        if !lost && !self.reads_lose {
            self.length.known[0] = self.length.known[0].max(found);
        }
        Ok(())
    }

    pub(crate) fn append_acked(&mut self, record: Record) -> Result<(), String> {
        let end = record.offset + record.bytes.len() as u64;
        for other in &self.appended {
            let other_end = other.offset + other.bytes.len() as u64;
            if record.offset < other_end && other.offset < end {
                return Err(format!(
                    "append {:#x} at {} overlaps append {:#x} at {}",
                    record.id, record.offset, other.id, other.offset
                ));
            }
        }
        self.appended.push(record);
        Ok(())
    }

    /// A sync sent when `known` was known is acknowledged.
    pub(crate) fn synced(&mut self, known: &Known) {
        if known.losses != self.losses {
            return;
        }
        for (register, acked) in self.registers.iter_mut().zip(&known.acked) {
            register.durable = register.durable.max(*acked);
        }
        self.length.durable = self.length.durable.max(known.length_acked);
        self.durable_appends = self.durable_appends.max(known.appends);
    }

    /// Nothing is acknowledged before it is stable.
    pub(crate) fn acked_is_durable(&mut self) {
        for register in self.registers.iter_mut().chain([&mut self.length]) {
            register.durable = register.durable.max(register.acked);
        }
        self.durable_appends = self.appended.len();
    }

    /// A sync of a client is acknowledged: whatever was acknowledged to that client is there, or it
    /// would have been told, power lost or not.
    pub(crate) fn synced_by(&mut self, client: usize) -> Result<(), String> {
        let length = std::iter::once(&mut self.length).filter(|_| client == 0);
        let registers = self.registers.iter_mut().skip(client).step_by(CLIENTS);
        for register in registers.chain(length) {
            register.durable = register.durable.max(register.owed);
            register.acked = register.acked.max(register.owed);
            for word in &mut register.known {
                *word = (*word).max(register.owed);
            }
        }
        let owed = self.owed_appends.iter().filter(|(to, _)| *to == client);
        for (_, record) in owed {
            if self.appended.contains(record) {
                continue;
            }
            let end = record.offset + record.bytes.len() as u64;
            let overlaps = |other: &Record| {
                let other_end = other.offset + other.bytes.len() as u64;
                record.offset < other_end && other.offset < end
            };
            if self.appended.iter().any(overlaps) {
                return Err(format!("a sync hides the loss of append {:#x}", record.id));
            }
            self.appended.insert(0, record.clone());
            self.durable_appends += 1;
        }
        Ok(())
    }

    /// A client was told that something acknowledged to it is lost.
    pub(crate) fn told_lost(&mut self, client: usize) {
        let length = std::iter::once(&mut self.length).filter(|_| client == 0);
        let registers = self.registers.iter_mut().skip(client).step_by(CLIENTS);
        for register in registers.chain(length) {
            register.owed = register.durable;
        }
        self.owed_appends.retain(|(to, _)| *to != client);
    }

    /// Everything that was not synced may be gone, or be there in part.
    pub(crate) fn power_lost(&mut self) {
        self.losses += 1;
        self.shared.power_lost();
        for register in self.registers.iter_mut().chain([&mut self.length]) {
            register.acked = register.durable;
            register.known.fill(register.durable);
        }
        self.appended.truncate(self.durable_appends);
    }

    /// Checks a whole object.
    pub(crate) fn whole(&mut self, bytes: &[u8]) -> Result<(), String> {
        for (index, offset) in OFFSETS.into_iter().enumerate().take(REGISTERS) {
            let start = (offset as usize).min(bytes.len());
            let end = (offset + REGISTER_BYTES) as usize;
            let known = self.known(index);
            self.read(
                index,
                &known,
                &bytes[start..end.min(bytes.len()).max(start)],
            )?;
        }
        for record in &self.appended {
            let start = record.offset as usize;
            let found = bytes.get(start..start + record.bytes.len());
            if found != Some(&record.bytes[..]) {
                return Err(format!(
                    "append {:#x} at {} is gone or damaged",
                    record.id, record.offset
                ));
            }
        }
        Ok(())
    }
}
