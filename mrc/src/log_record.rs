//! Bytes of the log on disk: segment headers and records.
//!
//! Every checksum is salted with its segment's number, so that what an older use of the same file
//! left behind is never taken for a record. A record also tells how far its segment was known to
//! be on stable storage when it was written: a broken record in front of that point is damage, one
//! behind it is what a crash left of writes that nobody had been promised. Of the last batch a mark
//! behind it tells the same; the next batch is written over it.

use bytes::{BufMut, Bytes};
use openraft::entry::RaftEntry;

use crate::consensus::{Entry, LeaderId, LogId, Membership, Payload, Proposal};

/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: u64 = 64;
/// Bytes of a record without its payload.
const RECORD_BYTES: usize = 48;
/// Bytes of a mark, as long as the shortest record: whatever is written over it covers it.
pub(crate) const MARK_BYTES: usize = RECORD_BYTES;
/// Records start at multiples of this, so that a scan for records knows where to look.
const ALIGN: usize = 8;

const SEGMENT_MAGIC: &[u8; 8] = b"OXFSLOG1";
/// The last byte of it: which format a segment has.
pub(crate) const SEGMENT_FORMAT: u8 = SEGMENT_MAGIC[7];
const RECORD_MAGIC: u32 = 0x4c52_584f;

const KIND_BLANK: u8 = 1;
const KIND_COMMAND: u8 = 2;
const KIND_MEMBERSHIP: u8 = 3;
/// No entry: it tells that everything in front of it is on stable storage.
const KIND_MARK: u8 = 4;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SegmentHeader {
    /// Grows with every segment of this log; never used twice.
    pub number: u64,
    /// Index of its first record.
    pub first_index: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
        bytes.put_slice(SEGMENT_MAGIC);
        bytes.put_u64_le(self.number);
        bytes.put_u64_le(self.first_index);
        let sum = crc32c::crc32c(&bytes);
        bytes.put_u32_le(sum);
        bytes.resize(HEADER_BYTES as usize, 0);
        bytes
    }

    /// The format of a whole header that this release does not know.
    pub(crate) fn newer_format(bytes: &[u8]) -> Option<u8> {
        let (body, rest) = bytes.split_at_checked(24)?;
        let (name, format) = (SEGMENT_MAGIC.get(..7)?, *body.get(7)?);
        let whole = crc32c::crc32c(body) == u32::from_le_bytes(*rest.first_chunk()?);
        let newer = body.starts_with(name) && !body.starts_with(SEGMENT_MAGIC);
        (whole && newer).then_some(format)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, rest) = bytes.split_at_checked(24)?;
        let sum = u32::from_le_bytes(*rest.first_chunk()?);
        if !body.starts_with(SEGMENT_MAGIC) || crc32c::crc32c(body) != sum {
            return None;
        }
        Some(Self {
            number: u64_at(body, 8)?,
            first_index: u64_at(body, 16)?,
        })
    }
}

/// A record found in a segment.
#[derive(Debug)]
pub(crate) struct Record {
    pub entry: Entry,
    /// Bytes from its first to the next record's first.
    pub length: u32,
}

/// Appends the record of `entry` to `out` and returns its length.
///
/// # Errors
///
/// A membership that does not encode.
pub(crate) fn encode(
    entry: &Entry,
    segment: u64,
    stable: u32,
    out: &mut Vec<u8>,
) -> Result<u32, postcard::Error> {
    let (kind, payload) = match &entry.payload {
        Payload::Blank => (KIND_BLANK, Bytes::new()),
        Payload::Normal(proposal) => (KIND_COMMAND, proposal.0.clone()),
        Payload::Membership(membership) => {
            (KIND_MEMBERSHIP, postcard::to_stdvec(membership)?.into())
        }
    };
    Ok(put(entry.log_id, (kind, &payload), (segment, stable), out))
}

/// The mark that lies at `stable` when everything in front of it is on stable storage.
pub(crate) fn mark(segment: u64, stable: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(MARK_BYTES);
    let nobody = LeaderId {
        term: 0,
        node_id: 0,
    };
    put(
        LogId::new(nobody, 0),
        (KIND_MARK, &[]),
        (segment, stable),
        &mut out,
    );
    out
}

/// Whether the bytes of a segment from `offset` on are the mark of that place.
pub(crate) fn is_mark(bytes: &[u8], segment: u64, offset: u32) -> bool {
    bytes.starts_with(&mark(segment, offset))
}

fn put(
    id: LogId,
    (kind, payload): (u8, &[u8]),
    (segment, stable): (u64, u32),
    out: &mut Vec<u8>,
) -> u32 {
    let start = out.len();
    out.put_u32_le(RECORD_MAGIC);
    out.put_u32_le(0);
    out.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_u32_le(stable);
    out.put_u64_le(id.index);
    out.put_u64_le(id.leader_id.term);
    out.put_u64_le(id.leader_id.node_id);
    out.put_u64_le(u64::from(kind));
    out.put_slice(payload);
    while !(out.len() - start).is_multiple_of(ALIGN) {
        out.put_u8(0);
    }
    let sum = checksum(segment, out.get(start + 8..).unwrap_or_default());
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    u32::try_from(out.len() - start).unwrap_or(u32::MAX)
}

/// Bytes the record of `entry` would take at most, with the mark behind it.
pub(crate) fn length_bound(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        Payload::Blank => 0,
        Payload::Normal(proposal) => proposal.0.len(),
        // Bounded by the number of members and the length of their addresses.
        Payload::Membership(_) => 4096,
    };
    RECORD_BYTES + payload + ALIGN + MARK_BYTES
}

/// Reads the record at the start of `bytes`; `None` if there is no intact one.
pub(crate) fn decode(bytes: &[u8], segment: u64) -> Option<Record> {
    let (length, payload_length) = intact(bytes, segment)?;
    let payload = bytes.get(RECORD_BYTES..RECORD_BYTES + payload_length)?;
    let leader_id = LeaderId {
        term: u64_at(bytes, 24)?,
        node_id: u64_at(bytes, 32)?,
    };
    let payload = match *bytes.get(40)? {
        KIND_BLANK => Payload::Blank,
        KIND_COMMAND => Payload::Normal(Proposal(Bytes::copy_from_slice(payload))),
        KIND_MEMBERSHIP => Payload::Membership(postcard::from_bytes::<Membership>(payload).ok()?),
        _ => return None,
    };
    Some(Record {
        entry: Entry::new(LogId::new(leader_id, u64_at(bytes, 16)?), payload),
        length,
    })
}

/// Whether an intact record of the segment lies at or behind `from`, written when `from` was
/// already stable.
pub(crate) fn stable_beyond(segment_bytes: &[u8], from: usize, segment: u64) -> bool {
    (from..segment_bytes.len())
        .step_by(ALIGN)
        .filter_map(|at| segment_bytes.get(at..))
        .any(|bytes| {
            intact(bytes, segment).is_some()
                && u32_at(bytes, 12).is_some_and(|stable| stable as usize > from)
        })
}

/// Length with padding, and payload length, of an intact record.
fn intact(bytes: &[u8], segment: u64) -> Option<(u32, usize)> {
    if u32_at(bytes, 0)? != RECORD_MAGIC {
        return None;
    }
    let payload_length = u32_at(bytes, 8)? as usize;
    let length = RECORD_BYTES
        .checked_add(payload_length)?
        .checked_next_multiple_of(ALIGN)?;
    let body = bytes.get(8..length)?;
    if checksum(segment, body) != u32_at(bytes, 4)? {
        return None;
    }
    Some((u32::try_from(length).ok()?, payload_length))
}

fn checksum(segment: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), body)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, payload: &'static [u8]) -> Entry {
        let leader_id = LeaderId {
            term: 3,
            node_id: 9,
        };
        Entry::new(
            LogId::new(leader_id, index),
            Payload::Normal(Proposal(Bytes::from_static(payload))),
        )
    }

    #[test]
    fn record_round_trips_and_is_aligned() {
        let mut bytes = Vec::new();

        let length = encode(&entry(5, b"hello"), 2, 64, &mut bytes).unwrap();

        let record = decode(&bytes, 2).unwrap();
        assert_eq!(record.entry.log_id.index, 5);
        assert_eq!(record.entry.payload, entry(5, b"hello").payload);
        assert_eq!(record.length, length);
        assert_eq!(bytes.len() % ALIGN, 0);
    }

    #[test]
    fn record_of_another_segment_or_with_any_flipped_bit_is_none() {
        let mut bytes = Vec::new();
        encode(&entry(5, b"hello"), 2, 64, &mut bytes).unwrap();

        assert!(decode(&bytes, 3).is_none());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, 2).is_none(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn header_round_trips_and_refuses_damage() {
        let header = SegmentHeader {
            number: 7,
            first_index: 1000,
        };

        let mut bytes = header.encode();

        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        bytes[9] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), None);
    }

    #[test]
    fn damage_is_told_from_a_torn_tail_by_what_was_stable() {
        let mut bytes = Vec::new();
        let first = encode(&entry(1, b"a"), 2, 0, &mut bytes).unwrap() as usize;
        encode(&entry(2, b"b"), 2, 0, &mut bytes).unwrap();

        assert!(!stable_beyond(&bytes, 0, 2));

        let all = u32::try_from(bytes.len()).unwrap();
        encode(&entry(3, b"c"), 2, all, &mut bytes).unwrap();
        assert!(stable_beyond(&bytes, 0, 2));
        assert!(stable_beyond(&bytes, first, 2));
        assert!(!stable_beyond(&bytes, all as usize, 2));
    }
}
