//! Reads of a program that also writes, against a model: whenever the primary gets the writes and
//! whenever it is asked for bytes ahead, a read shows what a local file would.

use std::collections::VecDeque;

use proptest::prelude::*;
use types::{Duration, OsdId};

use super::*;
use crate::changes::{Answer, Change, Changes, Effect, IdSource};
use crate::config::ChangeLimits;
use crate::route::Route;

/// Longest file. 120: several windows.
const FILE_BYTES: u64 = 120;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Truncate(u64),
    /// Continues the read before, as programs mostly do.
    ReadOn(u64),
    ReadAt(u64, u64),
    Time(u64),
    /// The primary does the oldest change that travels; its answer begins to travel.
    Apply,
    /// An answer arrives.
    Answer,
    /// The primary reads what was asked for ahead; the bytes begin to travel.
    Fetch(usize),
    /// Bytes read ahead arrive.
    Fetched(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        3 => (0..FILE_BYTES - 40, bytes).prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
        1 => (0..FILE_BYTES).prop_map(Step::Truncate),
        12 => (1_u64..12).prop_map(Step::ReadOn),
        1 => (0..FILE_BYTES, 1_u64..40).prop_map(|(offset, length)| Step::ReadAt(offset, length)),
        2 => (1_u64..60).prop_map(Step::Time),
        4 => Just(Step::Apply),
        4 => Just(Step::Answer),
        4 => (0_usize..4).prop_map(Step::Fetch),
        4 => (0_usize..4).prop_map(Step::Fetched),
    ]
}

struct Run {
    now: Instant,
    ids: IdSource,
    changes: Changes,
    ahead: ReadAhead,
    /// What a local file would be.
    model: Vec<u8>,
    /// What the primary has.
    object: Vec<u8>,
    sent: VecDeque<(u64, u64, Change)>,
    done: VecDeque<(u64, Answer)>,
    asked: Vec<Fetch>,
    read: Vec<(Fetch, Bytes)>,
    position: u64,
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    file.resize(file.len().max(end), 0);
    file[offset as usize..end].copy_from_slice(bytes);
}

fn part(file: &[u8], offset: u64, length: u64) -> Bytes {
    let from = (offset as usize).min(file.len());
    let to = ((offset + length) as usize).min(file.len());
    Bytes::copy_from_slice(&file[from..to])
}

impl Run {
    fn new(size: usize) -> Self {
        let limits = ChangeLimits {
            chunk_bytes: 16,
            ..ChangeLimits::default()
        };
        let ahead = ReadAheadLimits {
            window_bytes: 16,
            windows_max: 3,
            age_max: Duration::from_secs(1_000),
        };
        let content: Vec<u8> = (0..size).map(|at| at as u8).collect();
        Self {
            now: Instant::ZERO,
            ids: IdSource::new(),
            changes: Changes::new(Route::new(vec![OsdId(1)]), limits, None),
            ahead: ReadAhead::new(ahead),
            model: content.clone(),
            object: content,
            sent: VecDeque::new(),
            done: VecDeque::new(),
            asked: Vec::new(),
            read: Vec::new(),
            position: 0,
        }
    }

    fn effects(&mut self, out: Vec<Effect>) {
        for effect in out {
            if let Effect::Send {
                token,
                order,
                change,
                ..
            } = effect
            {
                self.sent.push_back((token, order.change_id, change));
            }
        }
    }

    fn apply(&mut self) {
        let Some((token, change_id, change)) = self.sent.pop_front() else {
            return;
        };
        match change {
            Change::Write { offset, bytes } => put(&mut self.object, offset, &bytes),
            Change::Truncate { length } => self.object.resize(length as usize, 0),
            Change::Append { .. } | Change::Sync => {}
        }
        let answer = Answer {
            change_id,
            ..Answer::default()
        };
        self.done.push_back((token, answer));
    }

    fn answer(&mut self) {
        if let Some((token, answer)) = self.done.pop_front() {
            let mut out = Vec::new();
            self.changes
                .answered(self.now, &self.ids, token, answer, &mut out);
            self.effects(out);
        }
    }

    fn drain(&mut self) {
        let mut out = Vec::new();
        self.changes.flush(self.now, &self.ids, &mut out);
        self.effects(out);
        while !self.changes.is_idle() {
            self.apply();
            self.answer();
        }
    }

    fn fetch(&mut self, index: usize) {
        if index < self.asked.len() {
            let fetch = self.asked.remove(index);
            let bytes = part(&self.object, fetch.offset, fetch.length);
            self.read.push((fetch, bytes));
        }
    }

    fn fetched(&mut self, index: usize) {
        if index < self.read.len() {
            let (fetch, bytes) = self.read.remove(index);
            self.ahead.fetched(fetch, Some(bytes));
        }
    }

    /// Reads as a mount does, and compares.
    fn read(&mut self, offset: u64, length: u64) {
        let mut pending_end = self.changes.pending_end();
        let mut bytes = None;
        if self.changes.concerns(offset, length) {
            bytes = self.changes.peek(offset, length);
            if bytes.is_none() {
                self.drain();
                pending_end = 0;
            }
        }
        let bytes = bytes.unwrap_or_else(|| {
            let mut bytes = self.read_ordered(offset, length).to_vec();
            let visible = pending_end.saturating_sub(offset).min(length) as usize;
            bytes.resize(bytes.len().max(visible), 0);
            bytes.into()
        });
        assert_eq!(bytes, part(&self.model, offset, length), "read at {offset}");
        self.position = offset + bytes.len() as u64;
    }

    fn read_ordered(&mut self, offset: u64, length: u64) -> Bytes {
        loop {
            let version = self.changes.settled_version();
            match self.ahead.read(self.now, version, offset, length) {
                Served::Bytes(bytes) => {
                    self.plan();
                    return bytes;
                }
                Served::Wait(_) => {
                    self.fetch(0);
                    self.fetched(0);
                }
                Served::Miss => {
                    let bytes = part(&self.object, offset, length);
                    let got = bytes.len() as u64;
                    self.ahead.missed(self.now, version, offset, length, got);
                    self.plan();
                    return bytes;
                }
            }
        }
    }

    fn plan(&mut self) {
        let size = (self.model.len() as u64).max(self.changes.pending_end());
        let version = self.changes.settled_version();
        self.asked.extend(self.ahead.plan(self.now, version, size));
    }

    fn one(&mut self, step: Step) {
        let mut out = Vec::new();
        match step {
            Step::Write(offset, bytes) => {
                put(&mut self.model, offset, &bytes);
                self.changes
                    .write(self.now, &self.ids, offset, &bytes, &mut out);
            }
            Step::Truncate(length) => {
                self.model.resize(length as usize, 0);
                let change = Change::Truncate { length };
                self.changes.add(self.now, &self.ids, change, &mut out);
            }
            Step::ReadOn(length) => self.read(self.position, length),
            Step::ReadAt(offset, length) => self.read(offset, length),
            Step::Time(ms) => {
                self.now += Duration::from_millis(ms);
                self.changes.tick(self.now, &self.ids, &mut out);
            }
            Step::Apply => self.apply(),
            Step::Answer => self.answer(),
            Step::Fetch(index) => self.fetch(index),
            Step::Fetched(index) => self.fetched(index),
        }
        self.effects(out);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Neither old bytes nor an end that was the file's before.
    #[test]
    fn prop_reads_show_every_write_of_this_mount(
        size in 0_usize..FILE_BYTES as usize,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new(size);

        for step in steps {
            run.one(step);
        }
    }
}
