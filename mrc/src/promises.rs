//! What must survive of a log besides its entries: the vote, and how far the log was purged.
//!
//! The file `promises` has two copies of it, each in a block of its own that was allocated when the
//! file was made: saving needs no room on the disk. The first copy is stable before the second is
//! touched, so a crash leaves at least one whole, and the first, if whole, is the newer one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::PROMISES_COPY_BYTES;
use crate::consensus::{LogId, Vote};
use crate::log_dir::{LogError, io_error};

/// What must survive besides the entries.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Promises {
    /// This member's number in Raft, drawn when the log was made: whoever lost the log is someone
    /// else to the other members.
    pub number: u64,
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
}

/// The file.
#[derive(Debug)]
pub(crate) struct PromisesFile(PathBuf);

impl PromisesFile {
    pub(crate) fn at(dir: &Path) -> Self {
        Self(dir.join("promises"))
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Makes the file, or replaces it as a whole.
    pub(crate) fn create(&self, promises: &Promises) -> Result<(), LogError> {
        let both = encode(promises).map(|copy| [copy.clone(), copy].concat());
        both.and_then(|both| shell::statedir::replace_file(&self.0, &both))
            .map_err(|source| io_error(&self.0, source))
    }

    /// Makes the promises durable, in the place of the ones before.
    pub(crate) fn save(&self, promises: &Promises) -> Result<(), LogError> {
        let save = || {
            let copy = encode(promises)?;
            let file = OpenOptions::new().write(true).open(&self.0)?;
            file.write_all_at(&copy, 0)?;
            file.sync_data()?;
            file.write_all_at(&copy, PROMISES_COPY_BYTES as u64)?;
            file.sync_data()
        };
        save().map_err(|source| io_error(&self.0, source))
    }

    /// Reads them, and makes the copies equal again if a crash came between them.
    pub(crate) fn load(&self) -> Result<Promises, LogError> {
        let lost = || LogError::PromisesLost {
            path: self.0.clone(),
        };
        let bytes = match std::fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(lost()),
            Err(source) => return Err(io_error(&self.0, source)),
        };
        let Some((first, second)) = bytes.split_at_checked(PROMISES_COPY_BYTES) else {
            // One copy as long as its content: an early release replaced the file each time.
            let promises = decode_exact(&bytes).ok_or_else(lost)?;
            self.create(&promises)?;
            return Ok(promises);
        };
        let promises = decode(first).or_else(|| decode(second)).ok_or_else(lost)?;
        if first != second {
            self.save(&promises)?;
        }
        Ok(promises)
    }
}

/// Length, content, checksum of both, zeros.
fn encode(promises: &Promises) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(promises).map_err(io::Error::other)?;
    let mut bytes = u32::try_from(body.len())
        .map_err(io::Error::other)?
        .to_le_bytes()
        .to_vec();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    if bytes.len() > PROMISES_COPY_BYTES {
        return Err(io::Error::other("the promises are longer than their block"));
    }
    bytes.resize(PROMISES_COPY_BYTES, 0);
    Ok(bytes)
}

fn decode(copy: &[u8]) -> Option<Promises> {
    let length = u32::from_le_bytes(*copy.first_chunk()?) as usize;
    let (summed, rest) = copy.split_at_checked(length.checked_add(4)?)?;
    let sum = u32::from_le_bytes(*rest.first_chunk()?);
    let body = summed.get(4..)?;
    (crc32c::crc32c(summed) == sum)
        .then(|| postcard::from_bytes(body).ok())
        .flatten()
}

fn decode_exact(bytes: &[u8]) -> Option<Promises> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*sum))
        .then(|| postcard::from_bytes(body).ok())
        .flatten()
}

/// Makes everything done to the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::LeaderId;

    fn promises(index: u64) -> Promises {
        Promises {
            number: 7,
            vote: None,
            purged: Some(LogId::new(
                LeaderId {
                    term: 1,
                    node_id: 1,
                },
                index,
            )),
        }
    }

    fn damage(dir: &Path, copy: u64) {
        let path = dir.join("promises");
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xff; 32], copy * PROMISES_COPY_BYTES as u64)
            .unwrap();
    }

    #[test]
    fn saving_changes_neither_size_nor_blocks_of_the_file() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let file = PromisesFile::at(dir.path());
        file.create(&promises(1)).unwrap();
        let look = || std::fs::metadata(dir.path().join("promises")).unwrap();
        let before = look();

        file.save(&promises(u64::MAX)).unwrap();

        let after = look();
        assert_eq!(
            (before.len(), before.blocks(), before.ino()),
            (after.len(), after.blocks(), after.ino())
        );
        assert_eq!(file.load().unwrap(), promises(u64::MAX));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_broken_copy_is_made_whole_and_two_are_a_loss() {
        let dir = tempfile::tempdir().unwrap();
        let file = PromisesFile::at(dir.path());
        file.create(&promises(1)).unwrap();
        file.save(&promises(2)).unwrap();

        for copy in [0, 1, 0] {
            damage(dir.path(), copy);
            assert_eq!(file.load().unwrap(), promises(2));
        }
        damage(dir.path(), 0);
        damage(dir.path(), 1);
        assert!(matches!(file.load(), Err(LogError::PromisesLost { .. })));
    }

    #[test]
    fn file_of_one_copy_is_read_and_gets_the_second() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = postcard::to_stdvec(&promises(3)).unwrap();
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        std::fs::write(dir.path().join("promises"), bytes).unwrap();
        let file = PromisesFile::at(dir.path());

        assert_eq!(file.load().unwrap(), promises(3));
        damage(dir.path(), 0);
        assert_eq!(file.load().unwrap(), promises(3));
    }
}
