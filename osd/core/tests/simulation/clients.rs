//! Clients: each writes its own registers (or appends), reads everybody's, and repeats what was not
//! answered with a new change id, at another server.

mod replies;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use osd_core::{ChangeOrder, Op, Payload};
use types::SessionId;

use crate::faults::Plan;
use crate::lease_model::MS;
use crate::oracle::{
    Known, OFFSETS, Oracle, REGISTER_BYTES, REGISTERS, Record, SHARED, length_of, register_bytes,
};
use crate::world::{Event, Target, World};

pub(crate) const CLIENTS: usize = 3;

#[derive(Clone, Debug)]
enum Goal {
    /// One register after the other, without waiting for the answer to the first.
    Write {
        writes: Vec<Write>,
    },
    Length {
        value: u64,
    },
    Append {
        id: u64,
        bytes: Vec<u8>,
    },
    Read {
        register: usize,
    },
    ReadRecord {
        record: Record,
    },
    Stat,
    Sync,
}

#[derive(Clone, Debug)]
struct Write {
    register: usize,
    value: u64,
    /// Id of its first attempt, and the session then; 0: not sent yet.
    first_id: u64,
    first_session: u64,
    /// The request that may be answered.
    request: u64,
    known: Known,
}

#[derive(Debug)]
struct Client {
    goal: Option<Goal>,
    request: u64,
    resend_at: u64,
    begun_at: u64,
    known: Known,
    node: usize,
    session: u64,
    change_id: u64,
    /// First change id of the goal, and the session then.
    first_id: u64,
    first_session: u64,
    /// The newest change it knows to be acknowledged, and how often power was lost before it was sent.
    follows: u64,
    follows_losses: u64,
    /// Turns planned before the newest one are void.
    turn: u64,
}

#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) oracle: Oracle,
    pub(crate) quiet_until: u64,
    pub(crate) done: u64,
    pub(crate) longest: u64,
    pub(crate) stopping: bool,
    pub(crate) ids: BTreeMap<u64, usize>,
    /// Appends that were refused for want of room at their first attempt.
    pub(crate) refused: BTreeSet<u64>,
    clients: Vec<Client>,
    appends: bool,
    next_request: u64,
    next_id: u64,
}

impl Clients {
    pub(crate) fn new(plan: &Plan) -> Self {
        let clients = (0..CLIENTS).map(|index| Client {
            goal: None,
            request: 0,
            resend_at: 0,
            begun_at: 0,
            known: Known::default(),
            node: 0,
            session: index as u64 + 1,
            change_id: 0,
            first_id: 0,
            first_session: 0,
            follows: 0,
            follows_losses: 0,
            turn: 0,
        });
        Self {
            oracle: Oracle::new(plan.loses(), plan.beyond_majority),
            quiet_until: 0,
            done: 0,
            longest: 0,
            stopping: false,
            ids: BTreeMap::new(),
            refused: BTreeSet::new(),
            clients: clients.collect(),
            appends: plan.appends,
            next_request: 0,
            next_id: 0,
        }
    }

    pub(crate) fn idle(&self) -> bool {
        self.clients.iter().all(|client| client.goal.is_none())
    }

    pub(crate) fn describe(&self) -> String {
        let clients = self.clients.iter();
        let lines = clients.map(|client| format!("{:?} since {}", client.goal, client.begun_at));
        lines.collect::<Vec<_>>().join(", ")
    }
}

impl Client {
    fn writes(&mut self) -> &mut [Write] {
        match &mut self.goal {
            Some(Goal::Write { writes }) => writes,
            _ => &mut [],
        }
    }

    fn waits_for(&mut self, request: u64) -> bool {
        self.request == request || self.writes().iter().any(|write| write.request == request)
    }

    /// Answers to what was sent so far count for nothing.
    fn wait_for_nothing(&mut self) {
        self.request = 0;
        for write in self.writes() {
            write.request = 0;
        }
    }

    /// The write that a request asked for, which is done.
    fn take_write(&mut self, request: u64) -> Option<Write> {
        let Some(Goal::Write { writes }) = &mut self.goal else {
            return None;
        };
        let index = writes.iter().position(|write| write.request == request)?;
        Some(writes.remove(index))
    }

    /// Takes note of an acknowledged change; false if nobody will miss it, since it began in an earlier session.
    fn acknowledged(&mut self, (first_id, session): (u64, u64), losses: u64) -> bool {
        let followed = session == self.session;
        if followed && first_id > self.follows {
            self.follows = first_id;
            self.follows_losses = losses;
        }
        followed
    }
}

impl World {
    pub(crate) fn begin_clients(&mut self) {
        for client in 0..CLIENTS {
            self.plan_turn(client, self.now);
        }
    }

    pub(crate) fn world_event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::ClientTurn { client, turn } if self.clients.clients[client].turn == turn => {
                self.client_turn(client);
            }
            Event::ClientReply { request, result } => self.client_reply(request, result)?,
            Event::Inject(fault) => self.inject(fault),
            _ => {}
        }
        Ok(())
    }

    fn client_turn(&mut self, index: usize) {
        let now = self.now;
        let quiet = self.clients.quiet_until;
        let client = &self.clients.clients[index];
        if client.goal.is_some() {
            // Without an answer: somewhere else.
            if client.resend_at <= now {
                let nodes = self.nodes.len() as u64;
                self.clients.clients[index].node = self.rng.below(nodes) as usize;
                self.client_send(index);
            }
        } else if self.clients.stopping {
            return;
        } else if now >= quiet {
            self.client_begin(index);
        }
        let pause = match self.clients.clients[index].goal {
            Some(_) => 100 * MS,
            None => quiet.saturating_sub(now) + MS,
        };
        self.plan_turn(index, now + pause);
    }

    fn plan_turn(&mut self, client: usize, at: u64) {
        self.clients.clients[client].turn += 1;
        let turn = self.clients.clients[client].turn;
        self.schedule(at, Target::World, Event::ClientTurn { client, turn });
    }

    fn client_begin(&mut self, index: usize) {
        let goal = match self.clients.appends {
            true => self.append_goal(),
            false => self.register_goal(index),
        };
        let now = self.now;
        let nodes = self.nodes.len() as u64;
        let elsewhere = self.rng.once_in(10).then(|| self.rng.below(nodes));
        let client = &mut self.clients.clients[index];
        if let Some(node) = elsewhere {
            // What it knew of the primary was forgotten.
            client.node = node as usize;
        }
        client.goal = Some(goal);
        client.begun_at = now;
        client.first_id = client.change_id + 1;
        client.first_session = client.session;
        self.client_send(index);
    }

    fn append_goal(&mut self) -> Goal {
        let oracle = &self.clients.oracle;
        match self.rng.below(8) {
            0 if !self.plan.unsynced => Goal::Sync,
            1 => Goal::Stat,
            2 | 3 if !oracle.appended.is_empty() => {
                let record = self.rng.below(oracle.appended.len() as u64) as usize;
                let record = oracle.appended[record].clone();
                Goal::ReadRecord { record }
            }
            _ => {
                self.clients.next_id += 1;
                let id = 0xa77e_0000_0000_0000 | self.clients.next_id;
                let words = self.rng.between(1, 400) as usize;
                self.clients.ids.insert(id, words);
                Goal::Append {
                    id,
                    bytes: id.to_le_bytes().repeat(words),
                }
            }
        }
    }

    fn register_goal(&mut self, index: usize) -> Goal {
        match self.rng.below(12) {
            0 => Goal::Sync,
            1 => Goal::Stat,
            2 if index == 0 => {
                let value = self.clients.oracle.length.asked + 1;
                self.clients.oracle.length.asked = value;
                Goal::Length { value }
            }
            3..=6 => Goal::Read {
                register: self.rng.below(REGISTERS as u64 + 1) as usize,
            },
            7 => Goal::Write {
                writes: vec![self.write_of(SHARED)],
            },
            _ => {
                let mine = self.rng.below((REGISTERS / CLIENTS) as u64) as usize;
                let mut writes = vec![self.write_of(mine * CLIENTS + index)];
                if self.rng.once_in(3) {
                    let other = (mine + 1) % (REGISTERS / CLIENTS);
                    writes.push(self.write_of(other * CLIENTS + index));
                }
                Goal::Write { writes }
            }
        }
    }

    fn write_of(&mut self, register: usize) -> Write {
        let value = match register {
            SHARED => self.clients.oracle.shared.ask(self.now),
            _ => {
                let register = &mut self.clients.oracle.registers[register];
                register.asked += 1;
                register.asked
            }
        };
        Write {
            register,
            value,
            first_id: 0,
            first_session: 0,
            request: 0,
            known: Known::default(),
        }
    }

    fn client_send(&mut self, index: usize) {
        let now = self.now;
        let patience = self.rng.between(300, 6_000) * MS;
        if self.now < self.faults_end && self.rng.once_in(60) {
            self.session_ends(index);
        }
        let client = &mut self.clients.clients[index];
        // Patience differs, so that some are served elsewhere while others still wait.
        client.resend_at = now + patience;
        let Some(goal) = client.goal.take() else {
            return;
        };
        let goal = match goal {
            Goal::Write { writes } => {
                let mut sent = Vec::with_capacity(writes.len());
                for write in writes {
                    let after = sent.last().map_or(0, |before: &Write| before.first_id);
                    sent.push(self.write_send(index, write, after));
                }
                Goal::Write { writes: sent }
            }
            goal => {
                self.other_send(index, &goal);
                goal
            }
        };
        self.clients.clients[index].goal = Some(goal);
    }

    fn write_send(&mut self, index: usize, mut write: Write, after: u64) -> Write {
        write.request = self.next_request(index);
        write.known = self.clients.oracle.known(write.register);
        let client = &mut self.clients.clients[index];
        client.change_id += 1;
        if write.first_id == 0 {
            write.first_id = client.change_id;
            write.first_session = client.session;
        }
        let op = Op::Write {
            offset: OFFSETS[write.register],
            data: Payload::of(register_bytes(write.register, write.value).into()),
            append: false,
            order: ChangeOrder {
                change_id: client.change_id,
                first_id: write.first_id,
                first_session: SessionId(write.first_session),
                after,
                follows: client.follows,
            },
        };
        self.post(index, write.request, op);
        write
    }

    fn other_send(&mut self, index: usize, goal: &Goal) {
        let request = self.next_request(index);
        let register = match goal {
            Goal::Read { register } => *register,
            _ => 0,
        };
        let known = self.clients.oracle.known(register);
        let client = &mut self.clients.clients[index];
        client.change_id += 1;
        client.request = request;
        client.known = known;
        let follows = client.follows;
        let order = ChangeOrder {
            change_id: client.change_id,
            first_id: client.first_id,
            first_session: SessionId(client.first_session),
            after: 0,
            follows,
        };
        let op = match goal {
            Goal::Write { .. } => return,
            Goal::Length { value } => Op::Truncate {
                length_bytes: length_of(*value),
                order,
            },
            Goal::Append { bytes, .. } => Op::Write {
                offset: 0,
                data: Payload::of(Bytes::from(bytes.clone())),
                append: true,
                order,
            },
            Goal::Read { register } => Op::Read {
                offset: OFFSETS[*register],
                length_bytes: REGISTER_BYTES as u32,
            },
            Goal::ReadRecord { record } => Op::Read {
                offset: record.offset,
                length_bytes: record.bytes.len() as u32,
            },
            Goal::Stat => Op::Stat,
            Goal::Sync => Op::Sync { follows },
        };
        self.post(index, request, op);
    }

    fn write_acked(&mut self, index: usize, write: &Write) {
        let ids = (write.first_id, write.first_session);
        let followed = self.clients.clients[index].acknowledged(ids, write.known.losses);
        let oracle = &mut self.clients.oracle;
        let lost = write.known.losses != oracle.losses || self.plan.loses();
        match write.register {
            SHARED if lost => {}
            SHARED => oracle.shared.answered(write.value, self.now),
            register => {
                if followed {
                    oracle.registers[register].owed = write.value;
                }
                if !lost {
                    oracle.write_acked(register, write.value);
                }
            }
        }
        if self.plan.is_stable() && !lost {
            oracle.acked_is_durable();
        }
    }

    /// The mount goes on in another session, which has no past: nobody tells it of losses before.
    fn session_ends(&mut self, index: usize) {
        let client = &mut self.clients.clients[index];
        client.session += CLIENTS as u64;
        client.follows = 0;
        client.wait_for_nothing();
        self.clients.oracle.told_lost(index);
    }

    fn next_request(&mut self, index: usize) -> u64 {
        self.clients.next_request += 1;
        self.clients.next_request * CLIENTS as u64 + index as u64
    }

    fn post(&mut self, index: usize, request: u64, op: Op) {
        self.placed.asks(request, &op);
        let node = self.clients.clients[index].node;
        let session = self.clients.clients[index].session;
        // A slow network delays requests for long, so that old ones come late.
        let at = match self.now < self.faults_end && self.rng.once_in(100) {
            true => self.now + self.rng.between(100, 6_000) * MS,
            false => self.now + self.delay(),
        };
        let target = self.for_node(node);
        self.schedule(
            at,
            target,
            Event::Client {
                request,
                session,
                op,
            },
        );
    }
}
