//! Latencies as counts in buckets: small, quick to add to, and mergeable across processes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Sub-buckets per power of two. 32: no latency is off by more than 3 %.
const STEPS: u64 = 32;
/// log2 of [`STEPS`].
const STEP_BITS: u32 = 5;
/// Buckets: up to 2^40 ns, which is 18 minutes.
const BUCKETS: usize = 36 * STEPS as usize;

/// How often which latency was seen.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
        }
    }
}

/// The bucket of a latency.
fn bucket(nanos: u64) -> usize {
    let bits = 64 - nanos.leading_zeros();
    let index = if bits <= STEP_BITS + 1 {
        nanos
    } else {
        let shift = bits - STEP_BITS - 1;
        u64::from(shift) * STEPS + (nanos >> shift)
    };
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The middle of a bucket, in nanoseconds.
fn middle(index: usize) -> f64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index as f64;
    }
    let shift = index / STEPS - 1;
    let low = (index - shift * STEPS) << shift;
    low as f64 + ((1_u64 << shift) as f64) / 2.0
}

impl Histogram {
    pub(crate) fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// What was added since `earlier`, an older copy of this one.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts);
        Self {
            counts: counts
                .map(|(now, then)| now.saturating_sub(*then))
                .collect(),
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The latency that `share` of all do not exceed, in microseconds; 0 if there are none.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        let total = self.count();
        let wanted = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return middle(index) / 1e3;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_percent_over_nine_decades() {
        for exponent in 0..9_u32 {
            let base = 10_u64.pow(exponent);
            let mut histogram = Histogram::default();
            for step in 1..=1000 {
                histogram.add(Duration::from_nanos(base * step));
            }

            for share in [0.001, 0.5, 0.99, 0.999, 1.0] {
                let exact = base as f64 * share * 1000.0 / 1e3;
                let found = histogram.quantile_us(share);
                assert!(
                    (found - exact).abs() <= exact * 0.032 + 0.001,
                    "{share}: {found} {exact}"
                );
            }
        }
    }

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut last = 0;
        for nanos in 0..100_000_u64 {
            let next = bucket(nanos);
            assert!(next == last || next == last + 1, "{nanos}");
            last = next;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn window_is_the_difference_of_two_copies() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_micros(1));
        let before = histogram.clone();
        histogram.add(Duration::from_millis(5));

        let window = histogram.since(&before);

        assert_eq!(window.count(), 1);
        assert!((window.quantile_us(0.5) - 5000.0).abs() < 160.0);
        let mut both = before;
        both.merge(&window);
        assert_eq!(both, histogram);
    }

    #[test]
    fn empty_histogram_has_no_latency() {
        assert!(Histogram::default().quantile_us(0.99) == 0.0);
    }
}
