//! Typed reading and writing of records.

use bytes::Bytes;
use prost::Message;
use proto::index::{
    CountersRecord, DentryRecord, InodeRecord, MapRecord, OsdRecord, PgRecord, RestoreRecord,
    SequencesRecord, SessionRecord, VolumeRecord,
};
use types::{Fault, Inode, OsdId, PgId, SessionId, VolumeId};

use crate::errno;
use crate::index::{IndexError, IndexRead, Visit, Visitor};
use crate::keys;
use crate::overlay::Overlay;

/// Why a command or query ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The answer is no.
    Fault(Fault),
    /// There is no answer.
    Index(IndexError),
}

impl From<IndexError> for Stop {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The result of a step that may end early.
pub(crate) type Step<T> = Result<T, Stop>;

/// Ends with an errno.
pub(crate) fn refuse<T>(errno: i32) -> Step<T> {
    Err(Stop::Fault(errno::fault(errno)))
}

/// Ends with an errno unless `condition` holds.
pub(crate) fn ensure(condition: bool, errno: i32) -> Step<()> {
    if condition { Ok(()) } else { refuse(errno) }
}

/// Reads a record.
pub(crate) fn get<M: Message + Default>(
    index: &dyn IndexRead,
    key: &[u8],
) -> Result<Option<M>, IndexError> {
    let Some(value) = index.get(key)? else {
        return Ok(None);
    };
    decode(key, value).map(Some)
}

/// Decodes a record.
pub(crate) fn decode<M: Message + Default>(
    key: &[u8],
    value: impl bytes::Buf,
) -> Result<M, IndexError> {
    M::decode(value).map_err(|_| corrupt(key, "its value can't be decoded"))
}

pub(crate) fn corrupt(key: &[u8], reason: &'static str) -> IndexError {
    IndexError::Corrupt {
        key: key.to_vec(),
        reason,
    }
}

/// Scans decoded records of `range`; the visitor sees whole keys.
pub(crate) fn scan<M: Message + Default>(
    index: &dyn IndexRead,
    range: std::ops::Range<Vec<u8>>,
    mut visit: impl FnMut(&[u8], M) -> Result<Visit, IndexError>,
) -> Result<(), IndexError> {
    let mut outcome = Ok(());
    index.scan(
        &range.start,
        &range.end,
        &mut |key, value| match decode(key, value).and_then(|record| visit(key, record)) {
            Ok(next) => next,
            Err(error) => {
                outcome = Err(error);
                Visit::Stop
            }
        },
    )?;
    outcome
}

/// Whether any key of `range` exists.
pub(crate) fn any(
    index: &dyn IndexRead,
    range: &std::ops::Range<Vec<u8>>,
) -> Result<bool, IndexError> {
    let mut found = false;
    index.scan(&range.start, &range.end, &mut |_, _| {
        found = true;
        Visit::Stop
    })?;
    Ok(found)
}

/// The first `limit` keys of `range`.
pub(crate) fn keys_of(
    index: &dyn IndexRead,
    range: &std::ops::Range<Vec<u8>>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, IndexError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    index.scan(&range.start, &range.end, &mut |key, _| {
        found.push(key.to_vec());
        if found.len() < limit {
            Visit::Continue
        } else {
            Visit::Stop
        }
    })?;
    Ok(found)
}

/// Reads an inode; ESTALE if there is none (the kernel then looks the path up again).
pub(crate) fn inode(index: &dyn IndexRead, volume: VolumeId, number: Inode) -> Step<InodeRecord> {
    match get(index, &keys::inode(volume, number))? {
        Some(record) => Ok(record),
        None => refuse(errno::ESTALE),
    }
}

/// Reads a directory entry.
pub(crate) fn dentry(
    index: &dyn IndexRead,
    volume: VolumeId,
    parent: Inode,
    name: &[u8],
) -> Result<Option<DentryRecord>, IndexError> {
    get(index, &keys::dentry(volume, parent, name))
}

pub(crate) fn session(
    index: &dyn IndexRead,
    session: SessionId,
) -> Result<Option<SessionRecord>, IndexError> {
    get(index, &keys::session(session))
}

pub(crate) fn counters(
    index: &dyn IndexRead,
    volume: VolumeId,
) -> Result<CountersRecord, IndexError> {
    let key = keys::counters(volume);
    get(index, &key)?.ok_or_else(|| corrupt(&key, "the volume's counters are missing"))
}

/// Reads the cluster's counters; the first of everything is 1, because 0 means none.
pub(crate) fn sequences(index: &dyn IndexRead) -> Result<SequencesRecord, IndexError> {
    Ok(get(index, &keys::sequences())?.unwrap_or(SequencesRecord {
        next_volume: 1,
        next_session: 1,
        next_garbage: 1,
        session_count: 0,
        deletions: Vec::new(),
    }))
}

pub(crate) fn map_version(index: &dyn IndexRead) -> Result<u64, IndexError> {
    let map: Option<MapRecord> = get(index, keys::MAP)?;
    Ok(map.map_or(0, |map| map.version))
}

pub(crate) fn osd(index: &dyn IndexRead, osd: OsdId) -> Result<Option<OsdRecord>, IndexError> {
    get(index, &keys::osd(osd))
}

pub(crate) fn pg(
    index: &dyn IndexRead,
    volume: VolumeId,
    pg: PgId,
) -> Result<Option<PgRecord>, IndexError> {
    get(index, &keys::pg(volume, pg))
}

/// Finds a volume by name; those being deleted have none.
pub(crate) fn volume_named(
    index: &dyn IndexRead,
    name: &str,
) -> Result<Option<(VolumeId, VolumeRecord)>, IndexError> {
    let mut found = None;
    scan(index, keys::all(b'v'), |key, record: VolumeRecord| {
        if !record.deleted && record.name == name {
            found = Some((volume_of(key)?, record));
            return Ok(Visit::Stop);
        }
        Ok(Visit::Continue)
    })?;
    Ok(found)
}

pub(crate) fn volume_of(key: &[u8]) -> Result<VolumeId, IndexError> {
    match keys::Key::decode(key) {
        Some(keys::Key::Volume(volume)) => Ok(volume),
        _ => Err(corrupt(key, "no key of a volume")),
    }
}

/// One command's work: reads through the overlay, writes to it.
///
/// A command checks everything first and writes then: a refused command must leave nothing.
pub(crate) struct Work<'a> {
    base: &'a dyn IndexRead,
    overlay: &'a mut Overlay,
    /// Time of the command, nanoseconds since 1970 UTC.
    pub(crate) now: i64,
}

impl<'a> Work<'a> {
    pub(crate) fn new(base: &'a dyn IndexRead, overlay: &'a mut Overlay, now: i64) -> Self {
        Self { base, overlay, now }
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, record: &impl Message) {
        self.overlay.put(key, record.encode_to_vec());
    }

    pub(crate) fn put_bytes(&mut self, key: Vec<u8>, value: Bytes) {
        self.overlay.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.overlay.delete(key);
    }

    /// Whether a dump is being restored, which nothing else may disturb.
    pub(crate) fn is_being_restored(&self) -> Result<bool, IndexError> {
        let restore: Option<RestoreRecord> = get(self, keys::RESTORE)?;
        Ok(restore.is_some_and(|restore| !restore.finished))
    }

    /// Says that the OSD map changed.
    pub(crate) fn raise_map_version(&mut self) -> Result<(), IndexError> {
        let version = map_version(self)? + 1;
        self.put(keys::MAP.to_vec(), &MapRecord { version });
        Ok(())
    }
}

impl IndexRead for Work<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.overlay.over(self.base).get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        self.overlay.over(self.base).scan(start, end, visit)
    }
}
