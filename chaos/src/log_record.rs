//! The records of logs: who wrote each, its number, and filling of a length that follows from them.

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

/// A line that is no record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Malformed {
    /// Where it begins.
    pub(crate) at_bytes: usize,
    /// It, or its beginning.
    pub(crate) text: String,
}

/// The records of a log, each with the place behind it, and the lines that are none.
pub(crate) fn decode(bytes: &[u8]) -> (Vec<(Name, usize)>, Vec<Malformed>) {
    let mut records = Vec::new();
    let mut malformed = Vec::new();
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match name(line) {
            Some(found) if encode(found.0, found.1) == line => {
                records.push((found, at + line.len()));
            }
            _ => malformed.push(Malformed {
                at_bytes: at,
                text: String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned(),
            }),
        }
        at += line.len();
    }
    (records, malformed)
}

fn name(line: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// A sum of bytes that tells versions of a log apart (FNV-1a).
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
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

        assert_eq!(records.len(), 1);
        assert_eq!(malformed.len(), 2);
    }
}
