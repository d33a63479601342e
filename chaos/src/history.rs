//! Everything the clients do and see, while they do it.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::operation::{Outcome, Record};

/// The clock of all times: monotonic, and the same in all processes of the machine.
pub(crate) fn now_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        // It exists on every Linux.
        return 0;
    };
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(now.tv_sec()) * 1_000_000_000 + part(now.tv_nsec())
}

/// A history that is being made.
#[derive(Debug, Default)]
pub(crate) struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    /// Operations under way, as records that hang.
    running: Vec<Record>,
}

impl History {
    /// One that goes on from these operations.
    pub(crate) fn of(records: Vec<Record>) -> Self {
        let running = Vec::new();
        Self {
            inner: Mutex::new(Inner { records, running }),
        }
    }

    /// Takes what a client tells: an operation that begins, as one that hangs, or one that ended.
    pub(crate) fn add(&self, record: Record) {
        let mut inner = self.lock();
        inner.running.retain(|it| it.client != record.client);
        if record.outcome == Outcome::Hanging {
            inner.running.push(record);
        } else {
            inner.records.push(record);
        }
    }

    /// How many operations are under way.
    pub(crate) fn running(&self) -> usize {
        self.lock().running.len()
    }

    /// All operations so far; those under way as hanging ones.
    pub(crate) fn records(&self) -> Vec<Record> {
        let inner = self.lock();
        let mut records = inner.records.clone();
        records.extend(inner.running.iter().cloned());
        records.sort_by_key(|record| record.began_ns);
        records
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one JSON object per line.
///
/// # Errors
///
/// Of the file system.
pub(crate) fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for line in lines {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}
