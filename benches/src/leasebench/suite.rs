//! Each work on all systems, one right after the other, so that ratios hold on a noisy machine.

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use crate::fail_over::Fault;
use crate::oxfs::Cluster;
use crate::peers::Peer;
use crate::plan::Plan;
use crate::report::{Report, print_row};
use crate::row::Row;
use crate::{Options, contention, etcd, fail_over, hold, pairs, peer_hold, zookeeper};
use benches::process::{Awake, Spent, raise_descriptors};

/// Lease time where the work does not vary it: the object server's default.
const LEASE: Duration = Duration::from_millis(1500);
/// Leases that each server holds at its peer, where frames per extension are counted.
const PER_PAIR: u64 = 1000;
/// Where contention is measured.
const CONTENDERS: [usize; 4] = [3, 5, 10, 30];

struct Suite<'a> {
    options: &'a Options,
    plan: &'a Plan,
    runtime: Runtime,
    rows: Vec<Row>,
    run: u64,
    outcome: Result<()>,
}

/// Runs everything that the options do not leave out. What fails is left out of the report, and the
/// first failure comes with it.
pub(crate) fn run(options: &Options, plan: &Plan) -> Result<(Report, Result<()>)> {
    let mut suite = Suite {
        options,
        plan,
        runtime: Runtime::new()?,
        rows: Vec::new(),
        run: 0,
        outcome: Ok(()),
    };
    let before = Spent::now()?;
    // Before any server is started: they inherit it.
    raise_descriptors()?;
    let peers: Vec<&'static str> = [
        ("zookeeper", zookeeper::is_installed()),
        ("etcd", etcd::is_installed()),
    ]
    .into_iter()
    .filter(|(system, _)| suite.has_system(system))
    .filter_map(|(system, is_installed)| {
        if !is_installed {
            eprintln!("{system} is not installed and left out");
        }
        is_installed.then_some(system)
    })
    .collect();
    suite.acquire_release(&peers);
    suite.hold(&peers);
    suite.contention(&peers);
    suite.fail_over(&peers);
    let busy_with_others = Spent::now()?.others_since(before);
    let report = Report::new(options.quick, busy_with_others, suite.rows);
    Ok((report, suite.outcome))
}

impl Suite<'_> {
    fn has_system(&self, name: &str) -> bool {
        self.options.systems.iter().any(|system| system == name)
    }

    /// Does a part of a work, if the work is wanted.
    fn part(&mut self, work: &str, part: impl FnOnce(&mut Self) -> Result<()>) {
        if !self.options.works.iter().any(|wanted| wanted == work) {
            return;
        }
        if let Err(error) = part(self) {
            eprintln!("{work}: {error:#}");
            if self.outcome.is_ok() {
                self.outcome = Err(error);
            }
        }
    }

    fn add(&mut self, row: Row) {
        print_row(&row);
        self.rows.push(row);
    }

    /// Does a part of a work on this system, if it is wanted.
    fn own_part(&mut self, work: &str, part: impl FnOnce(&mut Self) -> Result<()>) {
        if self.has_system("oxfs") {
            self.part(work, part);
        }
    }

    fn acquire_release(&mut self, peers: &[&str]) {
        const WORK: &str = "acquire_release";
        for &members in &self.plan.members {
            self.own_part(WORK, |suite| suite.oxfs_pairs(members));
        }
        for system in peers {
            for fsync in [true, false] {
                self.part(WORK, |suite| suite.peer_pairs(system, fsync));
            }
        }
    }

    fn hold(&mut self, peers: &[&str]) {
        const WORK: &str = "hold";
        let (plan, threads) = (self.plan, self.options.threads);
        self.own_part(WORK, |suite| {
            let row = hold::oxfs_some(plan, LEASE, PER_PAIR, threads)?;
            suite.add(row);
            Ok(())
        });
        for &lease in &plan.hold_lease {
            self.own_part(WORK, |suite| {
                let row = hold::oxfs_largest(plan, lease, 3, threads)?;
                suite.add(row);
                Ok(())
            });
            for system in peers {
                self.part(WORK, |suite| {
                    let row = peer_hold::largest(&suite.runtime, plan, system, lease)?;
                    suite.add(row);
                    Ok(())
                });
            }
        }
    }

    fn contention(&mut self, peers: &[&str]) {
        const WORK: &str = "contention";
        let (plan, threads) = (self.plan, self.options.threads);
        for members in CONTENDERS {
            self.own_part(WORK, |suite| {
                let row = contention::oxfs(plan, members, threads)?;
                suite.add(row);
                Ok(())
            });
        }
        for system in peers {
            self.part(WORK, |suite| {
                let peer = Peer::start(&suite.runtime, system, false)?;
                peer.warm_up(&suite.runtime, plan)?;
                for members in CONTENDERS {
                    let row = peer.contention(&suite.runtime, plan, members)?;
                    suite.add(row);
                }
                Ok(())
            });
        }
    }

    fn fail_over(&mut self, peers: &[&str]) {
        const WORK: &str = "fail_over";
        let (plan, threads) = (self.plan, self.options.threads);
        for fault in [Fault::Kill, Fault::Freeze] {
            self.own_part(WORK, |suite| {
                let row = fail_over::oxfs(plan, LEASE, fault, threads)?;
                suite.add(row);
                Ok(())
            });
        }
        for system in peers {
            self.part(WORK, |suite| {
                let peer = Peer::start(&suite.runtime, system, false)?;
                for fault in [Fault::Kill, Fault::Freeze] {
                    let row = peer.fail_over(&suite.runtime, plan, LEASE, fault)?;
                    suite.add(row);
                }
                Ok(())
            });
        }
    }

    fn oxfs_pairs(&mut self, members: usize) -> Result<()> {
        let plan = self.plan;
        let mut cluster = Cluster::start(members, LEASE, self.options.threads)?;
        for (outstanding, awake) in plan.loads() {
            for newborn in [true, false] {
                let row = while_awake(awake, || {
                    pairs::by_members(&mut cluster, plan, outstanding, newborn)
                })?;
                self.add(row);
            }
        }
        for (outstanding, awake) in plan.loads() {
            for newborn in [true, false] {
                self.run += 1;
                let row = while_awake(awake, || {
                    let _guard = self.runtime.enter();
                    pairs::by_clients(&mut cluster, plan, outstanding, newborn, self.run)
                })?;
                self.add(row);
            }
        }
        Ok(())
    }

    fn peer_pairs(&mut self, system: &str, fsync: bool) -> Result<()> {
        let plan = self.plan;
        let peer = Peer::start(&self.runtime, system, fsync)?;
        peer.warm_up(&self.runtime, plan)?;
        for (outstanding, awake) in plan.loads() {
            self.run += 1;
            let row = while_awake(awake, || {
                peer.pairs(&self.runtime, plan, outstanding, self.run)
            })?;
            self.add(row);
        }
        Ok(())
    }
}

/// Measures, with idle processors kept from sleeping if wanted.
fn while_awake(awake: bool, measure: impl FnOnce() -> Result<Row>) -> Result<Row> {
    let _loops = awake.then(Awake::start).transpose()?;
    let row = measure()?;
    Ok(Row { awake, ..row })
}
