//! Objects nobody needs any more: noted per object server until it says that they are gone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use proto::index::{
    Collected, CountersRecord, GarbageObject, GarbageRecord, InodeRecord, KeptRecord, Reap,
};
use proto::mrc;
use types::{Inode, OsdId, PgId, VolumeId};

use crate::attr;
use crate::command::{Effects, done};
use crate::config;
use crate::errno;
use crate::groups::members;
use crate::index::{IndexError, IndexRead};
use crate::keys;
use crate::quota;
use crate::records::{self, Step, Work, ensure};

/// Removes orphans that nobody has open for writing; who reads them the leader checked before.
pub(crate) fn reap(work: &mut Work<'_>, reap: &Reap, effects: &mut Effects) -> Step<mrc::Response> {
    ensure(reap.inodes.len() <= config::REAP_INODES_MAX, errno::E2BIG)?;
    let volume = VolumeId(reap.volume);
    let mut gone = Vec::new();
    for number in reap.inodes.iter().map(|number| Inode(*number)) {
        let record: Option<InodeRecord> = records::get(work, &keys::inode(volume, number))?;
        let Some(record) = record.filter(|record| record.nlink == 0) else {
            continue;
        };
        // Opened for writing between the janitor's look and now.
        if records::any(work, &keys::of_inode(b'f', volume, number))? {
            continue;
        }
        if record.xattr_names_bytes > 0 {
            // Each name counts at least its terminating zero, so this bounds their number.
            let most = usize::try_from(record.xattr_names_bytes).unwrap_or(usize::MAX);
            for key in records::keys_of(work, &keys::of_inode(b'x', volume, number), most)? {
                work.delete(key);
            }
        }
        work.delete(keys::inode(volume, number));
        work.delete(keys::orphan(volume, number));
        gone.push((number, record));
    }
    if gone.is_empty() {
        return Ok(done());
    }

    let mut counters = records::counters(work, volume)?;
    counters.inode_count = counters.inode_count.saturating_sub(gone.len() as u64);
    for (_, record) in &gone {
        if attr::is_regular(record.mode) {
            attr::count_size(&mut counters.size_bytes, record.size_bytes, 0);
        }
        // Not so of what lost its last link before that was noted.
        if record.doomed {
            quota::count_doomed(&mut counters, record, false);
        }
    }
    work.put(keys::counters(volume), &counters);
    effects.garbage |= add(work, volume, &gone)?;
    Ok(done())
}

/// Notes the objects of removed inodes, one record per object server; returns whether there are any.
pub(crate) fn add(
    work: &mut Work<'_>,
    volume: VolumeId,
    inodes: &[(Inode, InodeRecord)],
) -> Result<bool, IndexError> {
    let mut notes = Notes::default();
    for (number, record) in inodes.iter().filter(|(_, record)| record.has_object) {
        let object = GarbageObject {
            volume: volume.0,
            inode: number.0,
            pg: record.pg,
            moved: false,
        };
        notes.add(work, object, None)?;
    }
    notes.put(work)
}

/// Notes objects that a server still holds as garbage of all their replicas, if their files are gone.
///
/// Whoever asks, and however late: what [`is_gone`] says once is true for ever. Copies of files that live
/// are noted for their server alone, if it is no member of the file's placement group; it looks itself
/// whether that is still so.
pub(crate) fn discard(
    work: &mut Work<'_>,
    discard: &mrc::DiscardLeftovers,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    ensure(discard.objects.len() <= config::LEFTOVERS_MAX, errno::E2BIG)?;
    let osd = OsdId(discard.osd);
    if records::osd(work, osd)?.is_none() || owes(work, osd, discard.garbage_below)? {
        return Ok(done());
    }
    let mut notes = Notes::default();
    for held in &discard.objects {
        let object = GarbageObject {
            volume: held.volume,
            inode: held.inode,
            pg: held.pg,
            moved: false,
        };
        if is_gone(work, VolumeId(held.volume), Inode(held.inode))? {
            notes.add(work, object, Some(osd))?;
        } else if is_misplaced(work, osd, held)? {
            let moved = true;
            notes.add_for(osd.0, GarbageObject { moved, ..object });
        }
    }
    effects.garbage |= notes.put(work)?;
    Ok(done())
}

/// Forgets garbage that its object server deleted.
pub(crate) fn collected(work: &mut Work<'_>, collected: &Collected) -> Step<mrc::Response> {
    ensure(
        collected.seqs.len() <= config::COLLECTED_SEQS_MAX,
        errno::E2BIG,
    )?;
    for seq in &collected.seqs {
        work.delete(keys::garbage(OsdId(collected.osd), *seq));
    }
    Ok(done())
}

/// Whether there was such an inode and never will be again. Numbers of inodes and volumes are given
/// out once, in the command that makes the record: a smaller number without a record is of one that
/// was removed, and a greater one may be of one that this index has not heard of yet. After a dump was
/// restored the same is said of numbers that may have been given out after the dump was made.
pub(crate) fn is_gone(
    index: &dyn IndexRead,
    volume: VolumeId,
    number: Inode,
) -> Result<bool, IndexError> {
    // What would be its counters are those of the cluster.
    if volume.0 == 0 {
        return Ok(false);
    }
    let counters: Option<CountersRecord> = records::get(index, &keys::counters(volume))?;
    let Some(counters) = counters else {
        let given_out = volume.0 < records::sequences(index)?.next_volume;
        return Ok(given_out && !is_kept(index, VolumeId(0), volume.0)?);
    };
    let known: Option<InodeRecord> = records::get(index, &keys::inode(volume, number))?;
    let given_out = number.0 < counters.next_inode;
    Ok(given_out && known.is_none() && !is_kept(index, volume, number.0)?)
}

/// Whether a number may be of something made after the dump that this index was restored from: of a
/// volume with the volume 0, else of an inode. Nobody knows what, so its objects stay.
fn is_kept(index: &dyn IndexRead, volume: VolumeId, number: u64) -> Result<bool, IndexError> {
    let kept: Option<KeptRecord> = records::get(index, &keys::kept(volume))?;
    let ranges = kept.unwrap_or_default().ranges;
    Ok(ranges
        .iter()
        .any(|range| (range.from..range.below).contains(&number)))
}

/// Whether a server holds an object in vain: its file is gone, or others keep it.
pub(crate) fn is_left_over(
    index: &dyn IndexRead,
    osd: OsdId,
    held: &mrc::HeldObject,
) -> Result<bool, IndexError> {
    Ok(
        is_gone(index, VolumeId(held.volume), Inode(held.inode))?
            || is_misplaced(index, osd, held)?,
    )
}

/// Whether the object's placement group is kept by others, whatever change of it is under way.
fn is_misplaced(
    index: &dyn IndexRead,
    osd: OsdId,
    held: &mrc::HeldObject,
) -> Result<bool, IndexError> {
    let group = records::pg(index, VolumeId(held.volume), PgId(held.pg))?;
    Ok(group.is_some_and(|group| !members(&group).contains(&osd.0)))
}

/// Whether the server has not confirmed yet that it deleted garbage with a number below this.
fn owes(index: &dyn IndexRead, osd: OsdId, below: u64) -> Result<bool, IndexError> {
    records::any(index, &(keys::garbage(osd, 0)..keys::garbage(osd, below)))
}

/// Garbage that is being noted: one record per object server.
#[derive(Default)]
struct Notes {
    replica_sets: BTreeMap<(u64, u32), Vec<u64>>,
    records: BTreeMap<u64, GarbageRecord>,
}

impl Notes {
    /// Notes an object for its replicas, and for a further server that is known to hold it.
    fn add(
        &mut self,
        index: &dyn IndexRead,
        object: GarbageObject,
        holder: Option<OsdId>,
    ) -> Result<(), IndexError> {
        let members = match self.replica_sets.entry((object.volume, object.pg)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let (volume, pg) = (VolumeId(object.volume), PgId(object.pg));
                unknown.insert(members(
                    &records::pg(index, volume, pg)?.unwrap_or_default(),
                ))
            }
        };
        let further = holder.filter(|holder| !members.contains(&holder.0));
        let servers = members.iter().copied();
        for osd in servers.chain(further.map(|holder| holder.0)) {
            self.records.entry(osd).or_default().objects.push(object);
        }
        Ok(())
    }

    /// Notes an object for one server.
    fn add_for(&mut self, osd: u64, object: GarbageObject) {
        self.records.entry(osd).or_default().objects.push(object);
    }

    /// Writes the records; returns whether there are any.
    fn put(self, work: &mut Work<'_>) -> Result<bool, IndexError> {
        if self.records.is_empty() {
            return Ok(false);
        }
        let mut sequences = records::sequences(work)?;
        for (osd, record) in &self.records {
            work.put(keys::garbage(OsdId(*osd), sequences.next_garbage), record);
            sequences.next_garbage += 1;
        }
        work.put(keys::sequences(), &sequences);
        Ok(true)
    }
}
