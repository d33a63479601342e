//! The task of a lease server that wants leases: it takes what came in, decides, and asks the lease
//! shell for all of it at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use lease::{Event, Membership};
use lease_shell::LeaseShell;
use shell::clock::boottime;
use shell::link::{Link, LinkOptions, Payload, Responder, Role, ServiceKind};
use tokio::sync::mpsc::UnboundedReceiver;
use types::{CellId, MemberId};

use crate::ask::{ACQUIRE, Answer, Ask};
use crate::control::{Command, Said, Totals};
use crate::jobs::{HELD, Hold, LOAD, Load, Request, SHARED, SLOTS, cell, kind_of, low_of};
use crate::node::{identity, say};

/// What wakes the worker.
#[derive(Debug)]
pub(crate) enum Item {
    Events(Vec<Event>),
    Command(Command),
    Client(Ask, Responder),
}

/// Leases asked for at a time while a large number is acquired.
const HOLD_WINDOW: usize = 1024;
/// Items taken at a time. 4096: all that the largest load has under way.
const ITEMS_MAX: usize = 4096;
/// How long the worker sleeps at most, and how often it looks whether all members are connected.
const LOOK: Duration = Duration::from_millis(5);
/// Shortest pause before a wanted lease is asked for again.
const WANT_PAUSE: Duration = Duration::from_millis(1);

/// The task's state.
pub(crate) struct Worker {
    me: MemberId,
    shell: Arc<LeaseShell>,
    inbox: UnboundedReceiver<Item>,
    requests: Vec<Request>,
    /// This server and the two after it: the replica set of its files.
    own: Membership,
    everybody: Membership,
    links: Vec<Arc<Link>>,
    connecting: bool,
    load: Option<Load>,
    hold: Hold,
    /// Cells wanted, and when to ask for those that somebody else has.
    wanted: HashMap<u64, bool>,
    again: BTreeMap<(Instant, u64), ()>,
    asked: HashMap<u64, ()>,
    clients: HashMap<CellId, Responder>,
    answers: Vec<(Responder, Answer)>,
    totals: Totals,
}

impl Worker {
    pub(crate) fn new(
        me: MemberId,
        members: u64,
        shell: Arc<LeaseShell>,
        inbox: UnboundedReceiver<Item>,
    ) -> Self {
        let membership = |members: Vec<MemberId>| Membership::new(1, members);
        let ring = (0..members.min(3)).map(|step| MemberId((me.0 - 1 + step) % members + 1));
        Self {
            me,
            shell,
            inbox,
            requests: Vec::new(),
            own: membership(ring.collect()),
            everybody: membership((1..=members).map(MemberId).collect()),
            links: Vec::new(),
            connecting: false,
            load: None,
            hold: Hold::default(),
            wanted: HashMap::new(),
            again: BTreeMap::new(),
            asked: HashMap::new(),
            clients: HashMap::new(),
            answers: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Works until the process ends.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut items = Vec::with_capacity(ITEMS_MAX);
        loop {
            let next = self.again.first_key_value().map(|((at, _), ())| *at);
            let wait = match next {
                Some(at) => at.saturating_duration_since(Instant::now()),
                None if self.connecting => LOOK,
                None => Duration::from_secs(3600),
            };
            let taken = self.inbox.recv_many(&mut items, ITEMS_MAX);
            if tokio::time::timeout(wait, taken).await == Ok(0) {
                return Ok(());
            }
            for item in items.drain(..) {
                match item {
                    Item::Events(events) => self.events(&events)?,
                    Item::Command(command) => self.command(command)?,
                    Item::Client(ask, responder) => self.client(ask, responder),
                }
            }
            self.ask_again();
            self.look()?;
            self.perform();
        }
    }

    /// All requests under one lock, so that they leave together; then the answers to clients.
    fn perform(&mut self) {
        let Self {
            shell,
            requests,
            own,
            everybody,
            answers,
            ..
        } = self;
        if !requests.is_empty() {
            shell.ask(|asking| {
                for request in requests.drain(..) {
                    match request {
                        Request::Acquire {
                            cell,
                            everybody: all,
                            newborn,
                        } => {
                            let members = if all { &*everybody } else { &*own };
                            asking.acquire(cell, members, 0, newborn);
                        }
                        Request::Release(cell) => asking.release(cell),
                    }
                }
            });
        }
        for (responder, answer) in answers.drain(..) {
            responder.ok(&answer, Payload::none());
        }
    }

    fn command(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Peers { addresses } => self.connect(&addresses),
            Command::Load {
                outstanding,
                newborn,
            } => self.start_load(outstanding, newborn)?,
            Command::Stop => {
                let idle = self.load.as_ref().is_none_or(|load| load.pending == 0);
                if let Some(load) = &mut self.load {
                    load.stopping = true;
                }
                if idle {
                    say(&Said::Done)?;
                }
            }
            Command::Read => self.read()?,
            Command::Hold {
                count,
                members,
                run,
            } => self.start_hold(count, members, run)?,
            Command::Want { first, count } => {
                for low in first..first + count {
                    self.wanted.insert(low, false);
                    self.acquire_shared(low);
                }
                say(&Said::Done)?;
            }
            Command::Ask { cell } => {
                self.asked.insert(cell, ());
                self.acquire_shared(cell);
            }
            Command::Release { cell: low } => {
                self.wanted.remove(&low);
                self.requests.push(Request::Release(cell(SHARED, low)));
            }
        }
        Ok(())
    }

    fn connect(&mut self, addresses: &[(u64, String)]) {
        let open = |(id, address): &(u64, String)| {
            let link = Link::open(
                identity(Role::Osd, self.me.0),
                ServiceKind::Lease,
                address.clone(),
                LinkOptions::default(),
            );
            // Links connect with their first message; this one says nothing.
            link.push(&proto::peer::LeaseFrame::default());
            (MemberId(*id), link)
        };
        let others = addresses.iter().filter(|(id, _)| *id != self.me.0);
        let links: HashMap<MemberId, Arc<Link>> = others.map(open).collect();
        self.links = links.values().cloned().collect();
        self.shell.set_links(links);
        self.connecting = true;
    }

    /// Whether the server has become ready.
    fn look(&mut self) -> Result<()> {
        let ready = self.connecting
            && self.shell.quarantine_remaining().is_none()
            && self.links.iter().all(|link| link.is_connected());
        if ready {
            self.connecting = false;
            say(&Said::Done)?;
        }
        Ok(())
    }

    fn read(&self) -> Result<()> {
        let (traffic, stats) = (self.shell.traffic(), self.shell.stats());
        let mut totals = self.totals.clone();
        totals.messages = traffic.messages_sent;
        totals.frames = traffic.frames_sent;
        totals.bytes = traffic.bytes_sent;
        totals.renewals = stats.counters.renewals;
        totals.held = self.hold.held.iter().filter(|held| **held).count() as u64;
        totals.rss_bytes = benches::process::rss_bytes();
        say(&Said::Totals(Box::new(totals)))
    }

    fn events(&mut self, events: &[Event]) -> Result<()> {
        let now = Instant::now();
        for event in events {
            match *event {
                Event::Held { cell, epoch, .. } => self.held(now, cell, epoch)?,
                Event::HeldBy {
                    cell,
                    member,
                    remaining,
                } => self.not_held(now, cell, Some(member), remaining.to_std())?,
                Event::NoQuorum { cell }
                | Event::OldView { cell, .. }
                | Event::Refused { cell, .. } => {
                    self.not_held(now, cell, None, Duration::ZERO)?;
                }
                Event::Lost { cell, .. } => {
                    self.totals.lost += 1;
                    if kind_of(cell) == HELD {
                        self.set_held(low_of(cell), false);
                    }
                }
                Event::Offered { .. } => {}
            }
        }
        Ok(())
    }

    fn held(&mut self, now: Instant, id: CellId, epoch: u64) -> Result<()> {
        match kind_of(id) {
            LOAD => self.load_held(now, id)?,
            HELD => {
                if self.set_held(low_of(id), true) {
                    self.hold_more()?;
                }
            }
            SHARED => {
                let low = low_of(id);
                let at_ns = boottime().as_nanos();
                if let Some(held @ false) = self.wanted.get_mut(&low) {
                    *held = true;
                    say(&Said::Held { cell: low, at_ns })?;
                }
                if self.asked.remove(&low).is_some() {
                    let holder = Some(self.me.0);
                    say(&Said::Outcome {
                        cell: low,
                        holder,
                        at_ns,
                    })?;
                }
            }
            _ => {
                if let Some(responder) = self.clients.remove(&id) {
                    self.totals.pairs += 1;
                    let answer = Answer { done: true, epoch };
                    self.answers.push((responder, answer));
                }
            }
        }
        Ok(())
    }

    fn not_held(
        &mut self,
        now: Instant,
        id: CellId,
        holder: Option<MemberId>,
        remaining: Duration,
    ) -> Result<()> {
        let low = low_of(id);
        match kind_of(id) {
            LOAD => {
                self.totals.failures += 1;
                self.load_next(now, low % SLOTS)?;
            }
            HELD => {
                self.totals.failures += 1;
                self.hold_more()?;
            }
            SHARED => {
                if self.wanted.get(&low) == Some(&false) {
                    let pause = remaining.max(WANT_PAUSE);
                    self.again.insert((now + pause, low), ());
                }
                if self.asked.remove(&low).is_some() {
                    say(&Said::Outcome {
                        cell: low,
                        holder: holder.map(|member| member.0),
                        at_ns: boottime().as_nanos(),
                    })?;
                }
            }
            _ => {
                self.totals.failures += 1;
                if let Some(responder) = self.clients.remove(&id) {
                    let (done, epoch) = (false, 0);
                    self.answers.push((responder, Answer { done, epoch }));
                }
            }
        }
        Ok(())
    }

    fn start_load(&mut self, outstanding: usize, newborn: bool) -> Result<()> {
        let now = Instant::now();
        // Goes on where the last one ended: no cell comes twice.
        let sequence = self.load.as_ref().map_or(0, |load| load.sequence);
        self.load = Some(Load {
            newborn,
            stopping: false,
            pending: outstanding,
            sequence,
            started: vec![now; outstanding],
        });
        for slot in 0..outstanding as u64 {
            self.load_next(now, slot)?;
        }
        say(&Said::Done)
    }

    fn load_held(&mut self, now: Instant, id: CellId) -> Result<()> {
        let slot = low_of(id) % SLOTS;
        let Some(load) = &self.load else {
            return Ok(());
        };
        if let Some(started) = load.started.get(slot as usize) {
            let latency = now.duration_since(*started);
            self.totals.acquire.add(latency);
            self.totals.pair.add(latency);
        }
        self.totals.pairs += 1;
        self.requests.push(Request::Release(id));
        self.load_next(now, slot)
    }

    fn load_next(&mut self, now: Instant, slot: u64) -> Result<()> {
        let Some(load) = &mut self.load else {
            return Ok(());
        };
        if load.stopping {
            load.pending -= 1;
            if load.pending == 0 {
                say(&Said::Done)?;
            }
            return Ok(());
        }
        load.sequence += 1;
        if let Some(started) = load.started.get_mut(slot as usize) {
            *started = now;
        }
        self.requests.push(Request::Acquire {
            cell: cell(LOAD | self.me.0, load.sequence * SLOTS + slot),
            everybody: false,
            newborn: load.newborn,
        });
        Ok(())
    }

    fn start_hold(&mut self, count: u64, members: u64, run: u64) -> Result<()> {
        let old = std::mem::take(&mut self.hold);
        for low in 0..old.next {
            self.requests.push(Request::Release(cell(old.kind, low)));
        }
        self.hold = Hold {
            kind: HELD | run << 16 | self.me.0,
            next: 0,
            members,
            held: vec![false; count as usize],
            settled: 0,
        };
        if count == 0 {
            return say(&Said::Done);
        }
        for _ in 0..HOLD_WINDOW.min(count as usize) {
            self.hold_next();
        }
        Ok(())
    }

    fn hold_next(&mut self) {
        let low = self.hold.next;
        if low < self.hold.held.len() as u64 {
            self.hold.next += 1;
            self.requests.push(Request::Acquire {
                cell: cell(self.hold.kind, low),
                everybody: self.hold.members > 3,
                newborn: false,
            });
        }
    }

    fn hold_more(&mut self) -> Result<()> {
        self.hold.settled += 1;
        self.hold_next();
        if self.hold.settled == self.hold.held.len() {
            say(&Said::Done)?;
        }
        Ok(())
    }

    /// Notes whether a lease is held. True if that is new.
    fn set_held(&mut self, low: u64, held: bool) -> bool {
        match self.hold.held.get_mut(low as usize) {
            Some(noted) if *noted != held => {
                *noted = held;
                true
            }
            Some(_) | None => false,
        }
    }

    fn acquire_shared(&mut self, low: u64) {
        self.requests.push(Request::Acquire {
            cell: cell(SHARED, low),
            everybody: true,
            newborn: false,
        });
    }

    fn ask_again(&mut self) {
        let now = Instant::now();
        while let Some((&(at, low), ())) = self.again.first_key_value()
            && at <= now
        {
            self.again.remove(&(at, low));
            if self.wanted.get(&low) == Some(&false) {
                self.acquire_shared(low);
            }
        }
    }

    fn client(&mut self, ask: Ask, responder: Responder) {
        let id = CellId(u128::from(ask.cell_high) << 64 | u128::from(ask.cell_low));
        if ask.verb == ACQUIRE {
            self.clients.insert(id, responder);
            self.requests.push(Request::Acquire {
                cell: id,
                everybody: false,
                newborn: ask.newborn,
            });
        } else {
            self.requests.push(Request::Release(id));
            let (done, epoch) = (true, 0);
            self.answers.push((responder, Answer { done, epoch }));
        }
    }
}
