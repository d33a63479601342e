//! Everything the clients do and see, while they do it.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::operation::{Operation, Outcome, Record};

/// A history that is being made.
#[derive(Debug)]
pub(crate) struct History {
    origin: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    /// Operations under way, as records that hang.
    running: Vec<Record>,
}

impl History {
    /// An empty history whose clock (`CLOCK_MONOTONIC`) begins now.
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            inner: Mutex::default(),
        }
    }

    /// The history's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Performs an operation of a client between two looks at the clock.
    pub(crate) fn record(
        &self,
        (client, mount): (u32, u8),
        operation: Operation,
        perform: impl FnOnce(&Operation) -> Outcome,
    ) {
        let mut record = Record {
            client,
            mount,
            began_ns: self.now_ns(),
            ended_ns: u64::MAX,
            operation,
            outcome: Outcome::Hanging,
        };
        self.lock().running.push(record.clone());
        record.outcome = perform(&record.operation);
        record.ended_ns = self.now_ns();
        let mut inner = self.lock();
        inner.running.retain(|other| other.client != client);
        inner.records.push(record);
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
