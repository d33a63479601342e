//! Sessions: opened once per nonce, ended by their mount or by the leader's clock, forgotten when
//! the files they had open for writing are settled. Of one that the clock ended the answers to its
//! requests are kept longer.

use proto::index::{ForgetSession, NonceRecord, OpenSession, SessionRecord, SettleSize};
use proto::mrc::{self, response};
use types::{Fault, Inode, SessionId, VolumeId};

use crate::attr;
use crate::command::{Effects, done};
use crate::config;
use crate::errno;
use crate::keys;
use crate::quota;
use crate::records::{self, Step, Work, refuse};

/// Opens a session, or finds the one this nonce opened.
pub(crate) fn open(work: &mut Work<'_>, open: &OpenSession) -> Step<mrc::Response> {
    let Some(request) = &open.request else {
        return refuse(errno::EPROTO);
    };
    let Some((volume, record)) = records::volume_named(work, &request.volume)? else {
        return Err(Fault::surface(
            errno::ENOENT,
            format!("volume {:?} does not exist", request.volume),
        )
        .into());
    };
    let root = records::inode(work, volume, Inode(record.root_inode))?;
    let opened = |session: u64, timeout_ms: u64| mrc::Response {
        reply: Some(response::Reply::SessionOpened(mrc::SessionOpened {
            session,
            volume: volume.0,
            root: Some(attr::of(Inode(record.root_inode), &root)),
            timeout_ms,
            slot_count: config::SLOT_COUNT,
        })),
    };

    let nonce_key = keys::nonce(request.nonce);
    if let Some(NonceRecord { session }) = records::get(work, &nonce_key)? {
        let made = records::session(work, SessionId(session))?;
        return match made {
            Some(made) if !made.ended && made.volume == volume.0 => {
                Ok(opened(session, made.timeout_ms))
            }
            // Drawing the same 64 bits twice does not happen; using them twice is a mistake.
            _ => Err(Fault::surface(
                errno::EINVAL,
                "this nonce opened another session before; draw a new one",
            )
            .into()),
        };
    }
    if request.client.len().max(request.mount_point.len()) > config::TEXT_BYTES_MAX {
        return refuse(errno::ENAMETOOLONG);
    }
    let mut sequences = records::sequences(work)?;
    if sequences.session_count >= config::SESSIONS_MAX {
        return Err(Fault::surface(
            errno::ENOSPC,
            format!(
                "the cluster has {} sessions, the most it can have; unmount some",
                config::SESSIONS_MAX
            ),
        )
        .into());
    }

    let session = sequences.next_session;
    sequences.next_session += 1;
    sequences.session_count += 1;
    let mut counters = records::counters(work, volume)?;
    counters.session_count += 1;
    work.put(keys::sequences(), &sequences);
    work.put(keys::counters(volume), &counters);
    work.put(nonce_key, &NonceRecord { session });
    work.put(
        keys::session(SessionId(session)),
        &SessionRecord {
            volume: volume.0,
            client: request.client.clone(),
            mount_point: request.mount_point.clone(),
            pid: request.pid,
            nonce: request.nonce,
            timeout_ms: open.timeout_ms,
            opened_ns: work.now,
            ended: false,
            expired: false,
            ended_ns: 0,
            settled: false,
        },
    );
    Ok(opened(session, open.timeout_ms))
}

/// Ends a session: nothing it asks is done any more. Ending it again does nothing.
pub(crate) fn end(
    work: &mut Work<'_>,
    session: SessionId,
    expired: bool,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    if let Some(mut record) = records::session(work, session)?
        && !record.ended
    {
        record.ended = true;
        record.expired = expired;
        record.ended_ns = work.now;
        work.put(keys::session(session), &record);
        effects.session_ended = true;
    }
    Ok(done())
}

/// Raises the size of a file whose writer ended to what its object shows, and drops the writer.
pub(crate) fn settle(work: &mut Work<'_>, settle: &SettleSize) -> Step<mrc::Response> {
    let (volume, inode) = (VolumeId(settle.volume), Inode(settle.inode));
    let key = keys::open(volume, inode, SessionId(settle.session));
    if records::get::<proto::index::OpenRecord>(work, &key)?.is_none() {
        return Ok(done());
    }
    if settle.size_at_least_bytes > config::FILE_BYTES_MAX {
        return refuse(errno::EFBIG);
    }
    let inode_key = keys::inode(volume, inode);
    let record = records::get::<proto::index::InodeRecord>(work, &inode_key)?;
    let Some(mut record) = record else {
        work.delete(key);
        return Ok(done());
    };
    let grows = record.size_bytes < settle.size_at_least_bytes;
    if grows && record.truncate_epoch != settle.truncate_epoch {
        // The object was asked before it was truncated: it is asked again.
        return refuse(errno::EAGAIN);
    }
    if grows {
        quota::set_size(work, volume, &mut record, settle.size_at_least_bytes)?;
        record.mtime_ns = work.now;
        record.ctime_ns = work.now;
        record.data_version += 1;
    }
    work.delete(key);
    let judged = quota::judge(work, volume, inode, &mut record)?;
    if grows || judged {
        work.put(inode_key, &record);
    }
    Ok(done())
}

/// Removes an ended session with its slots, or all but these. The janitor settled its open files
/// before.
pub(crate) fn forget(work: &mut Work<'_>, forget: &ForgetSession) -> Step<mrc::Response> {
    let session = SessionId(forget.session);
    let Some(mut record) = records::session(work, session)? else {
        return Ok(done());
    };
    if !record.ended {
        return Err(Fault::surface(errno::EBUSY, format!("session {session} is active")).into());
    }
    if !record.settled {
        let volume = VolumeId(record.volume);
        let mut sequences = records::sequences(work)?;
        sequences.session_count = sequences.session_count.saturating_sub(1);
        let mut counters = records::counters(work, volume)?;
        counters.session_count = counters.session_count.saturating_sub(1);
        work.delete(keys::nonce(record.nonce));
        work.put(keys::sequences(), &sequences);
        work.put(keys::counters(volume), &counters);
    }
    if forget.keep_slots {
        record.settled = true;
        work.put(keys::session(session), &record);
        return Ok(done());
    }
    // The session's own key and its slots; at most SLOT_COUNT of them exist.
    for key in records::keys_of(
        work,
        &keys::of(b's', session.0),
        1 + config::SLOT_COUNT as usize,
    )? {
        work.delete(key);
    }
    Ok(done())
}
