//! What administrators want of a shard.

use osd_core::{Input, ObjectKey};
use proto::osd;
use shell::clock::boottime;
use shell::link::Responder;
use types::{Fault, ObjectId, OsdId};

use super::{Shard, Waiting};
use crate::config::STALL_NOTED;
use crate::stalls::to_wire;

impl Shard {
    /// The objects whose requests have waited for a while, at most `limit`.
    pub(super) fn stalls(&self, limit: usize) -> Vec<osd::Stall> {
        let now = boottime();
        self.replicas
            .values()
            .filter_map(|slot| Some((slot.key, slot.replica.stall(now)?)))
            .filter(|(_, stall)| now.since(stall.since) >= STALL_NOTED)
            .map(|(key, stall)| to_wire(now, key, &stall))
            .take(limit)
            .collect()
    }

    /// Gives an object's lease to another server.
    pub(super) fn hand_over(&mut self, object: ObjectId, to: OsdId, responder: Responder) {
        if !self.replicas.contains_key(&object) {
            return responder.fault(Fault::surface(
                libc::EAGAIN,
                format!(
                    "object server {} does not hold the lease of {object}; `xfs-admin lease show` \
                     says who does",
                    self.around.me
                ),
            ));
        }
        let request = self.next_id();
        self.clients
            .insert(request, Waiting::Client(responder, None));
        self.step(object, Input::HandOver { request, to });
    }

    /// Brings an object into memory whose lease is handed over to this server. A server that has no
    /// copy of it lets the offer pass: whoever asks next gets the lease.
    pub(super) fn open_offered(&mut self, object: ObjectId) {
        if self.replicas.contains_key(&object) || self.tombstones.contains(object, boottime()) {
            return;
        }
        let groups = self.cluster.memberships.keys();
        let of_volume = groups.filter(|group| group.volume == object.volume);
        let found = of_volume
            .map(|group| ObjectKey {
                pg: group.pg,
                object,
            })
            .find(|key| self.around.root.path(*key).exists());
        if let Some(key) = found
            && let Err(fault) = self.open(key)
        {
            tracing::warn!(%key, %fault, "lease can't be taken over");
        }
    }
}
