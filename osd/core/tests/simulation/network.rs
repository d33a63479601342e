//! Connections between servers: in order while they last.

use osd_core::{Call, Payload, PeerFailure};
use proto::peer;
use types::Duration;

use crate::lease_model::MS;
use crate::world::{Event, World, pair};

impl World {
    pub(crate) fn reachable(&self, node: usize) -> Vec<usize> {
        let others = 0..self.nodes.len();
        others
            .filter(|other| {
                let up = self.nodes[*other].up && self.nodes[*other].paused_until <= self.now;
                up && (*other == node || self.is_connected(node, *other))
            })
            .collect()
    }

    pub(crate) fn is_connected(&self, a: usize, b: usize) -> bool {
        let stalled = self.stalled_until.get(&pair(a, b));
        self.connections[&pair(a, b)] % 2 == 1 && stalled.is_none_or(|until| *until <= self.now)
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        let connection = self.connections.entry(pair(a, b)).or_default();
        if connection.is_multiple_of(2) {
            *connection += 1;
            for (node, other) in [(a, b), (b, a)] {
                let target = self.for_node(node);
                self.schedule(self.now + MS, target, Event::PeerUp(other));
            }
        }
    }

    /// The connection breaks: whoever waits for an answer hears of it, and some of what was under way
    /// arrives all the same.
    pub(crate) fn disconnect(&mut self, a: usize, b: usize) {
        let connection = self.connections.entry(pair(a, b)).or_default();
        if connection.is_multiple_of(2) {
            return;
        }
        *connection += 1;
        for (node, other) in [(a, b), (b, a)] {
            if !self.nodes[node].up {
                continue;
            }
            let target = self.for_node(node);
            self.schedule(self.now, target, Event::PeerLost(other));
            let calls = self.nodes[node].calls.iter();
            let lost = calls.filter(|(_, (to, _))| *to == other);
            for call in lost.map(|(call, _)| *call).collect::<Vec<_>>() {
                let failure = PeerFailure::Disconnected;
                self.schedule(self.now, target, Event::CallFailed { call, failure });
            }
        }
    }

    pub(crate) fn stall(&mut self, a: usize, b: usize, until: u64) {
        self.stalled_until.insert(pair(a, b), until);
    }

    pub(crate) fn send(
        &mut self,
        from: usize,
        to: usize,
        call: Call,
        (message, payload): (peer::Request, Payload),
        timeout: Duration,
    ) {
        self.next_id += 1;
        let id = self.next_id;
        self.note(call.attempt);
        self.moved_bytes += payload.bytes.len() as u64;
        self.nodes[from].calls.insert(id, (to, call));
        let me = self.for_node(from);
        let connection = self.connections[&pair(from, to)];
        if connection.is_multiple_of(2) {
            let failure = PeerFailure::Disconnected;
            let failed = Event::CallFailed { call: id, failure };
            self.schedule(self.now + MS, me, failed);
            return;
        }
        let failure = PeerFailure::Timeout;
        let timed_out = Event::CallFailed { call: id, failure };
        self.schedule(self.now + timeout.as_nanos(), me, timed_out);
        let at = self.arrival(from, to, connection);
        let target = self.for_node(to);
        self.schedule(
            at,
            target,
            Event::Request {
                from,
                connection,
                call: id,
                message,
                payload,
            },
        );
    }

    /// When a message sent now arrives: in order on one connection.
    pub(crate) fn arrival(&mut self, from: usize, to: usize, connection: u64) -> u64 {
        let at = self.now + self.delay();
        let last = self.last_arrival.entry((from, to, connection)).or_default();
        *last = at.max(*last + 1);
        *last
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let calm = self.now >= self.faults_end;
        match self.rng.below(200) {
            0 if !calm => self.rng.between(20, 400) * MS,
            1..=10 if !calm => self.rng.between(1, 20) * MS,
            _ => self.rng.between(50, 500) * 1_000,
        }
    }
}
