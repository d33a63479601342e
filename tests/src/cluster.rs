//! A cluster of processes with a mount, as `oxfs up` makes it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::program::{binary, run};

/// A step of starting, healing or ending a cluster that takes longer than this has failed. Far
/// above what it takes (2 s to 30 s), since the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One line of the status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// `mrc`, `osd` or `mount`.
    pub role: String,
    /// As `oxfs start` takes it: `mrc-1`.
    pub name: String,
    /// Process.
    pub pid: i32,
    /// What the cluster says of it.
    pub state: String,
    /// Its state directory.
    pub dir: PathBuf,
}

/// A running cluster; ends with the value.
#[derive(Debug)]
pub struct Cluster {
    home: tempfile::TempDir,
    up: Option<Child>,
    /// Further arguments of `oxfs up`.
    arguments: Vec<String>,
    further_mounts: Vec<PathBuf>,
}

impl Cluster {
    /// Starts 3 metadata servers, 3 object servers and a mount in a temporary directory.
    ///
    /// # Errors
    ///
    /// If it does not get usable; the message has what `oxfs up` wrote.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Cluster::start`], with further arguments of `oxfs up`.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub fn start_with(arguments: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("oxfs-test-").tempdir()?;
        std::fs::create_dir(home.path().join("mnt"))?;
        let mut cluster = Self {
            home,
            up: None,
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            further_mounts: Vec::new(),
        };
        cluster.up()?;
        Ok(cluster)
    }

    /// The cluster's directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.home.path().join("cluster")
    }

    /// The mount point.
    #[must_use]
    pub fn mount(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// A place outside the mount that vanishes with the cluster.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// Starts the processes; the cluster must not be running.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub fn up(&mut self) -> Result<()> {
        ensure!(self.up.is_none(), "the cluster is running");
        let log = self.home.path().join("up.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(binary("oxfs")?)
            .args(["up", "--dir"])
            .arg(self.dir())
            .arg("--mount")
            .arg(self.mount())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("oxfs up")?;
        self.up = Some(child);
        let ready = self.wait_for("the mount to be usable", |cluster| {
            if let Some(up) = &mut cluster.up
                && let Some(status) = up.try_wait()?
            {
                bail!("`oxfs up` ended with {status}");
            }
            Ok(is_mounted(&cluster.mount())?
                && cluster.status().is_ok_and(|status| {
                    status["servers"].as_array().is_some_and(|servers| {
                        servers.iter().any(|server| server["role"] == "mount")
                    })
                }))
        });
        ready.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())
    }

    /// Ends the processes as Ctrl-C does.
    ///
    /// # Errors
    ///
    /// If `oxfs up` does not end, or not with success.
    pub fn down(&mut self) -> Result<()> {
        let Some(mut up) = self.up.take() else {
            return Ok(());
        };
        send(up.id().cast_signed(), libc::SIGINT)?;
        let status = wait_exit(&mut up)?;
        ensure!(
            status.success(),
            "`oxfs up` ended with {status}: {}",
            self.log_tail()
        );
        Ok(())
    }

    /// What `oxfs up` has written, over all its starts.
    #[must_use]
    pub fn up_log(&self) -> String {
        self.log_tail()
    }

    /// Kills `oxfs up`, and nothing that it started.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn kill_up(&mut self) -> Result<()> {
        let mut up = self.up.take().context("`oxfs up` is not running")?;
        send(up.id().cast_signed(), libc::SIGKILL)?;
        up.wait()?;
        Ok(())
    }

    /// Ends everything with `oxfs down`, whoever of it still runs.
    ///
    /// # Errors
    ///
    /// What `oxfs down` says.
    pub fn down_by_command(&mut self) -> Result<String> {
        let program = binary("oxfs")?.display().to_string();
        let dir = self.dir().display().to_string();
        let said = run(self.home.path(), &program, &["down", "--dir", &dir])?;
        if let Some(mut up) = self.up.take() {
            wait_exit(&mut up)?;
        }
        Ok(said)
    }

    /// Kills every process of the cluster at once, the mount included, and cleans up the dead mount.
    ///
    /// # Errors
    ///
    /// If a process can't be signalled.
    pub fn kill_everything(&mut self) -> Result<()> {
        let servers = self.servers()?;
        if let Some(mut up) = self.up.take() {
            // First, so that it cannot tidy up after the others.
            send(up.id().cast_signed(), libc::SIGKILL)?;
            up.wait()?;
        }
        for server in &servers {
            send(server.pid, libc::SIGKILL)?;
        }
        for server in &servers {
            wait_gone(server.pid)?;
        }
        for mount in std::mem::take(&mut self.further_mounts) {
            unmount(&mount)?;
        }
        unmount(&self.mount())
    }

    /// Mounts the volume once more.
    ///
    /// # Errors
    ///
    /// If the mount does not appear.
    pub fn mount_again(&mut self, name: &str) -> Result<PathBuf> {
        self.mount_with(name, &[], &[])
    }

    /// As [`Cluster::mount_again`], by a program that runs the one behind its arguments.
    ///
    /// # Errors
    ///
    /// If the mount does not appear.
    pub fn mount_again_by(&mut self, name: &str, launcher: &[&str]) -> Result<PathBuf> {
        self.mount_with(name, launcher, &[])
    }

    /// Mounts the volume once more, with a program in front and further arguments of `oxfs mount`.
    ///
    /// # Errors
    ///
    /// If the mount does not appear.
    pub fn mount_with(
        &mut self,
        name: &str,
        launcher: &[&str],
        arguments: &[String],
    ) -> Result<PathBuf> {
        let point = self.home.path().join(name);
        std::fs::create_dir(&point)?;
        let mrcs = self
            .servers()?
            .into_iter()
            .filter(|server| server.role == "mrc");
        let status = self.status()?;
        let addresses: Vec<String> = status["servers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|server| server["role"] == "mrc")
            .filter_map(|server| server["address"].as_str().map(str::to_owned))
            .collect();
        ensure!(
            addresses.len() == mrcs.count(),
            "a metadata server without address: {status}"
        );
        let dir = self.dir();
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join(format!("{name}.log")))?;
        let program = binary("oxfs")?;
        let words = launcher.iter().map(OsStr::new);
        let mut words = words.chain([program.as_os_str()]);
        let first = words.next().context("no program")?;
        let status = Command::new(first)
            .args(words)
            .arg("mount")
            .arg(format!("{}/default", addresses.join(",")))
            .arg(&point)
            .arg("--dir")
            .arg(&dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()?;
        ensure!(
            status.success(),
            "`oxfs mount` ended with {status}: see {name}.log"
        );
        self.further_mounts.push(point.clone());
        let seen = point.clone();
        self.wait_for("the further mount", move |_| is_mounted(&seen))?;
        Ok(point)
    }

    /// `xfs-admin --output json status`.
    ///
    /// # Errors
    ///
    /// If the command fails or prints no JSON.
    pub fn status(&self) -> Result<Value> {
        let text = self.admin(&["--output", "json", "status"])?;
        serde_json::from_str(&text).with_context(|| format!("status is no JSON: {text}"))
    }

    /// Runs `xfs-admin` on this cluster.
    ///
    /// # Errors
    ///
    /// If the command fails.
    pub fn admin(&self, args: &[&str]) -> Result<String> {
        let program = binary("xfs-admin")?.display().to_string();
        let dir = self.dir().display().to_string();
        run(
            self.home.path(),
            &program,
            &[&["--dir", &dir], args].concat(),
        )
    }

    /// The servers and mounts of the status.
    ///
    /// # Errors
    ///
    /// As [`Cluster::status`], or if a line lacks what the format promises.
    pub fn servers(&self) -> Result<Vec<Server>> {
        let status = self.status()?;
        let servers = status["servers"]
            .as_array()
            .context("status has no servers")?;
        servers.iter().map(server).collect()
    }

    /// The server of this name (`osd-2`).
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn server(&self, name: &str) -> Result<Server> {
        let servers = self.servers()?;
        let found = servers.iter().find(|server| server.name == name).cloned();
        found.with_context(|| format!("no {name} among {servers:?}"))
    }

    /// Names of all servers of a role.
    ///
    /// # Errors
    ///
    /// As [`Cluster::servers`].
    pub fn names(&self, role: &str) -> Result<Vec<String>> {
        let servers = self.servers()?;
        Ok(servers
            .into_iter()
            .filter(|server| server.role == role)
            .map(|server| server.name)
            .collect())
    }

    /// Sends a signal to a server, by its pid in the status.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn signal(&self, name: &str, signal: i32) -> Result<()> {
        let server = self.server(name)?;
        match signal {
            libc::SIGKILL => kill(server.pid),
            signal => send(server.pid, signal),
        }
    }

    /// Sends a signal to a process of the cluster.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn signal_pid(&self, pid: i32, signal: i32) -> Result<()> {
        send(pid, signal)
    }

    /// Starts a server that is not running.
    ///
    /// # Errors
    ///
    /// What `oxfs start` says.
    pub fn start_server(&self, name: &str) -> Result<()> {
        let program = binary("oxfs")?.display().to_string();
        let dir = self.dir().display().to_string();
        run(self.home.path(), &program, &["start", "--dir", &dir, name])?;
        Ok(())
    }

    /// Starts a further object server.
    ///
    /// # Errors
    ///
    /// What `oxfs start` says.
    pub fn start_new_osd(&self) -> Result<()> {
        let program = binary("oxfs")?.display().to_string();
        let dir = self.dir().display().to_string();
        run(
            self.home.path(),
            &program,
            &["start", "--dir", &dir, "--new-osd"],
        )?;
        Ok(())
    }

    /// Starts a further metadata server, and returns its number and address as `xfs-admin mrc add`
    /// takes them.
    ///
    /// # Errors
    ///
    /// What `oxfs start` says.
    pub fn start_new_mrc(&self) -> Result<String> {
        let program = binary("oxfs")?.display().to_string();
        let dir = self.dir().display().to_string();
        let args = ["start", "--dir", &dir, "--new-mrc"];
        let said = run(self.home.path(), &program, &args)?;
        let mut words = said.split([' ', '`', '\n']);
        let server = words.find(|word| word.contains('='));
        server.map(str::to_owned).with_context(|| said.clone())
    }

    /// Waits until every placement group is full and every server is up.
    ///
    /// # Errors
    ///
    /// After the harness's patience; the message has the last status.
    pub fn wait_full(&mut self) -> Result<()> {
        let waited = self.wait_for("full redundancy", |cluster| {
            let Ok(status) = cluster.status() else {
                return Ok(false);
            };
            let groups = &status["placement_groups"];
            let servers = status["servers"].as_array().cloned().unwrap_or_default();
            let all_up = servers.iter().all(|server| {
                matches!(
                    server["state"].as_str(),
                    Some("leader" | "follower" | "up" | "active")
                )
            });
            Ok(all_up && groups["total"].as_u64() > Some(0) && groups["full"] == groups["total"])
        });
        waited.with_context(|| match self.status() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        })
    }

    /// Polls a condition until it holds.
    ///
    /// # Errors
    ///
    /// The condition's own error at once; otherwise after the harness's patience.
    pub fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if condition(self)? {
                return Ok(());
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        bail!("waited {PATIENCE:?} in vain for {what}")
    }

    fn log_tail(&self) -> String {
        std::fs::read_to_string(self.home.path().join("up.log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for mount in std::mem::take(&mut self.further_mounts) {
            unmount(&mount).ok();
        }
        // Frozen servers must run again to end.
        for server in self.servers().unwrap_or_default() {
            send(server.pid, libc::SIGCONT).ok();
        }
        // A test that succeeds ends its cluster itself.
        let failed = self.up.is_some();
        let ended = self.down();
        unmount(&self.mount()).ok();
        if failed || ended.is_err() {
            self.home.disable_cleanup(true);
            eprintln!(
                "the cluster's directory is kept: {} ({ended:?})",
                self.home.path().display()
            );
        }
    }
}

fn server(line: &Value) -> Result<Server> {
    let text = |key: &str| {
        line[key]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no {key} in {line}"))
    };
    let role = text("role")?;
    let name = match &line["id"] {
        Value::Number(id) => format!("{role}-{id}"),
        Value::String(id) => id.clone(),
        other => bail!("id {other} in {line}"),
    };
    let pid = line["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Ok(Server {
        name,
        pid: pid.with_context(|| format!("no pid in {line}"))?,
        state: text("state")?,
        dir: PathBuf::from(text("dir")?),
        role,
    })
}

fn is_mounted(point: &Path) -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let point = point.display().to_string();
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(&point)))
}

fn unmount(point: &Path) -> Result<()> {
    while is_mounted(point)? {
        run(
            Path::new("/"),
            "umount",
            &["-l", &point.display().to_string()],
        )?;
    }
    Ok(())
}

/// Kills a process that is not our child, and waits until it is gone.
///
/// # Errors
///
/// If it is not running.
pub fn kill(pid: i32) -> Result<()> {
    send(pid, libc::SIGKILL)?;
    wait_gone(pid)
}

/// Sends a signal to a process, without starting another: also while servers are frozen.
///
/// # Errors
///
/// If it is not running.
pub fn send(pid: i32, signal: i32) -> Result<()> {
    ensure!(pid > 1, "{pid} is no process of ours");
    #[expect(unsafe_code, reason = "signals have no safe interface in std")]
    // SAFETY: kill(2) touches no memory of this process.
    let answer = unsafe { libc::kill(pid, signal) };
    ensure!(
        answer == 0,
        "signal {signal} to {pid}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Waits until a process that is not our child is gone, or a zombie without other threads: until
/// then it has its ports and locks.
///
/// # Errors
///
/// After the harness's patience.
pub fn wait_gone(pid: i32) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return Ok(());
        };
        let rest = stat.rsplit(") ").next();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        if rest.is_some_and(|rest| rest.starts_with('Z')) && threads <= 1 {
            return Ok(());
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
    bail!("process {pid} does not end")
}

fn wait_exit(child: &mut Child) -> Result<std::process::ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
    child.kill()?;
    bail!("`oxfs up` does not end")
}
