//! One inode with open descriptors in this mount: what was written and not acknowledged, the
//! grant, the size and time the metadata cluster has not been told.
//!
//! The machine [`Changes`] decides; this file performs its effects. The state's lock is never held
//! while something is sent, and sends leave in the order in which the machine asked for them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use client_core::{Answer, Change, Changes, Effect, Growth, Route, Version};
use proto::mrc;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use shell::clock::{boottime, wall};
use tokio::sync::{Notify, oneshot};
use types::{Capability, Instant, OsdId};

use crate::config::{GRANT_RENEW_DIVISOR, METADATA_BACKOFF_MAX, WRITE_THROUGH};
use crate::errno::Errno;
use crate::lock;
use crate::oxfs::to_its_end;
use crate::shared::Shared;
use crate::stall::Stall;

/// What is needed to speak with object servers about the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grant {
    pub(crate) capability: Bytes,
    pub(crate) pg: u32,
    pub(crate) view: u64,
    pub(crate) renew_at: Instant,
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
    pub(crate) read_route: Route,
    /// Who waits for a change that stands alone.
    waiters: HashMap<u64, oneshot::Sender<Result<Answer, Errno>>>,
    /// Open descriptors.
    pub(crate) writers: u32,
    pub(crate) readers: u32,
    /// The metadata cluster has recorded that we write.
    pub(crate) registered_write: bool,
    /// The leader knows that we have it open.
    pub(crate) registered_read: bool,
    /// A leader may believe so: it has to be told when we do no longer.
    pub(crate) told_read: bool,
    /// It was told so after the last descriptor was closed.
    pub(crate) released: bool,
    /// As the metadata cluster said last.
    pub(crate) mode: u32,
    pub(crate) group: u32,
    pub(crate) size: u64,
    pub(crate) data_version: u64,
    pub(crate) truncate_epoch: u64,
    /// The truncate epoch that was known when the first change was taken that the metadata cluster
    /// has not been told of.
    pub(crate) owed_since: Option<u64>,
    /// End of acknowledged writes that the metadata cluster has not been told; 0 if there is none.
    pub(crate) written_end: u64,
    /// Time of the last write, if the metadata cluster has not been told.
    pub(crate) mtime: Option<i64>,
    /// Failed writes, counted, and the last errno.
    error: (u64, i32),
    /// The file may have capabilities of programs (`security.capability`), which a write takes away.
    pub(crate) may_have_capabilities: bool,
    /// Until then a write is acknowledged before it is taken: there was no space left.
    write_through_until: Instant,
    /// When the timer will wake the machine.
    armed: Option<Instant>,
    /// Bytes of ours in the mount's account.
    accounted: u64,
    /// As accounted for the volume's quota.
    pub(crate) growth: Growth,
    /// Length that the metadata cluster is being told; 0 if it is not.
    pub(crate) telling: u64,
    stall: Option<Stall>,
    /// Grants fetched in a row without any success in between.
    pub(crate) renewals: u32,
}

/// An inode with open descriptors.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) inode: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) this: Weak<Self>,
    pub(crate) state: Mutex<State>,
    /// Only one sends at a time, so that order is kept.
    sending: Mutex<()>,
    /// Something settled or there is room.
    progress: Notify,
    /// Opening and closing one after the other.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// The same of what the leader is told of readers; locked after the gate, if that is.
    pub(crate) reading: tokio::sync::Mutex<()>,
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
                told_read: false,
                released: false,
                mode: 0,
                group: 0,
                size: 0,
                data_version: 0,
                truncate_epoch: 0,
                owed_since: None,
                written_end: 0,
                mtime: None,
                error: (0, 0),
                may_have_capabilities: true,
                write_through_until: Instant::ZERO,
                armed: None,
                accounted: 0,
                growth: Growth::default(),
                telling: 0,
                stall: None,
                renewals: 0,
            }),
            sending: Mutex::new(()),
            progress: Notify::new(),
            gate: tokio::sync::Mutex::new(()),
            reading: tokio::sync::Mutex::new(()),
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
                    let session = Capability::session_of(&grant.capability).unwrap_or_default();
                    state.changes.enter_session(&self.shared.ids, session);
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
                self.avoid_silent(state);
            });
        }
    }

    /// Begins elsewhere if the one to ask first has been silent: another replica takes over sooner
    /// than it can be found out again that this one does not answer.
    fn avoid_silent(&self, state: &mut State) {
        let answers = |osd| !self.shared.servers.is_silent(osd);
        state.read_route.avoid(answers);
        if state.changes.is_idle() {
            state.changes.route().avoid(answers);
        }
    }

    /// Before a change: nobody is asked who is not reached, unless others say that it is the primary.
    fn avoid_unreached(&self, state: &mut State) {
        if state.changes.is_idle() {
            let reached = |osd| self.shared.servers.is_reached(osd);
            state.changes.route().avoid(reached);
        }
    }

    /// Remembers what later calls need of fresh attributes.
    pub(crate) fn look(&self, attr: &mrc::Attr) {
        let mut state = lock(&self.state);
        state.know(attr);
        self.account_growth(&mut state);
    }

    /// Attributes as programs of this mount must see them.
    pub(crate) fn adorn(&self, attr: &mut mrc::Attr) {
        let mut state = lock(&self.state);
        state.know(attr);
        self.account_growth(&mut state);
        let end = state.written_end.max(state.changes.pending_end());
        attr.size_bytes = attr.size_bytes.max(end);
        if let Some(mtime) = state.mtime {
            attr.mtime_ns = attr.mtime_ns.max(mtime);
            attr.ctime_ns = attr.ctime_ns.max(mtime);
        }
    }

    /// A program set the time of modification. If there are writes the metadata cluster has not
    /// heard of, they are older, and reporting them must not set a time of their own.
    pub(crate) fn set_mtime(&self, mtime: i64) {
        let mut state = lock(&self.state);
        let unreported = state.written_end > 0 || !state.changes.is_idle();
        state.mtime = (unreported || state.mtime.is_some()).then_some(mtime);
    }

    /// The version of the content, if all changes of this mount are at the primary.
    pub(crate) fn settled_version(&self) -> Option<Version> {
        lock(&self.state).changes.settled_version()
    }

    // ---- changing

    /// Takes a write if there is room for it and the file is registered for writing. With `admitted`, the
    /// volume's quota has room for it.
    pub(crate) fn try_write(&self, offset: u64, data: &[u8], admitted: bool) -> bool {
        if self.shared.budget.is_exhausted() {
            return false;
        }
        let now = boottime();
        let end = offset.saturating_add(data.len() as u64);
        self.step(|state, out| {
            if !state.registered_write
                || state.may_have_capabilities
                || state.changes.is_full()
                || state.writes_through(now)
                || !(admitted || self.admits_end(state, end))
            {
                return false;
            }
            self.avoid_unreached(state);
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
        self.step(|state, out| {
            state.owe();
            self.avoid_unreached(state);
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
    pub(crate) fn step<T>(&self, run: impl FnOnce(&mut State, &mut Vec<Effect>) -> T) -> T {
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
            self.account_growth(&mut state);
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
                truncates,
            } => {
                if outcome == Err(libc::ENOSPC) {
                    state.write_through_until = boottime() + WRITE_THROUGH;
                }
                match outcome {
                    Ok(_) => {
                        // Nothing was under way beside a truncation.
                        let before = if truncates { 0 } else { state.written_end };
                        state.written_end = before.max(end);
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
            Effect::Lost => {
                tracing::error!(
                    inode = self.inode,
                    "acknowledged changes of a file were lost with the power of its replicas; \
                     programs that have it open are told EIO"
                );
                state.error = (state.error.0 + 1, libc::EIO);
            }
            Effect::Stalled(osd) => {
                let name = self.shared.servers.name(osd);
                state.stall = Some(self.shared.stalls.begin(&name));
            }
            Effect::Resumed => state.stall = None,
            Effect::Send { .. } | Effect::Renew | Effect::Probe { .. } | Effect::CutOff(_) => {
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

    /// Fetches a new grant.
    pub(crate) async fn renew(&self) {
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

    pub(crate) async fn fetch_grant(&self) -> Result<(), Errno> {
        let write = {
            let state = lock(&self.state);
            state.grant.write && (state.writers > 0 || !state.changes.is_idle())
        };
        if !write {
            return self.renew_read().await;
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
            Err(Errno(libc::EBADF)) => {
                let this = self.this.upgrade().ok_or(Errno(libc::EIO))?;
                to_its_end(async move { this.register_write().await.map(|_| ()) }).await
            }
            Err(errno) => Err(errno),
        }
    }
}

impl State {
    /// Length as far as this mount knows.
    pub(crate) fn known_size(&self) -> u64 {
        let end = self.written_end.max(self.changes.pending_end());
        self.size.max(end)
    }

    /// Whether a write has to wait for the primary.
    pub(crate) fn writes_through(&self, now: Instant) -> bool {
        now < self.write_through_until
    }

    /// Something is written now.
    pub(crate) fn touch(&mut self) {
        self.owe();
        self.mtime = Some(wall().0);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let (accounted, growth) = {
            let state = lock(&self.state);
            (state.accounted, state.growth)
        };
        self.shared.budget.account(accounted, 0);
        self.shared.quota.account(growth, Growth::default());
    }
}
