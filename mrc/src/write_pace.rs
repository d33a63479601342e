//! How long the log's writer takes to write and sync what gathered.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::log_writer::lock;

/// Writes between two looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Writes {
    /// How long the one has taken that has not ended.
    pub going_on: Option<Duration>,
    /// Of those that ended.
    pub quickest: Option<Duration>,
    /// Of those that ended.
    pub slowest: Option<Duration>,
}

/// A stopwatch that one thread starts and stops, and another reads.
#[derive(Debug, Default)]
pub(crate) struct WritePace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    begun: Option<Instant>,
    quickest: Option<Duration>,
    slowest: Option<Duration>,
}

/// A write, until it is dropped.
#[derive(Debug)]
pub(crate) struct Timed<'a>(&'a WritePace);

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        if let Some(took) = state.begun.take().map(|begun| begun.elapsed()) {
            state.quickest = Some(state.quickest.map_or(took, |it| it.min(took)));
            state.slowest = state.slowest.max(Some(took));
        }
    }
}

impl WritePace {
    /// A write begins; there is one at a time.
    pub(crate) fn time(&self) -> Timed<'_> {
        lock(&self.0).begun = Some(Instant::now());
        Timed(self)
    }

    /// The writes since the last call.
    pub(crate) fn take(&self) -> Writes {
        let mut state = lock(&self.0);
        Writes {
            going_on: state.begun.map(|begun| begun.elapsed()),
            quickest: state.quickest.take(),
            slowest: state.slowest.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_is_seen_while_it_goes_on_and_once_when_it_has_ended() {
        let pace = WritePace::default();
        assert_eq!(pace.take(), Writes::default());

        let first = pace.time();
        let during = pace.take();
        drop(first);
        drop(pace.time());
        let after = pace.take();

        assert!(during.going_on.is_some() && during.slowest.is_none());
        assert!(after.going_on.is_none());
        assert!(after.quickest.is_some() && after.quickest <= after.slowest);
        assert_eq!(pace.take(), Writes::default());
    }
}
