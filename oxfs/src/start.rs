//! `oxfs start`: one server of a running cluster, after it was killed, or a further one.

use anyhow::{Context as _, Result, bail};
use shell::local::{LocalCluster, LocalServer};

use crate::arguments::StartArguments;
use crate::{launch, layout, ports, readiness};

/// Starts the server, or a further one, and waits until it answers.
pub(crate) fn run(arguments: &StartArguments) -> Result<()> {
    let cluster = LocalCluster::open(&arguments.dir)?;
    let Some(name) = &arguments.server else {
        let port = ports::choose(1)?.pop().context("no port is free")?;
        let address = format!("127.0.0.1:{port}");
        let (cluster, server) = match arguments.new_mrc {
            true => cluster.add_mrc(address)?,
            false => cluster.add_osd(address)?,
        };
        start(&cluster, &server)?;
        if arguments.new_mrc {
            let (id, address) = (server.id, &server.address);
            println!("make it a member with `xfs-admin mrc add {id}={address}`");
        }
        return Ok(());
    };
    named(&cluster, name)
}

/// Starts the server of this name, and waits until it answers.
pub(crate) fn named(cluster: &LocalCluster, name: &str) -> Result<()> {
    start(cluster, &find(cluster, name)?)
}

fn start(cluster: &LocalCluster, server: &LocalServer) -> Result<()> {
    let name = &server.name();
    if let Some(running) = cluster.running(name) {
        let pid = running.process.pid;
        if running.process.is_frozen() {
            bail!("{name} is running as pid {pid}, but frozen; run `kill -CONT {pid}`");
        }
        bail!("{name} is running already, as pid {pid}");
    }
    ports::check_free(&server.address).with_context(|| name.clone())?;
    layout::write_config(cluster, server)?;
    let mut started = launch::server(cluster, server)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    runtime.block_on(readiness::server(cluster, server, &mut started))?;
    println!("{}", line(&started));
    Ok(())
}

fn find(cluster: &LocalCluster, name: &str) -> Result<LocalServer> {
    let servers = cluster.servers();
    let names: Vec<String> = servers.iter().map(LocalServer::name).collect();
    servers
        .into_iter()
        .find(|server| server.name() == name)
        .with_context(|| {
            format!(
                "{} has no server {name}; it has {}",
                cluster.dir().display(),
                names.join(", ")
            )
        })
}

/// What is told about a process that was started.
pub(crate) fn line(started: &launch::Started) -> String {
    let process = &started.process;
    format!(
        "{:<14} pid {:<8} {:<17} {}",
        process.name,
        process.process.pid,
        process.address,
        process.dir.display()
    )
}
