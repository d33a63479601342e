//! Every deliberate wrong edit of the rules of quotas must be found: by a test of its own, and by random commands
//! within a stated number of seeds.

use std::panic::catch_unwind;

use mrc_core::Mutant;

use crate::prop_namespace::compare_with_the_model;
use crate::quotas;

/// Seeds of random commands within which each is found.
const SEEDS: u64 = 10;

fn check(mutant: Mutant, test: fn()) {
    test();
    let own = mutant.during(|| catch_unwind(test));
    assert!(own.is_err(), "{mutant:?} survived its own test");
    let mut seeds = 0..SEEDS;
    let found = seeds.find(|seed| {
        let run = mutant.during(|| catch_unwind(|| compare_with_the_model(*seed)));
        run.is_err()
    });
    assert!(found.is_some(), "{mutant:?} survived {SEEDS} seeds");
}

#[test]
fn one_file_more_than_the_quota_is_found() {
    check(
        Mutant::OneMore,
        quotas::everything_that_takes_an_inode_is_refused_beyond_the_quota_and_nothing_else,
    );
}

#[test]
fn root_directory_that_counts_is_found() {
    check(
        Mutant::RootCounted,
        quotas::everything_that_takes_an_inode_is_refused_beyond_the_quota_and_nothing_else,
    );
}

#[test]
fn removed_file_that_counts_is_found() {
    check(
        Mutant::DoomedCounted,
        quotas::removed_file_counts_until_nobody_has_it_open_for_writing,
    );
}

#[test]
fn removed_file_that_does_not_count_while_it_is_written_is_found() {
    check(
        Mutant::WritersForgotten,
        quotas::removed_file_counts_until_nobody_has_it_open_for_writing,
    );
}

#[test]
fn removed_file_that_does_not_count_again_is_found() {
    check(
        Mutant::RevivalForgotten,
        quotas::removed_file_counts_until_nobody_has_it_open_for_writing,
    );
}

#[test]
fn collected_file_that_is_subtracted_for_ever_is_found() {
    check(
        Mutant::CollectedKept,
        quotas::removed_file_counts_until_nobody_has_it_open_for_writing,
    );
}

#[test]
fn size_that_does_not_shrink_is_found() {
    check(
        Mutant::ShrinkingIgnored,
        quotas::removed_file_counts_until_nobody_has_it_open_for_writing,
    );
}
