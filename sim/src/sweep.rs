//! Many seeds in a row, with a sample of them run twice.

use crate::cluster;
use crate::lease_oracle::Coverage;
use crate::lease_world;
use crate::options::Options;
use crate::time::TrueTime;

/// One seed in so many is run twice, to see that runs repeat. 50: costs 2 % and still hits every
/// sweep of a test.
pub const REPEAT_EVERY: u64 = 50;

/// How a run ended, in any world.
#[derive(Debug)]
pub struct Run<F, C> {
    /// Of everything that happened.
    pub hash: u64,
    /// When an invariant did not hold first, and which.
    pub finding: Option<(TrueTime, F)>,
    /// What the run went through.
    pub coverage: C,
}

/// Why a seed failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure<F> {
    /// An invariant did not hold.
    Violated(TrueTime, F),
    /// The second run of the seed was another one.
    NotRepeatable {
        /// Hash of the first run.
        first: u64,
        /// Hash of the second run.
        second: u64,
    },
}

/// What a sweep found.
#[derive(Debug)]
pub struct Report<F, C> {
    /// Seeds without a failure.
    pub passed: u64,
    /// Failed seeds.
    pub failures: Vec<(u64, Failure<F>)>,
    /// What all runs together went through.
    pub coverage: C,
}

/// Runs all seeds; `progress` hears of each failure at once.
pub fn sweep<F, C: Default + std::ops::AddAssign>(
    seeds: std::ops::Range<u64>,
    run: impl Fn(u64) -> Run<F, C>,
    mut progress: impl FnMut(u64, &Failure<F>),
) -> Report<F, C> {
    let mut report = Report {
        passed: 0,
        failures: Vec::new(),
        coverage: C::default(),
    };
    for seed in seeds {
        let Run {
            hash: first,
            finding,
            coverage,
        } = run(seed);
        report.coverage += coverage;
        let mut failure = finding.map(|(at, what)| Failure::Violated(at, what));
        if failure.is_none() && seed % REPEAT_EVERY == 0 {
            let second = run(seed).hash;
            failure = (first != second).then_some(Failure::NotRepeatable { first, second });
        }
        match failure {
            Some(failure) => {
                progress(seed, &failure);
                report.failures.push((seed, failure));
            }
            None => report.passed += 1,
        }
    }
    report
}

/// A run of lease hosts.
#[must_use]
pub fn leases(options: Options) -> Run<crate::Violation, Coverage> {
    let outcome = lease_world::run(options);
    Run {
        hash: outcome.hash,
        finding: outcome.finding,
        coverage: outcome.coverage,
    }
}

/// A run of a whole cluster.
#[must_use]
pub fn cluster(options: cluster::Options) -> Run<String, cluster::Coverage> {
    let outcome = cluster::run(options);
    Run {
        hash: outcome.hash,
        finding: outcome.finding,
        coverage: outcome.coverage,
    }
}

impl<F: std::fmt::Display> std::fmt::Display for Failure<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Violated(at, what) => write!(f, "{what} (at {})", at.since_start()),
            Self::NotRepeatable { first, second } => write!(
                f,
                "the seed does not repeat: trace hash {first:016x}, then {second:016x}"
            ),
        }
    }
}
