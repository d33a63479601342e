//! Limits and times of one lease host, each with its reason.

use types::Duration;

const MILLION: u32 = 1_000_000;

/// Settings of a [`Host`](crate::Host).
///
/// `ttl` and `max_drift_ppm` are cluster settings: all members of a cell must use the same values,
/// because a member trusts that nobody holds a lease longer than its own settings say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// How long a lease lasts once granted. Default 1500 ms: a dead holder blocks its cells no longer
    /// than this, which with activation stays below the 3 s an application may stall.
    pub ttl: Duration,
    /// Largest error of a clock's rate against true time, in parts per million. Default 10 000 (1 %):
    /// a hundred times what quartz loses, so a badly slewing time daemon is covered, too.
    pub max_drift_ppm: u32,
    /// Time after which an unanswered message is sent again, to all who have not answered; it doubles
    /// twice. Default 100 ms: far above a round trip in one site, and several attempts fit one lease.
    pub retransmit: Duration,
    /// Longest time between the two phases of a proposal; a proposer that slept longer starts again.
    /// Default 500 ms, a third of the lease time.
    pub phase_max: Duration,
    /// Longest time an acquisition goes on before it ends with [`Event::NoQuorum`](crate::Event).
    /// Default 1500 ms: long enough for a lost round and a few backoffs, short enough for a client
    /// to be told why it waits.
    pub acquire_max: Duration,
    /// First backoff of a proposer that lost against a higher ballot; doubles with every loss.
    /// Default 5 ms, a few round trips.
    pub backoff_min: Duration,
    /// Longest backoff. Default 200 ms, so that a contended cell is decided within one lease time.
    pub backoff_max: Duration,
    /// Renewals are due on multiples of this, so that those of many cells leave in one frame.
    /// Default 25 ms: 1/60 of the lease time, 40 wake-ups a second at most.
    pub renewal_slot: Duration,
    /// How long acceptors prefer the successor that a hand-over named. Default 300 ms: three
    /// retransmissions; a dead successor delays the others no longer than that.
    pub successor_grace: Duration,
    /// Largest number of cells in memory, own and foreign. Default 1,000,000: some 600 MB
    /// if this host holds all of them.
    pub cells_max: usize,
    /// Largest number of members of a cell. Default 31: replica sets have 3 to 7 members, and a
    /// set of members is one machine word.
    pub members_max: usize,
    /// Largest number of timers one [`Host::tick`](crate::Host::tick) serves. Default 2000: some
    /// milliseconds of work; the rest is due at once and served by the next tick.
    pub timers_per_tick_max: usize,
    /// The wrong edit that is switched on, for tests of the simulator.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_millis(1500),
            max_drift_ppm: 10_000,
            retransmit: Duration::from_millis(100),
            phase_max: Duration::from_millis(500),
            acquire_max: Duration::from_millis(1500),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(200),
            renewal_slot: Duration::from_millis(25),
            successor_grace: Duration::from_millis(300),
            cells_max: 1_000_000,
            members_max: MEMBERS_CEILING,
            timers_per_tick_max: 2_000,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// Members that fit the machine word a set of members is kept in.
pub(crate) const MEMBERS_CEILING: usize = 31;

/// Settings that contradict each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The lease time is zero or too short for the retransmissions.
    #[error("lease time {ttl} is shorter than four retransmission times of {retransmit}; raise it")]
    TtlTooShort {
        /// Lease time found.
        ttl: Duration,
        /// Retransmission time found.
        retransmit: Duration,
    },
    /// The drift leaves no usable lease time.
    #[error("a clock drift of {ppm} ppm is beyond the limit of 100 000 ppm; use better clocks")]
    DriftTooLarge {
        /// Drift found.
        ppm: u32,
    },
    /// A proposer might mix answers from before and after an acceptor's quarantine.
    #[error("the longest time between phases, {phase_max}, is over half the lease time; lower it")]
    PhaseTooLong {
        /// Value found.
        phase_max: Duration,
    },
    /// A limit is zero, or `members_max` is above what a set of members holds.
    #[error("{name} = {value} is out of range")]
    OutOfRange {
        /// Name of the setting.
        name: &'static str,
        /// Value found.
        value: usize,
    },
}

impl Config {
    /// Checks the relations between the fields.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the first relation that does not hold.
    pub fn validated(self) -> Result<Self, ConfigError> {
        if self.max_drift_ppm > MILLION / 10 {
            let ppm = self.max_drift_ppm;
            return Err(ConfigError::DriftTooLarge { ppm });
        }
        if self.ttl < self.retransmit.scaled(4, 1) || self.ttl == Duration::ZERO {
            let (ttl, retransmit) = (self.ttl, self.retransmit);
            return Err(ConfigError::TtlTooShort { ttl, retransmit });
        }
        if self.phase_max > self.ttl.scaled(1, 2) {
            let phase_max = self.phase_max;
            return Err(ConfigError::PhaseTooLong { phase_max });
        }
        for (name, value, ceiling) in [
            ("cells_max", self.cells_max, usize::MAX),
            ("members_max", self.members_max, MEMBERS_CEILING),
            ("timers_per_tick_max", self.timers_per_tick_max, usize::MAX),
        ] {
            if value == 0 || value > ceiling {
                return Err(ConfigError::OutOfRange { name, value });
            }
        }
        Ok(self)
    }

    /// How long a holder uses a lease by its own clock, counted from the instant it asked.
    ///
    /// `ttl * (1 - 2 d)`: on a clock that is slow by `d` that is less true time than `ttl` on an
    /// acceptor's clock that is fast by `d`, since `(1 - 2d)(1 + d) < 1 - d`.
    #[must_use]
    pub const fn usable(&self) -> Duration {
        self.ttl
            .scaled(MILLION.saturating_sub(2 * self.max_drift_ppm), MILLION)
    }

    /// How long a member that forgot something must wait until every lease from before has ended:
    /// `ttl * (1 + d)` by its own clock.
    #[must_use]
    pub const fn quarantine(&self) -> Duration {
        self.ttl.scaled(MILLION + self.max_drift_ppm, MILLION)
    }

    /// Time from the start of a lease or renewal to the next renewal, before spreading.
    pub(crate) const fn renewal_after(&self) -> Duration {
        // A third: two more renewals can fail before the lease is lost.
        self.ttl.scaled(1, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_with_the_slowest_clock_stops_before_an_acceptor_with_the_fastest_forgets() {
        let config = Config::default();
        let million = u128::from(MILLION);
        let drift = u128::from(config.max_drift_ppm);

        // True nanoseconds = clock nanoseconds / rate.
        let holder = u128::from(config.usable().as_nanos()) * million / (million - drift);
        let acceptor = u128::from(config.ttl.as_nanos()) * million / (million + drift);
        let forgetful = u128::from(config.quarantine().as_nanos()) * million / (million + drift);

        assert!(holder < acceptor);
        assert!(holder < forgetful);
    }

    #[test]
    fn contradicting_settings_are_refused() {
        let refused = |edit: fn(&mut Config)| {
            let mut config = Config::default();
            edit(&mut config);
            config.validated().is_err()
        };

        assert!(Config::default().validated().is_ok());
        assert!(refused(|c| c.ttl = Duration::ZERO));
        assert!(refused(|c| c.max_drift_ppm = 200_000));
        assert!(refused(|c| c.phase_max = c.ttl));
        assert!(refused(|c| c.cells_max = 0));
        assert!(refused(|c| c.members_max = 64));
    }
}
