//! `oxfs down`: ends a cluster from another terminal.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use shell::local::LocalCluster;

use crate::config::{LOOK_AGAIN, STOP_PATIENCE};
use crate::launch;

/// Asks `up` to end everything, or does it if `up` is gone.
pub(crate) fn run(dir: &Path) -> Result<()> {
    let cluster = LocalCluster::open(dir)?;
    let processes = cluster.processes();
    let running = processes
        .iter()
        .filter(|process| process.process.is_running())
        .count();
    if let Some(up) = cluster.running("up") {
        let pid = up.process.pid;
        up.process.signal(Signal::SIGTERM);
        up.process.signal(Signal::SIGCONT);
        // It waits that long for each of three roles.
        let asked = Instant::now();
        while up.process.is_running() {
            if asked.elapsed() > STOP_PATIENCE * 4 {
                bail!("`oxfs up` (pid {pid}) does not end; kill it and run this again");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    // `up` may have killed some, and may have been killed before the rest.
    let mut killed = cluster.take_killed();
    killed.extend(launch::end_all(&cluster, &mut []));
    launch::tidy(&cluster);
    if running > 0 {
        launch::check_killed(&killed)?;
    }
    let shown = cluster.dir().display();
    if running > 0 {
        println!("ended {running} processes of {shown}");
    } else {
        println!("nothing of {shown} is running");
    }
    Ok(())
}
