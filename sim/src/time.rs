//! True time, the schedule of what happens when, and the clocks of servers that differ from it.

use std::collections::BTreeMap;

use types::{Duration, Instant};

/// Nanoseconds of the world since the beginning of a run. No server ever sees it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrueTime(pub u64);

impl std::ops::Add<Duration> for TrueTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos()))
    }
}

impl TrueTime {
    /// Time since the beginning.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// What happens when. Things of one moment happen in the order they were planned.
#[derive(Debug)]
pub struct Schedule<E> {
    now: TrueTime,
    planned: u64,
    queue: BTreeMap<(TrueTime, u64), E>,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self {
            now: TrueTime::default(),
            planned: 0,
            queue: BTreeMap::new(),
        }
    }
}

impl<E> Schedule<E> {
    /// The present.
    #[must_use]
    pub const fn now(&self) -> TrueTime {
        self.now
    }

    /// Plans something `delay` from now.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// Plans something; the past means now.
    pub fn at(&mut self, at: TrueTime, event: E) {
        self.planned += 1;
        self.queue.insert((at.max(self.now), self.planned), event);
    }

    /// Moves to what happens next, if that is no later than `end`; else moves to `end`.
    pub fn next(&mut self, end: TrueTime) -> Option<E> {
        let due = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= end);
        match due {
            Some(entry) => {
                self.now = entry.key().0;
                Some(entry.remove())
            }
            None => {
                self.now = self.now.max(end);
                None
            }
        }
    }
}

/// A server's monotonic clock: any origin, and a rate that is wrong by some parts per million.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base_true: TrueTime,
    base_local: u64,
    rate_ppm: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// A clock that shows `origin` at `now`.
    #[must_use]
    pub const fn new(now: TrueTime, origin: u64, rate_ppm: i64) -> Self {
        Self {
            base_true: now,
            base_local: origin,
            rate_ppm,
        }
    }

    /// What the clock shows.
    #[must_use]
    pub fn read(&self, now: TrueTime) -> Instant {
        let elapsed = i128::from(now.0.saturating_sub(self.base_true.0));
        let shown = elapsed * (MILLION + i128::from(self.rate_ppm)) / MILLION;
        Instant::from_nanos(self.base_local.saturating_add(nanos(shown)))
    }

    /// The first moment at which the clock shows `local` or more.
    #[must_use]
    pub fn when(&self, local: Instant) -> TrueTime {
        let shown = i128::from(local.as_nanos().saturating_sub(self.base_local));
        let rate = MILLION + i128::from(self.rate_ppm);
        let elapsed = (shown * MILLION + rate - 1) / rate;
        TrueTime(self.base_true.0.saturating_add(nanos(elapsed)))
    }

    /// Changes the rate; the clock does not jump.
    pub fn set_rate(&mut self, now: TrueTime, rate_ppm: i64) {
        *self = Self::new(now, self.read(now).as_nanos(), rate_ppm);
    }

    /// The present error of the rate.
    #[must_use]
    pub const fn rate_ppm(&self) -> i64 {
        self.rate_ppm
    }
}

fn nanos(wide: i128) -> u64 {
    u64::try_from(wide).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_an_instant_first_when_it_says() {
        for rate_ppm in [-50_000, -10_000, 0, 7, 10_000, 50_000] {
            let clock = Clock::new(TrueTime(1000), 5_000_000, rate_ppm);
            for local in [5_000_001, 5_123_457, 9_999_999_999] {
                let at = clock.when(Instant::from_nanos(local));

                assert!(clock.read(at).as_nanos() >= local);
                assert!(clock.read(TrueTime(at.0 - 1)).as_nanos() < local);
            }
        }
    }

    #[test]
    fn things_of_one_moment_happen_in_the_order_planned() {
        let mut schedule = Schedule::default();
        for event in ["a", "b", "c"] {
            schedule.at(TrueTime(5), event);
        }
        schedule.at(TrueTime(4), "first");

        let happened: Vec<_> = std::iter::from_fn(|| schedule.next(TrueTime(9))).collect();

        assert_eq!(happened, ["first", "a", "b", "c"]);
        assert_eq!(schedule.now(), TrueTime(9));
    }
}
