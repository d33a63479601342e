//! Debian's etcd: three servers with their data in a temporary directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::etcd_api::Client;
use benches::process::{Guarded, TempDir, free_ports};

/// How long the ensemble may take to elect a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Servers.
const MEMBERS: usize = 3;
/// A file system in memory, where fsync costs nothing: this version has no switch for it.
const MEMORY: &str = "/dev/shm";

/// A running ensemble.
#[derive(Debug)]
pub(crate) struct Ensemble {
    servers: Vec<Guarded>,
    addresses: Vec<String>,
    _dir: TempDir,
}

/// Whether the package is installed.
pub(crate) fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("etcd").is_file())
}

impl Ensemble {
    /// Starts the servers and waits until each serves.
    pub(crate) async fn start(fsync: bool) -> Result<Self> {
        ensure!(is_installed(), "no etcd here: apt-get install etcd-server");
        let parent = if fsync {
            std::env::temp_dir()
        } else {
            MEMORY.into()
        };
        let dir = TempDir::new(&parent, "etcd")?;
        let ports = free_ports(2 * MEMBERS)?;
        let port = |at: usize| ports.get(at).copied().unwrap_or(0);
        let cluster: Vec<String> = (0..MEMBERS)
            .map(|at| format!("s{at}=http://127.0.0.1:{}", port(2 * at + 1)))
            .collect();
        let mut ensemble = Self {
            servers: Vec::new(),
            addresses: (0..MEMBERS)
                .map(|at| format!("127.0.0.1:{}", port(2 * at)))
                .collect(),
            _dir: dir,
        };
        for at in 0..MEMBERS {
            let home = ensemble._dir.path().join(format!("s{at}"));
            fs::create_dir_all(&home)?;
            let (client, peer) = (port(2 * at), port(2 * at + 1));
            let server = spawn(&home, at, client, peer, &cluster.join(","))?;
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
                let attempt = async { Client::connect(address).await?.grant(5).await };
                match tokio::time::timeout(Duration::from_secs(5), attempt).await {
                    Ok(Ok(_)) => break,
                    Ok(Err(_)) | Err(_) if Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Ok(Err(error)) => return Err(error.context("etcd did not start")),
                    Err(late) => return Err(late).context("etcd did not start"),
                }
            }
        }
        Ok(())
    }
}

fn spawn(home: &Path, at: usize, client: u16, peer: u16, cluster: &str) -> Result<Guarded> {
    let (client, peer) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    let log = fs::File::create(home.join("log"))?;
    let child = Command::new("etcd")
        .args(["--name", &format!("s{at}")])
        .arg("--data-dir")
        .arg(home.join("data"))
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", cluster])
        .args(["--initial-cluster-state", "new"])
        .args(["--log-level", "error"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting etcd; apt-get install etcd-server")?;
    Ok(Guarded::new(child))
}
