//! `oxfs up`: a whole cluster on this machine, in the foreground.

use std::ffi::OsStr;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use shell::admin::Admin;
use shell::link::Role;
use shell::local::{LocalCluster, LocalServer, Process, ProcessId};

use crate::arguments::UpArguments;
use crate::config::{DEFAULT_VOLUME, LOOK_AGAIN, READY_PATIENCE, RESTART_PAUSE, WATCH_INTERVAL};
use crate::launch::{self, Started};
use crate::{layout, mountpoint, ports, readiness, start};

/// Prints a line. Nobody reading it any more is no reason to leave a cluster behind.
macro_rules! say {
    ($($arguments:tt)*) => {
        let _ = writeln!(std::io::stdout(), $($arguments)*);
    };
}

/// Starts everything, waits for the signal to end, ends everything.
pub(crate) fn run(arguments: &UpArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let Some(_lock) = layout::take(&arguments.dir)? else {
        return already_running(arguments);
    };
    let Some(point) = &arguments.mount else {
        let shown = arguments.dir.display();
        if arguments.dir.join("cluster.toml").exists() {
            clear_remains(&LocalCluster::open(&arguments.dir)?)?;
        }
        bail!("{shown} is not running; give --mount MNT to start it");
    };
    if arguments.dir.join("cluster.toml").exists() {
        clear_remains(&LocalCluster::open(&arguments.dir)?)?;
    }
    let point = mountpoint::check(point)?;
    let cluster = layout::open_or_make(&arguments.dir, arguments.single)?;
    let mut up = Up {
        cluster,
        point,
        children: Vec::new(),
        restart: arguments.restart,
    };
    runtime.block_on(up.run())
}

/// With `--restart`, starts what is dead in a cluster that another `up` looks after.
fn already_running(arguments: &UpArguments) -> Result<()> {
    let cluster = LocalCluster::open(&arguments.dir)?;
    let shown = cluster.dir().display();
    if !arguments.restart {
        let pid = cluster.running("up").map_or(0, |up| up.process.pid);
        bail!(
            "{shown} is running already (`oxfs up` has pid {pid}); end it with \
             `oxfs down --dir {shown}`, or start dead servers with `oxfs up --restart --dir {shown}`"
        );
    }
    let servers = cluster.servers();
    let dead = servers
        .iter()
        .map(LocalServer::name)
        .filter(|name| cluster.running(name).is_none());
    let (mut tried, mut failed) = (0, Vec::new());
    for name in dead {
        tried += 1;
        // The others are tried all the same.
        if let Err(error) = start::run(cluster.dir(), &name) {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    if tried == 0 {
        say!("all servers of {shown} are running");
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {tried} servers did not start: {}",
        failed.len(),
        failed.join("; ")
    )
}

/// What an `up` that was killed left running must end first; what it left lying is cleared away.
fn clear_remains(cluster: &LocalCluster) -> Result<()> {
    let running: Vec<String> = cluster
        .processes()
        .iter()
        .filter(|process| process.process.is_running())
        .map(|process| format!("{} (pid {})", process.name, process.process.pid))
        .collect();
    if !running.is_empty() {
        let shown = cluster.dir().display();
        bail!(
            "{shown} is still running though its `oxfs up` is gone: {}; end it with \
             `oxfs down --dir {shown}`",
            running.join(", ")
        );
    }
    launch::tidy(cluster);
    Ok(())
}

/// A cluster that is being started, runs, or is being ended.
struct Up {
    cluster: LocalCluster,
    point: PathBuf,
    children: Vec<Started>,
    restart: bool,
}

impl Up {
    async fn run(&mut self) -> Result<()> {
        let mut hangups = shell::signals::Hangups::new()?;
        let terminated = shell::signals::termination()?;
        let mut terminated = std::pin::pin!(async move {
            tokio::select! {
                () = terminated => {}
                // The terminal was closed.
                () = hangups.next() => {}
            }
        });
        let begun = Instant::now();
        self.remember_myself()?;
        let started = tokio::select! {
            started = self.start() => started.map(|()| true),
            () = &mut terminated => Ok(false),
        };
        let outcome = match started {
            Ok(true) => {
                self.tell(begun);
                self.watch(terminated).await;
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        let ended = self.end();
        outcome.and(ended)
    }

    fn remember_myself(&self) -> Result<()> {
        let process = Process {
            name: "up".to_owned(),
            role: "up".to_owned(),
            id: 0,
            address: String::new(),
            dir: self.cluster.dir().to_owned(),
            process: ProcessId::of(std::process::id())?,
        };
        self.cluster
            .remember(&process)
            .context("can't write into the cluster's directory")
    }

    async fn start(&mut self) -> Result<()> {
        let servers = self.cluster.servers();
        for server in &servers {
            ports::check_free(&server.name(), &server.address)?;
        }
        for server in &servers {
            let started = launch::server(&self.cluster, server)?;
            self.children.push(started);
        }
        let admin = Admin::new(
            self.cluster.identity(Role::Admin)?,
            self.cluster.mrc_addresses(),
        );
        readiness::cluster(&self.cluster, &admin, &mut self.children).await?;
        readiness::default_volume(&admin).await?;
        self.mount().await
    }

    async fn mount(&mut self) -> Result<()> {
        let what = format!(
            "{}/{DEFAULT_VOLUME}",
            self.cluster.mrc_addresses().join(",")
        );
        let arguments = [
            OsStr::new(&what),
            self.point.as_os_str(),
            OsStr::new("--dir"),
            self.cluster.dir().as_os_str(),
        ];
        let started = launch::mount(&arguments, self.cluster.log_file("mount"), &self.point)?;
        self.cluster.remember(&started.process)?;
        self.children.push(started);
        let begun = Instant::now();
        while !mountpoint::is_mounted(&self.point)? {
            readiness::check_alive(&mut self.children)?;
            if begun.elapsed() > READY_PATIENCE {
                bail!(
                    "{} is not mounted after {} s; see {}",
                    self.point.display(),
                    READY_PATIENCE.as_secs(),
                    self.cluster.log_file("mount").display()
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// What is running and what to try.
    fn tell(&self, begun: Instant) {
        for child in &self.children {
            say!("{}", start::line(child));
        }
        let (dir, point) = (self.cluster.dir().display(), self.point.display());
        say!(
            "ready after {:.1} s. Try, in another terminal:",
            begun.elapsed().as_secs_f64()
        );
        say!("  cp -r /etc/. {point}/ ; ls -l {point}");
        say!("  xfs-admin --dir {dir} status");
        // The only one is missed.
        if self.cluster.servers().len() > 2 {
            say!("  kill -9 {}      # nothing stops", self.example_pid());
            say!("  oxfs start --dir {dir} osd-1");
        }
        say!("Ctrl-C or `oxfs down --dir {dir}` ends it.");
    }

    fn example_pid(&self) -> u32 {
        let osd = self
            .children
            .iter()
            .find(|child| child.process.name == "osd-1");
        osd.map_or(0, |child| child.process.process.pid)
    }

    /// Until the signal to end, says which processes die, and starts them again if so asked.
    async fn watch(&mut self, mut terminated: std::pin::Pin<&mut impl Future<Output = ()>>) {
        let servers = self.cluster.servers();
        let mut dead: Vec<(String, Instant)> = Vec::new();
        loop {
            tokio::select! {
                () = terminated.as_mut() => return,
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
            for child in &mut self.children {
                child.ended();
            }
            for server in &servers {
                self.look_at(server, &mut dead);
            }
            self.look_at_mount(&mut dead);
        }
    }

    fn look_at(&mut self, server: &LocalServer, dead: &mut Vec<(String, Instant)>) {
        let name = server.name();
        if self.cluster.running(&name).is_some() {
            if dead.iter().any(|(other, _)| *other == name) {
                dead.retain(|(other, _)| *other != name);
                say!("{name} is running again");
            }
            return;
        }
        let known = dead
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, since)| *since);
        let Some(since) = known else {
            let remedy = if self.restart {
                "starting it again".to_owned()
            } else {
                format!(
                    "start it with `oxfs start --dir {} {name}`",
                    self.cluster.dir().display()
                )
            };
            say!("{name} died{}; {remedy}", self.how_it_died(&name));
            dead.push((name, Instant::now()));
            return;
        };
        if self.restart && since.elapsed() >= RESTART_PAUSE {
            dead.retain(|(other, _)| *other != name);
            match launch::server(&self.cluster, server) {
                Ok(started) => {
                    say!("{}", start::line(&started));
                    self.children.retain(|child| child.process.name != name);
                    self.children.push(started);
                }
                Err(error) => {
                    say!("{error:#}");
                    dead.push((name, Instant::now()));
                }
            }
        }
    }

    fn how_it_died(&mut self, name: &str) -> String {
        let child = self
            .children
            .iter_mut()
            .find(|child| child.process.name == name);
        child
            .and_then(Started::ended)
            .map(|status| format!(" ({status})"))
            .unwrap_or_default()
    }

    fn look_at_mount(&mut self, dead: &mut Vec<(String, Instant)>) {
        let Some(mount) = self
            .children
            .iter_mut()
            .find(|child| child.process.role == "mount")
        else {
            return;
        };
        let Some(status) = mount.ended() else {
            return;
        };
        let name = mount.process.name.clone();
        if dead.iter().any(|(other, _)| *other == name) {
            return;
        }
        let words = mount
            .error()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        say!(
            "the mount on {} ended ({status}){words}",
            self.point.display()
        );
        dead.push((name, Instant::now()));
    }

    fn end(&mut self) -> Result<()> {
        let killed = launch::end_all(&self.cluster, &mut self.children);
        self.cluster.forget("up");
        if killed.is_empty() {
            return Ok(());
        }
        bail!(
            "{} did not end when asked and had to be killed",
            killed.join(", ")
        )
    }
}
