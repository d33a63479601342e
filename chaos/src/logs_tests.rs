//! Histories of logs that are fine, and changed ones that must be found.

use crate::fault::{Fault, Happened};
use crate::log_record::{self, Name};
use crate::logs::{FinalLog, check};
use crate::node::Node;
use crate::operation::{Operation, Outcome, Record};

fn record(began_ns: u64, operation: Operation, outcome: Outcome) -> Record {
    Record {
        client: 0,
        mount: 1,
        began_ns,
        ended_ns: began_ns + 5,
        held_ns: None,
        operation,
        outcome,
    }
}

fn append(began: u64, writer: u32, number: u32, synced: bool) -> Record {
    let operation = Operation::Append {
        log: "l".to_owned(),
        writer,
        number,
        synced,
    };
    record(began, operation, Outcome::Done)
}

fn read(began: u64, names: &[Name]) -> Record {
    let bytes = bytes(names);
    let operation = Operation::ReadLog {
        log: "l".to_owned(),
    };
    let outcome = Outcome::Log {
        bytes: bytes.len() as u64,
        sum: log_record::sum(&bytes),
    };
    record(began, operation, outcome)
}

fn bytes(names: &[Name]) -> Vec<u8> {
    names
        .iter()
        .flat_map(|(writer, number)| log_record::encode(*writer, *number))
        .collect()
}

fn kinds(names: &[Name], records: &[Record], faults: &[Happened]) -> Vec<&'static str> {
    let log = FinalLog {
        name: "l".to_owned(),
        bytes: bytes(names),
    };
    let violations = check(&log, records, faults);
    violations.into_iter().map(|it| it.kind).collect()
}

const ALL: [Name; 4] = [(1, 0), (2, 0), (1, 1), (2, 1)];

fn history() -> Vec<Record> {
    vec![
        append(0, 1, 0, true),
        append(10, 2, 0, true),
        read(20, &ALL[..2]),
        append(30, 1, 1, true),
        append(32, 2, 1, false),
        read(40, &ALL),
    ]
}

fn kill(number: u8, began_ns: u64) -> Happened {
    Happened {
        fault: Fault::Kill(Node::osd(number)),
        name: String::new(),
        began_ns,
        healed_ns: began_ns + 1,
    }
}

#[test]
fn log_with_everything_once_and_in_order_is_fine() {
    assert!(kinds(&ALL, &history(), &[]).is_empty());
    // Concurrent ones may stand either way.
    let swapped = [ALL[0], ALL[1], ALL[3], ALL[2]];
    assert!(kinds(&swapped, &history()[..5], &[]).is_empty());
}

#[test]
fn lost_append_is_found() {
    let found = kinds(&ALL[..3], &history()[..5], &[]);

    assert_eq!(found, ["acknowledged append lost"]);
}

#[test]
fn unsynced_append_may_be_lost_only_if_two_object_servers_were_killed() {
    let history = &history()[..5];
    let faults = [kill(1, 33), kill(2, 50)];

    assert!(kinds(&ALL[..3], history, &faults).is_empty());
    assert_eq!(kinds(&ALL[..3], history, &faults[..1]).len(), 1);
    // The synced one never.
    assert_eq!(kinds(&[ALL[0], ALL[1], ALL[3]], history, &faults).len(), 1);
}

#[test]
fn append_done_twice_is_found() {
    let names = [ALL[0], ALL[1], ALL[2], ALL[3], ALL[3]];

    let found = kinds(&names, &history()[..5], &[]);

    assert!(found.contains(&"append done twice"), "{found:?}");
}

#[test]
fn wrong_order_is_found() {
    let one_writer = [ALL[2], ALL[0], ALL[1], ALL[3]];
    let two_writers = [ALL[1], ALL[0], ALL[2], ALL[3]];

    assert!(kinds(&one_writer, &history()[..2], &[]).contains(&"log damaged"));
    let all: Vec<Record> = history()
        .into_iter()
        .filter(|it| !matches!(it.operation, Operation::ReadLog { .. }))
        .collect();
    assert_eq!(kinds(&one_writer, &all, &[]).len(), 2);
    assert_eq!(kinds(&two_writers, &all, &[]), ["appends out of order"]);
}

#[test]
fn wrong_reads_are_found() {
    let mut stale = history();
    stale[5] = read(40, &ALL[..3]);
    let mut early = history();
    early[2] = read(20, &ALL[..3]);
    let mut forked = history();
    forked[2] = read(20, &[(2, 0), (1, 0)]);

    assert_eq!(kinds(&ALL, &stale, &[]), ["stale log read"]);
    assert_eq!(kinds(&ALL, &early, &[]), ["log read wrong"]);
    assert_eq!(kinds(&ALL, &forked, &[]), ["log read wrong"]);
}

#[test]
fn failed_append_that_was_half_done_is_told_from_damage() {
    let mut records = history()[..5].to_vec();
    records[3].outcome = Outcome::Hanging;
    let half = &log_record::encode(1, 1)[..20];
    let name = "l".to_owned();
    let bytes = [&bytes(&ALL[..2]), half, &bytes(&ALL[3..])].concat();

    let violations = check(&FinalLog { name, bytes }, &records[..5], &[]);

    let kinds: Vec<&str> = violations.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, ["failed append half done"]);
}

#[test]
fn append_that_failed_may_be_there_or_not() {
    let mut records = history()[..5].to_vec();
    records[4].outcome = Outcome::Hanging;

    assert!(kinds(&ALL, &records, &[]).is_empty());
    assert!(kinds(&ALL[..3], &records, &[]).is_empty());
}
