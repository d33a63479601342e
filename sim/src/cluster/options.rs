//! What one run is made of; everything else is drawn from the seed.

use types::Duration;

use crate::cluster::edit::Edit;

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random comes from it.
    pub seed: u64,
    /// Settings of all replicas.
    pub replica: osd_core::Config,
    /// Settings of all lease hosts, a switched-on mutant included.
    pub lease: lease::Config,
    /// A wrong edit of what joins the cores together.
    pub edit: Option<Edit>,
    /// Length of the safety phase in true time. Default 20 s: a dozen lease times, and two of the
    /// times after which an idle object is closed.
    pub safety: Duration,
    /// Longest time until every request is answered once only one quorum is sure to work.
    pub answers: Duration,
    /// Longest time until all copies are equal after that.
    pub settling: Duration,
    /// No faults at all.
    pub fair: bool,
    /// Keep a line for everything that happens.
    pub readable: bool,
}

impl Options {
    /// The ordinary run of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            replica: osd_core::Config {
                // Longer than any pause or cut here: a shorter one trades acknowledged writes of a
                // frozen replica for availability.
                trust_grace: Duration::from_secs(12),
                idle_after: Duration::from_secs(2),
                backup_idle_after: Duration::from_secs(6),
                ..osd_core::Config::default()
            },
            lease: lease::Config::default(),
            edit: None,
            safety: Duration::from_secs(20),
            answers: Duration::from_secs(60),
            settling: Duration::from_secs(60),
            fair: false,
            readable: false,
        }
    }
}
