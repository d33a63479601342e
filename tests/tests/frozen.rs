//! A mount whose servers are all silent for a while.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{Cluster, send};

/// How long the servers are frozen: several times what the mount waits before it looks at the program
/// that waits for it.
const FREEZE: Duration = Duration::from_secs(3);

#[test]
fn program_that_executes_another_meanwhile_goes_on_afterwards() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let path = cluster.mount().join("open");
    let file = File::create(&path)?;
    let servers = cluster.servers()?.into_iter();
    let pids: Vec<i32> = servers
        .filter(|server| server.role != "mount")
        .map(|server| server.pid)
        .collect();
    // Not by a program: it would be one that executes another meanwhile.
    let signal = |number| pids.iter().try_for_each(|pid| send(*pid, number));

    signal(libc::SIGSTOP)?;
    // On its way until a server answers.
    let mut same = file.try_clone()?;
    let writer = thread::spawn(move || same.write_all(b"not synced"));
    // In the middle of execve(2) it closes its copy of the file, which waits for the servers while
    // the kernel holds locks of the program.
    let program = thread::spawn(|| Command::new("true").status());
    thread::sleep(FREEZE);
    let was_waiting = !program.is_finished();
    signal(libc::SIGCONT)?;

    ensure!(was_waiting, "nothing waited for the servers");
    cluster.wait_for("the program", |_| Ok(program.is_finished()))?;
    ensure!(matches!(program.join(), Ok(Ok(status)) if status.success()));
    ensure!(matches!(writer.join(), Ok(Ok(()))));
    file.sync_all()?;
    ensure!(fs::read(&path)? == b"not synced");
    drop(file);
    cluster.wait_full()?;
    cluster.down()
}
