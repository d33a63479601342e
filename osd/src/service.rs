//! The gate for mounts: decodes, checks capability, view, checksum and limits, and hands to the shard.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use lease_shell::LeaseShell;
use osd_core::config::{OBJECT_BYTES_MAX, READ_BYTES_MAX};
use osd_core::gate::{self, Need, admit};
use osd_core::{ChangeOrder, ObjectKey, Op, Payload};
use prost::Message as _;
use proto::osd::{self, request::Op as Wire};
use shell::link::{self, Connection, Handler, Responder, Role};
use tokio::sync::Notify;
use types::{ClusterId, Fault, ObjectId, OsdId, PgId, Remedy, Secret, SessionId};

use crate::administration::{Administration, administration};
use crate::board::group_of;
use crate::budget::Budget;
use crate::cluster::Wall;
use crate::cluster_clock::ClusterClock;
use crate::config::DELETE_MAX;
use crate::forward::Forwarder;
use crate::scrub::Scrub;
use crate::shard_item::{DeleteBatch, Item};
use crate::shards::Shards;

/// The called end of mounts' and metadata servers' links.
pub(crate) struct OsdDoor {
    pub(crate) me: OsdId,
    /// For the payloads of requests.
    pub(crate) budget: Arc<Budget>,
    pub(crate) cluster: ClusterId,
    pub(crate) secret: Secret,
    pub(crate) wall: Arc<Wall>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) shards: Shards,
    pub(crate) leases: Arc<LeaseShell>,
    pub(crate) metrics: shell::metrics::Source,
    /// Where they are served to collectors; empty: nowhere.
    pub(crate) metrics_address: String,
    /// Somebody knows a newer map than we do.
    pub(crate) map_wanted: Arc<Notify>,
    pub(crate) forwarder: Forwarder,
    pub(crate) scrub: Arc<Scrub>,
    pub(crate) dir: PathBuf,
    pub(crate) store_uuid: String,
}

impl fmt::Debug for OsdDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OsdDoor").finish_non_exhaustive()
    }
}

/// Columns that fit a lease cell's name.
const COLUMN_MAX: u32 = (1 << 24) - 1;

impl Handler for OsdDoor {
    fn request(
        &self,
        from: &Arc<Connection>,
        body: Bytes,
        payload: link::Payload,
        responder: Responder,
    ) {
        let role = from.caller().role;
        let Ok(request) = osd::Request::decode(body) else {
            return responder.fault(malformed("can't be decoded"));
        };
        if request.forward_to != 0 && request.forward_to != self.me.0 {
            return self.forward(request, payload, responder);
        }
        let bytes = payload.bytes.len();
        match self.item(role, request, payload) {
            Ok(Work::Op { key, session, op }) => {
                let Some(share) = self.budget.take(bytes) else {
                    return responder.fault(Fault::retry(
                        "this object server has as many requests in memory as it may have; \
                         repeat the request later",
                    ));
                };
                let item = Item::Client {
                    key,
                    session,
                    op,
                    responder,
                    share,
                };
                if !self.shards.offer(key.object, item, bytes) {
                    tracing::debug!(%key, "too busy for a request");
                }
            }
            Ok(Work::Delete(keys)) => {
                // One more for this function, so that an empty list is answered, too.
                let batch = DeleteBatch::answering(keys.len() + 1, responder);
                for (key, moved) in keys {
                    let batch = Arc::clone(&batch);
                    self.shards
                        .deliver(key.object, Item::Delete { key, moved, batch });
                }
                batch.done(Ok(()));
            }
            Ok(Work::Administration(work)) => self.administer(work, responder),
            Err(fault) => responder.fault(fault),
        }
    }
}

/// What a request asks for, checked.
enum Work {
    Op {
        key: ObjectKey,
        session: SessionId,
        op: Op,
    },
    /// Objects, and whether only those that others keep.
    Delete(Vec<(ObjectKey, bool)>),
    Administration(Administration),
}

impl OsdDoor {
    fn item(
        &self,
        role: Role,
        request: osd::Request,
        payload: link::Payload,
    ) -> Result<Work, Fault> {
        let wire = request.op.ok_or_else(|| malformed("names no operation"))?;
        if let Wire::Delete(delete) = wire {
            return self.delete(role, &delete);
        }
        if let Some(work) = administration(&wire, request.object.map(Into::into)) {
            return match role {
                Role::Mount => Err(Fault::surface(
                    libc::EPERM,
                    "only administrators may ask this; use xfs-admin",
                )),
                Role::Admin | Role::Mrc | Role::Osd => Ok(Work::Administration(work?)),
            };
        }
        let object: ObjectId = request
            .object
            .ok_or_else(|| malformed("names no object"))?
            .into();
        if object.column > COLUMN_MAX {
            return Err(malformed("names a column that can't exist"));
        }
        let key = ObjectKey {
            pg: PgId(request.pg),
            object,
        };
        let need = match wire {
            Wire::Write(_) | Wire::Truncate(_) | Wire::Sync(_) => Need::Write,
            _ => Need::Read,
        };
        // The metadata cluster asks for lengths in its own right.
        let session = match (role, &wire) {
            (Role::Mrc, Wire::Stat(_)) => SessionId(0),
            _ => admit(
                &request.capability,
                &self.secret,
                self.cluster,
                object,
                key.pg,
                need,
                self.clock.now(),
            )?,
        };
        self.check_view(key, request.view)?;
        let op = operation(wire, payload)?;
        Ok(Work::Op { key, session, op })
    }

    fn check_view(&self, key: ObjectKey, view: u64) -> Result<(), Fault> {
        let group = group_of(key);
        let cluster = self.wall.newest();
        let is_member = cluster.group(group).is_some();
        // Also of one that has left this server the map knows the present set.
        let ours = cluster.map.pgs.get(&group).map(|pg| pg.view);
        let known = gate::check_view(self.me, group, (ours, is_member), view);
        if known
            .as_ref()
            .is_err_and(|fault| fault.remedy == Remedy::Retry)
        {
            self.map_wanted.notify_one();
        }
        known
    }

    fn delete(&self, role: Role, delete: &osd::Delete) -> Result<Work, Fault> {
        if role != Role::Mrc {
            return Err(Fault::surface(
                libc::EPERM,
                "only the metadata cluster deletes objects; unlink the file instead",
            ));
        }
        if delete.objects.len() > DELETE_MAX {
            return Err(Fault::surface(
                libc::E2BIG,
                format!(
                    "{} objects to delete at once, {DELETE_MAX} are allowed",
                    delete.objects.len()
                ),
            ));
        }
        let keys = delete
            .objects
            .iter()
            .map(|entry| {
                let object = entry.object.ok_or_else(|| malformed("names no object"))?;
                let key = ObjectKey {
                    pg: PgId(entry.pg),
                    object: object.into(),
                };
                Ok((key, entry.moved))
            })
            .collect::<Result<_, Fault>>()?;
        Ok(Work::Delete(keys))
    }
}

fn operation(wire: Wire, payload: link::Payload) -> Result<Op, Fault> {
    let too_far = |end: Option<u64>| end.is_none_or(|end| end > OBJECT_BYTES_MAX);
    match wire {
        Wire::Read(read) if read.length_bytes > READ_BYTES_MAX => Err(Fault::surface(
            libc::EINVAL,
            format!(
                "read of {} bytes, {READ_BYTES_MAX} are allowed at once",
                read.length_bytes
            ),
        )),
        Wire::Read(read) => Ok(Op::Read {
            offset: read.offset,
            length_bytes: read.length_bytes,
        }),
        Wire::Write(osd::Write { change_id: 0, .. })
        | Wire::Truncate(osd::Truncate { change_id: 0, .. }) => {
            Err(malformed("changes something and has no change id"))
        }
        Wire::Write(write) => {
            let length = payload.bytes.len();
            if length > READ_BYTES_MAX as usize {
                return Err(Fault::surface(
                    libc::EINVAL,
                    format!("write of {length} bytes, {READ_BYTES_MAX} are allowed at once"),
                ));
            }
            if !write.append && too_far(write.offset.checked_add(length as u64)) {
                return Err(too_large());
            }
            let (bytes, crc32c) = payload.verified_with_sum()?;
            Ok(Op::Write {
                offset: write.offset,
                data: Payload { bytes, crc32c },
                append: write.append,
                order: order(
                    (write.change_id, write.first_id),
                    write.first_session,
                    write.after,
                    write.follows,
                ),
            })
        }
        Wire::Truncate(truncate) if too_far(Some(truncate.length_bytes)) => Err(too_large()),
        Wire::Truncate(truncate) => Ok(Op::Truncate {
            length_bytes: truncate.length_bytes,
            order: order(
                (truncate.change_id, truncate.first_id),
                truncate.first_session,
                truncate.after,
                truncate.follows,
            ),
        }),
        Wire::Sync(osd::Sync { follows }) => Ok(Op::Sync { follows }),
        Wire::Stat(osd::Stat {}) => Ok(Op::Stat),
        Wire::Seek(osd::Seek { offset, hole }) => Ok(Op::Seek { offset, hole }),
        Wire::Delete(_)
        | Wire::LeaseList(_)
        | Wire::LeaseShow(_)
        | Wire::LeaseHandOver(_)
        | Wire::LeaseStats(_)
        | Wire::Stalls(_)
        | Wire::ScrubStart(_)
        | Wire::ScrubStatus(_)
        | Wire::MapShow(_) => Err(malformed("names no operation on an object")),
    }
}

const fn order(
    (change_id, first_id): (u64, u64),
    first_session: u64,
    after: u64,
    follows: u64,
) -> ChangeOrder {
    ChangeOrder {
        change_id,
        first_id: if first_id == 0 { change_id } else { first_id },
        first_session: SessionId(first_session),
        after,
        follows,
    }
}

fn too_large() -> Fault {
    Fault::surface(
        libc::EFBIG,
        format!("object would be longer than {OBJECT_BYTES_MAX} bytes"),
    )
}

pub(crate) fn malformed(what: &str) -> Fault {
    Fault::surface(
        libc::EPROTO,
        format!("request {what}; run the same release on all machines"),
    )
}
