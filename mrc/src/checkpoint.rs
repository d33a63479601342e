//! Checkpoints on their way: entries packed into parts, parts gathered in a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
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

/// Gathers the parts of one transfer, in a file of its own: while one checkpoint is being installed
/// another one may come in.
#[derive(Debug)]
pub(crate) struct Receiving {
    file: File,
    received: Received,
    crc32c: u32,
}

impl Receiving {
    /// Begins the file of transfer `id`, which no other transfer may use.
    pub(crate) fn begin(dir: &Path, id: u64) -> io::Result<Self> {
        let path = dir.join(format!("{PREFIX}{id:016x}{SUFFIX}"));
        Ok(Self {
            file: File::create_new(&path)?,
            received: Received { path, parts: 0 },
            crc32c: 0,
        })
    }

    /// Adds a part; parts come in order, without a gap.
    pub(crate) fn add(&mut self, number: u64, part: &[u8]) -> io::Result<()> {
        let expected = self.received.parts;
        if number != expected {
            return Err(io::Error::other(format!(
                "part {number} of a checkpoint came instead of part {expected}"
            )));
        }
        let length = u32::try_from(part.len()).map_err(io::Error::other)?;
        self.received.parts += 1;
        self.crc32c = crc32c::crc32c_append(self.crc32c, part);
        let mut head = [0; PART_HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&crc32c::crc32c(part).to_le_bytes());
        self.file.write_all(&head)?;
        self.file.write_all(part)
    }

    /// All parts are there, as they were sent.
    pub(crate) fn end(self, parts: u64, crc32c: u32) -> io::Result<Received> {
        if parts != self.received.parts {
            return Err(io::Error::other(format!(
                "{} of {parts} parts of a checkpoint came",
                self.received.parts
            )));
        }
        if crc32c != self.crc32c {
            return Err(io::Error::other(
                "the parts of a checkpoint are not those that were sent",
            ));
        }
        Ok(self.received)
    }
}

/// A file of parts; it is removed when nobody needs it any more.
#[derive(Debug)]
pub(crate) struct Received {
    path: PathBuf,
    parts: u64,
}

impl Drop for Received {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what transfers left that a crash has cut off.
pub(crate) fn remove_leftovers(dir: &Path) {
    for item in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = item.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            remove(&item.path());
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "could not remove a received checkpoint");
    }
}

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".incoming";

/// Length and checksum in front of each part.
const PART_HEAD_BYTES: usize = 8;

/// Reads the entries of a file of parts; fails if it is not what was received.
pub(crate) fn read(received: &Received) -> Result<impl Iterator<Item = Pair> + use<>, IndexError> {
    let file = File::open(&received.path).map_err(IndexError::engine)?;
    let mut parts = Parts {
        bytes_left: file.metadata().map_err(IndexError::engine)?.len(),
        parts_left: received.parts,
        input: BufReader::new(file),
    };
    let mut part = Bytes::new();
    let mut next = move || -> io::Result<Option<(Bytes, Bytes)>> {
        while part.is_empty() {
            match parts.next()? {
                Some(next) => part = next,
                None => return Ok(None),
            }
        }
        let key_bytes = part.try_get_u32_le().map_err(io::Error::other)? as usize;
        let value_bytes = part.try_get_u32_le().map_err(io::Error::other)? as usize;
        if key_bytes
            .checked_add(value_bytes)
            .is_none_or(|length| length > part.len())
        {
            return Err(io::Error::other(
                "a checkpoint's entry ends behind its part",
            ));
        }
        let key = part.split_to(key_bytes);
        Ok(Some((key, part.split_to(value_bytes))))
    };
    Ok(std::iter::from_fn(move || {
        next().map_err(IndexError::engine).transpose()
    }))
}

/// The parts in a file, each checked.
struct Parts {
    input: BufReader<File>,
    bytes_left: u64,
    parts_left: u64,
}

impl Parts {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.parts_left == 0 && self.bytes_left == 0 {
            return Ok(None);
        }
        let mut head = [0; PART_HEAD_BYTES];
        self.input.read_exact(&mut head)?;
        let head = u64::from_le_bytes(head);
        let (length, crc32c) = (head & 0xffff_ffff, (head >> 32) as u32);
        let taken = PART_HEAD_BYTES as u64 + length;
        let left = self.bytes_left.checked_sub(taken);
        let (Some(bytes_left), Some(parts_left)) = (left, self.parts_left.checked_sub(1)) else {
            return Err(io::Error::other("a checkpoint's parts do not fit its file"));
        };
        (self.bytes_left, self.parts_left) = (bytes_left, parts_left);
        let mut part = vec![0; length as usize];
        self.input.read_exact(&mut part)?;
        if crc32c::crc32c(&part) != crc32c {
            return Err(io::Error::other(
                "a checkpoint's part was damaged on the disk",
            ));
        }
        Ok(Some(part.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRC: fn(&[u8]) -> u32 = crc32c::crc32c;

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

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
        let mut receiving = Receiving::begin(dir.path(), 1).unwrap();
        let (mut count, mut crc) = (0, 0);
        while let Some(part) = next().unwrap() {
            receiving.add(count, &part).unwrap();
            crc = crc32c::crc32c_append(crc, &part);
            count += 1;
        }
        let received = receiving.end(count, crc).unwrap();

        let found: Vec<_> = read(&received).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, entries);
        assert!(count > 1);
        drop(received);
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn missing_repeated_and_changed_parts_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut receiving = Receiving::begin(dir.path(), 1).unwrap();

        receiving.add(0, b"x").unwrap();

        assert!(receiving.add(0, b"x").is_err());
        assert!(receiving.add(2, b"x").is_err());
        assert!(receiving.end(2, CRC(b"x")).is_err());
        let mut changed = Receiving::begin(dir.path(), 2).unwrap();
        changed.add(0, b"x").unwrap();
        assert!(changed.end(1, CRC(b"y")).is_err());
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn transfer_that_begins_leaves_the_one_before_alone() {
        let dir = tempfile::tempdir().unwrap();
        let part = [&[1, 0, 0, 0, 1, 0, 0, 0][..], b"kv"].concat();
        let mut first = Receiving::begin(dir.path(), 1).unwrap();
        first.add(0, &part).unwrap();
        let first = first.end(1, CRC(&part)).unwrap();

        let second = Receiving::begin(dir.path(), 2).unwrap();
        assert!(Receiving::begin(dir.path(), 2).is_err(), "in use");

        assert_eq!(read(&first).unwrap().filter_map(Result::ok).count(), 1);
        drop((first, second));
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn cut_or_damaged_file_is_an_error_and_not_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let part = [&[1, 0, 0, 0, 1, 0, 0, 0][..], b"kv"].concat();
        let received = || {
            let mut receiving = Receiving::begin(dir.path(), 1).unwrap();
            receiving.add(0, &part).unwrap();
            receiving.add(1, &part).unwrap();
            receiving.end(2, CRC(&[&part[..], &part].concat())).unwrap()
        };
        let fails = |received: &Received| read(received).unwrap().any(|entry| entry.is_err());
        assert!(!fails(&received()));

        let length = (PART_HEAD_BYTES + part.len()) as u64;
        for cut in [0, 1, length, 2 * length - 1] {
            let received = received();
            let file = File::options().write(true).open(&received.path).unwrap();
            file.set_len(cut).unwrap();
            assert!(fails(&received), "cut to {cut}");
        }
        for at in 0..2 * length as usize {
            let received = received();
            let mut bytes = std::fs::read(&received.path).unwrap();
            bytes[at] ^= 4;
            std::fs::write(&received.path, bytes).unwrap();
            assert!(fails(&received), "damaged at {at}");
        }
    }

    #[test]
    fn leftovers_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("checkpoint-00ff.incoming"), b"x").unwrap();
        std::fs::write(dir.path().join("identity"), b"x").unwrap();

        remove_leftovers(dir.path());

        assert_eq!(files(dir.path()), 1);
        assert!(dir.path().join("identity").exists());
    }
}
