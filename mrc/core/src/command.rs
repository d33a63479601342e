//! Applying entries of the metadata log, each exactly once per session slot.
//!
//! Invariant C-1: applying the same commands in the same order to equal indexes gives equal indexes
//! and equal replies. Invariant C-2: a refused command changes nothing but the slot that stores the
//! refusal. Slots are those of NFSv4.1 (RFC 8881 section 2.10.6): a slot carries one request at a
//! time, its number grows by one with each, and the newest reply is kept in the index.

use proto::index::command::Op;
use proto::index::slot_record::Reply as StoredReply;
use proto::index::{Command, SlotRecord};
use proto::mrc::{self, request};
use types::{Fault, Remedy, SessionId, UnixNanos, VolumeId};

use crate::config;
use crate::errno;
use crate::index::{IndexError, IndexRead};
use crate::keys;
use crate::namespace::Namespace;
use crate::overlay::Overlay;
use crate::records::{self, Step, Stop, Work};
use crate::{garbage, groups, registry, restore, session, volume};

/// What the caller is told.
pub type Reply = Result<mrc::Response, Fault>;

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Answer. The `Grant` of an `Opened` has only its placement group; the leader seals the rest.
    pub reply: Reply,
    /// What the shell may have to look after now.
    pub effects: Effects,
}

/// What changed that others wait for. All false when a repeated request got its stored reply.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Effects {
    /// The OSD map has a new version.
    pub map_changed: bool,
    /// An inode lost its last link.
    pub orphaned: bool,
    /// There is new garbage.
    pub garbage: bool,
    /// A session ended: its open files want settling.
    pub session_ended: bool,
    /// A volume waits for being purged.
    pub purge: bool,
}

/// Turns what a session, an administrator or an object server asked into a command, or gives it back
/// if it changes nothing by itself (reads, `Open`, `Release`, `KeepAlive`, `OsdHeartbeat`, status).
///
/// `OpenSession` gets its timeout and `VolumeCreate` its servers from the leader, which fills them
/// in afterwards.
///
/// # Errors
///
/// The request, boxed, if it is no command.
pub fn of_request(request: mrc::Request, now: UnixNanos) -> Result<Command, Box<mrc::Request>> {
    let mrc::Request {
        session,
        slot,
        slot_seq,
        forward,
        order,
        op,
    } = request;
    let op = match op {
        Some(request::Op::OpenSession(open)) => Op::OpenSession(proto::index::OpenSession {
            request: Some(open),
            timeout_ms: 0,
        }),
        Some(request::Op::CloseSession(_)) => {
            Op::CloseSession(proto::index::CloseSession { session })
        }
        Some(request::Op::VolumeCreate(create)) => Op::VolumeCreate(proto::index::VolumeCreate {
            request: Some(create),
            osds: Vec::new(),
        }),
        Some(request::Op::VolumeDelete(delete)) => Op::VolumeDelete(proto::index::VolumeDelete {
            name: delete.name,
            nonce: delete.nonce,
        }),
        Some(request::Op::VolumeSet(set)) => Op::VolumeSet(set),
        Some(request::Op::OsdSet(set)) => Op::OsdSet(set),
        Some(request::Op::JobSet(set)) => Op::JobSet(set),
        Some(request::Op::OsdRemove(remove)) => Op::OsdRemove(remove),
        Some(request::Op::DiscardLeftovers(discard)) => Op::DiscardLeftovers(discard),
        Some(request::Op::RestoreBegin(begin)) => Op::RestoreBegin(begin),
        Some(request::Op::RestoreBatch(batch)) => Op::RestoreBatch(batch),
        Some(request::Op::RestoreEnd(end)) => Op::RestoreEnd(end),
        Some(request::Op::RestoredDiscard(discard)) => Op::RestoredDiscard(discard),
        Some(request::Op::Create(op)) => Op::Create(op),
        Some(request::Op::MkDir(op)) => Op::MkDir(op),
        Some(request::Op::MkNod(op)) => Op::MkNod(op),
        Some(request::Op::Symlink(op)) => Op::Symlink(op),
        Some(request::Op::Link(op)) => Op::Link(op),
        Some(request::Op::Unlink(op)) => Op::Unlink(op),
        Some(request::Op::RmDir(op)) => Op::RmDir(op),
        Some(request::Op::Rename(op)) => Op::Rename(op),
        Some(request::Op::SetAttr(op)) => Op::SetAttr(op),
        Some(request::Op::SetXattr(op)) => Op::SetXattr(op),
        Some(request::Op::RemoveXattr(op)) => Op::RemoveXattr(op),
        Some(request::Op::OpenWrite(op)) => Op::OpenWrite(op),
        Some(request::Op::Written(op)) => Op::Written(op),
        op => {
            return Err(Box::new(mrc::Request {
                session,
                slot,
                slot_seq,
                forward,
                order,
                op,
            }));
        }
    };
    Ok(Command {
        time_ns: now.0,
        session,
        slot,
        slot_seq,
        op: Some(op),
    })
}

/// An internal command, asked by no session.
#[must_use]
pub const fn internal(op: Op, now: UnixNanos) -> Command {
    Command {
        time_ns: now.0,
        session: 0,
        slot: 0,
        slot_seq: 0,
        op: Some(op),
    }
}

/// Applies one command: reads through `overlay` from `base`, writes to `overlay` only.
///
/// # Errors
///
/// [`IndexError`] if the index failed or is damaged; the overlay must then be thrown away. A
/// refusal is no error but a reply.
pub fn apply(
    base: &dyn IndexRead,
    overlay: &mut Overlay,
    command: &Command,
) -> Result<Outcome, IndexError> {
    let mut work = Work::new(base, overlay, command.time_ns);
    let mut effects = Effects::default();
    let step = match &command.op {
        Some(op) if is_slotted(op) => in_slot(&mut work, command, op, &mut effects),
        Some(op) => unslotted(&mut work, op, &mut effects),
        // Who skipped it would have another index than the others from then on.
        None => return Err(IndexError::UnknownCommand),
    };
    let reply = match step {
        Ok(response) => Ok(response),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::Index(error)) => return Err(error),
    };
    Ok(Outcome { reply, effects })
}

/// The answer to a request that was carried out before, as [`apply`] would give it once more.
///
/// A leader asks before it proposes: where the log takes longer than whoever asks waits, a request that is repeated
/// by way of the log would never get its answer.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn answered(index: &dyn IndexRead, command: &Command) -> Result<Option<Reply>, IndexError> {
    let session = SessionId(command.session);
    let slotted = command.op.as_ref().is_some_and(is_slotted);
    if !slotted || records::session(index, session)?.is_none() {
        return Ok(None);
    }
    let newest: Option<SlotRecord> = records::get(index, &keys::slot(session, command.slot))?;
    let newest = newest.filter(|newest| newest.seq == command.slot_seq);
    Ok(newest.and_then(|newest| newest.reply).map(of_stored))
}

fn of_stored(reply: StoredReply) -> Reply {
    match reply {
        StoredReply::Response(response) => Ok(response),
        StoredReply::Fault(fault) => Err(fault.into()),
    }
}

/// Whether the operation carries a session's slot.
const fn is_slotted(op: &Op) -> bool {
    matches!(
        op,
        Op::Create(_)
            | Op::MkDir(_)
            | Op::MkNod(_)
            | Op::Symlink(_)
            | Op::Link(_)
            | Op::Unlink(_)
            | Op::RmDir(_)
            | Op::Rename(_)
            | Op::SetAttr(_)
            | Op::SetXattr(_)
            | Op::RemoveXattr(_)
            | Op::OpenWrite(_)
            | Op::Written(_)
            | Op::Refused(_)
    )
}

fn in_slot(
    work: &mut Work<'_>,
    command: &Command,
    op: &Op,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let session = SessionId(command.session);
    let Some(record) = records::session(work, session)? else {
        // EIO: nobody knows any more whether the request was carried out.
        let text = format!("session {session} is unknown or ended long ago; open a new one");
        return Err(Fault::new(Remedy::Refresh, errno::EIO, text).into());
    };
    let volume = VolumeId(record.volume);
    if command.slot >= config::SLOT_COUNT {
        return Err(protocol_fault(format!(
            "slot {} is out of range; a session has {}",
            command.slot,
            config::SLOT_COUNT
        )));
    }
    let key = keys::slot(session, command.slot);
    let newest: SlotRecord = records::get(work, &key)?.unwrap_or_default();
    if command.slot_seq == newest.seq
        && let Some(reply) = newest.reply
    {
        return of_stored(reply).map_err(Stop::Fault);
    }
    if record.ended {
        // Nothing else will be done in this slot, so the request is not done, now or later.
        let text = format!("session {session} has ended; open a new one");
        return Err(Fault::refresh(text).into());
    }
    if command.slot_seq != newest.seq + 1 {
        return Err(protocol_fault(format!(
            "slot {} has seen request {}, so {} can't be next; open a new session",
            command.slot, newest.seq, command.slot_seq
        )));
    }

    let step = match op {
        Op::Refused(refused) => Err(Stop::Fault(refused.fault.clone().map_or_else(
            || Fault::surface(errno::EPROTO, "refused without a reason"),
            Fault::from,
        ))),
        op => Namespace::new(work, volume, session, effects).change(op),
    };
    let reply = match &step {
        Ok(response) => StoredReply::Response(response.clone()),
        Err(Stop::Fault(fault)) => StoredReply::Fault(fault.into()),
        Err(Stop::Index(_)) => return step,
    };
    work.put(
        key,
        &SlotRecord {
            seq: command.slot_seq,
            reply: Some(reply),
        },
    );
    step
}

fn unslotted(work: &mut Work<'_>, op: &Op, effects: &mut Effects) -> Step<mrc::Response> {
    if !may_run_during_a_restore(op) && work.is_being_restored()? {
        return Err(Fault::surface(
            errno::EBUSY,
            "a dump is being restored here; finish that first with `xfs-admin restore FILE`",
        )
        .into());
    }
    match op {
        Op::RestoreBegin(begin) => restore::begin(work, begin),
        Op::RestoreBatch(batch) => restore::batch(work, batch),
        Op::RestoreEnd(end) => restore::end(work, end, effects),
        Op::SettleRestored(settle) => restore::settle(work, settle),
        Op::RestoredDiscard(_) => restore::discard(work),
        Op::OpenSession(open) => session::open(work, open),
        Op::CloseSession(close) => session::end(work, SessionId(close.session), false, effects),
        Op::ExpireSession(expire) => session::end(work, SessionId(expire.session), true, effects),
        Op::SettleSize(settle) => session::settle(work, settle),
        Op::ForgetSession(forget) => session::forget(work, forget),
        Op::RegisterOsd(register) => registry::register(work, register, effects),
        Op::PgFull(full) => registry::pg_full(work, full, effects),
        Op::ChangePg(change) => groups::change(work, change, effects),
        Op::EndPgChange(end) => groups::end(work, end, effects),
        Op::OsdSet(set) => registry::set(work, set),
        Op::OsdDown(down) => registry::down(work, down),
        Op::JobSet(set) => registry::set_jobs(work, set),
        Op::OsdRemove(remove) => registry::remove(work, remove, effects),
        Op::VolumeCreate(create) => volume::create(work, create, effects),
        Op::VolumeSet(set) => volume::set(work, set, effects),
        Op::VolumeDelete(delete) => volume::delete(work, delete, effects),
        Op::VolumePurge(purge) => volume::purge(work, purge, effects),
        Op::Reap(reap) => garbage::reap(work, reap, effects),
        Op::Collected(collected) => garbage::collected(work, collected),
        Op::DiscardLeftovers(discard) => garbage::discard(work, discard, effects),
        // Slotted ones do not come here; a new operation must be put on one side or the other.
        _ => Err(protocol_fault(
            "the operation needs a session's slot".to_owned(),
        )),
    }
}

/// Object servers go on to say where they are: restoring takes that.
const fn may_run_during_a_restore(op: &Op) -> bool {
    matches!(
        op,
        Op::RestoreBegin(_)
            | Op::RestoreBatch(_)
            | Op::RestoreEnd(_)
            | Op::RegisterOsd(_)
            | Op::OsdDown(_)
    )
}

fn protocol_fault(message: String) -> Stop {
    Stop::Fault(Fault::surface(errno::EPROTO, message))
}

/// The answer that says nothing but "done".
pub(crate) fn done() -> mrc::Response {
    mrc::Response {
        reply: Some(mrc::response::Reply::Done(mrc::Done {})),
    }
}
