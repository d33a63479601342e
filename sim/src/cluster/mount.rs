//! A mount: its session with the metadata cluster, its open files, and a program that moves names.

mod objects;
mod session;

use std::collections::BTreeMap;

use client_core::{IdSource, Leader, Slot, Slots};
use proto::mrc::{self, request};
use rand::RngExt;
use types::{Duration, Fault, ObjectId, OsdId, Remedy};

use crate::cluster::handle::{Handle, Kind};
use crate::cluster::happening::Happening;
use crate::cluster::meta::{self, MEMBERS, Taken};
use crate::cluster::names::told;
use crate::cluster::world::World;
use crate::network::percent;
use crate::time::TrueTime;

/// How long a metadata server may take before another one is asked.
const METADATA_PATIENCE: Duration = Duration::from_secs(1);
/// Open files of a mount.
pub(crate) const HANDLES: usize = 2;
/// Names of files that hold registers, and of those that records are appended to.
const NAMES: [&[u8]; 5] = [b"r0", b"r1", b"r2", b"a0", b"a1"];

pub(crate) fn is_log(name: &[u8]) -> bool {
    name.starts_with(b"a")
}

/// Who waits for an answer of the metadata cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asker {
    Handle(usize),
    Namer,
    KeepAlive,
    /// A new leader was told of files that may have been closed meanwhile.
    Registration,
    /// They were.
    Stray(u64),
    /// The session has ended.
    NewSession,
    /// An open file is opened in a new session, or its right is renewed: which one, and its serial.
    Renewal(usize, u64),
}

#[derive(Debug)]
pub(crate) struct MetaCall {
    request: mrc::Request,
    slot: Option<Slot>,
    change: u64,
    asker: Asker,
    asked: String,
    attempt: u64,
    sent: bool,
    /// When to send (again), or to stop waiting.
    at: TrueTime,
    failures: u32,
}

/// A request to an object server on its way.
#[derive(Debug)]
pub(crate) struct ObjectCall {
    pub(crate) handle: usize,
    pub(crate) serial: u64,
    pub(crate) osd: OsdId,
    pub(crate) kind: Kind,
}

/// A mount.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) session: u64,
    pub(crate) ids: IdSource,
    pub(crate) handles: Vec<Handle>,
    pub(crate) objects: BTreeMap<u64, ObjectCall>,
    pub(crate) planned: Option<TrueTime>,
    timeout: Duration,
    slots: Slots,
    leader: Leader,
    metas: BTreeMap<u64, MetaCall>,
    namer_at: TrueTime,
    naming: bool,
    keep_alive_at: TrueTime,
    /// The last number drawn for what is said of open files.
    order: u64,
}

impl Mount {
    pub(crate) fn new(session: u64, timeout: Duration) -> Self {
        Self {
            session,
            timeout,
            ids: IdSource::new(),
            handles: (0..HANDLES).map(|_| Handle::default()).collect(),
            objects: BTreeMap::new(),
            planned: None,
            slots: Slots::new(mrc_core::config::SLOT_COUNT),
            leader: Leader::new((0..MEMBERS).map(meta::address).collect()),
            metas: BTreeMap::new(),
            namer_at: TrueTime::default(),
            naming: false,
            keep_alive_at: TrueTime::default(),
            order: 0,
        }
    }

    /// Whether nothing is open and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        let keeps = |call: &MetaCall| {
            !matches!(
                call.asker,
                Asker::Handle(_) | Asker::Namer | Asker::Renewal(..)
            )
        };
        self.metas.values().all(keeps) && self.handles.iter().all(Handle::is_idle) && !self.naming
    }

    pub(crate) fn describe(&self) -> String {
        let metas = self.metas.values();
        let metas: Vec<_> = metas
            .map(|call| format!("{:?} (asked {})", call.request.op, call.asked))
            .collect();
        let handles: Vec<_> = self.handles.iter().map(Handle::describe).collect();
        format!("{metas:?} {handles:?}")
    }

    /// The files that are open in a session that has not ended.
    pub(crate) fn open_inodes(&self, is_alive: impl Fn(u64) -> bool) -> Vec<u64> {
        let open = self.handles.iter();
        let open = open.filter(|handle| handle.session().is_some_and(&is_alive));
        open.filter_map(Handle::inode).collect()
    }

    /// Whether nobody here has the inode open, opens or closes it.
    pub(crate) fn may_enter(&self, inode: u64) -> bool {
        // What is being created may be this inode: a session has an inode open once only.
        let creates = self.handles.iter().any(Handle::is_creating);
        let mut metas = self.metas.values();
        !creates && !self.has(inode) && metas.all(|call| call.asker != Asker::Stray(inode))
    }

    fn has(&self, inode: u64) -> bool {
        let mut handles = self.handles.iter();
        handles.any(|handle| handle.entered == Some(inode))
    }

    /// When something is to be done even if nothing happens.
    fn next_turn(&self, stopping: bool) -> Option<TrueTime> {
        let metas = self.metas.values().map(|call| call.at);
        let handles = self
            .handles
            .iter()
            .filter_map(|one| one.next_turn(stopping));
        let namer = (!self.naming && !stopping).then_some(self.namer_at);
        metas
            .chain(handles)
            .chain(namer)
            .chain([self.keep_alive_at])
            .min()
    }
}

impl World {
    pub(crate) fn plan_mount(&mut self, mount: usize) {
        let now = self.schedule.now();
        let state = &mut self.mounts[mount];
        if let Some(at) = state.next_turn(self.stopping) {
            let at = at.max(TrueTime(now.0 + 1));
            if state
                .planned
                .is_none_or(|planned| at < planned || planned <= now)
            {
                state.planned = Some(at);
                self.schedule.at(at, Happening::Mount(mount));
            }
        }
    }

    pub(crate) fn mount_turn(&mut self, mount: usize) {
        let now = self.schedule.now();
        if self.mounts[mount].planned.is_some_and(|at| at <= now) {
            self.mounts[mount].planned = None;
        }
        let metas = self.mounts[mount].metas.iter();
        let due = metas.filter(|(_, call)| call.at <= now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.meta_due(mount, id);
        }
        for handle in 0..HANDLES {
            self.handle_turn(mount, handle);
        }
        let state = &mut self.mounts[mount];
        if state.keep_alive_at <= now {
            // As the product does, but no less often than the leader is asked to look.
            state.keep_alive_at = now + state.timeout.scaled(1, 3).min(Duration::from_secs(2));
            let beats =
                |call: &MetaCall| matches!(call.asker, Asker::KeepAlive | Asker::Registration);
            if !state.metas.values().any(beats) {
                self.keep_alive(mount, None);
            }
        }
        let state = &self.mounts[mount];
        if !state.naming && state.namer_at <= now && !self.stopping {
            self.move_names(mount);
        }
        self.plan_mount(mount);
    }

    pub(crate) fn any_name(&mut self) -> Vec<u8> {
        NAMES[self.rng.random_range(0..NAMES.len())].to_vec()
    }

    /// A program that renames and unlinks.
    fn move_names(&mut self, mount: usize) {
        let parent = mrc_core::ROOT.0;
        let name = self.any_name();
        let other = self.any_name();
        let op = if percent(&mut self.rng, 60) || is_log(&name) != is_log(&other) {
            request::Op::Unlink(mrc::Unlink {
                parent,
                name: name.into(),
            })
        } else {
            request::Op::Rename(mrc::Rename {
                parent,
                name: name.into(),
                new_parent: parent,
                new_name: other.into(),
                ..mrc::Rename::default()
            })
        };
        self.mounts[mount].naming = true;
        self.ask_metadata(mount, Asker::Namer, op, true);
    }

    /// A sign of life; with what is open for the leader of a term that asked for it.
    fn keep_alive(&mut self, mount: usize, asking: Option<u64>) {
        let complete = asking.is_some();
        let mut open_inodes = Vec::new();
        if complete {
            let handles = self.mounts[mount].handles.iter();
            open_inodes.extend(handles.filter_map(|handle| handle.entered));
        }
        let keep = mrc::KeepAlive {
            complete,
            open_inodes,
            registered_term: asking.unwrap_or_default(),
            ..mrc::KeepAlive::default()
        };
        let op = request::Op::KeepAlive(keep);
        let asker = match complete {
            true => Asker::Registration,
            false => Asker::KeepAlive,
        };
        self.ask_metadata(mount, asker, op, false);
    }

    // ---- the conversation

    pub(crate) fn ask_metadata(
        &mut self,
        mount: usize,
        asker: Asker,
        op: request::Op,
        changes: bool,
    ) {
        let now = self.schedule.now();
        self.next_id += 1;
        let id = self.next_id;
        let state = &mut self.mounts[mount];
        state.order += 1;
        let request = mrc::Request {
            order: state.order,
            op: Some(op),
            ..mrc::Request::default()
        };
        let (slot, request) = state.in_session(request, changes);
        let call = MetaCall {
            request,
            slot,
            change: id,
            asker,
            asked: String::new(),
            attempt: 0,
            sent: false,
            at: now,
            failures: 0,
        };
        state.metas.insert(id, call);
        self.meta_due(mount, id);
    }

    fn meta_due(&mut self, mount: usize, id: u64) {
        let now = self.schedule.now();
        let Mount {
            metas,
            leader,
            order,
            ..
        } = &mut self.mounts[mount];
        let Some(call) = metas.get_mut(&id) else {
            return;
        };
        if call.sent {
            // No answer in time.
            call.sent = false;
            call.failures += 1;
            if leader.failed(&call.asked, None, call.request.forward) {
                call.at = now + backoff(call.failures);
                return;
            }
        }
        // Each server is reached; one that is cut off just does not answer.
        let Some(via) = leader.ask(|_| true) else {
            return;
        };
        let address = via.address.to_owned();
        call.request.forward = via.forward;
        if client_core::is_ordered(&call.request) {
            *order += 1;
            call.request.order = *order;
        }
        call.asked.clone_from(&address);
        call.sent = true;
        call.attempt += 1;
        call.at = now + METADATA_PATIENCE;
        let (attempt, change, request) = (call.attempt, call.change, call.request.clone());
        let ordered = matches!(call.request.op, Some(request::Op::KeepAlive(_)))
            || client_core::is_ordered(&call.request);
        let opens = matches!(call.request.op, Some(request::Op::OpenSession(_)));
        let repeatable = call.slot.is_some() || ordered || opens;
        let member = (0..MEMBERS).find(|member| meta::address(*member) == address);
        let member = member.unwrap_or(0);
        for at in self.meta_arrivals(mount_end(mount), meta_end(member), repeatable) {
            let request = Box::new(request.clone());
            let asks = Happening::AsksMeta {
                member,
                mount,
                call: id,
                attempt,
                change,
                request,
            };
            self.schedule.at(at, asks);
        }
    }

    /// When the copies of a message from or to the metadata cluster arrive. It may be lost with its
    /// connection; what is asked under a slot or a number may come twice, the second time very late.
    pub(crate) fn meta_arrivals(&mut self, from: u64, to: u64, twice: bool) -> Vec<TrueTime> {
        let weather = self.network.weather;
        let lost = !self.calm && percent(&mut self.rng, weather.loss_percent);
        if lost || self.streams.cut_until(from, to).is_some() {
            return Vec::new();
        }
        let mut arrivals = vec![self.stream_arrival(from, to, 0)];
        if twice && !self.calm && percent(&mut self.rng, weather.duplicate_percent) {
            arrivals.push(self.schedule.now() + self.between(0, 3_000));
        }
        arrivals
    }

    pub(crate) fn meta_asked(
        &mut self,
        (member, mount): (usize, usize),
        (call, attempt, change): (u64, u64, u64),
        request: mrc::Request,
    ) {
        let now = self.schedule.now();
        self.trace.tell(now, || {
            format!("m{member} is asked by mount {mount}: {:?}", request.op)
        });
        let taken = self
            .meta
            .request(now, member, (mount, call, change), request);
        let result = match taken {
            Taken::Silence => return,
            Taken::Answered(reply) => reply,
            Taken::Proposed(id) => return self.plan_commit(id),
            Taken::ProposedAndAnswered(id, reply) => {
                self.plan_commit(id);
                reply
            }
        };
        self.meta_answer((member, mount), call, Some(attempt), result);
    }

    pub(crate) fn meta_answer(
        &mut self,
        (member, mount): (usize, usize),
        call: u64,
        attempt: Option<u64>,
        result: mrc_core::Reply,
    ) {
        for at in self.meta_arrivals(meta_end(member), mount_end(mount), false) {
            let result = Box::new(result.clone());
            let answer = Happening::MetaAnswers {
                mount,
                call,
                attempt,
                result,
            };
            self.schedule.at(at, answer);
        }
    }

    pub(crate) fn meta_answered(
        &mut self,
        mount: usize,
        id: u64,
        attempt: Option<u64>,
        result: mrc_core::Reply,
    ) {
        let now = self.schedule.now();
        let Mount {
            metas,
            leader,
            slots,
            session,
            ..
        } = &mut self.mounts[mount];
        let Some(call) = metas.get_mut(&id) else {
            return;
        };
        if attempt.is_some_and(|attempt| attempt != call.attempt) {
            return;
        }
        if let Err(
            fault @ Fault {
                remedy: Remedy::Redirect | Remedy::Retry,
                ..
            },
        ) = &result
        {
            if call.sent {
                call.sent = false;
                call.failures += 1;
                let waits = leader.failed(&call.asked, fault.hint.as_deref(), call.request.forward);
                call.at = match waits {
                    true => now + backoff(call.failures),
                    false => now,
                };
            }
            return self.plan_mount(mount);
        }
        leader.answered();
        if result
            .as_ref()
            .is_err_and(|fault| fault.remedy == Remedy::Refresh)
        {
            return self.session_is_over(mount, id);
        }
        let Some(call) = metas.remove(&id) else {
            return;
        };
        self.trace.tell(now, || {
            format!("mount {mount} is told of {id}: {:?}", told(&result))
        });
        if let Some(slot) = call.slot {
            if call.request.session == *session {
                slots.give_back(slot);
            }
            if let Err(wrong) = self.meta.names.answered(call.change, &result) {
                self.report(wrong);
            }
        }
        match call.asker {
            Asker::KeepAlive => {
                use mrc::response::Reply::KeptAlive;
                if let Ok(mrc::Response {
                    reply: Some(KeptAlive(kept)),
                }) = result
                    && kept.register
                {
                    self.keep_alive(mount, Some(kept.term));
                }
            }
            Asker::Registration => {
                let Some(request::Op::KeepAlive(keep)) = call.request.op else {
                    return;
                };
                // From now on the leader believes that they are open for reading, whatever they are.
                for inode in keep.open_inodes {
                    let mut handles = self.mounts[mount].handles.iter_mut();
                    if let Some(handle) = handles.find(|one| one.entered == Some(inode)) {
                        handle.registered = true;
                    } else {
                        let op = request::Op::Release(mrc::Release { inode });
                        self.ask_metadata(mount, Asker::Stray(inode), op, false);
                    }
                }
            }
            Asker::Stray(_) => {}
            Asker::Namer => {
                self.coverage.done += 1;
                let pause = self.between(100, 2_500);
                let state = &mut self.mounts[mount];
                state.naming = false;
                state.namer_at = now + pause;
                if !matches!(told(&result), Ok(0) | Err(2)) {
                    self.report(format!("a program is told {result:?}"));
                }
            }
            Asker::Handle(handle) => {
                self.handle_answered(mount, handle, call.request.session, result);
            }
            Asker::NewSession => self.session_opened(mount, result),
            Asker::Renewal(handle, serial) => {
                self.right_renewed(mount, (handle, serial), call.request.session, result);
            }
        }
        self.plan_mount(mount);
    }
}

/// A mount as an end of streams.
pub(crate) const fn mount_end(mount: usize) -> u64 {
    1_000 + mount as u64
}

/// A metadata server as an end of streams.
pub(crate) const fn meta_end(member: usize) -> u64 {
    2_000 + member as u64
}

fn backoff(failures: u32) -> Duration {
    Duration::from_millis(10 << failures.min(4)).min(Duration::from_millis(200))
}

/// Whose object this is.
pub(crate) const fn inode_of(object: ObjectId) -> u64 {
    object.inode.0
}
