//! The inbox of a server's working thread, as the object server's shards have them: whoever puts
//! something in wakes the thread only if it sleeps.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Items waiting. What is in it is bounded by what was asked for.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    sleeping: bool,
}

impl<T> Inbox<T> {
    pub(crate) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: Vec::new(),
                sleeping: false,
            }),
            ready: Condvar::new(),
        }
    }

    pub(crate) fn put(&self, item: T) {
        let mut state = self.lock();
        state.items.push(item);
        let wake = std::mem::take(&mut state.sleeping);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Waits for items, for `wait` at most, and appends them all to `into`, oldest first.
    pub(crate) fn take(&self, into: &mut Vec<T>, wait: Duration) {
        let mut state = self.lock();
        if state.items.is_empty() {
            state.sleeping = true;
            state = self
                .ready
                .wait_timeout_while(state, wait, |state| state.items.is_empty())
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.sleeping = false;
        }
        into.append(&mut state.items);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
