//! All checks of a history, and a summary of the run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::fault::Happened;
use crate::logs::FinalLog;
use crate::operation::Record;
use crate::violation::Violation;
use crate::{directories, errors, logs, registers, stalls};

/// What was found.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Broken promises.
    pub(crate) violations: Vec<Violation>,
    /// Windows of the history on which the checker did not come to an end.
    pub(crate) undecided: u64,
}

/// Checks a history and the logs that it left.
pub(crate) fn judge(records: &[Record], finals: &[FinalLog], faults: &[Happened]) -> Verdict {
    let mut verdict = judge_state(records, finals, faults);
    verdict.violations.extend(errors::check(records, faults));
    verdict
}

/// The same without a look at errors and at operations that did not end.
pub(crate) fn judge_state(records: &[Record], finals: &[FinalLog], faults: &[Happened]) -> Verdict {
    let (mut violations, undecided) = registers::check(records);
    let (of_names, undecided_names) = directories::check(records);
    violations.extend(of_names);
    for log in finals {
        violations.extend(logs::check(log, records, faults));
    }
    Verdict {
        violations,
        undecided: undecided + undecided_names,
    }
}

/// A table of the longest operations, a column for each kind.
pub(crate) fn table(records: &[Record], faults: &[Happened]) -> String {
    let longest = stalls::longest(records, faults);
    let mut operations: Vec<&str> = longest
        .values()
        .flat_map(|of_fault| of_fault.keys().copied())
        .collect();
    operations.sort_unstable();
    operations.dedup();
    // Writing to a string can't fail.
    let mut text = format!("{:<22}{:>6}", "longest, ms", "faults");
    for operation in &operations {
        let _ = write!(text, "{operation:>13}");
    }
    let counts = count(faults.iter().map(|fault| fault.name.as_str()));
    for (fault, of_fault) in &longest {
        let _ = write!(
            text,
            "\n{fault:<22}{:>6}",
            counts.get(fault.as_str()).unwrap_or(&0)
        );
        for operation in &operations {
            let shown = of_fault
                .get(operation)
                .map_or_else(|| "-".to_owned(), u64::to_string);
            let _ = write!(text, "{shown:>13}");
        }
    }
    text
}

/// The run in one line.
pub(crate) fn summary(
    seed: u64,
    records: &[Record],
    faults: &[Happened],
    violations: &[Violation],
) -> String {
    let operations = count(records.iter().map(|record| record.operation.name()));
    let by_fault = count(faults.iter().map(|fault| fault.name.as_str()));
    let by_violation = count(violations.iter().map(|violation| violation.kind));
    let stalls: BTreeMap<String, u64> = stalls::longest(records, faults)
        .into_iter()
        .map(|(fault, of_fault)| (fault, of_fault.into_values().max().unwrap_or(0)))
        .collect();
    let stalls = stalls.iter().map(|(fault, ms)| (fault.as_str(), *ms));
    format!(
        "chaos: seed {seed}: {} operations{}; {} faults{}; longest stall in ms{}; {} violations{}",
        records.len(),
        listed(operations),
        faults.len(),
        listed(by_fault),
        listed(stalls),
        violations.len(),
        listed(by_violation)
    )
}

fn count<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn listed<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let counts = counts.into_iter();
    let parts: Vec<String> = counts
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}
