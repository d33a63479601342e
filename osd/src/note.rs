//! The note in an object's header: which blocks may not fit their checksums in the file.
//!
//! A block is noted before it is changed for the first time since the last record, so after a crash of
//! the process all others fit, or have rotted. The note is not synced on its own. If the machine itself
//! went down meanwhile, blocks may have reached the disk that the note did not: it says in which run of
//! the machine it was written.

use std::sync::LazyLock;

use crate::block_set::{BlockSet, RANGES_MAX};
use crate::header::RECORD_SLOT_BYTES;

/// Where it lies in the file: behind the first slot's record, in one sector of 512 bytes, which is
/// written wholly or not at all.
pub(crate) const NOTE_AT: u64 = RECORD_SLOT_BYTES as u64;
/// Its room.
pub(crate) const NOTE_BYTES: usize = 384;
/// Also says the format's version. Files without it are from before there were notes.
const MAGIC: [u8; 4] = *b"NOT1";
const FIXED_BYTES: usize = MAGIC.len() + 4 + 8 + 1 + 1;
const RANGE_BYTES: usize = 16;
const _: () = assert!(FIXED_BYTES + RANGES_MAX * RANGE_BYTES <= NOTE_BYTES);

/// A run of the machine; 0: not known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct MachineBoot(pub(crate) u64);

impl MachineBoot {
    /// The present one.
    pub(crate) fn present() -> Self {
        static PRESENT: LazyLock<u64> = LazyLock::new(|| {
            let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
            let digits: String = id.unwrap_or_default().split('-').collect();
            let first = digits.get(..16).unwrap_or_default();
            u64::from_str_radix(first, 16).unwrap_or_default()
        });
        Self(*PRESENT)
    }

    /// Whether nothing that was written in the other run can have been lost: it was this one.
    pub(crate) fn is_still(self, other: Self) -> bool {
        self == other && self.0 != 0
    }
}

/// What the note says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Note {
    /// When it was written.
    pub(crate) boot: MachineBoot,
    /// The machine has gone down since the object was closed for the last time, so that blocks may be
    /// missing here.
    pub(crate) incomplete: bool,
    /// Blocks that may not fit.
    pub(crate) blocks: BlockSet,
}

impl Note {
    /// As it lies in the file, [`NOTE_BYTES`] long.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(NOTE_BYTES);
        body.extend_from_slice(&self.boot.0.to_le_bytes());
        body.push(u8::from(self.incomplete));
        body.push(self.blocks.ranges().len() as u8);
        for range in self.blocks.ranges() {
            body.extend_from_slice(&range.start.to_le_bytes());
            body.extend_from_slice(&range.end.to_le_bytes());
        }
        let mut note = Vec::with_capacity(NOTE_BYTES);
        note.extend_from_slice(&MAGIC);
        note.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        note.extend_from_slice(&body);
        note.resize(NOTE_BYTES, 0);
        note
    }

    /// The note of a header; none if there is none, or it is damaged.
    pub(crate) fn of_header(header: &[u8]) -> Option<Self> {
        let rest = header.get(NOTE_AT as usize..)?.get(..NOTE_BYTES)?;
        let (magic, rest) = rest.split_first_chunk::<4>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        let (boot, rest) = body.split_first_chunk::<8>()?;
        let ([flags @ 0..=1, count], rest) = rest.split_first_chunk::<2>()? else {
            return None;
        };
        let ranges = rest.get(..usize::from(*count) * RANGE_BYTES)?;
        let summed = body.get(..body.len() - rest.len() + ranges.len())?;
        if *magic != MAGIC || crc32c::crc32c(summed) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut blocks = BlockSet::default();
        for range in ranges.as_chunks::<RANGE_BYTES>().0 {
            let (start, end) = range.split_first_chunk::<8>()?;
            let end = end.first_chunk::<8>()?;
            blocks.add(u64::from_le_bytes(*start)..u64::from_le_bytes(*end));
        }
        Some(Self {
            boot: MachineBoot(u64::from_le_bytes(*boot)),
            incomplete: *flags == 1,
            blocks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_layout::{HEADER_BYTES, SLOT_BYTES};

    fn note(ranges: u64) -> Note {
        let mut blocks = BlockSet::default();
        for at in 0..ranges {
            blocks.add(at * 10..at * 10 + 3);
        }
        Note {
            boot: MachineBoot(77),
            incomplete: ranges % 2 == 1,
            blocks,
        }
    }

    fn header(note: &Note) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES as usize];
        let at = NOTE_AT as usize;
        header[at..at + NOTE_BYTES].copy_from_slice(&note.encode());
        header
    }

    #[test]
    fn note_is_found_as_it_was_written_and_a_damaged_one_is_none() {
        for ranges in [0, 1, RANGES_MAX as u64] {
            let sound = header(&note(ranges));
            assert_eq!(Note::of_header(&sound), Some(note(ranges)));

            let used = FIXED_BYTES + ranges as usize * RANGE_BYTES;
            for bit in 0..used * 8 {
                let mut flipped = sound.clone();
                flipped[NOTE_AT as usize + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Note::of_header(&flipped), None, "{ranges}: {bit}");
            }
        }
        assert_eq!(Note::of_header(&vec![0; HEADER_BYTES as usize]), None);
        assert_eq!(Note::of_header(&[]), None);
    }

    #[test]
    fn note_lies_in_one_sector_of_the_first_slot() {
        let (first, last) = (NOTE_AT as usize, NOTE_AT as usize + NOTE_BYTES - 1);

        assert_eq!(first / 512, last / 512);
        assert!(last < SLOT_BYTES);
    }

    #[test]
    fn run_of_the_machine_that_is_not_known_is_never_the_same() {
        assert!(MachineBoot(3).is_still(MachineBoot(3)));
        assert!(!MachineBoot(3).is_still(MachineBoot(4)));
        assert!(!MachineBoot(0).is_still(MachineBoot(0)));
    }
}
