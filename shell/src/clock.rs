//! The clocks of this machine, as the project's plain numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use types::{Instant, UnixNanos};

/// Nanoseconds since this machine started, suspension included (`CLOCK_BOOTTIME`, Linux 2.6.39):
/// a lease must not outlive a laptop's sleep.
#[must_use]
pub fn boottime() -> Instant {
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
            Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
        }
        // Every Linux that has FUSE has this clock. Without it nothing timed may be trusted.
        #[expect(clippy::panic, reason = "no lease can be kept without this clock")]
        Err(errno) => panic!("CLOCK_BOOTTIME can't be read: {errno}"),
    }
}

/// The wall clock, which may jump.
#[must_use]
pub fn wall() -> UnixNanos {
    let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    };
    UnixNanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_never_goes_back_and_the_wall_clock_is_past_2024() {
        let first = boottime();

        assert!(boottime() >= first);
        assert!(first > Instant::ZERO);
        assert!(wall() > UnixNanos(1_704_067_200_000_000_000));
    }
}
