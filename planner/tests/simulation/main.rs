//! The planner against a model of the cluster, from a seed.
//!
//! The model knows what the planner can't: which copies hold the newest acknowledged write. A run has
//! two phases: faults, during which every act must be allowed and no acknowledged write may get out
//! of reach; then calm, in which every group must become what its volume wants and the acts must come
//! to an end.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that can't go on fails"
)]

mod apply;
mod calm;
mod checks;
mod data;
mod faults;
mod limits;
#[cfg(feature = "mutants")]
mod mutants;
mod rng;
mod world;

use std::collections::BTreeMap;

use world::World;

/// Steps with faults. 150: some hours, in which each server dies a few times.
const FAULT_STEPS: usize = 150;

/// One run. The error says which rule was broken first.
fn run(seed: u64, edit: impl Fn(&mut World)) -> Result<Outcome, String> {
    let mut world = World::new(seed);
    edit(&mut world);
    for step in 0..FAULT_STEPS {
        world.fault();
        world.step().map_err(|why| format!("step {step}: {why}"))?;
    }
    let rounds = world.calm().map_err(|why| format!("calm: {why}"))?;
    Ok(Outcome {
        acts: world.acts,
        rounds,
        trace: world.trace,
    })
}

/// What happened in a run.
#[derive(Debug, Eq, PartialEq)]
struct Outcome {
    /// Acts by kind.
    acts: BTreeMap<String, u64>,
    /// Until the last act after the faults stopped.
    rounds: usize,
    /// A hash of every act.
    trace: u64,
}

#[test]
fn no_rule_is_broken_and_calm_heals_everything() {
    let mut total = BTreeMap::new();
    let mut longest = 0;
    for seed in 0..1000 {
        let outcome = run(seed, |_| {}).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        for (kind, count) in outcome.acts {
            *total.entry(kind).or_insert(0) += count;
        }
        longest = longest.max(outcome.rounds);
    }
    println!("acts: {total:?}; at most {longest} rounds of calm");

    // A model in which nothing happens proves nothing.
    assert_eq!(total.len(), 7, "{total:?}");
    assert!(total.values().all(|count| *count > 500), "{total:?}");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..5 {
        assert_eq!(run(seed, |_| {}), run(seed, |_| {}));
    }
}
