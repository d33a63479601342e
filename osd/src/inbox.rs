//! A thread's inbox: requests are bounded, completions always get in.
//!
//! What was asked from outside may be refused when too much waits; what this server asked for
//! itself (replies, finished syncs, lease news) may not, and is bounded by what was asked.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Items waiting for one thread.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    items_max: usize,
    bytes_max: usize,
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
            items_max,
            bytes_max,
        }
    }

    /// Puts a request in, or gives it back if too much waits.
    pub(crate) fn offer(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.items.len() >= self.items_max || state.bytes >= self.bytes_max {
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
        state.bytes = 0;
        into.append(&mut state.items);
        !(state.closed && into.is_empty())
    }

    /// Takes nothing in any more and wakes the thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.items.push(item);
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
    fn taking_ends_at_its_time() {
        let inbox = Inbox::<u32>::new(2, 100);

        assert!(inbox.take(&mut Vec::new(), Some(Duration::from_millis(1))));
    }
}
