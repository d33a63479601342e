//! The mount that `oxfs up` makes, and makes again after its process died.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use shell::local::{LocalCluster, Process};

use crate::config::{DEFAULT_VOLUME, LOOK_AGAIN, READY_PATIENCE};
use crate::launch::{self, Started};
use crate::{mountpoint, readiness, start};

/// A mount that was started and can't be used yet.
#[derive(Debug)]
pub(crate) struct Mounting {
    pub(crate) started: Started,
    begun: Instant,
}

/// Starts a process that mounts the default volume, and remembers it.
pub(crate) fn begin(cluster: &LocalCluster, point: &Path) -> Result<Mounting> {
    let what = format!("{}/{DEFAULT_VOLUME}", cluster.mrc_addresses().join(","));
    let arguments = [
        OsStr::new(&what),
        point.as_os_str(),
        OsStr::new("--dir"),
        cluster.dir().as_os_str(),
        // Whoever wants them is told the port: `xfs-admin metrics`.
        OsStr::new("-o"),
        OsStr::new("metrics_listen=127.0.0.1:0"),
    ];
    let mut started = launch::mount(&arguments, cluster.log_file("mount"), point)?;
    if let Err(error) = cluster.remember(&started.process) {
        // Nobody could end later what is recorded nowhere.
        started.end_at_once();
        return Err(error.into());
    }
    Ok(Mounting {
        started,
        begun: Instant::now(),
    })
}

impl Mounting {
    /// Whether programs can use it.
    ///
    /// # Errors
    ///
    /// If it has ended or takes too long.
    pub(crate) fn is_done(&mut self) -> Result<bool> {
        let point = &self.started.process.dir;
        if mountpoint::is_mounted(point)? {
            return Ok(true);
        }
        if self.begun.elapsed() > READY_PATIENCE {
            bail!(
                "{} is not mounted after {} s; see {}",
                point.display(),
                READY_PATIENCE.as_secs(),
                self.started.log().display()
            );
        }
        readiness::check_alive(&mut self.started)?;
        Ok(false)
    }
}

/// How the mount of a cluster that runs does.
#[derive(Debug)]
pub(crate) enum State {
    /// A process serves it.
    Runs,
    /// Its process was killed or failed; who it was.
    Died(Vec<Process>),
    /// It was unmounted.
    Unmounted,
}

/// Looks after the mount at `point` in the cluster's list of processes: one that ends in good order
/// removes itself from there.
pub(crate) fn state(cluster: &LocalCluster, point: &Path) -> State {
    let mounts = cluster.processes().into_iter();
    let (running, dead): (Vec<_>, Vec<_>) = mounts
        .filter(|process| process.role == "mount" && process.dir == point)
        .partition(|process| process.process.is_running());
    match (running.is_empty(), dead.is_empty()) {
        (false, _) => State::Runs,
        (true, false) => State::Died(dead),
        (true, true) => State::Unmounted,
    }
}

/// Clears away what dead mounts left and starts one again.
pub(crate) fn again(cluster: &LocalCluster, point: &Path, dead: &[Process]) -> Result<Mounting> {
    mountpoint::detach_dead(point);
    let mounting = begin(cluster, &mountpoint::check(point)?)?;
    // Only now: whoever looks between finds either of them.
    for process in dead {
        cluster.forget(&process.name);
    }
    Ok(mounting)
}

/// Mounts again, if the mount that `oxfs up` made has died, and waits for it. Whether it had.
pub(crate) fn if_dead(cluster: &LocalCluster) -> Result<bool> {
    let Some(up) = cluster.running("up") else {
        return Ok(false);
    };
    let point = &up.dir;
    let State::Died(dead) = state(cluster, point) else {
        return Ok(false);
    };
    let mounted = again(cluster, point, &dead).and_then(|mut mounting| {
        while !mounting.is_done()? {
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(mounting)
    });
    let mounting = mounted.with_context(|| format!("can't mount {} again", point.display()))?;
    println!("{}", start::line(&mounting.started));
    Ok(true)
}
