//! The metadata core behind a link, without Raft.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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
    /// Truncations wait.
    pub(crate) hold_truncations: AtomicBool,
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
            held: Mutex::default(),
            served: AtomicU32::new(0),
            frozen: AtomicBool::new(false),
            kept: Mutex::default(),
            kept_alive: AtomicU32::new(0),
            valid_ms: AtomicU32::new(600_000),
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

    /// How many truncations wait.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    /// Serves the truncations that wait.
    pub(crate) fn release(&self) {
        self.hold_truncations.store(false, Ordering::Relaxed);
        for (request, responder) in self.held.lock().unwrap().drain(..) {
            reply(responder, self.answer(request));
        }
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
        let mut response = match of_request(request, wall()) {
            Ok(mut command) => {
                if let Some(CommandOp::OpenSession(open)) = &mut command.op {
                    open.timeout_ms = 3_000;
                }
                self.commit(&command)?
            }
            Err(request) => self.read(&request)?,
        };
        if let Some(Reply::Opened(opened)) = &mut response.reply {
            let inode = opened.attr.map_or(0, |attr| attr.inode);
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
            Op::KeepAlive(_) => {
                self.kept_alive.fetch_add(1, Ordering::Relaxed);
                Reply::KeptAlive(KeptAlive {
                    term: 1,
                    register: false,
                })
            }
            Op::Release(_) => Reply::Done(proto::mrc::Done {}),
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
        self.served.fetch_add(1, Ordering::Relaxed);
        let truncates = matches!(&request.op, Some(Op::SetAttr(set)) if set.size_bytes.is_some());
        if truncates && self.hold_truncations.load(Ordering::Relaxed) {
            return self.held.lock().unwrap().push((request, responder));
        }
        let session = request.session;
        let answer = self.answer(request);
        if self.is_to_be_lost() {
            if self.expire_lost.load(Ordering::Relaxed) {
                self.end(session);
            }
            from.close();
            return;
        }
        reply(responder, answer);
    }
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
