//! A thread's inbox: requests are bounded, completions always get in.
//!
//! What was asked from outside may be refused when too much waits; what this server asked for
//! itself (replies, finished syncs, lease news) may not, and is bounded by what was asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shell::clock::boottime;
use types::Instant;

/// Items waiting for one thread.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    /// When the thread gave its last sign of life, or was last given something to do; 0 while there
    /// is nothing.
    beat: AtomicU64,
    items_max: usize,
    bytes_max: usize,
    /// How often a request was given back.
    refused: AtomicU64,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    bytes: usize,
    sleeping: bool,
    closed: bool,
}

impl<T> Inbox<T> {
    pub(crate) const fn new(items_max: usize, bytes_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: Vec::new(),
                bytes: 0,
                sleeping: false,
                closed: false,
            }),
            ready: Condvar::new(),
            beat: AtomicU64::new(0),
            items_max,
            bytes_max,
            refused: AtomicU64::new(0),
        }
    }

    /// What waits, what may, and how often a request was given back.
    pub(crate) fn load(&self) -> (usize, usize, u64) {
        let waiting = self.lock().items.len();
        (
            waiting,
            self.items_max,
            self.refused.load(Ordering::Relaxed),
        )
    }

    /// Puts a request in, or gives it back if too much waits.
    pub(crate) fn offer(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.items.len() >= self.items_max || state.bytes >= self.bytes_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(item);
        }
        state.bytes += bytes;
        self.put(state, item);
        Ok(())
    }

    /// Puts a completion in.
    pub(crate) fn deliver(&self, item: T) {
        let state = self.lock();
        if !state.closed {
            self.put(state, item);
        }
    }

    /// Waits for items, for `wait` at most (for ever if none), and appends them all to `into`,
    /// oldest first. False once the inbox is closed and empty.
    pub(crate) fn take(&self, into: &mut Vec<T>, wait: Option<Duration>) -> bool {
        let mut state = self.lock();
        if state.items.is_empty() && !state.closed && wait != Some(Duration::ZERO) {
            self.beat.store(0, Ordering::Relaxed);
            state.sleeping = true;
            let idle = |state: &mut State<T>| state.items.is_empty() && !state.closed;
            state = match wait {
                Some(wait) => {
                    self.ready
                        .wait_timeout_while(state, wait, idle)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .ready
                    .wait_while(state, idle)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            state.sleeping = false;
        }
        self.beat(boottime());
        state.bytes = 0;
        into.append(&mut state.items);
        !(state.closed && into.is_empty())
    }

    /// The thread lives.
    pub(crate) fn beat(&self, now: Instant) {
        // 0 has a meaning of its own.
        self.beat.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    /// Since when the thread has given no sign of life although it has something to do.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        let beat = self.beat.load(Ordering::Relaxed);
        (beat != 0).then(|| Instant::from_nanos(beat))
    }

    /// Takes nothing in any more and wakes the thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.items.push(item);
        if self.beat.load(Ordering::Relaxed) == 0 {
            self.beat(boottime());
        }
        let wake = std::mem::take(&mut state.sleeping);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Also after a panic elsewhere: the state is consistent whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded_by_number_and_bytes_and_completions_are_not() {
        let inbox = Inbox::new(2, 100);

        assert_eq!(inbox.offer(1, 10), Ok(()));
        assert_eq!(inbox.offer(2, 10), Ok(()));
        assert_eq!(inbox.offer(3, 10), Err(3));
        assert_eq!(inbox.load(), (2, 2, 1));
        inbox.deliver(4);
        let mut taken = Vec::new();
        assert!(inbox.take(&mut taken, None));
        assert_eq!(taken, [1, 2, 4]);

        assert_eq!(inbox.offer(5, 100), Ok(()));
        assert_eq!(inbox.offer(6, 1), Err(6));
    }

    #[test]
    fn closed_inbox_gives_out_what_is_left_and_wakes_the_sleeper() {
        let inbox = Inbox::new(2, 100);
        inbox.deliver(1);
        inbox.close();
        let mut taken = Vec::new();
        assert!(inbox.take(&mut taken, None));
        taken.clear();
        assert!(!inbox.take(&mut taken, None));
        assert_eq!(inbox.offer(2, 0), Err(2));

        let inbox = Inbox::<u32>::new(2, 100);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| inbox.take(&mut Vec::new(), None));
            inbox.close();
            assert!(!sleeper.join().unwrap());
        });
    }

    #[test]
    fn thread_is_silent_only_while_it_has_something_to_do() {
        let inbox = Inbox::new(2, 100);
        assert_eq!(inbox.silent_since(), None, "nothing to do");

        let before = boottime();
        inbox.deliver(1);
        let since = inbox.silent_since().unwrap();
        assert!(since >= before, "since it was given something");
        inbox.deliver(2);
        assert_eq!(inbox.silent_since(), Some(since), "more does not help");

        inbox.take(&mut Vec::new(), None);
        assert!(inbox.silent_since().unwrap() >= since, "at work");
        let later = since + types::Duration::from_secs(9);
        inbox.beat(later);
        assert_eq!(inbox.silent_since(), Some(later));

        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| inbox.take(&mut Vec::new(), None));
            while inbox.silent_since().is_some() {
                std::thread::yield_now();
            }
            inbox.deliver(3);
            assert!(sleeper.join().unwrap());
        });
        assert!(inbox.silent_since().is_some());
    }

    #[test]
    fn taking_ends_at_its_time() {
        let inbox = Inbox::<u32>::new(2, 100);

        assert!(inbox.take(&mut Vec::new(), Some(Duration::from_millis(1))));
    }
}
