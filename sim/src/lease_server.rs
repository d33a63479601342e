//! One simulated server: a clock, a process that may die or stop, a lease host, and a model of the
//! layer above that makes epochs durable before it uses a lease.

use std::collections::{BTreeMap, BTreeSet};

use lease::{Config, Event, Held, Host, Membership, Message, Out, Saved};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use types::{CellId, Duration, Instant, MemberId};

use crate::time::{Clock, TrueTime};

/// What servers send each other.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Packet {
    /// Between lease hosts.
    Lease(Message),
    /// "I hold the lease: refuse lower epochs from now on."
    Activate {
        /// The cell.
        cell: CellId,
        /// The sender's view.
        view: u64,
        /// The lease's epoch.
        epoch: u64,
        /// Taken by the shortcut: nothing has to be durable.
        newborn: bool,
    },
    /// The answer.
    Activated {
        /// The cell.
        cell: CellId,
        /// The epoch asked about.
        epoch: u64,
        /// The higher promise, if there is one.
        refused: Option<u64>,
    },
}

/// A lease on its way to being used.
#[derive(Clone, Debug)]
pub struct Activation {
    /// Its epoch.
    pub epoch: u64,
    /// Taken by the shortcut.
    pub newborn: bool,
    /// Crashes in the world before it began, for the oracle.
    pub crashes: u64,
    /// Who has promised.
    pub promised: BTreeSet<MemberId>,
    /// A majority has: the lease is used.
    pub in_use: bool,
}

/// Whether the process runs.
#[derive(Debug)]
pub enum Process {
    /// It runs.
    Running,
    /// It is stopped; what arrives waits.
    Paused(Vec<(MemberId, Packet)>),
    /// There is none.
    Down,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    /// Its name.
    pub id: MemberId,
    /// Its clock.
    pub clock: Clock,
    /// Whether it runs.
    pub process: Process,
    /// Its lease host, while there is a process.
    pub host: Option<Host>,
    /// Votes of a process stopped in order.
    pub saved: Option<Saved>,
    /// Boot counter. Durable.
    pub incarnation: u64,
    /// Highest promised epochs that are durable.
    pub durable: BTreeMap<CellId, (u64, MemberId)>,
    /// Promises for newborn cells, lost in a crash.
    pub volatile: BTreeMap<CellId, (u64, MemberId)>,
    /// The newest members of cells that it heard of. Durable.
    pub known: BTreeMap<CellId, Membership>,
    /// Cells that existed when this server crashed: what it does not have may still exist.
    pub unrecovered: BTreeSet<CellId>,
    /// Leases held, and how far their use has come.
    pub activations: BTreeMap<CellId, Activation>,
    /// The planned wake-up.
    pub wake: Option<TrueTime>,
}

impl Server {
    /// A server with a running process.
    pub fn new(id: MemberId, clock: Clock, incarnation: u64) -> Self {
        Self {
            id,
            clock,
            process: Process::Down,
            host: None,
            saved: None,
            incarnation,
            durable: BTreeMap::new(),
            volatile: BTreeMap::new(),
            known: BTreeMap::new(),
            unrecovered: BTreeSet::new(),
            activations: BTreeMap::new(),
            wake: None,
        }
    }

    /// What the server's clock shows.
    pub fn read(&self, now: TrueTime) -> Instant {
        self.clock.read(now)
    }

    /// Whether the process can act.
    pub const fn is_running(&self) -> bool {
        matches!(self.process, Process::Running)
    }

    /// The server's lease of a cell at this moment, whether it can act or not.
    pub fn holds(&self, now: TrueTime, cell: CellId) -> Option<Held> {
        let host = self.host.as_ref()?;
        host.is_valid(self.read(now), cell)
    }

    /// Whether the cell can be used here at this moment.
    pub fn uses(&self, now: TrueTime, cell: CellId) -> bool {
        let held = self.holds(now, cell);
        let activation = self.activations.get(&cell);
        held.is_some_and(|held| {
            activation.is_some_and(|use_of| use_of.in_use && use_of.epoch == held.epoch)
        })
    }

    /// Starts a process, with the votes its predecessor saved, if any.
    pub fn start(&mut self, now: TrueTime, config: &Config, rng: &mut ChaCha8Rng) {
        self.incarnation += 1;
        let (clock, saved) = (self.read(now), self.saved.take());
        let (incarnation, seed) = (self.incarnation, rng.random());
        let host = Host::new(self.id, config.clone(), clock, incarnation, seed, saved);
        self.host = Some(host);
        self.process = Process::Running;
        self.wake = None;
    }

    /// Ends the process without warning.
    pub fn crash(&mut self, existing: &BTreeSet<CellId>) {
        self.host = None;
        self.process = Process::Down;
        self.saved = None;
        self.volatile.clear();
        self.activations.clear();
        self.unrecovered.extend(existing);
    }

    /// Ends the process in order. Returns whether it had votes to save.
    pub fn stop(&mut self, now: TrueTime, give_back: bool, out: &mut Out) -> bool {
        let clock = self.read(now);
        if let Some(mut host) = self.host.take() {
            if give_back {
                host.release_all(clock, out);
            }
            self.saved = host.shutdown(clock);
        }
        self.process = Process::Down;
        self.activations.clear();
        for (cell, promised) in std::mem::take(&mut self.volatile) {
            self.copy_promise(cell, Some(promised));
        }
        self.saved.is_some()
    }

    /// The highest epoch promised here for a cell, and to whom.
    pub fn promised(&self, cell: CellId) -> Option<(u64, MemberId)> {
        let durable = self.durable.get(&cell).copied();
        durable.max(self.volatile.get(&cell).copied())
    }

    /// Promises an epoch, or returns the higher promise that forbids it.
    pub fn promise(
        &mut self,
        now: TrueTime,
        cell: CellId,
        asked: (u64, MemberId),
        newborn: bool,
    ) -> Result<(), u64> {
        if let Some(promised) = self.promised(cell)
            && promised != asked
            && (newborn || asked.0 <= promised.0)
        {
            return Err(promised.0);
        }
        match newborn {
            true => self.volatile.insert(cell, asked),
            false => self.durable.insert(cell, asked),
        };
        let clock = self.read(now);
        if let Some(host) = &mut self.host {
            host.set_floor(clock, cell, asked.0);
        }
        Ok(())
    }

    /// Takes over a promise of another member, as a new member that copies the cell's data does.
    pub fn copy_promise(&mut self, cell: CellId, promised: Option<(u64, MemberId)>) {
        if let Some(promised) = promised.max(self.promised(cell)) {
            self.durable.insert(cell, promised);
        }
    }

    /// Asks the lease host for a cell, if the members known allow it. Returns whether the host is in
    /// quarantine.
    pub fn acquire(&mut self, now: TrueTime, cell: CellId, out: &mut Out) -> bool {
        let Some(membership) = self.known.get(&cell).cloned() else {
            return false;
        };
        let promised = self.promised(cell);
        let newborn = promised.is_none() && !self.unrecovered.contains(&cell);
        let floor = promised.map_or(0, |(epoch, _)| epoch);
        let clock = self.read(now);
        let Some(host) = &mut self.host else {
            return false;
        };
        let begun = host.acquire(clock, cell, &membership, floor, newborn, out);
        matches!(begun, Err(lease::Error::Quarantined { .. }))
    }

    /// Learns of members, from the metadata cluster.
    pub fn learn(&mut self, now: TrueTime, cell: CellId, membership: Membership, out: &mut Out) {
        let known = self.known.get(&cell);
        if known.is_none_or(|known| known.view < membership.view) {
            self.known.insert(cell, membership);
            self.tell_view(now, cell, out);
        }
    }

    /// Tells the host the view of a cell it may have forgotten, as a layer above with durable views
    /// does before it hands on a message.
    pub fn tell_view(&mut self, now: TrueTime, cell: CellId, out: &mut Out) {
        let clock = self.read(now);
        if let (Some(host), Some(membership)) = (&mut self.host, self.known.get(&cell))
            && membership.view > 1
        {
            host.view_changed(clock, cell, membership, out);
        }
    }

    /// Whether news from the host begins, continues or ends a lease.
    pub fn note(&mut self, event: &Event, crashes: u64) -> Note {
        match *event {
            Event::Held {
                cell,
                epoch,
                newborn,
                ..
            } => {
                let same = self
                    .activations
                    .get(&cell)
                    .filter(|activation| activation.epoch == epoch);
                if same.is_some_and(|activation| activation.in_use) {
                    return Note::Nothing;
                }
                let known = same.is_some();
                self.activations.entry(cell).and_modify(|old| {
                    if old.epoch != epoch {
                        *old = Activation::new(epoch, newborn, crashes);
                    }
                });
                let new = Activation::new(epoch, newborn, crashes);
                self.activations.entry(cell).or_insert(new);
                Note::Activate { cell, known }
            }
            Event::Lost { cell, .. } => {
                self.activations.remove(&cell);
                Note::Lost
            }
            Event::Offered { cell, .. } => Note::Acquire(cell),
            Event::OldView { cell, .. } => Note::Refresh(cell),
            Event::HeldBy { .. } | Event::NoQuorum { .. } | Event::Refused { .. } => Note::Nothing,
        }
    }

    /// When the host wants to be woken.
    pub fn next_wakeup(&self) -> Option<TrueTime> {
        let host = self.host.as_ref().filter(|_| self.is_running())?;
        Some(self.clock.when(host.next_wakeup()?))
    }
}

impl Activation {
    fn new(epoch: u64, newborn: bool, crashes: u64) -> Self {
        Self {
            epoch,
            newborn,
            crashes,
            promised: BTreeSet::new(),
            in_use: false,
        }
    }
}

/// What the layer above does about news from the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Note {
    /// Nothing.
    Nothing,
    /// Ask all members for promises; again, if `known`.
    Activate {
        /// The cell.
        cell: CellId,
        /// It was begun before.
        known: bool,
    },
    /// A lease ran out.
    Lost,
    /// Acquire the cell, which is offered.
    Acquire(CellId),
    /// Fetch the members of the cell.
    Refresh(CellId),
}

/// The longest a process dawdles before it serves a timer. 30 ms: a busy machine.
pub const LATENESS_MAX: Duration = Duration::from_millis(30);
