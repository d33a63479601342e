//! Appends that nobody syncs, while one server is killed, another one is drained and killed 20 s later, and
//! both come back after seconds (`memsync`).
//!
//! What was acknowledged may be lost only if a majority of those that had it in memory died before they
//! could hand it on. An observer that sees all servers keeps the account of that: who has come so far, and
//! who of them died and has not come so far again.

use std::collections::{BTreeMap, BTreeSet};

use osd_core::{Config, Effect};

use crate::faults::{Fault, Plan};
use crate::lease_model::MS;
use crate::world::{Event, Target, World};
use crate::{config, run, seeds};

/// From the death of the first server to that of the one that is drained.
const BETWEEN_DEATHS: u64 = 20_000 * MS;

/// Epoch and number of a change.
type At = (u64, u64);

#[derive(Debug)]
struct Held {
    at: At,
    /// Who had it, died, and has not got it again.
    dead: BTreeSet<usize>,
    may_be_lost: bool,
}

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    /// How far the trusted copy of each server has come in its present life.
    reached: BTreeMap<usize, At>,
    /// By request that was answered.
    held: BTreeMap<u64, Held>,
    /// The request whose answer told of each append, and of which client it was.
    acked: BTreeMap<u64, (usize, u64)>,
}

impl Holders {
    fn has(&self, node: usize, at: At) -> bool {
        self.reached
            .get(&node)
            .is_some_and(|reached| *reached >= at)
    }

    pub(crate) fn may_be_lost(&self, id: u64) -> bool {
        let held = self.acked.get(&id).and_then(|(_, it)| self.held.get(it));
        held.is_some_and(|held| held.may_be_lost)
    }

    /// A client hears that its append is done.
    pub(crate) fn acked(&mut self, client: usize, request: u64, id: u64) {
        self.acked.insert(id, (client, request));
    }

    /// Whether a client may be told of a loss.
    pub(crate) fn lost_any_of(&self, client: usize) -> bool {
        let mut ids = self.acked.iter().filter(|(_, (to, _))| *to == client);
        ids.any(|(id, _)| self.may_be_lost(*id))
    }

    pub(crate) fn lost_any(&self) -> bool {
        self.held.values().any(|held| held.may_be_lost)
    }
}

impl World {
    /// After each step of a server.
    pub(crate) fn note_reached(&mut self, node: usize) {
        if !self.plan.unsynced {
            return;
        }
        let replica = self.nodes[node].replica.as_ref();
        let status = replica.map(osd_core::ObjectReplica::status);
        let trusted = status.filter(|status| status.trusted && self.has_joined(node));
        if let Some(status) = trusted {
            let at = (status.position.epoch, status.position.seq);
            let reached = self.holders.reached.entry(node).or_insert(at);
            *reached = at.max(*reached);
        }
    }

    /// Whether its copy counts: what it has not it never lost.
    fn has_joined(&self, node: usize) -> bool {
        let state = &self.nodes[node];
        !state.incomplete && self.group.either().contains(&node)
    }

    /// A primary answers.
    pub(crate) fn note_held(&mut self, effect: &Effect) {
        if self.plan.unsynced
            && let Effect::Reply {
                request,
                result: Ok(done),
                ..
            } = effect
        {
            let held = Held {
                at: (done.epoch, done.seq),
                dead: BTreeSet::new(),
                may_be_lost: false,
            };
            self.holders.held.insert(*request, held);
        }
    }

    /// A server dies.
    pub(crate) fn note_death(&mut self, node: usize) {
        if !self.plan.unsynced {
            return;
        }
        let members = self.group.either();
        let Some(reached) = self.holders.reached.remove(&node) else {
            return;
        };
        let mut all = std::mem::take(&mut self.holders.held);
        for held in all.values_mut().filter(|held| held.at <= reached) {
            held.dead.insert(node);
            held.dead
                .retain(|dead| members.contains(dead) && !self.holders.has(*dead, held.at));
            let alive = members.iter().filter(|it| self.holders.has(**it, held.at));
            held.may_be_lost |= held.dead.len() > alive.count();
        }
        self.holders.held = all;
        let holders = &self.holders;
        let appended = &mut self.clients.oracle.appended;
        appended.retain(|record| !holders.may_be_lost(record.id));
    }

    // ---- what happens

    /// One member dies, another one is drained meanwhile, and dies 20 s later.
    pub(crate) fn drain_and_kill(&mut self) {
        if self.now >= self.faults_end {
            return;
        }
        let again = self.now + 3 * BETWEEN_DEATHS / 2;
        self.schedule(again, Target::World, Event::Inject(Fault::DrainAndKill));
        let members = self.group.members.clone();
        let first = self.rng.below(members.len() as u64) as usize;
        let second =
            (first + 1 + self.rng.below(members.len() as u64 - 1) as usize) % members.len();
        let dies = self.now + self.rng.below(3_000) * MS;
        let death = |at: usize| Event::Inject(Fault::Kill(members[at]));
        self.schedule(dies, Target::World, death(first));
        self.schedule(dies + BETWEEN_DEATHS, Target::World, death(second));
        self.drain(members[second]);
    }

    pub(crate) fn kill(&mut self, node: usize) {
        if self.nodes[node].up && self.now < self.faults_end {
            self.crash(node, false);
            let back = self.now + self.rng.between(1_000, 8_000) * MS;
            self.schedule(back, Target::World, Event::Inject(Fault::Start(node)));
        }
    }
}

impl Plan {
    /// Three replicas and two more servers; everything else that fails is drawn from the seed.
    pub(crate) fn unsynced(seed: u64) -> Self {
        Self {
            appends: true,
            unsynced: true,
            crashes: false,
            total_losses: false,
            wipes: false,
            born_late: false,
            faults_end: 70_000 * MS,
            ..Self::moving(seed, 3)
        }
    }
}

fn check(plan: impl Fn(u64) -> Plan, config: &Config, default: u64) {
    let mut total = 0;
    for seed in seeds("OXFS_SEEDS", default) {
        match run(plan(seed), config.clone()) {
            Ok(outcome) => total += outcome.done,
            Err(error) => panic!("seed {seed}: {:?}\n{error}", plan(seed)),
        }
    }
    assert!(total > 0, "nothing was done");
    println!("{total} requests");
}

#[test]
fn unsynced_appends_are_lost_only_with_a_majority_of_those_that_had_them() {
    check(Plan::unsynced, &config(), 40);
}

/// With the grace that servers have: nobody freezes and no link stalls for longer than it.
#[test]
fn the_same_with_the_ordinary_grace_while_servers_only_die() {
    let plan = |seed| Plan {
        partitions: false,
        pauses: false,
        ..Plan::unsynced(seed)
    };
    let config = Config {
        trust_grace: Config::default().trust_grace,
        ..config()
    };
    check(plan, &config, 40);
}
