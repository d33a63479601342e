//! Many seeds in a row, with a sample of them run twice.

use crate::lease_oracle::{Coverage, Finding};
use crate::lease_world::run;
use crate::options::Options;

/// One seed in so many is run twice, to see that runs repeat. 50: costs 2 % and still hits every
/// sweep of a test.
pub const REPEAT_EVERY: u64 = 50;

/// Why a seed failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// An invariant did not hold.
    Violated(Finding),
    /// The second run of the seed was another one.
    NotRepeatable {
        /// Hash of the first run.
        first: u64,
        /// Hash of the second run.
        second: u64,
    },
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Report {
    /// Seeds without a failure.
    pub passed: u64,
    /// Failed seeds.
    pub failures: Vec<(u64, Failure)>,
    /// What all runs together went through.
    pub coverage: Coverage,
}

/// Runs the seeds `from .. from + count`, each with the options that `options` makes of it;
/// `progress` hears of each failure at once.
pub fn sweep(
    seeds: std::ops::Range<u64>,
    options: impl Fn(u64) -> Options,
    mut progress: impl FnMut(u64, &Failure),
) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        let outcome = run(options(seed));
        report.coverage += outcome.coverage;
        let mut failure = outcome.finding.map(Failure::Violated);
        if failure.is_none() && seed % REPEAT_EVERY == 0 {
            let (first, second) = (outcome.hash, run(options(seed)).hash);
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

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Violated((at, violation)) => write!(f, "{violation} (at {})", at.since_start()),
            Self::NotRepeatable { first, second } => write!(
                f,
                "the seed does not repeat: trace hash {first:016x}, then {second:016x}"
            ),
        }
    }
}
