//! Work 1: leases acquired and given back in closed loops, each of another name.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::ClientLoad;
use crate::control::Command;
use crate::loaded::Loaded;
use crate::oxfs::Cluster;
use crate::plan::Plan;
use crate::row::Row;
use benches::process::{cpu_of, own_cpu};

/// How long a stopped load may take to come to rest.
const REST: Duration = Duration::from_secs(20);

fn per(total: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| total / count as f64)
}

pub(crate) fn kind(newborn: bool) -> &'static str {
    if newborn { "new" } else { "existing" }
}

/// Asked by the members themselves.
pub(crate) fn by_members(
    cluster: &mut Cluster,
    plan: &Plan,
    outstanding: usize,
    newborn: bool,
) -> Result<Row> {
    let members = cluster.members();
    let share = |at: usize| outstanding / members + usize::from(at < outstanding % members);
    cluster.all(|at| Command::Load {
        outstanding: share(at),
        newborn,
    })?;
    sleep(plan.warm_up);
    let pids = cluster.pids();
    let (before, cpu, started) = (cluster.read()?, cpu_of(&pids)?, Instant::now());
    sleep(plan.window);
    let (after, elapsed) = (cluster.read()?, started.elapsed());
    let cpu = cpu_of(&pids)?.saturating_sub(cpu);
    cluster.all(|_| Command::Stop)?;

    let sum = after.since(&before);
    let row = Row {
        system: "oxfs",
        work: "acquire_release",
        asked_by: "member",
        cell: Some(kind(newborn)),
        members,
        outstanding: Some(outstanding),
        pairs_per_s: Some(sum.pairs as f64 / elapsed.as_secs_f64()),
        messages_per_pair: per(sum.messages as f64, sum.pairs),
        frames_per_pair: per(sum.frames as f64, sum.pairs),
        bytes_per_pair: per(sum.bytes as f64, sum.pairs),
        cpu_us_per_pair: per(cpu.as_secs_f64() * 1e6, sum.pairs),
        failures: Some(sum.failures),
        ..Row::default()
    };
    Ok(row.timed(&sum.acquire))
}

/// Asked by clients of the lease servers.
pub(crate) fn by_clients(
    cluster: &mut Cluster,
    plan: &Plan,
    outstanding: usize,
    newborn: bool,
    run: u64,
) -> Result<Row> {
    let load = ClientLoad::start(&cluster.addresses(), outstanding, newborn, run)?;
    let row = Row {
        system: "oxfs",
        asked_by: "client",
        cell: Some(kind(newborn)),
        members: cluster.members(),
        ..Row::default()
    };
    let pids = cluster.pids();
    let (row, pairs, totals) = {
        sleep(plan.warm_up);
        let before = cluster.read()?;
        let (row, pairs) = window(&load, &pids, plan.window, outstanding, row)?;
        (row, pairs, cluster.read()?.since(&before))
    };
    rest(&load);
    Ok(Row {
        messages_per_pair: per(totals.messages as f64, pairs),
        frames_per_pair: per(totals.frames as f64, pairs),
        bytes_per_pair: per(totals.bytes as f64, pairs),
        ..row
    })
}

/// Reads a running load's counters twice.
pub(crate) fn window(
    load: &dyn Loaded,
    servers: &[u32],
    length: Duration,
    outstanding: usize,
    row: Row,
) -> Result<(Row, u64)> {
    let (cpu, own) = (cpu_of(servers)?, own_cpu()?);
    let (before, started) = (load.read(), Instant::now());
    sleep(length);
    let (after, elapsed) = (load.read(), started.elapsed());
    let cpu = cpu_of(servers)?.saturating_sub(cpu);
    let own = own_cpu()?.saturating_sub(own);
    let sum = after.since(&before);
    let row = Row {
        work: "acquire_release",
        outstanding: Some(outstanding),
        pairs_per_s: Some(sum.pairs as f64 / elapsed.as_secs_f64()),
        pair_p50_us: Some(sum.pair.quantile_us(0.5)),
        cpu_us_per_pair: per(cpu.as_secs_f64() * 1e6, sum.pairs),
        client_cpu_us_per_pair: per(own.as_secs_f64() * 1e6, sum.pairs),
        failures: Some(sum.failures),
        ..row
    };
    Ok((row.timed(&sum.acquire), sum.pairs))
}

/// Stops a load and waits until nothing of it is under way.
pub(crate) fn rest(load: &dyn Loaded) {
    load.stop();
    let deadline = Instant::now() + REST;
    while load.read().pending > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
}
