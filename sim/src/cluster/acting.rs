//! Servers at work: their inboxes, their timers, their disks, and what leaves them.

use osd_core::expired;
use rand::RngExt;
use types::{Duration, Instant, OsdId};

use crate::cluster::happening::{Frame, Happening};
use crate::cluster::plan::Ailment;
use crate::cluster::server::{Act, Asked, Item, Server, Waiting};
use crate::cluster::shell::TrueNow;
use crate::cluster::world::World;
use crate::time::TrueTime;

impl World {
    /// Lets a server act, performs what comes out, and plans when it goes on.
    pub(crate) fn act(
        &mut self,
        osd: OsdId,
        work: impl FnOnce(&mut Server, Instant, &mut Vec<Act>),
    ) {
        let now = self.schedule.now();
        let mut acts = Vec::new();
        let server = self.server(osd);
        let clock = server.clock.read(now);
        work(server, clock, &mut acts);
        if let Some(object) = server.spins.take() {
            self.report(format!(
                "server {osd}: {object} wants to be woken in the past"
            ));
        }
        for act in acts {
            self.perform(osd, act);
        }
        self.plan_timers(osd);
        self.plan_work(osd);
    }

    pub(crate) fn works(&mut self, osd: OsdId) {
        self.server(osd).work_planned = false;
        let mut left = self.server(osd).inbox.len();
        while left > 0
            && let Some(item) = self.server(osd).inbox.pop_front()
        {
            left -= 1;
            let now = self.schedule.now();
            self.trace
                .tell(now, || format!("{osd} handles {}", clipped(&item)));
            self.act(osd, |server, now, acts| server.handle(now, item, acts));
            self.maybe_freeze(osd);
            let now = self.schedule.now();
            if self.server(osd).paused_until > now {
                break;
            }
        }
        let server = self.server(osd);
        if server.stopping && server.slots.is_empty() {
            let life = server.life;
            self.schedule
                .after(Duration::ZERO, Happening::StopEnds(osd, life));
        }
        self.plan_work(osd);
    }

    /// When its timers wake it.
    pub(crate) fn plan_timers(&mut self, osd: OsdId) {
        let now = self.schedule.now();
        let late = match self.rng.random_range(0..20) {
            0 if !self.calm => self.between(0, 50),
            _ => Duration::ZERO,
        };
        let server = self.server(osd);
        let life = server.life;
        if let Some(at) = server.next_alarm() {
            let at = server.clock.when(at).max(TrueTime(now.0 + 1));
            if server.alarm_planned.is_none_or(|planned| at < planned) {
                server.alarm_planned = Some(at);
                self.schedule.at(at, Happening::Alarm(osd, life));
            }
        }
        let server = self.server(osd);
        let wakeup = server.host.as_ref().and_then(lease::Host::next_wakeup);
        if let Some(at) = wakeup {
            let at = server.clock.when(at).max(TrueTime(now.0 + 1)) + late;
            if server.host_planned.is_none_or(|planned| at < planned) {
                server.host_planned = Some(at);
                self.schedule.at(at, Happening::LeaseTimer(osd, life));
            }
        }
    }

    fn perform(&mut self, osd: OsdId, act: Act) {
        let now = self.schedule.now();
        self.trace
            .tell(now, || format!("{osd} acts {}", clipped(&act)));
        let life = self.server(osd).life;
        match act {
            Act::Peer {
                object,
                to,
                call,
                message,
                payload,
                timeout,
            } => {
                self.next_id += 1;
                let id = self.next_id;
                let server = self.server(osd);
                let Some(slot) = server.slots.get(&object) else {
                    return;
                };
                let key = slot.key;
                server.calls.insert(id, (to, object, call));
                let asked = Asked {
                    from: osd,
                    call: id,
                };
                let frame = Frame::Ask {
                    key,
                    asked,
                    message,
                    payload,
                };
                match self.send_frame(osd, to, frame) {
                    true => {
                        let late = Happening::CallTimesOut(osd, life, id);
                        self.schedule.after(timeout, late);
                    }
                    false => {
                        self.call_failed(osd, id, osd_core::PeerFailure::Disconnected);
                    }
                }
            }
            Act::Answer { asked, reply } => {
                let reply = Box::new(reply);
                let call = asked.call;
                self.send_frame(osd, asked.from, Frame::Answer { call, reply });
            }
            Act::Reply {
                request,
                result,
                valid_until,
            } => {
                let result = Box::new(result);
                let replies = Happening::Replies {
                    osd,
                    life,
                    request,
                    result,
                    valid_until,
                };
                self.schedule.after(Duration::ZERO, replies);
            }
            Act::Sync {
                object,
                ticket,
                job,
                lazy,
            } => {
                self.next_id += 1;
                let id = self.next_id;
                self.server(osd).jobs.insert(id, (object, ticket, job));
                let patience = match lazy {
                    true => self.between(0, 20),
                    false => Duration::ZERO,
                };
                let delay = patience + self.disk_delay(osd);
                self.schedule
                    .after(delay, Happening::JobData(osd, life, id));
            }
            Act::Lease { to, message } => self.send_lease(osd, to, message),
            Act::List { to, group, view } => {
                self.next_id += 1;
                let call = self.next_id;
                self.server(osd).lists.insert(call, (to, group, view));
                let asked = Asked { from: osd, call };
                if self.send_frame(osd, to, Frame::List { group, view, asked }) {
                    let late = Happening::CallTimesOut(osd, life, call);
                    self.schedule.after(Duration::from_secs(30), late);
                } else {
                    self.call_failed(osd, call, osd_core::PeerFailure::Disconnected);
                }
            }
            Act::Listed { asked, list } => {
                let call = asked.call;
                self.send_frame(osd, asked.from, Frame::Listed { call, list });
            }
            Act::Gone(key) => {
                let inode = super::mount::inode_of(key.object);
                if self.meta.names.files.contains(&inode) {
                    self.report(format!("server {osd} deletes {key} of a live file"));
                }
            }
            Act::Moved(key) => {
                self.coverage.moved += 1;
                if self.meta.keeps(osd, super::server::group_of(key)) {
                    self.report(format!("server {osd} deletes {key}, which is its to keep"));
                }
            }
        }
    }

    fn send_lease(&mut self, osd: OsdId, to: OsdId, message: lease::Message) {
        let at = self.schedule.now();
        let renewal = matches!(
            message.body,
            lease::Body::Accept { renewal: true, ttl, .. } if ttl > Duration::ZERO
        );
        let since = self.server(osd).stuck_since;
        let stuck_for = Duration::from_nanos(at.0.saturating_sub(since.0));
        if renewal && !self.server(osd).may_renew(TrueNow { at, stuck_for }) {
            return;
        }
        if self.streams.cut_until(osd.0, to.0).is_some() {
            return;
        }
        let delays = match self.calm {
            true => vec![Duration::from_micros(300)],
            false => self.network.route(osd.into(), to.into(), &mut self.rng),
        };
        for delay in delays {
            let from = osd;
            let arrives = Happening::LeaseMessage { from, to, message };
            self.schedule.after(delay, arrives);
        }
    }

    /// The answer leaves: the clock is looked at after the work.
    pub(crate) fn replies(
        &mut self,
        osd: OsdId,
        request: u64,
        result: Result<osd_core::Done, types::Fault>,
        valid_until: Option<Instant>,
    ) {
        let now = self.schedule.now();
        let server = self.server(osd);
        let clock = server.clock.read(now);
        let Some(waiting) = server.clients.remove(&request) else {
            return;
        };
        let result = match valid_until {
            Some(until) if clock >= until => Err(expired()),
            _ => result,
        };
        match waiting {
            Waiting::Nobody => {}
            Waiting::Delete { batch } => {
                let Some((left, well)) = server.batches.get_mut(&batch) else {
                    return;
                };
                *left -= 1;
                *well &= result.is_ok();
                if *left > 0 {
                    return;
                }
                let done = *well;
                server.batches.remove(&batch);
                let at = self.delay();
                self.schedule
                    .after(at, Happening::Deleted { osd, batch, done });
            }
            Waiting::Mount { mount, call } => self.answer_mount(osd, (mount, call), result),
        }
    }

    pub(crate) fn answer_mount(
        &mut self,
        osd: OsdId,
        (mount, call): (usize, u64),
        result: Result<osd_core::Done, types::Fault>,
    ) {
        if mount == super::keeping::SETTLER {
            return self.shown(call, &result);
        }
        let result = Box::new(result);
        let end = super::mount::mount_end(mount);
        let mut at = self.stream_arrival(osd.0, end, 0);
        at = at.max(self.streams.cut_until(osd.0, end).unwrap_or_default());
        let answers = Happening::ObjectAnswers {
            mount,
            call,
            result,
        };
        self.schedule.at(at, answers);
    }

    // ---- disks

    fn disk_delay(&mut self, osd: OsdId) -> Duration {
        if self.has(osd, Ailment::Hangs) && self.plan.is_acute {
            return Duration::from_secs(25);
        }
        match self.rng.random_range(0..40) {
            0 if !self.calm => self.between(20, 1_500),
            1..5 if !self.calm => self.between(2, 20),
            _ => Duration::from_micros(self.rng.random_range(100..2_000)),
        }
    }

    pub(crate) fn job_data(&mut self, osd: OsdId, life: u64, id: u64) {
        let delay = self.disk_delay(osd);
        let server = self.server(osd);
        let Some((object, ticket, job)) = server.jobs.get_mut(&id) else {
            return;
        };
        let (object, ticket) = (*object, *ticket);
        match job.write_data(true) {
            Ok(()) => self
                .schedule
                .after(delay, Happening::JobRecord(osd, life, id)),
            Err(error) => {
                server.jobs.remove(&id);
                let result = Err(error);
                let item = Item::StoreDone {
                    object,
                    ticket,
                    result,
                };
                self.deliver(osd, item);
            }
        }
    }

    pub(crate) fn job_record(&mut self, osd: OsdId, id: u64) {
        let Some((object, ticket, mut job)) = self.server(osd).jobs.remove(&id) else {
            return;
        };
        let result = job.write_record(true);
        let item = Item::StoreDone {
            object,
            ticket,
            result,
        };
        self.deliver(osd, item);
    }
}

/// Enough of something for a line; the bytes of whole disks are too much.
fn clipped(what: &impl std::fmt::Debug) -> String {
    const CHARS_MAX: usize = 900;
    format!("{what:?}").chars().take(CHARS_MAX).collect()
}
