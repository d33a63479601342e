//! The right to an open file: got when it is opened, renewed in time and when servers refuse it, and got anew
//! in a new session.

use proto::mrc::{self, request, response};
use types::{Duration, OsdId, SessionId};

use super::{Goal, Stage};
use crate::cluster::happening::Right;
use crate::cluster::mount::Asker;
use crate::cluster::shell::ESTALE;
use crate::cluster::world::World;
use crate::time::TrueTime;

const EBADF: i32 = 9;

pub(super) fn open_of(inode: u64, write: bool) -> request::Op {
    match write {
        true => request::Op::OpenWrite(mrc::OpenWrite { inode }),
        false => request::Op::Open(mrc::Open {
            inode,
            renew_write: false,
        }),
    }
}

pub(super) fn members_of(grant: &mrc::Grant) -> Vec<OsdId> {
    let replicas = grant.replicas.iter();
    replicas.map(|replica| OsdId(replica.osd)).collect()
}

pub(super) fn right_of(grant: &mrc::Grant) -> Right {
    Right {
        capability: grant.capability.to_vec(),
        view: grant.view,
    }
}

/// A right is renewed when a quarter of its time is left, as `GRANT_RENEW_DIVISOR` of mounts says.
pub(super) fn fresh_until(now: TrueTime, grant: &mrc::Grant) -> TrueTime {
    now + Duration::from_millis(grant.valid_ms).scaled(3, 4)
}

impl World {
    /// Asks for a new right, in the session in which the file is open.
    pub(super) fn renews(&mut self, mount: usize, index: usize) {
        let write = self.handle(mount, index).write;
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        open.renew_at = None;
        if std::mem::replace(&mut open.renewing, true) {
            return;
        }
        let (inode, serial) = (open.key.object.inode.0, open.serial);
        let op = request::Op::Open(mrc::Open {
            inode,
            renew_write: write,
        });
        self.ask_metadata(mount, Asker::Renewal(index, serial), op, false);
    }

    /// Opens the file in the present session, if it is open in an earlier one.
    pub(crate) fn reopen(&mut self, mount: usize, index: usize) {
        let session = self.mounts[mount].session;
        let write = self.handle(mount, index).write;
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        if open.session == session || open.gone || open.renewing {
            return;
        }
        open.renewing = true;
        let (inode, serial) = (open.key.object.inode.0, open.serial);
        let op = open_of(inode, write);
        self.ask_metadata(mount, Asker::Renewal(index, serial), op, write);
    }

    pub(crate) fn right_renewed(
        &mut self,
        mount: usize,
        (index, serial): (usize, u64),
        session: u64,
        result: mrc_core::Reply,
    ) {
        let now = self.schedule.now();
        let write = self.handle(mount, index).write;
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        if open.serial != serial {
            return;
        }
        open.renewing = false;
        let inode = open.key.object.inode.0;
        let grant = match &result {
            Ok(mrc::Response {
                reply: Some(response::Reply::Opened(opened)),
            }) => opened.grant.clone().unwrap_or_default(),
            // Not recorded as a writer: the session is a new one.
            Err(fault) if fault.errno == EBADF => {
                open.renewing = true;
                let op = open_of(inode, write);
                return self.ask_metadata(mount, Asker::Renewal(index, serial), op, write);
            }
            Err(fault) if fault.errno == ESTALE => return self.is_gone(mount, index),
            other => return self.report(format!("mount {mount} gets no right: {other:?}")),
        };
        if grant.capability.is_empty() {
            return self.reopen(mount, index);
        }
        if open.session != session {
            // What was acknowledged in the one before nobody misses any more.
            open.earlier_losses = open.acked_losses.take().or(open.earlier_losses);
            if let Some(content) = self.contents.get_mut(&inode) {
                content.owes_nothing(mount);
            }
        }
        let members = members_of(&grant);
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        open.session = session;
        open.right = right_of(&grant);
        open.fresh_until = fresh_until(now, &grant);
        open.read_route.replace(members.clone());
        self.handle(mount, index).registered |= !write;
        self.change(mount, index, |changes, now, ids, out| {
            changes.enter_session(ids, SessionId(session));
            changes.granted(now, ids, members, out);
        });
        self.reopen(mount, index);
    }

    /// The file was removed while the session was over: the program sees errors.
    fn is_gone(&mut self, mount: usize, index: usize) {
        let Stage::Ready(open) = &mut self.handle(mount, index).stage else {
            return;
        };
        let inode = open.key.object.inode.0;
        open.gone = true;
        open.read_at = None;
        open.reading = None;
        if self.meta.names.files.contains(&inode) {
            return self.report(format!("mount {mount} is told that inode {inode} is gone"));
        }
        self.change(mount, index, |changes, _, _, out| {
            changes.abandon(ESTALE, out);
        });
        // A read that was under way; what the metadata cluster is asked it answers.
        if let Some(open) = self.handle(mount, index).ready()
            && !matches!(open.goal, Some((Goal::Tell, ..)))
        {
            open.goal = None;
        }
    }
}
