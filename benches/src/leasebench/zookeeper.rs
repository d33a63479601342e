//! Debian's ZooKeeper: three servers with their data in a temporary directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::zk_session::Session;
use benches::process::{Guarded, TempDir, free_ports};

/// The package's jar; its manifest names all others.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// How long the ensemble may take to elect a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Servers.
const MEMBERS: usize = 3;

/// A running ensemble.
#[derive(Debug)]
pub(crate) struct Ensemble {
    servers: Vec<Guarded>,
    addresses: Vec<String>,
    _dir: TempDir,
}

/// Whether the package is installed.
pub(crate) fn is_installed() -> bool {
    Path::new(JAR).exists()
}

impl Ensemble {
    /// Starts the servers and waits until each takes sessions.
    pub(crate) async fn start(fsync: bool) -> Result<Self> {
        ensure!(
            is_installed(),
            "no ZooKeeper here: apt-get install zookeeper"
        );
        let dir = TempDir::new(&std::env::temp_dir(), "zookeeper")?;
        let ports = free_ports(3 * MEMBERS)?;
        let port = |at: usize| ports.get(at).copied().unwrap_or(0);
        let quorum: String = (0..MEMBERS)
            .map(|at| {
                let (peer, election) = (port(3 * at + 1), port(3 * at + 2));
                format!("server.{}=127.0.0.1:{peer}:{election}\n", at + 1)
            })
            .collect();
        let mut ensemble = Self {
            servers: Vec::new(),
            addresses: (0..MEMBERS)
                .map(|at| format!("127.0.0.1:{}", port(3 * at)))
                .collect(),
            _dir: dir,
        };
        for at in 0..MEMBERS {
            let home = ensemble._dir.path().join(format!("server-{}", at + 1));
            let server = spawn(&home, at + 1, port(3 * at), &quorum, fsync)?;
            ensemble.servers.push(server);
        }
        ensemble.wait().await?;
        Ok(ensemble)
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Guarded::pid).collect()
    }

    async fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for address in &self.addresses {
            loop {
                let attempt = async {
                    let session = Session::open(address, Duration::from_secs(10)).await?;
                    session.close().await
                };
                match attempt.await {
                    Ok(()) => break,
                    // An election closes what was just opened.
                    Err(_) if Instant::now() < deadline => {}
                    Err(error) => return Err(error.context("ZooKeeper did not start")),
                }
            }
        }
        Ok(())
    }
}

fn spawn(home: &Path, id: usize, port: u16, quorum: &str, fsync: bool) -> Result<Guarded> {
    fs::create_dir_all(home)?;
    fs::write(home.join("myid"), id.to_string())?;
    let config = home.join("zoo.cfg");
    // Short ticks, so that sessions may be as short as the leases they are compared with; a silent
    // follower is still waited for as long as with the default of 2 s.
    fs::write(
        &config,
        format!(
            "tickTime=500\ninitLimit=40\nsyncLimit=20\ndataDir={}\nclientPort={port}\n\
             clientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n{quorum}",
            home.display()
        ),
    )?;
    // On the class path, where it is looked for.
    fs::write(home.join("log4j.properties"), "log4j.rootLogger=OFF\n")?;
    let log = fs::File::create(home.join("log"))?;
    let child = Command::new("java")
        .arg("-Xmx1g")
        .arg(format!(
            "-Dzookeeper.forceSync={}",
            if fsync { "yes" } else { "no" }
        ))
        .arg("-cp")
        .arg(format!("{}:{JAR}", home.display()))
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting java; apt-get install default-jre-headless")?;
    Ok(Guarded::new(child))
}
