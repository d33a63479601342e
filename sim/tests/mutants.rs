//! Every deliberate wrong edit of the lease protocol is found within a stated number of seeds, by
//! the invariant it breaks; `docs/invariants.md` says the same numbers.

use lease::Mutant;
use sim::{Options, Violation, run};

/// A wrong edit, the invariant that must notice it, and the number of seeds it may take.
const MUTANTS: [(Mutant, &str, u64); 14] = [
    (Mutant::NoQuarantine, "L-1", 300),
    (Mutant::ProposesInQuarantine, "L-1", 500),
    (Mutant::MajorityMinusOne, "L-1", 20),
    (Mutant::HolderTimerLonger, "L-1", 200),
    (Mutant::HolderCountsFromAnswer, "L-1", 100),
    (Mutant::DuplicatesCount, "L-1", 100),
    (Mutant::OldAnswersCount, "L-1", 1000),
    (Mutant::ShortcutForAnybody, "L-1", 100),
    (Mutant::ViewIgnored, "L-1", 1000),
    (Mutant::PreviousSetIgnored, "L-1", 1000),
    (Mutant::RunningLeaseIgnored, "L-1", 20),
    (Mutant::UsesAfterRelease, "L-2", 20),
    (Mutant::EpochNotRaised, "L-2", 20),
    (Mutant::RenewalChangesHolder, "L-2", 20),
];

/// Seeds within which clocks that drift five times the bound must be noticed.
const DRIFT_SEEDS: u64 = 300;

/// The first seed below `seeds` that finds the wrong edit, and the invariant.
fn found_within(seeds: u64, edit: impl Fn(&mut Options)) -> Option<(u64, &'static str)> {
    (0..seeds).find_map(|seed| {
        let mut options = Options::new(seed);
        edit(&mut options);
        run(options)
            .finding
            .map(|(_, violation)| (seed, name(&violation)))
    })
}

fn name(violation: &Violation) -> &'static str {
    match violation {
        Violation::TwoHolders { .. } => "L-1",
        Violation::EpochNotAbove { .. } => "L-2",
        Violation::EpochOfTwo { .. } => "L-3",
        Violation::NotUsable { .. } => "L-4",
    }
}

#[test]
fn every_mutant_is_found_by_the_invariant_it_breaks_in_time() {
    for (mutant, invariant, seeds) in MUTANTS {
        let found = found_within(seeds, |options| options.lease.mutant = Some(mutant));

        println!("{mutant:?}: {found:?}");
        let (_, by) = found.unwrap_or_else(|| panic!("{mutant:?} survives {seeds} seeds"));
        assert_eq!(by, invariant, "{mutant:?}");
    }
}

#[test]
fn clocks_beyond_the_drift_bound_are_noticed() {
    let found = found_within(DRIFT_SEEDS, |options| options.drift_ppm *= 5);

    println!("{found:?}");
    assert_eq!(found.map(|(_, by)| by), Some("L-1"));
}

#[test]
fn the_document_states_the_same_numbers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/invariants.md");
    let document = std::fs::read_to_string(path).expect("docs/invariants.md is there");

    for (mutant, invariant, seeds) in MUTANTS {
        let row = format!("| `{mutant:?}` | {invariant} | {seeds} |");
        assert!(document.contains(&row), "missing: {row}");
    }
    let row = format!("| clocks five times beyond the bound | L-1 | {DRIFT_SEEDS} |");
    assert!(document.contains(&row), "missing: {row}");
}
