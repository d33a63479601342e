//! How long light loops stall when one thing breaks.
//!
//! Every fault happens alone and many times to a cluster that was whole before; what counts is the
//! longest operation of each loop that met it. A loop that needs a file's data sees the death of an
//! object server either as that of the file's primary or as that of a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::command;
use crate::fault::{Fault, Planned};
use crate::history::now_ns;
use crate::injector::Injector;
use crate::network::Network;
use crate::node::{Node, SERVERS_PER_KIND};
use crate::stall_loops::{Kind, Loops, Taken};

/// How long a fault lasts: longer than any stall that is aimed at.
const LASTS: Duration = Duration::from_secs(4);
/// How long the cluster may take until it is whole again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is done. Servers are drawn anew each time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    KillOsd,
    FreezeOsd,
    IsolateOsd,
    KillLeader,
    FreezeLeader,
    IsolateLeader,
    IsolateMinority,
    HandOver,
}

impl What {
    const ALL: [Self; 8] = [
        Self::KillOsd,
        Self::FreezeOsd,
        Self::IsolateOsd,
        Self::KillLeader,
        Self::FreezeLeader,
        Self::IsolateLeader,
        // Not right after an object server was cut off: a mount may still be about to connect to it.
        Self::HandOver,
        Self::IsolateMinority,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::KillOsd => "kill -9 of an object server",
            Self::FreezeOsd => "SIGSTOP of an object server",
            Self::IsolateOsd => "an object server cut off",
            Self::KillLeader => "kill -9 of the metadata leader",
            Self::FreezeLeader => "SIGSTOP of the metadata leader",
            Self::IsolateLeader => "the metadata leader cut off",
            Self::IsolateMinority => "a metadata follower and an object server cut off",
            Self::HandOver => "leases of all files handed over",
        }
    }
}

/// What a fault took from a loop.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
enum Took {
    /// The primary of its file.
    Primary,
    /// A backup of its file.
    Backup,
    /// No server of its file's data.
    Other,
}

/// The longest operation of one kind of loop that met one fault.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    fault: &'static str,
    took: Took,
    operation: Kind,
    longest_ms: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    samples: Vec<Sample>,
    /// What programs saw.
    pub(crate) errors: Vec<String>,
}

impl Report {
    /// A table: fault, what it took, operation, faults, p50, p99 and the longest.
    pub(crate) fn markdown(&self) -> String {
        let mut rows: BTreeMap<(usize, Took, Kind), Vec<f64>> = BTreeMap::new();
        for sample in &self.samples {
            let fault = What::ALL.iter().position(|it| it.name() == sample.fault);
            rows.entry((fault.unwrap_or(0), sample.took, sample.operation))
                .or_default()
                .push(sample.longest_ms);
        }
        let mut text = String::from(
            "| fault | of the file's | operation | faults | p50 ms | p99 ms | longest ms |\n\
             |---|---|---|--:|--:|--:|--:|\n",
        );
        for ((fault, took, operation), mut longest) in rows {
            longest.sort_unstable_by(f64::total_cmp);
            let took = match took {
                Took::Primary => "primary",
                Took::Backup => "backup",
                Took::Other => "",
            };
            let _ = writeln!(
                text,
                "| {} | {took} | {} | {} | {:.0} | {:.0} | {:.0} |",
                What::ALL.get(fault).map_or("", |it| it.name()),
                operation.name(),
                longest.len(),
                share(&longest, 0.5),
                share(&longest, 0.99),
                share(&longest, 1.0)
            );
        }
        for error in &self.errors {
            let _ = writeln!(text, "a program saw an error: {error}");
        }
        text
    }
}

/// The value that this share of sorted values does not exceed (nearest rank).
fn share(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// Measures every fault so many times, or those whose names contain a text.
///
/// # Errors
///
/// If the cluster can't be made, or is not whole again after a fault.
pub(crate) fn run(
    home: &Path,
    seed: u64,
    faults: usize,
    only: Option<&str>,
    interrupted: &AtomicBool,
) -> Result<Report> {
    let kinds: Vec<What> = What::ALL
        .into_iter()
        .filter(|what| only.is_none_or(|only| what.name().contains(only)))
        .collect();
    ensure!(
        !kinds.is_empty(),
        "no fault's name contains {:?}; there are: {}",
        only.unwrap_or_default(),
        What::ALL.map(What::name).join(", ")
    );
    command::check_tools()?;
    let network = Network::new(&format!("oxstall{}-", std::process::id()))?;
    let cluster = Cluster::new(home, network, seed)?;
    let mut bench = Bench {
        injector: Injector::new(cluster, seed),
        interrupted,
    };
    for node in Node::servers() {
        bench.injector.cluster.start(node)?;
    }
    bench.wait_for("the servers", |bench| {
        Ok(bench.injector.cluster.are_all_up(false))
    })?;
    bench.injector.cluster.make_volume()?;
    let mount = Node::mount(1);
    bench.injector.cluster.start(mount)?;
    bench.wait_for("the mount", |bench| {
        bench.injector.cluster.is_mounted(mount)
    })?;
    let loops = Loops::start(&bench.injector.cluster.dir(mount))?;
    let mut report = Report {
        samples: Vec::new(),
        errors: Vec::new(),
    };
    for round in 0..faults {
        for what in kinds.iter().copied() {
            bench.one(what, &loops, &mut report)?;
            eprint!(".");
        }
        eprintln!(" {} of {faults}", round + 1);
    }
    Ok(report)
}

/// The object server that is primary of most files: some loops lose theirs, the others a backup.
fn busiest(primaries: &BTreeMap<u64, (String, u64)>) -> Option<u8> {
    let files = |osd: u64| primaries.values().filter(|it| it.1 == osd).count();
    let osds = 1..=SERVERS_PER_KIND;
    let busiest = osds.max_by_key(|osd| files(u64::from(*osd)))?;
    (files(u64::from(busiest)) > 0).then_some(busiest)
}

struct Bench<'a> {
    injector: Injector,
    interrupted: &'a AtomicBool,
}

impl Bench<'_> {
    fn one(&mut self, what: What, loops: &Loops, report: &mut Report) -> Result<()> {
        self.wait_for("full redundancy", |bench| {
            Ok(bench.injector.cluster.are_all_up(true))
        })?;
        // Nothing that this cluster still had to do counts for the fault.
        self.wait_for_loops(loops)?;
        let leader = self.injector.cluster.leader()?;
        let primaries = self.primaries()?;
        let number = busiest(&primaries).context("no file has a primary")?;
        let osd = Node::osd(number);
        drop(loops.take());
        let began_ns = now_ns();
        let faults = match what {
            What::KillOsd => vec![Fault::Kill(osd)],
            What::FreezeOsd => vec![Fault::Freeze(osd)],
            What::IsolateOsd => vec![Fault::Isolate(osd)],
            What::KillLeader => vec![Fault::Kill(leader)],
            What::FreezeLeader => vec![Fault::Freeze(leader)],
            What::IsolateLeader => vec![Fault::Isolate(leader)],
            What::IsolateMinority => {
                let follower = Node::mrc(leader.number % SERVERS_PER_KIND + 1);
                vec![Fault::Isolate(follower), Fault::Isolate(osd)]
            }
            What::HandOver => Vec::new(),
        };
        let victims: BTreeSet<u64> = match what {
            What::KillOsd | What::FreezeOsd | What::IsolateOsd | What::IsolateMinority => {
                BTreeSet::from([u64::from(number)])
            }
            _ => BTreeSet::new(),
        };
        for fault in faults {
            self.injector.begin(Planned {
                fault,
                from_ms: 0,
                until_ms: 0,
            })?;
        }
        if what == What::HandOver {
            for object in primaries.values().map(|(object, _)| object) {
                let words = ["lease", "hand-over", object];
                self.injector.cluster.admin(&words)?;
            }
        } else {
            let begun = Instant::now();
            self.wait_for("the fault to last", |_| Ok(begun.elapsed() >= LASTS))?;
            self.injector.heal(0)?;
        }
        self.wait_for_loops(loops)?;
        let (taken, errors) = loops.take();
        report.errors.extend(
            errors
                .into_iter()
                .map(|it| format!("{}: {it}", what.name())),
        );
        let took = |taken: &Taken| {
            let holder = taken.inode.and_then(|inode| primaries.get(&inode));
            match (taken.inode, holder) {
                _ if what == What::HandOver && taken.inode.is_some() => Took::Primary,
                (Some(_), Some((_, holder))) if victims.contains(holder) => Took::Primary,
                (Some(_), _) if !victims.is_empty() => Took::Backup,
                _ => Took::Other,
            }
        };
        let mut longest: BTreeMap<(Took, Kind), u64> = BTreeMap::new();
        for taken in taken.iter().filter(|taken| taken.ended_ns >= began_ns) {
            let most = longest.entry((took(taken), taken.kind)).or_default();
            *most = (*most).max(taken.ended_ns.saturating_sub(taken.began_ns));
        }
        for ((took, operation), ns) in longest {
            report.samples.push(Sample {
                fault: what.name(),
                took,
                operation,
                longest_ms: ns as f64 / 1e6,
            });
        }
        Ok(())
    }

    /// Waits until every loop has begun and ended something from now on.
    fn wait_for_loops(&mut self, loops: &Loops) -> Result<()> {
        let now = now_ns();
        self.wait_for("every loop to go on", |_| {
            Ok(loops.loops_after(now) == Loops::count())
        })
    }

    /// By inode: the object's name on the command line, and the number of its primary.
    fn primaries(&self) -> Result<BTreeMap<u64, (String, u64)>> {
        let text = self
            .injector
            .cluster
            .admin(&["--output", "json", "lease", "list"])?;
        let listed: Value = serde_json::from_str(&text)?;
        let leases = listed.as_array().context("lease list is no list")?;
        let mut primaries = BTreeMap::new();
        for lease in leases {
            let number = |key: &str| {
                let number = lease[key].as_u64();
                number.with_context(|| format!("a lease without {key}: {lease}"))
            };
            let (volume, inode, holder) = (number("volume")?, number("inode")?, number("holder")?);
            if number("told_by")? == holder {
                primaries.insert(inode, (format!("{volume}/{inode}"), holder));
            }
        }
        Ok(primaries)
    }

    fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        while !condition(self)? {
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let ended = self.injector.cluster.take_ended();
            ensure!(ended.is_empty(), "ended by themselves: {ended:?}");
            ensure!(
                begun.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain for {what}"
            );
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_the_ranks_of_each_fault_and_loop() {
        let sample = |longest_ms| Sample {
            fault: What::KillOsd.name(),
            took: Took::Primary,
            operation: Kind::Read,
            longest_ms,
        };
        let report = Report {
            samples: (1..=50).rev().map(|ms| sample(f64::from(ms))).collect(),
            errors: Vec::new(),
        };

        let table = report.markdown();

        let row = "| kill -9 of an object server | primary | direct read | 50 | 25 | 50 | 50 |";
        assert!(table.contains(row), "{table}");
    }
}
