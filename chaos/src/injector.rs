//! Begins and heals faults at their times, and starts again what ended by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::cluster::{Cluster, VOLUME};
use crate::command;
use crate::disk::Disk;
use crate::errands::Errands;
use crate::fault::{Fault, Happened, Planned};
use crate::history::now_ns;
use crate::node::{Kind, Node};
use crate::rot::{self, Flip};
use crate::violation::Violation;

/// Times a server that ends by itself is started again in a run: more say nothing new.
const RESTARTS_MAX: u32 = 10;

/// Every way to sync.
pub(crate) const SYNCS: &str = "fsync,fdatasync,syncfs";

/// What a metadata server says whose files are damaged.
const DAMAGED: &str = "remove this server's directory and start it again";

/// What an object server says that does not trust its disk any more.
pub(crate) const STOPPED: &str = "until the server is restarted";

/// The cluster with what is being done to it.
#[derive(Debug)]
pub(crate) struct Injector {
    /// The processes.
    pub(crate) cluster: Cluster,
    /// The disks that can be filled.
    disks: BTreeMap<Node, Disk>,
    rng: ChaCha8Rng,
    active: Vec<Active>,
    /// Servers that ended while their disk was full.
    ended_full: Vec<Node>,
    /// Metadata servers in whose files bits were flipped, and where their logs began to be about that.
    rotten: BTreeMap<Node, u64>,
    restarts: u32,
    errands: Errands,
    /// What was done.
    pub(crate) done: Done,
}

/// What was done to a cluster.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Faults that are over.
    pub(crate) happened: Vec<Happened>,
    /// Everything in order, for people.
    pub(crate) log: Vec<Line>,
    /// Bytes that were changed.
    pub(crate) flips: Vec<Flip>,
    /// The same in files of metadata servers.
    pub(crate) flips_mrc: Vec<Flip>,
    /// Metadata servers that ended for that and were given an empty directory.
    pub(crate) rebuilt: u32,
    /// Servers that ended by themselves.
    pub(crate) violations: Vec<Violation>,
}

/// A line of the log of faults.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// When, by the history's clock.
    at_ns: u64,
    /// What.
    what: String,
}

#[derive(Debug)]
struct Active {
    planned: Planned,
    began_ns: u64,
    /// Where the log of a server with a full disk begins to be about that.
    log_bytes: u64,
    /// The tool that slows a server down.
    tracer: Option<Child>,
}

impl Injector {
    /// Takes over a cluster.
    pub(crate) fn new(cluster: Cluster, seed: u64) -> Self {
        Self {
            cluster,
            disks: BTreeMap::new(),
            rng: ChaCha8Rng::seed_from_u64(!seed),
            active: Vec::new(),
            ended_full: Vec::new(),
            rotten: BTreeMap::new(),
            restarts: 0,
            errands: Errands::default(),
            done: Done::default(),
        }
    }

    /// Gives a server that is not started yet a disk of its own, which can be filled.
    ///
    /// # Errors
    ///
    /// What the tools said.
    pub(crate) fn add_small_disk(&mut self, node: Node) -> Result<()> {
        let disk = Disk::new(&self.cluster.dir(node))?;
        self.disks.insert(node, disk);
        Ok(())
    }

    /// The earliest end of a fault that lasts.
    pub(crate) fn next_end_ms(&self) -> Option<u64> {
        self.active.iter().map(|it| it.planned.until_ms).min()
    }

    /// Begins a fault.
    ///
    /// # Errors
    ///
    /// If the tools fail; not if a server has ended by itself.
    pub(crate) fn begin(&mut self, planned: Planned) -> Result<()> {
        let now_ns = now_ns();
        let text = serde_json::to_string(&planned.fault)?;
        self.note(now_ns, format!("begin {text}"));
        let mut tracer = None;
        let mut log_bytes = 0;
        match &planned.fault {
            Fault::Kill(_) | Fault::KillAll | Fault::Power => {
                for node in planned.fault.kills(&self.cluster.servers()) {
                    if self.cluster.pid(node).is_some() {
                        self.cluster.kill(node)?;
                    }
                }
            }
            Fault::Freeze(node) => self.signal(*node, Signal::SIGSTOP),
            Fault::Full(node) => {
                let disk = self
                    .disks
                    .get(node)
                    .context("a server without small disk")?;
                log_bytes = self.cluster.log_bytes(*node);
                disk.fill()?;
            }
            Fault::SlowSync(node, delay_ms) => {
                let inject = format!("inject={SYNCS}:delay_enter={delay_ms}ms");
                tracer = self.trace(*node, SYNCS, &inject, Path::new("/dev/null"))?;
            }
            Fault::Rot(node, count) => {
                let flips = rot::flip(&self.cluster.dir(*node), *count, &mut self.rng)?;
                self.note(now_ns, format!("flipped {flips:?}"));
                self.done.flips.extend(flips);
            }
            Fault::RotStopped(node, part, count) => {
                if self.cluster.pid(*node).is_some() {
                    self.cluster.kill(*node)?;
                }
                let log_bytes = self.cluster.log_bytes(*node);
                let dir = self.cluster.dir(*node);
                let flips = rot::flip_stopped(&dir, *part, *count, &mut self.rng)?;
                self.note(now_ns, format!("flipped {flips:?}"));
                self.done.flips_mrc.extend(flips);
                self.rotten.entry(*node).or_insert(log_bytes);
            }
            Fault::Drain(node) => {
                let number = node.number.to_string();
                self.errands.add(&["osd", "drain", "--no-wait", &number])?;
            }
            Fault::Policy(policy, quorum) => self.set_policy(policy, quorum)?,
            Fault::Isolate(_) | Fault::Cut(..) | Fault::CutOneWay(..) | Fault::Loss(..) => {}
        }
        self.active.push(Active {
            planned,
            began_ns: now_ns,
            log_bytes,
            tracer,
        });
        self.filter()
    }

    /// Heals all faults whose end has come.
    ///
    /// # Errors
    ///
    /// If the tools fail.
    pub(crate) fn heal(&mut self, until_ms: u64) -> Result<()> {
        while let Some(at) = self
            .active
            .iter()
            .position(|it| it.planned.until_ms <= until_ms)
        {
            let mut over = self.active.remove(at);
            match &over.planned.fault {
                Fault::Kill(_) | Fault::KillAll | Fault::Power | Fault::RotStopped(..) => {
                    for node in over.planned.fault.kills(&self.cluster.servers()) {
                        self.cluster.start(node)?;
                    }
                }
                Fault::Freeze(node) => self.signal(*node, Signal::SIGCONT),
                Fault::Drain(node) => {
                    let number = node.number.to_string();
                    self.errands.add(&["osd", "undrain", &number])?;
                }
                Fault::Policy(..) => self.set_policy("memsync", "majority")?,
                Fault::Full(node) => {
                    let (node, log_bytes) = (*node, over.log_bytes);
                    self.make_room(node, log_bytes)?;
                }
                _ => {}
            }
            if let Some(tracer) = &mut over.tracer {
                let_go(tracer)?;
            }
            self.filter()?;
            let healed_ns = now_ns();
            let fault = over.planned.fault;
            self.note(
                healed_ns,
                format!("healed {}", serde_json::to_string(&fault)?),
            );
            self.done.happened.push(Happened {
                name: fault.name(),
                fault,
                began_ns: over.began_ns,
                healed_ns,
            });
        }
        Ok(())
    }

    /// Starts again what ended although nobody killed it.
    ///
    /// # Errors
    ///
    /// If a mount ended, or servers end again and again.
    pub(crate) fn look_after(&mut self) -> Result<()> {
        self.errands.go_on(&self.cluster)?;
        for (node, status) in self.cluster.take_ended() {
            let what = format!("{node} ended by itself ({status})");
            self.note(now_ns(), what.clone());
            let is_full = |it: &Active| it.planned.fault == Fault::Full(node);
            if self.active.iter().any(is_full) {
                // An operator would have to make room first.
                self.ended_full.push(node);
                continue;
            }
            if self.rebuild(node)? {
                continue;
            }
            self.done
                .violations
                .push(Violation::new("process ended by itself", &what));
            ensure!(node.kind != Kind::Mount, "{what}");
            self.restarts += 1;
            ensure!(self.restarts <= RESTARTS_MAX, "{what} once more");
            self.cluster.start(node)?;
        }
        Ok(())
    }

    /// Does what an operator does about a metadata server that ended because its files are damaged, if
    /// that is why: it gets an empty directory, and everything from the others.
    fn rebuild(&mut self, node: Node) -> Result<bool> {
        let Some(log_bytes) = self.rotten.get(&node) else {
            return Ok(false);
        };
        if self.cluster.log_has(node, *log_bytes, DAMAGED) == 0 {
            return Ok(false);
        }
        self.rotten.remove(&node);
        self.done.rebuilt += 1;
        self.note(now_ns(), format!("{node} gets an empty directory"));
        self.cluster.empty_dir(node)?;
        self.cluster.start(node)?;
        Ok(true)
    }

    /// Whether the cluster has heard everything that it was to be told.
    ///
    /// # Errors
    ///
    /// If a process can't be started or asked.
    pub(crate) fn has_told_all(&mut self) -> Result<bool> {
        self.errands.go_on(&self.cluster)
    }

    fn set_policy(&mut self, policy: &str, quorum: &str) -> Result<()> {
        let volume = ["volume", "set", VOLUME];
        let words = [&volume[..], &["--policy", policy, "--quorum", quorum]];
        self.errands.add(&words.concat())
    }

    /// Does what an operator does about a full disk.
    fn make_room(&mut self, node: Node, log_bytes: u64) -> Result<()> {
        let disk = self
            .disks
            .get(&node)
            .context("a server without small disk")?;
        disk.free()?;
        if self.ended_full.contains(&node) {
            self.ended_full.retain(|it| *it != node);
            self.note(now_ns(), format!("{node} is started again"));
            return self.cluster.start(node);
        }
        if self.cluster.log_has(node, log_bytes, STOPPED) > 0 {
            self.note(
                now_ns(),
                format!("{node} is started again, as its log asks"),
            );
            self.cluster.stop(&[node])?;
            self.cluster.start(node)?;
        }
        Ok(())
    }

    fn signal(&mut self, node: Node, signal: Signal) {
        // It may just have ended by itself, which is found out elsewhere.
        let _ = self.cluster.signal(node, signal);
    }

    fn filter(&mut self) -> Result<()> {
        let faults: Vec<&Fault> = self.active.iter().map(|it| &it.planned.fault).collect();
        self.cluster.network().apply(&faults)
    }

    /// Tampers with system calls of some names of a running server, as `strace -e` takes it, until the
    /// tracer is [let go](let_go). None if the server is not running, or there is no strace.
    ///
    /// # Errors
    ///
    /// If the tracer can't be started.
    pub(crate) fn trace(
        &self,
        node: Node,
        calls: &str,
        inject: &str,
        trace: &Path,
    ) -> Result<Option<Child>> {
        let Some(pid) = self.cluster.pid(node) else {
            return Ok(None);
        };
        if !command::exists("strace") {
            return Ok(None);
        }
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "strace", "-f", "-q", "-o"])
            .arg(trace)
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", inject])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("strace")?;
        Ok(Some(child))
    }

    fn note(&mut self, at_ns: u64, what: String) {
        self.done.log.push(Line { at_ns, what });
    }
}

/// Ends a tracer; its server goes on.
///
/// # Errors
///
/// Of the system.
pub(crate) fn let_go(tracer: &mut Child) -> Result<()> {
    kill(Pid::from_raw(tracer.id().cast_signed()), Signal::SIGTERM)?;
    tracer.wait()?;
    Ok(())
}

impl Drop for Injector {
    fn drop(&mut self) {
        for active in &mut self.active {
            if let Some(tracer) = &mut active.tracer {
                // It may have ended with its server.
                let _ = tracer.kill();
                let _ = tracer.wait();
            }
        }
    }
}
