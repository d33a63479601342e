//! Objects that come into a shard's memory, and those that are not worth it any more.

use std::sync::Arc;

use osd_core::{Done, Input, Membership, ObjectKey, ObjectReplica, ObjectStore, StoreError};
use shell::clock::boottime;
use types::{Fault, OsdId, Remedy};

use super::{Shard, Slot, Waiting};
use crate::board::group_of;
use crate::quarantine::{is_damage, quarantine};
use crate::shard_item::DeleteBatch;

impl Shard {
    /// Steps an object's replica, opening it first if it is not in memory.
    pub(super) fn step_opened(&mut self, key: ObjectKey, input: Input) -> Result<(), Fault> {
        match self.replicas.get(&key.object) {
            Some(slot) if slot.key.pg != key.pg => {
                return Err(Fault::refresh(format!(
                    "{} is in placement group {}, not {}; open the file again",
                    key.object, slot.key.pg, key.pg
                )));
            }
            Some(_) => {}
            None => self.open(key)?,
        }
        self.step(key.object, input);
        Ok(())
    }

    pub(super) fn open(&mut self, key: ObjectKey) -> Result<(), Fault> {
        if self.stopping.is_some() {
            return Err(Fault::retry("this server is stopping; ask another replica"));
        }
        let membership = self.membership(key).ok_or_else(|| {
            self.around.map_wanted.notify_one();
            Fault::refresh(format!(
                "object server {} has no replica of placement group {}; ask for the replica set again",
                self.around.me,
                group_of(key)
            ))
        })?;
        let group = group_of(key);
        if !self.around.root.is_ready(group) {
            if !self.parked.contains_key(&group) {
                self.want(group);
            }
            return Err(Fault::retry(format!(
                "the dataset of placement group {group} is being made"
            )));
        }
        let lost = self.unconnected(&membership);
        let replica = match self.open_replica(key, membership.clone()) {
            Err(error) if is_damage(&error) => {
                tracing::error!(
                    %key, %error,
                    "the copy can't be opened; it is put aside and rebuilt from the others"
                );
                quarantine(&self.around.root, &mut self.store, key)
                    .and_then(|()| self.open_replica(key, membership))
                    .inspect(|_| {
                        self.around
                            .board
                            .want([(key, osd_core::Position::default())])
                    })
            }
            other => other,
        };
        let replica = replica.map_err(|error| store_fault(&error))?;
        let slot = Slot {
            key,
            replica,
            alarm: None,
            leave_at: None,
            behind: false,
            bringing_up: false,
        };
        self.replicas.insert(key.object, slot);
        // It has not heard of what happened before.
        for osd in lost {
            self.step(key.object, Input::PeerLost(osd));
        }
        Ok(())
    }

    /// The members that can't be reached at the moment.
    fn unconnected(&self, membership: &Membership) -> Vec<OsdId> {
        let links = &self.cluster.links;
        let members = membership.replicas.all().iter().copied();
        members
            .filter(|osd| links.get(osd).is_some_and(|link| !link.is_connected()))
            .collect()
    }

    fn open_replica(
        &mut self,
        key: ObjectKey,
        membership: Membership,
    ) -> Result<ObjectReplica, StoreError> {
        ObjectReplica::open(
            self.around.me,
            key,
            membership,
            self.around.config.clone(),
            &mut self.store,
        )
    }

    /// Deletes an object, whatever is known of it: it may be of a group that is gone, unreadable, or
    /// deleted before and not known to be so for good.
    pub(super) fn delete(&mut self, key: ObjectKey, moved: bool, batch: Arc<DeleteBatch>) {
        let request = self.next_id();
        self.clients.insert(request, Waiting::Delete(key, batch));
        if moved && self.cluster.group(group_of(key)).is_some() {
            // It is this server's to keep again.
            return self.reply(request, Ok(Done::default()), None);
        }
        let slot = self.replicas.get(&key.object);
        if slot.is_some_and(|slot| slot.key.pg == key.pg) {
            if moved {
                self.moved.insert(key.object);
            }
            self.step(key.object, Input::Delete { request });
            return;
        }
        let other_group = slot.is_some();
        let deleted = self.store.delete(key);
        if deleted.is_ok() && !other_group && !moved {
            self.tombstones.insert(key.object, boottime());
        }
        self.around.board.forget(key);
        let result = deleted.map(|()| Done::default());
        self.reply(request, result.map_err(|error| store_fault(&error)), None);
    }
}

/// A store that is full can't be helped by asking elsewhere; one that does not work can.
fn store_fault(error: &StoreError) -> Fault {
    match error {
        StoreError::NoSpace { .. } => Fault::surface(libc::ENOSPC, error.to_string()),
        _ => Fault::new(
            Remedy::Redirect,
            libc::EIO,
            format!("this object server's copy can't be opened ({error}); ask another replica"),
        ),
    }
}
