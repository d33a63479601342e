//! Reads: the namespace as programs see it, the registry as administrators see it.

use bytes::Bytes;
use proto::index::{
    CountersRecord, DentryRecord, InodeRecord, JobsRecord, OsdRecord, PgRecord, SessionRecord,
    VolumeRecord,
};
use proto::mrc::{self, request, response};
use types::{Fault, Inode, OsdId, PgId, SessionId, VolumeId};

use crate::attr;
use crate::command::Reply;
use crate::config;
use crate::errno;
use crate::garbage;
use crate::index::{IndexError, IndexRead, Visit};
use crate::keys::{self, Key};
use crate::namespace::open;
use crate::namespace::xattr::check_xattr_name;
use crate::quota::Use;
use crate::records::{self, Step, Stop, corrupt, ensure, refuse};
use crate::restore;
use crate::volume;

/// Answers a read of the namespace or of the volume list; `None` if the operation is none.
///
/// `StatFs` gets what the volume uses and may use only: what is free is known to whom the object servers
/// report, who adds it with [`show_space`](crate::show_space).
///
/// # Errors
///
/// [`IndexError`] if the index can't be read. A refusal is no error but a reply.
pub fn answer(
    index: &dyn IndexRead,
    volume: VolumeId,
    op: &request::Op,
) -> Result<Option<Reply>, IndexError> {
    let step = match op {
        request::Op::Lookup(op) => lookup(index, volume, Inode(op.parent), &op.name),
        request::Op::GetAttr(op) => records::inode(index, volume, Inode(op.inode))
            .map(|record| attr::entry(Inode(op.inode), &record)),
        request::Op::ReadDir(op) => read_directory(index, volume, op),
        request::Op::ReadLink(op) => read_link(index, volume, Inode(op.inode)),
        request::Op::GetXattr(op) => get_xattr(index, volume, Inode(op.inode), &op.name),
        request::Op::ListXattr(op) => list_xattrs(index, volume, Inode(op.inode)),
        request::Op::StatFs(_) => stat_fs(index, volume),
        request::Op::VolumeList(_) => volumes(index).map(show_volumes).map_err(Stop::from),
        request::Op::VolumeShow(op) => show_volume(index, &op.name),
        request::Op::RestoredShow(_) => restored(index)
            .map(|restored| mrc::Response {
                reply: Some(response::Reply::Restored(restored)),
            })
            .map_err(Stop::from),
        _ => return Ok(None),
    };
    match step {
        Ok(response) => Ok(Some(Ok(response))),
        Err(Stop::Fault(fault)) => Ok(Some(Err(fault))),
        Err(Stop::Index(error)) => Err(error),
    }
}

/// Returns the record of a session, ended ones included.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn session(
    index: &dyn IndexRead,
    session: SessionId,
) -> Result<Option<SessionRecord>, IndexError> {
    records::session(index, session)
}

/// Returns all sessions, ended ones included; at most [`config::SESSIONS_MAX`] and those whose answers
/// are kept.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn sessions(index: &dyn IndexRead) -> Result<Vec<(SessionId, SessionRecord)>, IndexError> {
    let mut found = Vec::new();
    let range = keys::all(b's');
    let mut start = range.start;
    loop {
        // A session's slots stand behind it; the next session is sought beyond them.
        let mut next = None;
        records::scan(index, start..range.end.clone(), |key, record| {
            let Some(Key::Session(session)) = Key::decode(key) else {
                return Err(corrupt(key, "a slot without its session"));
            };
            next = Some((session, record));
            Ok(Visit::Stop)
        })?;
        let Some((session, record)) = next else {
            return Ok(found);
        };
        start = keys::of(b's', session.0).end;
        found.push((session, record));
    }
}

/// Returns an inode's record, for the placement of grants and the janitor.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn inode(
    index: &dyn IndexRead,
    volume: VolumeId,
    inode: Inode,
) -> Result<Option<InodeRecord>, IndexError> {
    records::get(index, &keys::inode(volume, inode))
}

/// Finds the inode of an entry of a directory.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn entry(
    index: &dyn IndexRead,
    volume: VolumeId,
    parent: Inode,
    name: &[u8],
) -> Result<Option<Inode>, IndexError> {
    let dentry = records::dentry(index, volume, parent, name)?;
    Ok(dentry.map(|dentry| Inode(dentry.inode)))
}

/// Finds among objects that a server holds those whose files are gone for good.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read. A refusal is no error but a reply.
pub fn leftovers(index: &dyn IndexRead, find: &mrc::FindLeftovers) -> Result<Reply, IndexError> {
    if find.objects.len() > config::HELD_OBJECTS_MAX {
        return Ok(Err(errno::fault(errno::E2BIG)));
    }
    let mut objects = Vec::new();
    // What is not there yet is not gone.
    let incoming = restore::show(index)?;
    let judged = match incoming.restored && !incoming.finished {
        true => &[],
        false => &find.objects[..],
    };
    for held in judged {
        if garbage::is_left_over(index, OsdId(find.osd), held)? {
            objects.push(*held);
        }
    }
    // Afterwards: what was gone when it was looked for has a smaller number.
    let garbage_below = records::sequences(index)?.next_garbage;
    Ok(Ok(mrc::Response {
        reply: Some(response::Reply::Leftovers(mrc::Leftovers {
            objects,
            garbage_below,
        })),
    }))
}

/// Says whether the index was restored from a dump, and how far that is.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn restored(index: &dyn IndexRead) -> Result<mrc::Restored, IndexError> {
    restore::show(index)
}

/// Why a file can't be opened although it is there: its content is lost.
///
/// # Errors
///
/// A fault that says so.
pub fn has_content(record: &InodeRecord) -> Result<(), Fault> {
    match open::has_content(record) {
        Err(Stop::Fault(fault)) => Err(fault),
        _ => Ok(()),
    }
}

/// Returns the counters of a volume; `None` if there is no such volume.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn counters(
    index: &dyn IndexRead,
    volume: VolumeId,
) -> Result<Option<CountersRecord>, IndexError> {
    records::get(index, &keys::counters(volume))
}

/// Finds a volume by name.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn volume_named(
    index: &dyn IndexRead,
    name: &str,
) -> Result<Option<(VolumeId, VolumeRecord)>, IndexError> {
    records::volume_named(index, name)
}

/// Returns the record of a volume, also of one that is being deleted.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn volume_record(
    index: &dyn IndexRead,
    volume: VolumeId,
) -> Result<Option<VolumeRecord>, IndexError> {
    records::get(index, &keys::volume(volume))
}

/// Returns all volumes that are not deleted.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn volumes(index: &dyn IndexRead) -> Result<Vec<mrc::Volume>, IndexError> {
    let mut found = Vec::new();
    records::scan(index, keys::all(b'v'), |key, record: VolumeRecord| {
        if !record.deleted {
            found.push((records::volume_of(key)?, record));
        }
        Ok(Visit::Continue)
    })?;
    found
        .into_iter()
        .map(|(id, record)| Ok(volume::show(id, &record, &records::counters(index, id)?)))
        .collect()
}

/// Returns all object servers.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn osds(index: &dyn IndexRead) -> Result<Vec<(OsdId, OsdRecord)>, IndexError> {
    let mut found = Vec::new();
    records::scan(index, keys::all(b'o'), |key, record| {
        let Some(Key::Osd(osd)) = Key::decode(key) else {
            return Err(corrupt(key, "no key of an object server"));
        };
        found.push((osd, record));
        Ok(Visit::Continue)
    })?;
    Ok(found)
}

/// Returns one object server.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn osd(index: &dyn IndexRead, osd: OsdId) -> Result<Option<OsdRecord>, IndexError> {
    records::osd(index, osd)
}

/// Returns one placement group.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn pg(
    index: &dyn IndexRead,
    volume: VolumeId,
    pg: PgId,
) -> Result<Option<PgRecord>, IndexError> {
    records::pg(index, volume, pg)
}

/// Returns the placement groups of one volume or of all, without what is only reported.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn pgs(index: &dyn IndexRead, volume: Option<VolumeId>) -> Result<Vec<mrc::Pg>, IndexError> {
    let range = volume.map_or_else(|| keys::all(b'p'), |volume| keys::of(b'p', volume.0));
    let mut found = Vec::new();
    records::scan(index, range, |key, record: PgRecord| {
        let Some(Key::Pg(volume, pg)) = Key::decode(key) else {
            return Err(corrupt(key, "no key of a placement group"));
        };
        found.push(mrc::Pg {
            volume: volume.0,
            pg: pg.0,
            view: record.view,
            osds: record.osds,
            incomplete: record.incomplete,
            previous: record.previous,
            settling: record.settling,
            ..mrc::Pg::default()
        });
        Ok(Visit::Continue)
    })?;
    Ok(found)
}

/// Returns the version of the OSD map; 0 before the first object server.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn map_version(index: &dyn IndexRead) -> Result<u64, IndexError> {
    records::map_version(index)
}

/// Returns how replicas are to be brought to where they should be.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn jobs(index: &dyn IndexRead) -> Result<JobsRecord, IndexError> {
    Ok(records::get(index, keys::JOBS)?.unwrap_or_default())
}

/// Returns the OSD map, whole.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn osd_map(index: &dyn IndexRead) -> Result<mrc::OsdMap, IndexError> {
    Ok(mrc::OsdMap {
        version: map_version(index)?,
        changed: true,
        osds: osds(index)?
            .into_iter()
            .map(|(osd, record)| mrc::Replica {
                osd: osd.0,
                address: record.address,
            })
            .collect(),
        pgs: pgs(index, None)?,
        volumes: policies(index)?,
        // Who answers tells the time.
        wall_ns: 0,
        // Told by the answering server.
        mrcs: Vec::new(),
        pace: None,
    })
}

/// The policies of all volumes, those being deleted included: their objects are still there.
fn policies(index: &dyn IndexRead) -> Result<Vec<mrc::VolumePolicy>, IndexError> {
    let mut found = Vec::new();
    records::scan(index, keys::all(b'v'), |key, record: VolumeRecord| {
        found.push(mrc::VolumePolicy {
            volume: records::volume_of(key)?.0,
            write_policy: record.write_policy,
            quorum: record.quorum,
        });
        Ok(Visit::Continue)
    })?;
    Ok(found)
}

fn lookup(
    index: &dyn IndexRead,
    volume: VolumeId,
    parent: Inode,
    name: &[u8],
) -> Step<mrc::Response> {
    let directory = records::inode(index, volume, parent)?;
    ensure(attr::is_directory(directory.mode), errno::ENOTDIR)?;
    ensure(!name.is_empty(), errno::ENOENT)?;
    ensure(name.len() <= config::NAME_BYTES_MAX, errno::ENAMETOOLONG)?;
    // The kernel does not ask for these two, but an NFS server above it may.
    let number = match name {
        b"." => parent,
        b".." => Inode(directory.parent),
        _ => match records::dentry(index, volume, parent, name)? {
            Some(dentry) => Inode(dentry.inode),
            None => return refuse(errno::ENOENT),
        },
    };
    let record = records::inode(index, volume, number)?;
    Ok(attr::entry(number, &record))
}

fn read_directory(
    index: &dyn IndexRead,
    volume: VolumeId,
    op: &mrc::ReadDir,
) -> Step<mrc::Response> {
    let number = Inode(op.inode);
    let directory = records::inode(index, volume, number)?;
    ensure(attr::is_directory(directory.mode), errno::ENOTDIR)?;
    let mut range = keys::of_inode(b'd', volume, number);
    let prefix_bytes = range.start.len();
    if !op.after.is_empty() {
        range.start = keys::after(&keys::dentry(volume, number, &op.after));
    }
    let limit = usize::try_from(op.limit)
        .unwrap_or(usize::MAX)
        .clamp(1, config::PAGE_ENTRIES_MAX);
    let mut page = mrc::DirPage {
        entries: Vec::new(),
        end: true,
        parent: directory.parent,
    };
    let mut bytes = 0;
    records::scan(index, range, |key, dentry: DentryRecord| {
        if page.entries.len() >= limit || bytes >= config::PAGE_BYTES_MAX {
            page.end = false;
            return Ok(Visit::Stop);
        }
        let name = key.get(prefix_bytes..).unwrap_or_default();
        // 32: numbers and framing; 96 more for attributes.
        bytes += name.len() + if op.plus { 128 } else { 32 };
        page.entries.push(mrc::DirEntry {
            name: Bytes::copy_from_slice(name),
            inode: dentry.inode,
            kind: dentry.kind,
            attr: None,
        });
        Ok(Visit::Continue)
    })?;
    if op.plus {
        for entry in &mut page.entries {
            let number = Inode(entry.inode);
            entry.attr = inode(index, volume, number)?.map(|record| attr::of(number, &record));
        }
    }
    Ok(mrc::Response {
        reply: Some(response::Reply::DirPage(page)),
    })
}

fn read_link(index: &dyn IndexRead, volume: VolumeId, number: Inode) -> Step<mrc::Response> {
    let record = records::inode(index, volume, number)?;
    ensure(record.mode & attr::S_IFMT == attr::S_IFLNK, errno::EINVAL)?;
    Ok(bytes(record.target))
}

fn get_xattr(
    index: &dyn IndexRead,
    volume: VolumeId,
    number: Inode,
    name: &[u8],
) -> Step<mrc::Response> {
    check_xattr_name(name)?;
    match index.get(&keys::xattr(volume, number, name))? {
        Some(value) => Ok(bytes(value)),
        None => {
            records::inode(index, volume, number)?;
            refuse(errno::ENODATA)
        }
    }
}

fn list_xattrs(index: &dyn IndexRead, volume: VolumeId, number: Inode) -> Step<mrc::Response> {
    let record = records::inode(index, volume, number)?;
    let mut names = Vec::new();
    if record.xattr_names_bytes > 0 {
        let range = keys::of_inode(b'x', volume, number);
        index.scan(&range.start, &range.end, &mut |key, _| {
            let name = key.get(range.start.len()..).unwrap_or_default();
            names.push(Bytes::copy_from_slice(name));
            Visit::Continue
        })?;
    }
    Ok(mrc::Response {
        reply: Some(response::Reply::Names(mrc::Names { names })),
    })
}

fn stat_fs(index: &dyn IndexRead, volume: VolumeId) -> Step<mrc::Response> {
    let counters = records::counters(index, volume)?;
    let record = volume_record(index, volume)?.unwrap_or_default();
    let used = Use::of(&counters);
    Ok(mrc::Response {
        reply: Some(response::Reply::FsStat(mrc::FsStat {
            capacity_bytes: 0,
            free_bytes: 0,
            inode_count: counters.inode_count,
            quota_bytes: record.quota_bytes,
            quota_files: record.quota_files,
            used_bytes: used.bytes,
            used_files: used.files,
        })),
    })
}

fn show_volume(index: &dyn IndexRead, name: &str) -> Step<mrc::Response> {
    let Some((id, record)) = records::volume_named(index, name)? else {
        return Err(
            Fault::surface(errno::ENOENT, format!("volume {name:?} does not exist")).into(),
        );
    };
    let counters = records::counters(index, id)?;
    Ok(show_volumes(vec![volume::show(id, &record, &counters)]))
}

const fn show_volumes(volumes: Vec<mrc::Volume>) -> mrc::Response {
    mrc::Response {
        reply: Some(response::Reply::Volumes(mrc::Volumes { volumes })),
    }
}

const fn bytes(bytes: Bytes) -> mrc::Response {
    mrc::Response {
        reply: Some(response::Reply::Bytes(mrc::Bytes { bytes })),
    }
}
