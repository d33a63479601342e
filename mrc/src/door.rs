//! Metadata requests: reads answered at once under the lease, changes proposed, others sent on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use mrc_core::janitor::LostWriter;
use mrc_core::{IndexError, IndexRead, Reply, query};
use prost::Message as _;
use proto::index::Command;
use proto::index::command::Op as Change;
use proto::mrc::request::Op;
use proto::mrc::{self, Request, Response, response};
use shell::link::{Connection, Handler, Identity, Payload, Responder, Role};
use types::{ClusterId, Fault, Inode, PgId, Rights, SessionId, VolumeId};

use crate::admin;
use crate::config::Config;
use crate::consensus::LeaderId;
use crate::disk::Disk;
use crate::dumps::{self, Dumps};
use crate::forward::Forwarder;
use crate::grants::Grants;
use crate::member_change;
use crate::metrics;
use crate::node::{Node, NotNow, no_leader};
use crate::osds::{MapCache, Osds};
use crate::pacing::{Planned, Rate};
use crate::sessions::Sessions;

/// Everything the service works with.
pub(crate) struct Service {
    pub node: Arc<Node>,
    pub config: Config,
    pub sessions: Sessions,
    pub osds: Osds,
    pub map: MapCache,
    pub grants: Grants,
    pub disk: Arc<Disk>,
    pub forwarder: Forwarder,
    pub cluster: ClusterId,
    /// What the newest plan of this leader found.
    pub redundancy: Mutex<Option<Arc<planner::Report>>>,
    /// What object servers are told of how fast to bring copies up.
    pub pacing: Mutex<Planned>,
    /// How fast they did lately.
    pub rate: Mutex<Rate>,
    pub dumps: Dumps,
    /// Files that somebody wants to open, which a restore has not compared with their objects.
    pub settle_first: Mutex<VecDeque<LostWriter>>,
    /// The numbers about this server, once there is somebody to tell them to.
    pub numbers: OnceLock<shell::metrics::Source>,
}

/// On what grounds this server answers as the leader.
#[derive(Clone, Copy, Debug)]
struct Leading {
    id: LeaderId,
    /// A majority has said so since the request came: what is read now is new enough whatever
    /// happens meanwhile. Else only the lease says so.
    proved: bool,
}

/// Handles the service Mrc.
pub(crate) struct Door(pub Arc<Service>);

impl Service {
    pub(crate) fn new(
        node: Arc<Node>,
        config: Config,
        identity: &Identity,
        disk: Arc<Disk>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            config,
            sessions: Sessions::default(),
            osds: Osds::default(),
            map: MapCache::default(),
            grants: Grants::new(identity),
            disk,
            forwarder: Forwarder::new(identity.clone()),
            cluster: identity.cluster,
            redundancy: Mutex::default(),
            pacing: Mutex::default(),
            rate: Mutex::default(),
            dumps: Dumps::default(),
            settle_first: Mutex::default(),
            numbers: OnceLock::new(),
        })
    }

    /// Serves a request as the leader of `leader`.
    fn serve(self: &Arc<Self>, leader: Leading, request: Request, responder: Responder) {
        if let Err(error) = self.sessions.enter(leader.id, &**self.node.index()) {
            return responder.fault(index_fault(&error));
        }
        let order = request.order;
        match mrc_core::of_request(request, self.node.now()) {
            Ok(command) => self.change(leader, (command, order), responder),
            Err(request) => self.read(leader, *request, responder),
        }
    }

    fn change(
        self: &Arc<Self>,
        leader: Leading,
        (mut command, order): (Command, u64),
        responder: Responder,
    ) {
        let session = SessionId(command.session);
        let mut rights = Rights::Write;
        if let Some(fault) = command.op.as_ref().and_then(|op| self.disk.refusal(op)) {
            if matches!(
                command.op,
                Some(Change::VolumeCreate(_) | Change::RestoreBatch(_))
            ) {
                return responder.fault(fault);
            }
            // In the slot: the request may be a repetition of one that was carried out.
            command.op = Some(Change::Refused(proto::index::Refused {
                fault: Some((&fault).into()),
            }));
        }
        match &mut command.op {
            Some(Change::OpenSession(open)) => open.timeout_ms = self.config.session_timeout_ms,
            Some(Change::VolumeCreate(create)) => {
                let up = self.osds.up(self.config.osd_timeout());
                create.osds = up.into_iter().map(|osd| osd.0).collect();
                if create.osds.is_empty() {
                    let text = "no object server is up; start some first";
                    return responder.fault(Fault::surface(libc::ENODEV, text));
                }
                if let Err(fault) = self.is_not_behind() {
                    return responder.fault(fault);
                }
            }
            Some(Change::RestoreBegin(begin)) if begin.cluster != self.cluster.to_string() => {
                let text = format!(
                    "the dump is of cluster {} and this is cluster {}",
                    begin.cluster, self.cluster
                );
                return responder.fault(Fault::surface(libc::EINVAL, text));
            }
            Some(Change::Create(create)) if !create.write => rights = Rights::Read,
            _ => {}
        }
        let mut volume = VolumeId(0);
        let closes = matches!(command.op, Some(Change::CloseSession(_)));
        let mut counted = session.0 != 0 && !closes;
        if counted {
            match self.sessions.changing(session) {
                Ok(found) => {
                    volume = found;
                    // Before the file can be found to be open nowhere.
                    if let Some(inode) = stays_open(&command.op)
                        && let Err(fault) = self.sessions.open(session, inode, order)
                    {
                        self.sessions.changed(session);
                        return responder.fault(fault);
                    }
                }
                // Another leader may know the session.
                Err(_) if !self.still_leads(leader) => return responder.fault(no_leader()),
                // It has ended, but its slots may tell what became of the request.
                Err(_) => counted = false,
            }
        }
        // Nothing is in the slot yet: the same request comes again.
        if let Err(fault) = self.opens_settled(volume, command.op.as_ref()) {
            if counted {
                self.sessions.changed(session);
            }
            return responder.fault(fault);
        }
        let service = Arc::clone(self);
        let on_reply = move |reply: Reply| {
            if counted {
                service.sessions.changed(session);
            }
            if closes {
                service.sessions.ended(session);
            }
            let ended = session.0 != 0 && volume.0 == 0;
            let reply = reply.and_then(|response| {
                if ended {
                    // Without a capability: an ended session opens nothing.
                    return Ok(response);
                }
                service.complete(response, (session, volume), (rights, order))
            });
            answer(responder, reply);
        };
        match mrc_core::answered(&**self.node.index(), &command) {
            Ok(None) => self.node.propose(&command, on_reply),
            Ok(Some(reply)) => on_reply(reply),
            Err(error) => on_reply(Err(index_fault(&error))),
        }
    }

    /// Adds what only the leader knows to the answer of a change.
    fn complete(
        &self,
        mut response: Response,
        (session, volume): (SessionId, VolumeId),
        (rights, order): (Rights, u64),
    ) -> Reply {
        match &mut response.reply {
            Some(response::Reply::SessionOpened(opened)) => {
                self.sessions
                    .opened(SessionId(opened.session), VolumeId(opened.volume));
            }
            Some(response::Reply::Opened(opened)) => {
                let inode = Inode(opened.attr.map_or(0, |attr| attr.inode));
                if rights == Rights::Read {
                    self.sessions.open(session, inode, order)?;
                }
                if let Some(grant) = &mut opened.grant {
                    let pg = PgId(grant.pg);
                    *grant = self.grant((session, volume), inode, pg, rights)?;
                }
            }
            _ => {}
        }
        Ok(response)
    }

    fn grant(
        &self,
        (session, volume): (SessionId, VolumeId),
        inode: Inode,
        pg: PgId,
        rights: Rights,
    ) -> Result<mrc::Grant, Fault> {
        let map = self
            .map
            .get(&**self.node.index())
            .map_err(|error| index_fault(&error))?;
        let (view, replicas) = map.pg(volume, pg)?;
        let (capability, valid_ms) = self.grants.seal((session, volume), inode, pg, rights);
        Ok(mrc::Grant {
            capability: capability.into(),
            valid_ms,
            pg: pg.0,
            view,
            replicas: replicas.to_vec(),
        })
    }

    fn read(self: &Arc<Self>, leader: Leading, request: Request, responder: Responder) {
        match request.op {
            Some(Op::OsdHeartbeat(beat)) => self.heartbeat(leader.id, beat, responder),
            Some(Op::DumpBegin(_)) => {
                let service = Arc::clone(self);
                tokio::spawn(async move {
                    answer(responder, dumps::begin(&service).await);
                });
            }
            // Long reads must not hold up what came behind them on the same connection.
            Some(
                Op::ReadDir(_)
                | Op::PgList(_)
                | Op::SessionList(_)
                | Op::OsdList(_)
                | Op::JobList(_)
                | Op::FindLeftovers(_),
            ) => {
                let service = Arc::clone(self);
                tokio::task::spawn_blocking(move || {
                    service.read_checked(leader, request, responder);
                });
            }
            _ => self.read_checked(leader, request, responder),
        }
    }

    /// Reads, and answers if this server still leads then: it may have been frozen meanwhile, and
    /// another one elected that has changed what was read.
    fn read_checked(self: &Arc<Self>, leader: Leading, request: Request, responder: Responder) {
        let session = SessionId(request.session);
        let read = || match &request.op {
            Some(op) => self.read_now(leader.id, (session, request.order), op),
            None => Err(unknown_request()),
        };
        match read_while(|| self.still_leads(leader), read) {
            Some(reply) => answer(responder, reply),
            None => self.prove_and_serve(request, responder),
        }
    }

    fn still_leads(&self, leader: Leading) -> bool {
        leader.proved || matches!(self.node.leading(), Ok(id) if id == leader.id)
    }

    /// Serves a request once a majority has said that this server leads.
    fn prove_and_serve(self: &Arc<Self>, request: Request, responder: Responder) {
        let service = Arc::clone(self);
        tokio::spawn(async move {
            match service.node.prove().await {
                Ok(id) => service.serve(Leading { id, proved: true }, request, responder),
                Err(fault) => responder.fault(fault),
            }
        });
    }

    fn read_now(&self, leader: LeaderId, (session, order): (SessionId, u64), op: &Op) -> Reply {
        let index = &**self.node.index();
        let volume = match op {
            Op::VolumeList(_) | Op::VolumeShow(_) | Op::RestoredShow(_) => VolumeId(0),
            Op::FindLeftovers(find) => {
                return query::leftovers(index, find).map_err(|error| index_fault(&error))?;
            }
            Op::OsdList(_) | Op::PgList(_) | Op::SessionList(_) | Op::JobList(_) => {
                return admin::list(self, op).map_err(|error| index_fault(&error))?;
            }
            _ => self.sessions.touch(session)?,
        };
        match op {
            Op::KeepAlive(keep) => self.keep_alive(leader, (session, order), keep),
            Op::Open(open) => self.open((session, volume), open, order),
            Op::Release(release) => {
                let inode = Inode(release.inode);
                self.sessions.release(session, inode, order);
                // The file may have been an orphan that only this session kept.
                self.node.machine.events().janitor.notify_one();
                Ok(done())
            }
            op => {
                let reply =
                    query::answer(index, volume, op).map_err(|error| index_fault(&error))?;
                let mut response = reply.ok_or_else(unknown_request)??;
                if let (Op::StatFs(asked), Some(response::Reply::FsStat(stat))) =
                    (op, &mut response.reply)
                    && !asked.use_only
                {
                    admin::space(self, volume, stat).map_err(|error| index_fault(&error))?;
                }
                if let (Op::VolumeShow(_), Some(response::Reply::Volumes(shown))) =
                    (op, &mut response.reply)
                {
                    for volume in &mut shown.volumes {
                        admin::outdated(self, volume).map_err(|error| index_fault(&error))?;
                    }
                }
                Ok(response)
            }
        }
    }

    fn keep_alive(
        &self,
        leader: LeaderId,
        (session, order): (SessionId, u64),
        keep: &mrc::KeepAlive,
    ) -> Reply {
        // Made for another leader, it may lack what was opened while that one led.
        let complete = keep.complete && keep.registered_term == leader.term;
        let open = complete.then(|| keep.open_inodes.iter().copied().map(Inode).collect());
        let register = self.sessions.keep_alive(session, open, order)?;
        if let Some(numbers) = &keep.numbers {
            self.sessions.says(session, numbers.clone());
        }
        let mrcs = self.node.voter_addresses();
        self.sessions.told(session, &mrcs);
        Ok(Response {
            reply: Some(response::Reply::KeptAlive(mrc::KeptAlive {
                term: leader.term,
                register,
                mrcs,
            })),
        })
    }

    fn open(
        &self,
        (session, volume): (SessionId, VolumeId),
        open: &mrc::Open,
        order: u64,
    ) -> Reply {
        let index = &**self.node.index();
        let inode = Inode(open.inode);
        if open.renew_write {
            let key = mrc_core::keys::open(volume, inode, session);
            let opened = index.get(&key).map_err(|error| index_fault(&error))?;
            if opened.is_none() {
                let text = "the session has not opened the file for writing";
                return Err(Fault::surface(libc::EBADF, text));
            }
            return self.opened((session, volume), inode, Rights::Write);
        }
        // Noted before looking, or the file could be removed in between.
        let noted = self.sessions.open(session, inode, order)?;
        let reply = self.opened((session, volume), inode, Rights::Read);
        if reply.is_err() && noted {
            self.sessions.undo(session, inode, order);
        }
        reply
    }

    /// Attributes and grant of a file that stays while this looks.
    fn opened(
        &self,
        (session, volume): (SessionId, VolumeId),
        inode: Inode,
        rights: Rights,
    ) -> Reply {
        let record = query::inode(&**self.node.index(), volume, inode)
            .map_err(|error| index_fault(&error))?
            .ok_or_else(|| {
                Fault::surface(libc::ESTALE, "the file is gone; look its path up again")
            })?;
        query::has_content(&record)?;
        self.is_settled(volume, inode)?;
        let grant = if record.mode & mrc_core::S_IFMT == mrc_core::S_IFREG {
            Some(self.grant((session, volume), inode, PgId(record.pg), rights)?)
        } else {
            None
        };
        Ok(Response {
            reply: Some(response::Reply::Opened(mrc::Opened {
                attr: Some(mrc_core::attributes(inode, &record)),
                grant,
                existed: true,
            })),
        })
    }
}

impl Handler for Door {
    fn request(
        &self,
        from: &Arc<Connection>,
        body: Bytes,
        _payload: Payload,
        responder: Responder,
    ) {
        let request = match Request::decode(body) {
            Ok(request) => request,
            Err(error) => return responder.fault(Fault::surface(libc::EPROTO, error.to_string())),
        };
        let service = &self.0;
        match &request.op {
            Some(Op::Status(_) | Op::MrcList(_)) => {
                let service = Arc::clone(service);
                tokio::spawn(async move {
                    answer(responder, admin::cluster(&service, request.op).await);
                });
                return;
            }
            Some(Op::ShowNumbers(_)) => {
                return match from.caller().role {
                    Role::Mount => responder.fault(Fault::surface(
                        libc::EPERM,
                        "only administrators may ask this; use xfs-admin",
                    )),
                    Role::Admin | Role::Mrc | Role::Osd => {
                        answer(responder, Ok(metrics::answer(service)));
                    }
                };
            }
            Some(Op::MrcChange(change)) => {
                let (service, change) = (Arc::clone(service), change.clone());
                let caller = from.caller().role;
                tokio::spawn(async move {
                    answer(
                        responder,
                        match caller {
                            Role::Admin => member_change::change(&service, &change).await,
                            _ => Err(Fault::surface(
                                libc::EPERM,
                                "only administrators change the metadata servers",
                            )),
                        },
                    );
                });
                return;
            }
            Some(op) if is_for_administrators(op) && from.caller().role != Role::Admin => {
                let text = "only administrators dump and restore the metadata";
                return responder.fault(Fault::surface(libc::EPERM, text));
            }
            Some(Op::DumpNext(next)) => {
                let (service, next) = (Arc::clone(service), *next);
                tokio::spawn(async move {
                    answer(responder, dumps::next(&service, next).await);
                });
                return;
            }
            Some(op) => {
                let caller = from.caller();
                if reporter(op).is_some_and(|osd| caller.role != Role::Osd || caller.id != osd) {
                    let text = "only an object server reports for itself";
                    return responder.fault(Fault::surface(libc::EPERM, text));
                }
            }
            None => {}
        }
        match service.node.leading() {
            Ok(id) => service.serve(Leading { id, proved: false }, request, responder),
            Err(NotNow::Elsewhere(fault)) => {
                let role = from.caller().role;
                service.forwarder.pass_on(role, fault, request, responder);
            }
            Err(NotNow::Unproved) => service.prove_and_serve(request, responder),
        }
    }
}

/// Whether it is about dumping and restoring.
const fn is_for_administrators(op: &Op) -> bool {
    matches!(
        op,
        Op::DumpBegin(_)
            | Op::DumpNext(_)
            | Op::RestoreBegin(_)
            | Op::RestoreBatch(_)
            | Op::RestoreEnd(_)
            | Op::RestoredShow(_)
            | Op::RestoredDiscard(_)
    )
}

/// The object server that a request speaks for.
const fn reporter(op: &Op) -> Option<u64> {
    match op {
        Op::OsdHeartbeat(beat) => Some(beat.osd),
        Op::FindLeftovers(find) => Some(find.osd),
        Op::DiscardLeftovers(discard) => Some(discard.osd),
        _ => None,
    }
}

/// Reads; `None` if afterwards this server does not lead any more.
fn read_while<T>(still_leads: impl FnOnce() -> bool, read: impl FnOnce() -> T) -> Option<T> {
    let found = read();
    still_leads().then_some(found)
}

/// The file that a session stops to write and goes on to have open.
fn stays_open(change: &Option<Change>) -> Option<Inode> {
    match change {
        Some(Change::Written(written)) if written.stays_open => Some(Inode(written.inode)),
        _ => None,
    }
}

fn unknown_request() -> Fault {
    let text = "unknown request; run the same release on all machines";
    Fault::surface(libc::EPROTO, text)
}

pub(crate) fn answer(responder: Responder, reply: Reply) {
    match reply {
        Ok(response) => responder.ok(&response, Payload::none()),
        Err(fault) => responder.fault(fault),
    }
}

pub(crate) fn done() -> Response {
    Response {
        reply: Some(response::Reply::Done(mrc::Done {})),
    }
}

/// The index can't be read, which is no program's fault. A server whose disk is damaged or fails ends:
/// another one has the answer. A record that makes no sense though it is as it was written makes none
/// there either.
pub(crate) fn index_fault(error: &IndexError) -> Fault {
    tracing::error!(%error, "the index can't be read");
    match error {
        IndexError::Engine(_) => Fault::retry(format!("this metadata server ends: {error}")),
        _ => Fault::surface(libc::EIO, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A freeze lasts from before the reading until after another leader's first change.
    #[test]
    fn what_was_read_is_not_told_if_the_leadership_ended_meanwhile() {
        let leads = Cell::new(true);

        let kept = read_while(|| leads.get(), || "old");
        let frozen = read_while(
            || leads.get(),
            || {
                leads.set(false);
                "old"
            },
        );

        assert_eq!((kept, frozen), (Some("old"), None));
    }
}
