//! Every deliberate wrong edit of what joins the cores is found within a stated number of seeds of the
//! whole cluster, and noticed by what it breaks; `docs/invariants.md` says the same numbers.

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

/// A wrong edit, words of the finding that may notice it, and the number of seeds it may take.
const EDITS: [(Edit, &[&str], u64); 19] = [
    (Edit::SlotsForgotten, &["and repeated"], 100),
    (Edit::AnsweredWhenProposed, &["but the log did"], 20),
    (Edit::ReadersIgnored, &["has it open"], 50),
    (
        Edit::ReadersUnordered,
        &["has no name and is not removed"],
        20,
    ),
    (Edit::RegistrationIgnored, &["has it open"], 300),
    (Edit::DeletionBelieved, &["of a removed file"], 50),
    (Edit::TombstonesIgnored, &["of a removed file"], 50),
    (Edit::LeftoversForgotten, &["of a removed file"], 20),
    (Edit::FloorForgotten, &["not answered"], 20),
    (Edit::LeaseNewsLost, &["not answered"], 300),
    (Edit::SilenceIgnored, &["differ"], 400),
    (Edit::MapForgotten, &["which is its to keep"], 50),
    (Edit::WipeUnnoticed, CONTENT, 300),
    (Edit::DeclaredUnseen, CONTENT, 100),
    (Edit::MovedKept, &["keeps"], 20),
    (Edit::MovedForGood, &["of a live file"], 50),
    (Edit::PolicyUnheard, CONTENT, 50),
    (Edit::RightsForEver, &["which ended long ago"], 300),
    (
        Edit::ReadersOfTheDead,
        &["has no name and is not removed"],
        300,
    ),
];

#[test]
fn every_wrong_edit_is_found_by_what_it_breaks_in_time() {
    for (edit, words, seeds) in EDITS {
        let found = (0..seeds).find_map(|seed| {
            let options = Options {
                edit: Some(edit),
                ..Options::new(seed)
            };
            run(options).finding.map(|(_, wrong)| (seed, wrong))
        });

        let (seed, wrong) = found.unwrap_or_else(|| panic!("{edit:?} survives {seeds} seeds"));
        println!("{edit:?}: found by seed {seed} of {seeds}");
        let noticed = words.iter().any(|words| wrong.contains(words));
        assert!(noticed, "{edit:?}, seed {seed}: {wrong}");
    }
}

#[test]
fn the_document_states_the_same_numbers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/invariants.md");
    let document = std::fs::read_to_string(path).expect("docs/invariants.md is there");

    for (edit, _, seeds) in EDITS {
        let row = format!("| `{edit:?}` | {seeds} |");
        assert!(document.contains(&row), "missing: {row}");
    }
}
