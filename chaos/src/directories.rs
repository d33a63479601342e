//! Checks names: exclusive creates, unlinks, renames and looks of each directory follow one order
//! that agrees with their times.

use std::collections::BTreeMap;

use todc_utils::Specification;

use crate::linear::{Span, is_linearizable, shrunk};
use crate::operation::{Operation, Outcome, Record};
use crate::violation::Violation;

/// Names in a directory.
pub(crate) const NAMES: u8 = 4;

/// Checks all directories of a history. Second: those on which the checker did not come to an end.
pub(crate) fn check(records: &[Record]) -> (Vec<Violation>, u64) {
    let mut dirs: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if let Operation::Create { dir, .. }
        | Operation::Unlink { dir, .. }
        | Operation::Rename { dir, .. }
        | Operation::Look { dir, .. } = &record.operation
        {
            dirs.entry(dir).or_default().push(record);
        }
    }
    let mut violations = Vec::new();
    let mut undecided = 0;
    for (dir, records) in dirs {
        let spans = spans(&records);
        match is_linearizable::<Directory>(&spans) {
            Some(true) => {}
            None => undecided += 1,
            Some(false) => {
                let what = format!("{dir}: no order of these operations explains their answers");
                let spans = evidence(&spans);
                let shown = spans.iter().map(|span| records[span.what.record]);
                violations.push(Violation::new("names not linearizable", what).shown_by(shown));
            }
        }
    }
    (violations, undecided)
}

/// An operation with its answer, and which record it is.
#[derive(Clone, Debug)]
struct Step {
    operation: Operation,
    outcome: Outcome,
    record: usize,
}

struct Directory;

/// A file that was created although nobody knows its inode.
const UNKNOWN_INODE: u64 = 0;

impl Specification for Directory {
    type State = [Option<u64>; NAMES as usize];
    type Operation = Step;

    fn init() -> Self::State {
        [None; NAMES as usize]
    }

    fn apply(step: &Step, state: &Self::State) -> (bool, Self::State) {
        let file = |name: u8| state[usize::from(name)];
        let mut next = *state;
        let is_valid = match (&step.operation, &step.outcome) {
            (Operation::Create { name, .. }, Outcome::Inode(inode)) => {
                next[usize::from(*name)] = Some(*inode);
                file(*name).is_none()
            }
            (Operation::Create { name, .. }, Outcome::Exists) => file(*name).is_some(),
            (Operation::Unlink { name, .. }, Outcome::Done) => {
                next[usize::from(*name)] = None;
                file(*name).is_some()
            }
            (Operation::Unlink { name, .. } | Operation::Look { name, .. }, Outcome::Absent) => {
                file(*name).is_none()
            }
            (Operation::Rename { from, to, .. }, Outcome::Done) => {
                next[usize::from(*to)] = next[usize::from(*from)].take();
                file(*from).is_some() && file(*to).is_none()
            }
            // The kernel looks at the two names one after the other: only one of them is told of.
            (Operation::Rename { to, .. }, Outcome::Exists) => file(*to).is_some(),
            (Operation::Rename { from, .. }, Outcome::Absent) => file(*from).is_none(),
            (Operation::Look { name, .. }, Outcome::Inode(inode)) => {
                // One that was created by an operation which never said so becomes known here.
                if file(*name) == Some(UNKNOWN_INODE) {
                    next[usize::from(*name)] = Some(*inode);
                }
                matches!(file(*name), Some(found) if found == *inode || found == UNKNOWN_INODE)
            }
            (operation, _) => {
                attempt(operation, &mut next);
                true
            }
        };
        (is_valid, next)
    }
}

/// An operation that is not known to have been done has no answer to be wrong. Ordered last of all
/// it has no effect that anyone saw.
fn attempt(operation: &Operation, state: &mut [Option<u64>; NAMES as usize]) {
    match operation {
        Operation::Create { name, .. } => {
            state[usize::from(*name)].get_or_insert(UNKNOWN_INODE);
        }
        Operation::Unlink { name, .. } => state[usize::from(*name)] = None,
        Operation::Rename { from, to, .. } if state[usize::from(*to)].is_none() => {
            state[usize::from(*to)] = state[usize::from(*from)].take();
        }
        _ => {}
    }
}

fn spans(records: &[&Record]) -> Vec<Span<Step>> {
    let spans = records.iter().enumerate().map(|(number, record)| Span {
        began_ns: record.began_ns,
        ended_ns: if record.is_unknown() {
            u64::MAX
        } else {
            record.ended_ns
        },
        what: Step {
            operation: record.operation.clone(),
            outcome: record.outcome.clone(),
            record: number,
        },
    });
    let mut spans: Vec<Span<Step>> = spans.collect();
    spans.sort_by_key(|span| span.began_ns);
    spans
}

/// The shortest beginning that is wrong, without looks that don't matter.
fn evidence(spans: &[Span<Step>]) -> Vec<Span<Step>> {
    let is_wrong = |spans: &[Span<Step>]| is_linearizable::<Directory>(spans) == Some(false);
    let mut by_end: Vec<u64> = spans.iter().map(|span| span.ended_ns).collect();
    by_end.sort_unstable();
    // What had ended by some moment is wrong from a first such moment on.
    let until = |moment: u64| -> Vec<Span<Step>> {
        let begun = spans.iter().filter(|span| span.began_ns <= moment);
        begun
            .map(|span| {
                let mut span = span.clone();
                if span.ended_ns > moment {
                    span.ended_ns = u64::MAX;
                    span.what.outcome = Outcome::Hanging;
                }
                span
            })
            .collect()
    };
    let first = by_end.partition_point(|moment| !is_wrong(&until(*moment)));
    let beginning = by_end
        .get(first)
        .map_or_else(|| spans.to_vec(), |at| until(*at));
    shrunk(
        &beginning,
        |spans, at| {
            matches!(
                spans[at].what.outcome,
                Outcome::Absent | Outcome::Exists | Outcome::Hanging
            ) || matches!(spans[at].what.operation, Operation::Look { .. })
        },
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

    fn create(name: u8) -> Operation {
        let dir = "d".to_owned();
        Operation::Create { dir, name }
    }

    fn unlink(name: u8) -> Operation {
        let dir = "d".to_owned();
        Operation::Unlink { dir, name }
    }

    fn rename(from: u8, to: u8) -> Operation {
        let dir = "d".to_owned();
        Operation::Rename { dir, from, to }
    }

    fn look(name: u8) -> Operation {
        let dir = "d".to_owned();
        Operation::Look { dir, name }
    }

    fn found(records: &[Record]) -> usize {
        let (violations, undecided) = check(records);
        assert_eq!(undecided, 0);
        violations.len()
    }

    fn good() -> Vec<Record> {
        vec![
            record(0, 9, create(0), Outcome::Inode(7)),
            record(1, 8, create(0), Outcome::Exists),
            record(10, 11, rename(0, 1), Outcome::Done),
            record(12, 13, look(1), Outcome::Inode(7)),
            record(12, 13, look(0), Outcome::Absent),
            record(14, 15, unlink(1), Outcome::Done),
            record(16, 17, unlink(1), Outcome::Absent),
            record(18, 19, create(1), Outcome::Inode(8)),
            record(20, 21, rename(1, 1), Outcome::Exists),
        ]
    }

    #[test]
    fn answers_in_some_order_are_fine() {
        assert_eq!(found(&good()), 0);
    }

    #[test]
    fn exclusive_create_won_twice_is_found() {
        let mut records = good();
        records[1].outcome = Outcome::Inode(9);

        assert_eq!(found(&records), 1);
    }

    #[test]
    fn exclusive_create_lost_by_all_is_found() {
        let mut records = good();
        records[0].outcome = Outcome::Exists;

        assert_eq!(found(&records), 1);
    }

    #[test]
    fn lost_rename_unlink_and_create_are_found() {
        for (at, outcome) in [
            (3, Outcome::Absent),
            (4, Outcome::Inode(7)),
            (6, Outcome::Done),
            (7, Outcome::Exists),
        ] {
            let mut records = good();
            records[at].outcome = outcome;

            assert_eq!(found(&records), 1, "{at}");
        }
    }

    #[test]
    fn name_that_leads_to_another_file_is_found() {
        let mut records = good();
        records[3].outcome = Outcome::Inode(6);

        assert_eq!(found(&records), 1);
    }

    #[test]
    fn evidence_leaves_out_what_does_not_matter() {
        let mut records = Vec::new();
        for round in 0..20 {
            let at = round * 100;
            records.push(record(at, at + 1, create(0), Outcome::Inode(round + 1)));
            records.push(record(at + 2, at + 3, look(0), Outcome::Inode(round + 1)));
            records.push(record(at + 4, at + 5, unlink(0), Outcome::Done));
            records.push(record(at + 6, at + 7, look(0), Outcome::Absent));
        }
        records[43].outcome = Outcome::Inode(11);

        let (violations, _) = check(&records);

        assert_eq!(violations.len(), 1);
        assert!(violations[0].evidence.len() < 30, "{violations:?}");
        assert!(violations[0].evidence.contains(&records[43]));
    }

    #[test]
    fn create_that_never_answered_may_have_been_done_or_not() {
        let hanging = record(0, 1, create(0), Outcome::Hanging);
        let seen = [
            hanging.clone(),
            record(2, 3, look(0), Outcome::Absent),
            record(4, 5, look(0), Outcome::Inode(7)),
            record(6, 7, create(0), Outcome::Exists),
            record(8, 9, look(0), Outcome::Inode(7)),
        ];
        let unseen = [hanging.clone(), record(4, 5, look(0), Outcome::Absent)];
        let changed = [
            hanging,
            record(4, 5, look(0), Outcome::Inode(7)),
            record(6, 7, look(0), Outcome::Inode(8)),
        ];

        assert_eq!(found(&seen), 0);
        assert_eq!(found(&unseen), 0);
        assert_eq!(found(&changed), 1);
    }
}
