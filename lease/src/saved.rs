//! What a host that is stopped in order leaves behind, so that its successor needs no quarantine.
//!
//! The file must be used once: a shell reads it, removes it durably, and only then starts the host.
//! As a second fence, [`Saved`] names the incarnation that made it, and only the next one may use it.

use types::{CellId, Duration, MemberId};

use crate::message::Ballot;

/// All votes of a stopped host. Times are lengths: the next boot's clock has another origin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Saved {
    pub(crate) incarnation: u64,
    pub(crate) cells: Vec<SavedCell>,
}

/// One vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SavedCell {
    pub(crate) cell: CellId,
    pub(crate) view: u64,
    pub(crate) promised: Option<Ballot>,
    pub(crate) promised_round: u64,
    pub(crate) agreed: Option<SavedLease>,
    pub(crate) highest: Option<(u64, MemberId)>,
    pub(crate) floor: u64,
}

/// A lease voted for. The time between stop and start is not known, so all of it is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SavedLease {
    pub(crate) holder: MemberId,
    pub(crate) epoch: u64,
    pub(crate) round: u64,
    pub(crate) remaining: Duration,
}

/// Bytes that are no saved state. The remedy is always the same: start without it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// Not a saved state, or one of another version.
    #[error(
        "not a lease state of version {VERSION}; remove the file, the server will be silent for one lease time instead"
    )]
    Version,
    /// Cut short, or with bytes changed.
    #[error(
        "the lease state is damaged; remove the file, the server will be silent for one lease time instead"
    )]
    Damaged,
}

const VERSION: u8 = 1;
const MAGIC: [u8; 8] = *b"oxlease\0";
const HEADER_BYTES: usize = MAGIC.len() + 1 + 8 + 8;
const RECORD_BYTES: usize = 16 + 8 + 1 + 16 + 8 + 32 + 16 + 8;
const SUM_BYTES: usize = 8;

impl Saved {
    /// As bytes for a file: magic, version, incarnation, cell count, cells of fixed size, and the
    /// FNV-1a hash of all that. Numbers are little-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let cells = self.cells.len();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + cells * RECORD_BYTES + SUM_BYTES);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.extend(self.incarnation.to_le_bytes());
        bytes.extend((cells as u64).to_le_bytes());
        for cell in &self.cells {
            cell.encode(&mut bytes);
        }
        bytes.extend(fnv1a(&bytes).to_le_bytes());
        bytes
    }

    /// The inverse of [`Saved::encode`].
    ///
    /// # Errors
    ///
    /// [`SavedError`] for any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SavedError> {
        let mut reader = Reader { bytes };
        if reader.take()? != MAGIC || reader.take::<1>()? != [VERSION] {
            return Err(SavedError::Version);
        }
        let body = bytes
            .len()
            .checked_sub(SUM_BYTES)
            .ok_or(SavedError::Damaged)?;
        let (body, sum) = bytes.split_at_checked(body).ok_or(SavedError::Damaged)?;
        if sum != fnv1a(body).to_le_bytes() {
            return Err(SavedError::Damaged);
        }
        let incarnation = reader.u64()?;
        let count = reader.u64()?;
        let length = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(RECORD_BYTES));
        if length.and_then(|n| n.checked_add(SUM_BYTES)) != Some(reader.bytes.len()) {
            return Err(SavedError::Damaged);
        }
        let cells = (0..count).map(|_| SavedCell::decode(&mut reader));
        Ok(Self {
            incarnation,
            cells: cells.collect::<Result<_, _>>()?,
        })
    }
}

const HAS_PROMISED: u8 = 1;
const HAS_AGREED: u8 = 2;
const HAS_HIGHEST: u8 = 4;

impl SavedCell {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let flags = self.promised.map_or(0, |_| HAS_PROMISED)
            | self.agreed.map_or(0, |_| HAS_AGREED)
            | self.highest.map_or(0, |_| HAS_HIGHEST);
        let promised = self.promised.unwrap_or_default();
        let agreed = self.agreed.unwrap_or(SavedLease {
            holder: MemberId(0),
            epoch: 0,
            round: 0,
            remaining: Duration::ZERO,
        });
        let (highest, holder) = self.highest.unwrap_or_default();
        bytes.extend(self.cell.0.to_le_bytes());
        bytes.extend(self.view.to_le_bytes());
        bytes.push(flags);
        for number in [
            promised.counter,
            promised.member.0,
            self.promised_round,
            agreed.holder.0,
            agreed.epoch,
            agreed.round,
            agreed.remaining.as_nanos(),
            highest,
            holder.0,
            self.floor,
        ] {
            bytes.extend(number.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, SavedError> {
        let cell = CellId(u128::from_le_bytes(reader.take()?));
        let view = reader.u64()?;
        let [flags] = reader.take()?;
        if flags & !(HAS_PROMISED | HAS_AGREED | HAS_HIGHEST) != 0 {
            return Err(SavedError::Damaged);
        }
        let promised = Ballot {
            counter: reader.u64()?,
            member: MemberId(reader.u64()?),
        };
        let promised_round = reader.u64()?;
        let agreed = SavedLease {
            holder: MemberId(reader.u64()?),
            epoch: reader.u64()?,
            round: reader.u64()?,
            remaining: Duration::from_nanos(reader.u64()?),
        };
        let highest = (reader.u64()?, MemberId(reader.u64()?));
        Ok(Self {
            cell,
            view,
            promised: (flags & HAS_PROMISED != 0).then_some(promised),
            promised_round,
            agreed: (flags & HAS_AGREED != 0).then_some(agreed),
            highest: (flags & HAS_HIGHEST != 0).then_some(highest),
            floor: reader.u64()?,
        })
    }
}

/// The bytes not yet read.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SavedError> {
        let (head, rest) = self.bytes.split_first_chunk().ok_or(SavedError::Damaged)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, SavedError> {
        self.take().map(u64::from_le_bytes)
    }
}

/// FNV-1a, 64 bit: against damage, not against malice.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let full = SavedCell {
            cell: CellId(1 << 100),
            view: 3,
            promised: Some(Ballot {
                counter: 4,
                member: MemberId(5),
            }),
            promised_round: 6,
            agreed: Some(SavedLease {
                holder: MemberId(7),
                epoch: 8,
                round: 9,
                remaining: Duration::from_millis(10),
            }),
            highest: Some((11, MemberId(12))),
            floor: 13,
        };
        let empty = SavedCell {
            cell: CellId(2),
            view: 1,
            promised: None,
            promised_round: 0,
            agreed: None,
            highest: None,
            floor: 0,
        };
        Saved {
            incarnation: 2,
            cells: vec![full, empty],
        }
    }

    #[test]
    fn saved_state_round_trips() {
        assert_eq!(Saved::decode(&saved().encode()), Ok(saved()));
        assert_eq!(
            Saved::decode(&Saved::default().encode()),
            Ok(Saved::default())
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = saved().encode();

        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Saved::decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Saved::decode(&bytes[..length]).is_err(), "length {length}");
        }
    }
}
