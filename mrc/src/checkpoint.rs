//! Checkpoints on their way: entries packed into parts, parts gathered in a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use mrc_core::{Entries, IndexError};

use crate::config::CHECKPOINT_PART_BYTES;

type Pair = Result<(Bytes, Bytes), IndexError>;

/// Cuts the entries of an index into parts of about [`CHECKPOINT_PART_BYTES`].
pub(crate) fn parts(
    mut entries: Entries<'static>,
) -> impl FnMut() -> Result<Option<Bytes>, IndexError> + Send {
    move || {
        let mut part = BytesMut::with_capacity(CHECKPOINT_PART_BYTES);
        while part.len() < CHECKPOINT_PART_BYTES {
            let Some(entry) = entries.next() else {
                break;
            };
            let (key, value) = entry?;
            part.put_u32_le(length(&key)?);
            part.put_u32_le(length(&value)?);
            part.put_slice(&key);
            part.put_slice(&value);
        }
        Ok(Some(part.freeze()).filter(|part| !part.is_empty()))
    }
}

fn length(bytes: &Bytes) -> Result<u32, IndexError> {
    u32::try_from(bytes.len()).map_err(IndexError::engine)
}

/// Gathers the parts of one transfer.
#[derive(Debug)]
pub(crate) struct Receiving {
    file: File,
    path: PathBuf,
    parts: u64,
}

impl Receiving {
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create(path)?,
            path: path.to_owned(),
            parts: 0,
        })
    }

    /// Adds a part; parts come in order, without a gap.
    pub(crate) fn add(&mut self, number: u64, part: &[u8]) -> io::Result<()> {
        if number != self.parts {
            return Err(io::Error::other(format!(
                "part {number} of a checkpoint came instead of part {}",
                self.parts
            )));
        }
        self.parts += 1;
        self.file.write_all(part)
    }

    /// All parts are there: the file with the entries.
    pub(crate) fn end(self, parts: u64) -> io::Result<PathBuf> {
        if parts != self.parts {
            return Err(io::Error::other(format!(
                "{} of {parts} parts of a checkpoint came",
                self.parts
            )));
        }
        Ok(self.path)
    }
}

/// Reads the entries of a file of parts.
pub(crate) fn read(path: &Path) -> Result<impl Iterator<Item = Pair> + use<>, IndexError> {
    let file = File::open(path).map_err(IndexError::engine)?;
    let mut left = file.metadata().map_err(IndexError::engine)?.len();
    let mut input = BufReader::with_capacity(1 << 20, file);
    let mut next = move || -> io::Result<Option<(Bytes, Bytes)>> {
        if left == 0 {
            return Ok(None);
        }
        let mut lengths = [0; 8];
        input.read_exact(&mut lengths)?;
        let lengths = u64::from_le_bytes(lengths);
        let (key, value) = (lengths & 0xffff_ffff, lengths >> 32);
        left = left
            .checked_sub(8 + key + value)
            .ok_or_else(|| io::Error::other("a checkpoint's entry ends behind its file"))?;
        let mut bytes = vec![0; (key + value) as usize];
        input.read_exact(&mut bytes)?;
        let mut key_bytes = Bytes::from(bytes);
        let value_bytes = key_bytes.split_off(key as usize);
        Ok(Some((key_bytes, value_bytes)))
    };
    Ok(std::iter::from_fn(move || {
        next().map_err(IndexError::engine).transpose()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_way_through_parts_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let entries: Vec<_> = (0..5000_u32)
            .map(|n| {
                (
                    Bytes::from(n.to_be_bytes().to_vec()),
                    Bytes::from(vec![1; n as usize % 900]),
                )
            })
            .collect();

        let mut next = parts(Box::new(entries.clone().into_iter().map(Ok)));
        let mut receiving = Receiving::begin(&dir.path().join("incoming")).unwrap();
        let mut count = 0;
        while let Some(part) = next().unwrap() {
            receiving.add(count, &part).unwrap();
            count += 1;
        }
        let path = receiving.end(count).unwrap();

        let found: Vec<_> = read(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, entries);
        assert!(count > 1);
    }

    #[test]
    fn missing_and_repeated_parts_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut receiving = Receiving::begin(&dir.path().join("incoming")).unwrap();

        receiving.add(0, b"x").unwrap();

        assert!(receiving.add(0, b"x").is_err());
        assert!(receiving.add(2, b"x").is_err());
        assert!(receiving.end(2).is_err());
    }

    #[test]
    fn cut_file_is_an_error_and_not_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incoming");
        std::fs::write(&path, [3, 0, 0, 0, 1, 0, 0, 0, b'a']).unwrap();

        let found: Vec<_> = read(&path).unwrap().take(1).collect();

        assert!(found[0].is_err());
    }
}
