//! The processes: servers and mounts, each in its namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value;

use crate::command;
use crate::network::Network;
use crate::node::{Kind, Node};

/// The volume that is mounted.
pub(crate) const VOLUME: &str = "default";

/// Until a process that was asked to end is killed: far more than a busy machine needs.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at processes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What `pg list` says of a placement group, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Group {
    pg: u64,
    osds: Vec<u64>,
    previous: Vec<u64>,
}

/// A cluster; its processes end with the value.
#[derive(Debug)]
pub(crate) struct Cluster {
    home: PathBuf,
    cluster: String,
    network: Network,
    servers: Vec<Node>,
    running: BTreeMap<Node, Child>,
}

impl Cluster {
    /// Writes the configuration of a new cluster. Nothing is started yet.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn new(home: &Path, network: Network, seed: u64) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let cluster = Self {
            home: home.to_owned(),
            cluster: format!("{:032x}", rng.random::<u128>()),
            network,
            servers: Node::servers(),
            running: BTreeMap::new(),
        };
        for dir in ["config", "logs"] {
            fs::create_dir_all(home.join(dir))?;
        }
        for node in Node::all() {
            fs::create_dir_all(cluster.dir(node))?;
        }
        let secret = format!(
            "{:032x}{:032x}\n",
            rng.random::<u128>(),
            rng.random::<u128>()
        );
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(cluster.secret())?;
        std::io::Write::write_all(&mut file, secret.as_bytes())?;
        for node in Node::servers().into_iter().chain([Node::SPARE]) {
            fs::write(cluster.config(node), cluster.config_text(node))?;
        }
        Ok(cluster)
    }

    /// From now on the spare object server is one of the cluster's.
    pub(crate) fn add_spare(&mut self) {
        self.servers.push(Node::SPARE);
    }

    /// The cluster's servers, metadata servers first.
    pub(crate) fn servers(&self) -> Vec<Node> {
        self.servers.clone()
    }

    /// State directory of a server, or mount point.
    pub(crate) fn dir(&self, node: Node) -> PathBuf {
        self.home.join(node.to_string())
    }

    /// Removes what a server that does not run has stored; the directory may be a disk of its own.
    ///
    /// # Errors
    ///
    /// Of the file system; if it runs.
    pub(crate) fn empty_dir(&self, node: Node) -> Result<()> {
        ensure!(self.pid(node).is_none(), "{node} is running");
        for entry in fs::read_dir(self.dir(node))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The network, to be cut.
    pub(crate) const fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// Process of a node that was started.
    pub(crate) fn pid(&self, node: Node) -> Option<u32> {
        self.running.get(&node).map(Child::id)
    }

    /// Starts a server or mount.
    ///
    /// # Errors
    ///
    /// If it runs already or can't be started.
    pub(crate) fn start(&mut self, node: Node) -> Result<()> {
        self.start_by(node, &[])
    }

    /// Starts a server whose system calls of some names are tampered with, as `strace -e` takes it.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub(crate) fn start_traced(&mut self, node: Node, calls: &str, inject: &str) -> Result<()> {
        let trace = format!("trace={calls}");
        // The tracer is a grandchild: the child is the server, to be signalled and waited for.
        let strace = ["strace", "-D", "-f", "-q", "-o", "/dev/null"];
        self.start_by(node, &[&strace[..], &["-e", &trace, "-e", inject]].concat())
    }

    fn start_by(&mut self, node: Node, tracer: &[&str]) -> Result<()> {
        ensure!(!self.running.contains_key(&node), "{node} is running");
        let program = tests::binary("oxfs")?.display().to_string();
        let dir = self.dir(node).display().to_string();
        let mut words = self.network.inside(Some(node));
        words.extend(tracer.iter().map(|word| (*word).to_owned()));
        words.push(program);
        match node.kind {
            Kind::Mrc | Kind::Osd => {
                let config = self.config(node).display().to_string();
                words.extend([node.kind.to_string(), "--config".to_owned(), config]);
            }
            Kind::Mount => {
                let what = format!("{}/{VOLUME}", mrc_addresses().join(","));
                words.extend(["mount", "--foreground", &what, &dir].map(str::to_owned));
                // Registers are about what was written last, not about a moment ago.
                words.extend(["-o", "read_ahead_age_ms=0"].map(str::to_owned));
                words.extend(self.membership());
            }
        }
        let log = self.log(node);
        let output = File::options().create(true).append(true).open(log)?;
        // Should this program be killed, its processes go with it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(&words)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C is for this program, which ends the others in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {node}"))?;
        self.running.insert(node, child);
        Ok(())
    }

    /// Sends a signal to a node.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub(crate) fn signal(&self, node: Node, signal: Signal) -> Result<()> {
        let pid = self
            .pid(node)
            .with_context(|| format!("{node} is not running"))?;
        // The child is not reaped before it leaves the table, so its pid can't be another's.
        kill(Pid::from_raw(pid.cast_signed()), signal)
            .with_context(|| format!("{signal} to {node}"))
    }

    /// Kills a node and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub(crate) fn kill(&mut self, node: Node) -> Result<()> {
        let mut child = self
            .running
            .remove(&node)
            .with_context(|| format!("{node} is not running"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// How much a node has written to its log so far.
    pub(crate) fn log_bytes(&self, node: Node) -> u64 {
        fs::metadata(self.log(node)).map_or(0, |log| log.len())
    }

    /// How often a text is in a server's log, from a place on.
    pub(crate) fn log_has(&self, node: Node, from_bytes: u64, text: &str) -> usize {
        let log = fs::read(self.log(node)).unwrap_or_default();
        let from = usize::try_from(from_bytes).unwrap_or(usize::MAX);
        let log = String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned();
        log.matches(text).count()
    }

    /// Lets a server that is not started yet work in one thread of each kind, so that its steps come in
    /// one order.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn use_few_threads(&self, node: Node) -> Result<()> {
        if node.kind == Kind::Osd {
            let text = self.config_text(node) + "shards = 1\nsync_threads = 1\n";
            fs::write(self.config(node), text)?;
        }
        Ok(())
    }

    /// Nodes that ended although nobody asked them to.
    pub(crate) fn take_ended(&mut self) -> Vec<(Node, ExitStatus)> {
        let mut ended = Vec::new();
        for (node, child) in &mut self.running {
            if let Ok(Some(status)) = child.try_wait() {
                ended.push((*node, status));
            }
        }
        for (node, _) in &ended {
            self.running.remove(node);
        }
        ended
    }

    /// Asks nodes to end and waits for them. Those that had to be killed.
    ///
    /// # Errors
    ///
    /// If a process can't be waited for.
    pub(crate) fn stop(&mut self, nodes: &[Node]) -> Result<Vec<Node>> {
        for node in nodes {
            if self.running.contains_key(node) {
                self.signal(*node, Signal::SIGTERM)?;
                // A frozen process can't end.
                self.signal(*node, Signal::SIGCONT)?;
            }
        }
        let asked = Instant::now();
        let mut killed = Vec::new();
        for node in nodes {
            while let Some(child) = self.running.get_mut(node) {
                if child.try_wait()?.is_some() {
                    self.running.remove(node);
                } else if asked.elapsed() > STOP_PATIENCE {
                    self.kill(*node)?;
                    killed.push(*node);
                } else {
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
        }
        Ok(killed)
    }

    /// Makes the volume.
    ///
    /// # Errors
    ///
    /// What `xfs-admin` said.
    pub(crate) fn make_volume(&self) -> Result<()> {
        self.admin(&["volume", "create", VOLUME]).map(drop)
    }

    /// What the cluster says of itself.
    ///
    /// # Errors
    ///
    /// What `xfs-admin` said.
    pub(crate) fn status(&self) -> Result<Value> {
        let text = self.admin(&["--output", "json", "status"])?;
        serde_json::from_str(&text).with_context(|| format!("status is no JSON: {text}"))
    }

    /// Whether every server serves, and, if asked for, everything has all its replicas.
    pub(crate) fn are_all_up(&self, full: bool) -> bool {
        let Ok(status) = self.status() else {
            return false;
        };
        let servers = status["servers"].as_array().cloned().unwrap_or_default();
        let up = servers.iter().filter(|server| {
            server["role"] != "mount"
                && matches!(
                    server["state"].as_str(),
                    Some("leader" | "follower" | "up" | "active")
                )
        });
        let groups = &status["placement_groups"];
        let is_full = groups["total"].as_u64() > Some(0) && groups["full"] == groups["total"];
        up.count() == self.servers.len() && (!full || is_full)
    }

    /// The replica sets of the volume's placement groups; none if one is just changing.
    ///
    /// # Errors
    ///
    /// What `xfs-admin` said.
    pub(crate) fn replica_sets(&self) -> Result<Option<BTreeMap<u64, Vec<u64>>>> {
        let text = self.admin(&["--output", "json", "pg", "list", "--volume", VOLUME])?;
        let groups: Vec<Group> =
            serde_json::from_str(&text).with_context(|| format!("not understood: {text}"))?;
        let settled = groups.iter().all(|group| group.previous.is_empty());
        let sets = groups.into_iter().map(|group| (group.pg, group.osds));
        Ok(settled.then(|| sets.collect()))
    }

    /// The metadata leader.
    ///
    /// # Errors
    ///
    /// What `xfs-admin` said; if there is none.
    pub(crate) fn leader(&self) -> Result<Node> {
        let status = self.status()?;
        let servers = status["servers"].as_array().context("no servers")?;
        let leader = servers.iter().find(|server| server["state"] == "leader");
        let leader = leader.context("the metadata servers have no leader")?;
        let id = leader["id"].as_u64().and_then(|id| u8::try_from(id).ok());
        Ok(Node::mrc(id.context("the leader has no number")?))
    }

    /// Runs `xfs-admin` where all servers can be reached.
    ///
    /// # Errors
    ///
    /// What it said.
    pub(crate) fn admin(&self, words: &[&str]) -> Result<String> {
        let line = self.admin_line(words)?;
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        command::fed(&line, "")
    }

    /// Starts the same without waiting for its end.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub(crate) fn start_admin(&self, words: &[&str]) -> Result<Child> {
        let line = self.admin_line(words)?;
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(&line)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("can't start xfs-admin")
    }

    fn admin_line(&self, words: &[&str]) -> Result<Vec<String>> {
        let mut line = self.network.inside(None);
        line.push(tests::binary("xfs-admin")?.display().to_string());
        line.extend(["--mrc".to_owned(), mrc_addresses().join(",")]);
        line.extend(self.membership());
        line.extend(words.iter().map(|word| (*word).to_owned()));
        Ok(line)
    }

    /// Whether a mount can be used.
    ///
    /// # Errors
    ///
    /// If its process has ended.
    pub(crate) fn is_mounted(&mut self, mount: Node) -> Result<bool> {
        let child = self.running.get_mut(&mount).context("it was not started")?;
        if let Some(status) = child.try_wait()? {
            bail!("{mount} ended with {status}; see logs/{mount}.log");
        }
        let point = self.dir(mount).display().to_string();
        Ok(is_mount_point(&point)?)
    }

    fn log(&self, node: Node) -> PathBuf {
        self.home.join("logs").join(format!("{node}.log"))
    }

    fn secret(&self) -> PathBuf {
        self.home.join("secret")
    }

    fn config(&self, node: Node) -> PathBuf {
        self.home.join("config").join(format!("{node}.toml"))
    }

    fn membership(&self) -> [String; 4] {
        [
            "--cluster".to_owned(),
            self.cluster.clone(),
            "--secret-file".to_owned(),
            self.secret().display().to_string(),
        ]
    }

    fn config_text(&self, node: Node) -> String {
        let mut text = format!(
            "cluster = {:?}\nsecret_file = {:?}\nid = {}\nlisten = {:?}\ndir = {:?}\n\
             insecure_network = true\n",
            self.cluster,
            self.secret(),
            node.number,
            node.address(),
            self.dir(node)
        );
        if node.kind == Kind::Osd {
            text.push_str(&format!("mrc = {:?}\n", mrc_addresses()));
            return text;
        }
        for mrc in Node::servers()
            .into_iter()
            .filter(|it| it.kind == Kind::Mrc)
        {
            let (number, address) = (mrc.number, mrc.address());
            text.push_str(&format!(
                "[[members]]\nid = {number}\naddress = {address:?}\n"
            ));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, child) in std::mem::take(&mut self.running).iter_mut().rev() {
            // Whether it had ended already does not matter.
            let _ = child.kill();
            let _ = child.wait();
        }
        for mount in Node::mounts() {
            let point = self.dir(mount).display().to_string();
            while is_mount_point(&point).unwrap_or(false) {
                if let Err(error) = command::fed(&["umount", "-l", &point], "") {
                    eprintln!("{error:#}");
                    break;
                }
            }
        }
    }
}

fn mrc_addresses() -> Vec<String> {
    let servers = Node::servers().into_iter();
    servers
        .filter(|it| it.kind == Kind::Mrc)
        .map(Node::address)
        .collect()
}

fn is_mount_point(point: &str) -> std::io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(point)))
}
