//! Records of a dump on their way into the index.

use std::collections::BTreeMap;

use proto::dump::{self, Range, record::Kind};
use proto::index::{
    CountersRecord, DentryRecord, InodeRecord, JobsRecord, NonceRecord, OpenRecord, OrphanRecord,
    OsdRecord, PgRecord, RestoreRecord, SessionRecord, VolumeRecord,
};
use types::{Inode, OsdId, PgId, SessionId, VolumeId};

use super::{invalid, keep, restorer};
use crate::attr;
use crate::config;
use crate::keys;
use crate::quota;
use crate::records::{self, Step, Work};

/// Records on their way into the index.
pub(super) struct Filling<'a> {
    pub(super) work: Work<'a>,
    pub(super) restore: RestoreRecord,
    /// Those looked up, and whether they are being removed.
    pub(super) volumes: BTreeMap<u64, bool>,
}

impl Filling<'_> {
    /// Puts a record where it belongs.
    pub(super) fn put(&mut self, kind: &Kind) -> Step<()> {
        match kind {
            Kind::Volume(volume) => return self.volume(volume),
            Kind::Counters(counters) => return self.counters(counters),
            Kind::Inode(inode) => return self.inode(inode),
            Kind::ObjectServer(server) => return self.object_server(server),
            Kind::Kept(kept) => return keep(&mut self.work, VolumeId(kept.volume), &kept.ranges),
            Kind::Name(name) => {
                self.is_deleted(name.volume)?;
                let key = keys::dentry(VolumeId(name.volume), Inode(name.parent), &name.name);
                let (inode, kind) = (name.inode, name.r#type);
                self.work.put(key, &DentryRecord { inode, kind });
            }
            Kind::Xattr(xattr) => {
                self.is_deleted(xattr.volume)?;
                let key = keys::xattr(VolumeId(xattr.volume), Inode(xattr.inode), &xattr.name);
                self.work.put_bytes(key, xattr.value.clone());
            }
            Kind::Orphan(orphan) => {
                self.is_deleted(orphan.volume)?;
                let key = keys::orphan(VolumeId(orphan.volume), Inode(orphan.inode));
                let since_ns = orphan.since_ns;
                self.work.put(key, &OrphanRecord { since_ns });
            }
            Kind::Group(group) => {
                self.is_deleted(group.volume)?;
                let key = keys::pg(VolumeId(group.volume), PgId(group.group));
                self.work.put(key, &placement_group(group));
            }
            Kind::Jobs(jobs) => {
                let jobs = JobsRecord {
                    paused: jobs.paused,
                    limit_bytes_per_s: jobs.limit_bytes_per_s,
                };
                self.work.put(keys::JOBS.to_vec(), &jobs);
            }
            Kind::Sequences(_) | Kind::Map(_) => {
                return Err(invalid(
                    "counters of the cluster came among other records".to_owned(),
                ));
            }
        }
        Ok(())
    }

    fn volume(&mut self, volume: &dump::Volume) -> Step<()> {
        // Zero is the cluster's own; the numbers that were not given out begin behind.
        let given_out = records::sequences(&self.work)?.next_volume - config::VOLUMES_SKIPPED;
        if volume.volume == 0 || volume.volume >= given_out {
            return Err(invalid(format!(
                "volume {} can't be: the next one is {given_out}",
                volume.volume
            )));
        }
        let record = VolumeRecord {
            name: volume.name.clone(),
            root_inode: volume.root_inode,
            replicas: volume.replicas,
            pgs: volume.groups,
            write_policy: volume.write_policy.clone(),
            quorum: volume.quorum.clone(),
            policy_version: volume.policy_version,
            created_ns: volume.created_ns,
            nonce: 0,
            deleted: volume.deleted,
            quota_bytes: volume.quota_bytes,
            quota_files: volume.quota_files,
        };
        self.work
            .put(keys::volume(VolumeId(volume.volume)), &record);
        self.volumes.insert(volume.volume, volume.deleted);
        Ok(())
    }

    fn counters(&mut self, counters: &dump::Counters) -> Step<()> {
        let volume = VolumeId(counters.volume);
        let deleted = self.is_deleted(counters.volume)?;
        let from = counters.next_inode;
        let Some(below) = from.checked_add(config::INODES_SKIPPED) else {
            return Err(invalid(format!(
                "the next inode of volume {volume} can't be {from}"
            )));
        };
        if !deleted {
            self.open_session(volume)?;
        }
        let key = keys::counters(volume);
        let counted: CountersRecord = records::get(&self.work, &key)?.unwrap_or_default();
        let record = CountersRecord {
            next_inode: below,
            inode_count: counters.inode_count,
            size_bytes: counters.size_bytes,
            session_count: u64::from(!deleted),
            pgs: counters.groups,
            doomed_count: counted.doomed_count,
            doomed_bytes: counted.doomed_bytes,
            quota_files: records::get::<VolumeRecord>(&self.work, &keys::volume(volume))?
                .map_or(0, |record| record.quota_files),
        };
        self.work.put(keys::counters(volume), &record);
        keep(&mut self.work, volume, &[Range { from, below }])
    }

    /// The session in which all files of the volume are open, and which has ended already.
    fn open_session(&mut self, volume: VolumeId) -> Step<()> {
        let SessionId(session) = restorer(&self.restore, volume);
        let record = SessionRecord {
            volume: volume.0,
            client: "restore".to_owned(),
            nonce: session,
            opened_ns: self.work.now,
            ended: true,
            ended_ns: self.work.now,
            ..SessionRecord::default()
        };
        let mut sequences = records::sequences(&self.work)?;
        sequences.session_count += 1;
        self.work.put(keys::sequences(), &sequences);
        self.work
            .put(keys::nonce(session), &NonceRecord { session });
        self.work.put(keys::session(SessionId(session)), &record);
        Ok(())
    }

    fn inode(&mut self, inode: &dump::Inode) -> Step<()> {
        let (volume, number) = (VolumeId(inode.volume), Inode(inode.inode));
        let deleted = self.is_deleted(inode.volume)?;
        let opened = attr::is_regular(inode.mode) && inode.has_object && !deleted;
        let doomed = inode.nlink == 0 && !opened;
        let record = InodeRecord {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink,
            size_bytes: inode.size_bytes,
            atime_ns: inode.atime_ns,
            mtime_ns: inode.mtime_ns,
            ctime_ns: inode.ctime_ns,
            rdev: inode.rdev,
            target: inode.target.clone(),
            pg: inode.group,
            data_version: inode.data_version,
            parent: inode.parent,
            xattr_names_bytes: inode.xattr_names_bytes,
            xattr_values_bytes: inode.xattr_values_bytes,
            has_object: inode.has_object,
            truncate_epoch: inode.truncate_epoch,
            content_lost: inode.content_lost,
            doomed,
        };
        self.work.put(keys::inode(volume, number), &record);
        if doomed {
            // The volume's counters come later.
            let key = keys::counters(volume);
            let mut counters: CountersRecord = records::get(&self.work, &key)?.unwrap_or_default();
            quota::count_doomed(&mut counters, &record, true);
            self.work.put(key, &counters);
        }
        if opened {
            let session = restorer(&self.restore, volume);
            let since_ns = self.work.now;
            let key = keys::open(volume, number, session);
            self.work.put(key, &OpenRecord { since_ns });
            self.restore.files_total += 1;
        }
        Ok(())
    }

    /// One that has come already says itself where it is, and with which store.
    fn object_server(&mut self, server: &dump::ObjectServer) -> Step<()> {
        let osd = OsdId(server.osd);
        let record = match records::osd(&self.work, osd)? {
            Some(known) => OsdRecord {
                draining: server.draining,
                ..known
            },
            None => OsdRecord {
                address: server.address.clone(),
                store_uuid: server.store_uuid.clone(),
                capacity_bytes: server.capacity_bytes,
                pid: 0,
                dir: server.dir.clone(),
                location: server.location.clone(),
                draining: server.draining,
                down_since_ns: 0,
            },
        };
        self.work.put(keys::osd(osd), &record);
        Ok(())
    }

    /// Whether a volume is being removed; it has to be there.
    fn is_deleted(&mut self, volume: u64) -> Step<bool> {
        if let Some(deleted) = self.volumes.get(&volume) {
            return Ok(*deleted);
        }
        let record: Option<VolumeRecord> =
            records::get(&self.work, &keys::volume(VolumeId(volume)))?;
        let record = record
            .ok_or_else(|| invalid(format!("a record is of volume {volume}, which is none")))?;
        self.volumes.insert(volume, record.deleted);
        Ok(record.deleted)
    }
}

fn placement_group(group: &dump::Group) -> PgRecord {
    PgRecord {
        view: group.view,
        osds: group.osds.clone(),
        incomplete: group.incomplete.clone(),
        previous: group.previous.clone(),
        settling: group.settling.clone(),
    }
}
