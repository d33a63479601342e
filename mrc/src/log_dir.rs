//! The files of the log: preallocated segments, a spare one, and the durable promises.
//!
//! `log-<number>` holds records (see [`crate::log_record`]), `promises` the vote and how far the
//! log was purged, `spare` is a segment nobody uses, written full once so that a later fdatasync
//! has no size and no extent to commit.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::consensus::Entry;
use crate::log_record::{self, HEADER_BYTES, MARK_BYTES, SEGMENT_FORMAT, SegmentHeader};
use crate::promises::{Promises, PromisesFile, sync_dir};
use crate::spare::Spare;

/// A log directory that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Reading or writing failed.
    #[error("log {path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Someone has it open.
    #[error("{path}: the log is in use by another server; stop that first")]
    InUse {
        /// The lock's file.
        path: PathBuf,
    },
    /// A record that was on stable storage is broken or missing.
    #[error(
        "{path}: the log is damaged at offset {offset}; remove this server's directory and start it \
         again: it gets everything from the other metadata servers"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// First byte that is wrong.
        offset: u64,
    },
    /// It was written by a newer release.
    #[error(
        "{path}: the log has format {}, this release knows {}; run the newer release",
        char::from(*found), char::from(SEGMENT_FORMAT)
    )]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its format, a digit or letter.
        found: u8,
    },
    /// The file of the vote and the purge point is missing or broken.
    #[error(
        "{path}: the server's vote is missing or damaged; remove this server's directory and start \
         it again: it gets everything from the other metadata servers"
    )]
    PromisesLost {
        /// The file.
        path: PathBuf,
    },
}

/// Whether there is no log here, or one that was made and in which nobody ever wrote or promised
/// anything. One that can't be read may have been used.
pub(crate) fn is_unused(path: &Path) -> bool {
    let segments = match std::fs::read_dir(path) {
        Ok(items) => items.into_iter().any(|item| {
            item.is_ok_and(|item| item.file_name().to_string_lossy().starts_with("log-"))
        }),
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    let file = PromisesFile::at(path);
    let promised = match file.load() {
        Ok(promises) => promises.vote.is_some() || promises.purged.is_some(),
        Err(_) => file.exists(),
    };
    !segments && !promised
}

/// Removes a log of which [`is_unused`] is true.
pub(crate) fn remove_unused(path: &Path) -> Result<(), LogError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error(path, source)),
        _ => Ok(()),
    }
}

/// An entry and where it lies.
#[derive(Debug)]
pub(crate) struct Placed {
    pub entry: Entry,
    pub segment: u64,
    pub offset: u32,
    pub length: u32,
}

/// What a directory held when it was opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub promises: Promises,
    /// Contiguous, all behind the purge point.
    pub entries: Vec<Placed>,
    /// Open segments by number, oldest first.
    pub segments: Vec<(u64, Arc<File>)>,
    /// Segment and offset where the next record may go; `None`: it needs a new segment.
    pub tail: Option<(u64, u32)>,
    /// Number for the next new segment.
    pub next_number: u64,
}

/// The directory of one log. One process at a time; the caller holds the lock.
#[derive(Debug)]
pub(crate) struct LogDir {
    path: PathBuf,
    segment_bytes: u32,
    spare: Spare,
    /// Locked while the log is open.
    lock: Option<File>,
}

impl LogDir {
    /// Makes an empty log unless there is one.
    pub(crate) fn create(path: &Path, number: u64) -> Result<(), LogError> {
        std::fs::create_dir_all(path).map_err(|source| io_error(path, source))?;
        let dir = Self::at(path, 0);
        // Segments without promises are a loss, found when the log is opened.
        let file = PromisesFile::at(path);
        if file.exists() || !dir.headers()?.is_empty() {
            return Ok(());
        }
        file.create(&Promises {
            number,
            ..Promises::default()
        })
    }

    pub(crate) fn at(path: &Path, segment_bytes: u32) -> Self {
        Self {
            path: path.to_owned(),
            segment_bytes,
            spare: Spare::at(path, segment_bytes),
            lock: None,
        }
    }

    pub(crate) fn spare(&self) -> &Spare {
        &self.spare
    }

    /// Keeps everybody else, and a writer of this process that is about to end, from the files.
    pub(crate) fn lock(&mut self) -> Result<(), LogError> {
        let path = self.path.join("LOCK");
        let file = File::create(&path).map_err(|source| io_error(&path, source))?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(LogError::InUse { path }),
            Err(TryLockError::Error(source)) => Err(io_error(&path, source)),
        }
    }

    /// Makes the promises durable; needs no room on the disk.
    pub(crate) fn save(&self, promises: &Promises) -> Result<(), LogError> {
        PromisesFile::at(&self.path).save(promises)
    }

    /// Makes a segment ready for records and durable in the directory.
    pub(crate) fn add(&self, header: SegmentHeader) -> io::Result<Arc<File>> {
        let (fresh, final_path) = (
            self.path.join("segment.tmp"),
            self.segment_path(header.number),
        );
        let file = self.spare.take(&fresh)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        std::fs::rename(&fresh, final_path)?;
        self.sync()?;
        self.spare.prepare();
        Ok(Arc::new(file))
    }

    /// Removes a segment, keeping it as the spare if there is none.
    pub(crate) fn remove(&self, number: u64) -> io::Result<()> {
        let (path, spare) = (self.segment_path(number), self.spare.path());
        let whole = std::fs::metadata(&path)?.len() == u64::from(self.segment_bytes);
        if whole && !spare.exists() {
            std::fs::rename(path, spare)
        } else {
            std::fs::remove_file(path)
        }
    }

    /// Cuts a segment, so that nothing behind `offset` can ever be read again.
    pub(crate) fn cut(&self, number: u64, offset: u32) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .open(self.segment_path(number))?;
        file.set_len(u64::from(offset))?;
        file.sync_all()
    }

    /// Makes renames and removals durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_dir(&self.path)
    }

    /// Reads everything, drops what a crash tore, refuses what is damaged.
    pub(crate) fn recover(&self) -> Result<Recovered, LogError> {
        let promises = PromisesFile::at(&self.path).load()?;
        let purged_next = promises.purged.map_or(0, |id| id.index + 1);
        let mut headers = self.headers()?;
        let next_number = headers.last().map_or(1, |last| last.number + 1);
        // A segment is of no use if the one behind it starts at or before the first index we need.
        let mut useless = 0;
        while headers
            .get(useless + 1)
            .is_some_and(|next| next.first_index <= purged_next)
        {
            useless += 1;
        }
        for header in headers.drain(..useless) {
            self.remove(header.number)
                .map_err(|source| self.io(source))?;
        }

        let mut recovered = Recovered {
            promises,
            entries: Vec::new(),
            segments: Vec::new(),
            tail: None,
            next_number,
        };
        let mut last_index = None;
        for (at, header) in headers.iter().enumerate() {
            let next_first = headers.get(at + 1).map(|next| next.first_index);
            let end = self.recover_segment(*header, next_first, &mut recovered)?;
            recovered.tail = end.filter(|_| next_first.is_none());
            last_index = recovered
                .entries
                .last()
                .map(|placed| placed.entry.log_id.index);
        }
        recovered
            .entries
            .retain(|placed| placed.entry.log_id.index >= purged_next);
        // Everything in it is purged, perhaps far behind: the next record would leave a hole.
        if recovered.entries.is_empty() && last_index.is_some_and(|last| last + 1 < purged_next) {
            recovered.tail = None;
        }
        Ok(recovered)
    }

    /// Reads one segment; returns where it goes on, if it may.
    fn recover_segment(
        &self,
        header: SegmentHeader,
        next_first: Option<u64>,
        recovered: &mut Recovered,
    ) -> Result<Option<(u64, u32)>, LogError> {
        let path = self.segment_path(header.number);
        let bytes = std::fs::read(&path).map_err(|source| io_error(&path, source))?;
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|source| io_error(&path, source))?;
        let damaged = |offset: usize| LogError::Damaged {
            path: path.clone(),
            offset: offset as u64,
        };
        let mut offset = HEADER_BYTES as usize;
        let mut index = header.first_index;
        while let Some(record) = bytes
            .get(offset..)
            .and_then(|bytes| log_record::decode(bytes, header.number))
        {
            if record.entry.log_id.index != index {
                return Err(damaged(offset));
            }
            recovered.entries.push(Placed {
                entry: record.entry,
                segment: header.number,
                offset: offset as u32,
                length: record.length,
            });
            offset += record.length as usize;
            index += 1;
        }
        recovered.segments.push((header.number, Arc::new(file)));
        if let Some(next_first) = next_first {
            // The next segment was begun only when this one was complete and stable.
            return if index == next_first {
                Ok(None)
            } else {
                Err(damaged(offset))
            };
        }
        if log_record::stable_beyond(&bytes, offset, header.number) {
            return Err(damaged(offset));
        }
        let rest = bytes.get(offset..).unwrap_or_default();
        let written = if log_record::is_mark(rest, header.number, offset as u32) {
            MARK_BYTES
        } else {
            0
        };
        let untouched = rest.iter().skip(written).all(|byte| *byte == 0);
        if untouched && bytes.len() == self.segment_bytes as usize {
            return Ok(Some((header.number, offset as u32)));
        }
        // What a crash left of unfinished writes must not be met again behind later records.
        self.cut(header.number, offset as u32)
            .map_err(|source| self.io(source))?;
        Ok(None)
    }

    fn headers(&self) -> Result<Vec<SegmentHeader>, LogError> {
        let mut headers = Vec::new();
        for item in std::fs::read_dir(&self.path).map_err(|source| self.io(source))? {
            let item = item.map_err(|source| self.io(source))?;
            let name = item.file_name();
            let Some(number) = name.to_str().and_then(|name| name.strip_prefix("log-")) else {
                continue;
            };
            let path = item.path();
            let mut bytes = [0; HEADER_BYTES as usize];
            let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0));
            if let Some(found) = SegmentHeader::newer_format(&bytes) {
                return Err(LogError::Newer { path, found });
            }
            let header = read
                .ok()
                .and_then(|()| SegmentHeader::decode(&bytes))
                .filter(|header| format!("{:016x}", header.number) == number)
                .ok_or(LogError::Damaged { path, offset: 0 })?;
            headers.push(header);
        }
        headers.sort_unstable_by_key(|header| header.number);
        Ok(headers)
    }

    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        segment_path(&self.path, number)
    }

    fn io(&self, source: io::Error) -> LogError {
        io_error(&self.path, source)
    }
}

/// A segment of the log in a directory.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:016x}"))
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> LogError {
    LogError::Io {
        path: path.to_owned(),
        source,
    }
}
