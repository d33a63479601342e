//! Record slots in the header block of an object's file.
//!
//! Two slots are written in turn, each with its own checksum: a write torn by power failure leaves
//! the record before it. A slot names its object, so that a file put in the wrong place is noticed.
//! Behind the record in the first slot lies the [note](crate::note) of blocks being changed.

use types::{Inode, ObjectId, VolumeId};

use crate::file_layout::SLOT_BYTES;

/// Also says the format's version; another one is not recognised.
const MAGIC: [u8; 8] = *b"OXFSOBJ1";
const CRC_AT: usize = MAGIC.len();
const FRAME_BYTES: usize = CRC_AT + 4 + 8 + 8 + 8 + 4 + 2;
/// Part of a slot that the record takes. 1152: the longest fits, and the rest of the first slot is the
/// note's.
pub(crate) const RECORD_SLOT_BYTES: usize = 1152;
/// At the end of that part: the file is as long as its object. Files without it are from before it was said.
const FULL: [u8; 4] = *b"FULL";
const FULL_BYTES: usize = FULL.len() + 4;
const FULL_AT: usize = RECORD_SLOT_BYTES - FULL_BYTES;
/// Longest record.
pub(crate) const RECORD_MAX_BYTES: usize = FULL_AT - FRAME_BYTES;

/// A valid slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Slot {
    /// Grows by one with every record written; the higher of two valid slots counts.
    pub(crate) generation: u64,
    /// The record, encoded.
    pub(crate) record: Vec<u8>,
    /// When it was written, the file had the length that belongs to the object's: one that is shorter was cut.
    pub(crate) full: bool,
}

/// What the two slots of a header say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Header {
    /// Nothing was ever written: the object was made, but never synced.
    Blank,
    /// No slot is valid, and it is not blank.
    Damaged,
    /// The newest valid slot.
    Valid(Slot),
}

impl Slot {
    /// As it lies in the file, [`RECORD_SLOT_BYTES`] long; none if the record is too long.
    pub(crate) fn encode(&self, object: ObjectId) -> Option<Vec<u8>> {
        if self.record.len() > RECORD_MAX_BYTES {
            return None;
        }
        let length = u16::try_from(self.record.len()).ok()?;
        let mut body = Vec::with_capacity(RECORD_SLOT_BYTES);
        body.extend_from_slice(&self.generation.to_le_bytes());
        body.extend_from_slice(&object.volume.0.to_le_bytes());
        body.extend_from_slice(&object.inode.0.to_le_bytes());
        body.extend_from_slice(&object.column.to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&self.record);
        let mut slot = Vec::with_capacity(RECORD_SLOT_BYTES);
        slot.extend_from_slice(&MAGIC);
        slot.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        slot.extend_from_slice(&body);
        slot.resize(FULL_AT, 0);
        if self.full {
            slot.extend_from_slice(&full_tag(self.generation));
        }
        slot.resize(RECORD_SLOT_BYTES, 0);
        Some(slot)
    }

    /// Where it belongs in the file.
    pub(crate) const fn file_offset(&self) -> u64 {
        (self.generation % 2) * SLOT_BYTES as u64
    }

    fn decode(object: ObjectId, slot: &[u8]) -> Option<Self> {
        fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
            let (head, rest) = from.split_first_chunk::<N>()?;
            *from = rest;
            Some(*head)
        }
        let mut rest = slot;
        if take::<8>(&mut rest)? != MAGIC {
            return None;
        }
        let crc = u32::from_le_bytes(take(&mut rest)?);
        let body = rest;
        let generation = u64::from_le_bytes(take(&mut rest)?);
        let found = ObjectId {
            volume: VolumeId(u64::from_le_bytes(take(&mut rest)?)),
            inode: Inode(u64::from_le_bytes(take(&mut rest)?)),
            column: u32::from_le_bytes(take(&mut rest)?),
        };
        let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let record = rest.get(..length)?.to_vec();
        let summed = body.get(..body.len() - rest.len() + length)?;
        let full = slot.get(FULL_AT..RECORD_SLOT_BYTES) == Some(&full_tag(generation)[..]);
        (crc32c::crc32c(summed) == crc && found == object).then_some(Self {
            generation,
            record,
            full,
        })
    }
}

fn full_tag(generation: u64) -> [u8; FULL_BYTES] {
    let [a, b, c, d] = FULL;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&FULL), &generation.to_le_bytes());
    let [e, f, g, h] = sum.to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

impl Header {
    /// Reads both slots from the beginning of a file.
    pub(crate) fn decode(object: ObjectId, header: &[u8]) -> Self {
        let slots = header.get(..2 * SLOT_BYTES).unwrap_or(header);
        let records = || {
            slots
                .chunks(SLOT_BYTES)
                .flat_map(|slot| slot.iter().take(RECORD_SLOT_BYTES))
        };
        if records().all(|byte| *byte == 0) {
            return Self::Blank;
        }
        slots
            .chunks(SLOT_BYTES)
            .filter_map(|slot| Slot::decode(object, slot))
            .max_by_key(|slot| slot.generation)
            .map_or(Self::Damaged, Self::Valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: ObjectId = ObjectId {
        volume: VolumeId(1),
        inode: Inode(42),
        column: 0,
    };

    fn slot(generation: u64) -> Slot {
        Slot {
            generation,
            record: vec![generation as u8; 100],
            full: generation % 2 == 1,
        }
    }

    fn header(slots: &[Slot]) -> Vec<u8> {
        let mut header = vec![0; 2 * SLOT_BYTES];
        for slot in slots {
            let at = slot.file_offset() as usize;
            header[at..at + RECORD_SLOT_BYTES].copy_from_slice(&slot.encode(OBJECT).unwrap());
        }
        header
    }

    #[test]
    fn newest_slot_counts_and_slots_take_turns() {
        let bytes = header(&[slot(4), slot(5)]);

        assert_ne!(slot(4).file_offset(), slot(5).file_offset());
        assert_eq!(Header::decode(OBJECT, &bytes), Header::Valid(slot(5)));
    }

    #[test]
    fn torn_slot_leaves_the_one_before_it() {
        let sound = header(&[slot(4), slot(5)]);

        // The write of slot 5 stopped after each possible sector.
        for sectors in 0..3 {
            let mut torn = sound.clone();
            let cut = slot(5).file_offset() as usize + sectors * 512;
            torn[cut..cut + 140].fill(0xee);
            let found = Header::decode(OBJECT, &torn);
            let mut expected = if sectors == 0 { slot(4) } else { slot(5) };
            // In which the file's length is vouched for.
            expected.full &= sectors != 2;
            assert_eq!(found, Header::Valid(expected), "{sectors} sectors");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let sound = header(&[slot(4)]);

        for bit in 0..(FRAME_BYTES + 100) * 8 {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(OBJECT, &flipped), Header::Damaged, "{bit}");
        }
    }

    #[test]
    fn blank_foreign_and_short_headers_are_told_apart() {
        let other = ObjectId {
            inode: Inode(43),
            ..OBJECT
        };
        let sound = header(&[slot(2)]);

        assert_eq!(Header::decode(OBJECT, &[]), Header::Blank);
        assert_eq!(Header::decode(OBJECT, &header(&[])), Header::Blank);
        assert_eq!(Header::decode(other, &sound), Header::Damaged);
        assert_eq!(Header::decode(OBJECT, &sound[..9]), Header::Damaged);
        let long = Slot {
            generation: 1,
            record: vec![0; RECORD_MAX_BYTES + 1],
            full: false,
        };
        assert_eq!(long.encode(OBJECT), None);
    }
}
