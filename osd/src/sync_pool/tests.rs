//! Tests of the threads that wait for the disk.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;

/// How the first of the jobs fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fails {
    Never,
    NoSpace,
    Poisoning,
}

/// Counts how often each step ran, and with which demand for a sync of its own.
#[derive(Debug)]
struct Probe {
    steps: Arc<[AtomicUsize; 2]>,
    alone: Arc<AtomicUsize>,
    fails: Fails,
    root: Arc<Root>,
}

impl SyncJob for Probe {
    fn write_data(&mut self, sync: bool) -> Result<(), StoreError> {
        self.steps[0].fetch_add(1, Ordering::Relaxed);
        self.alone.fetch_add(usize::from(sync), Ordering::Relaxed);
        match self.fails {
            Fails::Never => Ok(()),
            Fails::NoSpace => Err(StoreError::NoSpace { written_bytes: 0 }),
            Fails::Poisoning => {
                let error = io::Error::other("broken disk");
                self.root.poison(&error);
                Err(StoreError::Io(error))
            }
        }
    }

    fn write_record(&mut self, _: bool) -> Result<(), StoreError> {
        self.steps[1].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn run(lazy: usize, urgent: usize, fails: Fails) -> (usize, usize, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    let (pool, threads) = SyncPool::start(Arc::clone(&root), 2).unwrap();
    let steps = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let alone = Arc::new(AtomicUsize::new(0));
    let (done, results) = mpsc::channel();
    for number in 0..lazy + urgent {
        let probe = Probe {
            steps: Arc::clone(&steps),
            alone: Arc::clone(&alone),
            fails: if number == 0 { fails } else { Fails::Never },
            root: Arc::clone(&root),
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
    let (good, data, record, _) = run(0, 100, Fails::Never);
    assert_eq!((good, data, record), (100, 100, 100));

    let (good, data, record, alone) = run(50, 0, Fails::Never);
    assert_eq!((good, data, record), (50, 50, 50));
    assert!(alone <= 1, "{alone} of 50 synced alone");
}

#[test]
fn nobody_is_told_that_data_is_stable_when_a_shared_step_failed() {
    let (good, _, record, _) = run(50, 0, Fails::Poisoning);

    assert_eq!((good, record), (0, 0));
}

#[test]
fn job_that_finds_no_space_leaves_those_beside_it_alone() {
    let (good, data, record, _) = run(50, 0, Fails::NoSpace);

    assert_eq!((good, data, record), (49, 50, 49));
}

/// Takes many parts to prepare; the first of them waits for a sign.
#[derive(Debug)]
struct Long {
    parts_left: usize,
    begun: mpsc::Sender<()>,
    go_on: Option<mpsc::Receiver<()>>,
}

impl SyncJob for Long {
    fn is_prepared(&self) -> bool {
        self.parts_left == 0
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        self.parts_left -= 1;
        if let Some(go_on) = self.go_on.take() {
            self.begun.send(()).unwrap();
            go_on.recv().unwrap();
        }
        Ok(())
    }

    fn write_data(&mut self, _: bool) -> Result<(), StoreError> {
        assert!(self.is_prepared());
        Ok(())
    }

    fn write_record(&mut self, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
}

/// With one thread, which is in the midst of the first part when the others come.
#[test]
fn jobs_pass_one_that_takes_long_to_prepare() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    let (pool, threads) = SyncPool::start(Arc::clone(&root), 1).unwrap();
    let (begun, has_begun) = mpsc::channel();
    let (proceed, go_on) = mpsc::channel();
    let (done, results) = mpsc::channel();
    let submit = |name: &'static str, parts_left, go_on, lazy| {
        let job = Long {
            parts_left,
            begun: begun.clone(),
            go_on,
        };
        let done = done.clone();
        let on_done = move |result: Result<(), StoreError>| {
            done.send((name, result.is_ok())).unwrap();
        };
        pool.submit(Box::new(job), lazy, Box::new(on_done));
    };

    submit("long", 1000, Some(go_on), true);
    has_begun.recv().unwrap();
    for _ in 0..5 {
        submit("urgent", 0, None, false);
    }
    proceed.send(()).unwrap();

    for _ in 0..5 {
        assert_eq!(results.recv().unwrap(), ("urgent", true));
    }
    assert_eq!(results.recv().unwrap(), ("long", true));
    pool.stop();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn what_is_not_prepared_when_the_pool_stops_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    let (pool, threads) = SyncPool::start(Arc::clone(&root), 2).unwrap();
    let (begun, has_begun) = mpsc::channel();
    let (proceed, go_on) = mpsc::channel();
    let (done, results) = mpsc::channel();
    let job = Long {
        parts_left: usize::MAX,
        begun,
        go_on: Some(go_on),
    };
    let on_done = move |result: Result<(), StoreError>| done.send(result.is_ok()).unwrap();

    pool.submit(Box::new(job), true, Box::new(on_done));
    has_begun.recv().unwrap();
    pool.stop();
    proceed.send(()).unwrap();
    for thread in threads {
        thread.join().unwrap();
    }

    assert!(!results.recv().unwrap());
}
