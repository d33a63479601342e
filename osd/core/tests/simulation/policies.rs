//! Write policies: what must be where when a change is acknowledged (O-10), with one to seven
//! replicas, and while the policy changes.

use std::collections::{BTreeMap, BTreeSet};

use osd_core::{Config, Effect, Op};
use types::{Policy, Quorum, WritePolicy};

use crate::faults::{Fault, Plan};
use crate::lease_model::MS;
use crate::world::{Event, KEY, Node, Target, World, osd};
use crate::{Outcome, config, run, seeds};

/// How far copies ever came, as one who sees everything knows it.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    /// Newest change by epoch, its holder and node: in memory, and on disk.
    memory: BTreeMap<(u64, u64, usize), u64>,
    disk: BTreeMap<(u64, u64, usize), u64>,
    /// Where the history was that a primary took over, by epoch and node.
    taken_over: BTreeMap<(u64, usize), u64>,
    /// Bytes of requests for changes that are under way, and which change it is, however often it is
    /// asked for.
    asked: BTreeMap<u64, (u64, (u64, u64))>,
    /// Changes that were acknowledged.
    answered: BTreeSet<(u64, u64)>,
    /// Bytes of acknowledged changes by epoch, node and number.
    acknowledged: BTreeMap<(u64, usize, u64), u64>,
}

impl Placed {
    pub(crate) fn asks(&mut self, request: u64, op: &Op) {
        let (bytes, order) = match op {
            Op::Write { data, order, .. } => (data.bytes.len() as u64, order),
            Op::Truncate { order, .. } => (0, order),
            _ => return,
        };
        let change = (order.first_session.0, order.first_id);
        self.asked.insert(request, (bytes, change));
    }

    pub(crate) fn note(&mut self, number: usize, node: &Node) {
        let Some(replica) = node.replica.as_ref() else {
            return;
        };
        let status = replica.status();
        let trusted = status.trusted.then_some(status.position);
        let stable = node.store.stable_record(KEY).map(|record| record.position);
        if let Some(position) = trusted
            && position.holder == osd(number)
        {
            let of_epoch = self.taken_over.entry((position.epoch, number));
            of_epoch.or_insert(position.seq);
        }
        for (position, newest) in [(trusted, &mut self.memory), (stable, &mut self.disk)] {
            if let Some(position) = position {
                let key = (position.epoch, position.holder.0, number);
                let newest = newest.entry(key).or_default();
                *newest = position.seq.max(*newest);
            }
        }
    }

    /// The newest change that `needed` of the nodes have had.
    fn reached(
        &self,
        newest: &BTreeMap<(u64, u64, usize), u64>,
        (epoch, holder): (u64, u64),
        needed: usize,
    ) -> u64 {
        let range = (epoch, holder, 0)..=(epoch, holder, usize::MAX);
        let mut numbers: Vec<u64> = newest.range(range).map(|(_, seq)| *seq).collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        numbers.get(needed - 1).copied().unwrap_or(0)
    }
}

impl World {
    /// O-10: no acknowledgement is weaker than the policy its primary knows.
    pub(crate) fn check_placed(&mut self, node: usize, effect: &Effect) -> Result<(), String> {
        let Effect::Reply {
            request,
            result: Ok(done),
            ..
        } = effect
        else {
            return Ok(());
        };
        let Some((bytes, change)) = self.placed.asked.remove(request) else {
            return Ok(());
        };
        let placed = &mut self.placed;
        // A repetition is answered with the number that the object has by then.
        if placed.answered.insert(change) {
            let number = (done.epoch, node, done.seq);
            placed.acknowledged.entry(number).or_insert(bytes);
        }
        let policy = self.nodes[node].policy;
        let needed = policy.quorum.of(self.nodes[node].known.members.len());
        let history = (done.epoch, osd(node).0);
        let memory = placed.reached(&placed.memory, history, needed);
        let disk = placed.reached(&placed.disk, history, needed);
        // What was taken over is at a majority. A primary knows of each of the others only what it lacks of
        // the changes since.
        let taken_over = placed.taken_over.get(&(done.epoch, node)).copied();
        let had = memory.max(taken_over.unwrap_or(0)).min(done.seq);
        let lag: u64 = placed
            .acknowledged
            .range((done.epoch, node, had + 1)..(done.epoch, node, done.seq + 1))
            .map(|(_, bytes)| *bytes)
            .sum();
        let kept = match policy.write {
            WritePolicy::Fullsync => disk >= done.seq,
            WritePolicy::Memsync => memory >= done.seq,
            WritePolicy::Async => lag <= self.config.async_lag_bytes_max,
        };
        match kept {
            true => Ok(()),
            false => Err(format!(
                "node {node} acknowledged change {} under {policy:?} when {needed} replicas had {memory} in memory and {disk} on disk, {lag} bytes behind",
                done.seq
            )),
        }
    }

    /// The new policy reaches every server at its own time, never in another order.
    pub(crate) fn set_policy(&mut self) {
        if self.now >= self.faults_end {
            return;
        }
        let choice = self.rng.below(self.plan.policies.len() as u64);
        let policy = self.plan.policies[choice as usize];
        let slowest = 2_000 * MS;
        for node in 0..self.nodes.len() {
            let target = self.for_node(node);
            let at = self.now + self.rng.below(slowest);
            self.schedule(at, target, Event::Policy(policy));
        }
        let at = self.now + slowest + self.rng.below(slowest);
        self.schedule(at, Target::World, Event::Inject(Fault::SetPolicy));
    }
}

pub(crate) const fn policy(write: WritePolicy, quorum: Quorum) -> Policy {
    Policy { write, quorum }
}

pub(crate) const EVERY: [Policy; 6] = [
    policy(WritePolicy::Fullsync, Quorum::Majority),
    policy(WritePolicy::Fullsync, Quorum::All),
    policy(WritePolicy::Memsync, Quorum::Majority),
    policy(WritePolicy::Memsync, Quorum::All),
    policy(WritePolicy::Async, Quorum::Majority),
    policy(WritePolicy::Async, Quorum::All),
];

fn check(plan: &Plan) {
    // So little that it is reached.
    let mut config = config();
    config.async_lag_bytes_max = 4_000;
    if let Err(error) = run(plan.clone(), config) {
        panic!("{plan:?}\n{error}");
    }
}

#[test]
fn no_policy_breaks_its_promise_with_one_to_seven_replicas() {
    for seed in seeds("OXFS_SEEDS", 4) {
        for replicas in 1..=7 {
            for policy in EVERY {
                check(&Plan::with(seed, replicas, &[policy]));
            }
        }
    }
}

/// A run in which the replica set changes and nothing fails.
pub(crate) fn calmly(seed: u64, config: Config) -> Result<Outcome, String> {
    let plan = Plan {
        policies: vec![policy(WritePolicy::Async, Quorum::Majority)],
        ..Plan::moving_calmly(seed, 3)
    };
    run(plan, config)
}

#[test]
fn async_loses_nothing_while_nothing_fails() {
    for seed in seeds("OXFS_SEEDS", 50) {
        if let Err(error) = calmly(seed, config()) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn no_acknowledgement_is_weaker_than_the_policy_while_it_changes() {
    for seed in seeds("OXFS_SEEDS", 20) {
        let replicas = 1 + seed as usize % 7;
        check(&Plan::with(seed, replicas, &EVERY));
        check(&Plan::with(seed, replicas, &EVERY[..4]));
        check(&Plan::with(seed, replicas, &EVERY[..2]));
    }
}
