//! How long things took, counted by powers of two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets with a bound; one more has no bound. 20: from 64 us, less than any request takes, to 34 s, longer
/// than any waits.
pub const BOUNDS: usize = 20;
/// Bound of the first bucket, as a power of two in microseconds. Each further one is twice as long.
const FIRST_SHIFT: u32 = 6;

/// Counts durations.
#[derive(Debug, Default)]
pub struct Times {
    buckets: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    /// How many took at most as long as the bucket's bound, and longer than the one's before.
    pub buckets: [u64; BOUNDS + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Times {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(bucket_of(us)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Histogram {
        let mut read = Histogram::default();
        for (to, from) in read.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        read.sum_us = self.sum_us.load(Ordering::Relaxed);
        read
    }
}

impl Histogram {
    /// Bound of a bucket in microseconds; the last one has none.
    #[must_use]
    pub const fn bound_us(bucket: usize) -> Option<u64> {
        if bucket < BOUNDS {
            Some(1 << (bucket as u32 + FIRST_SHIFT))
        } else {
            None
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What came after `earlier`; all of it if the process was started again meanwhile.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if self.count() < earlier.count() {
            return *self;
        }
        let mut since = *self;
        for (now, then) in since.buckets.iter_mut().zip(&earlier.buckets) {
            *now = now.saturating_sub(*then);
        }
        since.sum_us = since.sum_us.saturating_sub(earlier.sum_us);
        since
    }

    /// The time that so many thousandths of them took at most, in microseconds: at most twice what it really
    /// was. None if there were none. Of those in the last bucket it is known that they took longer than the
    /// last bound.
    #[must_use]
    pub fn quantile_us(&self, thousandths: u64) -> Option<u64> {
        let count = self.count();
        let wanted = count.saturating_mul(thousandths.min(1000)).div_ceil(1000);
        let mut seen = 0;
        for (bucket, in_it) in self.buckets.iter().enumerate() {
            seen += in_it;
            if seen >= wanted.max(1) {
                return Some(Self::bound_us(bucket).unwrap_or(u64::MAX));
            }
        }
        None
    }
}

fn bucket_of(us: u64) -> usize {
    let above = us.saturating_sub(1) >> FIRST_SHIFT;
    ((u64::BITS - above.leading_zeros()) as usize).min(BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_bucket_with_the_next_bound() {
        for us in [
            0, 1, 63, 64, 65, 128, 129, 1000, 1_000_000, 33_554_432, 33_554_433,
        ] {
            let bucket = bucket_of(us);
            assert!(
                Histogram::bound_us(bucket).is_none_or(|bound| us <= bound),
                "{us}"
            );
            if let Some(before) = bucket.checked_sub(1) {
                assert!(us > Histogram::bound_us(before).unwrap(), "{us}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BOUNDS);
    }

    #[test]
    fn quantiles_are_of_what_came_between_two_looks() {
        let times = Times::default();
        assert_eq!(times.read().quantile_us(990), None);
        for _ in 0..98 {
            times.note(Duration::from_micros(50));
        }
        let before = times.read();
        for _ in 0..98 {
            times.note(Duration::from_micros(100));
        }
        times.note(Duration::from_millis(3));
        times.note(Duration::from_millis(3));

        let between = times.read().since(&before);

        assert_eq!(between.count(), 100);
        assert_eq!(between.sum_us, 98 * 100 + 6000);
        assert_eq!(between.quantile_us(500), Some(128));
        assert_eq!(between.quantile_us(990), Some(4096));
        // Of a process that was started again.
        assert_eq!(before.since(&times.read()), before);
    }
}
