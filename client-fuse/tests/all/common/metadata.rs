//! The metadata core behind a link, without Raft.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use mrc_core::{Index, MemoryIndex, Overlay, apply, internal, of_request, query};
use prost::Message;
use proto::index::command::Op as CommandOp;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{Grant, KeptAlive, Replica, Request, Response};
use shell::clock::wall;
use shell::link::{Connection, Handler, Payload, Responder};
use types::{Capability, Fault, Inode, PgId, Rights, SessionId, UnixNanos, VolumeId};

use super::{CLUSTER, secret};

pub(crate) struct Metadata {
    index: Mutex<MemoryIndex>,
    replicas: Vec<Replica>,
    /// Requests to do without answering, as if the reply were lost.
    pub(crate) lose_replies: AtomicU32,
    /// Whose reply is lost, its session ends at once; with `true` in the second nothing is known of it
    /// any more.
    pub(crate) expire_lost: AtomicBool,
    pub(crate) forget_lost: AtomicBool,
    /// Truncations wait, or openings for reading, or what a leader is told of open files.
    pub(crate) hold_truncations: AtomicBool,
    pub(crate) hold_opens: AtomicBool,
    pub(crate) hold_registrations: AtomicBool,
    held: Mutex<Vec<(Request, Responder)>>,
    /// Requests served.
    pub(crate) served: AtomicU32,
    /// Answers nobody.
    pub(crate) frozen: AtomicBool,
    /// Requests left unanswered.
    kept: Mutex<Vec<Responder>>,
    /// Beats of sessions heard.
    pub(crate) kept_alive: AtomicU32,
    pub(crate) valid_ms: AtomicU32,
    /// Of sessions.
    pub(crate) timeout_ms: AtomicU32,
    opens_fail: AtomicBool,
    /// What only the leader of this term remembers: the files that are open for reading, and whether
    /// it knows all.
    term: AtomicU64,
    readers: Mutex<BTreeSet<u64>>,
    is_registered: AtomicBool,
}

impl Metadata {
    pub(crate) fn new(osds: &[(u64, String)]) -> Self {
        let metadata = Self {
            index: Mutex::new(MemoryIndex::new()),
            replicas: osds
                .iter()
                .map(|(osd, address)| Replica {
                    osd: *osd,
                    address: address.clone(),
                })
                .collect(),
            lose_replies: AtomicU32::new(0),
            expire_lost: AtomicBool::new(false),
            forget_lost: AtomicBool::new(false),
            hold_truncations: AtomicBool::new(false),
            hold_opens: AtomicBool::new(false),
            hold_registrations: AtomicBool::new(false),
            held: Mutex::default(),
            served: AtomicU32::new(0),
            frozen: AtomicBool::new(false),
            kept: Mutex::default(),
            kept_alive: AtomicU32::new(0),
            valid_ms: AtomicU32::new(600_000),
            timeout_ms: AtomicU32::new(3_000),
            opens_fail: AtomicBool::new(false),
            term: AtomicU64::new(1),
            readers: Mutex::default(),
            is_registered: AtomicBool::new(true),
        };
        for (osd, address) in osds {
            metadata
                .change(CommandOp::RegisterOsd(proto::index::RegisterOsd {
                    osd: *osd,
                    address: address.clone(),
                    store_uuid: format!("store {osd}"),
                    capacity_bytes: 1 << 40,
                    ..Default::default()
                }))
                .unwrap();
        }
        metadata
            .change(CommandOp::VolumeCreate(proto::index::VolumeCreate {
                request: Some(proto::mrc::VolumeCreate {
                    name: "default".to_owned(),
                    nonce: 1,
                    ..Default::default()
                }),
                osds: Vec::new(),
            }))
            .unwrap();
        metadata
    }

    fn change(&self, op: CommandOp) -> Result<Response, Fault> {
        self.commit(&internal(op, wall()))
    }

    /// Ends a session as if its mount had been silent for too long.
    pub(crate) fn expire(&self, session: u64) {
        self.readers.lock().unwrap().clear();
        self.change(CommandOp::ExpireSession(proto::index::ExpireSession {
            session,
        }))
        .unwrap();
    }

    /// Ends a session, and forgets it if that is arranged.
    fn end(&self, session: u64) {
        self.expire(session);
        if self.forget_lost.load(Ordering::Relaxed) {
            let op = proto::index::ForgetSession {
                session,
                keep_slots: false,
            };
            self.change(CommandOp::ForgetSession(op)).unwrap();
        }
    }

    /// How many requests wait.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    /// Serves the requests that wait, and all that come.
    pub(crate) fn release(&self) {
        for (request, responder) in self.let_go() {
            reply(responder, self.answer(request));
        }
    }

    /// Refuses the openings that wait, and all that come.
    pub(crate) fn refuse_opens(&self) {
        self.opens_fail.store(true, Ordering::Relaxed);
        for (_, responder) in self.let_go() {
            responder.fault(no_open());
        }
    }

    fn let_go(&self) -> Vec<(Request, Responder)> {
        for hold in [
            &self.hold_truncations,
            &self.hold_opens,
            &self.hold_registrations,
        ] {
            hold.store(false, Ordering::Relaxed);
        }
        std::mem::take(&mut self.held.lock().unwrap())
    }

    fn holds(&self, request: &Request) -> bool {
        let hold = match &request.op {
            Some(Op::SetAttr(set)) if set.size_bytes.is_some() => &self.hold_truncations,
            Some(Op::Open(_)) => &self.hold_opens,
            Some(Op::KeepAlive(keep)) if keep.complete => &self.hold_registrations,
            _ => return false,
        };
        hold.load(Ordering::Relaxed)
    }

    /// Somebody else leads, who remembers nothing.
    pub(crate) fn elect(&self) {
        self.term.fetch_add(1, Ordering::Relaxed);
        self.is_registered.store(false, Ordering::Relaxed);
        self.readers.lock().unwrap().clear();
    }

    /// The files that the leader believes open for reading, once it was told of all.
    pub(crate) fn readers(&self) -> Option<Vec<u64>> {
        let told = self.is_registered.load(Ordering::Relaxed);
        told.then(|| self.readers.lock().unwrap().iter().copied().collect())
    }

    /// Whether it believes that somebody has the file open for reading.
    pub(crate) fn has_reader(&self, inode: u64) -> bool {
        self.readers.lock().unwrap().contains(&inode)
    }

    fn keep_alive(&self, keep: &proto::mrc::KeepAlive) -> KeptAlive {
        self.kept_alive.fetch_add(1, Ordering::Relaxed);
        let term = self.term.load(Ordering::Relaxed);
        if keep.complete && keep.registered_term == term {
            self.readers.lock().unwrap().extend(&keep.open_inodes);
            self.is_registered.store(true, Ordering::Relaxed);
        }
        let register = !self.is_registered.load(Ordering::Relaxed);
        let mrcs = Vec::new();
        KeptAlive {
            term,
            register,
            mrcs,
        }
    }

    /// Sets the volume's quotas; 0: none.
    pub(crate) fn set_quota(&self, bytes: u64, files: u64) {
        let set = CommandOp::VolumeSet(proto::mrc::VolumeSet {
            name: "default".to_owned(),
            quota_bytes: Some(bytes),
            quota_files: Some(files),
            ..proto::mrc::VolumeSet::default()
        });
        self.commit(&internal(set, UnixNanos(wall().0))).unwrap();
    }

    pub(crate) fn is_open_for_writing(&self, inode: u64) -> bool {
        let index = self.index.lock().unwrap();
        mrc_core::janitor::is_open_for_writing(&*index, VolumeId(1), Inode(inode)).unwrap()
    }

    fn commit(&self, command: &proto::index::Command) -> Result<Response, Fault> {
        let index = self.index.lock().unwrap();
        let mut overlay = Overlay::new();
        let outcome = apply(&*index, &mut overlay, command).unwrap();
        index.apply(overlay.into_batch()).unwrap();
        outcome.reply
    }

    fn answer(&self, request: Request) -> Result<Response, Fault> {
        let session = request.session;
        let write = matches!(
            &request.op,
            Some(Op::OpenWrite(_))
                | Some(Op::Open(proto::mrc::Open {
                    renew_write: true,
                    ..
                }))
        ) || matches!(&request.op, Some(Op::Create(create)) if create.write);
        let reads = matches!(&request.op, Some(Op::Create(create)) if !create.write);
        let mut response = match of_request(request, wall()) {
            Ok(mut command) => {
                if let Some(CommandOp::OpenSession(open)) = &mut command.op {
                    open.timeout_ms = u64::from(self.timeout_ms.load(Ordering::Relaxed));
                }
                self.commit(&command)?
            }
            Err(request) => self.read(&request)?,
        };
        if let Some(Reply::Opened(opened)) = &mut response.reply {
            let inode = opened.attr.map_or(0, |attr| attr.inode);
            if reads {
                self.readers.lock().unwrap().insert(inode);
            }
            let pg = opened.grant.as_ref().map_or(0, |grant| grant.pg);
            let index = self.index.lock().unwrap();
            let ended = query::session(&*index, SessionId(session)).unwrap();
            if ended.is_some_and(|session| !session.ended) {
                opened.grant = Some(self.grant(session, inode, pg, write));
            }
        }
        Ok(response)
    }

    fn read(&self, request: &Request) -> Result<Response, Fault> {
        let op = request.op.as_ref().unwrap();
        let index = self.index.lock().unwrap();
        let session = query::session(&*index, SessionId(request.session)).unwrap();
        let volume = match session {
            Some(session) if !session.ended => VolumeId(session.volume),
            _ if matches!(op, Op::VolumeList(_)) => VolumeId(0),
            _ => return Err(Fault::refresh("the session has ended")),
        };
        let reply = match op {
            Op::KeepAlive(keep) => Reply::KeptAlive(self.keep_alive(keep)),
            Op::Release(release) => {
                self.readers.lock().unwrap().remove(&release.inode);
                Reply::Done(proto::mrc::Done {})
            }
            Op::Open(_) if self.opens_fail.load(Ordering::Relaxed) => return Err(no_open()),
            Op::Open(open) => {
                if open.renew_write {
                    let (inode, session) = (Inode(open.inode), SessionId(request.session));
                    let key = mrc_core::keys::open(volume, inode, session);
                    if mrc_core::IndexRead::get(&*index, &key).unwrap().is_none() {
                        return Err(Fault::surface(libc::EBADF, "not open for writing"));
                    }
                }
                let get = Op::GetAttr(proto::mrc::GetAttr { inode: open.inode });
                let got = query::answer(&*index, volume, &get).unwrap().unwrap()?;
                let Some(Reply::Entry(entry)) = got.reply else {
                    panic!("{got:?}");
                };
                if !open.renew_write {
                    self.readers.lock().unwrap().insert(open.inode);
                }
                Reply::Opened(proto::mrc::Opened {
                    attr: entry.attr,
                    grant: Some(Grant::default()),
                    existed: true,
                })
            }
            Op::StatFs(_) => {
                let mut got = query::answer(&*index, volume, op).unwrap().unwrap()?;
                if let Some(Reply::FsStat(stat)) = &mut got.reply {
                    stat.capacity_bytes = 1 << 40;
                    stat.free_bytes = 1 << 39;
                }
                return Ok(got);
            }
            op => return query::answer(&*index, volume, op).unwrap().unwrap(),
        };
        Ok(Response { reply: Some(reply) })
    }

    fn grant(&self, session: u64, inode: u64, pg: u32, write: bool) -> Grant {
        let valid_ms = u64::from(self.valid_ms.load(Ordering::Relaxed));
        let expires = wall().0 + i64::try_from(valid_ms).unwrap() * 1_000_000;
        let capability = Capability {
            cluster: CLUSTER,
            volume: VolumeId(1),
            inode: Inode(inode),
            pg: PgId(pg),
            session: SessionId(session),
            rights: if write { Rights::Write } else { Rights::Read },
            expires: UnixNanos(expires),
        };
        Grant {
            capability: capability.seal(&secret()).into(),
            valid_ms,
            pg,
            view: 1,
            replicas: self.replicas.clone(),
        }
    }

    fn is_to_be_lost(&self) -> bool {
        let lose = &self.lose_replies;
        lose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    }
}

impl Handler for Metadata {
    fn request(&self, from: &Arc<Connection>, body: Bytes, _: Payload, responder: Responder) {
        if self.frozen.load(Ordering::Relaxed) {
            return self.kept.lock().unwrap().push(responder);
        }
        let request = Request::decode(body).unwrap();
        // What a mount asks once in a second while it writes is none of what tests count.
        let counts = !matches!(&request.op, Some(Op::StatFs(asked)) if asked.use_only);
        self.served.fetch_add(u32::from(counts), Ordering::Relaxed);
        if self.holds(&request) {
            return self.held.lock().unwrap().push((request, responder));
        }
        let session = request.session;
        let answer = self.answer(request);
        if counts && self.is_to_be_lost() {
            if self.expire_lost.load(Ordering::Relaxed) {
                self.end(session);
            }
            from.close();
            return;
        }
        reply(responder, answer);
    }
}

fn no_open() -> Fault {
    Fault::surface(libc::ESTALE, "as arranged")
}

fn reply(responder: Responder, answer: Result<Response, Fault>) {
    match answer {
        Ok(response) => responder.ok(&response, Payload::none()),
        Err(fault) => responder.fault(fault),
    }
}

/// A former leader: once it is cut off, it answers that it can't prove that it leads.
pub(crate) struct Former {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) cut_off: Arc<AtomicBool>,
}

impl Handler for Former {
    fn request(&self, from: &Arc<Connection>, body: Bytes, payload: Payload, responder: Responder) {
        if self.cut_off.load(Ordering::Relaxed) {
            return responder.fault(Fault::retry("the metadata servers are electing a leader"));
        }
        self.metadata.request(from, body, payload, responder);
    }
}
