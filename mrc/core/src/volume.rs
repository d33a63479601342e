//! Making, changing and deleting volumes.

use proto::index::{
    CountersRecord, InodeRecord, OsdRecord, PgRecord, VolumeCreate, VolumeDelete, VolumePurge,
    VolumeRecord,
};
use proto::mrc::{self, response};
use types::{Fault, Inode, PgId, Policy, PolicyError, VolumeId};

use crate::attr::{PERMISSIONS, S_IFDIR};
use crate::command::{Effects, done};
use crate::config;
use crate::errno;
use crate::garbage;
use crate::index::{IndexError, IndexRead, Visit};
use crate::keys::{self, Key};
use crate::placement::{self, Candidate};
use crate::quota::Use;
use crate::records::{self, Step, Work, corrupt, refuse};

/// The root directory of every volume.
pub const ROOT: Inode = Inode(1);

/// Makes a volume with its root directory and placement groups, or finds the one this nonce made.
pub(crate) fn create(
    work: &mut Work<'_>,
    create: &VolumeCreate,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let Some(request) = &create.request else {
        return refuse(errno::EPROTO);
    };
    check_volume_name(&request.name)?;
    if let Some((volume, record)) = records::volume_named(work, &request.name)? {
        if request.nonce != 0 && record.nonce == request.nonce {
            let counters = records::counters(work, volume)?;
            return Ok(shown(volume, &record, &counters));
        }
        return Err(Fault::surface(
            errno::EEXIST,
            format!("volume {:?} exists already", request.name),
        )
        .into());
    }
    let policy = changed(Policy::default(), &request.write_policy, &request.quorum)?;
    let candidates = candidates(work, &create.osds)?;
    let (replicas, pgs) = shape(request, candidates.len())?;
    let (volumes, groups) = count(work)?;
    if volumes >= config::VOLUMES_MAX {
        return Err(Fault::surface(
            errno::ENOSPC,
            format!(
                "the cluster has {} volumes, the most it can have",
                config::VOLUMES_MAX
            ),
        )
        .into());
    }
    if groups.saturating_add(pgs) > config::PGS_TOTAL_MAX {
        return Err(Fault::surface(
            errno::ENOSPC,
            format!(
                "the cluster has {groups} placement groups, with {pgs} more it would have more than {}, the most it can have; give the volume fewer with `pgs`",
                config::PGS_TOTAL_MAX
            ),
        )
        .into());
    }

    let mut sequences = records::sequences(work)?;
    let volume = VolumeId(sequences.next_volume);
    sequences.next_volume += 1;
    work.put(keys::sequences(), &sequences);
    let record = VolumeRecord {
        name: request.name.clone(),
        root_inode: ROOT.0,
        replicas,
        pgs,
        write_policy: policy.write.to_string(),
        quorum: policy.quorum.to_string(),
        policy_version: records::map_version(work)? + 1,
        created_ns: work.now,
        nonce: request.nonce,
        deleted: false,
        quota_bytes: 0,
        quota_files: 0,
    };
    work.put(keys::volume(volume), &record);
    let counters = CountersRecord {
        next_inode: ROOT.0 + 1,
        inode_count: 1,
        pgs,
        ..CountersRecord::default()
    };
    work.put(keys::counters(volume), &counters);
    put_root(work, volume, request);
    // Volumes begin at different servers, so that many small ones spread, too.
    let start = usize::try_from(volume.0 - 1).unwrap_or(0);
    let sets = placement::plan(&candidates, replicas as usize, pgs as usize, start);
    for (pg, osds) in (0..).map(PgId).zip(sets) {
        work.put(
            keys::pg(volume, pg),
            &PgRecord {
                view: 1,
                osds: osds.iter().map(|osd| osd.0).collect(),
                ..PgRecord::default()
            },
        );
    }
    work.raise_map_version()?;
    effects.map_changed = true;
    Ok(shown(volume, &record, &counters))
}

/// Changes a volume's policy, of which servers learn with the next map, number of replicas or quotas.
pub(crate) fn set(
    work: &mut Work<'_>,
    set: &mrc::VolumeSet,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let name = &set.name;
    let Some((volume, mut record)) = records::volume_named(work, name)? else {
        return Err(
            Fault::surface(errno::ENOENT, format!("volume {name:?} does not exist")).into(),
        );
    };
    if set.replicas > config::REPLICAS_MAX {
        return Err(too_many_replicas(set.replicas).into());
    }
    let servers = candidates(work, &[])?;
    let usable = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    if set.replicas > usable {
        return Err(too_few_servers(set.replicas, usable).into());
    }
    let old = policy_of(&record);
    let new = changed(old, &set.write_policy, &set.quorum)?;
    if set.replicas != 0 && set.replicas != record.replicas {
        // The leader adds or removes replicas, group by group.
        record.replicas = set.replicas;
        work.put(keys::volume(volume), &record);
    }
    set_quota(work, volume, &mut record, set)?;
    if new != old {
        record.write_policy = new.write.to_string();
        record.quorum = new.quorum.to_string();
        record.policy_version = records::map_version(work)? + 1;
        work.put(keys::volume(volume), &record);
        work.raise_map_version()?;
        effects.map_changed = true;
    }
    let counters = records::counters(work, volume)?;
    Ok(shown(volume, &record, &counters))
}

/// Changes a volume's quotas. What is more than they allow stays.
fn set_quota(
    work: &mut Work<'_>,
    volume: VolumeId,
    record: &mut VolumeRecord,
    set: &mrc::VolumeSet,
) -> Result<(), IndexError> {
    let bytes = set.quota_bytes.unwrap_or(record.quota_bytes);
    let files = set.quota_files.unwrap_or(record.quota_files);
    if (bytes, files) == (record.quota_bytes, record.quota_files) {
        return Ok(());
    }
    (record.quota_bytes, record.quota_files) = (bytes, files);
    work.put(keys::volume(volume), record);
    let mut counters = records::counters(work, volume)?;
    counters.quota_files = files;
    work.put(keys::counters(volume), &counters);
    Ok(())
}

/// The policy in a record.
pub(crate) fn policy_of(record: &VolumeRecord) -> Policy {
    Policy::of_words(&record.write_policy, &record.quorum)
}

/// A policy with what is asked for; an empty word leaves it as it is.
fn changed(policy: Policy, write: &str, quorum: &str) -> Step<Policy> {
    let refused = |error: PolicyError| Fault::surface(errno::EINVAL, error.to_string());
    Ok(Policy {
        write: match write {
            "" => policy.write,
            word => word.parse().map_err(refused)?,
        },
        quorum: match quorum {
            "" => policy.quorum,
            word => word.parse().map_err(refused)?,
        },
    })
}

/// Takes a volume away from its users, once per nonce; the janitor purges its records afterwards.
pub(crate) fn delete(
    work: &mut Work<'_>,
    delete: &VolumeDelete,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let name = &delete.name;
    let mut sequences = records::sequences(work)?;
    if delete.nonce != 0 && sequences.deletions.contains(&delete.nonce) {
        return Ok(done());
    }
    let Some((volume, mut record)) = records::volume_named(work, name)? else {
        return Err(
            Fault::surface(errno::ENOENT, format!("volume {name:?} does not exist")).into(),
        );
    };
    let sessions = records::counters(work, volume)?.session_count;
    if sessions > 0 {
        let users = match sessions {
            1 => "1 session; unmount it".to_owned(),
            more => format!("{more} sessions; unmount them"),
        };
        let text = format!("volume {name:?} is in use by {users} first");
        return Err(Fault::surface(errno::EBUSY, text).into());
    }
    record.deleted = true;
    work.put(keys::volume(volume), &record);
    if delete.nonce != 0 {
        let known = sequences.deletions.len() + 1;
        let oldest = known.saturating_sub(config::DELETIONS_KNOWN_MAX);
        sequences.deletions.drain(..oldest);
        sequences.deletions.push(delete.nonce);
        work.put(keys::sequences(), &sequences);
    }
    effects.purge = true;
    Ok(done())
}

/// Removes some records of a deleted volume, inodes first; the volume itself goes last.
pub(crate) fn purge(
    work: &mut Work<'_>,
    purge: &VolumePurge,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let volume = VolumeId(purge.volume);
    let record: Option<VolumeRecord> = records::get(work, &keys::volume(volume))?;
    if !record.is_some_and(|record| record.deleted) {
        return Ok(done());
    }
    let mut limit = match usize::try_from(purge.limit) {
        Ok(0) | Err(_) => config::PURGE_RECORDS_MAX,
        Ok(limit) => limit.min(config::PURGE_RECORDS_MAX),
    };
    // Inodes go first: what their objects are to be deleted from, the placement groups say.
    let inodes_max = limit.min(config::REAP_INODES_MAX);
    if purge_inodes(work, volume, inodes_max, effects)? == inodes_max {
        effects.purge = true;
        return Ok(done());
    }
    for tag in *b"dxufpr" {
        for key in records::keys_of(work, &keys::of(tag, volume.0), limit)? {
            work.delete(key);
            limit -= 1;
        }
    }
    // With the limit used up there may be more; the next purge goes on.
    if limit > 0 {
        work.delete(keys::counters(volume));
        work.delete(keys::volume(volume));
        work.raise_map_version()?;
        effects.map_changed = true;
    } else {
        effects.purge = true;
    }
    Ok(done())
}

/// Removes up to `limit` inodes and leaves their objects as garbage; returns how many.
fn purge_inodes(
    work: &mut Work<'_>,
    volume: VolumeId,
    limit: usize,
    effects: &mut Effects,
) -> Step<usize> {
    let mut inodes = Vec::new();
    records::scan(
        work,
        keys::of(b'i', volume.0),
        |key, record: InodeRecord| {
            if inodes.len() >= limit {
                return Ok(Visit::Stop);
            }
            let Some(Key::Inode(_, number)) = Key::decode(key) else {
                return Err(corrupt(key, "no key of an inode"));
            };
            inodes.push((number, record));
            Ok(Visit::Continue)
        },
    )?;
    for (number, _) in &inodes {
        work.delete(keys::inode(volume, *number));
    }
    effects.garbage |= garbage::add(work, volume, &inodes)?;
    Ok(inodes.len())
}

/// How many volumes and placement groups there are, the deleted ones that are not purged included.
fn count(index: &dyn IndexRead) -> Result<(usize, u32), IndexError> {
    let (mut volumes, mut groups) = (0, 0_u32);
    records::scan(index, keys::all(b'v'), |_, record: VolumeRecord| {
        volumes += 1;
        groups = groups.saturating_add(record.pgs);
        Ok(Visit::Continue)
    })?;
    Ok((volumes, groups))
}

/// The servers to place on: those the leader chose, or all.
fn candidates(index: &dyn IndexRead, chosen: &[u64]) -> Result<Vec<Candidate>, IndexError> {
    let mut found = Vec::new();
    records::scan(index, keys::all(b'o'), |key, record: OsdRecord| {
        let Some(Key::Osd(osd)) = Key::decode(key) else {
            return Err(corrupt(key, "no key of an object server"));
        };
        if chosen.is_empty() || chosen.contains(&osd.0) {
            found.push(Candidate {
                osd,
                location: record.location,
            });
        }
        Ok(Visit::Continue)
    })?;
    Ok(found)
}

/// Number of replicas and placement groups: as asked or by default.
fn shape(request: &mrc::VolumeCreate, servers: usize) -> Step<(u32, u32)> {
    let servers = u32::try_from(servers).unwrap_or(u32::MAX);
    let refused = |message: String| Err(Fault::surface(errno::EINVAL, message).into());
    if servers == 0 {
        return refused("no object server is registered; start some first".to_owned());
    }
    let replicas = match request.replicas {
        0 => config::REPLICAS_DEFAULT.min(servers),
        asked if asked > config::REPLICAS_MAX => return Err(too_many_replicas(asked).into()),
        asked if asked > servers => return Err(too_few_servers(asked, servers).into()),
        asked => asked,
    };
    let pgs = match request.pgs {
        0 => config::PGS_DEFAULT,
        asked if asked > config::PGS_MAX => {
            return refused(format!(
                "{asked} placement groups are too many; at most {} are possible",
                config::PGS_MAX
            ));
        }
        asked => asked,
    };
    Ok((replicas, pgs))
}

fn too_many_replicas(asked: u32) -> Fault {
    let most = config::REPLICAS_MAX;
    let text = format!("{asked} replicas are too many; at most {most} are possible");
    Fault::surface(errno::EINVAL, text)
}

fn too_few_servers(asked: u32, servers: u32) -> Fault {
    let text = format!("{asked} replicas need as many object servers, but only {servers} are up");
    Fault::surface(errno::EINVAL, text)
}

fn put_root(work: &mut Work<'_>, volume: VolumeId, request: &mrc::VolumeCreate) {
    let owner = request.root_owner.unwrap_or_default();
    let permissions = match request.root_mode & PERMISSIONS {
        0 => 0o755,
        permissions => permissions,
    };
    work.put(
        keys::inode(volume, ROOT),
        &InodeRecord {
            mode: S_IFDIR | permissions,
            uid: owner.uid,
            gid: owner.gid,
            nlink: 2,
            size_bytes: config::DIRECTORY_BYTES,
            atime_ns: work.now,
            mtime_ns: work.now,
            ctime_ns: work.now,
            // Its own parent: that is where walks upwards end.
            parent: ROOT.0,
            ..InodeRecord::default()
        },
    );
}

fn check_volume_name(name: &str) -> Step<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good = (1..=config::VOLUME_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-']);
    if good {
        return Ok(());
    }
    Err(Fault::surface(
        errno::EINVAL,
        format!(
            "{name:?} is no name for a volume; take 1 to {} letters, digits, '.', '_' or '-', not beginning with '.' or '-'",
            config::VOLUME_NAME_BYTES_MAX
        ),
    )
    .into())
}

/// What administrators see of a volume.
pub(crate) fn show(
    volume: VolumeId,
    record: &VolumeRecord,
    counters: &CountersRecord,
) -> mrc::Volume {
    let used = Use::of(counters);
    mrc::Volume {
        volume: volume.0,
        name: record.name.clone(),
        replicas: record.replicas,
        pgs: record.pgs,
        write_policy: record.write_policy.clone(),
        quorum: record.quorum.clone(),
        inode_count: counters.inode_count,
        size_bytes: counters.size_bytes,
        policy_version: record.policy_version,
        outdated_osds: Vec::new(),
        quota_bytes: record.quota_bytes,
        quota_files: record.quota_files,
        used_bytes: used.bytes,
        used_files: used.files,
    }
}

fn shown(volume: VolumeId, record: &VolumeRecord, counters: &CountersRecord) -> mrc::Response {
    mrc::Response {
        reply: Some(response::Reply::Volumes(mrc::Volumes {
            volumes: vec![show(volume, record, counters)],
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_names_are_plain_words() {
        for good in ["default", "a", "Home-2.old_x"] {
            assert!(check_volume_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(check_volume_name(bad).is_err(), "{bad}");
        }
    }
}
