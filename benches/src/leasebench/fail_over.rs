//! Work 4: the holder dies or freezes; how long until somebody else has the lease.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::control::{Command, Said};
use crate::oxfs::Cluster;
use crate::plan::Plan;
use crate::row::Row;
use crate::stats::Histogram;

/// Leases that the victim holds at each fault: each is a sample.
const CELLS: u64 = 20;
/// How often each server's words are looked at; they carry their own times.
const LOOK: Duration = Duration::from_millis(1);
/// How long a fail-over may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the holder ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Kill,
    Freeze,
}

impl Fault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Freeze => "SIGSTOP",
        }
    }
}

/// Shares between 0 and 1 that cover it evenly however many are taken: multiples of the golden ratio.
pub(crate) fn spread(round: usize) -> f64 {
    (round as f64 * 0.618_033_988_749_895).fract()
}

/// Three servers; the two that are left want what the third one held.
pub(crate) fn oxfs(plan: &Plan, lease: Duration, fault: Fault, threads: usize) -> Result<Row> {
    let members = 3;
    let mut cluster = Cluster::start(members, lease, threads)?;
    let mut times = Histogram::default();
    for round in 0..plan.fail_overs {
        let victim = round % members;
        let first = round as u64 * CELLS;
        let want = Command::Want {
            first,
            count: CELLS,
        };
        cluster.tell(victim, &want)?;
        cluster.done(victim, PATIENCE)?;
        held(&mut cluster, &[victim], first)?;
        let others: Vec<usize> = (0..members).filter(|at| *at != victim).collect();
        for &at in &others {
            cluster.tell(at, &want)?;
            cluster.done(at, PATIENCE)?;
        }
        // Anywhere between two renewals, which come every third to half of the lease time.
        sleep(lease + lease.mul_f64(spread(round)));

        let start_ns = shell::clock::boottime().as_nanos();
        match fault {
            Fault::Kill => cluster.kill(victim)?,
            Fault::Freeze => cluster.freeze(victim)?,
        }
        for at_ns in held(&mut cluster, &others, first)? {
            times.add(Duration::from_nanos(at_ns.saturating_sub(start_ns)));
        }
        for at in others {
            for cell in first..first + CELLS {
                cluster.tell(at, &Command::Release { cell })?;
            }
        }
        cluster.restart(victim)?;
        eprint!(".");
    }
    eprintln!();
    let row = Row {
        system: "oxfs",
        work: "fail_over",
        asked_by: "member",
        members,
        lease_ms: u64::try_from(lease.as_millis()).ok(),
        fault: Some(fault.name()),
        rounds: Some(plan.fail_overs),
        note: Some(format!("{} samples", times.count())),
        ..Row::default()
    };
    Ok(row.timed(&times))
}

/// Waits until each lease of the round is held by one of these servers, and gives when.
fn held(cluster: &mut Cluster, among: &[usize], first: u64) -> Result<Vec<u64>> {
    let deadline = Instant::now() + PATIENCE;
    let mut found = BTreeMap::new();
    while found.len() < CELLS as usize {
        for &at in among {
            if let Some(Said::Held { cell, at_ns }) = cluster.hear(at, LOOK)?
                && (first..first + CELLS).contains(&cell)
            {
                found.entry(cell).or_insert(at_ns);
            }
        }
        if Instant::now() > deadline {
            bail!(
                "{} of {CELLS} leases have no new holder after {PATIENCE:?}",
                CELLS as usize - found.len()
            );
        }
    }
    Ok(found.into_values().collect())
}
