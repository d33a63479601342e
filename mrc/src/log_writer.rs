//! The thread that writes the log: whatever arrived meanwhile goes out with one fdatasync.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use openraft::storage::IOFlushed;
use tokio::sync::{oneshot, watch};

use crate::consensus::TypeConfig;
use crate::log_dir::LogDir;
use crate::log_record::{self, SegmentHeader};
use crate::promises::Promises;
use crate::write_pace::WritePace;

/// Work for the thread, done in order.
pub(crate) enum Job {
    /// Bytes behind the ones before; the segment is open.
    Write {
        segment: u64,
        offset: u32,
        bytes: Vec<u8>,
    },
    /// Begins a segment.
    Begin(SegmentHeader),
    /// To be called when all jobs before are durable.
    Done(IOFlushed<TypeConfig>),
    /// Saves the promises, removes segments, cuts one; all before is durable first.
    Change {
        promises: Option<Promises>,
        /// Newest first when truncating, oldest first when purging.
        remove: Vec<u64>,
        cut: Option<(u64, u32)>,
        done: oneshot::Sender<io::Result<()>>,
    },
}

/// Open segment files, for readers.
pub(crate) type Files = Arc<Mutex<BTreeMap<u64, Arc<File>>>>;

/// Handle of the thread. With the last handle the thread ends, after doing what was queued.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Segment number in the high, stable offset in the low 32 bits.
    stable: Arc<AtomicU64>,
    pace: Arc<WritePace>,
    failure: watch::Receiver<Option<String>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was shown when it happened.
            let _panicked = thread.join();
        }
    }
}

impl LogWriter {
    pub(crate) fn start(dir: LogDir, files: Files, stable: Option<(u64, u32)>) -> io::Result<Self> {
        // Unbounded, because Raft's tasks must not block; what is in it belongs to requests that
        // `Config::proposals_in_flight_max` and Raft's own channel sizes bound.
        let (jobs, inbox) = channel();
        let stable = Arc::new(AtomicU64::new(stable.map_or(0, pack)));
        let pace = Arc::<WritePace>::default();
        let (failed, failure) = watch::channel(None);
        let thread = Thread {
            dir,
            files,
            stable: Arc::clone(&stable),
            pace: Arc::clone(&pace),
            pending: Vec::new(),
            callbacks: Vec::new(),
            failed,
        };
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || thread.run(&inbox))?;
        Ok(Self(Arc::new(Shared {
            jobs: Some(jobs),
            thread: Some(thread),
            stable,
            pace,
            failure,
        })))
    }

    pub(crate) fn send(&self, job: Job) -> io::Result<()> {
        let ended = || io::Error::other("the log's writer has ended");
        let jobs = self.0.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job).map_err(|_| ended())
    }

    /// How far the segment is known to be stable.
    pub(crate) fn stable(&self, segment: u64) -> u32 {
        let packed = self.0.stable.load(Ordering::Acquire);
        if packed >> 32 == segment & 0xffff_ffff {
            (packed & 0xffff_ffff) as u32
        } else {
            0
        }
    }

    /// How long the thread's writes take.
    pub(crate) fn pace(&self) -> &WritePace {
        &self.0.pace
    }

    /// Becomes `Some` when writing failed; the server must stop then.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.0.failure.clone()
    }
}

const fn pack((segment, offset): (u64, u32)) -> u64 {
    (segment << 32) | offset as u64
}

struct Thread {
    dir: LogDir,
    files: Files,
    stable: Arc<AtomicU64>,
    pace: Arc<WritePace>,
    /// Contiguous bytes not yet written, with where they go.
    pending: Vec<(u64, u32, Vec<u8>)>,
    callbacks: Vec<IOFlushed<TypeConfig>>,
    failed: watch::Sender<Option<String>>,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(first) = inbox.recv() {
            let mut next = Some(first);
            while let Some(job) = next {
                self.take(job);
                next = inbox.try_recv().ok();
            }
            let _failed = self.flush();
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Write {
                segment,
                offset,
                bytes,
            } => match self.pending.last_mut() {
                Some((last, at, gathered))
                    if *last == segment && *at as usize + gathered.len() == offset as usize =>
                {
                    gathered.extend_from_slice(&bytes);
                }
                _ => self.pending.push((segment, offset, bytes)),
            },
            Job::Begin(header) => {
                // A segment that has a successor is complete and stable: recovery relies on it.
                if self.flush_pending().is_ok() {
                    let begun = self.dir.add(header).map(|file| {
                        lock(&self.files).insert(header.number, file);
                    });
                    let begun = begun.map_err(|error| self.name(header.number, &error));
                    let _failed = self.check(begun);
                }
            }
            Job::Done(callback) => self.callbacks.push(callback),
            Job::Change {
                promises,
                remove,
                cut,
                done,
            } => {
                let result = self.flush().and_then(|()| {
                    let changed = self.change(promises.as_ref(), &remove, cut);
                    self.check(changed)
                });
                let _gone = done.send(result);
            }
        }
    }

    fn change(
        &self,
        promises: Option<&Promises>,
        remove: &[u64],
        cut: Option<(u64, u32)>,
    ) -> io::Result<()> {
        if let Some(promises) = promises {
            self.dir.save(promises).map_err(io::Error::other)?;
        }
        for number in remove {
            lock(&self.files).remove(number);
            self.dir
                .remove(*number)
                .map_err(|error| self.name(*number, &error))?;
        }
        if let Some((number, offset)) = cut {
            self.dir
                .cut(number, offset)
                .map_err(|error| self.name(number, &error))?;
        }
        if remove.is_empty() {
            Ok(())
        } else {
            self.dir.sync()
        }
    }

    /// Writes and syncs what is pending, then tells everybody who waits.
    fn flush(&mut self) -> io::Result<()> {
        let result = self.flush_pending();
        for callback in self.callbacks.drain(..) {
            callback.io_completed(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
        result
    }

    fn flush_pending(&mut self) -> io::Result<()> {
        if let Some(failure) = self.failed.borrow().as_ref() {
            return Err(io::Error::other(failure.clone()));
        }
        let pending = std::mem::take(&mut self.pending);
        for (segment, offset, bytes) in pending {
            let timed = self.pace.time();
            let written = self
                .write(segment, offset, &bytes)
                .map_err(|error| self.name(segment, &error));
            drop(timed);
            self.check(written)?;
        }
        Ok(())
    }

    /// The failure with the file it is about.
    fn name(&self, segment: u64, error: &io::Error) -> io::Error {
        let path = self.dir.segment_path(segment);
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    }

    fn write(&self, segment: u64, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let file = lock(&self.files).get(&segment).map(Arc::clone);
        let file = file.ok_or_else(|| io::Error::other("log segment is not open"))?;
        file.write_all_at(bytes, u64::from(offset))?;
        file.sync_data()?;
        let end = offset + u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // Not synced: it reaches the disk with the next batch, or when the kernel finds time. Until
        // then a loss of power takes it, and what it tells is not known.
        file.write_all_at(&log_record::mark(segment, end), u64::from(end))?;
        self.stable.store(pack((segment, end)), Ordering::Release);
        Ok(())
    }

    /// Remembers the first failure for good: pages that failed to reach the disk are marked clean,
    /// so a second fdatasync would succeed without having written them.
    fn check(&self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            self.failed.send_if_modified(|failure| {
                let first = failure.is_none();
                if first {
                    *failure = Some(error.to_string());
                }
                first
            });
        }
        result
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
