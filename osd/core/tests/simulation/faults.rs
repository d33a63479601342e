//! What goes wrong in a run, drawn from its seed.

use osd_core::MemoryStore;
use types::{Policy, Quorum, WritePolicy};

use crate::lease_model::MS;
use crate::rng::Rng;
use crate::world::{Event, KEY, Target, World};

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) replicas: usize,
    /// Further servers, which the replica set moves to.
    pub(crate) spares: usize,
    /// The object is made when the set has been changed, perhaps while servers go by different views.
    pub(crate) born_late: bool,
    pub(crate) appends: bool,
    pub(crate) crashes: bool,
    pub(crate) total_losses: bool,
    pub(crate) partitions: bool,
    pub(crate) pauses: bool,
    /// One in so many steps is followed by a pause, between a look at the clock and the work.
    pub(crate) steps_per_pause: u64,
    pub(crate) damage: bool,
    pub(crate) wipes: bool,
    pub(crate) record_before_data: bool,
    /// Wrong: servers declare without having compared.
    pub(crate) declared_unseen: bool,
    /// Wrong: servers declare what they have in memory only.
    pub(crate) declared_in_memory: bool,
    /// Wrong: servers compare with those that go by another view.
    pub(crate) compared_across_views: bool,
    /// Wrong: what a server that crashed has not is taken for never acknowledged.
    pub(crate) suspects_vouch: bool,
    /// Wrong: a change ends when the new members have declared.
    pub(crate) ended_early: bool,
    pub(crate) sums_forgotten: bool,
    pub(crate) full: bool,
    pub(crate) faults_end: u64,
    /// The volume's policy; with several, the first one first and then others by turns.
    pub(crate) policies: Vec<Policy>,
    /// All replicas but one may crash: what is acknowledged by all survives that.
    pub(crate) beyond_majority: bool,
    /// Nobody syncs; one server dies, another one is drained and dies later.
    pub(crate) unsynced: bool,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xfa_17);
        let damage = rng.once_in(8);
        let replicas = if rng.once_in(4) { 5 } else { 3 };
        let appends = rng.once_in(3);
        Self {
            seed,
            replicas,
            spares: 0,
            born_late: false,
            appends,
            crashes: !damage && !rng.once_in(4),
            total_losses: rng.once_in(3),
            partitions: !rng.once_in(4),
            pauses: !rng.once_in(4),
            steps_per_pause: 1_500,
            wipes: !damage && rng.once_in(4),
            damage,
            record_before_data: false,
            declared_unseen: false,
            declared_in_memory: false,
            compared_across_views: false,
            suspects_vouch: false,
            ended_early: false,
            sums_forgotten: false,
            full: appends && rng.once_in(2),
            faults_end: 1_000 * MS + 20_000 * MS,
            policies: vec![Policy::default()],
            beyond_majority: false,
            unsynced: false,
        }
    }

    /// The faults of a seed, with this many replicas and these policies.
    pub(crate) fn with(seed: u64, replicas: usize, policies: &[Policy]) -> Self {
        let keeps_all =
            |policy: &Policy| policy.quorum == Quorum::All && policy.write != WritePolicy::Async;
        let all = policies.iter().all(keeps_all);
        let plan = Self::of(seed);
        let beyond_majority = all && plan.crashes && seed.is_multiple_of(2);
        Self {
            replicas,
            policies: policies.to_vec(),
            beyond_majority,
            // Somebody must have it sound.
            damage: plan.damage && replicas > 2,
            // Room for a majority is promised, not for all; and what `async` lost is not refused.
            full: plan.full && replicas > 2 && *policies == [Policy::default()],
            // The others must be a majority.
            wipes: plan.wipes && replicas > 2 && !beyond_majority,
            ..plan
        }
    }

    /// The faults of a seed, while the replica set of this many servers changes.
    pub(crate) fn moving(seed: u64, replicas: usize) -> Self {
        let plan = Self::of(seed);
        Self {
            replicas,
            spares: 2,
            born_late: seed.is_multiple_of(2),
            // Where there is damage nobody else may have a sound copy yet.
            damage: false,
            full: false,
            ..plan
        }
    }

    /// The replica set of this many servers changes, and nothing fails.
    pub(crate) fn moving_calmly(seed: u64, replicas: usize) -> Self {
        Self {
            crashes: false,
            total_losses: false,
            partitions: false,
            pauses: false,
            wipes: false,
            ..Self::moving(seed, replicas)
        }
    }

    /// What is acknowledged may be lost although a majority survives: with `async`, if something fails.
    pub(crate) fn loses(&self) -> bool {
        let mut policies = self.policies.iter();
        self.fails() && policies.any(|policy| policy.write == WritePolicy::Async)
    }

    /// Something fails; otherwise servers hear in time of changes of the set.
    pub(crate) fn fails(&self) -> bool {
        self.crashes || self.total_losses || self.partitions || self.pauses || self.damage
    }

    /// What is acknowledged survives the loss of power.
    pub(crate) fn is_stable(&self) -> bool {
        let mut policies = self.policies.iter();
        policies.all(|policy| policy.write == WritePolicy::Fullsync)
    }
}

impl Plan {
    pub(crate) fn new_store(&self) -> MemoryStore {
        let store = MemoryStore::new();
        if self.damage || self.replicas == 1 || self.spares > 0 {
            // A damaged block, and others taken for damaged, would be more than one fault; and nobody could
            // tell a single replica which blocks are only torn, nor one that a change of the set left alone
            // with what it has.
            store.keep_notes();
        }
        if self.sums_forgotten {
            store.forget_sums();
        }
        store
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Time to think of one.
    Next,
    Start(usize),
    Reconnect(usize, usize),
    Quiet,
    /// The disk of a node has room again.
    Room(usize),
    /// A sync was just acknowledged.
    Synced,
    /// A node has just become primary.
    Elected(usize),
    /// An administrator changes the policy.
    SetPolicy,
    /// The replica set changes.
    ChangeSet,
    /// One dies, another one is drained.
    DrainAndKill,
    Kill(usize),
}

impl World {
    pub(crate) fn begin_faults(&mut self) {
        self.schedule(
            self.now + 500 * MS,
            Target::World,
            Event::Inject(Fault::Next),
        );
        self.schedule(
            self.now + 5_000 * MS,
            Target::World,
            Event::Inject(Fault::Quiet),
        );
        if self.plan.unsynced {
            let at = self.now + self.rng.between(1_000, 6_000) * MS;
            self.schedule(at, Target::World, Event::Inject(Fault::DrainAndKill));
        } else if self.plan.spares > 0 {
            let at = self.now + 300 * MS;
            if self.plan.born_late {
                self.clients.quiet_until = at + self.rng.below(4_000) * MS;
            }
            self.schedule(at, Target::World, Event::Inject(Fault::ChangeSet));
        }
        if self.plan.policies.len() > 1 {
            self.schedule(self.now, Target::World, Event::Inject(Fault::SetPolicy));
        }
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Start(node) => {
                if !self.nodes[node].up {
                    self.start(node);
                }
            }
            Fault::Reconnect(a, b) => {
                if self.nodes[a].up && self.nodes[b].up {
                    self.connect(a, b);
                }
            }
            Fault::Room(node) => self.nodes[node].store.limit(None),
            Fault::Synced => {
                let may = self.plan.total_losses && self.now < self.faults_end;
                if may && self.rng.once_in(15) {
                    self.lose_all();
                }
            }
            Fault::Elected(node) => {
                // Together with the one it may have its state from.
                let seq = |node: &usize| {
                    let replica = self.nodes[*node].replica.as_ref();
                    replica.map(|replica| replica.status().position.seq)
                };
                let others = (0..self.nodes.len()).filter(|other| *other != node);
                let other = others.max_by_key(seq).unwrap_or(node);
                if self.plan.partitions {
                    self.isolate(node);
                    if other != node && self.nodes.len() > 3 {
                        self.isolate(other);
                    }
                }
                if self.plan.crashes && self.rng.once_in(2) {
                    self.crash_one(node);
                }
            }
            Fault::SetPolicy => self.set_policy(),
            Fault::ChangeSet => self.change_set(),
            Fault::DrainAndKill => self.drain_and_kill(),
            Fault::Kill(node) => self.kill(node),
            Fault::Quiet => {
                // Long enough for the object to be closed.
                self.clients.quiet_until = self.now + 3_500 * MS;
                if self.now < self.faults_end {
                    let at = self.now + 8_000 * MS;
                    self.schedule(at, Target::World, Event::Inject(Fault::Quiet));
                }
            }
            Fault::Next => {
                if self.now >= self.faults_end {
                    return;
                }
                let at = self.now + self.rng.between(50, 2_500) * MS;
                self.schedule(at, Target::World, Event::Inject(Fault::Next));
                self.one_fault();
            }
        }
    }

    fn one_fault(&mut self) {
        let count = self.nodes.len();
        let node = self.rng.below(count as u64) as usize;
        let others = match count {
            1 => 0,
            _ => self.rng.below(count as u64 - 1),
        };
        let other = (node + 1 + others as usize) % count;
        match self.rng.below(10) {
            0..=2 if self.plan.crashes => self.crash_one(node),
            3 if self.plan.total_losses => self.lose_all(),
            4 | 5 if self.plan.partitions => self.cut(node, other),
            6 if self.plan.partitions => self.isolate(node),
            7 if self.plan.pauses && self.nodes[node].up => {
                let length = self.rng.between(10, 4_000) * MS;
                self.nodes[node].paused_until = self.now + length;
            }
            8 if self.plan.damage => {
                // Of a block that is being changed nobody could tell.
                let block = self.rng.below(70);
                let store = &self.nodes[0].store;
                if !store.is_being_changed(KEY, block) {
                    store.damage(KEY, block);
                }
            }
            9 if self.plan.full => self.fill_disks(),
            _ if self.plan.fails() => self.disconnect_for_a_moment(node, other),
            _ => {}
        }
    }

    /// Any number of disks have next to no room for a while.
    fn fill_disks(&mut self) {
        for node in 0..self.nodes.len() {
            if self.rng.once_in(2) {
                let store = &self.nodes[node].store;
                let used = store.bytes(KEY).map_or(0, |bytes| bytes.len() as u64);
                store.limit(Some(used + self.rng.below(400)));
                let until = self.now + self.rng.between(100, 3_000) * MS;
                self.schedule(until, Target::World, Event::Inject(Fault::Room(node)));
            }
        }
    }

    /// A crash that the promises cover: a majority keeps what it has in memory.
    fn crash_one(&mut self, node: usize) {
        let sound = |node: &crate::world::Node| {
            node.up
                && node
                    .replica
                    .as_ref()
                    .is_some_and(|replica| replica.status().trusted)
        };
        let too_many = |set: &Vec<usize>| {
            let unsound = set.iter().filter(|member| !sound(&self.nodes[**member]));
            let most = match self.plan.beyond_majority {
                true => set.len() - 1,
                false => (set.len() - 1) / 2,
            };
            set.contains(&node) && unsound.count() + 1 > most
        };
        if !self.nodes[node].up || self.group.sets().any(too_many) {
            return;
        }
        let power = self.rng.once_in(2);
        self.crash(node, power);
        // A second disk is lost only when the first one's loss is made up for.
        if self.plan.wipes && self.group.incomplete.is_empty() && self.rng.once_in(4) {
            self.wipe(node);
        }
        let at = self.now + self.rng.between(1, 4_000) * MS;
        self.schedule(at, Target::World, Event::Inject(Fault::Start(node)));
    }

    fn lose_all(&mut self) {
        if self.nodes.iter().any(|node| !node.up || node.incomplete) {
            return;
        }
        let power = !self.rng.once_in(4);
        let is_primary = |node: &crate::world::Node| {
            let replica = node.replica.as_ref();
            replica.is_some_and(|replica| replica.status().role == osd_core::Role::Primary)
        };
        let primary = self.nodes.iter().position(is_primary);
        for node in 0..self.nodes.len() {
            self.crash(node, power);
            let at = self.now + self.rng.between(1, 2_000) * MS;
            self.schedule(at, Target::World, Event::Inject(Fault::Start(node)));
        }
        // One disk may be gone with it: the others are a majority.
        let wiped = self.plan.wipes || self.rng.once_in(3);
        let few = self.group.sets().any(|set| set.len() <= 2);
        if wiped && !self.plan.damage && !few && self.group.incomplete.is_empty() {
            let any = self.rng.below(self.nodes.len() as u64) as usize;
            let wiped = match self.rng.once_in(2) {
                true => primary.unwrap_or(any),
                false => any,
            };
            self.wipe(wiped);
        }
        self.clients.oracle.power_lost();
    }

    fn cut(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        let until = self.now + self.rng.between(100, 5_000) * MS;
        if self.rng.once_in(2) {
            self.stall(a, b, until);
        } else {
            self.disconnect(a, b);
            self.schedule(until, Target::World, Event::Inject(Fault::Reconnect(a, b)));
        }
    }

    fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    fn disconnect_for_a_moment(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.disconnect(a, b);
        let at = self.now + self.rng.between(1, 50) * MS;
        self.schedule(at, Target::World, Event::Inject(Fault::Reconnect(a, b)));
    }
}
