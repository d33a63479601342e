//! All works on all systems, one after the other, so that ratios hold on a noisy machine.

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use crate::fail_over::Fault;
use crate::oxfs::Cluster;
use crate::peers::Peer;
use crate::plan::Plan;
use crate::process::raise_descriptors;
use crate::report::{Report, print_row};
use crate::row::Row;
use crate::{Options, contention, etcd, fail_over, hold, pairs, peer_hold, zookeeper};

/// Lease time where the work does not vary it: the object server's default.
const LEASE: Duration = Duration::from_millis(1500);
/// Where contention is measured.
const CONTENDERS: [usize; 4] = [3, 5, 10, 30];

struct Suite<'a> {
    options: &'a Options,
    plan: &'a Plan,
    runtime: Runtime,
    rows: Vec<Row>,
    run: u64,
}

/// Runs everything that the options do not leave out.
pub(crate) fn run(options: &Options, plan: &Plan) -> Result<Report> {
    let mut suite = Suite {
        options,
        plan,
        runtime: Runtime::new()?,
        rows: Vec::new(),
        run: 0,
    };
    if suite.has_system("oxfs") {
        suite.oxfs()?;
    }
    for (system, is_installed) in [
        ("zookeeper", zookeeper::is_installed()),
        ("etcd", etcd::is_installed()),
    ] {
        if !suite.has_system(system) {
            continue;
        }
        if is_installed {
            suite.peer(system)?;
        } else {
            eprintln!("{system} is not installed and left out");
        }
    }
    Ok(Report::new(options.quick, suite.rows))
}

impl Suite<'_> {
    fn has_system(&self, name: &str) -> bool {
        self.options.systems.iter().any(|system| system == name)
    }

    fn has_work(&self, name: &str) -> bool {
        self.options.works.iter().any(|work| work == name)
    }

    fn add(&mut self, row: Row) {
        print_row(&row);
        self.rows.push(row);
    }

    fn oxfs(&mut self) -> Result<()> {
        let (plan, threads) = (self.plan, self.options.threads);
        if self.has_work("acquire_release") {
            for &members in &plan.members {
                self.oxfs_pairs(members)?;
            }
        }
        if self.has_work("hold") {
            for &lease in &plan.hold_lease {
                let row = hold::oxfs(plan, lease, 3, threads)?;
                self.add(row);
            }
        }
        if self.has_work("contention") {
            for members in CONTENDERS {
                let row = contention::oxfs(plan, members, threads)?;
                self.add(row);
            }
        }
        if self.has_work("fail_over") {
            for fault in [Fault::Kill, Fault::Freeze] {
                let row = fail_over::oxfs(plan, LEASE, fault, threads)?;
                self.add(row);
            }
        }
        Ok(())
    }

    fn oxfs_pairs(&mut self, members: usize) -> Result<()> {
        let plan = self.plan;
        let mut cluster = Cluster::start(members, LEASE, self.options.threads)?;
        for &outstanding in &plan.outstanding {
            for newborn in [true, false] {
                let row = pairs::by_members(&mut cluster, plan, outstanding, newborn)?;
                self.add(row);
            }
        }
        let _guard = self.runtime.enter();
        let mut rows = Vec::new();
        for &outstanding in &plan.outstanding {
            for newborn in [true, false] {
                self.run += 1;
                let row = pairs::by_clients(&mut cluster, plan, outstanding, newborn, self.run)?;
                print_row(&row);
                rows.push(row);
            }
        }
        self.rows.append(&mut rows);
        Ok(())
    }

    fn peer(&mut self, system: &str) -> Result<()> {
        let plan = self.plan;
        // Before any server is started: they inherit it.
        raise_descriptors()?;
        for fsync in [true, false] {
            if self.has_work("acquire_release") {
                let peer = Peer::start(&self.runtime, system, fsync)?;
                peer.warm_up(&self.runtime, plan)?;
                for &outstanding in &plan.outstanding {
                    self.run += 1;
                    let row = peer.pairs(&self.runtime, plan, outstanding, self.run)?;
                    self.add(row);
                }
            }
        }
        // What follows waits for timers, not for disks.
        if self.has_work("hold") {
            for &lease in &plan.hold_lease {
                let row = peer_hold::largest(&self.runtime, plan, system, lease)?;
                self.add(row);
            }
        }
        if self.has_work("contention") {
            let peer = Peer::start(&self.runtime, system, false)?;
            peer.warm_up(&self.runtime, plan)?;
            for members in CONTENDERS {
                let row = peer.contention(&self.runtime, plan, members)?;
                self.add(row);
            }
        }
        if self.has_work("fail_over") {
            let peer = Peer::start(&self.runtime, system, false)?;
            for fault in [Fault::Kill, Fault::Freeze] {
                let row = peer.fail_over(&self.runtime, plan, LEASE, fault)?;
                self.add(row);
            }
        }
        Ok(())
    }
}
