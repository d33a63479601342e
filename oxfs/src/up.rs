//! `oxfs up`: a whole cluster on this machine, in the foreground.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use shell::admin::Admin;
use shell::link::Role;
use shell::local::{LocalCluster, LocalServer, Process, ProcessId};

use crate::arguments::UpArguments;
use crate::config::LOOK_AGAIN;
use crate::launch::{self, Started};
use crate::quorum::Missing;
use crate::watch::{Watch, say};
use crate::{layout, mountpoint, ports, readiness, remount, start, try_this};

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
    let cluster = layout::open_or_make(&arguments.dir, arguments.single, arguments.store()?)?;
    let mut up = Up {
        cluster,
        point,
        children: Vec::new(),
        missing: Vec::new(),
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
        if let Err(error) = start::named(&cluster, &name) {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    let mounted = remount::if_dead(&cluster);
    if tried == 0 && !mounted.as_ref().is_ok_and(|mounted| *mounted) {
        say!("all servers of {shown} are running");
    }
    if !failed.is_empty() {
        failed = vec![format!(
            "{} of {tried} servers did not start: {}",
            failed.len(),
            failed.join("; ")
        )];
    }
    failed.extend(mounted.err().map(|error| format!("{error:#}")));
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{}", failed.join("; "))
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
    let _killed_then = cluster.take_killed();
    launch::tidy(cluster);
    Ok(())
}

/// A cluster that is being started, runs, or is being ended.
struct Up {
    cluster: LocalCluster,
    point: PathBuf,
    children: Vec<Started>,
    /// Servers without which it was started.
    missing: Vec<Missing>,
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
                let Self {
                    cluster,
                    point,
                    children,
                    missing,
                    restart,
                } = self;
                let mut watch = Watch::new(cluster, point, children, *restart, missing);
                watch.run(terminated).await;
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
            dir: self.point.clone(),
            process: ProcessId::of(std::process::id())?,
        };
        self.cluster
            .remember(&process)
            .context("can't write into the cluster's directory")
    }

    /// Starts all servers that can be started, and mounts, if they are enough.
    async fn start(&mut self) -> Result<()> {
        for server in self.cluster.servers() {
            let started = ports::check_free(&server.address)
                .and_then(|()| launch::server(&self.cluster, &server));
            match started {
                Ok(started) => self.children.push(started),
                Err(error) => self
                    .missing
                    .push(Missing::dead(&server, format!("{error:#}"))),
            }
        }
        let admin = Admin::new(
            self.cluster.identity(Role::Admin)?,
            self.cluster.mrc_addresses(),
        );
        let Self {
            cluster,
            children,
            missing,
            ..
        } = self;
        readiness::cluster(cluster, &admin, children, missing).await?;
        readiness::default_volume(&admin, missing).await?;
        let mut mounting = remount::begin(&self.cluster, &self.point)?;
        while !mounting.is_done()? {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.children.push(mounting.started);
        Ok(())
    }

    /// What is running, what is not, and what to try.
    fn tell(&self, begun: Instant) {
        for child in &self.children {
            say!("{}", start::line(child));
        }
        let dir = self.cluster.dir();
        for missing in &self.missing {
            say!("{}", missing.sentence(dir));
        }
        say!("ready after {:.1} s", begun.elapsed().as_secs_f64());
        say!("Try, in another terminal:");
        // The only one is missed.
        let single = self.cluster.servers().len() <= 2;
        let osd = self
            .children
            .iter()
            .find(|child| child.process.name == "osd-1");
        let osd = osd.filter(|_| !single && self.missing.is_empty());
        let osd = osd.map(|child| child.process.process.pid);
        for line in try_this::lines(dir, &self.point, osd) {
            say!("  {line}");
        }
        say!("Ctrl-C or `oxfs down --dir {}` ends it.", dir.display());
    }

    fn end(&mut self) -> Result<()> {
        let killed = launch::end_all(&self.cluster, &mut self.children);
        // For `oxfs down`, which may have asked.
        if !killed.is_empty() {
            self.cluster.note_killed(&killed);
        }
        self.cluster.forget("up");
        launch::check_killed(&killed)
    }
}
