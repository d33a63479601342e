//! The records of logs: who wrote each, its number, and filling of a length that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Writer and number of a record.
pub(crate) type Name = (u32, u32);

/// A record's bytes, newline included.
pub(crate) fn encode(writer: u32, number: u32) -> Vec<u8> {
    let mut line = String::new();
    // Writing to a string can't fail.
    let _ = write!(line, "{writer:04} {number:08} ");
    // Some are short, some cross a block of 4 KiB, none begins where another would.
    let length = (u64::from(number) * 7919 + u64::from(writer) * 104_729) % 300;
    for at in 0..length {
        line.push(char::from(
            b'a' + u8::try_from((at + u64::from(number)) % 26).unwrap_or(0),
        ));
    }
    line.push('\n');
    line.into_bytes()
}

/// Bytes that are no record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Malformed {
    /// Where they begin.
    pub(crate) at_bytes: usize,
    /// They, or their beginning.
    pub(crate) text: String,
    /// The record that they are a beginning of.
    pub(crate) half_of: Option<Name>,
}

/// The records of a log, each with the place behind it, and what is between them.
pub(crate) fn decode(bytes: &[u8]) -> (Vec<(Name, usize)>, Vec<Malformed>) {
    let mut records = Vec::new();
    let mut malformed = Vec::new();
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // A whole record may follow upon bytes that are none.
        let start = (0..line.len()).find(|start| is_record(&line[*start..]));
        let (damaged, record) = line.split_at(start.unwrap_or(line.len()));
        if !damaged.is_empty() {
            let half_of = name(damaged)
                .filter(|(writer, number)| encode(*writer, *number).starts_with(damaged));
            malformed.push(Malformed {
                at_bytes: at,
                text: String::from_utf8_lossy(&damaged[..damaged.len().min(80)]).into_owned(),
                half_of,
            });
        }
        at += line.len();
        records.extend(name(record).map(|name| (name, at)));
    }
    (records, malformed)
}

fn is_record(line: &[u8]) -> bool {
    name(line).is_some_and(|(writer, number)| encode(writer, number) == line)
}

fn name(line: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The sum of no bytes (FNV-1a).
const SUM_OF_NONE: u64 = 0xcbf2_9ce4_8422_2325;

/// A sum of bytes that tells versions of a log apart.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(SUM_OF_NONE, add)
}

/// The sums of beginnings of these lengths.
pub(crate) fn sums(bytes: &[u8], lengths: &BTreeSet<usize>) -> BTreeMap<usize, u64> {
    let mut sum = SUM_OF_NONE;
    let mut sums = BTreeMap::new();
    let mut at = 0;
    for length in lengths.range(..=bytes.len()) {
        sum = bytes[at..*length].iter().fold(sum, add);
        at = *length;
        sums.insert(*length, sum);
    }
    sums
}

fn add(sum: u64, byte: &u8) -> u64 {
    (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_with_their_ends() {
        let mut log = Vec::new();
        let mut expected = Vec::new();
        for number in 0..100 {
            log.extend(encode(3, number));
            expected.push(((3, number), log.len()));
        }

        assert_eq!(decode(&log), (expected, Vec::new()));
    }

    #[test]
    fn changed_bytes_holes_and_half_records_are_no_records() {
        let mut log = [encode(1, 1), vec![0; 10], encode(1, 2), encode(1, 30)].concat();
        let end = log.len();
        log.truncate(end - 1);

        let (records, malformed) = decode(&log);

        assert_eq!(records.len(), 2);
        assert_eq!(malformed.len(), 2);
        assert_eq!(malformed[1].half_of, Some((1, 30)));
    }
}
