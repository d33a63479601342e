//! Work 2 on ZooKeeper and etcd: every lease ends by itself, so each is a session of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::control::Totals;
use crate::etcd_api::Client;
use crate::hold::{self, Held};
use crate::peers::Peer;
use crate::plan::Plan;
use crate::row::Row;
use crate::zk_session::Session;
use benches::process::cpu_of;

/// Where the search begins.
const FIRST: u64 = 1_000;
/// ZooKeeper sessions are connections; more do not fit this process's descriptors.
const ZK_MAX: u64 = 15_000;
/// etcd needs two writes for each, some thousand a second.
const ETCD_MAX: u64 = 64_000;
/// Sessions being opened at a time.
const OPENING: usize = 128;
/// Connections that etcd's leases share.
const ETCD_CONNECTIONS: usize = 24;
/// How long all of them may take to open.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the holders tell.
#[derive(Debug, Default)]
struct Tally {
    held: AtomicU64,
    failed: AtomicU64,
    renewals: AtomicU64,
}

/// Searches as for the lease servers.
pub(crate) fn largest(
    runtime: &Runtime,
    plan: &Plan,
    system: &str,
    lease: Duration,
) -> Result<Row> {
    let peer = Peer::start(runtime, system, false)?;
    peer.warm_up(runtime, plan)?;
    let ceiling = match &peer {
        Peer::ZooKeeper(..) => ZK_MAX,
        Peer::Etcd(..) => ETCD_MAX,
    };
    let plan = Plan {
        hold_max: plan.hold_max.min(ceiling),
        ..plan.clone()
    };
    let lease = match &peer {
        Peer::ZooKeeper(..) => lease,
        // Its shortest.
        Peer::Etcd(..) => lease.max(Duration::from_secs(2)),
    };
    let mut run = 0;
    let (leases, held) = hold::largest(&plan, FIRST, |count, time| {
        run += 1;
        runtime.block_on(try_one(&peer, count, time, lease, run))
    })?;
    let mut row = Row {
        work: "hold",
        lease_ms: u64::try_from(lease.as_millis()).ok(),
        leases: Some(leases),
        note: Some(if leases == plan.hold_max {
            "one session each; largest number tried".to_owned()
        } else {
            "one session each".to_owned()
        }),
        ..peer.row()
    };
    if let Some(held) = held {
        let renewals = held.totals.renewals.max(1) as f64;
        row.lost = Some(0);
        row.renewals_per_s = Some(held.totals.renewals as f64 / held.elapsed.as_secs_f64());
        row.cpu_us_per_renewal = Some(held.cpu.as_secs_f64() * 1e6 / renewals);
    }
    Ok(row)
}

async fn try_one(
    peer: &Peer,
    count: u64,
    time: Duration,
    lease: Duration,
    run: u64,
) -> Result<Option<Held>> {
    let tally = Arc::new(Tally::default());
    let (stop, stopped) = watch::channel(false);
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut clients = Vec::new();
    if let Peer::Etcd(..) = peer {
        for (_, address) in (0..ETCD_CONNECTIONS).zip(peer.addresses().iter().cycle()) {
            clients.push(Client::connect(address).await?);
        }
    }
    let mut tasks = JoinSet::new();
    for (number, address) in (0..count).zip(peer.addresses().iter().cycle()) {
        let (tally, mut stopped, opening) =
            (Arc::clone(&tally), stopped.clone(), Arc::clone(&opening));
        let (address, name) = (address.clone(), format!("/k{run}n{number}"));
        let at = usize::try_from(number).unwrap_or(0) % clients.len().max(1);
        let client = clients.get(at).cloned();
        tasks.spawn(async move {
            let keep = async {
                match client {
                    Some(client) => keep_etcd(client, &name, lease, &tally, &opening).await,
                    None => keep_zk(&address, &name, lease, &tally, &opening).await,
                }
            };
            let ended = tokio::select! {
                ended = keep => ended,
                _ = stopped.wait_for(|stop| *stop) => Ok(()),
            };
            if ended.is_err() {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    let deadline = Instant::now() + PATIENCE;
    let settled = || {
        let (held, failed) = (
            tally.held.load(Ordering::Relaxed),
            tally.failed.load(Ordering::Relaxed),
        );
        failed > 0 || held == count || Instant::now() > deadline
    };
    while !settled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pids = peer.pids();
    let (cpu, renewals) = (cpu_of(&pids)?, tally.renewals.load(Ordering::Relaxed));
    let started = Instant::now();
    while started.elapsed() < time && tally.failed.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let elapsed = started.elapsed();
    let held = tally.held.load(Ordering::Relaxed);
    let failed = tally.failed.load(Ordering::Relaxed);
    eprintln!(
        "  {count} sessions for {:.0} s: {held} opened, {failed} lost",
        elapsed.as_secs_f64()
    );
    let result = (held == count && failed == 0).then_some(Held {
        totals: Totals {
            renewals: tally.renewals.load(Ordering::Relaxed) - renewals,
            ..Totals::default()
        },
        elapsed,
        cpu: cpu_of(&pids)?.saturating_sub(cpu),
    });
    let _ = stop.send(true);
    while tasks.join_next().await.is_some() {}
    // What ended without a word must be gone before the next attempt.
    tokio::time::sleep(lease + Duration::from_secs(1)).await;
    Ok(result)
}

/// Opens a session, creates its node, and keeps it alive; ends only with an error.
async fn keep_zk(
    address: &str,
    name: &str,
    lease: Duration,
    tally: &Tally,
    opening: &Semaphore,
) -> Result<()> {
    let mut session = {
        let _turn = opening.acquire().await?;
        let mut session = Session::open(address, lease).await?;
        session.create(name).await?;
        session
    };
    tally.held.fetch_add(1, Ordering::Relaxed);
    let mut replies = Vec::new();
    loop {
        tokio::time::sleep(session.timeout / 3).await;
        session.outbound.ping();
        session.flush().await?;
        tokio::time::timeout(session.timeout, session.replies(&mut replies))
            .await
            .context("no answer within the session time")??;
        tally.renewals.fetch_add(1, Ordering::Relaxed);
    }
}

async fn keep_etcd(
    mut client: Client,
    name: &str,
    lease: Duration,
    tally: &Tally,
    opening: &Semaphore,
) -> Result<()> {
    let id = {
        let _turn = opening.acquire().await?;
        let (id, _) = client.grant(i64::try_from(lease.as_secs())?).await?;
        client.create(name, id).await?;
        id
    };
    tally.held.fetch_add(1, Ordering::Relaxed);
    loop {
        tokio::time::sleep(lease / 3).await;
        tokio::time::timeout(lease, client.keep_alive(id))
            .await
            .context("no answer within the lease time")??;
        tally.renewals.fetch_add(1, Ordering::Relaxed);
    }
}
