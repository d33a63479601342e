//! Filling a new metadata cluster with a dump.
//!
//! Object servers hold more than the dump knows: objects of files made, changed and deleted since, and
//! maps of later replica sets. So everything that is numbered goes on far beyond what can have been given
//! out since ([`config::INODES_SKIPPED`] and its neighbours), objects in the gap are kept until an
//! administrator says otherwise, and each file is compared with its object before anybody may open it: as
//! if the sessions of the lost cluster had had all files open for writing when they ended.
//!
//! A restore is a sequence of commands and may go on after a crash. Until it is finished there is nothing
//! else to do here: [`crate::apply`] refuses everything but what object servers say of themselves.

mod filling;

use std::collections::BTreeMap;

use proto::dump::Range;
use proto::index::{
    CountersRecord, InodeRecord, KeptRecord, MapRecord, RestoreRecord, SequencesRecord,
    SettleRestored, VolumeRecord,
};
use proto::mrc;
use types::{Fault, Inode, SessionId, VolumeId};

use self::filling::Filling;
use crate::command::{Effects, done};
use crate::config;
use crate::errno;
use crate::index::{IndexError, IndexRead, Visit};
use crate::keys;
use crate::overlay::Overlay;
use crate::quota;
use crate::records::{self, Step, Stop, Work};
use crate::volume::ROOT;

/// Begins, or says how to go on with the same file.
pub(crate) fn begin(work: &mut Work<'_>, begin: &mrc::RestoreBegin) -> Step<mrc::Response> {
    if let Some(restore) = records::get::<RestoreRecord>(work, keys::RESTORE)? {
        return match restore {
            restore if restore.file == begin.file => Ok(restoring(restore.next_batch)),
            restore if restore.finished => Err(not_new("was restored before")),
            _ => Err(refused(
                errno::EBUSY,
                "another dump is being restored here; go on with that one, or begin with empty directories \
                 of all metadata servers",
            )),
        };
    }
    let given_out = records::sequences(work)?;
    if given_out.next_volume != 1 || given_out.next_session != 1 {
        return Err(not_new("has or had volumes"));
    }
    let next = begin.sequences.unwrap_or_default();
    let beyond = |next: u64, skipped: u64| {
        next.checked_add(skipped)
            .filter(|_| next > 0)
            .ok_or_else(|| invalid(format!("its next number can't be {next}")))
    };
    let sequences = SequencesRecord {
        next_volume: beyond(next.next_volume, config::VOLUMES_SKIPPED)?,
        next_session: beyond(next.next_session, config::SESSIONS_SKIPPED)?,
        next_garbage: beyond(next.next_garbage, config::GARBAGE_SKIPPED)?,
        session_count: 0,
        deletions: Vec::new(),
    };
    // A lease cell's name has no room for greater ones.
    if sequences.next_volume >= config::VOLUME_NUMBER_MAX {
        return Err(invalid(format!(
            "volumes are numbered from {} on, beyond what can be",
            next.next_volume
        )));
    }
    let skipped = Range {
        from: next.next_volume,
        below: sequences.next_volume,
    };
    work.put(keys::sequences(), &sequences);
    keep(work, VolumeId(0), &[skipped])?;
    let restore = RestoreRecord {
        file: begin.file.clone(),
        dumped_ns: begin.dumped_ns,
        log_index: begin.log_index,
        restored_ns: work.now,
        session_base: next.next_session,
        ..RestoreRecord::default()
    };
    work.put(keys::RESTORE.to_vec(), &restore);
    Ok(restoring(0))
}

/// Takes the next records; repeated ones are known.
pub(crate) fn batch(work: &mut Work<'_>, batch: &mrc::RestoreBatch) -> Step<mrc::Response> {
    let restore = of_file(work, &batch.file)?;
    if restore.finished || batch.number < restore.next_batch {
        return Ok(restoring(restore.next_batch));
    }
    if batch.number != restore.next_batch {
        return Err(invalid(format!(
            "batch {} came instead of batch {}",
            batch.number, restore.next_batch
        )));
    }
    // Beside the index: a batch that is refused must leave nothing.
    let mut changes = Overlay::new();
    let mut filling = Filling {
        work: Work::new(&*work, &mut changes, work.now),
        restore,
        volumes: BTreeMap::new(),
    };
    for record in &batch.records {
        match &record.kind {
            Some(kind) => filling.put(kind)?,
            None => {
                let what = "a record is of a kind that this release does not know";
                return Err(invalid(what.to_owned()));
            }
        }
    }
    let mut restore = filling.restore;
    restore.next_batch += 1;
    for (key, change) in changes.into_batch().into_changes() {
        match change {
            Some(value) => work.put_bytes(key.to_vec(), value),
            None => work.delete(key.to_vec()),
        }
    }
    work.put(keys::RESTORE.to_vec(), &restore);
    Ok(restoring(restore.next_batch))
}

/// Everything is there: from now on this is a metadata cluster as any other.
pub(crate) fn end(
    work: &mut Work<'_>,
    end: &mrc::RestoreEnd,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let mut restore = of_file(work, &end.file)?;
    if restore.finished {
        return Ok(done());
    }
    if restore.next_batch != end.batches {
        return Err(invalid(format!(
            "{} of {} batches came",
            restore.next_batch, end.batches
        )));
    }
    if end.map_version <= records::map_version(work)? {
        return Err(invalid(format!(
            "version {} of the map is no newer one",
            end.map_version
        )));
    }
    whole(work)?;
    let version = end.map_version;
    work.put(keys::MAP.to_vec(), &MapRecord { version });
    restore.finished = true;
    work.put(keys::RESTORE.to_vec(), &restore);
    *effects = Effects {
        map_changed: true,
        orphaned: true,
        garbage: false,
        session_ended: true,
        purge: true,
    };
    Ok(done())
}

/// Takes over what the object of a restored file shows. Nobody has changed either since: the file could
/// not be opened.
pub(crate) fn settle(work: &mut Work<'_>, settle: &SettleRestored) -> Step<mrc::Response> {
    let (volume, number) = (VolumeId(settle.volume), Inode(settle.inode));
    let key = keys::open(volume, number, SessionId(settle.session));
    let restore: Option<RestoreRecord> = records::get(work, keys::RESTORE)?;
    let (Some(mut restore), true) = (restore, work.get(&key)?.is_some()) else {
        return Ok(done());
    };
    work.delete(key);
    let inode_key = keys::inode(volume, number);
    if let Some(mut record) = records::get::<InodeRecord>(work, &inode_key)? {
        record.content_lost = !settle.written && record.size_bytes > 0;
        if record.content_lost {
            restore.files_lost += 1;
        } else if record.size_bytes != settle.length_bytes {
            record.truncate_epoch += u64::from(settle.length_bytes < record.size_bytes);
            quota::set_size(work, volume, &mut record, settle.length_bytes)?;
            record.mtime_ns = work.now;
            record.ctime_ns = work.now;
            record.data_version += 1;
        }
        quota::judge(work, volume, number, &mut record)?;
        work.put(inode_key, &record);
    }
    restore.files_settled += 1;
    work.put(keys::RESTORE.to_vec(), &restore);
    Ok(done())
}

/// Objects that were kept may be deleted from now on.
pub(crate) fn discard(work: &mut Work<'_>) -> Step<mrc::Response> {
    let kept = records::keys_of(work, &keys::all(b'r'), config::VOLUMES_MAX + 1)?;
    for key in kept {
        work.delete(key);
    }
    Ok(done())
}

/// The session that has a file open until it was compared with its object, if it was not yet.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn unsettled(
    index: &dyn IndexRead,
    volume: VolumeId,
    inode: Inode,
) -> Result<Option<SessionId>, IndexError> {
    let Some(restore) = records::get::<RestoreRecord>(index, keys::RESTORE)? else {
        return Ok(None);
    };
    let session = restorer(&restore, volume);
    let open = index.get(&keys::open(volume, inode, session))?;
    Ok(open.map(|_| session))
}

/// Whether a session is the one in which a restore has the files of a volume open.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn is_restorer(
    index: &dyn IndexRead,
    volume: VolumeId,
    session: SessionId,
) -> Result<bool, IndexError> {
    let restore: Option<RestoreRecord> = records::get(index, keys::RESTORE)?;
    Ok(restore.is_some_and(|restore| restorer(&restore, volume) == session))
}

const fn restorer(restore: &RestoreRecord, volume: VolumeId) -> SessionId {
    SessionId(restore.session_base.saturating_add(volume.0))
}

/// What is known of the restore, for administrators.
pub(crate) fn show(index: &dyn IndexRead) -> Result<mrc::Restored, IndexError> {
    let keeps = records::any(index, &keys::all(b'r'))?;
    let restore: Option<RestoreRecord> = records::get(index, keys::RESTORE)?;
    let Some(restore) = restore else {
        return Ok(mrc::Restored {
            keeps,
            ..mrc::Restored::default()
        });
    };
    Ok(mrc::Restored {
        restored: true,
        finished: restore.finished,
        dumped_ns: restore.dumped_ns,
        restored_ns: restore.restored_ns,
        files_total: restore.files_total,
        files_settled: restore.files_settled,
        files_lost: restore.files_lost,
        keeps,
    })
}

/// Every volume has its counters, root and placement groups.
fn whole(work: &Work<'_>) -> Step<()> {
    let mut volumes = Vec::new();
    records::scan(work, keys::all(b'v'), |key, record: VolumeRecord| {
        volumes.push((records::volume_of(key)?, record));
        Ok(Visit::Continue)
    })?;
    for (volume, record) in volumes.iter().filter(|(_, record)| !record.deleted) {
        let most = record.pgs as usize + 1;
        let groups = records::keys_of(work, &keys::of(b'p', volume.0), most)?.len();
        // Before they came, there may be a record that counts what is about to be removed.
        let counters: Option<CountersRecord> = records::get(work, &keys::counters(*volume))?;
        let counters = counters.filter(|counters| counters.next_inode > 0);
        let root = work.get(&keys::inode(*volume, ROOT))?;
        if groups != record.pgs as usize || counters.is_none() || root.is_none() {
            return Err(invalid(format!("volume {:?} is not whole", record.name)));
        }
    }
    Ok(())
}

/// Keeps the objects of further numbers.
fn keep(work: &mut Work<'_>, volume: VolumeId, ranges: &[Range]) -> Step<()> {
    let key = keys::kept(volume);
    let mut kept: KeptRecord = records::get(work, &key)?.unwrap_or_default();
    kept.ranges.extend_from_slice(ranges);
    kept.ranges.sort_by_key(|range| (range.from, range.below));
    work.put(key, &kept);
    Ok(())
}

fn of_file(work: &Work<'_>, file: &[u8]) -> Step<RestoreRecord> {
    let restore: Option<RestoreRecord> = records::get(work, keys::RESTORE)?;
    restore
        .filter(|restore| restore.file == file)
        .ok_or_else(|| refused(errno::EINVAL, "no restore of this dump has begun here"))
}

const fn restoring(next_batch: u64) -> mrc::Response {
    mrc::Response {
        reply: Some(mrc::response::Reply::Restoring(mrc::Restoring {
            next_batch,
        })),
    }
}

fn not_new(what: &str) -> Stop {
    refused(
        errno::EEXIST,
        format!(
            "a dump is restored only into a new metadata cluster, and this one {what}; if all of it may \
             be lost, stop all metadata servers, empty their directories and start them"
        ),
    )
}

fn invalid(what: String) -> Stop {
    refused(errno::EINVAL, format!("the dump can't be restored: {what}"))
}

fn refused(errno: i32, text: impl Into<String>) -> Stop {
    Fault::surface(errno, text).into()
}
