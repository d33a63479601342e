//! The world: servers, mounts and the metadata cluster, what happens to them, and when.

use std::collections::BTreeMap;

use osd_core::{Call, Done, ObjectKey, Op, Payload, PeerFailure};
use proto::{mrc, peer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use types::{Duration, Fault as Refusal, Instant, OsdId, PgKey};

use crate::cluster::Coverage;
use crate::cluster::content::{Content, MOUNTS};
use crate::cluster::fate::{Ailment, Plan};
use crate::cluster::meta::{Meta, Origin};
use crate::cluster::mount::Mount;
use crate::cluster::options::Options;
use crate::cluster::server::{Asked, Common, Item, PeerAnswer, Server};
use crate::cluster::streams::Streams;
use crate::network::Network;
use crate::time::{Clock, Schedule, TrueTime};
use crate::trace::Trace;

/// What one server sends another on a stream.
#[derive(Debug)]
pub(crate) enum Frame {
    Ask {
        key: ObjectKey,
        asked: Asked,
        message: Box<peer::Request>,
        payload: Payload,
    },
    Answer {
        call: u64,
        reply: Box<PeerAnswer>,
    },
    List {
        group: PgKey,
        asked: Asked,
    },
    Listed {
        call: u64,
        states: Vec<peer::ObjectState>,
    },
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Happening {
    // To a server; void if it was started anew since.
    LeaseMessage {
        from: OsdId,
        to: OsdId,
        message: lease::Message,
    },
    Stream {
        from: OsdId,
        to: OsdId,
        life: u64,
        generation: u64,
        frame: Frame,
    },
    Works(OsdId, u64),
    Alarm(OsdId, u64),
    LeaseTimer(OsdId, u64),
    Looks(OsdId, u64),
    JobData(OsdId, u64, u64),
    JobRecord(OsdId, u64, u64),
    CallTimesOut(OsdId, u64, u64),
    Replies {
        osd: OsdId,
        life: u64,
        request: u64,
        result: Box<Result<Done, Refusal>>,
        valid_until: Option<Instant>,
    },
    AsksObject {
        mount: usize,
        osd: OsdId,
        life: u64,
        call: u64,
        key: ObjectKey,
        session: u64,
        op: Box<Op>,
    },
    Deletes {
        osd: OsdId,
        life: u64,
        batch: u64,
        keys: Vec<ObjectKey>,
    },
    Starts(OsdId),
    StopEnds(OsdId, u64),
    // To a mount.
    Mount(usize),
    ObjectAnswers {
        mount: usize,
        call: u64,
        result: Box<Result<Done, Refusal>>,
    },
    ObjectGone {
        mount: usize,
        call: u64,
    },
    MetaAnswers {
        mount: usize,
        call: u64,
        attempt: Option<u64>,
        result: Box<mrc_core::Reply>,
    },
    // To the metadata cluster.
    AsksMeta {
        member: usize,
        mount: usize,
        call: u64,
        attempt: u64,
        change: u64,
        request: Box<mrc::Request>,
    },
    Commits(u64),
    Elects,
    Janitor,
    Deleted {
        osd: OsdId,
        batch: u64,
        done: bool,
    },
    // To the world.
    Connections,
    Misfortune,
    PowerFails,
}

impl Happening {
    /// The server it happens to, and in which life if that matters.
    const fn server(&self) -> Option<(OsdId, Option<u64>)> {
        match self {
            Self::LeaseMessage { to, .. } => Some((*to, None)),
            Self::Stream { to, life, .. } => Some((*to, Some(*life))),
            Self::Works(osd, life)
            | Self::Alarm(osd, life)
            | Self::LeaseTimer(osd, life)
            | Self::Looks(osd, life)
            | Self::JobData(osd, life, _)
            | Self::JobRecord(osd, life, _)
            | Self::CallTimesOut(osd, life, _)
            | Self::Replies { osd, life, .. }
            | Self::AsksObject { osd, life, .. }
            | Self::Deletes { osd, life, .. }
            | Self::StopEnds(osd, life) => Some((*osd, Some(*life))),
            _ => None,
        }
    }

    /// What the trace notes of it.
    fn gist(&self) -> (&'static str, u64, u64) {
        match self {
            Self::LeaseMessage { from, to, message } => {
                ("lease message", from.0 << 32 | to.0, message.ballot.counter)
            }
            Self::Stream {
                from, to, frame, ..
            } => {
                let kind = match frame {
                    Frame::Ask { asked, .. } => asked.call << 2,
                    Frame::Answer { call, .. } => call << 2 | 1,
                    Frame::List { asked, .. } => asked.call << 2 | 2,
                    Frame::Listed { call, .. } => call << 2 | 3,
                };
                ("stream", from.0 << 32 | to.0, kind)
            }
            Self::Works(osd, life) => ("works", osd.0, *life),
            Self::Alarm(osd, life) => ("alarm", osd.0, *life),
            Self::LeaseTimer(osd, life) => ("lease timer", osd.0, *life),
            Self::Looks(osd, life) => ("looks", osd.0, *life),
            Self::JobData(osd, _, job) => ("job data", osd.0, *job),
            Self::JobRecord(osd, _, job) => ("job record", osd.0, *job),
            Self::CallTimesOut(osd, _, call) => ("call times out", osd.0, *call),
            Self::Replies { osd, request, .. } => ("replies", osd.0, *request),
            Self::AsksObject {
                mount, osd, call, ..
            } => ("asks object", (*mount as u64) << 32 | osd.0, *call),
            Self::Deletes { osd, batch, .. } => ("deletes", osd.0, *batch),
            Self::Starts(osd) => ("starts", osd.0, 0),
            Self::StopEnds(osd, life) => ("stop ends", osd.0, *life),
            Self::Mount(mount) => ("mount", *mount as u64, 0),
            Self::ObjectAnswers { mount, call, .. } => ("object answers", *mount as u64, *call),
            Self::ObjectGone { mount, call } => ("object gone", *mount as u64, *call),
            Self::MetaAnswers { mount, call, .. } => ("meta answers", *mount as u64, *call),
            Self::AsksMeta { member, call, .. } => ("asks meta", *member as u64, *call),
            Self::Commits(id) => ("commits", *id, 0),
            Self::Elects => ("elects", 0, 0),
            Self::Janitor => ("janitor", 0, 0),
            Self::Deleted { osd, batch, .. } => ("deleted", osd.0, *batch),
            Self::Connections => ("connections", 0, 0),
            Self::Misfortune => ("misfortune", 0, 0),
            Self::PowerFails => ("power fails", 0, 0),
        }
    }
}

/// The world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) plan: Plan,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) schedule: Schedule<Happening>,
    pub(crate) network: Network,
    pub(crate) streams: Streams,
    pub(crate) servers: Vec<Server>,
    pub(crate) meta: Meta,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) contents: BTreeMap<u64, Content>,
    /// Where the objects of files are that were ever opened.
    pub(crate) keys: BTreeMap<u64, ObjectKey>,
    /// Losses of power everywhere.
    pub(crate) losses: u64,
    pub(crate) next_id: u64,
    /// Deletions that servers were asked for: whom, and the numbers of the garbage.
    pub(crate) deletions: BTreeMap<u64, (OsdId, Vec<u64>)>,
    /// No more faults but those that stay for ever.
    pub(crate) calm: bool,
    /// Programs begin nothing any more.
    pub(crate) stopping: bool,
    pub(crate) coverage: Coverage,
    pub(crate) finding: Option<(TrueTime, String)>,
    pub(crate) trace: Trace,
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let plan = Plan::draw(&mut rng, &options);
        let osds: Vec<_> = (1..=plan.servers).map(OsdId).collect();
        let mut meta = Meta::new(&osds, plan.replicas, plan.groups, options.edit);
        let mounts = (0..MOUNTS).map(|mount| Mount::new(meta.open_session(10 + mount as u64)));
        let mounts = mounts.collect();
        let mut replica = options.replica.clone();
        if plan.ill.is_some() || plan.stays {
            // Whoever waits out the grace for a server that never answers must not give up before.
            replica.idle_after = replica.trust_grace.scaled(5, 4);
        }
        let common = Common {
            replica,
            lease: options.lease.clone(),
            groups: meta.groups(),
            edit: options.edit,
        };
        let now = TrueTime::default();
        let drift_ppm = options.lease.max_drift_ppm;
        let server = |osd: &OsdId| {
            let rate = crate::faults::drift(&mut rng, drift_ppm);
            let clock = Clock::new(now, rng.random_range(0..1 << 50), rate);
            Server::new(*osd, common.clone(), clock)
        };
        let servers = osds.iter().map(server).collect();
        let mut world = Self {
            trace: Trace::new(options.readable),
            options,
            plan,
            rng,
            schedule: Schedule::default(),
            network: Network::default(),
            streams: Streams::default(),
            servers,
            meta,
            mounts,
            contents: BTreeMap::new(),
            keys: BTreeMap::new(),
            losses: 0,
            next_id: 0,
            deletions: BTreeMap::new(),
            calm: false,
            stopping: false,
            coverage: Coverage::default(),
            finding: None,
        };
        for osd in osds {
            world.start(osd);
        }
        for mount in 0..MOUNTS {
            world
                .schedule
                .after(Duration::ZERO, Happening::Mount(mount));
        }
        world.schedule.after(Duration::ZERO, Happening::Connections);
        world.schedule.after(Duration::ZERO, Happening::Janitor);
        world
            .schedule
            .after(Duration::from_secs(1), Happening::Misfortune);
        world
    }

    pub(crate) fn run_until(&mut self, end: TrueTime) {
        while self.finding.is_none()
            && let Some(happening) = self.schedule.next(end)
        {
            let Some(happening) = self.deferred(happening) else {
                continue;
            };
            self.trace.note(self.schedule.now(), &happening.gist());
            self.happen(happening);
        }
    }

    /// What happens to a server that can't act now waits; what belongs to an earlier life is void.
    fn deferred(&mut self, happening: Happening) -> Option<Happening> {
        let Some((osd, life)) = happening.server() else {
            return Some(happening);
        };
        let now = self.schedule.now();
        let server = self.server(osd);
        if !server.up || life.is_some_and(|life| life != server.life) {
            return None;
        }
        let shards = !matches!(
            happening,
            Happening::LeaseMessage { .. } | Happening::LeaseTimer(..)
        );
        let mut until = server.paused_until;
        if shards {
            until = until.max(server.stuck_until);
        }
        let cut = match &happening {
            Happening::Stream { from, to, .. } => self.streams.cut_until(from.0, to.0),
            Happening::AsksObject { mount, osd, .. } => self
                .streams
                .cut_until(super::mount::mount_end(*mount), osd.0),
            _ => None,
        };
        let until = until.max(cut.unwrap_or_default());
        if until > now {
            self.schedule.at(until, happening);
            return None;
        }
        Some(happening)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::LeaseMessage { from, to, message } => {
                self.act(to, |server, now, acts| {
                    server.with_host(now, acts, |host, now, out| {
                        host.message(now, from.into(), message, out);
                    });
                });
            }
            Happening::Stream {
                from,
                to,
                generation,
                frame,
                ..
            } => self.arrives(from, to, generation, frame),
            Happening::Works(osd, _) => self.works(osd),
            Happening::Alarm(osd, _) => {
                self.server(osd).alarm_planned = None;
                self.act(osd, Server::ring_alarms);
            }
            Happening::LeaseTimer(osd, _) => {
                self.server(osd).host_planned = None;
                self.act(osd, |server, now, acts| {
                    server.with_host(now, acts, |host, now, out| host.tick(now, out));
                });
            }
            Happening::Looks(osd, life) => {
                self.act(osd, Server::look);
                let again = Happening::Looks(osd, life);
                self.schedule.after(Duration::from_millis(500), again);
            }
            Happening::JobData(osd, life, job) => self.job_data(osd, life, job),
            Happening::JobRecord(osd, _, job) => self.job_record(osd, job),
            Happening::CallTimesOut(osd, _, call) => {
                self.call_failed(osd, call, PeerFailure::Timeout);
            }
            Happening::Replies {
                osd,
                request,
                result,
                valid_until,
                ..
            } => self.replies(osd, request, *result, valid_until),
            Happening::AsksObject {
                mount,
                osd,
                call,
                key,
                session,
                op,
                ..
            } => {
                let session = types::SessionId(session);
                let op = *op;
                self.deliver(
                    osd,
                    Item::Client {
                        key,
                        session,
                        op,
                        mount,
                        call,
                    },
                );
            }
            Happening::Deletes {
                osd, batch, keys, ..
            } => self.deliver(osd, Item::Delete { keys, batch }),
            Happening::Starts(osd) => {
                if !self.server(osd).up {
                    self.start(osd);
                }
            }
            Happening::StopEnds(osd, _) => self.stopped(osd),
            Happening::Mount(mount) => self.mount_turn(mount),
            Happening::ObjectAnswers {
                mount,
                call,
                result,
            } => self.object_answered(mount, call, *result),
            Happening::ObjectGone { mount, call } => self.object_gone(mount, call),
            Happening::MetaAnswers {
                mount,
                call,
                attempt,
                result,
            } => self.meta_answered(mount, call, attempt, *result),
            Happening::AsksMeta {
                member,
                mount,
                call,
                attempt,
                change,
                request,
            } => self.meta_asked((member, mount), (call, attempt, change), *request),
            Happening::Commits(id) => {
                let committed = self.meta.commit(id);
                self.committed(committed, true);
            }
            Happening::Elects => self.elects(),
            Happening::Janitor => self.janitor(),
            Happening::Deleted { osd, batch, done } => self.deleted(osd, batch, done),
            Happening::Connections => self.connections(),
            Happening::Misfortune => self.misfortune(),
            Happening::PowerFails => self.power_fails(),
        }
    }

    // ---- helpers

    pub(crate) fn report(&mut self, wrong: impl Into<String>) {
        if self.finding.is_none() {
            self.finding = Some((self.schedule.now(), wrong.into()));
        }
    }

    pub(crate) fn server(&mut self, osd: OsdId) -> &mut Server {
        // Servers are numbered from 1.
        &mut self.servers[osd.0 as usize - 1]
    }

    pub(crate) fn osds(&self) -> Vec<OsdId> {
        self.servers.iter().map(|server| server.me).collect()
    }

    pub(crate) fn members(&self, key: ObjectKey) -> Vec<OsdId> {
        let group = super::server::group_of(key);
        let groups = &self.servers[0].common.groups;
        groups.get(&group).cloned().unwrap_or_default()
    }

    /// A time between two numbers of milliseconds.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> Duration {
        let (low, high) = (low * 1_000_000, high * 1_000_000);
        Duration::from_nanos(self.rng.random_range(low..=high))
    }

    pub(crate) fn delay(&mut self) -> Duration {
        match self.rng.random_range(0..200) {
            0 if !self.calm => self.between(20, 400),
            1..=10 if !self.calm => self.between(1, 20),
            _ => Duration::from_micros(self.rng.random_range(50..500)),
        }
    }

    pub(crate) fn is_ill(&self, osd: OsdId) -> bool {
        self.plan.ill == Some(osd)
    }

    pub(crate) fn has(&self, osd: OsdId, ailment: Ailment) -> bool {
        self.is_ill(osd) && self.plan.ailment == ailment
    }

    /// Tells a server's shard something.
    pub(crate) fn deliver(&mut self, osd: OsdId, item: Item) {
        self.server(osd).inbox.push_back(item);
        self.plan_work(osd);
    }

    pub(crate) fn plan_work(&mut self, osd: OsdId) {
        let micros = self.rng.random_range(1..100);
        let server = self.server(osd);
        if server.inbox.is_empty() || server.work_planned {
            return;
        }
        server.work_planned = true;
        let life = server.life;
        self.schedule
            .after(Duration::from_micros(micros), Happening::Works(osd, life));
    }

    // ---- the metadata cluster

    pub(crate) fn plan_commit(&mut self, id: u64) {
        let latency = match self.calm {
            true => Duration::from_millis(2),
            false => self.between(1, self.plan.commit_max),
        };
        self.schedule.after(latency, Happening::Commits(id));
    }

    pub(crate) fn committed(
        &mut self,
        committed: Result<Vec<super::meta::Committed>, String>,
        heard: bool,
    ) {
        let committed = match committed {
            Ok(committed) => committed,
            Err(wrong) => return self.report(wrong),
        };
        for one in committed {
            let now = self.schedule.now();
            self.trace.tell(now, || {
                format!(
                    "committed {:?}: {:?} removed {:?}",
                    one.origin, one.reply, one.removed
                )
            });
            for inode in one.removed {
                self.coverage.removed += 1;
                let open = |mount: &Mount| mount.open_inodes().contains(&inode);
                if let Some(mount) = self.mounts.iter().position(open) {
                    self.report(format!(
                        "inode {inode} is removed, mount {mount} has it open"
                    ));
                }
            }
            if let Origin::Mount { mount, call, .. } = one.origin
                && heard
                && let Some(leader) = self.meta.leader
            {
                self.meta_answer((leader, mount), call, None, one.reply);
            }
        }
    }

    pub(crate) fn call_failed(&mut self, osd: OsdId, call: u64, failure: PeerFailure) {
        let server = self.server(osd);
        if let Some((from, group)) = server.lists.remove(&call) {
            server.recovery.not_listed(from, group);
        }
        let Some((from, object, kind)) = server.calls.remove(&call) else {
            return;
        };
        self.answered(osd, (from, object, kind), Err(failure));
    }

    pub(crate) fn answered(
        &mut self,
        osd: OsdId,
        (from, object, call): (OsdId, types::ObjectId, Call),
        reply: PeerAnswer,
    ) {
        let item = Item::PeerReply {
            object,
            from,
            call,
            reply,
        };
        self.deliver(osd, item);
    }
}
