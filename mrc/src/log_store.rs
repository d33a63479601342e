//! Raft's log on disk: [`RaftLogStorage`] over segments, an index of positions and recent entries.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{oneshot, watch};

use crate::config::{LOG_CACHE_BYTES_MAX, LOG_READ_BYTES_MAX};
use crate::consensus::{Entry, LogId, TypeConfig, Vote};
use crate::damage::Damage;
use crate::log_dir::{LogDir, LogError, segment_path};
use crate::log_record::{self, HEADER_BYTES, SegmentHeader};
use crate::log_writer::{Files, Job, LogWriter, lock};
use crate::promises::Promises;
use crate::spare::Spare;
use crate::write_pace::WritePace;

/// The log of one member; clones are handles of the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    shared: Arc<Mutex<Log>>,
    files: Files,
    writer: LogWriter,
    spare: Spare,
    path: PathBuf,
    damage: Damage,
}

#[derive(Debug)]
struct Log {
    promises: Promises,
    /// Contiguous; the first has index `first`.
    slots: VecDeque<Slot>,
    first: u64,
    /// Slots before this position in the log are not cached.
    cached_from: u64,
    cached_bytes: usize,
    /// Segment numbers in use with their first index, oldest first.
    segments: VecDeque<SegmentHeader>,
    tail: Option<(u64, u32)>,
    next_number: u64,
    segment_bytes: u32,
}

#[derive(Debug)]
struct Slot {
    id: LogId,
    segment: u64,
    offset: u32,
    length: u32,
    cached: Option<Entry>,
}

impl LogStore {
    /// Opens a log; a new one belongs to the member `fresh_number`.
    ///
    /// # Errors
    ///
    /// [`LogError`]: damage in what was stable, or a directory that can't be read. A torn tail is
    /// no error.
    pub(crate) fn open(
        path: &Path,
        segment_bytes: u32,
        fresh_number: u64,
    ) -> Result<Self, LogError> {
        LogDir::create(path, fresh_number)?;
        let mut dir = LogDir::at(path, segment_bytes);
        dir.lock()?;
        let recovered = dir.recover()?;
        let mut headers: BTreeMap<u64, u64> = BTreeMap::new();
        for placed in &recovered.entries {
            headers
                .entry(placed.segment)
                .or_insert(placed.entry.log_id.index);
        }
        let first = recovered.promises.purged.map_or(0, |id| id.index + 1);
        let mut log = Log {
            promises: recovered.promises,
            slots: VecDeque::with_capacity(recovered.entries.len()),
            first: recovered
                .entries
                .first()
                .map_or(first, |placed| placed.entry.log_id.index),
            cached_from: 0,
            cached_bytes: 0,
            segments: VecDeque::new(),
            tail: recovered.tail,
            next_number: recovered.next_number,
            segment_bytes,
        };
        for (number, _) in &recovered.segments {
            log.segments.push_back(SegmentHeader {
                number: *number,
                first_index: headers.get(number).copied().unwrap_or(first),
            });
        }
        for placed in recovered.entries {
            log.push(placed.entry, placed.segment, placed.offset, placed.length);
        }
        let stable = log.tail;
        let files: Files = Arc::new(Mutex::new(recovered.segments.into_iter().collect()));
        let spare = dir.spare().clone();
        let writer =
            LogWriter::start(dir, Arc::clone(&files), stable).map_err(|source| LogError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            shared: Arc::new(Mutex::new(log)),
            files,
            writer,
            spare,
            path: path.to_owned(),
            damage: Damage::default(),
        })
    }

    /// Becomes `Some` when the log can't be written any more; the server must stop then.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.writer.failure()
    }

    /// Hears of records that can't be read, and of whatever else of this server's files is damaged.
    pub(crate) const fn damage(&self) -> &Damage {
        &self.damage
    }

    /// How long writes take.
    pub(crate) fn pace(&self) -> &WritePace {
        self.writer.pace()
    }

    /// The segment held for a full disk.
    pub(crate) fn spare(&self) -> &Spare {
        &self.spare
    }

    /// Whether purging can give back a segment.
    pub(crate) fn has_older_segments(&self) -> bool {
        lock(&self.shared).segments.len() > 1
    }

    /// This member's number in Raft.
    pub(crate) fn number(&self) -> u64 {
        lock(&self.shared).promises.number
    }

    /// Whether nothing was ever logged here: a vote alone binds nobody without a log.
    pub(crate) fn is_pristine(&self) -> bool {
        let log = lock(&self.shared);
        log.slots.is_empty() && log.promises.purged.is_none()
    }

    /// Whether this member never promised anything to anybody.
    pub(crate) fn promised_nothing(&self) -> bool {
        self.is_pristine() && lock(&self.shared).promises.vote.is_none()
    }

    /// Position of the newest entry that was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        lock(&self.shared).promises.purged
    }

    async fn change(
        &self,
        prepare: impl FnOnce(&mut Log, oneshot::Sender<io::Result<()>>) -> Job,
    ) -> io::Result<()> {
        let (done, waiting) = oneshot::channel();
        {
            let mut log = lock(&self.shared);
            // Sent under the lock, so that the writer sees changes in the order of the log's.
            self.writer.send(prepare(&mut log, done))?;
        }
        waiting
            .await
            .map_err(|_| io::Error::other("the log's writer has ended"))?
    }

    /// Entries of `range`; stops at `bytes_max`, but never before the first.
    fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        {
            let log = lock(&self.shared);
            let (start, end) = bounds(&range);
            let skip = start.saturating_sub(log.first) as usize;
            let take = end.saturating_sub(start.max(log.first)) as usize;
            let mut bytes = 0;
            for slot in log.slots.iter().skip(skip).take(take) {
                bytes += slot.length as usize;
                if bytes > bytes_max && !found.is_empty() {
                    break;
                }
                found.push(match &slot.cached {
                    Some(entry) => Found::Cached(entry.clone()),
                    None => Found::Stored {
                        index: slot.id.index,
                        segment: slot.segment,
                        offset: slot.offset,
                        length: slot.length,
                    },
                });
            }
        }
        found.into_iter().map(|found| self.fetch(found)).collect()
    }

    fn fetch(&self, found: Found) -> io::Result<Entry> {
        let (index, segment, offset, length) = match found {
            Found::Cached(entry) => return Ok(entry),
            Found::Stored {
                index,
                segment,
                offset,
                length,
            } => (index, segment, offset, length),
        };
        let file = lock(&self.files).get(&segment).map(Arc::clone);
        let gone = || io::Error::other(format!("log entry {index} was removed while it was read"));
        let mut bytes = vec![0; length as usize];
        let read = file
            .ok_or_else(gone)?
            .read_exact_at(&mut bytes, u64::from(offset));
        let record = read.ok().and_then(|()| log_record::decode(&bytes, segment));
        if let Some(record) = record {
            return Ok(record.entry);
        }
        if lock(&self.shared).place(index) != Some((segment, offset)) {
            return Err(gone());
        }
        let path = segment_path(&self.path, segment);
        let what = format!("{}: the log is damaged at offset {offset}", path.display());
        self.damage.found(&what);
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

/// The range as half-open.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

enum Found {
    Cached(Entry),
    Stored {
        index: u64,
        segment: u64,
        offset: u32,
        length: u32,
    },
}

impl Log {
    fn last(&self) -> Option<LogId> {
        self.slots
            .back()
            .map(|slot| slot.id)
            .or(self.promises.purged)
    }

    /// Segment and offset of an entry that is in the log.
    fn place(&self, index: u64) -> Option<(u64, u32)> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get(at)?;
        Some((slot.segment, slot.offset))
    }

    fn next_index(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn push(&mut self, entry: Entry, segment: u64, offset: u32, length: u32) {
        self.cached_bytes += length as usize;
        self.slots.push_back(Slot {
            id: entry.log_id,
            segment,
            offset,
            length,
            cached: Some(entry),
        });
    }

    /// Forgets the oldest cached entries that are stable, down to the limit.
    fn shrink_cache(&mut self, stable_segment: u64, stable_offset: u32) {
        while self.cached_bytes > LOG_CACHE_BYTES_MAX {
            let at = self.cached_from.saturating_sub(self.first) as usize;
            let Some(slot) = self.slots.get_mut(at) else {
                return;
            };
            if (slot.segment, slot.offset + slot.length) > (stable_segment, stable_offset) {
                return;
            }
            if slot.cached.take().is_some() {
                self.cached_bytes -= slot.length as usize;
            }
            self.cached_from = self.first + at as u64 + 1;
        }
    }

    fn forget(&mut self, slot: &Slot) {
        if slot.cached.is_some() {
            self.cached_bytes -= slot.length as usize;
        }
    }

    /// Places the entries and returns the jobs that write them.
    fn append(
        &mut self,
        entries: impl Iterator<Item = Entry>,
        stable: impl Fn(u64) -> u32,
    ) -> io::Result<Vec<Job>> {
        let mut jobs = Vec::new();
        // Where the gathered bytes of the current segment go.
        let mut gathered: Option<(u64, u32, Vec<u8>)> = None;
        let write = |(segment, offset, bytes): (u64, u32, Vec<u8>)| Job::Write {
            segment,
            offset,
            bytes,
        };
        for entry in entries {
            let bound = log_record::length_bound(&entry);
            if bound as u64 + HEADER_BYTES > u64::from(self.segment_bytes) {
                return Err(io::Error::other("log entry is longer than a segment"));
            }
            let index = entry.log_id.index;
            if self.slots.is_empty() {
                self.first = index;
            } else if index != self.next_index() {
                return Err(io::Error::other("log entries are not contiguous"));
            }
            let (segment, offset) = match self.tail {
                Some((segment, offset))
                    if offset as usize + bound <= self.segment_bytes as usize =>
                {
                    (segment, offset)
                }
                _ => {
                    jobs.extend(gathered.take().map(write));
                    let header = SegmentHeader {
                        number: self.next_number,
                        first_index: index,
                    };
                    self.next_number += 1;
                    self.segments.push_back(header);
                    jobs.push(Job::Begin(header));
                    (header.number, HEADER_BYTES as u32)
                }
            };
            let (_, _, bytes) = gathered.get_or_insert_with(|| (segment, offset, Vec::new()));
            let length = log_record::encode(&entry, segment, stable(segment), bytes)
                .map_err(io::Error::other)?;
            self.tail = Some((segment, offset + length));
            self.push(entry, segment, offset, length);
        }
        jobs.extend(gathered.map(write));
        Ok(jobs)
    }

    /// Drops everything behind `last` and says what to do about the files.
    fn truncate(&mut self, last: Option<LogId>, done: oneshot::Sender<io::Result<()>>) -> Job {
        let keep = last.map_or(0, |id| (id.index + 1).saturating_sub(self.first) as usize);
        let mut remove = Vec::new();
        let mut cut = None;
        if keep < self.slots.len() {
            while self.slots.len() > keep {
                if let Some(slot) = self.slots.pop_back() {
                    self.forget(&slot);
                    cut = Some((slot.segment, slot.offset));
                }
            }
            let (segment, offset) = cut.unwrap_or_default();
            while self.segments.back().is_some_and(|header| {
                header.number > segment
                    || (header.number == segment && u64::from(offset) == HEADER_BYTES)
            }) {
                remove.extend(self.segments.pop_back().map(|header| header.number));
            }
            cut = cut.filter(|_| !remove.contains(&segment));
            self.tail = None;
            self.cached_from = self.cached_from.min(self.next_index());
        }
        Job::Change {
            promises: None,
            remove,
            cut,
            done,
        }
    }

    /// Drops everything up to `upto` and says which files go.
    fn purge(&mut self, upto: LogId, done: oneshot::Sender<io::Result<()>>) -> Job {
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.id.index <= upto.index)
        {
            if let Some(slot) = self.slots.pop_front() {
                self.forget(&slot);
            }
            self.first += 1;
        }
        if self.slots.is_empty() {
            self.first = self.first.max(upto.index + 1);
        }
        self.cached_from = self.cached_from.max(self.first);
        self.promises.purged = self.promises.purged.max(Some(upto));
        let mut remove = Vec::new();
        // A hole would follow the last record, so the next one begins a segment.
        let all = self.slots.is_empty();
        while self.segments.front().is_some_and(|_| {
            let next = self.segments.get(1).map(|next| next.first_index);
            next.map_or(all, |next| next <= upto.index + 1)
        }) {
            remove.extend(self.segments.pop_front().map(|header| header.number));
        }
        if all {
            self.tail = None;
        }
        Job::Change {
            promises: Some(self.promises.clone()),
            remove,
            cut: None,
            done,
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range, usize::MAX)
    }

    /// In pieces: after a restart the range may be the whole log.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        let pieces = stream::unfold(Some(start), move |start| {
            let piece = start.filter(|start| *start < end).map(|start| {
                let piece = log.read(start..end, LOG_READ_BYTES_MAX);
                let next = match &piece {
                    Ok(entries) => entries.last().map(|entry| entry.log_id.index + 1),
                    Err(_) => None,
                };
                (piece, next)
            });
            std::future::ready(piece)
        });
        pieces.flat_map(|piece| {
            stream::iter(match piece {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(lock(&self.shared).promises.vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, LOG_READ_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = lock(&self.shared);
        Ok(LogState {
            last_purged_log_id: log.promises.purged,
            last_log_id: log.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.change(|log, done| {
            log.promises.vote = Some(vote);
            Job::Change {
                promises: Some(log.promises.clone()),
                remove: Vec::new(),
                cut: None,
                done,
            }
        })
        .await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut log = lock(&self.shared);
        let jobs = log.append(entries.into_iter(), |segment| self.writer.stable(segment))?;
        for job in jobs {
            self.writer.send(job)?;
        }
        self.writer.send(Job::Done(callback))?;
        if let Some((segment, _)) = log.tail {
            let stable = self.writer.stable(segment);
            log.shrink_cache(segment, stable);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.change(|log, done| log.truncate(last_log_id, done))
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.change(|log, done| log.purge(log_id, done)).await
    }
}
