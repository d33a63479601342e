//! What surrounds a replica in a server: its lease, and what a shell does besides.

use osd_core::{Input, LeaseEvent, ObjectReplica, Obstacle, Role};
use types::{Duration, Instant, OsdId};

use crate::lease_model::{MS, Outcome, TTL, USED};
use crate::world::{Event, KEY, Node, World, node_of, osd};

impl World {
    // ---- leases

    pub(crate) fn acquire(&mut self, node: usize, newborn: bool, floor: u64) {
        let reachable = self.reachable(node);
        let boot = self.nodes[node].boot;
        let asked = (newborn, floor, boot);
        let outcome = self.lease.acquire(self.now, node, &reachable, asked);
        let target = self.for_node(node);
        let (at, event) = match outcome {
            Outcome::Granted { epoch, newborn } => {
                let renew = Event::Renew { epoch };
                self.schedule(self.now + TTL / 3, target, renew);
                let until = Instant::from_nanos(self.now + USED);
                let held = LeaseEvent::Held {
                    epoch,
                    until,
                    newborn,
                };
                (self.now + self.rng.below(2) * MS, held)
            }
            Outcome::Taken { node, remaining } => {
                let member = osd(node);
                let remaining = Duration::from_nanos(remaining);
                (self.now, LeaseEvent::HeldBy { member, remaining })
            }
            Outcome::NoQuorum => (
                self.now + 500 * MS,
                LeaseEvent::Denied(Obstacle::NoMajority),
            ),
        };
        self.schedule(at, target, Event::Lease(event));
    }

    pub(crate) fn renew(&mut self, node: usize, epoch: u64) {
        let reachable = self.reachable(node).len();
        let target = self.for_node(node);
        let Some(holder) = self.lease.holder else {
            return;
        };
        if holder.node != node || holder.epoch != epoch {
            return;
        }
        if self.lease.renew(self.now, node, reachable).is_some() {
            let until = Instant::from_nanos(self.now + USED);
            let newborn = epoch == self.nodes[node].boot;
            let held = LeaseEvent::Held {
                epoch,
                until,
                newborn,
            };
            self.schedule(self.now, target, Event::Lease(held));
        } else if holder.expires <= self.now {
            self.schedule(self.now, target, Event::Lease(LeaseEvent::Lost { epoch }));
            return;
        }
        self.schedule(self.now + TTL / 3, target, Event::Renew { epoch });
    }

    // ---- what a shell does besides

    pub(crate) fn shell(&mut self, node: usize) -> Result<(), String> {
        let target = self.for_node(node);
        self.schedule(self.now + 100 * MS, target, Event::Shell);
        let everybody = self.reachable(node).len() == self.nodes.len();
        if !self.nodes[node].recovered && everybody {
            let others = self.nodes.iter().enumerate();
            let exists = others
                .filter(|(other, _)| *other != node)
                .any(|(_, other)| other.store.bytes(KEY).is_some());
            if exists || self.nodes[node].store.bytes(KEY).is_some() {
                self.step(node, Input::Recover)?;
            } else {
                self.nodes[node].recovered = true;
                self.nodes[node].incomplete = false;
                self.tell_membership(node);
            }
        }
        let backup = |node: &Node| {
            let replica = node.replica.as_ref();
            replica.is_some_and(|replica| replica.status().role == Role::Backup)
        };
        let reachable = self.reachable(node);
        let state = &self.nodes[node];
        let back = |id: &OsdId| reachable.contains(&node_of(*id));
        if !state.behind.is_empty() && state.behind.iter().all(back) && backup(state) {
            self.nodes[node].behind.clear();
            self.step(node, Input::BringUp)?;
        }
        self.drop_if_idle(node);
        Ok(())
    }

    /// An idle replica may be dropped and opened again at any time.
    pub(crate) fn drop_if_idle(&mut self, node: usize) {
        let membership = self.membership(node);
        let idle = self.nodes[node]
            .replica
            .as_ref()
            .is_some_and(ObjectReplica::is_idle);
        if idle && self.rng.once_in(3) {
            let config = self.config.clone();
            let state = &mut self.nodes[node];
            let mut store = state.store.clone();
            let replica = ObjectReplica::open(osd(node), KEY, membership, config, &mut store);
            state.replica = Some(replica.expect("the store opens"));
        }
    }
}
