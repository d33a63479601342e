//! Lease hosts of 3 to 7 servers, a model of the layer above, and everything that can go wrong.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use types::{CellId, Duration, MemberId};

use crate::faults;
use crate::lease_oracle::{Coverage, Finding, Oracle, Violation};
use crate::lease_server::{Packet, Server};
use crate::network::{Network, percent};
use crate::options::Options;
use crate::time::{Clock, Schedule, TrueTime};
use crate::trace::Trace;
use crate::views::{Step, Views, first_members};

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Of everything that happened.
    pub hash: u64,
    /// The first violation, if there was one.
    pub finding: Option<Finding>,
    /// What the run went through.
    pub coverage: Coverage,
    /// Lines to read, if the options asked for them.
    pub lines: Vec<String>,
}

/// What happens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Happening {
    Arrives(MemberId, MemberId, Packet),
    Wakes(MemberId),
    Resumes(MemberId),
    Starts(MemberId),
    Mends(Vec<(MemberId, MemberId)>),
    /// Somebody wants something of a cell.
    Wish,
    Misfortune,
    View(Step),
    /// Everybody wants every cell.
    Demand,
}

/// The world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) schedule: Schedule<Happening>,
    pub(crate) network: Network,
    pub(crate) servers: Vec<Server>,
    pub(crate) names: Vec<MemberId>,
    pub(crate) views: Views,
    pub(crate) cells: Vec<CellId>,
    /// Cells that anybody has ever asked for.
    pub(crate) existing: BTreeSet<CellId>,
    /// Longest time between two wishes.
    pub(crate) wish_every: Duration,
    /// No more faults.
    pub(crate) calm: bool,
    /// Cells that were usable since the calm began.
    pub(crate) usable: BTreeSet<CellId>,
    pub(crate) oracle: Oracle,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
}

/// Simulates one run.
#[must_use]
pub fn run(options: Options) -> Outcome {
    let mut world = World::new(options);
    let safety = TrueTime::default() + world.options.safety;
    world.run_until(safety);
    if world.oracle.finding.is_none() {
        world.calm_down();
        world.run_until(safety + world.options.liveness);
    }
    let unusable = world.cells.iter().find(|cell| !world.usable.contains(cell));
    if let (Some(cell), None) = (unusable, &world.oracle.finding) {
        let (now, cell) = (world.schedule.now(), *cell);
        world.oracle.report(now, Violation::NotUsable { cell });
    }
    Outcome {
        hash: world.trace.hash(),
        finding: world.oracle.finding,
        coverage: world.coverage,
        lines: world.trace.into_lines(),
    }
}

impl World {
    fn new(options: Options) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let names: Vec<MemberId> = (1..=rng.random_range(3..=7)).map(MemberId).collect();
        let cells: Vec<CellId> = (0..rng.random_range(1..=4)).map(CellId).collect();
        let mut views = Views::default();
        for cell in &cells {
            views.add(*cell, &first_members(&mut rng, &names));
        }
        let now = TrueTime::default();
        let mut server = |name: &MemberId| {
            let rate = faults::drift(&mut rng, options.drift_ppm);
            let clock = Clock::new(now, rng.random_range(0..1 << 50), rate);
            let mut server = Server::new(*name, clock, rng.random_range(0..3));
            server.start(now, &options.lease, &mut rng);
            server
        };
        let servers = names.iter().map(&mut server).collect();
        let wish_every = Duration::from_millis(rng.random_range(5..120));
        let mut world = Self {
            trace: Trace::new(options.readable),
            options,
            rng,
            schedule: Schedule::default(),
            network: Network::default(),
            servers,
            names,
            views,
            cells,
            existing: BTreeSet::new(),
            wish_every,
            calm: false,
            usable: BTreeSet::new(),
            oracle: Oracle::default(),
            coverage: Coverage::default(),
        };
        for step in world.views.hurry() {
            world.schedule.after(Duration::ZERO, Happening::View(step));
        }
        world.schedule.after(Duration::ZERO, Happening::Wish);
        world
            .schedule
            .after(Duration::from_secs(2), Happening::Misfortune);
        world
    }

    fn run_until(&mut self, end: TrueTime) {
        while self.oracle.finding.is_none()
            && let Some(happening) = self.schedule.next(end)
        {
            self.trace.note(self.schedule.now(), &happening);
            self.happen(happening);
            self.judge();
        }
    }

    /// L-1, after every step.
    fn judge(&mut self) {
        let now = self.schedule.now();
        for cell in &self.cells {
            let holders = self
                .servers
                .iter()
                .filter(|server| server.holds(now, *cell).is_some());
            let holders: Vec<MemberId> = holders.map(|server| server.id).collect();
            self.oracle.holders(now, *cell, &holders);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives(from, to, packet) => self.arrives(from, to, packet),
            Happening::Wakes(name) => self.wakes(name),
            Happening::Resumes(name) => self.resumes(name),
            Happening::Starts(name) => self.starts(name),
            Happening::Mends(cuts) => {
                for (from, to) in cuts {
                    self.network.mend(from, to);
                }
            }
            Happening::Wish => self.wish(),
            Happening::Misfortune => self.misfortune(),
            Happening::View(step) => self.view_step(step),
            Happening::Demand => self.demand(),
        }
    }

    pub(crate) fn server(&mut self, name: MemberId) -> &mut Server {
        // Servers are numbered from 1.
        &mut self.servers[name.0 as usize - 1]
    }

    fn wish(&mut self) {
        if self.calm {
            return;
        }
        let now = self.schedule.now();
        let cell = self.cells[self.rng.random_range(0..self.cells.len())];
        let name = self.names[self.rng.random_range(0..self.names.len())];
        let holder = self
            .servers
            .iter()
            .find(|server| server.holds(now, cell).is_some());
        let holder = holder
            .filter(|server| server.is_running())
            .map(|server| server.id);
        match (self.rng.random_range(0..100), holder) {
            (0..4, Some(holder)) => {
                self.coverage.releases += 1;
                self.release(holder, cell, None);
            }
            (4..8, Some(holder)) => {
                self.coverage.hand_overs += 1;
                self.release(holder, cell, Some(name));
            }
            _ if self.server(name).is_running() => self.acquire(name, cell),
            _ => {}
        }
        // Now and then nobody wants anything for so long that idle cells are forgotten.
        let pause = match percent(&mut self.rng, 1) {
            true => Duration::from_millis(self.rng.random_range(1000..4000)),
            false => Duration::from_nanos(self.rng.random_range(0..=self.wish_every.as_nanos())),
        };
        self.schedule.after(pause, Happening::Wish);
    }

    fn demand(&mut self) {
        let now = self.schedule.now();
        for cell in self.cells.clone() {
            if self.servers.iter().any(|server| server.uses(now, cell)) {
                self.usable.insert(cell);
            }
            for name in self.names.clone() {
                if self.server(name).holds(now, cell).is_none() {
                    self.acquire(name, cell);
                }
            }
        }
        self.schedule
            .after(Duration::from_millis(50), Happening::Demand);
    }
}
