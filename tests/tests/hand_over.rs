//! A leading metadata server is stopped while another one is frozen, which may be the one it offers the lead to.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, Server, send, wait_gone};

fn log_of(server: &Server) -> Result<String> {
    let name = server.dir.file_name().context("no name")?.to_string_lossy();
    let log = server
        .dir
        .with_file_name("logs")
        .join(format!("{name}.log"));
    Ok(fs::read_to_string(log)?)
}

/// The leader and the others, when all three know who leads.
fn by_role(cluster: &mut Cluster) -> Result<(Server, Vec<Server>)> {
    cluster.wait_full()?;
    let servers = cluster.servers()?.into_iter();
    let (leaders, followers): (Vec<_>, Vec<_>) = servers
        .filter(|it| it.role == "mrc")
        .partition(|it| it.state == "leader");
    ensure!(followers.len() == 2, "{followers:?}");
    let leader = leaders.into_iter().next();
    Ok((leader.context("nobody leads")?, followers))
}

#[test]
fn lead_goes_to_the_other_if_one_is_frozen() -> Result<()> {
    // One of the two is the first that is asked: which, nobody knows here.
    for frozen in 0..2 {
        // Anew: a server that was just started neither votes nor stands until a lease has passed.
        let mut cluster = Cluster::start()?;
        let (leader, mut followers) = by_role(&mut cluster)?;
        followers.sort_by(|one, other| one.name.cmp(&other.name));
        let said_before = log_of(&leader)?.len();

        send(followers[frozen].pid, libc::SIGSTOP)?;
        send(leader.pid, libc::SIGTERM)?;
        let ended = wait_gone(leader.pid);
        send(followers[frozen].pid, libc::SIGCONT)?;

        ended?;
        fs::create_dir(cluster.mount().join(frozen.to_string()))?;
        let said = log_of(&leader)?;
        let said = said.get(said_before..).unwrap_or_default();
        ensure!(said.contains("another metadata server leads now"), "{said}");
        cluster.start_server(&leader.name)?;
        cluster.wait_full()?;
        cluster.down()?;
    }
    Ok(())
}
