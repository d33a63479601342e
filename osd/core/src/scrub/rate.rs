//! At most so many bytes per second.

use types::{Duration, Instant};

/// Grants reading, step by step. Time in which nothing is read earns nothing: a scrub that was held up may not
/// make up for it at the cost of those who came meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    bytes_per_s: u64,
    /// When all that was granted is paid for.
    free_at: Instant,
}

impl Rate {
    /// Of at most `bytes_per_s`; 0 counts as 1.
    #[must_use]
    pub const fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: if bytes_per_s == 0 { 1 } else { bytes_per_s },
            free_at: Instant::ZERO,
        }
    }

    /// Grants at most so much from now on; what was granted is paid for as it was.
    pub const fn limit(&mut self, bytes_per_s: u64) {
        self.bytes_per_s = if bytes_per_s == 0 { 1 } else { bytes_per_s };
    }

    /// Grants a step of so many bytes; returns how long to wait before it is done.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Duration {
        let begins = self.free_at.max(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.free_at = begins + Duration::from_nanos(nanos);
        begins.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn steps_wait_until_those_before_are_paid_for() {
        let mut rate = Rate::new(MIB);

        assert_eq!(rate.take(at(0), MIB / 2), Duration::ZERO);
        assert_eq!(rate.take(at(0), MIB / 2), Duration::from_millis(500));
        assert_eq!(rate.take(at(500), MIB), Duration::from_millis(500));
    }

    #[test]
    fn another_rate_holds_from_the_next_step_on() {
        let mut rate = Rate::new(MIB);
        assert_eq!(rate.take(at(0), MIB), Duration::ZERO);

        rate.limit(2 * MIB);

        assert_eq!(rate.take(at(0), MIB), Duration::from_millis(1000));
        assert_eq!(rate.take(at(0), MIB), Duration::from_millis(1500));
    }

    /// Whatever happens, between any two moments no more is read than the rate allows and one step.
    #[test]
    fn no_stretch_of_time_sees_more_than_the_rate_and_one_step() {
        const STEP: u64 = 64 << 10;
        let mut rate = Rate::new(8 * MIB);
        let (mut now, mut reads) = (at(0), Vec::new());
        for step in 0..2_000_u64 {
            // Now and then the disk or the network holds the scrub up.
            let held_up = if step % 97 == 0 { 700 } else { step % 3 };
            now += Duration::from_millis(held_up);
            now += rate.take(now, STEP);
            reads.push(now);
        }

        for (first, from) in reads.iter().enumerate().step_by(13) {
            for (last, to) in reads.iter().enumerate().skip(first).step_by(7) {
                let read = (last - first) as u64 * STEP;
                let allowed = to.since(*from).as_millis() * 8 * MIB / 1000 + STEP;
                assert!(
                    read <= allowed,
                    "{read} > {allowed} from step {first} to {last}"
                );
            }
        }
    }

    #[test]
    fn time_without_reading_earns_nothing() {
        let mut rate = Rate::new(MIB);
        rate.take(at(0), MIB);

        assert_eq!(rate.take(at(60_000), MIB), Duration::ZERO);
        assert_eq!(rate.take(at(60_000), MIB), Duration::from_secs(1));
    }
}
