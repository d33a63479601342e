//! Checks logs: every acknowledged append is there exactly once, in the order of time, and every
//! read gave a beginning of what is there at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::fault::{Fault, Happened};
use crate::log_record::{self, Malformed, Name};
use crate::node::{Kind, Node};
use crate::operation::{Operation, Outcome, Record};
use crate::violation::Violation;

/// What of one kind is listed at most.
const LISTED_MAX: usize = 20;

/// A log at the end of the run.
#[derive(Debug)]
pub(crate) struct FinalLog {
    /// Its name.
    pub(crate) name: String,
    /// All its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// Checks one log against everything that was done with it.
pub(crate) fn check(log: &FinalLog, records: &[Record], faults: &[Happened]) -> Vec<Violation> {
    let mut checker = Checker::new(log, records);
    // What was not synced when power failed may have left holes and halves.
    if !faults.iter().any(|fault| fault.fault == Fault::Power) {
        checker.form();
    }
    checker.only_appended();
    checker.once_each(faults);
    checker.nothing_lost(faults);
    checker.order_of_writers();
    checker.order_of_time();
    if !checker.some_were_lost {
        // A read may have seen what was lost with permission.
        checker.reads();
    }
    checker.violations
}

struct Checker<'a> {
    log: &'a FinalLog,
    appends: HashMap<Name, &'a Record>,
    others: Vec<&'a Record>,
    /// In the order of the log, with the place behind each.
    found: Vec<(Name, usize)>,
    /// The place behind each record's first copy.
    place: HashMap<Name, usize>,
    some_were_lost: bool,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn new(log: &'a FinalLog, records: &'a [Record]) -> Self {
        let mut appends = HashMap::new();
        let mut others = Vec::new();
        for record in records {
            match &record.operation {
                Operation::Append {
                    log: name,
                    writer,
                    number,
                    ..
                } if *name == log.name => {
                    appends.insert((*writer, *number), record);
                }
                Operation::Sync { log: name } | Operation::ReadLog { log: name }
                    if *name == log.name =>
                {
                    others.push(record);
                }
                _ => {}
            }
        }
        let (found, _) = log_record::decode(&log.bytes);
        let mut place = HashMap::new();
        for (name, end) in &found {
            place.entry(*name).or_insert(*end);
        }
        Self {
            log,
            appends,
            others,
            found,
            place,
            some_were_lost: false,
            violations: Vec::new(),
        }
    }

    fn add<'b>(
        &mut self,
        kind: &'static str,
        what: &str,
        shown: impl IntoIterator<Item = &'b Record>,
    ) {
        let what = format!("{}: {what}", self.log.name);
        self.violations
            .push(Violation::new(kind, what).shown_by(shown.into_iter().take(LISTED_MAX)));
    }

    fn form(&mut self) {
        let (_, malformed) = log_record::decode(&self.log.bytes);
        let appends = &self.appends;
        let owner = |name| appends.get(&name).copied();
        let (halves, damaged): (Vec<&Malformed>, Vec<&Malformed>) = malformed.iter().partition(
            |it| matches!(it.half_of.and_then(owner), Some(record) if record.is_unknown()),
        );
        let shown: Vec<&Record> = halves
            .iter()
            .filter_map(|it| it.half_of.and_then(owner))
            .collect();
        if let Some(first) = halves.first() {
            let what = format!(
                "appends that failed left a part of their record, the first at byte {}",
                first.at_bytes
            );
            self.add("failed append half done", &what, shown);
        }
        if let Some(first) = damaged.first() {
            let what = format!(
                "{} times bytes that nobody appended, first at byte {}: {:?}",
                damaged.len(),
                first.at_bytes,
                first.text
            );
            self.add("log damaged", &what, []);
        }
    }

    fn only_appended(&mut self) {
        let foreign: Vec<Name> = self
            .place
            .keys()
            .filter(|name| !self.appends.contains_key(name))
            .copied()
            .collect();
        if !foreign.is_empty() {
            let what = format!("records that nobody appended: {foreign:?}");
            self.add("log damaged", &what, []);
        }
    }

    /// Who repeats an append after all object servers were killed may find that it was done already
    /// and that nobody knows.
    fn once_each(&mut self, faults: &[Happened]) {
        let mut seen = BTreeSet::new();
        let mut twice = Vec::new();
        let appends = &self.appends;
        self.found.retain(|(name, _)| {
            if seen.insert(*name) {
                return true;
            }
            let under_way = |fault: &Happened| {
                matches!(fault.fault, Fault::KillAll | Fault::Power)
                    && appends
                        .get(name)
                        .is_some_and(|it| it.overlaps(fault.began_ns, fault.healed_ns))
            };
            if faults.iter().any(under_way) {
                return false;
            }
            twice.push(*name);
            true
        });
        if !twice.is_empty() {
            let what = format!("{} records are there more than once", twice.len());
            let shown: Vec<&Record> = twice
                .iter()
                .filter_map(|name| self.appends.get(name).copied())
                .collect();
            self.add("append done twice", &what, shown);
        }
    }

    fn nothing_lost(&mut self, faults: &[Happened]) {
        let mut lost = Vec::new();
        for (name, record) in &self.appends {
            if self.place.contains_key(name) || record.outcome != Outcome::Done {
                continue;
            }
            if self.may_be_lost(record, faults) {
                self.some_were_lost = true;
            } else {
                lost.push(*record);
            }
        }
        if !lost.is_empty() {
            lost.sort_by_key(|record| record.began_ns);
            let what = format!("{} acknowledged records are not there", lost.len());
            self.add("acknowledged append lost", &what, lost);
        }
    }

    /// An append that was not synced may be lost if two object servers or more were killed before
    /// a sync on its mount: they forget what they had only in memory.
    fn may_be_lost(&self, record: &Record, faults: &[Happened]) -> bool {
        if matches!(record.operation, Operation::Append { synced: true, .. }) {
            return false;
        }
        let syncs = self.others.iter().filter(|other| {
            matches!(other.operation, Operation::Sync { .. })
                && other.outcome == Outcome::Done
                && other.mount == record.mount
                && other.began_ns >= record.ended_ns
        });
        let safe_from = syncs.map(|sync| sync.ended_ns).min().unwrap_or(u64::MAX);
        let killed: BTreeSet<Node> = faults
            .iter()
            .filter(|fault| fault.began_ns < safe_from && record.began_ns < fault.healed_ns)
            .flat_map(|fault| fault.fault.kills(&Node::servers()))
            .filter(|node| node.kind == Kind::Osd)
            .collect();
        killed.len() >= 2
    }

    fn order_of_writers(&mut self) {
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        let mut wrong = Vec::new();
        for ((writer, number), _) in &self.found {
            let before = last.insert(*writer, *number);
            if before.is_some_and(|before| before >= *number) {
                wrong.extend(self.appends.get(&(*writer, *number)).copied());
            }
        }
        if !wrong.is_empty() {
            let what = "records of one writer are not in the order in which it wrote them";
            self.add("appends out of order", what, wrong);
        }
    }

    /// What ended before another began stands before it.
    fn order_of_time(&mut self) {
        let mut earliest: Option<&Record> = None;
        let mut wrong = None;
        for (name, _) in self.found.iter().rev() {
            let Some(record) = self.appends.get(name).copied() else {
                continue;
            };
            match earliest {
                Some(later) if later.ended_ns < record.began_ns => wrong = Some([later, record]),
                Some(later) if later.ended_ns <= record.ended_ns => {}
                _ => earliest = Some(record),
            }
        }
        if let Some(pair) = wrong {
            let what = "the first of these ended before the second began, but stands behind it";
            self.add("appends out of order", what, pair);
        }
    }

    fn reads(&mut self) {
        let lengths = self.others.iter().filter_map(|read| match read.outcome {
            Outcome::Log { bytes, .. } => usize::try_from(bytes).ok(),
            _ => None,
        });
        let by_length = log_record::sums(&self.log.bytes, &lengths.collect());
        let mut not_a_beginning = Vec::new();
        let mut stale: Option<(&Record, &Record)> = None;
        let mut early: Option<(&Record, &Record)> = None;
        for read in &self.others {
            let Outcome::Log { bytes, sum } = read.outcome else {
                continue;
            };
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            if by_length.get(&length) != Some(&sum) {
                not_a_beginning.push(*read);
                continue;
            }
            for (name, append) in &self.appends {
                let is_in = self.place.get(name).is_some_and(|end| *end <= length);
                if !is_in && append.outcome == Outcome::Done && append.ended_ns < read.began_ns {
                    stale.get_or_insert((append, read));
                }
                if is_in && append.began_ns > read.ended_ns {
                    early.get_or_insert((append, read));
                }
            }
        }
        if !not_a_beginning.is_empty() {
            let what = format!(
                "{} reads gave what is no beginning of the log",
                not_a_beginning.len()
            );
            self.add("log read wrong", &what, not_a_beginning);
        }
        if let Some((append, read)) = stale {
            let what = "a read began after an append was acknowledged, and did not see it";
            self.add("stale log read", what, [append, read]);
        }
        if let Some((append, read)) = early {
            self.add(
                "log read wrong",
                "a read saw an append of its future",
                [append, read],
            );
        }
    }
}
