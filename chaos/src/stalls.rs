//! How long operations took at most while each kind of fault lasted.

use std::collections::BTreeMap;

use crate::fault::Happened;
use crate::operation::Record;

/// What a fault delays may end this long after it was healed.
const AFTERMATH_NS: u64 = 3_000_000_000;

/// Name of the time without faults.
pub(crate) const CALM: &str = "calm";

/// Name of the column with the longest operation that met no other fault.
pub(crate) const ALONE: &str = "alone";

/// Longest operation by name of fault and name of operation, in milliseconds. Where faults overlap,
/// an operation counts for each of them.
pub(crate) fn longest(
    records: &[Record],
    faults: &[Happened],
) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
    let mut longest: BTreeMap<String, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for record in records {
        let taken_ms = record.ended_ns.saturating_sub(record.began_ns) / 1_000_000;
        let mut names: Vec<&str> = faults
            .iter()
            .filter(|fault| record.overlaps(fault.began_ns, fault.healed_ns + AFTERMATH_NS))
            .map(|fault| fault.name.as_str())
            .collect();
        if names.is_empty() {
            names.push(CALM);
        }
        let alone = (names.len() == 1).then_some(ALONE);
        for name in names {
            let of_fault = longest.entry(name.to_owned()).or_default();
            for column in [Some(record.operation.name()), alone].into_iter().flatten() {
                let most = of_fault.entry(column).or_default();
                *most = taken_ms.max(*most);
            }
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::node::Node;
    use crate::operation::{Operation, Outcome};

    #[test]
    fn operations_count_for_every_fault_they_met() {
        let second = 1_000_000_000;
        let read = |began_ns, ended_ns| Record {
            client: 0,
            mount: 1,
            began_ns,
            ended_ns,
            held_ns: None,
            operation: Operation::Read { key: String::new() },
            outcome: Outcome::Value(0),
        };
        let fault = |name: &str, began_ns, healed_ns| Happened {
            fault: Fault::Kill(Node::osd(1)),
            name: name.to_owned(),
            began_ns,
            healed_ns,
        };
        let records = [
            read(0, second / 2),
            read(second, 3 * second),
            read(20 * second, 21 * second),
        ];
        let faults = [
            fault("a", 2 * second, 4 * second),
            fault("b", 2 * second, 18 * second),
        ];

        let longest = longest(&records, &faults);

        assert_eq!(longest[CALM]["read"], 500);
        assert_eq!(longest["a"]["read"], 2000);
        assert_eq!(longest["b"]["read"], 2000);
        assert_eq!(longest["b"][ALONE], 1000);
        assert!(!longest["a"].contains_key(ALONE));
    }
}
