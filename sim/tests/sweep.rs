//! A sweep of a few hundred seeds: no violation, no idleness, and seeds that repeat.

use sim::sweep::{Failure, leases, sweep};
use sim::{Options, Violation, run};
use types::Duration;

#[test]
fn no_seed_of_a_sweep_violates_an_invariant_and_the_sweep_is_not_idle() {
    let report = sweep(
        0..600,
        |seed| leases(Options::new(seed)),
        |seed, failure| println!("seed {seed}: {failure}"),
    );

    assert_eq!(report.failures, []);
    assert_eq!(report.passed, 600);
    let coverage = report.coverage;
    for (what, count, at_least) in [
        ("leases used", coverage.used, 6000),
        ("shortcuts", coverage.shortcuts, 200),
        ("leases lost", coverage.lost, 600),
        ("hand-overs", coverage.hand_overs, 600),
        ("releases", coverage.releases, 600),
        ("activations refused", coverage.refused, 100),
        ("acquisitions in quarantine", coverage.quarantined, 600),
        ("crashes", coverage.crashes, 600),
        ("stops with saved votes", coverage.saved, 300),
        ("pauses", coverage.pauses, 600),
        ("view changes", coverage.views, 300),
    ] {
        assert!(count >= at_least, "{what}: {count}");
    }
}

#[test]
fn a_seed_repeats_bit_for_bit_and_another_one_differs() {
    let first = run(Options::new(7));
    let second = run(Options::new(7));
    let other = run(Options::new(8));

    assert_eq!(first.hash, second.hash);
    assert_ne!(first.hash, other.hash);
}

#[test]
fn reading_along_changes_nothing() {
    let readable = Options {
        readable: true,
        ..Options::new(7)
    };

    let outcome = run(readable);

    assert_eq!(outcome.hash, run(Options::new(7)).hash);
    assert!(outcome.lines.len() > 1000);
}

/// What the liveness phase is worth: without time for it, a cell is reported.
#[test]
fn a_cell_that_nobody_can_use_in_time_is_reported() {
    let report = sweep(
        0..20,
        |seed| {
            leases(Options {
                liveness: Duration::from_millis(1),
                ..Options::new(seed)
            })
        },
        |_, _| {},
    );

    let is_liveness = |failure: &Failure<Violation>| {
        matches!(failure, Failure::Violated(_, Violation::NotUsable { .. }))
    };
    assert!(!report.failures.is_empty());
    assert!(
        report
            .failures
            .iter()
            .all(|(_, failure)| is_liveness(failure))
    );
}
