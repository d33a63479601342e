//! Every deliberate wrong edit must be found within a stated number of seeds; docs/invariants.md
//! lists them.

use osd_core::{Config, Mutant};

use types::{Policy, Quorum, WritePolicy};

use crate::faults::Plan;
use crate::policies::{EVERY, policy};
use crate::{config, run};

/// Seeds until a run of the edited protocol fails.
fn found(mutate: impl Fn(&mut Plan, &mut Config), seeds: u64) -> Option<u64> {
    (0..seeds).find(|seed| {
        let (mut plan, mut config) = (Plan::of(*seed), config());
        mutate(&mut plan, &mut config);
        run(plan, config).is_err()
    })
}

fn check(mutant: Mutant, seeds: u64) {
    let seed = found(|_, config| config.mutant = Some(mutant), seeds);
    println!("{mutant:?}: found by seed {seed:?} of {seeds}");
    assert!(seed.is_some(), "{mutant:?} survived {seeds} seeds");
}

#[test]
fn quorum_of_one_is_found() {
    check(Mutant::QuorumOfOne, 50);
}

#[test]
fn sync_of_one_is_found() {
    // It takes a loss of power together with the primary's disk.
    let seed = found(
        |plan, config| {
            plan.total_losses = true;
            plan.wipes = true;
            plan.damage = false;
            config.mutant = Some(Mutant::SyncOfOne);
        },
        100,
    );
    println!("SyncOfOne: found by seed {seed:?} of 100");
    assert!(seed.is_some());
}

#[test]
fn epochs_compared_with_what_was_written_are_found() {
    check(Mutant::WrittenNotPromised, 300);
}

#[test]
fn promises_that_a_crash_forgets_are_found() {
    check(Mutant::PromiseForgotten, 20);
}

#[test]
fn fetch_errors_that_are_ignored_are_found() {
    check(Mutant::FetchErrorsIgnored, 500);
}

#[test]
fn backups_that_obey_another_view_are_found() {
    let mutant = Mutant::ViewIgnored;
    check_moving("ViewIgnored", |_, config| config.mutant = Some(mutant), 500);
}

#[test]
fn trusted_suspects_are_found() {
    check(Mutant::SuspectsTrusted, 50);
}

#[test]
fn serving_before_a_quorum_is_found() {
    // It takes five replicas, one of them alone with the newest value, and two deaths at once, so it
    // has a run of its own.
    let mut config = config();
    config.mutant = Some(Mutant::ServesBeforeQuorum);
    assert!(crate::protocol::serves_before_quorum(config));
}

#[test]
fn lease_checked_before_the_work_only_is_found() {
    // Only a pause between a look at the clock and the work does harm.
    let seed = found(
        |plan, config| {
            plan.pauses = true;
            plan.steps_per_pause = 800;
            plan.appends = false;
            plan.total_losses = false;
            plan.damage = false;
            plan.wipes = false;
            plan.full = false;
            config.mutant = Some(Mutant::LeaseCheckedBefore);
        },
        1500,
    );
    println!("LeaseCheckedBefore: found by seed {seed:?} of 1500");
    assert!(seed.is_some());
}

#[test]
fn copies_brought_up_in_memory_only_are_found() {
    // It takes two disks, one after the other, and the power in between.
    let seed = found(
        |plan, config| {
            plan.total_losses = true;
            plan.wipes = true;
            plan.damage = false;
            config.mutant = Some(Mutant::RecoveredInMemory);
        },
        1500,
    );
    println!("RecoveredInMemory: found by seed {seed:?} of 1500");
    assert!(seed.is_some());
}

#[test]
fn crashed_replicas_that_vote_like_others_are_found() {
    check(Mutant::NoTrustGrace, 300);
}

#[test]
fn uncommitted_reads_are_found() {
    check(Mutant::ReadsUncommitted, 2000);
}

#[test]
fn delayed_changes_are_found() {
    // An attempt that was delayed is recognised as done or as one that is missed, unless what it asked for was
    // undone: for want of room, which takes a run of its own.
    let mut config = config();
    config.mutant = Some(Mutant::DelayedChanges);
    assert!(crate::full_disks::delayed_append_comes_back(config));
}

#[test]
fn repeated_changes_are_found() {
    check(Mutant::RepeatedChanges, 20);
}

#[test]
fn changes_of_earlier_sessions_that_are_done_again_are_found() {
    check(Mutant::EarlierSessionIgnored, 1000);
}

#[test]
fn changes_out_of_order_are_found() {
    check(Mutant::ChangesOutOfOrder, 20);
}

#[test]
fn gaps_are_found() {
    check(Mutant::GapsAllowed, 300);
}

#[test]
fn skipped_comparison_is_found() {
    check(Mutant::CatchUpSkipped, 50);
}

/// The deaths of two servers, one of which is being drained, find these as well.
#[test]
fn losses_of_unsynced_appends_are_found() {
    for mutant in [Mutant::PreviousSetIgnored, Mutant::SuspectsTrusted] {
        let edited = |plan: &mut Plan, config: &mut Config| {
            *plan = Plan::unsynced(plan.seed);
            config.mutant = Some(mutant);
        };
        let seed = found(edited, 100);
        println!("{mutant:?} without syncs: found by seed {seed:?} of 100");
        assert!(seed.is_some(), "{mutant:?} survived 100 seeds");
    }
}

#[test]
fn losses_that_nobody_notices_are_found() {
    let seed = found(
        |plan, config| {
            plan.total_losses = true;
            plan.damage = false;
            config.mutant = Some(Mutant::LossesUnnoticed);
        },
        100,
    );
    println!("LossesUnnoticed: found by seed {seed:?} of 100");
    assert!(seed.is_some());
}

#[test]
fn record_written_before_its_data_is_found() {
    let seed = found(
        |plan, _| {
            plan.total_losses = true;
            plan.damage = false;
            plan.record_before_data = true;
        },
        600,
    );
    println!("record before data: found by seed {seed:?}");
    assert!(seed.is_some());
}

#[test]
fn sums_made_anew_of_blocks_at_rest_are_found() {
    let seed = found(
        |plan, _| {
            plan.total_losses = true;
            plan.damage = true;
            plan.crashes = false;
            plan.wipes = false;
            plan.sums_forgotten = true;
        },
        300,
    );
    println!("sums made anew: found by seed {seed:?} of 300");
    assert!(seed.is_some());
}

#[test]
fn doubted_blocks_taken_at_once_are_found() {
    let seed = found(
        |plan, config| {
            plan.total_losses = true;
            plan.damage = true;
            plan.crashes = false;
            plan.wipes = false;
            config.mutant = Some(Mutant::DoubtedTaken);
        },
        100,
    );
    println!("DoubtedTaken: found by seed {seed:?} of 100");
    assert!(seed.is_some());
}

#[test]
fn doubted_blocks_taken_while_somebody_may_have_them_are_found() {
    let mut config = config();
    config.mutant = Some(Mutant::ElsewhereCounts);
    assert_ne!(crate::doubted::taken_as_found(&config).0, 0);
}

#[test]
fn primaries_that_do_not_hear_the_one_before_are_found() {
    let mut config = config();
    config.mutant = Some(Mutant::AsyncHasty);
    let seed = (0..100).find(|seed| crate::policies::calmly(*seed, config.clone()).is_err());
    println!("AsyncHasty: found by seed {seed:?} of 100");
    assert!(seed.is_some());
}

#[test]
fn appends_that_stay_without_room_are_found() {
    let seed = found(
        |plan, config| {
            plan.appends = true;
            plan.full = true;
            config.mutant = Some(Mutant::RefusedStays);
        },
        100,
    );
    println!("RefusedStays: found by seed {seed:?} of 100");
    assert!(seed.is_some());
}

/// Checks an edit of what a policy means, with three replicas.
fn check_policies(mutant: Mutant, policies: &[Policy], seeds: u64) {
    let edited = |plan: &mut Plan, config: &mut Config| {
        *plan = Plan::with(plan.seed, 3, policies);
        config.async_lag_bytes_max = 4_000;
        config.mutant = Some(mutant);
    };
    let seed = found(edited, seeds);
    println!("{mutant:?}: found by seed {seed:?} of {seeds}");
    assert!(seed.is_some(), "{mutant:?} survived {seeds} seeds");
}

#[test]
fn fullsync_that_answers_before_the_disk_is_found() {
    let fullsync = policy(WritePolicy::Fullsync, Quorum::Majority);
    check_policies(Mutant::FullsyncInMemory, &[fullsync], 10);
}

#[test]
fn quorum_of_all_that_is_a_majority_is_found() {
    for write in [WritePolicy::Fullsync, WritePolicy::Memsync] {
        let all = policy(write, Quorum::All);
        check_policies(Mutant::AllIsMajority, &[all], 10);
    }
}

#[test]
fn replicas_that_async_forgets_are_found() {
    let all = policy(WritePolicy::Async, Quorum::Majority);
    check_policies(Mutant::AsyncForgetsLagging, &[all], 20);
}

#[test]
fn async_without_bound_is_found() {
    let all = policy(WritePolicy::Async, Quorum::Majority);
    check_policies(Mutant::AsyncUnbounded, &[all], 20);
}

#[test]
fn policy_that_changes_for_the_next_primary_only_is_found() {
    check_policies(Mutant::PolicyKept, &EVERY, 20);
}

#[test]
fn sync_of_one_under_fullsync_is_found() {
    let fullsync = policy(WritePolicy::Fullsync, Quorum::Majority);
    check_policies(Mutant::SyncOfOne, &[fullsync], 10);
}

/// The same while the replica set changes.
fn check_moving(name: &str, mutate: impl Fn(&mut Plan, &mut Config), seeds: u64) {
    check_moving_of(name, 3, mutate, 0..seeds);
}

fn check_moving_of(
    name: &str,
    replicas: usize,
    mutate: impl Fn(&mut Plan, &mut Config),
    mut seeds: std::ops::Range<u64>,
) {
    let seed = seeds.find(|seed| {
        let (mut plan, mut config) = (Plan::moving(*seed, replicas), config());
        mutate(&mut plan, &mut config);
        run(plan, config).is_err()
    });
    println!("{name}: found by seed {seed:?}");
    assert!(seed.is_some(), "{name} survived");
}

#[test]
fn new_set_that_decides_alone_is_found() {
    let mutant = Mutant::PreviousSetIgnored;
    check_moving(
        "PreviousSetIgnored",
        |_, config| config.mutant = Some(mutant),
        100,
    );
}

#[test]
fn servers_that_declare_without_comparing_are_found() {
    check_moving(
        "declared unseen",
        |plan, _| plan.declared_unseen = true,
        100,
    );
}

#[test]
fn servers_that_compare_across_views_are_found() {
    let wrong = |plan: &mut Plan, _: &mut Config| plan.compared_across_views = true;
    check_moving_of("compared across views", 2, wrong, 0..300);
}

#[test]
fn servers_that_declare_what_is_in_memory_are_found() {
    let wrong = |plan: &mut Plan, _: &mut Config| {
        plan.declared_in_memory = true;
        plan.total_losses = true;
        plan.policies = vec![policy(WritePolicy::Fullsync, Quorum::Majority)];
    };
    check_moving_of("declared in memory", 1, wrong, 2_000..4_000);
}

#[test]
fn change_that_ends_early_is_found() {
    check_moving("ended early", |plan, _| plan.ended_early = true, 300);
}

#[test]
fn record_that_tells_of_replaced_changes_is_found() {
    let mut config = config();
    config.mutant = Some(Mutant::RecordKept);
    assert_ne!(crate::kept::told_by_disk(config), 0);
}

#[test]
fn servers_that_crashed_and_vouch_are_found() {
    let wrong = |plan: &mut Plan, _: &mut Config| plan.suspects_vouch = true;
    check_moving_of("suspects vouch", 2, wrong, 0..2_000);
}

#[test]
fn record_taken_back_to_what_the_copy_never_had_is_found() {
    let mut config = config();
    config.mutant = Some(Mutant::TakenBackToBase);
    let told = crate::kept::taken_back(config, crate::bench::EPOCH - 1, 9);
    assert_eq!(told.seq, 9, "changes 2 to 9 never came here");
}

#[test]
fn copies_that_forget_what_they_had_are_found() {
    let mut config = config();
    config.mutant = Some(Mutant::KeptForgotten);
    assert_ne!(crate::kept::counts_for(config, true), 1);
}

#[test]
fn copies_that_count_for_what_is_no_history_are_found() {
    let mut config = config();
    config.mutant = Some(Mutant::KeptOfAnyHistory);
    assert_ne!(crate::kept::counts_for(config, false), 0);
}

#[test]
fn scrubs_that_believe_damaged_copies_or_zeros_are_found() {
    for mutant in [Mutant::ScrubBelievesDamaged, Mutant::ScrubBelievesZeros] {
        let mut config = config();
        config.mutant = Some(mutant);
        assert!(crate::scrubs::spreads(&config).is_some(), "{mutant:?}");
    }
}

#[test]
fn older_copies_that_stay_trusted_are_found() {
    let seed = (0..50).find(|seed| {
        let mut config = config();
        config.mutant = Some(Mutant::OutdatedTrusted);
        !crate::outdated::newest_wins(*seed, config)
    });
    println!("OutdatedTrusted: found by seed {seed:?} of 50");
    assert!(seed.is_some());
}
