//! What a mount did for programs: requests, how long they took, and which of them failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proto::mrc::MountNumbers;
use shell::metrics::Metric;
use shell::times::{Histogram, Times};

use crate::errno::Errno;

/// Counts since the mount was made.
#[derive(Debug, Default)]
pub(crate) struct Served {
    times: Times,
    waiting: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    io_errors: AtomicU64,
    no_space: AtomicU64,
    stale: AtomicU64,
    interrupted: AtomicU64,
    /// Whatever a program may cause itself, as to ask for a file that is not there.
    other_errors: AtomicU64,
}

/// A request that is being served; dropped unanswered, it only waits no more.
#[derive(Debug)]
pub(crate) struct Serving {
    served: Arc<Served>,
    begun: Instant,
}

impl Served {
    /// A request came.
    pub(crate) fn begin(self: &Arc<Self>) -> Serving {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Serving {
            served: Arc::clone(self),
            begun: Instant::now(),
        }
    }

    /// A program was given so many bytes of a file.
    pub(crate) fn read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A program gave so many bytes for a file.
    pub(crate) fn written(&self, bytes: usize) {
        self.written_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn error(&self, errno: i32) {
        let counter = match errno {
            libc::EIO => &self.io_errors,
            libc::ENOSPC => &self.no_space,
            libc::ESTALE => &self.stale,
            libc::EINTR => &self.interrupted,
            _ => &self.other_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// For collectors.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let error = |word, counter| {
            Metric::counter("oxfs_client_errors", ERRORS_HELP, read(counter)).with("errno", word)
        };
        vec![
            Metric::times("oxfs_client_seconds", TIMES_HELP, self.times.read()),
            Metric::gauge("oxfs_client_waiting", WAITING_HELP, read(&self.waiting)),
            Metric::counter(
                "oxfs_client_read_bytes",
                "Bytes of files that programs read",
                read(&self.read_bytes),
            ),
            Metric::counter(
                "oxfs_client_written_bytes",
                "Bytes of files that programs wrote",
                read(&self.written_bytes),
            ),
            error("EIO", &self.io_errors),
            error("ENOSPC", &self.no_space),
            error("ESTALE", &self.stale),
            error("EINTR", &self.interrupted),
            error("other", &self.other_errors),
        ]
    }

    /// For the metadata cluster. `before` are the times as they were told last, and become those of now.
    pub(crate) fn numbers(&self, before: &mut Histogram) -> MountNumbers {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let times = self.times.read();
        let p99_us = times.since(before).quantile_us(990);
        *before = times;
        MountNumbers {
            release: shell::RELEASE.to_owned(),
            operations: times.count(),
            read_bytes: read(&self.read_bytes),
            written_bytes: read(&self.written_bytes),
            waiting: read(&self.waiting),
            p99_us: p99_us.unwrap_or(0),
            io_errors: read(&self.io_errors),
            metrics_address: String::new(),
        }
    }
}

impl Serving {
    /// The program is answered.
    pub(crate) fn end<T>(self, outcome: &Result<T, Errno>) {
        self.served.times.note(self.begun.elapsed());
        if let Err(errno) = outcome {
            self.served.error(errno.0);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.served.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

const TIMES_HELP: &str = "From a program's request to its answer";
const WAITING_HELP: &str = "Requests of programs that are not answered yet";
const ERRORS_HELP: &str = "Requests of programs that failed, by what they were told";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_their_failures_are_counted_and_told_since_the_last_time() {
        let served = Arc::new(Served::default());
        let mut before = Histogram::default();
        served.begin().end(&Ok(()));
        served.written(10);
        let first = served.numbers(&mut before);
        assert_eq!((first.operations, first.waiting), (1, 0));
        assert!(first.p99_us > 0);

        let open = served.begin();
        served.begin().end::<()>(&Err(Errno(libc::EIO)));
        served.begin().end::<()>(&Err(Errno(libc::ENOENT)));
        drop(served.begin());
        let second = served.numbers(&mut before);

        assert_eq!((second.operations, second.waiting), (3, 1));
        assert_eq!((second.io_errors, second.written_bytes), (1, 10));
        drop(open);
        assert_eq!(served.numbers(&mut before).p99_us, 0, "nothing since");
    }
}
