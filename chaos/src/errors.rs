//! Checks that no program saw an error that it must not see, and that everything came to an end.

use std::collections::BTreeMap;

use crate::fault::{Fault, Happened};
use crate::operation::{Outcome, Record};
use crate::violation::Violation;

/// Operations shown of each kind of error.
const SHOWN_MAX: usize = 5;

/// After a fault, its error may still arrive: a write that failed is told of by the next one.
const AFTERMATH_NS: u64 = 5_000_000_000;

/// A mount may learn that long after all object servers have power again of what was lost: it needs a
/// primary first. 30 s: within 11 s while the processors were overloaded.
const LOSS_SEEN_NS: u64 = 30_000_000_000;

/// Checks all outcomes of a history.
///
/// A mount goes on trying for ever, so the only errors that may be seen are ENOSPC, while a disk is
/// full, and EIO, after all object servers were killed at once: what was written but not synced
/// may be gone then, and each descriptor that was open is told at its next write or sync, however late.
pub(crate) fn check(records: &[Record], faults: &[Happened]) -> Vec<Violation> {
    let mut seen: BTreeMap<(i32, &str), Vec<&Record>> = BTreeMap::new();
    let mut hanging = Vec::new();
    for record in records {
        match &record.outcome {
            Outcome::Failed { errno, during }
                if !is_for_want_of_space(*errno, record, faults)
                    && !is_told_loss(*errno, during, record, faults) =>
            {
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

fn is_told_loss(errno: i32, during: &str, record: &Record, faults: &[Happened]) -> bool {
    errno == libc::EIO
        && matches!(during, "write" | "fsync")
        && faults.iter().any(|fault| {
            fault.fault == Fault::KillAll
                && fault.began_ns < record.ended_ns
                && record.descriptor_ns() < fault.healed_ns + LOSS_SEEN_NS
        })
}

fn is_for_want_of_space(errno: i32, record: &Record, faults: &[Happened]) -> bool {
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
            held_ns: None,
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
    fn loss_is_told_to_who_writes_after_all_were_killed_and_to_nobody_else() {
        let killed = |fault| Happened {
            fault,
            name: String::new(),
            began_ns: 5,
            healed_ns: 6,
        };
        let during = |during: &str| Record {
            outcome: Outcome::Failed {
                errno: libc::EIO,
                during: during.to_owned(),
            },
            ..failed(0)
        };
        let seen = |during, fault| check(&[during], &[killed(fault)]).len();

        assert_eq!(seen(during("fsync"), Fault::KillAll), 0);
        assert_eq!(seen(during("read"), Fault::KillAll), 1);
        assert_eq!(seen(during("fsync"), Fault::Kill(Node::osd(1))), 1);
    }

    #[test]
    fn descriptor_is_told_of_a_loss_at_its_next_use_and_not_again() {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let all_killed = Happened {
            fault: Fault::KillAll,
            name: String::new(),
            began_ns: 5,
            healed_ns: 6,
        };
        let append = |held_ns| Record {
            began_ns: HOUR_NS,
            ended_ns: HOUR_NS + 1,
            held_ns,
            outcome: Outcome::Failed {
                errno: libc::EIO,
                during: "write".to_owned(),
            },
            ..failed(0)
        };
        let faults = [all_killed];

        assert_eq!(check(&[append(Some(1))], &faults).len(), 0);
        assert_eq!(check(&[append(Some(HOUR_NS / 2))], &faults).len(), 1);
        assert_eq!(check(&[append(None)], &faults).len(), 1);
    }

    #[test]
    fn operation_without_end_is_found() {
        let mut record = failed(0);
        record.outcome = Outcome::Hanging;

        assert_eq!(check(&[record], &[]).len(), 1);
    }
}
