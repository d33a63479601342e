//! Work 3: all members want the same lease at the same moment.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::control::{Command, Said};
use crate::oxfs::Cluster;
use crate::plan::Plan;
use crate::row::Row;
use crate::stats::Histogram;
use benches::process::cpu_of;

/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rounds: everybody asks for one free lease; the round ends when all know who has it.
pub(crate) fn oxfs(plan: &Plan, members: usize, threads: usize) -> Result<Row> {
    let mut cluster = Cluster::start(members, Duration::from_millis(1500), threads)?;
    let mut first = Histogram::default();
    let mut all = Histogram::default();
    let mut failures = 0;
    let pids = cluster.pids();
    let (cpu, before) = (cpu_of(&pids)?, cluster.read()?);
    let mut busy = Duration::ZERO;
    for round in 0..plan.contentions as u64 {
        let started = Instant::now();
        let start_ns = shell::clock::boottime().as_nanos();
        for at in 0..members {
            cluster.tell(at, &Command::Ask { cell: round })?;
        }
        let mut winners = Vec::new();
        let mut last_ns = start_ns;
        for at in 0..members {
            let (holder, at_ns) = outcome(&mut cluster, at, round)?;
            last_ns = last_ns.max(at_ns);
            match holder {
                Some(holder) if holder == at as u64 + 1 => winners.push((at, at_ns)),
                Some(_) => {}
                None => failures += 1,
            }
        }
        busy += started.elapsed();
        if winners.len() > 1 {
            bail!(
                "the same lease was held by {} members at once",
                winners.len()
            );
        }
        for (winner, at_ns) in &winners {
            first.add(Duration::from_nanos(at_ns - start_ns));
            cluster.tell(*winner, &Command::Release { cell: round })?;
        }
        all.add(Duration::from_nanos(last_ns - start_ns));
    }
    let cpu = cpu_of(&pids)?.saturating_sub(cpu);
    let totals = cluster.read()?.since(&before);
    let rounds = plan.contentions.max(1) as f64;
    let row = Row {
        system: "oxfs",
        work: "contention",
        asked_by: "member",
        members,
        pairs_per_s: Some(rounds / busy.as_secs_f64()),
        messages_per_pair: Some(totals.messages as f64 / rounds),
        cpu_us_per_pair: Some(cpu.as_secs_f64() * 1e6 / rounds),
        failures: Some(failures),
        rounds: Some(plan.contentions),
        note: Some(format!(
            "somebody has it after {:.1} ms (p50), {:.1} ms (p99)",
            first.quantile_us(0.5) / 1e3,
            first.quantile_us(0.99) / 1e3
        )),
        ..Row::default()
    };
    Ok(row.timed(&all))
}

fn outcome(cluster: &mut Cluster, at: usize, round: u64) -> Result<(Option<u64>, u64)> {
    loop {
        match cluster.hear(at, PATIENCE)? {
            Some(Said::Outcome {
                cell,
                holder,
                at_ns,
            }) if cell == round => return Ok((holder, at_ns)),
            Some(_) => {}
            None => bail!("no outcome for lease {round} within {PATIENCE:?}"),
        }
    }
}
