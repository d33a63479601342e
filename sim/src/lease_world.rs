//! Lease hosts of 3 to 7 servers, a model of the layer above, and everything that can go wrong.

use std::collections::BTreeSet;

use lease::Out;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use types::{CellId, Duration, MemberId};

use crate::faults::{self, Fault};
use crate::lease_oracle::{Coverage, Finding, Oracle, Used, Violation};
use crate::lease_server::{LATENESS_MAX, Note, Packet, Process, Server};
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
enum Happening {
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
struct World {
    options: Options,
    rng: ChaCha8Rng,
    schedule: Schedule<Happening>,
    network: Network,
    servers: Vec<Server>,
    names: Vec<MemberId>,
    views: Views,
    cells: Vec<CellId>,
    /// Cells that anybody has ever asked for.
    existing: BTreeSet<CellId>,
    /// Longest time between two wishes.
    wish_every: Duration,
    /// No more faults.
    calm: bool,
    /// Cells that were usable since the calm began.
    usable: BTreeSet<CellId>,
    oracle: Oracle,
    coverage: Coverage,
    trace: Trace,
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

    fn server(&mut self, name: MemberId) -> &mut Server {
        // Servers are numbered from 1.
        &mut self.servers[name.0 as usize - 1]
    }

    // ---- what servers do

    /// Lets a server act, performs what comes out, and plans its next wake-up.
    fn act(&mut self, name: MemberId, act: impl FnOnce(&mut Server, TrueTime, &mut Out)) {
        let mut out = Out::new();
        let now = self.schedule.now();
        act(self.server(name), now, &mut out);
        self.perform(name, out);
        self.plan_wakeup(name);
    }

    fn perform(&mut self, name: MemberId, out: Out) {
        for (to, messages) in out.sends {
            for message in messages {
                self.send(name, to, Packet::Lease(message));
            }
        }
        let crashes = self.oracle.crashes();
        for event in out.events {
            match self.server(name).note(&event, crashes) {
                Note::Nothing => {}
                Note::Lost => self.coverage.lost += 1,
                Note::Activate { cell, .. } => self.activate(name, cell),
                Note::Acquire(cell) => self.acquire(name, cell),
                Note::Refresh(cell) => {
                    let delay = Duration::from_millis(self.rng.random_range(1..200));
                    let tell = Happening::View(Step::Tell(cell, name));
                    self.schedule.after(delay, tell);
                }
            }
        }
    }

    fn send(&mut self, from: MemberId, to: MemberId, packet: Packet) {
        self.coverage.messages += 1;
        for delay in self.network.route(from, to, &mut self.rng) {
            self.schedule
                .after(delay, Happening::Arrives(from, to, packet));
        }
    }

    fn plan_wakeup(&mut self, name: MemberId) {
        let dawdles = !self.calm && percent(&mut self.rng, 5);
        let lateness = match dawdles {
            true => self.rng.random_range(0..LATENESS_MAX.as_nanos()),
            false => 0,
        };
        let now = self.schedule.now();
        let server = self.server(name);
        let Some(at) = server.next_wakeup().map(|at| at.max(now)) else {
            return;
        };
        let at = at + Duration::from_nanos(lateness);
        if server
            .wake
            .is_none_or(|planned| at < planned || planned < now)
        {
            server.wake = Some(at);
            self.schedule.at(at, Happening::Wakes(name));
        }
    }

    fn wakes(&mut self, name: MemberId) {
        let now = self.schedule.now();
        let server = self.server(name);
        if server.wake != Some(now) || !server.is_running() {
            return;
        }
        server.wake = None;
        self.act(name, tick);
    }

    fn arrives(&mut self, from: MemberId, to: MemberId, packet: Packet) {
        let now = self.schedule.now();
        let server = self.server(to);
        match &mut server.process {
            Process::Down => return,
            Process::Paused(inbox) => {
                inbox.push((from, packet));
                return;
            }
            Process::Running => {}
        }
        match packet {
            Packet::Lease(message) => self.act(to, |server, now, out| {
                server.tell_view(now, message.cell, out);
                let clock = server.read(now);
                if let Some(host) = &mut server.host {
                    host.message(clock, from, message, out);
                }
            }),
            Packet::Activate {
                cell,
                view,
                epoch,
                newborn,
            } => {
                let known = server.known.get(&cell);
                let promised = match known.is_some_and(|known| known.membership.view > view) {
                    true => Err(0),
                    false => server.promise(now, cell, (epoch, from), newborn),
                };
                let refused = promised.err();
                let answer = Packet::Activated {
                    cell,
                    epoch,
                    refused,
                };
                self.send(to, from, answer);
                self.plan_wakeup(to);
            }
            Packet::Activated {
                cell,
                epoch,
                refused: Some(promised),
            } => self.refused(to, cell, epoch, promised),
            Packet::Activated { cell, epoch, .. } => self.promised(to, cell, epoch, from),
        }
    }

    /// Asks everybody to promise the epoch of a lease before it is used.
    fn activate(&mut self, name: MemberId, cell: CellId) {
        let now = self.schedule.now();
        let server = self.server(name);
        let (Some(activation), Some(known)) =
            (server.activations.get(&cell), server.known.get(&cell))
        else {
            return;
        };
        let (epoch, newborn) = (activation.epoch, activation.newborn);
        let membership = known.membership.clone();
        match server.promise(now, cell, (epoch, name), newborn) {
            Ok(()) => {
                let packet = Packet::Activate {
                    cell,
                    view: membership.view,
                    epoch,
                    newborn,
                };
                for member in membership.members.iter().filter(|member| **member != name) {
                    self.send(name, *member, packet);
                }
                self.promised(name, cell, epoch, name);
            }
            Err(promised) => self.refused(name, cell, epoch, promised),
        }
    }

    /// Counts a promise; a majority of them, and the lease is used if it still runs.
    fn promised(&mut self, name: MemberId, cell: CellId, epoch: u64, from: MemberId) {
        let now = self.schedule.now();
        let server = self.server(name);
        let held = server.holds(now, cell).filter(|held| held.epoch == epoch);
        let members = server
            .known
            .get(&cell)
            .map_or(usize::MAX, |known| known.membership.members.len());
        let Some(activation) = server.activations.get_mut(&cell) else {
            return;
        };
        if held.is_none() || activation.epoch != epoch || activation.in_use {
            return;
        }
        activation.promised.insert(from);
        if activation.promised.len() > members / 2 {
            activation.in_use = true;
            let used = Used {
                epoch,
                holder: name,
                newborn: activation.newborn,
                crashes: activation.crashes,
            };
            self.coverage.used += 1;
            self.coverage.shortcuts += u64::from(used.newborn);
            self.oracle.uses(now, cell, used);
        }
    }

    /// Gives a lease with too low an epoch back, for a higher one.
    fn refused(&mut self, name: MemberId, cell: CellId, epoch: u64, promised: u64) {
        let current = self.server(name).activations.get(&cell);
        if current.is_none_or(|activation| activation.epoch != epoch || activation.in_use) {
            return;
        }
        self.coverage.refused += 1;
        self.release(name, cell, None);
        self.act(name, |server, now, _| {
            let clock = server.read(now);
            if let Some(host) = &mut server.host {
                host.set_floor(clock, cell, promised);
            }
        });
        self.acquire(name, cell);
    }

    fn acquire(&mut self, name: MemberId, cell: CellId) {
        self.existing.insert(cell);
        let mut quarantined = false;
        self.act(name, |server, now, out| {
            quarantined = server.acquire(now, cell, out)
        });
        self.coverage.quarantined += u64::from(quarantined);
    }

    fn release(&mut self, name: MemberId, cell: CellId, successor: Option<MemberId>) {
        self.act(name, |server, now, out| {
            server.activations.remove(&cell);
            let clock = server.read(now);
            match (&mut server.host, successor) {
                (Some(host), Some(to)) => host.hand_over(clock, cell, to, out),
                (Some(host), None) => host.release(clock, cell, out),
                (None, _) => {}
            }
        });
    }

    // ---- what happens to servers

    fn resumes(&mut self, name: MemberId) {
        let server = self.server(name);
        let Process::Paused(inbox) = &mut server.process else {
            return;
        };
        let inbox = std::mem::take(inbox);
        server.process = Process::Running;
        server.wake = None;
        // Whether timers or sockets are looked at first is the scheduler's whim.
        if self.rng.random() {
            self.act(name, tick);
        }
        for (from, packet) in inbox {
            self.arrives(from, name, packet);
        }
        self.act(name, tick);
    }

    fn starts(&mut self, name: MemberId) {
        let now = self.schedule.now();
        let server = &mut self.servers[name.0 as usize - 1];
        if matches!(server.process, Process::Down) {
            server.start(now, &self.options.lease, &mut self.rng);
        }
        self.plan_wakeup(name);
    }

    fn misfortune(&mut self) {
        if self.calm {
            return;
        }
        let fault = faults::draw(&mut self.rng, &self.names, self.options.drift_ppm);
        self.trace.note(self.schedule.now(), &fault);
        self.suffer(fault);
        let pause = Duration::from_millis(self.rng.random_range(50..1500));
        self.schedule.after(pause, Happening::Misfortune);
    }

    fn suffer(&mut self, fault: Fault) {
        let now = self.schedule.now();
        match fault {
            Fault::Weather(weather) => self.network.weather = weather,
            Fault::Cut(from, to, length) => self.cut(vec![(from, to)], length),
            Fault::Isolate(name, ways, length) => self.cut(self.around(name, ways), length),
            Fault::Pause(name, length) => {
                let server = self.server(name);
                if server.is_running() {
                    server.process = Process::Paused(Vec::new());
                    self.coverage.pauses += 1;
                    self.schedule.after(length, Happening::Resumes(name));
                }
            }
            Fault::Crash(names, length, reboot) => {
                for name in names {
                    let origin = self.rng.random_range(0..1 << 50);
                    let existing = self.existing.clone();
                    let server = self.server(name);
                    server.crash(&existing);
                    if reboot {
                        server.clock = Clock::new(now, origin, server.clock.rate_ppm());
                    }
                    self.oracle.crashed();
                    self.coverage.crashes += 1;
                    self.schedule.after(length, Happening::Starts(name));
                }
            }
            Fault::Stop(name, length, give_back) => {
                if self.server(name).is_running() {
                    let mut saved = false;
                    self.act(name, |server, now, out| {
                        saved = server.stop(now, give_back, out)
                    });
                    self.coverage.saved += u64::from(saved);
                    self.schedule.after(length, Happening::Starts(name));
                }
            }
            Fault::Drift(name, rate_ppm) => {
                let server = self.server(name);
                server.clock.set_rate(now, rate_ppm);
                server.wake = None;
                self.plan_wakeup(name);
            }
            Fault::ChangeView => {
                for (delay, step) in self.views.change(&mut self.rng, &self.names) {
                    self.schedule.after(delay, Happening::View(step));
                }
            }
        }
    }

    fn cut(&mut self, cuts: Vec<(MemberId, MemberId)>, length: Duration) {
        for (from, to) in &cuts {
            self.network.cut(*from, *to);
        }
        self.schedule.after(length, Happening::Mends(cuts));
    }

    /// All directions from and to a server.
    fn around(&self, name: MemberId, (out, into): (bool, bool)) -> Vec<(MemberId, MemberId)> {
        let others = self.names.iter().filter(|other| **other != name);
        let directions = others.flat_map(|other| {
            let out = out.then_some((name, *other));
            out.into_iter().chain(into.then_some((*other, name)))
        });
        directions.collect()
    }

    fn view_step(&mut self, step: Step) {
        match step {
            Step::Tell(cell, name) => {
                let Some(known) = self.views.known(cell) else {
                    return;
                };
                if !self.server(name).is_running() {
                    let again = Duration::from_millis(200);
                    self.schedule
                        .after(again, Happening::View(Step::Tell(cell, name)));
                    return;
                }
                self.act(name, |server, now, out| server.learn(now, cell, known, out));
                if let Some((delay, step)) = self.views.told(cell, name, &self.options.lease) {
                    self.schedule.after(delay, Happening::View(step));
                }
            }
            Step::Enforce(cell) => {
                self.coverage.views += 1;
                let (sources, targets) = self.views.transfer(cell);
                let promised = sources.into_iter().filter_map(|name| self.server(name).promised(cell));
                let promised = promised.max();
                for name in targets {
                    self.server(name).copy_promise(cell, promised);
                }
                let delay_max = Duration::from_millis(if self.calm { 10 } else { 1000 });
                for (delay, step) in self.views.enforce(cell, &mut self.rng, delay_max) {
                    self.schedule.after(delay, Happening::View(step));
                }
            }
        }
    }

    // ---- what the world wants

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

    /// The faults stop, except that one server may stay away for ever.
    fn calm_down(&mut self) {
        self.calm = true;
        self.network.heal();
        if self.rng.random() {
            let away = self.names[self.rng.random_range(0..self.names.len())];
            let ways = [(true, true), (true, false), (false, true)];
            let ways = ways[self.rng.random_range(0..ways.len())];
            for (from, to) in self.around(away, ways) {
                self.network.cut(from, to);
            }
        }
        for name in self.names.clone() {
            self.schedule
                .after(Duration::ZERO, Happening::Resumes(name));
            self.schedule.after(Duration::ZERO, Happening::Starts(name));
        }
        for step in self.views.hurry() {
            self.schedule
                .after(Duration::from_millis(1), Happening::View(step));
        }
        self.schedule.after(Duration::ZERO, Happening::Demand);
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

fn tick(server: &mut Server, now: TrueTime, out: &mut Out) {
    let clock = server.read(now);
    if let Some(host) = &mut server.host {
        host.tick(clock, out);
    }
}
