//! What simulated servers do: their lease hosts' wishes, and the layer above that makes an epoch
//! durable at a majority before it uses a lease.

use lease::Out;
use rand::RngExt;
use types::{CellId, Duration, MemberId};

use crate::lease_oracle::Used;
use crate::lease_server::{LATENESS_MAX, Note, Packet, Process, Server};
use crate::lease_world::{Happening, World};
use crate::network::percent;
use crate::time::TrueTime;
use crate::views::Step;

impl World {
    /// Lets a server act, performs what comes out, and plans its next wake-up.
    pub(crate) fn act(
        &mut self,
        name: MemberId,
        act: impl FnOnce(&mut Server, TrueTime, &mut Out),
    ) {
        let mut out = Out::new();
        let now = self.schedule.now();
        act(self.server(name), now, &mut out);
        self.perform(name, out);
        self.plan_wakeup(name);
    }

    pub(crate) fn perform(&mut self, name: MemberId, out: Out) {
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

    pub(crate) fn send(&mut self, from: MemberId, to: MemberId, packet: Packet) {
        self.coverage.messages += 1;
        for delay in self.network.route(from, to, &mut self.rng) {
            self.schedule
                .after(delay, Happening::Arrives(from, to, packet));
        }
    }

    pub(crate) fn plan_wakeup(&mut self, name: MemberId) {
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

    pub(crate) fn wakes(&mut self, name: MemberId) {
        let now = self.schedule.now();
        let server = self.server(name);
        if server.wake != Some(now) || !server.is_running() {
            return;
        }
        server.wake = None;
        self.act(name, tick);
    }

    pub(crate) fn arrives(&mut self, from: MemberId, to: MemberId, packet: Packet) {
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
                let promised = match known.is_some_and(|known| known.view > view) {
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
    pub(crate) fn activate(&mut self, name: MemberId, cell: CellId) {
        let now = self.schedule.now();
        let server = self.server(name);
        let (Some(activation), Some(membership)) =
            (server.activations.get(&cell), server.known.get(&cell))
        else {
            return;
        };
        let (epoch, newborn) = (activation.epoch, activation.newborn);
        let membership = membership.clone();
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
    pub(crate) fn promised(&mut self, name: MemberId, cell: CellId, epoch: u64, from: MemberId) {
        let now = self.schedule.now();
        let server = self.server(name);
        let held = server.holds(now, cell).filter(|held| held.epoch == epoch);
        let Some(membership) = server.known.get(&cell) else {
            return;
        };
        let Some(activation) = server.activations.get_mut(&cell) else {
            return;
        };
        if held.is_none() || activation.epoch != epoch || activation.in_use {
            return;
        }
        activation.promised.insert(from);
        if membership.is_quorum(|member| activation.promised.contains(&member)) {
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
    pub(crate) fn refused(&mut self, name: MemberId, cell: CellId, epoch: u64, promised: u64) {
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

    pub(crate) fn acquire(&mut self, name: MemberId, cell: CellId) {
        self.existing.insert(cell);
        let mut quarantined = false;
        self.act(name, |server, now, out| {
            quarantined = server.acquire(now, cell, out)
        });
        self.coverage.quarantined += u64::from(quarantined);
    }

    pub(crate) fn release(&mut self, name: MemberId, cell: CellId, successor: Option<MemberId>) {
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
}

/// Serves a host's timers.
pub(crate) fn tick(server: &mut Server, now: TrueTime, out: &mut Out) {
    let clock = server.read(now);
    if let Some(host) = &mut server.host {
        host.tick(clock, out);
    }
}
