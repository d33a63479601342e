//! The world: servers, mounts and the metadata cluster, what happens to them, and when.

use std::collections::BTreeMap;

use osd_core::{Call, ObjectKey, PeerFailure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use types::{Duration, OsdId, PgKey};

use crate::cluster::Coverage;
use crate::cluster::content::{Content, MOUNTS};
use crate::cluster::happening::Happening;
use crate::cluster::meta::{Meta, Origin};
use crate::cluster::mount::Mount;
use crate::cluster::options::Options;
use crate::cluster::plan::{Ailment, Plan};
use crate::cluster::server::{Common, Item, PeerAnswer, Server};
use crate::cluster::streams::Streams;
use crate::network::Network;
use crate::time::{Clock, Schedule, TrueTime};
use crate::trace::Trace;

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
    /// Writers of sessions that ended, whose objects' lengths were asked for, and the epoch of truncations then.
    pub(crate) settling: BTreeMap<u64, (mrc_core::janitor::LostWriter, u64)>,
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
        let mut meta = Meta::new(&osds, &plan, options.edit);
        let timeout = plan.session_timeout;
        let mounts = (0..MOUNTS).map(|mount| {
            let session = meta.open_session(10 + mount as u64);
            Mount::new(session, timeout)
        });
        let mounts = mounts.collect();
        let mut replica = options.replica.clone();
        if plan.ill.is_some() || plan.stays {
            // Whoever waits out the grace for a server that never answers must not give up before.
            replica.idle_after = replica.trust_grace.scaled(5, 4);
        }
        let common = Common {
            replica,
            lease: options.lease.clone(),
            // A damaged block, and others taken for damaged, would be more than one fault; and nobody could tell
            // a single replica which blocks are only torn.
            keeps_notes: plan.replicas == 1
                || plan.moves
                || plan.ill.is_some() && plan.replicas < 3,
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
            settling: BTreeMap::new(),
            calm: false,
            stopping: false,
            coverage: Coverage::default(),
            finding: None,
        };
        let map = crate::cluster::map::Map::of(&world.meta.map());
        for osd in osds {
            let server = world.server(osd);
            server.first_map = map.clone();
            server.map = map.clone();
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
            .after(Duration::from_millis(300), Happening::Governs);
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
            Happening::AsksObject { mount, osd, .. } if *mount != super::keeping::SETTLER => self
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
                right,
                op,
                ..
            } => self.knocks(osd, (mount, call), key, (&right, *op)),
            Happening::Deletes {
                osd, batch, keys, ..
            } => self.deliver(osd, Item::Delete { keys, batch }),
            Happening::Beats(osd, life) => self.beats(osd, life),
            Happening::MapArrives { osd, map, .. } => {
                self.deliver(osd, Item::Map(crate::cluster::map::Map::of(&map)));
            }
            Happening::BeatArrives {
                member,
                osd,
                life,
                beat,
            } => self.beat_arrives(member, (osd, life), &beat),
            Happening::Governs => self.governs(),
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
                let committed = self.meta.commit(self.schedule.now(), id);
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

    /// The members of a group as the metadata cluster has them.
    pub(crate) fn members(&self, key: ObjectKey) -> Vec<OsdId> {
        let group = super::server::group_of(key);
        self.groups_now().remove(&group).unwrap_or_default()
    }

    /// The same of all groups, without the sets before.
    pub(crate) fn groups_now(&self) -> BTreeMap<PgKey, Vec<OsdId>> {
        let groups = self.meta.pgs().into_iter();
        let group = |pg: proto::mrc::Pg| {
            let members = pg.osds.iter().copied().map(OsdId);
            (crate::cluster::map::key_of(&pg), members.collect())
        };
        groups.map(group).collect()
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
                // Who lost the session has lost the right to it, too.
                let meta = &self.meta;
                let open =
                    |mount: &Mount| mount.open_inodes(|it| meta.is_alive(it)).contains(&inode);
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
                let reply = self.meta.complete(now, one.session, one.reply);
                self.meta_answer((leader, mount), call, None, reply);
            }
        }
    }

    pub(crate) fn call_failed(&mut self, osd: OsdId, call: u64, failure: PeerFailure) {
        let now = self.schedule.now();
        let server = self.server(osd);
        if let Some((from, group, _)) = server.lists.remove(&call) {
            let clock = server.clock.read(now);
            server.recovery.not_listed(clock, from, group);
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
