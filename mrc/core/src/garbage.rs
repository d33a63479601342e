//! Objects nobody needs any more: noted per object server until it says that they are gone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use proto::index::{Collected, GarbageObject, GarbageRecord, InodeRecord, Reap};
use proto::mrc;
use types::{Inode, OsdId, PgId, VolumeId};

use crate::attr;
use crate::command::{Effects, done};
use crate::config;
use crate::errno;
use crate::index::IndexError;
use crate::keys;
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
    for (_, record) in gone
        .iter()
        .filter(|(_, record)| attr::is_regular(record.mode))
    {
        attr::count_size(&mut counters, record.size_bytes, 0);
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
    let mut replica_sets: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut garbage: BTreeMap<u64, GarbageRecord> = BTreeMap::new();
    for (number, record) in inodes.iter().filter(|(_, record)| record.has_object) {
        let osds = match replica_sets.entry(record.pg) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let pg = records::pg(work, volume, PgId(record.pg))?.unwrap_or_default();
                unknown.insert(pg.osds)
            }
        };
        for osd in osds {
            garbage
                .entry(*osd)
                .or_default()
                .objects
                .push(GarbageObject {
                    volume: volume.0,
                    inode: number.0,
                    pg: record.pg,
                });
        }
    }
    if garbage.is_empty() {
        return Ok(false);
    }
    let mut sequences = records::sequences(work)?;
    for (osd, record) in &garbage {
        work.put(keys::garbage(OsdId(*osd), sequences.next_garbage), record);
        sequences.next_garbage += 1;
    }
    work.put(keys::sequences(), &sequences);
    Ok(true)
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
