//! What administrators want of a shard.

use osd_core::{Input, ObjectKey};
use proto::osd;
use shell::clock::boottime;
use shell::link::Responder;
use types::{Fault, Instant, ObjectId, OsdId};

use super::{Shard, Waiting};
use crate::board::group_of;
use crate::config::{LAG_NOTE_INTERVAL, STALL_NOTED};
use crate::lags::{Lag, ShardLags};
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

    /// When to look again how far backups are behind, though nothing happens: they may have come up.
    pub(super) fn looks_for_lags_at(&self) -> Option<Instant> {
        self.lags_seen.then(|| self.lags_noted + LAG_NOTE_INTERVAL)
    }

    /// Notes how far backups are behind, once in a while.
    pub(super) fn note_lags(&mut self) {
        let now = boottime();
        if self.lags_noted + LAG_NOTE_INTERVAL > now {
            return;
        }
        self.lags_noted = now;
        let mut lags = ShardLags::new();
        for slot in self.replicas.values() {
            let group = group_of(slot.key);
            for osd_core::OsdLag { osd, since, bytes } in slot.replica.lags() {
                let known = lags.entry((group, osd));
                known
                    .or_insert(Lag { since, bytes: 0 })
                    .add(Lag { since, bytes });
            }
        }
        let seen = !lags.is_empty();
        if seen || self.lags_seen {
            self.around.board.note_lags(self.number, lags);
        }
        self.lags_seen = seen;
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
