//! Power fails everywhere: clusters that are started from images of all disks.
//!
//! While clients work, images of all disks are made: of all at one instant, or server by server, each
//! after its death and seconds apart. Later a cluster is started from each set. Whatever was on stable
//! storage for a client before the first server had no majority any more must be there, and the
//! replicas must become equal.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::errors;
use crate::fault::{Fault, Happened};
use crate::history::{self, History, now_ns};
use crate::node::Node;
use crate::operation::{Operation, Outcome, Record};
use crate::pool::Pool;
use crate::run::{Run, Settings};
use crate::verdict;
use crate::violation::Violation;

/// Sets of images made of one cluster: its history stays short enough to be checked for each.
const SETS_MAX: u32 = 12;

/// Every so many sets one is made server by server.
const ONE_BY_ONE_EVERY: u32 = 3;

/// Work between two sets, milliseconds.
const WORK_MS: std::ops::Range<u64> = 1000..4000;

/// Between the deaths of two servers, milliseconds.
const APART_MS: std::ops::Range<u64> = 100..2500;

/// Images of all disks, and when they were made.
#[derive(Clone, Debug)]
struct Set {
    name: String,
    /// What ended before must be there.
    from_ns: u64,
    /// What began later can't be there.
    until_ns: u64,
    /// The servers' death, if they died for it.
    killed: Option<Happened>,
}

/// Makes and tries so many sets of images. What was found wrong.
///
/// # Errors
///
/// If a cluster or an image can't be made, or if it was interrupted.
pub(crate) fn images(
    settings: &Settings,
    count: u32,
    interrupted: &AtomicBool,
) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for (number, first) in (0..).zip((0..count).step_by(SETS_MAX as usize)) {
        let home = settings.home.join(format!("cluster-{number}"));
        fs::create_dir(&home)?;
        let settings = Settings {
            seed: settings.seed + number,
            home,
            ..settings.clone()
        };
        let found = of_cluster(&settings, SETS_MAX.min(count - first), interrupted)?;
        if found.is_empty() && !settings.keep {
            fs::remove_dir_all(&settings.home)?;
        }
        violations.extend(found);
    }
    Ok(violations)
}

fn of_cluster(settings: &Settings, count: u32, interrupted: &AtomicBool) -> Result<Vec<Violation>> {
    let mut pool = Pool::new(&settings.home)?;
    let mut run = Run::new(settings, interrupted)?;
    for (at, node) in Node::servers().into_iter().enumerate() {
        let dir = run.injector.cluster.dir(node);
        pool.add(node, &dir)?;
        if at == 0 {
            pool.prove(node, &dir)?;
        }
    }
    run.start()?;
    run.start_clients()?;
    let sets = make_sets(&mut run, &pool, count)?;
    run.wait_for_clients()?;
    end(&mut run, &mut pool)?;
    let records = run.history.records();
    let deaths: Vec<Happened> = sets.iter().filter_map(|set| set.killed.clone()).collect();
    let mut violations = errors::check(&records, &deaths);
    for set in &sets {
        let begun = Instant::now();
        let mut faults: Vec<Happened> = deaths
            .iter()
            .filter(|death| death.began_ns < set.from_ns)
            .cloned()
            .collect();
        faults.push(happened(Fault::Power, set.from_ns, set.until_ns));
        let tried = try_set(&mut run, &mut pool, set, &records, &faults);
        run.check_interrupted()?;
        let mut found = tried.unwrap_or_else(|error| {
            vec![Violation::new("run could not go on", format!("{error:#}"))]
        });
        found.append(&mut run.violations);
        found.append(&mut run.injector.done.violations);
        end(&mut run, &mut pool)?;
        let name = format!("seed {}, {}", settings.seed, set.name);
        println!(
            "{name}: {} violations, {} s",
            found.len(),
            begun.elapsed().as_secs()
        );
        if found.is_empty() && !settings.keep {
            pool.remove(&set.name)?;
        }
        violations.extend(found.into_iter().map(|it| Violation {
            what: format!("{name}: {}", it.what),
            ..it
        }));
    }
    history::write_lines(&settings.home.join("history.jsonl"), &records)?;
    Ok(violations)
}

/// Ends all processes and unmounts all disks.
fn end(run: &mut Run<'_>, pool: &mut Pool) -> Result<()> {
    run.end_all(&Node::mounts())?;
    run.end_all(&Node::servers())?;
    pool.unmount_all()
}

fn make_sets(run: &mut Run<'_>, pool: &Pool, count: u32) -> Result<Vec<Set>> {
    let mut rng = ChaCha8Rng::seed_from_u64(run.settings.seed);
    let mut sets = Vec::new();
    for number in 1..=count {
        run.let_work(Duration::from_millis(rng.random_range(WORK_MS)))?;
        sets.push(if number.is_multiple_of(ONE_BY_ONE_EVERY) {
            one_by_one(run, pool, number, &mut rng)?
        } else {
            let name = format!("set {number} at one instant");
            let from_ns = now_ns();
            pool.image_all(&name)?;
            let until_ns = now_ns();
            Set {
                name,
                from_ns,
                until_ns,
                killed: None,
            }
        });
    }
    Ok(sets)
}

/// Servers die in any order, seconds apart, and each leaves behind what was on its disk then. As long
/// as there are majorities clients go on; afterwards nothing is acknowledged any more.
fn one_by_one(run: &mut Run<'_>, pool: &Pool, number: u32, rng: &mut ChaCha8Rng) -> Result<Set> {
    let name = format!("set {number} server by server");
    pool.begin(&name)?;
    let mut order = Node::servers();
    order.shuffle(rng);
    let began_ns = now_ns();
    for node in order {
        run.let_work(Duration::from_millis(rng.random_range(APART_MS)))?;
        run.injector.cluster.kill(node)?;
        pool.image_one(&name, node)?;
    }
    let at_ns = now_ns();
    run.start_servers()?;
    Ok(Set {
        name,
        from_ns: at_ns,
        until_ns: at_ns,
        killed: Some(happened(Fault::KillAll, began_ns, now_ns())),
    })
}

/// Starts a cluster from a set of images and looks at everything.
fn try_set(
    run: &mut Run<'_>,
    pool: &mut Pool,
    set: &Set,
    records: &[Record],
    faults: &[Happened],
) -> Result<Vec<Violation>> {
    for node in Node::servers() {
        pool.mount(&set.name, node, &run.injector.cluster.dir(node))?;
    }
    let before = remaining(records, set.from_ns, set.until_ns);
    run.history = Arc::new(History::of(before));
    run.start_servers().context("starting from images")?;
    let logs = run.last_look()?;
    run.compare_replicas()?;
    let records = run.history.records();
    let verdict = verdict::judge_state(&records, &logs, faults);
    let mut violations = verdict.violations;
    let afterwards: Vec<Record> = records
        .into_iter()
        .filter(|record| record.began_ns > set.until_ns && record.outcome != Outcome::Hanging)
        .collect();
    violations.extend(errors::check(&afterwards, &[]));
    Ok(violations)
}

fn happened(fault: Fault, began_ns: u64, healed_ns: u64) -> Happened {
    Happened {
        name: fault.name(),
        fault,
        began_ns,
        healed_ns,
    }
}

/// What of a history is known after power failed everywhere between two moments.
///
/// What was acknowledged before must be there; what was under way may be. Reads of what was under
/// way prove nothing: it may be seen before it is on stable storage.
fn remaining(records: &[Record], from_ns: u64, until_ns: u64) -> Vec<Record> {
    let done = |record: &&Record| record.ended_ns <= from_ns && !record.is_unknown();
    let written: BTreeSet<u64> = records
        .iter()
        .filter(done)
        .filter_map(|record| match record.operation {
            Operation::Write { value, .. } => Some(value),
            _ => None,
        })
        .chain([crate::registers::INITIAL])
        .collect();
    let remains = |record: &Record| {
        if record.began_ns > until_ns {
            return None;
        }
        let is_over = record.ended_ns <= from_ns;
        match (&record.operation, &record.outcome) {
            (Operation::Read { .. }, Outcome::Value(value)) => {
                (is_over && written.contains(value)).then(|| record.clone())
            }
            (Operation::ReadLog { .. }, _) => None,
            _ if is_over => Some(record.clone()),
            (Operation::Read { .. } | Operation::Look { .. } | Operation::Sync { .. }, _) => None,
            _ => Some(Record {
                ended_ns: u64::MAX,
                held_ns: None,
                outcome: Outcome::Hanging,
                ..record.clone()
            }),
        }
    };
    records.iter().filter_map(remains).collect()
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

    fn write(began_ns: u64, ended_ns: u64, value: u64) -> Record {
        let key = "k".to_owned();
        let operation = Operation::Write { key, value };
        record(began_ns, ended_ns, operation, Outcome::Done)
    }

    fn read(began_ns: u64, ended_ns: u64, value: u64) -> Record {
        let key = "k".to_owned();
        let outcome = Outcome::Value(value);
        record(began_ns, ended_ns, Operation::Read { key }, outcome)
    }

    #[test]
    fn acknowledged_write_remains_and_one_under_way_is_unknown() {
        let records = [write(1, 10, 1), write(5, 15, 2), write(25, 30, 3)];

        let left = remaining(&records, 12, 20);

        assert_eq!(left.len(), 2);
        assert_eq!(left[0], records[0]);
        assert_eq!(left[1].outcome, Outcome::Hanging);
    }

    #[test]
    fn read_of_what_was_under_way_is_forgotten_and_any_other_remains() {
        let records = [
            write(1, 4, 1),
            write(5, 15, 2),
            read(6, 7, 2),
            read(5, 6, 1),
        ];

        let left = remaining(&records, 12, 20);

        assert!(left.contains(&records[3]));
        assert!(!left.contains(&records[2]));
    }

    #[test]
    fn loss_of_an_acknowledged_write_is_found_and_that_of_another_is_none() {
        let records = [write(1, 4, 1), write(5, 15, 2)];
        let found = |value| {
            let mut left = remaining(&records, 12, 20);
            left.push(read(30, 31, value));
            verdict::judge_state(&left, &[], &[]).violations.len()
        };

        assert_eq!([found(0), found(1), found(2)], [1, 0, 0]);
    }
}
