//! What surrounds a replica in a server: its lease, and what a shell does besides.

use osd_core::{Input, LeaseEvent, ObjectReplica, Obstacle, Role};
use types::{Duration, Instant, OsdId};

use crate::lease_model::{MS, Outcome, TTL, USED};
use crate::world::{Event, KEY, Node, World, node_of, osd};

impl World {
    // ---- leases

    pub(crate) fn acquire(&mut self, node: usize, newborn: bool, floor: u64) {
        let (reachable, enough) = self.voters(node);
        let boot = self.nodes[node].boot;
        let asked = (newborn, floor, boot);
        let outcome = match enough {
            true => self.lease.acquire(self.now, node, &reachable, asked),
            false => Outcome::NoQuorum,
        };
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
        let (_, enough) = self.voters(node);
        let target = self.for_node(node);
        let Some(holder) = self.lease.holder else {
            return;
        };
        if holder.node != node || holder.epoch != epoch {
            return;
        }
        if enough && self.lease.renew(self.now, node).is_some() {
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
        if self.plan.spares > 0 {
            self.settle(node)?;
        }
        let members = self.nodes[node].known.either();
        let reachable = self.reachable(node);
        let everybody = members.iter().all(|member| reachable.contains(member));
        if !self.nodes[node].recovered && everybody && members.contains(&node) {
            let mut others = members.iter().filter(|other| **other != node);
            let others_at = others.clone().map(|other| self.position(*other));
            let exists = others.any(|other| self.nodes[*other].store.bytes(KEY).is_some());
            if exists || self.nodes[node].store.bytes(KEY).is_some() {
                let newest = others_at.max().unwrap_or_default();
                self.step(node, Input::Recover { newest })?;
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

    /// Who agrees to a lease in the view of a node, and whether they are enough.
    fn voters(&self, node: usize) -> (Vec<usize>, bool) {
        let known = &self.nodes[node].known;
        let mut voters = self.reachable(node);
        voters.retain(|other| {
            known.either().contains(other) && self.nodes[*other].known.view <= known.view
        });
        let most = |set: &Vec<usize>| {
            let votes = set.iter().filter(|member| voters.contains(member));
            votes.count() > set.len() / 2
        };
        let enough = known.either().contains(&node) && known.sets().all(most);
        (voters, enough)
    }

    /// An idle replica may be dropped and opened again at any time.
    pub(crate) fn drop_if_idle(&mut self, node: usize) {
        let idle = self.nodes[node]
            .replica
            .as_ref()
            .is_some_and(ObjectReplica::is_idle);
        if idle && self.rng.once_in(3) {
            self.reopen(node);
        }
    }

    pub(crate) fn reopen(&mut self, node: usize) {
        let membership = self.membership(node);
        let config = self.config.clone();
        let state = &mut self.nodes[node];
        let mut store = state.store.clone();
        let replica = ObjectReplica::open(osd(node), KEY, membership, config, &mut store);
        state.replica = Some(replica.expect("the store opens"));
    }
}
