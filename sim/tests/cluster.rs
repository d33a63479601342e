//! Seeds of the whole cluster: without faults, with all of them, and repeated.

use sim::cluster::{Options, run};
use sim::sweep::{cluster, sweep};
use types::Duration;

#[test]
fn without_faults_everything_is_done_at_once() {
    for seed in 0..10 {
        let options = Options {
            fair: true,
            ..Options::new(seed)
        };

        let outcome = run(options);

        assert_eq!(outcome.finding, None, "seed {seed}");
        assert!(outcome.coverage.done > 500, "seed {seed}");
    }
}

#[test]
fn no_seed_of_a_sweep_breaks_a_promise_and_the_sweep_is_not_idle() {
    let run = |seed| cluster(Options::new(seed));

    let report = sweep(0..150, run, |seed, failure| {
        println!("seed {seed}: {failure}")
    });

    assert_eq!(report.failures, []);
    let coverage = report.coverage;
    for (what, count, at_least) in [
        ("requests", coverage.done, 100_000),
        ("files made", coverage.created, 2_000),
        ("files removed", coverage.removed, 1_500),
        ("syncs", coverage.syncs, 5_000),
        ("mounts told of losses", coverage.told, 30),
        ("crashes", coverage.crashes, 50),
        ("losses of power", coverage.losses, 50),
        ("orderly stops", coverage.stops, 15),
        ("stuck threads", coverage.pauses, 50),
        ("leaders deposed", coverage.deposed, 50),
        ("changes of deposed leaders lost", coverage.lost, 5),
        ("servers that stayed away or ill", coverage.stayed, 10),
        ("disks lost", coverage.wipes, 8),
        ("changes of sets", coverage.changed_sets, 150),
        ("copies moved away", coverage.moved, 300),
        ("changes of the policy", coverage.policies, 100),
        ("mounts cut off", coverage.stranded, 40),
        ("sessions after others", coverage.sessions, 20),
    ] {
        assert!(count >= at_least, "{what}: {count}");
    }
}

#[test]
fn a_seed_repeats_bit_for_bit_and_another_one_differs() {
    let readable = Options {
        readable: true,
        ..Options::new(7)
    };

    let first = run(Options::new(7));
    let second = run(readable);

    assert_eq!(first.hash, second.hash, "reading along changes nothing");
    assert!(second.lines.len() > 1_000);
    assert_ne!(first.hash, run(Options::new(8)).hash);
}

/// What the liveness phase is worth: without time for it, unanswered requests are reported.
#[test]
fn a_request_that_is_not_answered_in_time_is_reported() {
    let run = |seed| {
        cluster(Options {
            answers: Duration::ZERO,
            ..Options::new(seed)
        })
    };

    let report = sweep(0..20, run, |_, _| {});

    let late = |failure: &_| format!("{failure:?}").contains("not answered");
    assert!(!report.failures.is_empty());
    assert!(report.failures.iter().all(|(_, failure)| late(failure)));
}
