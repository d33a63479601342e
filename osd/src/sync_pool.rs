//! Threads that wait for the disk.
//!
//! A few waiting jobs run side by side, each with its own two syncs. When many wait, one thread
//! takes them all and makes the whole file system stable twice: once for data and sums, once for
//! the records. Jobs nobody waits for are always taken together. Where the file system can't be made stable as
//! a whole, each job makes its own syncs, however many wait.
//!
//! A job that must be prepared joins the others only afterwards. One thread at a time prepares, and
//! does other work that waits after every part of it, so that nobody waits for more than a part.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use osd_core::{StoreError, SyncJob};

use crate::config::{LAZY_GATHER, SYNC_ALONE_MAX};
use crate::store_root::Root;
use crate::worker;

/// What happens once a job is done.
pub(crate) type OnDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Task {
    job: Box<dyn SyncJob>,
    on_done: OnDone,
}

/// The threads and what waits for them.
pub(crate) struct SyncPool {
    root: Arc<Root>,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    urgent: VecDeque<Task>,
    lazy: Vec<Task>,
    /// When the lazy ones that wait are taken: a little later than the first came.
    lazy_at: Option<Instant>,
    unprepared: VecDeque<Task>,
    /// A thread is preparing one.
    preparing: bool,
    /// Preparing was the last work that a thread took.
    prepared_last: bool,
    /// A thread is making the whole file system stable.
    sweeping: bool,
    stopped: bool,
}

/// A step of a job.
type Step = fn(&mut dyn SyncJob) -> Result<(), StoreError>;

enum Work {
    One(Task),
    Many(Vec<Task>),
    Prepare(Task),
    GiveUp(VecDeque<Task>),
}

impl std::fmt::Debug for SyncPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncPool").finish_non_exhaustive()
    }
}

impl SyncPool {
    /// Starts the threads.
    pub(crate) fn start(
        root: Arc<Root>,
        threads: usize,
    ) -> io::Result<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let pool = Arc::new(Self {
            root,
            state: Mutex::default(),
            ready: Condvar::new(),
        });
        let mut handles = Vec::new();
        for number in 0..threads {
            let pool = Arc::clone(&pool);
            handles.push(worker::spawn(format!("sync-{number}"), move || {
                pool.serve();
            })?);
        }
        Ok((pool, handles))
    }

    /// Runs a job on one of the threads. Their number is bounded by that of the replicas in memory,
    /// since each has one job at a time.
    pub(crate) fn submit(&self, job: Box<dyn SyncJob>, lazy: bool, on_done: OnDone) {
        let task = Task { job, on_done };
        let unprepared = !task.job.is_prepared();
        let mut state = self.lock();
        match (unprepared, lazy) {
            (true, _) => state.unprepared.push_back(task),
            (false, true) => state.push_lazy(task),
            (false, false) => state.urgent.push_back(task),
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Lets the threads finish what waits, then end. What is not prepared is given up: it may take
    /// long, and the next start finds what was not made clean.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.ready.notify_all();
    }

    fn serve(&self) {
        while let Some(work) = self.next() {
            match work {
                Work::One(mut task) => {
                    let result = task.job.run();
                    (task.on_done)(result);
                }
                Work::Many(tasks) => {
                    match self.root.syncs_together() {
                        true => self.sweep(tasks),
                        false => run_each(tasks),
                    }
                    self.lock().sweeping = false;
                    self.ready.notify_all();
                }
                Work::Prepare(task) => self.prepare(task),
                Work::GiveUp(tasks) => {
                    for task in tasks {
                        let stopped = io::Error::from(io::ErrorKind::Interrupted);
                        (task.on_done)(Err(StoreError::Io(stopped)));
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.take_preparing() {
                return Some(work);
            }
            state.prepared_last = false;
            let now = Instant::now();
            let lazy = state.lazy_at.is_some_and(|at| at <= now || state.stopped);
            let many = state.urgent.len() > SYNC_ALONE_MAX && self.root.syncs_together();
            if (many || lazy) && !state.sweeping {
                state.sweeping = true;
                state.lazy_at = None;
                let mut tasks = std::mem::take(&mut state.lazy);
                // With few urgent ones it is faster for them to go alone.
                if many {
                    tasks.extend(state.urgent.drain(..));
                }
                if tasks.len() == 1 {
                    state.sweeping = false;
                    return tasks.pop().map(Work::One);
                }
                return Some(Work::Many(tasks));
            }
            if let Some(task) = state.urgent.pop_front() {
                return Some(Work::One(task));
            }
            if state.stopped && state.lazy.is_empty() {
                return None;
            }
            // One that sweeps looks again by itself.
            let wait = state.lazy_at.filter(|_| !state.sweeping);
            state = match wait {
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    self.ready
                        .wait_timeout(state, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .ready
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Prepares a part; the job joins the others after the last one.
    fn prepare(&self, mut task: Task) {
        let result = task.job.prepare();
        let prepared = task.job.is_prepared();
        let mut state = self.lock();
        state.preparing = false;
        match (result, prepared) {
            (Err(error), _) => {
                drop(state);
                (task.on_done)(Err(error));
            }
            (Ok(()), true) => state.push_lazy(task),
            (Ok(()), false) => state.unprepared.push_back(task),
        }
    }

    /// Makes many objects stable with two syncs of the file system.
    fn sweep(&self, mut tasks: Vec<Task>) {
        let steps: [Step; 2] = [|job| job.write_data(false), |job| job.write_record(false)];
        for step in steps {
            tasks = step_each(tasks, step);
            if tasks.is_empty() {
                return;
            }
            if self.sync_all().is_err() {
                for task in tasks {
                    (task.on_done)(Err(StoreError::Poisoned));
                }
                return;
            }
        }
        for task in tasks {
            (task.on_done)(Ok(()));
        }
    }

    fn sync_all(&self) -> Result<(), StoreError> {
        if self.root.is_poisoned() {
            return Err(StoreError::Poisoned);
        }
        self.root.sync_all().map_err(|error| {
            self.root.poison(&error);
            StoreError::Io(error)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push_lazy(&mut self, task: Task) {
        self.lazy.push(task);
        self.lazy_at
            .get_or_insert_with(|| Instant::now() + LAZY_GATHER);
    }

    /// A job to prepare, unless one is being prepared or something else that waits has its turn.
    fn take_preparing(&mut self) -> Option<Work> {
        if self.stopped && !self.unprepared.is_empty() {
            return Some(Work::GiveUp(std::mem::take(&mut self.unprepared)));
        }
        let due = self.lazy_at.is_some_and(|at| at <= Instant::now());
        let others = !self.urgent.is_empty() || (due && !self.sweeping);
        if self.preparing || (self.prepared_last && others) {
            return None;
        }
        let task = self.unprepared.pop_front()?;
        self.preparing = true;
        self.prepared_last = true;
        Some(Work::Prepare(task))
    }
}

/// Runs jobs one after the other.
fn run_each(tasks: Vec<Task>) {
    for mut task in tasks {
        let result = task.job.run();
        (task.on_done)(result);
    }
}

/// Does a step of each job and returns those that succeeded; the others are told.
fn step_each(tasks: Vec<Task>, step: Step) -> Vec<Task> {
    let mut left = Vec::with_capacity(tasks.len());
    for mut task in tasks {
        match step(&mut *task.job) {
            Ok(()) => left.push(task),
            Err(error) => (task.on_done)(Err(error)),
        }
    }
    left
}

#[cfg(test)]
mod tests;
