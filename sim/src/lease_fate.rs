//! What happens to simulated servers: faults, restarts, changes of members, and the calm after.

use rand::RngExt;
use types::{Duration, MemberId};

use crate::faults::{self, Fault};
use crate::lease_acts::tick;
use crate::lease_server::Process;
use crate::lease_world::{Happening, World};
use crate::time::Clock;
use crate::views::Step;

impl World {
    pub(crate) fn resumes(&mut self, name: MemberId) {
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

    pub(crate) fn starts(&mut self, name: MemberId) {
        let now = self.schedule.now();
        let server = &mut self.servers[name.0 as usize - 1];
        if matches!(server.process, Process::Down) {
            server.start(now, &self.options.lease, &mut self.rng);
        }
        self.plan_wakeup(name);
    }

    pub(crate) fn misfortune(&mut self) {
        if self.calm {
            return;
        }
        let fault = faults::draw(&mut self.rng, &self.names, self.options.drift_ppm);
        self.trace.note(self.schedule.now(), &fault);
        self.suffer(fault);
        let pause = Duration::from_millis(self.rng.random_range(50..1500));
        self.schedule.after(pause, Happening::Misfortune);
    }

    pub(crate) fn suffer(&mut self, fault: Fault) {
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
            Fault::ChangeView(apart) => self.change_view(apart),
        }
    }

    pub(crate) fn change_view(&mut self, apart: bool) {
        let Some(change) = self.views.change(&mut self.rng, &self.names) else {
            return;
        };
        for (delay, step) in change.steps {
            self.schedule.after(delay, Happening::View(step));
        }
        if let Some(gone) = change.gone.filter(|_| apart) {
            // One of those who stay is on the wrong side of the cut, and so knows both views.
            let companion = change.stay[self.rng.random_range(0..change.stay.len())];
            let others = self
                .names
                .iter()
                .filter(|name| **name != gone && **name != companion);
            let cuts = others.flat_map(|other| {
                let inner = [gone, companion].into_iter();
                inner.flat_map(move |inner| [(inner, *other), (*other, inner)])
            });
            let length = Duration::from_millis(self.rng.random_range(1000..7000));
            self.cut(cuts.collect(), length);
        }
    }

    pub(crate) fn cut(&mut self, cuts: Vec<(MemberId, MemberId)>, length: Duration) {
        for (from, to) in &cuts {
            self.network.cut(*from, *to);
        }
        self.schedule.after(length, Happening::Mends(cuts));
    }

    /// All directions from and to a server.
    pub(crate) fn around(
        &self,
        name: MemberId,
        (out, into): (bool, bool),
    ) -> Vec<(MemberId, MemberId)> {
        let others = self.names.iter().filter(|other| **other != name);
        let directions = others.flat_map(|other| {
            let out = out.then_some((name, *other));
            out.into_iter().chain(into.then_some((*other, name)))
        });
        directions.collect()
    }

    pub(crate) fn view_step(&mut self, step: Step) {
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
                if self.views.told(cell, name) {
                    let delay = Duration::from_millis(self.rng.random_range(0..3000));
                    self.schedule.after(delay, Happening::View(Step::End(cell)));
                }
            }
            Step::End(cell) => {
                self.coverage.views += 1;
                let (sources, targets) = self.views.transfer(cell);
                let promised = sources
                    .into_iter()
                    .filter_map(|name| self.server(name).promised(cell));
                let promised = promised.max();
                for name in targets {
                    self.server(name).copy_promise(cell, promised);
                }
                let delay_max = Duration::from_millis(if self.calm { 10 } else { 1000 });
                for (delay, step) in self.views.end(cell, &mut self.rng, delay_max) {
                    self.schedule.after(delay, Happening::View(step));
                }
            }
        }
    }

    /// The faults stop, except that one server may stay away for ever.
    pub(crate) fn calm_down(&mut self) {
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
}
