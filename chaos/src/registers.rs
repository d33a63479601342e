//! Checks registers: every read gives the value of the write before it, in some order that agrees
//! with the times.

use std::collections::{BTreeMap, BTreeSet};

use todc_utils::Specification;

use crate::linear::{Span, is_linearizable, shrunk, windows};
use crate::operation::{Operation, Outcome, Record};
use crate::violation::Violation;

/// Operations of one window at least. 100: the checker's time grows with the square of it.
const WINDOW_LEAST: usize = 100;

/// What every register holds at the start.
pub(crate) const INITIAL: u64 = 0;

/// Checks all registers of a history. Second: windows on which the checker did not come to an end.
pub(crate) fn check(records: &[Record]) -> (Vec<Violation>, u64) {
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if let Operation::Write { key, .. } | Operation::Read { key } = &record.operation {
            keys.entry(key).or_default().push(record);
        }
    }
    let mut violations = Vec::new();
    let mut undecided = 0;
    for (key, records) in keys {
        violations.extend(torn(key, &records));
        match check_key(&records) {
            Verdict::Fine => {}
            Verdict::Undecided => undecided += 1,
            Verdict::Wrong(spans) => {
                let what = format!("{key}: no order of these operations explains the values read");
                let shown = spans.iter().map(|span| records[span.what.record]);
                violations.push(Violation::new("not linearizable", what).shown_by(shown));
            }
        }
    }
    (violations, undecided)
}

fn torn(key: &str, records: &[&Record]) -> Option<Violation> {
    let first = records
        .iter()
        .find(|record| matches!(record.outcome, Outcome::Torn(_)))?;
    let what = format!("{key}: a read gave what no write wrote");
    Some(Violation::new("torn read", what).shown_by([*first]))
}

enum Verdict {
    Fine,
    Undecided,
    Wrong(Vec<Span<Step>>),
}

/// A write or a read, and which record it is.
#[derive(Clone, Copy, Debug)]
struct Step {
    is_write: bool,
    value: u64,
    record: usize,
}

struct Register;

impl Specification for Register {
    type State = u64;
    type Operation = Step;

    fn init() -> u64 {
        INITIAL
    }

    fn apply(step: &Step, state: &u64) -> (bool, u64) {
        if step.is_write {
            (true, step.value)
        } else {
            (step.value == *state, *state)
        }
    }
}

fn check_key(records: &[&Record]) -> Verdict {
    let spans = spans(records);
    let mut states = BTreeSet::from([INITIAL]);
    for window in windows(&spans, WINDOW_LEAST) {
        let mut next = BTreeSet::new();
        for end in candidates(&window, &states) {
            for start in &states {
                match explains(&window, *start, Some(end)) {
                    None => return Verdict::Undecided,
                    Some(true) => {
                        next.insert(end);
                        break;
                    }
                    Some(false) => {}
                }
            }
        }
        if next.is_empty() {
            return Verdict::Wrong(evidence(&window, &states));
        }
        states = next;
    }
    Verdict::Fine
}

/// The operations as the checker takes them, by beginning.
///
/// A write that is not known to have happened counts only if a read gave its value; then it took
/// effect before the first such read ended. Otherwise leaving it out changes nothing.
fn spans(records: &[&Record]) -> Vec<Span<Step>> {
    let mut first_read: BTreeMap<u64, u64> = BTreeMap::new();
    for record in records {
        if let Outcome::Value(value) = record.outcome {
            let ended = first_read.entry(value).or_insert(u64::MAX);
            *ended = record.ended_ns.min(*ended);
        }
    }
    let span = |(number, record): (usize, &&Record)| {
        let (is_write, value, ended_ns) = match (&record.operation, &record.outcome) {
            (Operation::Write { value, .. }, Outcome::Done) => (true, *value, record.ended_ns),
            (Operation::Write { value, .. }, _) => (true, *value, *first_read.get(value)?),
            (_, Outcome::Value(value)) => (false, *value, record.ended_ns),
            _ => return None,
        };
        Some(Span {
            began_ns: record.began_ns,
            // A value read before its write began is for the checker to find wrong.
            ended_ns: ended_ns.max(record.began_ns),
            what: Step {
                is_write,
                value,
                record: number,
            },
        })
    };
    let mut spans: Vec<Span<Step>> = records.iter().enumerate().filter_map(span).collect();
    spans.sort_by_key(|span| span.began_ns);
    spans
}

/// The values a window may leave behind: those of writes after which no other write began.
fn candidates(window: &[Span<Step>], states: &BTreeSet<u64>) -> BTreeSet<u64> {
    let writes = || window.iter().filter(|span| span.what.is_write);
    let last_began = writes().map(|span| span.began_ns).max();
    match last_began {
        None => states.clone(),
        Some(last) => writes()
            .filter(|span| span.ended_ns >= last)
            .map(|span| span.what.value)
            .collect(),
    }
}

fn explains(window: &[Span<Step>], start: u64, end: Option<u64>) -> Option<bool> {
    let step = |is_write, value| Step {
        is_write,
        value,
        record: usize::MAX,
    };
    let mut all = vec![Span {
        began_ns: 0,
        ended_ns: 0,
        what: step(true, start),
    }];
    all.extend(window.iter().cloned());
    if let Some(end) = end {
        all.push(Span {
            began_ns: u64::MAX,
            ended_ns: u64::MAX,
            what: step(false, end),
        });
    }
    is_linearizable::<Register>(&all)
}

/// Few operations that are wrong together: reads go first, then writes whose value nobody read.
fn evidence(window: &[Span<Step>], states: &BTreeSet<u64>) -> Vec<Span<Step>> {
    let is_read = |spans: &[Span<Step>], value: u64| {
        spans
            .iter()
            .any(|span| !span.what.is_write && span.what.value == value)
    };
    let is_wrong = |spans: &[Span<Step>]| {
        states
            .iter()
            .all(|start| explains(spans, *start, None) == Some(false))
    };
    let reads_gone = shrunk(window, |spans, at| !spans[at].what.is_write, is_wrong);
    shrunk(
        &reads_gone,
        |spans, at| spans[at].what.is_write && !is_read(spans, spans[at].what.value),
        is_wrong,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(began_ns: u64, ended_ns: u64, operation: Operation, outcome: Outcome) -> Record {
        Record {
            client: 0,
            mount: 1,
            began_ns,
            ended_ns,
            held_ns: None,
            operation,
            outcome,
        }
    }

    fn write(began: u64, ended: u64, value: u64) -> Record {
        let key = "k".to_owned();
        record(began, ended, Operation::Write { key, value }, Outcome::Done)
    }

    fn unknown_write(began: u64, value: u64) -> Record {
        Record {
            outcome: Outcome::Hanging,
            ..write(began, u64::MAX, value)
        }
    }

    fn read(began: u64, ended: u64, value: u64) -> Record {
        let operation = Operation::Read {
            key: "k".to_owned(),
        };
        record(began, ended, operation, Outcome::Value(value))
    }

    /// Three clients that take turns for long enough to be cut into several windows.
    fn long_history() -> Vec<Record> {
        let mut records = Vec::new();
        for round in 0..200_u64 {
            let at = 10 + round * 100;
            let before = if round == 0 { 0 } else { round };
            records.push(write(at, at + 50, round + 1));
            records.push(read(at + 5, at + 20, before));
            records.push(read(at + 60, at + 70, round + 1));
        }
        records
    }

    #[test]
    fn reads_of_the_latest_or_a_concurrent_write_are_fine() {
        let records = [
            read(0, 1, 0),
            write(2, 10, 7),
            read(3, 4, 0),
            read(5, 9, 7),
            read(11, 12, 7),
        ];

        assert!(check(&records).0.is_empty());
        assert!(check(&long_history()).0.is_empty());
    }

    #[test]
    fn stale_read_is_found_in_every_window_and_shown_by_few_operations() {
        for victim in [2, 150, 401, 599] {
            let mut records = long_history();
            let at = victim / 3 * 3 + 2;
            let Outcome::Value(value) = records[at].outcome else {
                panic!("a read was expected");
            };
            records[at].outcome = Outcome::Value(value - 1);

            let (violations, undecided) = check(&records);

            assert_eq!((violations.len(), undecided), (1, 0), "{victim}");
            assert!(violations[0].evidence.len() <= 4, "{violations:?}");
        }
    }

    #[test]
    fn lost_acknowledged_write_is_found() {
        let records = [write(0, 1, 5), write(2, 3, 6), read(4, 5, 5)];

        assert_eq!(check(&records).0.len(), 1);
    }

    #[test]
    fn value_that_comes_back_after_it_was_replaced_is_found() {
        let records = [write(0, 1, 5), write(2, 3, 6), read(4, 5, 6), read(6, 7, 5)];

        assert_eq!(check(&records).0.len(), 1);
    }

    #[test]
    fn unknown_write_may_happen_late_or_never_but_only_once() {
        let late = [
            unknown_write(0, 5),
            read(1, 2, 0),
            write(3, 4, 6),
            read(5, 6, 5),
        ];
        let never = [unknown_write(0, 5), read(1, 2, 0), write(3, 4, 6)];
        let twice = [
            unknown_write(0, 5),
            read(1, 2, 5),
            write(3, 4, 6),
            read(5, 6, 6),
            read(7, 8, 5),
        ];

        assert!(check(&late).0.is_empty());
        assert!(check(&never).0.is_empty());
        assert_eq!(check(&twice).0.len(), 1);
    }

    #[test]
    fn value_nobody_wrote_and_value_read_before_its_write_are_found() {
        assert_eq!(check(&[read(0, 1, 9)]).0.len(), 1);
        assert_eq!(check(&[read(0, 1, 9), write(2, 3, 9)]).0.len(), 1);
    }

    #[test]
    fn torn_read_is_found() {
        let mut torn = read(0, 1, 0);
        torn.outcome = Outcome::Torn("1, 2".to_owned());

        assert_eq!(check(&[torn]).0.len(), 1);
    }
}
