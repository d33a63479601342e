//! What a leader answers mounts: the rules of `mrc/src/door.rs`, which are not part of the core.

use mrc_core::{IndexRead as _, Noted, Overlay, Reply, apply, keys, query};
use proto::index::command::Op;
use proto::mrc::{self, request, response};
use types::{Capability, Fault, Inode, PgId, Rights, SessionId};

use super::{CLUSTER, Meta, Origin, Taken, address, secret, unix};
use crate::cluster::edit::Edit;
use crate::cluster::shell::ESTALE;
use crate::time::TrueTime;

pub(crate) const EBADF: i32 = 9;

fn gone() -> Fault {
    Fault::surface(ESTALE, "the file is gone")
}

impl Meta {
    pub(crate) fn request(
        &mut self,
        now: TrueTime,
        member: usize,
        (mount, call, change): (usize, u64, u64),
        request: mrc::Request,
    ) -> Taken {
        if self.away == Some(member) {
            return Taken::Silence;
        }
        if self.leader != Some(member) {
            return Taken::Answered(Err(match self.leader {
                Some(leader) => Fault {
                    hint: Some(address(leader)),
                    ..Fault::new(types::Remedy::Redirect, 11, "another server leads")
                },
                None => Fault::retry("nobody leads"),
            }));
        }
        match mrc_core::of_request(request, unix(now)) {
            Ok(mut command) => {
                if let Some(Op::OpenSession(open)) = &mut command.op {
                    open.timeout_ms = self.session_timeout.as_millis();
                }
                // One that has ended is asked all the same: its slots may tell what became of the request.
                if let Some((_, waiting)) = self.soft.sessions.get_mut(&command.session) {
                    *waiting += 1;
                }
                let origin = Origin::Mount {
                    mount,
                    call,
                    change,
                };
                let id = self.propose(command.clone(), origin);
                if self.edit != Some(Edit::AnsweredWhenProposed) {
                    return Taken::Proposed(id);
                }
                let mut overlay = Overlay::new();
                match apply(&self.index, &mut overlay, &command) {
                    Ok(outcome) => Taken::ProposedAndAnswered(id, outcome.reply),
                    Err(_) => Taken::Proposed(id),
                }
            }
            Err(read) => Taken::Answered(self.read(now, *read)),
        }
    }

    fn read(&mut self, now: TrueTime, request: mrc::Request) -> Reply {
        let session = SessionId(request.session);
        match self.soft.sessions.get_mut(&request.session) {
            Some((heard, _)) => *heard = now,
            None => return Err(Fault::refresh("the session is unknown or has ended")),
        }
        self.soft.arrivals += 1;
        let order = match self.edit {
            Some(Edit::ReadersUnordered) => self.soft.arrivals,
            _ => request.order,
        };
        let done = |reply| Ok(mrc::Response { reply: Some(reply) });
        match request.op {
            Some(request::Op::KeepAlive(keep)) => {
                if keep.complete && keep.registered_term == self.term {
                    let open = keep.open_inodes.iter().copied().map(Inode);
                    let open: Vec<Inode> = open.collect();
                    self.soft.readers.list(session, &open, order);
                }
                done(response::Reply::KeptAlive(mrc::KeptAlive {
                    term: self.term,
                    register: !self.soft.readers.has_listed(session),
                    mrcs: Vec::new(),
                }))
            }
            Some(request::Op::Release(release)) => {
                let inode = Inode(release.inode);
                self.soft.readers.release(session, inode, order);
                done(response::Reply::Done(mrc::Done {}))
            }
            Some(request::Op::Open(open)) => self.open(now, session, &open, order),
            Some(op) => match query::answer(&self.index, self.volume, &op) {
                Ok(Some(reply)) => reply,
                _ => Err(Fault::surface(71, "no read")),
            },
            None => Err(Fault::surface(71, "no operation")),
        }
    }

    fn open(&mut self, now: TrueTime, session: SessionId, open: &mrc::Open, order: u64) -> Reply {
        let inode = Inode(open.inode);
        if open.renew_write {
            let key = keys::open(self.volume, inode, session);
            if !matches!(self.index.get(&key), Ok(Some(_))) {
                return Err(Fault::surface(
                    EBADF,
                    "the session has not opened the file for writing",
                ));
            }
            return self.opened(now, session, inode, Rights::Write);
        }
        // Noted before looking, or the file could be removed in between.
        let noted = self.soft.readers.open(session, inode, order);
        match noted {
            Noted::First | Noted::Again => {}
            Noted::Late => return Err(Fault::retry("closed since")),
            Noted::Reaped => return Err(gone()),
            Noted::NoSession => return Err(Fault::refresh("the session has ended")),
        }
        let reply = self.opened(now, session, inode, Rights::Read);
        if reply.is_err() && noted == Noted::First {
            self.soft.readers.undo(session, inode, order);
        }
        reply
    }

    fn opened(&self, now: TrueTime, session: SessionId, inode: Inode, rights: Rights) -> Reply {
        let record = query::inode(&self.index, self.volume, inode);
        let Ok(Some(record)) = record else {
            return Err(gone());
        };
        Ok(mrc::Response {
            reply: Some(response::Reply::Opened(mrc::Opened {
                attr: Some(mrc_core::attributes(inode, &record)),
                grant: Some(self.grant(now, session, inode, (PgId(record.pg), rights))),
                existed: true,
            })),
        })
    }

    /// The right to a file, and where it is now.
    pub(crate) fn grant(
        &self,
        now: TrueTime,
        session: SessionId,
        inode: Inode,
        (pg, rights): (PgId, Rights),
    ) -> mrc::Grant {
        let capability = Capability {
            cluster: CLUSTER,
            volume: self.volume,
            inode,
            pg,
            session,
            rights,
            expires: unix(now + self.right_lifetime),
        };
        let group = query::pg(&self.index, self.volume, pg);
        let group = group.ok().flatten().unwrap_or_default();
        let replica = |osd| mrc::Replica {
            osd,
            ..mrc::Replica::default()
        };
        mrc::Grant {
            capability: capability.seal(&secret()).into(),
            valid_ms: self.right_lifetime.scaled(9, 10).as_millis(),
            pg: pg.0,
            view: group.view,
            replicas: group.osds.into_iter().map(replica).collect(),
        }
    }

    /// Adds what only the leader knows to the answer of a change. An ended session gets no right.
    pub(crate) fn complete(&self, now: TrueTime, session: u64, mut reply: Reply) -> Reply {
        if let Ok(mrc::Response {
            reply: Some(response::Reply::Opened(opened)),
        }) = &mut reply
            && let Some(grant) = &mut opened.grant
            && self.soft.sessions.contains_key(&session)
        {
            let inode = Inode(opened.attr.map_or(0, |attr| attr.inode));
            let right = (PgId(grant.pg), Rights::Write);
            *grant = self.grant(now, SessionId(session), inode, right);
        }
        reply
    }
}
