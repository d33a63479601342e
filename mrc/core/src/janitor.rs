//! What the leader's janitor looks for, in bounded pages. Each list goes on after the last item got.

use std::collections::BTreeMap;

use proto::index::{GarbageRecord, OrphanRecord, SessionRecord, VolumeRecord};
use types::{Inode, OsdId, SessionId, UnixNanos, VolumeId};

use crate::config::{ANSWERS_KEPT_NS, JANITOR_PAGE_MAX};
use crate::index::{IndexError, IndexRead, Visit};
use crate::keys::{self, Key};
use crate::records::{self, corrupt};

/// An inode without links.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Orphan {
    /// Its volume.
    pub volume: VolumeId,
    /// The inode.
    pub inode: Inode,
    /// When it lost its last link.
    pub since: UnixNanos,
}

/// A writer whose session ended before it closed the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LostWriter {
    /// The volume.
    pub volume: VolumeId,
    /// The file.
    pub inode: Inode,
    /// The ended session.
    pub session: SessionId,
}

/// One page of lost writers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LostWriters {
    /// Those found.
    pub found: Vec<LostWriter>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// Objects an object server should delete, as one garbage record.
#[derive(Clone, Debug, PartialEq)]
pub struct Garbage {
    /// To be confirmed with `Collected`.
    pub seq: u64,
    /// The objects.
    pub record: GarbageRecord,
}

/// Returns orphans after the given one, at most a page.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn orphans(
    index: &dyn IndexRead,
    after: Option<(VolumeId, Inode)>,
) -> Result<Vec<Orphan>, IndexError> {
    let mut range = keys::all(b'u');
    if let Some((volume, inode)) = after {
        range.start = keys::after(&keys::orphan(volume, inode));
    }
    let mut found = Vec::new();
    records::scan(index, range, |key, record: OrphanRecord| {
        let Some(Key::Orphan(volume, inode)) = Key::decode(key) else {
            return Err(corrupt(key, "no key of an orphan"));
        };
        found.push(Orphan {
            volume,
            inode,
            since: UnixNanos(record.since_ns),
        });
        Ok(more(found.len()))
    })?;
    Ok(found)
}

/// Whether any session has the inode open for writing.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn is_open_for_writing(
    index: &dyn IndexRead,
    volume: VolumeId,
    inode: Inode,
) -> Result<bool, IndexError> {
    records::any(index, &keys::of_inode(b'f', volume, inode))
}

/// Looks at a page of files open for writing, from `start` on, for those whose session ended.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn lost_writers(
    index: &dyn IndexRead,
    start: Option<Vec<u8>>,
) -> Result<LostWriters, IndexError> {
    let mut range = keys::all(b'f');
    if let Some(start) = start {
        range.start = start;
    }
    let page = records::keys_of(index, &range, JANITOR_PAGE_MAX)?;
    let mut found = Vec::new();
    let mut ended: BTreeMap<SessionId, bool> = BTreeMap::new();
    for key in &page {
        let Some(Key::Open(volume, inode, session)) = Key::decode(key) else {
            return Err(corrupt(key, "no key of an open file"));
        };
        let is_ended = match ended.get(&session) {
            Some(is_ended) => *is_ended,
            None => {
                let record = records::session(index, session)?;
                let is_ended = record.is_none_or(|record| record.ended);
                ended.insert(session, is_ended);
                is_ended
            }
        };
        if is_ended {
            found.push(LostWriter {
                volume,
                inode,
                session,
            });
        }
    }
    let next = page
        .last()
        .filter(|_| page.len() == JANITOR_PAGE_MAX)
        .map(|key| keys::after(key));
    Ok(LostWriters { found, next })
}

/// Returns ended sessions that may have lost writers: those without can be forgotten.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn unsettled_sessions(
    index: &dyn IndexRead,
) -> Result<Vec<(SessionId, SessionRecord)>, IndexError> {
    let mut all = crate::query::sessions(index)?;
    all.retain(|(_, record)| record.ended && !record.settled);
    Ok(all)
}

/// Returns the sessions whose answers were kept long enough, or are not among the newest `kept_max`;
/// by id.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn outlived_sessions(
    index: &dyn IndexRead,
    now: UnixNanos,
    kept_max: usize,
) -> Result<Vec<SessionId>, IndexError> {
    let mut settled = crate::query::sessions(index)?;
    settled.retain(|(_, record)| record.settled);
    // Newer sessions have greater ids.
    let surplus = settled.len().saturating_sub(kept_max);
    let outlived = settled.into_iter().enumerate().filter(|(at, (_, record))| {
        *at < surplus || now.0.saturating_sub(record.ended_ns) >= ANSWERS_KEPT_NS
    });
    Ok(outlived.map(|(_, (session, _))| session).collect())
}

/// Returns garbage of one object server after `after`, at most a page.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn garbage(
    index: &dyn IndexRead,
    osd: OsdId,
    after: Option<u64>,
) -> Result<Vec<Garbage>, IndexError> {
    let mut range = keys::of(b'g', osd.0);
    if let Some(seq) = after {
        range.start = keys::after(&keys::garbage(osd, seq));
    }
    let mut found = Vec::new();
    records::scan(index, range, |key, record: GarbageRecord| {
        let Some(Key::Garbage(_, seq)) = Key::decode(key) else {
            return Err(corrupt(key, "no key of garbage"));
        };
        found.push(Garbage { seq, record });
        Ok(more(found.len()))
    })?;
    Ok(found)
}

/// Returns deleted volumes that are not purged yet.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn deleted_volumes(index: &dyn IndexRead) -> Result<Vec<VolumeId>, IndexError> {
    let mut found = Vec::new();
    records::scan(index, keys::all(b'v'), |key, record: VolumeRecord| {
        if record.deleted {
            found.push(records::volume_of(key)?);
        }
        Ok(Visit::Continue)
    })?;
    Ok(found)
}

const fn more(found: usize) -> Visit {
    if found < JANITOR_PAGE_MAX {
        Visit::Continue
    } else {
        Visit::Stop
    }
}
