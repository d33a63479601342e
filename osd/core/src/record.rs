//! What a replica writes into its object's header, and its encoding.

use types::{OsdId, SessionId};

use crate::config::MARKS_MAX;
use crate::position::{Position, Promise};
use proto::peer;

/// The newest change of one session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mark {
    /// The session.
    pub session: SessionId,
    /// The attempt that did its newest change; older attempts are refused.
    pub change_id: u64,
    /// The first attempt of that change: what it and the changes sent before it asked for was done.
    pub first_id: u64,
    /// Where its newest append went.
    pub append_offset: u64,
}

/// What a change leaves in the marks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Marked {
    /// Of the session that sent it; with session 0 there is none.
    pub(crate) mark: Mark,
    /// Of the session that sent it first, if that is an earlier one: what is left of that session must not do it
    /// again, nor what later sessions repeat.
    pub(crate) earlier: Mark,
}

/// The durable state of a replica, apart from its bytes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    /// Older epochs, and the same epoch of somebody else, are refused.
    pub promised: Promise,
    /// All changes up to this one are stable.
    pub position: Position,
    /// Length of the object at `position`.
    pub length_bytes: u64,
    /// Nothing was changed after `position`: the replica can be trusted after a crash.
    pub clean: bool,
    /// Newest changes of sessions at `position`, the one that changed last at the end.
    pub marks: Vec<Mark>,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("object record of {length} bytes is malformed")]
pub struct RecordError {
    /// Bytes found.
    pub length: usize,
}

const VERSION: u8 = 2;
/// Marks of this version have the id of an append where `first_id` is now. Whoever sent those changes knew of no
/// first attempts: each attempt is its own.
const VERSION_WITHOUT_FIRST_ID: u8 = 1;
const FIXED_BYTES: usize = 1 + 1 + 1 + 16 + 24 + 8;
const MARK_BYTES: usize = 32;

impl Record {
    /// Length of the longest encoded record.
    pub const ENCODED_MAX_BYTES: usize = FIXED_BYTES + MARKS_MAX * MARK_BYTES;

    /// Fields little-endian; at most [`Record::ENCODED_MAX_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let marks = self.newest_marks();
        let mut bytes = Vec::with_capacity(FIXED_BYTES + marks.len() * MARK_BYTES);
        bytes.push(VERSION);
        bytes.push(u8::from(self.clean));
        bytes.push(marks.len() as u8);
        for number in [
            self.promised.epoch,
            self.promised.holder.0,
            self.position.epoch,
            self.position.holder.0,
            self.position.seq,
            self.length_bytes,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for mark in marks {
            for number in [
                mark.session.0,
                mark.change_id,
                mark.first_id,
                mark.append_offset,
            ] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    /// The inverse of [`Record::encode`].
    ///
    /// # Errors
    ///
    /// [`RecordError`] if the bytes are cut, too long or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Self::parse(bytes).ok_or(RecordError {
            length: bytes.len(),
        })
    }

    fn newest_marks(&self) -> &[Mark] {
        let skipped = self.marks.len().saturating_sub(MARKS_MAX);
        self.marks.get(skipped..).unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_first_chunk::<3>()?;
        let [
            version @ VERSION_WITHOUT_FIRST_ID..=VERSION,
            flags @ 0..=1,
            count,
        ] = *head
        else {
            return None;
        };
        if usize::from(count) > MARKS_MAX {
            return None;
        }
        let mut number = || {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_le_bytes(*head))
        };
        let mut record = Self {
            promised: Promise {
                epoch: number()?,
                holder: OsdId(number()?),
            },
            position: Position {
                epoch: number()?,
                holder: OsdId(number()?),
                seq: number()?,
            },
            length_bytes: number()?,
            clean: flags == 1,
            marks: Vec::with_capacity(usize::from(count)),
        };
        for _ in 0..count {
            let mut mark = Mark {
                session: SessionId(number()?),
                change_id: number()?,
                first_id: number()?,
                append_offset: number()?,
            };
            if version == VERSION_WITHOUT_FIRST_ID {
                mark.first_id = mark.change_id;
            }
            record.marks.push(mark);
        }
        rest.is_empty().then_some(record)
    }
}

impl From<Mark> for peer::SessionMark {
    fn from(mark: Mark) -> Self {
        Self {
            session: mark.session.0,
            change_id: mark.change_id,
            first_id: mark.first_id,
            append_offset: mark.append_offset,
        }
    }
}

impl From<peer::SessionMark> for Mark {
    fn from(mark: peer::SessionMark) -> Self {
        Self {
            session: SessionId(mark.session),
            change_id: mark.change_id,
            first_id: mark.first_id,
            append_offset: mark.append_offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(marks: u64) -> Record {
        Record {
            promised: Promise {
                epoch: 9,
                holder: OsdId(2),
            },
            position: Position {
                epoch: 8,
                seq: 77,
                holder: OsdId(1),
            },
            length_bytes: 1 << 40,
            clean: true,
            marks: (0..marks)
                .map(|n| Mark {
                    session: SessionId(n),
                    change_id: n + 1,
                    first_id: n + 2,
                    append_offset: n + 3,
                })
                .collect(),
        }
    }

    #[test]
    fn record_round_trips_and_stays_within_its_limit() {
        for marks in [0, 1, MARKS_MAX as u64] {
            let bytes = record(marks).encode();

            assert!(bytes.len() <= Record::ENCODED_MAX_BYTES);
            assert_eq!(Record::decode(&bytes), Ok(record(marks)));
        }
    }

    #[test]
    fn oldest_marks_are_left_out_when_there_are_too_many() {
        let decoded = Record::decode(&record(MARKS_MAX as u64 + 3).encode()).unwrap();

        assert_eq!(decoded.marks.len(), MARKS_MAX);
        assert_eq!(decoded.marks[0].session, SessionId(3));
    }

    #[test]
    fn cut_lengthened_and_foreign_bytes_are_refused() {
        let bytes = record(2).encode();

        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "{end}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(Record::decode(&long).is_err());
        for version in [0, VERSION + 1] {
            let mut foreign = bytes.clone();
            foreign[0] = version;
            assert!(Record::decode(&foreign).is_err());
        }
    }

    #[test]
    fn record_of_the_version_before_is_read_with_every_attempt_its_own_change() {
        let mut bytes = record(2).encode();
        bytes[0] = VERSION_WITHOUT_FIRST_ID;

        let old = Record::decode(&bytes).unwrap();

        assert_eq!(old.position, record(2).position);
        assert!(old.marks.iter().all(|mark| mark.first_id == mark.change_id));
    }
}
