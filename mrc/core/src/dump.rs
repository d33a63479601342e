//! The index as records that no version of a program owns: what a dump consists of.
//!
//! Left out is what is of no use, or would do harm, in another metadata cluster: the position in the
//! log, sessions with their slots and open files, and objects that wait for being deleted. Those
//! of files that are gone are found again by the object servers; copies that had moved away may be the
//! only ones by now.

use bytes::Bytes;
use proto::dump::{self, record::Kind};
use proto::index::{
    CountersRecord, DentryRecord, InodeRecord, JobsRecord, KeptRecord, MapRecord, OrphanRecord,
    OsdRecord, PgRecord, SequencesRecord, VolumeRecord,
};
use types::{Inode, OsdId, PgId, VolumeId};

use crate::index::IndexError;
use crate::keys::Key;
use crate::records::{corrupt, decode};

/// Turns one entry of an index into a record; `None` if dumps don't have it.
///
/// # Errors
///
/// [`IndexError::Corrupt`] if the entry can't be read.
pub fn record(key: &[u8], value: &Bytes) -> Result<Option<dump::Record>, IndexError> {
    let decoded = Key::decode(key).ok_or_else(|| corrupt(key, "no key of this program"))?;
    let value = value.clone();
    let kind = match decoded {
        Key::Applied
        | Key::Open(..)
        | Key::Garbage(..)
        | Key::Nonce(_)
        | Key::Restore
        | Key::Session(_)
        | Key::Slot(..) => return Ok(None),
        Key::Volume(id) => Kind::Volume(volume(id, decode(key, value)?)),
        Key::Counters(id) => Kind::Counters(counters(id, &decode(key, value)?)),
        Key::Inode(volume, number) => Kind::Inode(inode(volume, number, decode(key, value)?)),
        Key::Dentry(volume, parent, name) => {
            let dentry: DentryRecord = decode(key, value)?;
            Kind::Name(dump::Name {
                volume: volume.0,
                parent: parent.0,
                name,
                inode: dentry.inode,
                r#type: dentry.kind,
            })
        }
        Key::Xattr(volume, number, name) => Kind::Xattr(dump::Xattr {
            volume: volume.0,
            inode: number.0,
            name,
            value,
        }),
        Key::Orphan(volume, number) => {
            let orphan: OrphanRecord = decode(key, value)?;
            Kind::Orphan(dump::Orphan {
                volume: volume.0,
                inode: number.0,
                since_ns: orphan.since_ns,
            })
        }
        Key::Pg(volume, id) => Kind::Group(group(volume, id, decode(key, value)?)),
        Key::Osd(osd) => Kind::ObjectServer(object_server(osd, decode(key, value)?)),
        Key::Sequences => {
            let sequences: SequencesRecord = decode(key, value)?;
            Kind::Sequences(dump::Sequences {
                next_volume: sequences.next_volume,
                next_session: sequences.next_session,
                next_garbage: sequences.next_garbage,
            })
        }
        Key::Map => {
            let map: MapRecord = decode(key, value)?;
            Kind::Map(dump::Map {
                version: map.version,
            })
        }
        Key::Jobs => {
            let jobs: JobsRecord = decode(key, value)?;
            Kind::Jobs(dump::Jobs {
                paused: jobs.paused,
                limit_bytes_per_s: jobs.limit_bytes_per_s,
            })
        }
        Key::Kept(volume) => {
            let kept: KeptRecord = decode(key, value)?;
            Kind::Kept(dump::Kept {
                volume: volume.0,
                ranges: kept.ranges,
            })
        }
    };
    Ok(Some(dump::Record { kind: Some(kind) }))
}

fn volume(id: VolumeId, record: VolumeRecord) -> dump::Volume {
    dump::Volume {
        volume: id.0,
        name: record.name,
        root_inode: record.root_inode,
        replicas: record.replicas,
        groups: record.pgs,
        write_policy: record.write_policy,
        quorum: record.quorum,
        policy_version: record.policy_version,
        created_ns: record.created_ns,
        deleted: record.deleted,
        quota_bytes: record.quota_bytes,
        quota_files: record.quota_files,
    }
}

const fn counters(id: VolumeId, record: &CountersRecord) -> dump::Counters {
    dump::Counters {
        volume: id.0,
        next_inode: record.next_inode,
        inode_count: record.inode_count,
        size_bytes: record.size_bytes,
        groups: record.pgs,
    }
}

fn inode(volume: VolumeId, number: Inode, record: InodeRecord) -> dump::Inode {
    dump::Inode {
        volume: volume.0,
        inode: number.0,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        nlink: record.nlink,
        size_bytes: record.size_bytes,
        atime_ns: record.atime_ns,
        mtime_ns: record.mtime_ns,
        ctime_ns: record.ctime_ns,
        rdev: record.rdev,
        target: record.target,
        group: record.pg,
        data_version: record.data_version,
        parent: record.parent,
        xattr_names_bytes: record.xattr_names_bytes,
        xattr_values_bytes: record.xattr_values_bytes,
        has_object: record.has_object,
        truncate_epoch: record.truncate_epoch,
        content_lost: record.content_lost,
    }
}

fn group(volume: VolumeId, id: PgId, record: PgRecord) -> dump::Group {
    dump::Group {
        volume: volume.0,
        group: id.0,
        view: record.view,
        osds: record.osds,
        incomplete: record.incomplete,
        previous: record.previous,
        settling: record.settling,
    }
}

fn object_server(osd: OsdId, record: OsdRecord) -> dump::ObjectServer {
    dump::ObjectServer {
        osd: osd.0,
        address: record.address,
        store_uuid: record.store_uuid,
        capacity_bytes: record.capacity_bytes,
        dir: record.dir,
        location: record.location,
        draining: record.draining,
    }
}
