//! What one run is made of; everything else is drawn from the seed.

use types::Duration;

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random comes from it.
    pub seed: u64,
    /// Settings of all lease hosts, a switched-on mutant included.
    pub lease: lease::Config,
    /// How wrong the rates of the clocks are at most, in parts per million. Default: as much as the
    /// lease settings allow; more must be found by the oracle.
    pub drift_ppm: u32,
    /// Length of the safety phase in true time. Default 20 s: a dozen lease times, enough for
    /// several generations of holders, and some 10 ms to simulate.
    pub safety: Duration,
    /// Longest time after the faults stopped until every cell is usable. Default 4.5 s, three lease
    /// times: one for the quarantine of a server that restarts as the faults stop (or for leases that
    /// run out), one for a view change that was under way, one for rivals to be decided.
    pub liveness: Duration,
    /// Keep a line for everything that happens.
    pub readable: bool,
}

impl Options {
    /// The ordinary run of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let lease = lease::Config::default();
        Self {
            seed,
            drift_ppm: lease.max_drift_ppm,
            safety: Duration::from_secs(20),
            liveness: lease.ttl.scaled(3, 1),
            lease,
            readable: false,
        }
    }
}
