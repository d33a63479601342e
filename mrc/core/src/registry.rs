//! Object servers and the state of placement groups.

use proto::index::{JobsRecord, OsdDown, OsdRecord, PgFull, PgRecord, RegisterOsd};
use proto::mrc::{self, OsdHeartbeat};
use types::{Fault, OsdId, PgId, VolumeId};

use crate::command::{Effects, done};
use crate::config;
use crate::errno;
use crate::groups::members;
use crate::index::{IndexError, IndexRead, Visit};
use crate::keys;
use crate::records::{self, Step, Work, refuse};

/// Whether a heartbeat says something that must be recorded before it is answered, because it is
/// not what the index has: the command to propose then.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read.
pub fn registration(
    index: &dyn IndexRead,
    beat: &OsdHeartbeat,
) -> Result<Option<RegisterOsd>, IndexError> {
    let known = records::osd(index, OsdId(beat.osd))?;
    let new = OsdRecord {
        address: beat.address.clone(),
        store_uuid: beat.store_uuid.clone(),
        capacity_bytes: beat.capacity_bytes,
        pid: beat.pid,
        dir: beat.dir.clone(),
        location: match beat.location.as_str() {
            "" => known
                .as_ref()
                .map(|known| known.location.clone())
                .unwrap_or_default(),
            told => told.to_owned(),
        },
        draining: known.as_ref().is_some_and(|known| known.draining),
        // Whoever says something is not down, whatever the record says.
        down_since_ns: 0,
    };
    if known.as_ref() == Some(&new) {
        return Ok(None);
    }
    Ok(Some(RegisterOsd {
        osd: beat.osd,
        address: new.address,
        store_uuid: new.store_uuid,
        capacity_bytes: new.capacity_bytes,
        pid: new.pid,
        dir: new.dir,
        location: new.location,
    }))
}

/// Records an object server. Another store than before lacks everything the old one had.
pub(crate) fn register(
    work: &mut Work<'_>,
    register: &RegisterOsd,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let osd = OsdId(register.osd);
    let texts = [
        &register.address,
        &register.store_uuid,
        &register.dir,
        &register.location,
    ];
    if texts.iter().any(|text| text.len() > config::TEXT_BYTES_MAX) {
        return refuse(errno::ENAMETOOLONG);
    }
    if register.address.is_empty() || register.store_uuid.is_empty() {
        return refuse(errno::EINVAL);
    }
    let known = records::osd(work, osd)?;
    if known.is_none() && count_osds(work)? >= config::OSDS_MAX {
        return Err(Fault::surface(
            errno::ENOSPC,
            format!(
                "the cluster has {} object servers, the most it can have",
                config::OSDS_MAX
            ),
        )
        .into());
    }
    let lost_store = known
        .as_ref()
        .is_some_and(|known| known.store_uuid != register.store_uuid);
    let moved = known
        .as_ref()
        .is_none_or(|known| known.address != register.address);

    if lost_store {
        for (key, mut pg) in placement_groups_of(work, osd)? {
            let mut changed = false;
            if !pg.incomplete.contains(&osd.0) {
                pg.incomplete.push(osd.0);
                changed = true;
            }
            // What it declared it has no more.
            if !pg.previous.is_empty() && !pg.settling.contains(&osd.0) {
                pg.settling.push(osd.0);
                changed = true;
            }
            if changed {
                work.put(key, &pg);
            }
        }
    }
    if lost_store || moved {
        work.raise_map_version()?;
        effects.map_changed = true;
    }
    work.put(
        keys::osd(osd),
        &OsdRecord {
            address: register.address.clone(),
            store_uuid: register.store_uuid.clone(),
            capacity_bytes: register.capacity_bytes,
            pid: register.pid,
            dir: register.dir.clone(),
            location: register.location.clone(),
            draining: known.is_some_and(|known| known.draining),
            down_since_ns: 0,
        },
    );
    Ok(done())
}

/// Notes what an administrator wants of an object server.
pub(crate) fn set(work: &mut Work<'_>, set: &mrc::OsdSet) -> Step<mrc::Response> {
    let osd = OsdId(set.osd);
    let Some(mut record) = records::osd(work, osd)? else {
        return Err(unknown(osd).into());
    };
    record.draining = set.draining;
    work.put(keys::osd(osd), &record);
    Ok(done())
}

/// Notes since when an object server is down; the time it was noted first stays.
pub(crate) fn down(work: &mut Work<'_>, down: &OsdDown) -> Step<mrc::Response> {
    let osd = OsdId(down.osd);
    let Some(mut record) = records::osd(work, osd)? else {
        return Err(unknown(osd).into());
    };
    if record.down_since_ns == 0 {
        record.down_since_ns = work.now;
        work.put(keys::osd(osd), &record);
    }
    Ok(done())
}

/// Notes how replicas are to be brought to where they should be.
pub(crate) fn set_jobs(work: &mut Work<'_>, set: &mrc::JobSet) -> Step<mrc::Response> {
    let (least, most) = (
        config::REPAIR_BYTES_PER_S_MIN,
        config::REPAIR_BYTES_PER_S_MAX,
    );
    let mut record: JobsRecord = records::get(work, keys::JOBS)?.unwrap_or_default();
    if let Some(limit) = set.limit_bytes_per_s {
        if limit != 0 && !(least..=most).contains(&limit) {
            return Err(Fault::surface(
                errno::EINVAL,
                format!(
                    "a limit of {limit} bytes per second is out of range; give {least} to {most}, or 0 \
                     for the default"
                ),
            )
            .into());
        }
        record.limit_bytes_per_s = limit;
    }
    record.paused = set.paused.unwrap_or(record.paused);
    work.put(keys::JOBS.to_vec(), &record);
    Ok(done())
}

/// Forgets an object server that is a member of nothing, and what it was to delete.
pub(crate) fn remove(
    work: &mut Work<'_>,
    remove: &mrc::OsdRemove,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let osd = OsdId(remove.osd);
    if records::osd(work, osd)?.is_none() {
        return Err(unknown(osd).into());
    }
    let groups = placement_groups_of(work, osd)?.len();
    if groups > 0 {
        return Err(Fault::surface(
            errno::EBUSY,
            format!(
                "object server {osd} keeps replicas of {groups} placement groups; run \
                 `xfs-admin osd drain {osd}` and wait until it has none"
            ),
        )
        .into());
    }
    let limit = config::PURGE_RECORDS_MAX;
    let garbage = records::keys_of(
        work,
        &(keys::garbage(osd, 0)..keys::garbage(osd, u64::MAX)),
        limit,
    )?;
    let more = garbage.len() == limit;
    for key in garbage {
        work.delete(key);
    }
    if more {
        return Err(Fault::retry(format!(
            "what object server {osd} was to delete is being forgotten; repeat the request"
        ))
        .into());
    }
    work.delete(keys::osd(osd));
    work.raise_map_version()?;
    effects.map_changed = true;
    Ok(done())
}

fn unknown(osd: OsdId) -> Fault {
    Fault::surface(
        errno::ENOENT,
        format!("object server {osd} does not exist; `xfs-admin osd list` shows those that do"),
    )
}

/// A member has everything again. Ignored if it speaks of another view or another store.
pub(crate) fn pg_full(
    work: &mut Work<'_>,
    full: &PgFull,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let (volume, id) = (VolumeId(full.volume), PgId(full.pg));
    let same_store = records::osd(work, OsdId(full.osd))?
        .is_some_and(|known| known.store_uuid == full.store_uuid);
    if let Some(mut pg) = records::pg(work, volume, id)?
        && pg.view == full.view
        && (pg.incomplete.contains(&full.osd) || pg.settling.contains(&full.osd))
        && same_store
    {
        pg.incomplete.retain(|osd| *osd != full.osd);
        pg.settling.retain(|osd| *osd != full.osd);
        work.put(keys::pg(volume, id), &pg);
        work.raise_map_version()?;
        effects.map_changed = true;
    }
    Ok(done())
}

/// All placement groups with `osd` in their replica set or the one before. A scan of all, for rare
/// events.
fn placement_groups_of(
    index: &dyn IndexRead,
    osd: OsdId,
) -> Result<Vec<(Vec<u8>, PgRecord)>, IndexError> {
    let mut found = Vec::new();
    records::scan(index, keys::all(b'p'), |key, pg: PgRecord| {
        if members(&pg).contains(&osd.0) {
            found.push((key.to_vec(), pg));
        }
        Ok(Visit::Continue)
    })?;
    Ok(found)
}

fn count_osds(index: &dyn IndexRead) -> Result<usize, IndexError> {
    Ok(records::keys_of(index, &keys::all(b'o'), config::OSDS_MAX)?.len())
}
