//! The changes of one open file that its primary has not acknowledged: gathered, ordered, repeated.
//!
//! A write is sent at once if nothing of the file is on its way. Meanwhile others are gathered into
//! chunks that end at multiples of the chunk size, for a bounded time, and sent in order, many at
//! a time; so a sync(2), which mounts are not told of, misses little. The idea is that of Nagle,
//! RFC 896. These rules keep repetition harmless:
//!
//! - Two changes that overlap are never in flight together; truncations, appends and syncs are in
//!   flight alone.
//! - Every send draws a new change id, so ids grow in the order in which a server receives them,
//!   and a server refuses what a frozen connection delivers late.
//! - A change keeps the id of its first attempt, and names the change before it that is not answered. So
//!   what a server applies is a beginning of what was sent, and it knows what it need not do again.
//! - Every request names the newest change that is known to be acknowledged. A primary that has not
//!   applied it says that changes are lost, instead of letting a sync succeed without them.
//! - When the believed primary changes, everything unacknowledged is sent again, in order. An
//!   acknowledgement counts whichever attempt it answers: the bytes are the same.

mod effect;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
mod view;

use std::collections::VecDeque;

use types::{Duration, Instant, OsdId, SessionId};

use crate::config::{CUT_PATIENCE, ChangeLimits, ROUTE_BACKOFF_MIN};
use crate::gather::Gather;
use crate::route::{Failure, Next, Route};

pub use effect::{Answer, Change, Effect, IdSource, ProbeAnswer, SendOrder};
pub use view::Version;

#[derive(Debug)]
struct Pending {
    token: u64,
    change: Change,
    since: Instant,
    /// When it was sent in the current attempt.
    sent: Option<Instant>,
    /// Id under which it was sent first, and the session then; 0 if it was not.
    first_id: u64,
    first_session: SessionId,
    /// Somebody waits for its outcome: nobody is shown it before.
    awaited: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Gate {
    Open,
    Until(Instant),
    Renewing,
}

/// The machine. Reports and timers come in as calls, effects go out.
#[derive(Debug)]
pub struct Changes {
    limits: ChangeLimits,
    /// Give up with EIO after this long (`soft` mounts).
    give_up: Option<Duration>,
    route: Route,
    gather: Option<Gather>,
    /// The chunk before was cut because it was full: more of the kind will come.
    streaming: bool,
    /// Oldest first.
    pending: VecDeque<Pending>,
    pending_bytes: u64,
    next_token: u64,
    /// Grows when a change is taken and again when it settles.
    version: u64,
    attempt: u64,
    gate: Gate,
    session: SessionId,
    /// The newest change known to be acknowledged; 0: none.
    follows: u64,
    /// Acknowledgements of what was sent under ids up to this one prove nothing any more.
    void_up_to: u64,
    probe_round: usize,
    probe_at: Option<Instant>,
    /// When the primary answered last: while it does, nobody waits in vain.
    answered_at: Instant,
    stalled: bool,
}

impl Changes {
    /// Nothing to send yet.
    #[must_use]
    pub const fn new(route: Route, limits: ChangeLimits, give_up: Option<Duration>) -> Self {
        Self {
            limits,
            give_up,
            route,
            gather: None,
            streaming: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            next_token: 1,
            version: 0,
            attempt: 1,
            gate: Gate::Open,
            session: SessionId(0),
            follows: 0,
            void_up_to: 0,
            probe_round: 0,
            probe_at: None,
            answered_at: Instant::ZERO,
            stalled: false,
        }
    }

    /// Takes a write. The caller has checked [`Changes::is_full`] before.
    pub fn write(
        &mut self,
        now: Instant,
        ids: &IdSource,
        offset: u64,
        data: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let mut offset = offset;
        let mut data = data;
        self.version += 1;
        if self.gather.as_ref().is_some_and(|g| !g.touches(offset)) {
            self.cut(now);
        }
        while !data.is_empty() {
            let chunk = self.limits.chunk_bytes;
            let start = self.gather.as_ref().map_or(offset, |g| g.offset);
            // Chunks end at multiples of their size, so that a stream of any writes becomes
            // aligned ones, which servers need not read before writing.
            let boundary = (start / chunk).saturating_add(1).saturating_mul(chunk);
            let room = usize::try_from(boundary - offset).unwrap_or(usize::MAX);
            let (now_part, later) = data.split_at(data.len().min(room));
            let expected = if self.streaming {
                chunk
            } else {
                now_part.len() as u64
            };
            let gather = self.gather.get_or_insert_with(|| {
                Gather::new(now, offset, usize::try_from(expected).unwrap_or(0))
            });
            gather.put(offset, now_part);
            offset += now_part.len() as u64;
            data = later;
            if gather.end() >= boundary {
                self.cut(now);
                self.streaming = true;
            }
        }
        self.pump(now, ids, out);
    }

    /// Sends what was gathered. Returns a token: everything so far is settled once
    /// [`Changes::settled_below`] is greater.
    pub fn flush(&mut self, now: Instant, ids: &IdSource, out: &mut Vec<Effect>) -> u64 {
        self.streaming = false;
        self.cut(now);
        self.pump(now, ids, out);
        self.next_token - 1
    }

    /// Adds a change whose outcome somebody waits for, after everything so far. Returns its token.
    ///
    /// It is not read before it is settled: until then it may fail, and other mounts read what was
    /// there before.
    pub fn add(
        &mut self,
        now: Instant,
        ids: &IdSource,
        change: Change,
        out: &mut Vec<Effect>,
    ) -> u64 {
        self.cut(now);
        let token = self.push(now, change, true);
        self.pump(now, ids, out);
        token
    }

    /// The primary did it.
    pub fn answered(
        &mut self,
        now: Instant,
        ids: &IdSource,
        token: u64,
        answer: Answer,
        out: &mut Vec<Effect>,
    ) {
        if let Some(index) = self.index(token) {
            self.route.answered();
            self.note_acknowledged(index, answer.change_id);
            self.settle(index, Ok(answer), out);
            self.answered_at = now;
            self.probe_at = None;
            if std::mem::take(&mut self.stalled) {
                out.push(Effect::Resumed);
            }
            self.pump(now, ids, out);
        }
    }

    /// The change was not done in this attempt.
    pub fn failed(
        &mut self,
        now: Instant,
        ids: &IdSource,
        token: u64,
        attempt: u64,
        failure: Failure,
        out: &mut Vec<Effect>,
    ) {
        let Some(index) = self.index(token) else {
            return;
        };
        if attempt != self.attempt {
            return;
        }
        if failure == Failure::Lost {
            self.forget_acknowledged(ids);
            self.restart();
            self.version += 1;
            out.push(Effect::Lost);
            self.pump(now, ids, out);
            return;
        }
        if failure == Failure::OutOfOrder {
            // The one before it failed, too, or is on its way: both go again, in order.
            if let Some(pending) = self.pending.get_mut(index) {
                pending.sent = None;
            }
            if self.gate == Gate::Open {
                self.gate = Gate::Until(now + ROUTE_BACKOFF_MIN);
            }
            return;
        }
        let target = self.route.target();
        match self.route.failed(failure) {
            Next::GiveUp(errno) => self.settle(index, Err(errno), out),
            Next::Renew => {
                self.restart();
                if self.gate != Gate::Renewing {
                    self.gate = Gate::Renewing;
                    out.push(Effect::Renew);
                }
            }
            Next::After(wait) => {
                if failure == Failure::Retry && self.route.target() == target {
                    // The others are still on their way to the same server.
                    if let Some(pending) = self.pending.get_mut(index) {
                        pending.sent = None;
                    }
                } else {
                    self.restart();
                }
                if wait > Duration::ZERO && self.gate != Gate::Renewing {
                    self.gate = Gate::Until(now + wait);
                }
            }
        }
        self.pump(now, ids, out);
    }

    /// A new grant arrived.
    pub fn granted(
        &mut self,
        now: Instant,
        ids: &IdSource,
        members: Vec<OsdId>,
        out: &mut Vec<Effect>,
    ) {
        self.route.replace(members);
        if self.gate == Gate::Renewing {
            self.gate = Gate::Open;
        }
        self.pump(now, ids, out);
    }

    /// Nothing pending can ever be done: everything fails with `errno`.
    pub fn abandon(&mut self, errno: i32, out: &mut Vec<Effect>) {
        self.gate = Gate::Open;
        self.restart();
        while !self.pending.is_empty() {
            self.settle(0, Err(errno), out);
        }
        if std::mem::take(&mut self.stalled) {
            out.push(Effect::Resumed);
        }
    }

    /// Another replica, `by`, answered a probe.
    pub fn probed(
        &mut self,
        now: Instant,
        ids: &IdSource,
        (attempt, by): (u64, OsdId),
        answer: ProbeAnswer,
        out: &mut Vec<Effect>,
    ) {
        if attempt != self.attempt {
            return;
        }
        match answer {
            ProbeAnswer::Primary(primary) if Some(primary) == self.route.target() => {
                let silent_since = self.oldest_sent().map(|sent| sent.max(self.answered_at));
                self.route.confirmed(by);
                if silent_since.is_some_and(|since| since + CUT_PATIENCE <= now) {
                    self.restart();
                    out.push(Effect::CutOff(primary));
                }
            }
            ProbeAnswer::Primary(primary) if self.route.found(primary) => self.restart(),
            ProbeAnswer::Primary(_) | ProbeAnswer::Refresh => {
                self.restart();
                if self.gate != Gate::Renewing {
                    self.gate = Gate::Renewing;
                    out.push(Effect::Renew);
                }
            }
            ProbeAnswer::Nothing => {}
        }
        self.pump(now, ids, out);
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Instant, ids: &IdSource, out: &mut Vec<Effect>) {
        let gathered = self.limits.gather_time;
        if self
            .gather
            .as_ref()
            .is_some_and(|g| g.since + gathered <= now)
        {
            self.cut(now);
        }
        if matches!(self.gate, Gate::Until(until) if until <= now) {
            self.gate = Gate::Open;
        }
        if let (Some(give_up), Some(waiting)) = (self.give_up, self.waiting_since())
            && waiting + give_up <= now
        {
            // 5: EIO, as `soft` asks for.
            self.abandon(5, out);
        }
        self.probe(now, out);
        if let (Some(waiting), Some(target)) = (self.waiting_since(), self.route.target())
            && !self.stalled
            && waiting + self.limits.stall_report <= now
        {
            self.stalled = true;
            out.push(Effect::Stalled(target));
        }
        self.pump(now, ids, out);
    }

    /// When [`Changes::tick`] has something to do.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let gather = self
            .gather
            .as_ref()
            .map(|g| g.since + self.limits.gather_time);
        let gate = match self.gate {
            Gate::Until(until) => Some(until),
            Gate::Open | Gate::Renewing => None,
        };
        let waiting = self.waiting_since();
        let report = waiting.filter(|_| !self.stalled);
        let stall = report.map(|since| since + self.limits.stall_report);
        let give_up = waiting
            .zip(self.give_up)
            .map(|(since, after)| since + after);
        [gather, gate, stall, give_up, self.probe_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The newest change known to be acknowledged, which every request names; 0: none.
    #[must_use]
    pub const fn follows(&self) -> u64 {
        self.follows
    }

    /// What is sent from now on is sent in this session. One that is no other than before changes nothing.
    pub fn enter_session(&mut self, ids: &IdSource, session: SessionId) {
        if self.session != session {
            self.session = session;
            self.forget_acknowledged(ids);
        }
    }

    /// The server believed to be the primary.
    #[must_use]
    pub fn target(&self) -> Option<OsdId> {
        self.route.target()
    }

    /// The route, shared with reads.
    pub const fn route(&mut self) -> &mut Route {
        &mut self.route
    }

    /// Begins anew with what is acknowledged: there is a new session, whose changes have no past, or
    /// the past is lost.
    fn forget_acknowledged(&mut self, ids: &IdSource) {
        self.follows = 0;
        self.void_up_to = ids.draw();
    }

    fn push(&mut self, now: Instant, change: Change, awaited: bool) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.version += u64::from(change.alters());
        self.pending_bytes += change.bytes();
        self.pending.push_back(Pending {
            token,
            change,
            since: now,
            sent: None,
            first_id: 0,
            first_session: SessionId(0),
            awaited,
        });
        token
    }

    fn note_acknowledged(&mut self, index: usize, change_id: u64) {
        let pending = self.pending.get(index);
        let Some(pending) = pending.filter(|pending| pending.change.alters()) else {
            return;
        };
        if change_id > self.void_up_to && pending.first_session == self.session {
            self.follows = self.follows.max(pending.first_id);
        }
    }

    /// Ends gathering: the chunk becomes a change.
    fn cut(&mut self, now: Instant) {
        if let Some(gather) = self.gather.take() {
            let offset = gather.offset;
            let bytes = gather.into_bytes();
            self.push(now, Change::Write { offset, bytes }, false);
        }
    }

    /// Everything pending will be sent again.
    fn restart(&mut self) {
        self.attempt += 1;
        self.probe_at = None;
        for pending in &mut self.pending {
            pending.sent = None;
        }
    }

    fn index(&self, token: u64) -> Option<usize> {
        self.pending.binary_search_by_key(&token, |p| p.token).ok()
    }

    fn settle(&mut self, index: usize, outcome: Result<Answer, i32>, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.remove(index) {
            self.pending_bytes -= pending.change.bytes();
            self.version += u64::from(pending.change.alters());
            let end = match (&pending.change, outcome) {
                (Change::Append { bytes, .. }, Ok(answer)) => answer.offset + bytes.len() as u64,
                (change, _) => change.range().map_or(0, |r| r.1),
            };
            out.push(Effect::Settled {
                token: pending.token,
                outcome,
                end,
                truncates: matches!(pending.change, Change::Truncate { .. }),
            });
        }
    }

    /// Sends what may be sent now, oldest first.
    fn pump(&mut self, now: Instant, ids: &IdSource, out: &mut Vec<Effect>) {
        if self.pending.is_empty() {
            // To wait for more would only delay what is here.
            self.cut(now);
        }
        let (Gate::Open, Some(osd)) = (self.gate, self.route.target()) else {
            return;
        };
        for index in 0..self.pending.len() {
            let Some(pending) = self.pending.get(index) else {
                return;
            };
            let alone = pending.change.range().is_none();
            if pending.sent.is_some() {
                if alone {
                    return;
                }
                continue;
            }
            if !self.may_send(index) {
                return;
            }
            let (attempt, session) = (self.attempt, self.session);
            let after = self.sent_before(index);
            if let Some(pending) = self.pending.get_mut(index) {
                let change_id = ids.draw();
                pending.sent = Some(now);
                if pending.first_id == 0 {
                    pending.first_id = change_id;
                    pending.first_session = session;
                }
                out.push(Effect::Send {
                    token: pending.token,
                    attempt,
                    osd,
                    order: SendOrder {
                        change_id,
                        first_id: pending.first_id,
                        first_session: pending.first_session,
                        after,
                    },
                    change: pending.change.clone(),
                });
            }
            if alone {
                return;
            }
        }
    }

    /// First id of the newest change before `index` that is not answered; 0 if there is none.
    fn sent_before(&self, index: usize) -> u64 {
        let mut before = self.pending.iter().take(index).rev();
        let newest = before.find(|pending| pending.change.alters());
        newest.map_or(0, |pending| pending.first_id)
    }

    fn may_send(&self, index: usize) -> bool {
        let Some(pending) = self.pending.get(index) else {
            return false;
        };
        let Some(range) = pending.change.range() else {
            return index == 0;
        };
        let mut count = 0;
        let mut bytes = 0;
        for other in self.pending.iter().filter(|p| p.sent.is_some()) {
            match other.change.range() {
                None => return false,
                Some(r) if r.0 < range.1 && range.0 < r.1 => return false,
                Some(_) => {}
            }
            count += 1;
            bytes += other.change.bytes();
        }
        count < self.limits.in_flight_max && bytes < self.limits.in_flight_bytes_max
    }

    /// Since when the oldest change has waited without any answer.
    fn waiting_since(&self) -> Option<Instant> {
        let oldest = self.pending.front()?;
        Some(oldest.since.max(self.answered_at))
    }

    fn oldest_sent(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|p| p.sent).min()
    }

    fn probe_due(&self) -> Option<Instant> {
        let patient = self.oldest_sent()?.max(self.answered_at) + self.limits.patience;
        Some(self.probe_at.map_or(patient, |at| at.max(patient)))
    }

    /// The primary is silent: another replica knows whether it still holds the lease, and becomes
    /// the primary itself if nobody does.
    fn probe(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.probe_due().is_some_and(|due| due <= now)
            && let Some(target) = self.route.target()
        {
            self.probe_at = Some(now + self.limits.patience);
            if let Some(osd) = self.route.other_than(target, self.probe_round) {
                self.probe_round = self.probe_round.wrapping_add(1);
                out.push(Effect::Probe {
                    attempt: self.attempt,
                    osd,
                });
            }
        }
    }
}
