//! Work 2: the largest number of leases that stay alive, by lease time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::control::{Command, Totals};
use crate::oxfs::Cluster;
use crate::plan::Plan;
use crate::row::Row;
use benches::process::cpu_of;

/// Where the search begins.
const FIRST: u64 = 12_500;
/// How long the steps of the search hold their leases.
const SHORT: Duration = Duration::from_secs(6);
/// How long acquiring the leases may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// A number that failed is tried once more: a stall of the machine is no limit of the system.
const ATTEMPTS: u32 = 2;

/// What came out of holding a number of leases for a while.
#[derive(Debug)]
pub(crate) struct Held {
    /// What happened meanwhile.
    pub(crate) totals: Totals,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
}

/// Searches by quadrupling for a short time, then downwards by thirds for the full time, then once more in
/// the middle: what a short time bears a long time may not, since what can't be done in time piles up.
pub(crate) fn largest(
    plan: &Plan,
    first: u64,
    mut try_one: impl FnMut(u64, Duration) -> Result<Option<Held>>,
) -> Result<(u64, Option<Held>)> {
    let short = plan.hold.min(SHORT);
    let (mut good, mut bad) = (0, None);
    let mut next = first.min(plan.hold_max);
    while bad.is_none() && good < plan.hold_max {
        match try_one(next, short)? {
            Some(_) => good = next,
            None => bad = Some(next),
        }
        next = (next * 4).min(plan.hold_max);
    }
    let mut found = None;
    while good >= first / 8 && good > 0 {
        found = try_one(good, plan.hold)?;
        if found.is_some() {
            break;
        }
        bad = Some(good);
        good -= good / 3;
    }
    for _ in 0..plan.hold_bisections {
        let (Some(above), true) = (bad, found.is_some()) else {
            break;
        };
        let middle = good.midpoint(above);
        match try_one(middle, plan.hold)? {
            Some(held) => (good, found) = (middle, Some(held)),
            None => bad = Some(middle),
        }
    }
    Ok((if found.is_some() { good } else { 0 }, found))
}

/// A given number at each of three servers, for what extending them costs.
pub(crate) fn oxfs_some(plan: &Plan, lease: Duration, each: u64, threads: usize) -> Result<Row> {
    let members = 3;
    let mut cluster = Cluster::start(members, lease, threads)?;
    let leases = each * members as u64;
    let held = hold(&mut cluster, leases, plan.hold.min(SHORT), 1)?;
    let mut row = row(members, lease, leases, held);
    row.note = Some(format!("{each} leases per pair of servers"));
    Ok(row)
}

/// The lease servers hold leases of their own, each a third of them.
pub(crate) fn oxfs_largest(
    plan: &Plan,
    lease: Duration,
    members: usize,
    threads: usize,
) -> Result<Row> {
    let mut run = 0;
    let (leases, held) = largest(plan, FIRST, |count, time| {
        for _ in 0..ATTEMPTS {
            run += 1;
            // Fresh servers: what an attempt before left behind must not burden this one.
            let mut cluster = Cluster::start(members, lease, threads)?;
            if let Some(held) = hold(&mut cluster, count, time, run)? {
                return Ok(Some(held));
            }
        }
        Ok(None)
    })?;
    let mut row = row(members, lease, leases, held);
    row.note = (leases == plan.hold_max).then(|| "largest number tried".to_owned());
    Ok(row)
}

fn row(members: usize, lease: Duration, leases: u64, held: Option<Held>) -> Row {
    let mut row = Row {
        system: "oxfs",
        work: "hold",
        asked_by: "member",
        members,
        lease_ms: u64::try_from(lease.as_millis()).ok(),
        leases: Some(leases),
        ..Row::default()
    };
    if let Some(Held {
        totals,
        elapsed,
        cpu,
    }) = held
    {
        let renewals = totals.renewals.max(1) as f64;
        row.lost = Some(totals.lost);
        row.renewals_per_s = Some(totals.renewals as f64 / elapsed.as_secs_f64());
        row.messages_per_renewal = Some(totals.messages as f64 / renewals);
        row.frames_per_renewal = Some(totals.frames as f64 / renewals);
        row.cpu_us_per_renewal = Some(cpu.as_secs_f64() * 1e6 / renewals);
        row.bytes_of_memory_per_lease = Some(totals.rss_bytes as f64 / leases.max(1) as f64);
    }
    row
}

/// Takes leases and watches them. Nothing if one was lost or not gained.
pub(crate) fn hold(
    cluster: &mut Cluster,
    count: u64,
    time: Duration,
    run: u64,
) -> Result<Option<Held>> {
    let members = cluster.members() as u64;
    for at in 0..cluster.members() {
        let share = count / members + u64::from((at as u64) < count % members);
        cluster.tell(
            at,
            &Command::Hold {
                count: share,
                members: 3,
                run,
            },
        )?;
    }
    for at in 0..cluster.members() {
        cluster.done(at, PATIENCE)?;
    }
    let pids = cluster.pids();
    let (before, cpu, started) = (cluster.read()?, cpu_of(&pids)?, Instant::now());
    sleep(time);
    let (after, elapsed) = (cluster.read()?, started.elapsed());
    let cpu = cpu_of(&pids)?.saturating_sub(cpu);
    let alive = after.held == count && after.lost == 0 && after.failures == 0;
    eprintln!(
        "  {count} leases for {:.0} s: {} held, {} lost, {} not gained",
        elapsed.as_secs_f64(),
        after.held,
        after.lost,
        after.failures
    );
    Ok(alive.then(|| Held {
        totals: after.since(&before),
        elapsed,
        cpu,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        Held {
            totals: Totals::default(),
            elapsed: Duration::from_secs(1),
            cpu: Duration::ZERO,
        }
    }

    fn search(limit: u64, long_limit: u64) -> u64 {
        let plan = Plan {
            hold_max: 1000,
            hold_bisections: 5,
            ..Plan::full()
        };
        let try_one = |count, time| {
            let limit = if time == plan.hold { long_limit } else { limit };
            Ok((count <= limit).then(held))
        };
        largest(&plan, 100, try_one).unwrap().0
    }

    #[test]
    fn search_finds_the_limit_within_its_last_step() {
        let found = search(437, 437);

        assert!((400..=437).contains(&found), "{found}");
    }

    #[test]
    fn search_ends_at_the_largest_number_tried_and_at_nothing() {
        assert_eq!(search(5000, 5000), 1000);
        assert_eq!(search(0, 0), 0);
    }

    #[test]
    fn what_fails_in_the_long_run_is_lowered() {
        let found = search(800, 600);

        assert!((500..=600).contains(&found), "{found}");
    }
}
