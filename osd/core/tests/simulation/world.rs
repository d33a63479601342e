//! Object servers, their network, their disks and their leases, in one thread and virtual time.

use std::collections::BTreeMap;

use osd_core::{
    Call, Config, Input, LeaseEvent, MemoryStore, ObjectKey, ObjectReplica, Payload, PeerFailure,
    Role, SyncJob, expired,
};
use proto::peer;
use types::{Fault, Inode, Instant, ObjectId, OsdId, PgId, Policy, VolumeId};

use crate::clients::Clients;
use crate::faults::{Fault as InjectedFault, Plan};
use crate::lease_model::{LeaseModel, MS};
use crate::policies::Placed;
use crate::rng::Rng;
use crate::sets::{Group, Settling};
use crate::unsynced::Holders;

pub(crate) const KEY: ObjectKey = ObjectKey {
    pg: PgId(1),
    object: ObjectId {
        volume: VolumeId(1),
        inode: Inode(42),
        column: 0,
    },
};

pub(crate) type Reply = Result<osd_core::Done, Fault>;

pub(crate) struct Node {
    pub(crate) replica: Option<ObjectReplica>,
    pub(crate) store: MemoryStore,
    /// Counts starts; 0 while it is down.
    pub(crate) incarnation: u64,
    pub(crate) boot: u64,
    pub(crate) up: bool,
    pub(crate) paused_until: u64,
    pub(crate) recovered: bool,
    pub(crate) incomplete: bool,
    /// The replica sets, as far as it knows. Durable.
    pub(crate) known: Group,
    pub(crate) settling: Settling,
    /// As far as it knows.
    pub(crate) policy: Policy,
    pub(crate) behind: Vec<OsdId>,
    /// What it lacks in this view, up to where.
    pub(crate) wanted: osd_core::Position,
    primary: bool,
    /// A look at the clock before a pause, used for what waited for its end.
    clock_read: Option<u64>,
    pub(crate) jobs: BTreeMap<u64, Box<dyn SyncJob>>,
    pub(crate) calls: BTreeMap<u64, (usize, Call)>,
    pub(crate) answers: BTreeMap<u64, (usize, u64, u64)>,
    pub(crate) wake: Option<u64>,
}

pub(crate) enum Event {
    Request {
        from: usize,
        connection: u64,
        call: u64,
        message: peer::Request,
        payload: Payload,
    },
    Response {
        from: usize,
        connection: u64,
        call: u64,
        response: peer::Response,
        payload: Payload,
    },
    CallFailed {
        call: u64,
        failure: PeerFailure,
    },
    Acquire {
        newborn: bool,
        floor: u64,
    },
    Lease(LeaseEvent),
    Renew {
        epoch: u64,
    },
    JobData(u64),
    JobRecord(u64),
    Wake,
    Shell,
    Client {
        request: u64,
        session: u64,
        op: osd_core::Op,
    },
    SendReply {
        request: u64,
        result: Reply,
        valid_until: Option<Instant>,
    },
    PeerUp(usize),
    PeerLost(usize),
    Policy(Policy),
    // Not of a node:
    ClientReply {
        request: u64,
        result: Reply,
    },
    ClientTurn {
        client: usize,
        turn: u64,
    },
    Inject(InjectedFault),
}

/// Whom an event is for: a node in one of its lives, or the world.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Node { node: usize, incarnation: u64 },
    World,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) lease: LeaseModel,
    /// What the metadata cluster has recorded.
    pub(crate) group: Group,
    pub(crate) clients: Clients,
    pub(crate) config: Config,
    pub(crate) plan: Plan,
    pub(crate) faults_end: u64,
    pub(crate) trace: u64,
    pub(crate) events: u64,
    /// Bytes of data and of checksums that went from server to server.
    pub(crate) moved_bytes: u64,
    queue: BTreeMap<(u64, u64), (Target, Event)>,
    next_event: u64,
    pub(crate) next_id: u64,
    /// Generation of the connection between two nodes; even while it is down.
    pub(crate) connections: BTreeMap<(usize, usize), u64>,
    pub(crate) stalled_until: BTreeMap<(usize, usize), u64>,
    pub(crate) last_arrival: BTreeMap<(usize, usize, u64), u64>,
    pub(crate) placed: Placed,
    pub(crate) holders: Holders,
}

pub(crate) fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

pub(crate) fn osd(node: usize) -> OsdId {
    OsdId(node as u64 + 1)
}

pub(crate) fn node_of(id: OsdId) -> usize {
    id.0 as usize - 1
}

impl World {
    pub(crate) fn new(plan: Plan, config: Config) -> Self {
        let count = plan.replicas + plan.spares;
        let nodes = (0..count).map(|_| Node {
            replica: None,
            store: plan.new_store(),
            incarnation: 0,
            boot: 0,
            up: false,
            paused_until: 0,
            recovered: true,
            policy: plan.policies[0],
            incomplete: false,
            known: Group::new(plan.replicas),
            settling: Settling::default(),
            behind: Vec::new(),
            wanted: osd_core::Position::default(),
            primary: false,
            clock_read: None,
            jobs: BTreeMap::new(),
            calls: BTreeMap::new(),
            answers: BTreeMap::new(),
            wake: None,
        });
        let mut world = Self {
            now: 1_000 * MS,
            rng: Rng::new(plan.seed),
            nodes: nodes.collect(),
            lease: LeaseModel::new(count),
            group: Group::new(plan.replicas),
            clients: Clients::new(&plan),
            config,
            faults_end: plan.faults_end,
            trace: 0xcbf2_9ce4_8422_2325,
            events: 0,
            moved_bytes: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            next_id: 0,
            connections: BTreeMap::new(),
            stalled_until: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            placed: Placed::default(),
            holders: Holders::default(),
            plan,
        };
        for node in 0..world.nodes.len() {
            for other in 0..node {
                world.connections.insert(pair(node, other), 1);
            }
        }
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world
    }

    // ---- time

    pub(crate) fn schedule(&mut self, at: u64, target: Target, event: Event) {
        self.next_event += 1;
        let at = at.max(self.now);
        self.queue.insert((at, self.next_event), (target, event));
    }

    pub(crate) fn for_node(&self, node: usize) -> Target {
        Target::Node {
            node,
            incarnation: self.nodes[node].incarnation,
        }
    }

    /// Performs the next event; false if there is none before `until`.
    pub(crate) fn advance(&mut self, until: u64) -> Result<bool, String> {
        let Some(entry) = self.queue.first_entry() else {
            return Ok(false);
        };
        let (at, number) = *entry.key();
        if at > until {
            return Ok(false);
        }
        let (target, event) = entry.remove();
        self.now = at;
        let node = match target {
            Target::World => {
                self.world_event(event)?;
                return Ok(true);
            }
            Target::Node { node, incarnation } => {
                if self.nodes[node].incarnation != incarnation || !self.nodes[node].up {
                    return Ok(true);
                }
                node
            }
        };
        let resumes = self.nodes[node].paused_until;
        if resumes > self.now {
            if self.nodes[node].clock_read.is_none() && self.rng.once_in(2) {
                // Paused between a look at the clock and the work.
                self.nodes[node].clock_read = Some(self.now);
            }
            // Kept in order: numbers are as before.
            self.queue.insert((resumes, number), (target, event));
            return Ok(true);
        }
        if let Event::Request { from, .. } | Event::Response { from, .. } = event {
            let stalled = self.stalled_until.get(&pair(node, from)).copied();
            if let Some(stalled) = stalled.filter(|stalled| *stalled > self.now) {
                self.queue.insert((stalled, number), (target, event));
                return Ok(true);
            }
        }
        self.node_event(node, event)?;
        Ok(true)
    }

    pub(crate) fn note(&mut self, what: u64) {
        for byte in [what, self.now] {
            self.trace = (self.trace ^ byte).wrapping_mul(0x100_0000_01b3);
        }
        self.events += 1;
    }

    // ---- servers

    pub(crate) fn start(&mut self, node: usize) {
        let membership = self.membership(node);
        let config = self.config.clone();
        let state = &mut self.nodes[node];
        state.up = true;
        state.boot += 1;
        state.incarnation += 1;
        state.paused_until = 0;
        state.clock_read = None;
        state.store.restart();
        let mut store = state.store.clone();
        let replica = ObjectReplica::open(osd(node), KEY, membership, config, &mut store);
        state.replica = Some(replica.expect("the store opens"));
        let target = self.for_node(node);
        self.schedule(self.now + 50 * MS, target, Event::Shell);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if self.nodes[other].up {
                self.connect(node, other);
            }
        }
    }

    pub(crate) fn crash(&mut self, node: usize, power: bool) {
        self.note_death(node);
        let rng = &mut self.rng;
        let state = &mut self.nodes[node];
        state.up = false;
        state.replica = None;
        state.recovered = false;
        state.behind.clear();
        state.settling = Settling::default();
        state.wake = None;
        // A job that was under way may have got anywhere.
        for (_, mut job) in std::mem::take(&mut state.jobs) {
            let got = rng.below(3);
            let wrong = self.plan.record_before_data;
            for step in 0..got {
                let _ = match (step == 0) != wrong {
                    true => job.write_data(true),
                    false => job.write_record(true),
                };
            }
        }
        if power {
            state.store.lose_power(&mut |bound| rng.below(bound));
        }
        state.calls.clear();
        state.answers.clear();
        self.lease.floors[node] = 0;
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.disconnect(node, other);
        }
    }

    pub(crate) fn wipe(&mut self, node: usize) {
        self.nodes[node].store = self.plan.new_store();
        self.nodes[node].incomplete = true;
        self.mark_incomplete(node);
    }

    fn node_event(&mut self, node: usize, event: Event) -> Result<(), String> {
        let input = match event {
            Event::Request {
                from,
                connection,
                call,
                message,
                payload,
            } => {
                let current = self.connections[&pair(node, from)];
                if connection != current && !self.rng.once_in(3) {
                    return Ok(());
                }
                self.next_id += 1;
                let answer = self.next_id;
                let asked = (from, connection, call);
                self.nodes[node].answers.insert(answer, asked);
                Input::PeerRequest {
                    from: osd(from),
                    answer,
                    message,
                    payload,
                }
            }
            Event::Response {
                from,
                connection,
                call,
                response,
                payload,
            } => {
                if connection != self.connections[&pair(node, from)] {
                    return Ok(());
                }
                let Some((_, call)) = self.nodes[node].calls.remove(&call) else {
                    return Ok(());
                };
                Input::PeerReply {
                    from: osd(from),
                    call,
                    reply: Ok((response, payload)),
                }
            }
            Event::CallFailed { call, failure } => {
                let Some((to, call)) = self.nodes[node].calls.remove(&call) else {
                    return Ok(());
                };
                Input::PeerReply {
                    from: osd(to),
                    call,
                    reply: Err(failure),
                }
            }
            Event::Acquire { newborn, floor } => {
                self.acquire(node, newborn, floor);
                return Ok(());
            }
            Event::Lease(event) => Input::Lease(event),
            Event::Renew { epoch } => {
                self.renew(node, epoch);
                return Ok(());
            }
            Event::JobData(ticket) => {
                let at = self.now + self.disk_delay();
                let target = self.for_node(node);
                if let Some(job) = self.nodes[node].jobs.get_mut(&ticket) {
                    let done = match self.plan.record_before_data {
                        true => job.write_record(true),
                        false => job.write_data(true),
                    };
                    done.map_err(|error| format!("sync: {error}"))?;
                    self.schedule(at, target, Event::JobRecord(ticket));
                }
                return Ok(());
            }
            Event::JobRecord(ticket) => {
                let Some(mut job) = self.nodes[node].jobs.remove(&ticket) else {
                    return Ok(());
                };
                let result = match self.plan.record_before_data {
                    true => job.write_data(true),
                    false => job.write_record(true),
                };
                Input::StoreDone { ticket, result }
            }
            Event::Wake => {
                if self.nodes[node].wake.is_none_or(|at| at > self.now) {
                    return Ok(());
                }
                self.nodes[node].wake = None;
                Input::Tick
            }
            Event::Shell => {
                self.shell(node)?;
                return Ok(());
            }
            Event::Client {
                request,
                session,
                op,
            } => Input::Client {
                request,
                session: types::SessionId(session),
                op,
            },
            Event::SendReply {
                request,
                result,
                valid_until,
            } => {
                // The shell's look at the clock, just before the answer leaves.
                let now = Instant::from_nanos(self.now);
                let result = match valid_until.is_some_and(|until| until <= now) {
                    true => Err(expired()),
                    false => result,
                };
                let at = self.now + self.delay();
                self.schedule(at, Target::World, Event::ClientReply { request, result });
                return Ok(());
            }
            Event::PeerUp(other) => Input::PeerUp(osd(other)),
            Event::PeerLost(other) => Input::PeerLost(osd(other)),
            Event::Policy(policy) => {
                self.nodes[node].policy = policy;
                Input::Membership(self.membership(node))
            }
            Event::ClientReply { .. } | Event::ClientTurn { .. } | Event::Inject(_) => {
                return Ok(());
            }
        };
        self.step(node, input)
    }

    pub(crate) fn step(&mut self, node: usize, input: Input) -> Result<(), String> {
        // One look at the clock serves the whole batch that waited for the end of the pause.
        let resumed = self.nodes[node].paused_until == self.now;
        let clock_read = self.nodes[node].clock_read.filter(|_| resumed);
        self.nodes[node].clock_read = clock_read;
        let now = Instant::from_nanos(clock_read.unwrap_or(self.now));
        let mut effects = Vec::new();
        let ticked = matches!(input, Input::Tick) && clock_read.is_none();
        let state = &mut self.nodes[node];
        let Some(replica) = state.replica.as_mut() else {
            return Ok(());
        };
        replica.step(now, input, &mut state.store, &mut effects);
        let primary = replica.status().role == Role::Primary;
        let elected = primary && !std::mem::replace(&mut state.primary, primary);
        state.primary = primary;
        self.placed.note(node, &self.nodes[node]);
        self.note_reached(node);
        // What a pause between the decision and its consequences would do.
        if self.now < self.faults_end
            && self.plan.pauses
            && self.rng.once_in(self.plan.steps_per_pause)
        {
            let length = self.rng.between(10, 4_000) * MS;
            self.nodes[node].paused_until = self.now + length;
        }
        for effect in effects {
            self.check_placed(node, &effect)?;
            self.note_held(&effect);
            self.perform(node, effect);
        }
        if elected && self.now < self.faults_end && self.rng.once_in(6) {
            // The worst moment: it has just begun to serve.
            let at = self.now + self.rng.below(10) * MS;
            self.schedule(
                at,
                Target::World,
                Event::Inject(InjectedFault::Elected(node)),
            );
        }
        self.plan_wake(node, ticked)
    }

    pub(crate) fn disk_delay(&mut self) -> u64 {
        match self.rng.below(50) {
            0 => self.rng.between(20, 500) * MS,
            _ => self.rng.between(100, 3_000) * 1_000,
        }
    }
}
