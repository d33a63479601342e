//! The same works on ZooKeeper and etcd.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use crate::etcd_api::Client;
use crate::etcd_load::EtcdLoad;
use crate::fail_over::{Fault, spread};
use crate::loaded::Loaded;
use crate::pairs::{rest, window};
use crate::plan::Plan;
use crate::row::Row;
use crate::stats::Histogram;
use crate::zk_load::ZkLoad;
use crate::zk_session::Session;
use crate::{etcd, zookeeper};
use benches::process::cpu_of;

/// ZooKeeper sessions of a load. 48: more gave no more throughput, fewer gave less.
const ZK_SESSIONS: usize = 48;
/// Connections of an etcd load. 24: likewise.
const ETCD_CONNECTIONS: usize = 24;
/// Load that warms a server up.
const WARM_UP_OUTSTANDING: usize = 256;
/// How often somebody who wants a lease asks again. Both systems could tell him instead; asking
/// this often costs less than a fail-over's spread.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// Shortest session of etcd with its default election timeout.
const ETCD_LEASE_S: i64 = 2;

/// A running ensemble of either system.
#[derive(Debug)]
pub(crate) enum Peer {
    ZooKeeper(zookeeper::Ensemble, bool),
    Etcd(etcd::Ensemble, bool),
}

/// A session of either system that asks for leases one at a time.
enum Asker {
    ZooKeeper(Session),
    Etcd(Client, i64),
}

impl Peer {
    pub(crate) fn start(runtime: &Runtime, system: &str, fsync: bool) -> Result<Self> {
        runtime.block_on(async {
            if system == "zookeeper" {
                Ok(Self::ZooKeeper(
                    zookeeper::Ensemble::start(fsync).await?,
                    fsync,
                ))
            } else {
                Ok(Self::Etcd(etcd::Ensemble::start(fsync).await?, fsync))
            }
        })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        match self {
            Self::ZooKeeper(ensemble, _) => ensemble.pids(),
            Self::Etcd(ensemble, _) => ensemble.pids(),
        }
    }

    pub(crate) fn addresses(&self) -> &[String] {
        match self {
            Self::ZooKeeper(ensemble, _) => ensemble.addresses(),
            Self::Etcd(ensemble, _) => ensemble.addresses(),
        }
    }

    /// What all rows of this ensemble share.
    pub(crate) fn row(&self) -> Row {
        let (system, fsync) = match self {
            Self::ZooKeeper(_, fsync) => ("zookeeper", *fsync),
            Self::Etcd(_, fsync) => ("etcd", *fsync),
        };
        Row {
            system,
            asked_by: "client",
            fsync: Some(fsync),
            members: self.addresses().len(),
            ..Row::default()
        }
    }

    fn load(&self, runtime: &Runtime, outstanding: usize, run: u64) -> Result<Box<dyn Loaded>> {
        runtime.block_on(async {
            Ok(match self {
                Self::ZooKeeper(ensemble, _) => {
                    let addresses = ensemble.addresses();
                    let load = ZkLoad::start(addresses, outstanding, ZK_SESSIONS, run).await?;
                    Box::new(load) as Box<dyn Loaded>
                }
                Self::Etcd(ensemble, _) => {
                    let addresses = ensemble.addresses();
                    Box::new(EtcdLoad::start(addresses, outstanding, ETCD_CONNECTIONS, run).await?)
                }
            })
        })
    }

    /// Lets the servers work before anything is counted.
    pub(crate) fn warm_up(&self, runtime: &Runtime, plan: &Plan) -> Result<()> {
        let load = self.load(runtime, WARM_UP_OUTSTANDING, 0)?;
        sleep(match self {
            Self::ZooKeeper(..) => plan.java_warm_up,
            Self::Etcd(..) => plan.warm_up,
        });
        rest(&*load);
        Ok(())
    }

    /// Work 1.
    pub(crate) fn pairs(
        &self,
        runtime: &Runtime,
        plan: &Plan,
        outstanding: usize,
        run: u64,
    ) -> Result<Row> {
        let load = self.load(runtime, outstanding, run)?;
        sleep(plan.warm_up);
        let row = window(&*load, &self.pids(), plan.window, outstanding, self.row());
        rest(&*load);
        Ok(row?.0)
    }

    /// Work 3: rounds in which this many sessions want the same lease.
    pub(crate) fn contention(&self, runtime: &Runtime, plan: &Plan, members: usize) -> Result<Row> {
        let pids = self.pids();
        let mut all = Histogram::default();
        let mut failures = 0;
        let (busy, cpu) = runtime.block_on(async {
            let mut askers = Vec::new();
            for (_, address) in (0..members).zip(self.addresses().iter().cycle()) {
                askers.push(self.asker(address, Duration::from_secs(10)).await?);
            }
            let cpu = cpu_of(&pids)?;
            let mut busy = Duration::ZERO;
            for round in 0..plan.contentions {
                let name = format!("/contended{round}");
                let started = Instant::now();
                let (back, won) = everybody(askers, &name).await?;
                all.add(started.elapsed());
                busy += started.elapsed();
                askers = back;
                failures += u64::from(won.len() != 1);
                for at in won {
                    let winner = askers.get_mut(at).context("no such session")?;
                    winner.delete(&name).await?;
                }
            }
            anyhow::Ok((busy, cpu_of(&pids)?.saturating_sub(cpu)))
        })?;
        let rounds = plan.contentions.max(1) as f64;
        let row = Row {
            work: "contention",
            members,
            pairs_per_s: Some(rounds / busy.as_secs_f64()),
            cpu_us_per_pair: Some(cpu.as_secs_f64() * 1e6 / rounds),
            failures: Some(failures),
            rounds: Some(plan.contentions),
            note: Some(format!("{members} sessions at 3 servers")),
            ..self.row()
        };
        Ok(row.timed(&all))
    }

    /// Work 4: the session that holds the lease is never heard of again. A killed client's
    /// connection ends, a frozen one's stays; both servers look at the session's time only.
    pub(crate) fn fail_over(
        &self,
        runtime: &Runtime,
        plan: &Plan,
        lease: Duration,
        fault: Fault,
    ) -> Result<Row> {
        let mut times = Histogram::default();
        let mut granted = lease;
        runtime.block_on(async {
            for round in 0..plan.fail_overs {
                let name = format!("/held{}{round}", fault.name().len());
                let [first, second, ..] = self.addresses() else {
                    anyhow::bail!("too few servers");
                };
                let mut waiting = self.asker(second, Duration::from_secs(10)).await?;
                let mut holder = self.asker(first, lease).await?;
                granted = holder.time(lease);
                holder.create(&name).await?;
                // It was last heard of now and dies before it would be heard of again.
                tokio::time::sleep((granted / 3).mul_f64(spread(round))).await;
                let died = Instant::now();
                let frozen = match fault {
                    Fault::Kill => {
                        drop(holder);
                        None
                    }
                    Fault::Freeze => Some(holder),
                };
                while !waiting.create(&name).await? {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                times.add(died.elapsed());
                drop(frozen);
                waiting.delete(&name).await?;
                eprint!(".");
            }
            Ok(())
        })?;
        eprintln!();
        let row = Row {
            work: "fail_over",
            lease_ms: u64::try_from(granted.as_millis()).ok(),
            fault: Some(fault.name()),
            rounds: Some(plan.fail_overs),
            note: Some("the holder's session falls silent; the servers live".to_owned()),
            ..self.row()
        };
        Ok(row.timed(&times))
    }

    async fn asker(&self, address: &str, session: Duration) -> Result<Asker> {
        match self {
            Self::ZooKeeper(..) => Ok(Asker::ZooKeeper(Session::open(address, session).await?)),
            Self::Etcd(..) => {
                let mut client = Client::connect(address).await?;
                let seconds = i64::try_from(session.as_secs())?.max(ETCD_LEASE_S);
                let (id, _) = client.grant(seconds).await?;
                Ok(Asker::Etcd(client, id))
            }
        }
    }
}

impl Asker {
    async fn create(&mut self, name: &str) -> Result<bool> {
        match self {
            Self::ZooKeeper(session) => session.create(name).await,
            Self::Etcd(client, id) => client.create(name, *id).await,
        }
    }

    async fn delete(&mut self, name: &str) -> Result<()> {
        match self {
            Self::ZooKeeper(session) => session.delete(name).await,
            Self::Etcd(client, _) => client.delete(name).await.map(|_| ()),
        }
    }

    /// The session's time as the servers take it.
    fn time(&self, wanted: Duration) -> Duration {
        match self {
            Self::ZooKeeper(session) => session.timeout,
            Self::Etcd(..) => {
                Duration::from_secs(wanted.as_secs().max(ETCD_LEASE_S.unsigned_abs()))
            }
        }
    }
}

/// Lets all ask at once. Gives them back in order, and which of them won.
async fn everybody(askers: Vec<Asker>, name: &str) -> Result<(Vec<Asker>, Vec<usize>)> {
    let tasks: Vec<_> = askers
        .into_iter()
        .map(|asker| tokio::spawn(ask_once(asker, name.to_owned())))
        .collect();
    let (mut back, mut won) = (Vec::new(), Vec::new());
    for (at, task) in tasks.into_iter().enumerate() {
        let (asker, created) = task.await??;
        back.push(asker);
        if created {
            won.push(at);
        }
    }
    Ok((back, won))
}

async fn ask_once(mut asker: Asker, name: String) -> Result<(Asker, bool)> {
    let created = asker.create(&name).await?;
    Ok((asker, created))
}
