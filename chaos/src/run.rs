//! One run: a cluster, clients, faults, healing, and what all of them left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::clients::Clients;
use crate::cluster::Cluster;
use crate::command;
use crate::directories::NAMES;
use crate::fault::Planned;
use crate::history::History;
use crate::injector::{Done, Injector};
use crate::logs::FinalLog;
use crate::network::Network;
use crate::node::{Kind, Node};
use crate::operation::{Operation, Record};
use crate::register;
use crate::schedule::{Extras, schedule, victims};
use crate::violation::Violation;
use crate::worker::{final_log, found_inodes};
use crate::workload::LOGS;

/// Whatever is waited for after everything was healed takes seconds; the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a run is made from.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Decides faults and operations.
    pub(crate) seed: u64,
    /// How long faults happen.
    pub(crate) length: Duration,
    /// What happens besides.
    pub(crate) extras: Extras,
    /// Of the plan only faults of which the name contains this.
    pub(crate) only: Option<String>,
    /// Where everything of the run lies.
    pub(crate) home: PathBuf,
    /// Whether what the servers stored is kept although all is well.
    pub(crate) keep: bool,
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The history, by beginning.
    pub(crate) records: Vec<Record>,
    /// The logs at the end.
    pub(crate) logs: Vec<FinalLog>,
    /// The faults.
    pub(crate) done: Done,
    /// Found so far.
    pub(crate) violations: Vec<Violation>,
    /// Objects whose rotten copies nobody has repaired.
    pub(crate) still_rotten: usize,
}

/// Runs it all. The flag ends it early, with an error.
///
/// # Errors
///
/// If the cluster can't be made; whatever goes wrong later is a violation, with the history so far.
pub(crate) fn run(settings: &Settings, interrupted: &Arc<AtomicBool>) -> Result<Outcome> {
    let mut run = Run::new(settings, interrupted)?;
    for node in victims(settings.seed).small_disks {
        run.injector.add_small_disk(node)?;
    }
    if settings.extras.moves {
        run.injector.cluster.add_spare();
    }
    run.start()?;
    run.finish(Run::inject)
}

impl Run<'_> {
    /// Lets clients work while something is done to the cluster, and looks at what both left behind.
    ///
    /// # Errors
    ///
    /// If it was interrupted; whatever else goes wrong is a violation.
    pub(crate) fn finish(mut self, harm: impl FnOnce(&mut Self) -> Result<()>) -> Result<Outcome> {
        let run = &mut self;
        let finished = run.work_and_look(harm);
        run.check_interrupted()?;
        let (logs, still_rotten) = finished.unwrap_or_else(|error| {
            let what = format!("{error:#}");
            run.violations
                .push(Violation::new("run could not go on", what));
            (Vec::new(), 0)
        });
        Ok(Outcome {
            records: run.history.records(),
            logs,
            done: std::mem::take(&mut run.injector.done),
            violations: std::mem::take(&mut run.violations),
            still_rotten,
        })
    }
}

/// A cluster with its clients.
pub(crate) struct Run<'a> {
    /// What it is made from.
    pub(crate) settings: &'a Settings,
    interrupted: &'a AtomicBool,
    /// What the clients do and see.
    pub(crate) history: Arc<History>,
    clients: Vec<Clients>,
    // Ends its processes before it unmounts their disks.
    /// The cluster with what is done to it.
    pub(crate) injector: Injector,
    /// Found so far.
    pub(crate) violations: Vec<Violation>,
}

impl<'a> Run<'a> {
    /// Makes the network and the configuration; nothing is started yet.
    ///
    /// # Errors
    ///
    /// If something is missing, or what the tools said.
    pub(crate) fn new(settings: &'a Settings, interrupted: &'a AtomicBool) -> Result<Self> {
        command::check_tools()?;
        let prefix = format!("oxchaos{}-", std::process::id());
        let network = Network::new(&prefix)?;
        let cluster = Cluster::new(&settings.home, network, settings.seed)?;
        Ok(Self {
            settings,
            interrupted,
            history: Arc::default(),
            clients: Vec::new(),
            injector: Injector::new(cluster, settings.seed),
            violations: Vec::new(),
        })
    }

    /// Starts the cluster and makes the first files.
    ///
    /// # Errors
    ///
    /// If it does not get usable.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_servers()?;
        self.injector.cluster.make_volume()?;
        for mount in Node::mounts() {
            self.mount(mount)?;
        }
        let mut maker = self.clients(&["set-up", &self.point(Node::mount(1))])?;
        self.wait_for("the first files", |_| maker.has_ended())
    }

    /// Starts all servers and waits until they are up.
    ///
    /// # Errors
    ///
    /// If one of them does not get there.
    pub(crate) fn start_servers(&mut self) -> Result<()> {
        for node in self.injector.cluster.servers() {
            self.injector.cluster.start(node)?;
        }
        self.wait_for("the servers", |run| {
            run.injector.look_after()?;
            Ok(run.injector.cluster.are_all_up(false))
        })
    }

    /// Harm and clients, and what they left behind: the logs, and how many objects are rotten.
    fn work_and_look(
        &mut self,
        harm: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<(Vec<FinalLog>, usize)> {
        self.start_clients()?;
        harm(self)?;
        self.wait_for_clients()?;
        let logs = self.last_look()?;
        Ok((logs, self.compare_replicas()?))
    }

    /// Lets the clients work for a while.
    ///
    /// # Errors
    ///
    /// If it was interrupted, or servers end again and again.
    pub(crate) fn let_work(&mut self, duration: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < duration {
            self.check_interrupted()?;
            self.injector.look_after()?;
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn mount(&mut self, mount: Node) -> Result<()> {
        self.injector.cluster.start(mount)?;
        self.wait_for(&format!("{mount}"), |run| {
            run.injector.cluster.is_mounted(mount)
        })
    }

    pub(crate) fn point(&self, mount: Node) -> String {
        self.injector.cluster.dir(mount).display().to_string()
    }

    /// Lets the clients of all mounts begin to work.
    ///
    /// # Errors
    ///
    /// If they can't be started.
    pub(crate) fn start_clients(&mut self) -> Result<()> {
        let seed = self.settings.seed.to_string();
        for mount in Node::mounts() {
            let number = mount.number.to_string();
            let clients = self.clients(&["plans", &self.point(mount), &number, &seed])?;
            self.clients.push(clients);
        }
        Ok(())
    }

    pub(crate) fn clients(&self, words: &[&str]) -> Result<Clients> {
        let log = self.settings.home.join("logs/clients.log");
        Clients::start(words, &log, &self.history)
    }

    /// Lets all faults happen and heals them.
    fn inject(&mut self) -> Result<()> {
        let length_ms = u64::try_from(self.settings.length.as_millis())?;
        let mut plan = schedule(self.settings.seed, length_ms, self.settings.extras);
        if let Some(only) = &self.settings.only {
            plan.retain(|planned| planned.fault.name().contains(only));
        }
        let mut plan = plan.into_iter().peekable();
        let begun = Instant::now();
        loop {
            let now_ms = u64::try_from(begun.elapsed().as_millis())?;
            let next_begin = plan.peek().map(|it: &Planned| it.from_ms);
            let next_end = self.injector.next_end_ms();
            let begins = next_begin.filter(|at| next_end.is_none_or(|end| *at < end));
            match (begins, next_end) {
                (Some(at), _) if at <= now_ms => {
                    if let Some(planned) = plan.next() {
                        self.injector.begin(planned)?;
                    }
                }
                (None, Some(at)) if at <= now_ms => {
                    self.injector.heal(at)?;
                }
                (None, None) if now_ms >= length_ms => return Ok(()),
                _ => {
                    self.check_interrupted()?;
                    self.injector.look_after()?;
                    thread::sleep(LOOK_AGAIN);
                }
            }
        }
    }

    /// Everything is healed, so every operation must come to its end.
    ///
    /// # Errors
    ///
    /// If clients fail.
    pub(crate) fn wait_for_clients(&mut self) -> Result<()> {
        for clients in &mut self.clients {
            clients.ask_to_end();
        }
        let ended = self.wait_for("all operations to end", |run| {
            run.injector.look_after()?;
            let mut all = true;
            for clients in &mut run.clients {
                all &= clients.has_ended()?;
            }
            Ok(all)
        });
        if let Err(error) = ended {
            self.check_interrupted()?;
            if self.history.running() == 0 {
                return Err(error);
            }
            // The checks find the operations that hang; the others count.
            eprintln!("{error:#}");
        }
        Ok(())
    }

    /// Waits for full redundancy, mounts anew and reads everything.
    ///
    /// # Errors
    ///
    /// If that can't be done; missing redundancy is a violation.
    pub(crate) fn last_look(&mut self) -> Result<Vec<FinalLog>> {
        let full = self.wait_for("full redundancy", |run| {
            run.injector.look_after()?;
            Ok(run.injector.has_told_all()? && run.injector.cluster.are_all_up(true))
        });
        if let Err(error) = full {
            self.check_interrupted()?;
            let what = format!("{error:#}: {:?}", self.injector.cluster.status());
            self.violations
                .push(Violation::new("no full redundancy after healing", what));
        }
        self.end_all(&Node::mounts())?;
        let mount = Node::mount(1);
        self.mount(mount)?;
        let keep = self.settings.home.display().to_string();
        let mut reader = self.clients(&["told", &self.point(mount), &keep])?;
        reader.tell(&last_operations(&self.history.records()))?;
        self.wait_for("the last look", |run| {
            run.injector.look_after()?;
            reader.has_ended()
        })?;
        let mut walker = self.clients(&["walk", &self.point(mount), &keep])?;
        self.wait_for("a walk through the whole tree", |_| walker.has_ended())?;
        let log = |name: &str| {
            let bytes = std::fs::read(final_log(&self.settings.home, name))?;
            let name = name.to_owned();
            Ok(FinalLog { name, bytes })
        };
        LOGS.into_iter().map(log).collect()
    }

    /// Stops everything and compares the stores. The number of objects that are still rotten.
    ///
    /// Objects of files that are not there any more don't count: each server deletes them when its
    /// turn comes.
    ///
    /// # Errors
    ///
    /// If a store can't be read; differences are a violation.
    pub(crate) fn compare_replicas(&mut self) -> Result<usize> {
        self.end_all(&Node::mounts())?;
        let mut sets = None;
        self.wait_for("replica sets that stay", |run| {
            run.injector.look_after()?;
            sets = run.injector.cluster.replica_sets().unwrap_or_default();
            Ok(sets.is_some())
        })?;
        let sets = sets.unwrap_or_default();
        let servers = self.injector.cluster.servers();
        let of_kind = |kind| {
            let servers = servers.clone().into_iter();
            servers
                .filter(move |it| it.kind == kind)
                .collect::<Vec<_>>()
        };
        self.end_all(&of_kind(Kind::Osd))?;
        self.end_all(&of_kind(Kind::Mrc))?;
        let inodes = std::fs::read_to_string(found_inodes(&self.settings.home))?;
        let inodes: BTreeSet<&str> = inodes.lines().collect();
        let differ = |rotten: bool| -> Result<Vec<String>> {
            let stores: Vec<(u64, PathBuf)> = of_kind(Kind::Osd)
                .into_iter()
                .filter(|it| rotten || *it != victims(self.settings.seed).rotten)
                .map(|it| (u64::from(it.number), self.injector.cluster.dir(it)))
                .collect();
            let members = |pg| sets.get(&pg).cloned().unwrap_or_default();
            let mut differences = tests::members_differ(&stores, members)?;
            differences.retain(|line| {
                let inode = line.split(['/', '.']).nth(1);
                inode.is_none_or(|inode| inodes.contains(inode))
            });
            Ok(differences)
        };
        let flipped: BTreeSet<&Path> = self
            .injector
            .done
            .flips
            .iter()
            .map(|flip| flip.file.as_path())
            .collect();
        let (all, good) = (differ(true)?, differ(false)?);
        let still_rotten = all.len().saturating_sub(good.len());
        if !good.is_empty() || still_rotten > flipped.len() {
            let what = format!(
                "{} objects differ although {} files were changed on one server:\n{}",
                all.len(),
                flipped.len(),
                all.join("\n")
            );
            self.violations
                .push(Violation::new("replicas differ", what));
        }
        Ok(still_rotten)
    }

    pub(crate) fn end_all(&mut self, nodes: &[Node]) -> Result<()> {
        let killed = self.injector.cluster.stop(nodes)?;
        if !killed.is_empty() {
            let what = format!("{killed:?} did not end when asked");
            self.violations
                .push(Violation::new("process does not end", what));
        }
        Ok(())
    }

    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        while !condition(self)? {
            self.check_interrupted()?;
            ensure!(
                begun.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain for {what}"
            );
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    pub(crate) fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// Reads of all registers, logs and names that the history knows.
fn last_operations(records: &[Record]) -> Vec<Operation> {
    let keys = register::keys().into_iter();
    let mut operations: Vec<Operation> = keys.map(|key| Operation::Read { key }).collect();
    operations.extend(LOGS.map(|log| Operation::ReadLog {
        log: log.to_owned(),
    }));
    let dirs: BTreeSet<&String> = records
        .iter()
        .filter_map(|record| match &record.operation {
            Operation::Create { dir, .. } => Some(dir),
            _ => None,
        })
        .collect();
    for dir in dirs {
        operations.extend((0..NAMES).map(|name| Operation::Look {
            dir: dir.clone(),
            name,
        }));
    }
    operations
}
