//! Where registers lie and how their values are written down.

/// Registers of one block of 4 KiB in one file.
const BLOCKS_PER_FILE: u8 = 8;

/// Files of such blocks.
const BLOCK_FILES: u8 = 2;

/// Registers of a few bytes that share a block.
const CELLS: u8 = 6;

/// Bytes of such a register. 72: some lie across a block's end or a multiple of 512.
const CELL_BYTES: u64 = 72;

/// Where the first cell begins: the cells lie across the first block's end.
const CELLS_AT_BYTES: u64 = 4096 - 3 * CELL_BYTES - CELL_BYTES / 2;

/// Registers that are replaced as a whole file.
const DOCUMENTS: u8 = 5;

/// Bytes of a block.
const BLOCK_BYTES: u64 = 4096;

/// Where a register lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// A range of a file that is there from the start.
    Range {
        /// Below the mount.
        file: String,
        /// Where it begins.
        offset_bytes: u64,
        /// Its length.
        length_bytes: u64,
    },
    /// A file that is written aside, synced and renamed into place.
    Document {
        /// Below the mount.
        file: String,
    },
}

/// All registers.
pub(crate) fn keys() -> Vec<String> {
    let blocks = (0..BLOCK_FILES)
        .flat_map(|file| (0..BLOCKS_PER_FILE).map(move |at| format!("blocks-{file}/{at}")));
    let cells = (0..CELLS).map(|at| format!("cells/{at}"));
    let documents = (0..DOCUMENTS).map(|at| format!("documents/{at}"));
    blocks.chain(cells).chain(documents).collect()
}

/// Files that hold ranges, with their lengths.
pub(crate) fn files() -> Vec<(String, u64)> {
    let length = u64::from(BLOCKS_PER_FILE) * BLOCK_BYTES;
    let mut files: Vec<(String, u64)> = (0..BLOCK_FILES)
        .map(|file| (format!("blocks-{file}"), length))
        .collect();
    files.push(("cells".to_owned(), 2 * BLOCK_BYTES));
    files
}

/// Where a register lies.
pub(crate) fn place(key: &str) -> Place {
    let (file, number) = key.split_once('/').unwrap_or((key, "0"));
    let number: u64 = number.parse().unwrap_or(0);
    match file {
        "documents" => Place::Document {
            file: key.to_owned(),
        },
        "cells" => Place::Range {
            file: file.to_owned(),
            offset_bytes: CELLS_AT_BYTES + number * CELL_BYTES,
            length_bytes: CELL_BYTES,
        },
        _ => Place::Range {
            file: file.to_owned(),
            offset_bytes: number * BLOCK_BYTES,
            length_bytes: BLOCK_BYTES,
        },
    }
}

/// A value in so many bytes: it fills them.
pub(crate) fn encode(value: u64, length_bytes: u64) -> Vec<u8> {
    let words = usize::try_from(length_bytes / 8).unwrap_or(0);
    value.to_le_bytes().repeat(words)
}

/// Length of a document with a value: they differ, up to several requests.
pub(crate) fn document_bytes(value: u64) -> u64 {
    8 + (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 40_000 / 8 * 8
}

/// The value that fills these bytes.
///
/// # Errors
///
/// The values found, if there are several, or none.
pub(crate) fn decode(bytes: &[u8]) -> Result<u64, String> {
    let mut words = bytes
        .chunks(8)
        .map(|word| word.try_into().map(u64::from_le_bytes).ok());
    let Some(Some(first)) = words.next() else {
        return Err(format!("{} bytes", bytes.len()));
    };
    let other = words.position(|word| word != Some(first));
    match other {
        None => Ok(first),
        Some(at) => {
            let from = (at + 1) * 8;
            let mut word: Vec<u8> = bytes.iter().skip(from).take(8).copied().collect();
            word.reverse();
            Err(format!(
                "{first:#x} from byte 0, {word:02x?} from byte {from} of {}",
                bytes.len()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_again_and_mixtures_are_told() {
        for length in [CELL_BYTES, BLOCK_BYTES, document_bytes(77)] {
            let mut bytes = encode(77, length);
            assert_eq!(bytes.len() as u64, length);
            assert_eq!(decode(&bytes), Ok(77));

            let last = bytes.len() - 8;
            bytes[last] = 78;
            assert!(length == 8 || decode(&bytes).is_err(), "{length}");
        }
        assert!(decode(&[]).is_err());
        assert!(decode(&[1, 2, 3]).is_err());
    }

    #[test]
    fn ranges_do_not_overlap_and_lie_in_their_files() {
        let mut ranges = Vec::new();
        for key in keys() {
            if let Place::Range {
                file,
                offset_bytes,
                length_bytes,
            } = place(&key)
            {
                ranges.push((file, offset_bytes, offset_bytes + length_bytes));
            }
        }
        ranges.sort();
        for pair in ranges.windows(2) {
            assert!(pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1, "{pair:?}");
        }
        let files = files();
        for (file, _, end) in ranges {
            assert!(
                files
                    .iter()
                    .any(|(name, length)| *name == file && end <= *length)
            );
        }
    }
}
