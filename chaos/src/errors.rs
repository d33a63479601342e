//! Checks that no program saw an error that it must not see, and that everything came to an end.

use std::collections::BTreeMap;

use crate::fault::{Fault, Happened};
use crate::operation::{Outcome, Record};
use crate::violation::Violation;

/// Operations shown of each kind of error.
const SHOWN_MAX: usize = 5;

/// After a fault, its error may still arrive: a write that failed is told of by the next one.
const AFTERMATH_NS: u64 = 5_000_000_000;

/// Checks all outcomes of a history.
///
/// A mount goes on trying for ever, so the only error that may be seen is ENOSPC, while a disk is
/// full.
pub(crate) fn check(records: &[Record], faults: &[Happened]) -> Vec<Violation> {
    let mut seen: BTreeMap<(i32, &str), Vec<&Record>> = BTreeMap::new();
    let mut hanging = Vec::new();
    for record in records {
        match &record.outcome {
            Outcome::Failed { errno, during } if !is_allowed(*errno, record, faults) => {
                seen.entry((*errno, during)).or_default().push(record);
            }
            Outcome::Hanging => hanging.push(record),
            _ => {}
        }
    }
    let mut violations = Vec::new();
    for ((errno, during), records) in seen {
        let error = std::io::Error::from_raw_os_error(errno);
        let what = format!(
            "{} operations got an error in {during}: {error}",
            records.len()
        );
        let shown = records.into_iter().take(SHOWN_MAX);
        violations.push(Violation::new("error seen by a program", what).shown_by(shown));
    }
    if !hanging.is_empty() {
        let what = format!(
            "{} operations did not end although all is healed",
            hanging.len()
        );
        violations.push(Violation::new("operation without end", what).shown_by(hanging));
    }
    violations
}

fn is_allowed(errno: i32, record: &Record, faults: &[Happened]) -> bool {
    errno == libc::ENOSPC
        && faults.iter().any(|fault| {
            matches!(fault.fault, Fault::Full(_))
                && record.overlaps(fault.began_ns, fault.healed_ns + AFTERMATH_NS)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Node;
    use crate::operation::Operation;

    fn failed(errno: i32) -> Record {
        Record {
            client: 0,
            mount: 1,
            began_ns: 10,
            ended_ns: 20,
            operation: Operation::Read { key: String::new() },
            outcome: Outcome::Failed {
                errno,
                during: "open".to_owned(),
            },
        }
    }

    #[test]
    fn only_a_full_disk_excuses_and_only_its_own_error() {
        let full = Happened {
            fault: Fault::Full(Node::osd(1)),
            name: String::new(),
            began_ns: 15,
            healed_ns: 16,
        };
        let faults = [full];

        assert!(check(&[failed(libc::ENOSPC)], &faults).is_empty());
        assert_eq!(check(&[failed(libc::ENOSPC)], &[]).len(), 1);
        assert_eq!(check(&[failed(libc::EIO)], &faults).len(), 1);
    }

    #[test]
    fn operation_without_end_is_found() {
        let mut record = failed(0);
        record.outcome = Outcome::Hanging;

        assert_eq!(check(&[record], &[]).len(), 1);
    }
}
