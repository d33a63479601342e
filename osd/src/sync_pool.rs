//! Threads that wait for the disk.
//!
//! A few waiting jobs run side by side, each with its own two syncs. When many wait, one thread
//! takes them all and makes the whole file system stable twice: once for data and sums, once for
//! the records. Jobs nobody waits for are always taken together.

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
    /// A thread is making the whole file system stable.
    sweeping: bool,
    stopped: bool,
}

enum Work {
    One(Task),
    Many(Vec<Task>),
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
        let mut state = self.lock();
        if lazy {
            state.lazy.push(task);
            state
                .lazy_at
                .get_or_insert_with(|| Instant::now() + LAZY_GATHER);
        } else {
            state.urgent.push_back(task);
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Lets the threads finish what waits, then end.
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
                    self.sweep(tasks);
                    self.lock().sweeping = false;
                    self.ready.notify_all();
                }
            }
        }
    }

    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let lazy = state.lazy_at.is_some_and(|at| at <= now || state.stopped);
            let many = state.urgent.len() > SYNC_ALONE_MAX;
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

    /// Makes many objects stable with two syncs of the file system.
    fn sweep(&self, mut tasks: Vec<Task>) {
        let mut steps = || {
            for task in &mut tasks {
                task.job.write_data(false)?;
            }
            self.sync_all()?;
            for task in &mut tasks {
                task.job.write_record(false)?;
            }
            self.sync_all()
        };
        let result = steps();
        for task in tasks {
            (task.on_done)(match &result {
                Ok(()) => Ok(()),
                // Whatever failed has poisoned the store.
                Err(_) => Err(StoreError::Poisoned),
            });
        }
    }

    fn sync_all(&self) -> Result<(), StoreError> {
        self.root.sync_all().map_err(|error| {
            self.root.poison(&error);
            StoreError::Io(error)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    /// Counts how often each step ran, and with which demand for a sync of its own.
    #[derive(Debug)]
    struct Probe {
        steps: Arc<[AtomicUsize; 2]>,
        alone: Arc<AtomicUsize>,
        fails: bool,
    }

    impl SyncJob for Probe {
        fn write_data(&mut self, sync: bool) -> Result<(), StoreError> {
            self.steps[0].fetch_add(1, Ordering::Relaxed);
            self.alone.fetch_add(usize::from(sync), Ordering::Relaxed);
            match self.fails {
                true => Err(StoreError::Io(io::Error::other("broken disk"))),
                false => Ok(()),
            }
        }

        fn write_record(&mut self, _: bool) -> Result<(), StoreError> {
            self.steps[1].fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    fn run(lazy: usize, urgent: usize, fails: bool) -> (usize, usize, usize, usize) {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let (pool, threads) = SyncPool::start(root, 2).unwrap();
        let steps = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let alone = Arc::new(AtomicUsize::new(0));
        let (done, results) = mpsc::channel();
        for number in 0..lazy + urgent {
            let probe = Probe {
                steps: Arc::clone(&steps),
                alone: Arc::clone(&alone),
                fails: fails && number == 0,
            };
            let done = done.clone();
            pool.submit(
                Box::new(probe),
                number < lazy,
                Box::new(move |result| done.send(result.is_ok()).unwrap()),
            );
        }
        pool.stop();
        for thread in threads {
            thread.join().unwrap();
        }
        drop(done);
        let good = results.iter().filter(|good| *good).count();
        (
            good,
            steps[0].load(Ordering::Relaxed),
            steps[1].load(Ordering::Relaxed),
            alone.load(Ordering::Relaxed),
        )
    }

    #[test]
    fn every_job_is_done_once_and_lazy_ones_share_their_syncs() {
        let (good, data, record, _) = run(0, 100, false);
        assert_eq!((good, data, record), (100, 100, 100));

        let (good, data, record, alone) = run(50, 0, false);
        assert_eq!((good, data, record), (50, 50, 50));
        assert!(alone <= 1, "{alone} of 50 synced alone");
    }

    #[test]
    fn nobody_is_told_that_data_is_stable_when_a_shared_step_failed() {
        let (good, _, record, _) = run(50, 0, true);

        assert_eq!((good, record), (0, 0));
    }
}
