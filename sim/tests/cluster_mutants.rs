//! Every deliberate wrong edit of what joins the cores is found within a stated number of seeds of the
//! whole cluster, and noticed by what it breaks; `docs/invariants.md` says the same numbers.

use std::ops::Range;

use sim::cluster::{Edit, Options, run};

/// What is said of lost or changed contents.
const CONTENT: &[&str] = &[
    "must be between",
    "is gone or damaged",
    "overlap",
    "is not read as appended",
    "none of values",
    "hides the loss",
    "a loss that was none",
];

/// A wrong edit, words of the finding that may notice it, and the seeds it may take.
const EDITS: [(Edit, &[&str], Range<u64>); 19] = [
    (Edit::SlotsForgotten, &["and repeated"], 0..100),
    (Edit::AnsweredWhenProposed, &["but the log did"], 0..20),
    (Edit::ReadersIgnored, &["has it open"], 0..50),
    (
        Edit::ReadersUnordered,
        &["has no name and is not removed"],
        0..100,
    ),
    (Edit::RegistrationIgnored, &["has it open"], 0..300),
    (
        Edit::DeletionBelieved,
        &["of a removed file", "keeps copies"],
        0..50,
    ),
    (
        Edit::TombstonesIgnored,
        &["of a removed file", "keeps copies"],
        0..50,
    ),
    (
        Edit::LeftoversForgotten,
        &["of a removed file", "keeps copies"],
        0..20,
    ),
    (Edit::FloorForgotten, &["not answered"], 0..20),
    (Edit::LeaseNewsLost, &["not answered"], 0..300),
    (Edit::SilenceIgnored, &["differ"], 400..600),
    (Edit::MapForgotten, &["which is its to keep"], 0..200),
    (Edit::WipeUnnoticed, CONTENT, 1100..1200),
    (Edit::DeclaredUnseen, CONTENT, 0..100),
    (
        Edit::MovedKept,
        &["of a removed file", "keeps copies"],
        0..20,
    ),
    (Edit::MovedForGood, &["of a live file"], 0..50),
    (Edit::PolicyUnheard, CONTENT, 0..50),
    (Edit::RightsForEver, &["which ended long ago"], 0..20),
    (
        Edit::ReadersOfTheDead,
        &["has no name and is not removed"],
        0..20,
    ),
];

#[test]
fn every_wrong_edit_is_found_by_what_it_breaks_in_time() {
    for (edit, words, seeds) in EDITS {
        let found = seeds.clone().find_map(|seed| {
            let options = Options {
                edit: Some(edit),
                ..Options::new(seed)
            };
            run(options).finding.map(|(_, wrong)| (seed, wrong))
        });

        let (seed, wrong) = found.unwrap_or_else(|| panic!("{edit:?} survives {seeds:?}"));
        println!("{edit:?}: found by seed {seed} of {seeds:?}");
        let noticed = words.iter().any(|words| wrong.contains(words));
        assert!(noticed, "{edit:?}, seed {seed}: {wrong}");
    }
}

#[test]
fn the_document_states_the_same_numbers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/invariants.md");
    let document = std::fs::read_to_string(path).expect("docs/invariants.md is there");

    for (edit, _, seeds) in EDITS {
        let count = seeds.end - seeds.start;
        let row = match seeds.start {
            0 => format!("| `{edit:?}` | {count} |"),
            from => format!("| `{edit:?}` | {count}, from {from} on |"),
        };
        assert!(document.contains(&row), "missing: {row}");
    }
}
