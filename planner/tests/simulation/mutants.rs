//! Every deliberate wrong edit must be found within a stated number of seeds, by the rule it breaks.

use planner::Mutant;

use crate::run;

fn check(mutant: Mutant, seeds: u64, rules: &[&str]) {
    let broken = (0..seeds).find_map(|seed| {
        let why = run(seed, |world| world.limits.mutant = Some(mutant)).err()?;
        Some((seed, why))
    });
    let Some((seed, why)) = broken else {
        panic!("{mutant:?} survived {seeds} seeds");
    };
    println!("{mutant:?}: found by seed {seed} of {seeds}: {why}");
    let expected = rules.iter().any(|rule| why.contains(rule));
    assert!(expected, "{mutant:?}: {why}");
}

#[test]
fn a_change_that_ends_early_is_found() {
    check(Mutant::EndsEarly, 20, &["a member has not declared"]);
}

#[test]
fn a_change_that_ends_without_asking_the_others_is_found() {
    check(Mutant::OthersIgnored, 20, &["a member has not declared"]);
}

#[test]
fn a_target_without_room_is_found() {
    check(Mutant::RoomIgnored, 50, &["the target has no room"]);
}

#[test]
fn a_replacement_before_the_grace_time_is_found() {
    check(
        Mutant::GraceIgnored,
        20,
        &["the reason doesn't hold", "a change that goes on"],
    );
}

#[test]
fn a_badly_placed_target_is_found() {
    check(Mutant::DomainsIgnored, 20, &["farther"]);
}

#[test]
fn a_member_removed_before_it_is_replaced_is_found() {
    check(Mutant::RemovesFirst, 20, &["without replacing it"]);
}

#[test]
fn a_change_without_a_majority_is_found() {
    check(Mutant::MajorityIgnored, 20, &["has no majority"]);
}

#[test]
fn changes_beyond_the_limits_are_found() {
    check(Mutant::LimitsIgnored, 20, &["changes"]);
}

#[test]
fn moves_to_and_fro_are_found() {
    check(
        Mutant::MovesForNothing,
        50,
        &["acts still come", "goes too far"],
    );
}

#[test]
fn a_change_that_waits_for_a_dead_target_is_found() {
    check(
        Mutant::NeverRetargets,
        200,
        &["not healed", "waits for a full target"],
    );
}

#[test]
fn groups_that_count_as_equally_large_are_found() {
    check(
        Mutant::SizesIgnored,
        50,
        &[
            "has no room",
            "goes too far",
            "there is a farther target",
            "nobody has counted",
        ],
    );
}

#[test]
fn a_target_chosen_without_what_still_comes_there_is_found() {
    check(Mutant::PlannedIgnored, 100, &["has no room"]);
}

#[test]
fn a_change_that_waits_for_a_full_target_is_found() {
    check(Mutant::FullTargetKept, 50, &["waits for a full target"]);
}

#[test]
fn a_change_that_waits_for_a_member_without_progress_is_found() {
    check(Mutant::IllKept, 200, &["not healed", "makes no progress"]);
}

#[test]
fn a_member_that_is_given_up_too_soon_is_found() {
    check(
        Mutant::Impatient,
        20,
        &[
            "a member has not declared",
            "the reason doesn't hold",
            "a change that goes on",
            "farther target",
        ],
    );
}

#[test]
fn a_replacement_out_of_place_is_found() {
    check(Mutant::OrderLost, 20, &["the order of members changes"]);
}

/// The model of the data sees by itself that copies were deleted too early.
#[test]
fn a_loss_of_data_is_found_without_looking_at_the_records() {
    let edit = |world: &mut crate::World| {
        world.judging = false;
        world.limits.mutant = Some(Mutant::EndsEarly);
    };
    let why = (0..50).find_map(|seed| run(seed, edit).err()).unwrap();
    println!("{why}");
    assert!(why.contains("what was acknowledged"), "{why}");
}
