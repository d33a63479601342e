//! One inode with open descriptors in this mount: what was written and not acknowledged, the
//! grant, the size and time the metadata cluster has not been told.
//!
//! The machine [`Changes`] decides; this file performs its effects. The state's lock is never held
//! while something is sent, and sends leave in the order in which the machine asked for them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use client_core::{Answer, Change, Changes, Effect, Failure, ProbeAnswer, Route};
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::{mrc, osd};
use shell::clock::{boottime, wall};
use shell::link::{CallError, Payload};
use tokio::sync::{Notify, oneshot};
use types::{Instant, OsdId};

use crate::config::{GRANT_RENEW_DIVISOR, METADATA_BACKOFF_MAX, OBJECT_TIMEOUT, READ_PATIENCE};
use crate::errno::Errno;
use crate::lock;
use crate::peer::failure_of;
use crate::shared::Shared;
use crate::stall::Stall;

/// What is needed to speak with object servers about the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grant {
    capability: Bytes,
    pg: u32,
    view: u64,
    renew_at: Instant,
    /// It allows writing.
    pub(crate) write: bool,
}

/// Everything behind the file's lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) changes: Changes,
    /// Effects to perform, oldest first.
    outbox: VecDeque<Effect>,
    pub(crate) grant: Grant,
    read_route: Route,
    /// Who waits for a change that stands alone.
    waiters: HashMap<u64, oneshot::Sender<Result<Answer, Errno>>>,
    /// Open descriptors.
    pub(crate) writers: u32,
    pub(crate) readers: u32,
    /// The metadata cluster has recorded that we write.
    pub(crate) registered_write: bool,
    /// The leader knows that we have it open.
    pub(crate) registered_read: bool,
    /// Made here and never written: no object server has heard of it.
    pub(crate) newborn: bool,
    /// As the metadata cluster said last.
    pub(crate) mode: u32,
    pub(crate) size: u64,
    /// End of acknowledged writes that the metadata cluster has not been told; 0 if there is none.
    pub(crate) written_end: u64,
    /// Time of the last write, if the metadata cluster has not been told.
    pub(crate) mtime: Option<i64>,
    /// Failed writes, counted, and the last errno.
    error: (u64, i32),
    /// When the timer will wake the machine.
    armed: Option<Instant>,
    /// Bytes of ours in the mount's account.
    accounted: u64,
    stall: Option<Stall>,
    /// Grants fetched in a row without any success in between.
    renewals: u32,
}

/// An inode with open descriptors.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) inode: u64,
    pub(crate) shared: Arc<Shared>,
    this: Weak<Self>,
    pub(crate) state: Mutex<State>,
    /// Only one sends at a time, so that order is kept.
    sending: Mutex<()>,
    /// Something settled or there is room.
    progress: Notify,
    /// Opening and closing one after the other.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// Grows with every change by this mount: bytes read ahead before are void.
    version: AtomicU64,
}

impl File {
    pub(crate) fn new(shared: Arc<Shared>, inode: u64) -> Arc<Self> {
        let changes = Changes::new(Route::new(Vec::new()), shared.change_limits, shared.give_up);
        Arc::new_cyclic(|this| Self {
            inode,
            shared,
            this: this.clone(),
            state: Mutex::new(State {
                changes,
                outbox: VecDeque::new(),
                grant: Grant::default(),
                read_route: Route::new(Vec::new()),
                waiters: HashMap::new(),
                writers: 0,
                readers: 0,
                registered_write: false,
                registered_read: false,
                newborn: false,
                mode: 0,
                size: 0,
                written_end: 0,
                mtime: None,
                error: (0, 0),
                armed: None,
                accounted: 0,
                stall: None,
                renewals: 0,
            }),
            sending: Mutex::new(()),
            progress: Notify::new(),
            gate: tokio::sync::Mutex::new(()),
            version: AtomicU64::new(0),
        })
    }

    // ---- what the metadata cluster said

    /// Takes over a grant and attributes.
    pub(crate) fn opened(&self, opened: &mrc::Opened, write: bool) {
        if let Some(attr) = &opened.attr {
            self.look(attr);
        }
        if let Some(grant) = &opened.grant {
            self.shared.servers.learn(&grant.replicas);
            let members: Vec<_> = grant.replicas.iter().map(|r| OsdId(r.osd)).collect();
            let valid = types::Duration::from_millis(grant.valid_ms);
            let now = boottime();
            self.step(|state, out| {
                // A grant to read does not replace one to write that programs still use.
                let keep_write = state.grant.write && !write && state.writers > 0;
                if !keep_write {
                    state.grant = Grant {
                        capability: grant.capability.clone(),
                        pg: grant.pg,
                        view: grant.view,
                        renew_at: now + valid.saturating_sub(valid.scaled(1, GRANT_RENEW_DIVISOR)),
                        write,
                    };
                }
                state.read_route.replace(members.clone());
                state.changes.granted(now, &self.shared.ids, members, out);
            });
        }
    }

    /// Remembers what later calls need of fresh attributes.
    pub(crate) fn look(&self, attr: &mrc::Attr) {
        let mut state = lock(&self.state);
        state.mode = attr.mode;
        state.size = attr.size_bytes;
    }

    /// Attributes as programs of this mount must see them.
    pub(crate) fn adorn(&self, attr: &mut mrc::Attr) {
        let mut state = lock(&self.state);
        state.mode = attr.mode;
        state.size = attr.size_bytes;
        let end = state.written_end.max(state.changes.pending_end());
        attr.size_bytes = attr.size_bytes.max(end);
        if let Some(mtime) = state.mtime {
            attr.mtime_ns = attr.mtime_ns.max(mtime);
            attr.ctime_ns = attr.ctime_ns.max(mtime);
        }
    }

    /// Length as far as this mount knows.
    pub(crate) fn known_size(&self) -> u64 {
        let state = lock(&self.state);
        let end = state.written_end.max(state.changes.pending_end());
        state.size.max(end)
    }

    /// A program set the time of modification. If there are writes the metadata cluster has not
    /// heard of, they are older, and reporting them must not set a time of their own.
    pub(crate) fn set_mtime(&self, mtime: i64) {
        let mut state = lock(&self.state);
        let unreported = state.written_end > 0 || !state.changes.is_idle();
        state.mtime = (unreported || state.mtime.is_some()).then_some(mtime);
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    // ---- changing

    /// Takes a write if there is room for it and the file is registered for writing.
    pub(crate) fn try_write(&self, offset: u64, data: &[u8]) -> bool {
        if self.shared.budget.is_exhausted() {
            return false;
        }
        let now = boottime();
        self.step(|state, out| {
            if !state.registered_write || state.changes.is_full() {
                return false;
            }
            self.version.fetch_add(1, Ordering::AcqRel);
            state
                .changes
                .write(now, &self.shared.ids, offset, data, out);
            state.touch();
            true
        })
    }

    /// Waits until a write may be tried again.
    pub(crate) async fn wait_for_room(&self) {
        loop {
            let progress = self.progress.notified();
            let room = self.shared.budget.room.notified();
            tokio::pin!(progress, room);
            progress.as_mut().enable();
            room.as_mut().enable();
            let exhausted = self.shared.budget.is_exhausted();
            if !exhausted && !lock(&self.state).changes.is_full() {
                return;
            }
            self.flush();
            tokio::select! {
                () = progress => {}
                () = room => {}
            }
        }
    }

    /// Sends what was gathered; returns the token of the last change.
    pub(crate) fn flush(&self) -> u64 {
        let now = boottime();
        self.step(|state, out| state.changes.flush(now, &self.shared.ids, out))
    }

    /// Waits until everything so far is acknowledged (or failed).
    pub(crate) async fn drain(&self) {
        let token = self.flush();
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if lock(&self.state).changes.settled_below() > token {
                return;
            }
            progress.await;
        }
    }

    /// Does a change that stands alone, after everything so far.
    pub(crate) async fn alone(&self, change: Change) -> Result<Answer, Errno> {
        let (sender, receiver) = oneshot::channel();
        let now = boottime();
        self.version.fetch_add(1, Ordering::AcqRel);
        self.step(|state, out| {
            let token = state.changes.add(now, &self.shared.ids, change, out);
            state.waiters.insert(token, sender);
        });
        receiver.await.map_err(|_| Errno(libc::EIO))?
    }

    /// Errors of writes since `seen`, told once to each descriptor.
    pub(crate) fn take_error(&self, seen: &AtomicU64) -> Result<(), Errno> {
        let (count, errno) = lock(&self.state).error;
        if seen.swap(count, Ordering::AcqRel) < count {
            return Err(Errno(errno));
        }
        Ok(())
    }

    pub(crate) fn error_count(&self) -> u64 {
        lock(&self.state).error.0
    }

    /// The timer's call.
    pub(crate) fn tick(&self, armed: Instant) {
        let now = boottime();
        self.step(|state, out| {
            if state.armed == Some(armed) {
                state.armed = None;
            }
            state.changes.tick(now, &self.shared.ids, out);
        });
    }

    /// Runs the machine and performs what it asks for.
    fn step<T>(&self, run: impl FnOnce(&mut State, &mut Vec<Effect>) -> T) -> T {
        let mut out = Vec::new();
        let (result, arm) = {
            let mut state = lock(&self.state);
            let result = run(&mut state, &mut out);
            for effect in out {
                self.absorb(&mut state, effect);
            }
            let buffered = state.changes.buffered_bytes();
            self.shared.budget.account(state.accounted, buffered);
            state.accounted = buffered;
            let wakeup = state.changes.next_wakeup();
            let arm = wakeup.filter(|at| state.armed.is_none_or(|armed| *at < armed));
            if arm.is_some() {
                state.armed = arm;
            }
            (result, arm)
        };
        if let Some(at) = arm {
            self.shared.timers.arm(at, self.this.clone());
        }
        self.send_all();
        result
    }

    /// Notes at once what needs no sending; queues the rest.
    fn absorb(&self, state: &mut State, effect: Effect) {
        match effect {
            Effect::Settled {
                token,
                outcome,
                end,
            } => {
                match outcome {
                    Ok(_) => {
                        state.written_end = state.written_end.max(end);
                        state.newborn &= end == 0;
                        state.renewals = 0;
                    }
                    Err(errno) if !state.waiters.contains_key(&token) => {
                        state.error = (state.error.0 + 1, errno);
                    }
                    Err(_) => {}
                }
                if let Some(waiter) = state.waiters.remove(&token) {
                    // Whoever waited may have been interrupted.
                    let _ = waiter.send(outcome.map_err(Errno));
                }
                self.progress.notify_waiters();
            }
            Effect::Stalled(osd) => {
                let name = self.shared.servers.name(osd);
                state.stall = Some(self.shared.stalls.begin(&name));
            }
            Effect::Resumed => state.stall = None,
            Effect::Send { .. } | Effect::Renew | Effect::Probe { .. } => {
                state.outbox.push_back(effect);
            }
        }
    }

    /// Performs queued effects in order. Replies that come while we send only queue more.
    fn send_all(&self) {
        loop {
            {
                let Ok(_only) = self.sending.try_lock() else {
                    return;
                };
                loop {
                    // Bound before the match: the lock must not be held while performing.
                    let next = lock(&self.state).outbox.pop_front();
                    match next {
                        Some(effect) => self.perform(effect),
                        None => break,
                    }
                }
            }
            if lock(&self.state).outbox.is_empty() {
                return;
            }
        }
    }

    fn perform(&self, effect: Effect) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        match effect {
            Effect::Send {
                token,
                attempt,
                osd,
                change_id,
                change,
            } => self.send_change(this, token, attempt, osd, change_id, change),
            Effect::Renew => {
                tokio::spawn(async move { this.renew().await });
            }
            Effect::Probe { attempt, osd } => self.send_probe(this, attempt, osd),
            Effect::Settled { .. } | Effect::Stalled(_) | Effect::Resumed => {}
        }
    }

    fn send_change(
        &self,
        this: Arc<Self>,
        token: u64,
        attempt: u64,
        osd: OsdId,
        change_id: u64,
        change: Change,
    ) {
        let (op, payload) = match change {
            Change::Write { offset, bytes } => (
                osd::request::Op::Write(osd::Write {
                    offset,
                    change_id,
                    append: false,
                    append_id: 0,
                }),
                Payload::of(bytes),
            ),
            Change::Append { append_id, bytes } => (
                osd::request::Op::Write(osd::Write {
                    offset: 0,
                    change_id,
                    append: true,
                    append_id,
                }),
                Payload::of(bytes),
            ),
            Change::Truncate { length } => (
                osd::request::Op::Truncate(osd::Truncate {
                    length_bytes: length,
                    change_id,
                }),
                Payload::none(),
            ),
            Change::Sync => (osd::request::Op::Sync(osd::Sync {}), Payload::none()),
        };
        let done = move |outcome: Result<osd::Response, CallError>| {
            let now = boottime();
            this.step(|state, out| match outcome {
                Ok(reply) => {
                    let answer = Answer {
                        offset: reply.offset,
                        length: reply.length_bytes,
                    };
                    state
                        .changes
                        .answered(now, &this.shared.ids, token, answer, out);
                    state.read_route.found(osd);
                }
                Err(error) => {
                    let failure = this.failure(osd, &error);
                    let ids = &this.shared.ids;
                    state.changes.failed(now, ids, token, attempt, failure, out);
                }
            });
        };
        self.post(osd, op, payload, done);
    }

    fn send_probe(&self, this: Arc<Self>, attempt: u64, osd: OsdId) {
        let done = move |outcome: Result<osd::Response, CallError>| {
            let answer = match outcome {
                Ok(_) => ProbeAnswer::Primary(osd),
                Err(error) => match failure_of(&error) {
                    Failure::Redirect(Some(primary)) => ProbeAnswer::Primary(primary),
                    Failure::Refresh => ProbeAnswer::Refresh,
                    _ => ProbeAnswer::Nothing,
                },
            };
            let now = boottime();
            this.step(|state, out| {
                state
                    .changes
                    .probed(now, &this.shared.ids, attempt, answer, out);
            });
        };
        let op = osd::request::Op::Stat(osd::Stat {});
        self.post(osd, op, Payload::none(), done);
    }

    /// Sends a request; `done` hears how it went, perhaps before this returns.
    fn post(
        &self,
        osd: OsdId,
        op: osd::request::Op,
        payload: Payload,
        done: impl FnOnce(Result<osd::Response, CallError>) + Send + 'static,
    ) {
        let Some(server) = self.shared.servers.get(osd) else {
            return done(Err(CallError::Disconnected(
                "unknown object server".to_owned(),
            )));
        };
        if let Some(error) = server.out_of_reach() {
            return done(Err(error));
        }
        let request = self.request(op);
        server
            .link
            .send(&request, payload, OBJECT_TIMEOUT, move |outcome| {
                done(outcome.and_then(|(body, _)| decode(body)));
            });
    }

    fn request(&self, op: osd::request::Op) -> osd::Request {
        let (grant, renew) = {
            let mut state = lock(&self.state);
            let due = state.grant.renew_at <= boottime();
            if due {
                // Once per grant; a new one brings a new time.
                state.grant.renew_at = Instant::from_nanos(u64::MAX);
            }
            (state.grant.clone(), due)
        };
        if renew && let Some(this) = self.this.upgrade() {
            tokio::spawn(async move { this.renew().await });
        }
        osd::Request {
            object: Some(osd::ObjectRef {
                volume: self.shared.volume(),
                inode: self.inode,
                column: 0,
            }),
            pg: grant.pg,
            view: grant.view,
            capability: grant.capability,
            op: Some(op),
        }
    }

    fn failure(&self, osd: OsdId, error: &CallError) -> Failure {
        tracing::debug!(
            inode = self.inode,
            server = self.shared.servers.name(osd),
            %error,
            "change not done"
        );
        failure_of(error)
    }

    /// Fetches a new grant.
    async fn renew(&self) {
        let renewals = {
            let mut state = lock(&self.state);
            state.renewals += 1;
            state.renewals
        };
        if renewals > 1 {
            // Servers that refuse what the metadata cluster just granted need a moment, too.
            tokio::time::sleep(METADATA_BACKOFF_MAX).await;
        }
        if let Err(errno) = self.fetch_grant().await {
            tracing::warn!(inode = self.inode, %errno, "can't get a new grant for an open file");
            self.step(|state, out| state.changes.abandon(errno.0, out));
        }
    }

    async fn fetch_grant(&self) -> Result<(), Errno> {
        let write = {
            let state = lock(&self.state);
            state.grant.write && (state.writers > 0 || !state.changes.is_idle())
        };
        if !write {
            return self.register_read().await.map(|_| ());
        }
        let op = Op::Open(mrc::Open {
            inode: self.inode,
            renew_write: true,
        });
        match self.shared.metadata.ask(op).await {
            Ok(Reply::Opened(opened)) => {
                self.opened(&opened, true);
                Ok(())
            }
            Ok(_) => Err(Errno(libc::EPROTO)),
            // Not recorded as a writer: closed by a duplicate, or the session is a new one.
            Err(Errno(libc::EBADF)) => self.register_write().await.map(|_| ()),
            Err(errno) => Err(errno),
        }
    }

    // ---- reading

    /// Reads from the primary. Fewer bytes than asked for: the object ends there.
    pub(crate) async fn read_object(&self, offset: u64, length: u32) -> Result<Bytes, Errno> {
        let started = std::time::Instant::now();
        let mut stall = None;
        let mut renewed = 0;
        loop {
            let target = lock(&self.state)
                .read_route
                .target()
                .ok_or(Errno(libc::EIO))?;
            let failure = match self
                .read_from(target, offset, length, started, &mut stall)
                .await
            {
                Ok((primary, bytes)) => {
                    let mut state = lock(&self.state);
                    state.read_route.found(primary);
                    state.read_route.answered();
                    state.renewals = 0;
                    if state.changes.is_idle() {
                        state.changes.route().found(primary);
                    }
                    return Ok(bytes);
                }
                Err(failure) => failure,
            };
            let next = lock(&self.state).read_route.failed(failure);
            match next {
                client_core::Next::GiveUp(errno) => return Err(Errno(errno)),
                client_core::Next::After(wait) => tokio::time::sleep(wait.to_std()).await,
                client_core::Next::Renew => {
                    renewed += 1;
                    if renewed > 1 {
                        tokio::time::sleep(METADATA_BACKOFF_MAX).await;
                    }
                    self.fetch_grant().await?;
                }
            }
        }
    }

    /// Asks `target`, and while it is silent others, too: one of them may have become the primary.
    async fn read_from(
        &self,
        target: OsdId,
        offset: u64,
        length: u32,
        started: std::time::Instant,
        stall: &mut Option<Stall>,
    ) -> Result<(OsdId, Bytes), Failure> {
        let first = self.read_once(target, offset, length);
        tokio::pin!(first);
        let mut round = 0;
        loop {
            tokio::select! {
                outcome = &mut first => return outcome.map(|bytes| (target, bytes)),
                () = tokio::time::sleep(READ_PATIENCE) => {}
            }
            if started.elapsed() >= crate::config::STALL_REPORT && stall.is_none() {
                *stall = Some(self.shared.stalls.begin(&self.shared.servers.name(target)));
            }
            let other = lock(&self.state).read_route.other_than(target, round);
            round += 1;
            let Some(other) = other else { continue };
            let second = tokio::time::timeout(READ_PATIENCE, self.read_once(other, offset, length));
            tokio::select! {
                outcome = &mut first => return outcome.map(|bytes| (target, bytes)),
                outcome = second => match outcome {
                    Ok(Ok(bytes)) => return Ok((other, bytes)),
                    Ok(Err(Failure::Redirect(Some(primary)))) if primary != target => {
                        return Err(Failure::Redirect(Some(primary)));
                    }
                    Ok(Err(Failure::Refresh)) => return Err(Failure::Refresh),
                    // The lease of the silent one still runs, or this one is no better.
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        }
    }

    async fn read_once(&self, osd: OsdId, offset: u64, length: u32) -> Result<Bytes, Failure> {
        let server = self.shared.servers.get(osd).ok_or(Failure::Gone)?;
        if server.out_of_reach().is_some() {
            return Err(Failure::Gone);
        }
        let op = osd::request::Op::Read(osd::Read {
            offset,
            length_bytes: length,
        });
        let request = self.request(op);
        let reply = server
            .link
            .call::<_, osd::Response>(&request, Payload::none(), OBJECT_TIMEOUT)
            .await;
        let (_, payload) = reply.map_err(|error| self.failure(osd, &error))?;
        payload.verified().map_err(|fault| {
            tracing::warn!(inode = self.inode, server = self.shared.servers.name(osd), %fault, "bytes changed on their way");
            Failure::Retry
        })
    }
}

impl State {
    /// Something is written now.
    pub(crate) fn touch(&mut self) {
        self.mtime = Some(wall().0);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let accounted = lock(&self.state).accounted;
        self.shared.budget.account(accounted, 0);
    }
}

fn decode(body: Bytes) -> Result<osd::Response, CallError> {
    prost::Message::decode(body).map_err(|error| {
        CallError::Fault(types::Fault::surface(
            libc::EPROTO,
            format!("an object server's reply is not decodable: {error}"),
        ))
    })
}
