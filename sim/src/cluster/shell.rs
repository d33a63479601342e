//! What joins replicas, leases and disk of one server: the rules of `osd/src/shard`.

use osd_core::{
    Done, Effect, Input, LeaseEvent, ObjectKey, ObjectReplica, ObjectStore, Obstacle, PeerFailure,
    Position, RequestId, deleted_response,
};
use types::{Fault, Instant, ObjectId, OsdId, Remedy};

use crate::cluster::edit::Edit;
use crate::cluster::server::{Act, Item, Server, Slot, Waiting, group_of, peer_reply};

/// ESTALE of Linux: the file is gone.
pub(crate) const ESTALE: i32 = 116;
const EIO: i32 = 5;

impl Server {
    pub(crate) fn handle(&mut self, now: Instant, item: Item, acts: &mut Vec<Act>) {
        match item {
            Item::Client {
                key,
                session,
                op,
                mount,
                call,
            } => {
                let request = self.next_id();
                let waiting = Waiting::Mount { mount, call };
                self.clients.insert(request, waiting);
                let input = Input::Client {
                    request,
                    session,
                    op,
                };
                let outcome = match self.is_gone(key.object) {
                    true => Err(Fault::surface(ESTALE, "the file was deleted")),
                    false => self.step_opened(now, key, input, acts),
                };
                if let Err(fault) = outcome {
                    reply(acts, request, Err(fault));
                }
            }
            Item::Delete { keys, batch } => {
                self.batches.insert(batch, (keys.len(), true));
                for (key, moved) in keys {
                    let moved = moved && self.common.edit != Some(Edit::MovedForGood);
                    self.delete(now, key, (Some(batch), moved), acts);
                }
            }
            Item::Peer {
                key,
                asked,
                message,
                payload,
            } => {
                if self.is_gone(key.object) {
                    let view = self.membership(key).map_or(0, |membership| membership.view);
                    let reply = Ok((deleted_response(view), osd_core::Payload::default()));
                    acts.push(Act::Answer { asked, reply });
                    return;
                }
                let answer = self.next_id();
                self.answers.insert(answer, asked);
                let input = Input::PeerRequest {
                    from: asked.from,
                    answer,
                    message,
                    payload,
                };
                if self.step_opened(now, key, input, acts).is_err() {
                    self.answers.remove(&answer);
                    let reply = Err(PeerFailure::Fault);
                    acts.push(Act::Answer { asked, reply });
                }
            }
            Item::PeerReply {
                object,
                from,
                call,
                reply,
            } => self.step(now, object, peer_reply(from, call, reply), acts),
            Item::PeerLost(osd) => {
                self.recovery.peer_lost(now, osd);
                self.step_all(now, |_| Some(Input::PeerLost(osd)), acts);
            }
            Item::PeerUp(osd) => {
                self.recovery.peer_up(osd);
                self.step_all(now, |_| Some(Input::PeerUp(osd)), acts);
            }
            Item::Lease { object, event } => {
                if event == LeaseEvent::Offered {
                    self.open_offered(object);
                }
                let me = self.me;
                let elsewhere = match event {
                    LeaseEvent::HeldBy { member, .. } if member != me => Some(member),
                    _ => None,
                };
                self.step(now, object, Input::Lease(event), acts);
                if let Some(holder) = elsewhere {
                    self.leave_to_holder(object, holder);
                }
            }
            Item::StoreDone {
                object,
                ticket,
                result,
            } => self.step(now, object, Input::StoreDone { ticket, result }, acts),
            Item::Recover(key, newest) => self.recover(now, (key, newest), acts),
            Item::BringUp(key) => {
                if self.is_gone(key.object) {
                    self.recovery.forget(key);
                } else if self.step_opened(now, key, Input::BringUp, acts).is_ok()
                    && let Some(slot) = self.slots.get_mut(&key.object)
                {
                    slot.bringing_up = true;
                }
            }
            Item::Publish => self.publish(now, acts),
            Item::Map(map) => self.take_map(now, map, acts),
            Item::Clear => self.clear(now, acts),
            Item::List { group, view, asked } => {
                let list = self.list(group, view);
                acts.push(Act::Listed { asked, list });
            }
            Item::HandOver { object, to } => {
                let request = self.next_id();
                self.clients.insert(request, Waiting::Nobody);
                self.step(now, object, Input::HandOver { request, to }, acts);
            }
        }
    }

    fn is_gone(&self, object: ObjectId) -> bool {
        self.common.edit != Some(Edit::TombstonesIgnored) && self.tombstones.contains(&object)
    }

    fn recover(&mut self, now: Instant, (key, newest): (ObjectKey, Position), acts: &mut Vec<Act>) {
        if self.is_gone(key.object) {
            return self.recovery.done(key);
        }
        if let Err(fault) = self.step_opened(now, key, Input::Recover { newest }, acts) {
            match fault.remedy {
                Remedy::Refresh => self.recovery.done(key),
                _ => self.recovery.put_back(key),
            }
        }
    }

    fn leave_to_holder(&mut self, object: ObjectId, holder: OsdId) {
        if let Some(slot) = self.slots.get_mut(&object)
            && slot.bringing_up
            && !slot.replica.is_bringing_up()
        {
            slot.bringing_up = false;
            if slot.replica.status().follows(holder) {
                self.recovery.note_behind(slot.key, &[]);
            }
        }
    }

    fn open_offered(&mut self, object: ObjectId) {
        if self.slots.contains_key(&object) || self.is_gone(object) {
            return;
        }
        let groups = self.map.pgs.keys();
        let keys = groups.map(|group| ObjectKey {
            pg: group.pg,
            object,
        });
        let found = keys.collect::<Vec<_>>().into_iter().find(|key| {
            let header = self.store.open(*key);
            header.is_ok_and(|header| header.is_some())
        });
        if let Some(key) = found {
            let _refused = self.open(key);
        }
    }

    fn step_opened(
        &mut self,
        now: Instant,
        key: ObjectKey,
        input: Input,
        acts: &mut Vec<Act>,
    ) -> Result<(), Fault> {
        if !self.slots.contains_key(&key.object) {
            self.open(key)?;
            // It has not heard of what happened before.
            for osd in self.unconnected(key) {
                self.step(now, key.object, Input::PeerLost(osd), acts);
            }
        }
        self.step(now, key.object, input, acts);
        Ok(())
    }

    fn open(&mut self, key: ObjectKey) -> Result<(), Fault> {
        if self.stopping {
            return Err(Fault::retry("this server is stopping; ask another replica"));
        }
        let membership = self
            .membership(key)
            .ok_or_else(|| Fault::refresh("not a replica of the group; ask for the set again"))?;
        let config = self.common.replica.clone();
        let told = membership.clone();
        let opened = ObjectReplica::open(self.me, key, told, config, &mut self.store);
        let replica =
            opened.map_err(|error| Fault::new(Remedy::Redirect, EIO, error.to_string()))?;
        let slot = Slot {
            key,
            replica,
            alarm: None,
            leave_at: None,
            behind: false,
            bringing_up: false,
            membership,
        };
        self.slots.insert(key.object, slot);
        Ok(())
    }

    /// The members that can't be reached at the moment.
    fn unconnected(&self, key: ObjectKey) -> Vec<OsdId> {
        let slot = self.slots.get(&key.object);
        let members = slot.map(|slot| slot.membership.replicas.all().to_vec());
        let mut members = members.unwrap_or_default();
        members.retain(|osd| *osd != self.me && !self.recovery.up.contains(osd));
        members
    }

    /// Deletes an object: with its file, or because others keep it.
    pub(super) fn delete(
        &mut self,
        now: Instant,
        key: ObjectKey,
        (batch, moved): (Option<u64>, bool),
        acts: &mut Vec<Act>,
    ) {
        let request = self.next_id();
        let waiting = batch.map_or(Waiting::Nobody, |batch| Waiting::Delete { batch });
        self.clients.insert(request, waiting);
        if moved && self.membership(key).is_some() {
            // It is this server's to keep again.
            return reply(acts, request, Ok(Done::default()));
        }
        acts.push(match moved {
            false => Act::Gone(key),
            true => Act::Moved(key),
        });
        if self.slots.contains_key(&key.object) {
            if moved {
                self.moved.insert(key.object);
            }
            return self.step(now, key.object, Input::Delete { request }, acts);
        }
        let deleted = self.store.delete(key);
        if deleted.is_ok() && !moved {
            self.tombstones.insert(key.object);
        }
        self.recovery.forget(key);
        let result = deleted.map(|()| Done::default());
        let result = result.map_err(|error| Fault::new(Remedy::Retry, EIO, error.to_string()));
        reply(acts, request, result);
    }

    fn step_all(
        &mut self,
        now: Instant,
        mut input: impl FnMut(ObjectKey) -> Option<Input>,
        acts: &mut Vec<Act>,
    ) {
        let keys: Vec<_> = self.slots.values().map(|slot| slot.key).collect();
        for key in keys {
            if let Some(input) = input(key) {
                self.step(now, key.object, input, acts);
            }
        }
    }

    /// Steps a replica that is in memory and performs what follows.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        object: ObjectId,
        input: Input,
        acts: &mut Vec<Act>,
    ) {
        let Some(slot) = self.slots.get_mut(&object) else {
            return;
        };
        let key = slot.key;
        // A pause may lie between the look at the clock and the work.
        let looked = self.old_look.take().unwrap_or(now);
        let ticked = matches!(input, Input::Tick) && looked == now;
        let mut effects = Vec::new();
        slot.replica
            .step(looked, input, &mut self.store, &mut effects);
        let wakeup = slot.replica.next_wakeup();
        if ticked && wakeup.is_some_and(|at| at <= now) && effects.is_empty() {
            self.spins = Some(object);
        }
        for effect in effects {
            self.perform(now, key, effect, acts);
        }
        self.settle(now, object);
    }

    fn perform(&mut self, now: Instant, key: ObjectKey, effect: Effect, acts: &mut Vec<Act>) {
        let object = key.object;
        let cell = object.cell();
        match effect {
            Effect::Reply {
                request,
                result,
                valid_until,
            } => acts.push(Act::Reply {
                request,
                result,
                valid_until,
            }),
            Effect::AnswerPeer {
                answer,
                response,
                payload,
            } => {
                if let Some(asked) = self.answers.remove(&answer) {
                    let reply = Ok((response, payload));
                    acts.push(Act::Answer { asked, reply });
                }
            }
            Effect::Send {
                to,
                call,
                message,
                payload,
                timeout,
            } => acts.push(Act::Peer {
                object,
                to,
                call,
                message: Box::new(message),
                payload,
                timeout,
            }),
            Effect::Sync { ticket, job, lazy } => acts.push(Act::Sync {
                object,
                ticket,
                job,
                lazy,
            }),
            Effect::AcquireLease { newborn, floor } => {
                let floor = match self.common.edit {
                    Some(Edit::FloorForgotten) => 0,
                    _ => floor,
                };
                let pg = self.map.group(self.me, group_of(key));
                let Some(membership) = pg.map(|pg| pg.membership.clone()) else {
                    let event = LeaseEvent::Denied(Obstacle::OldView);
                    return self.inbox.push_back(Item::Lease { object, event });
                };
                self.with_host(now, acts, |host, now, out| {
                    let asked = host.acquire(now, cell, &membership, floor, newborn, out);
                    if let Err(error) = asked {
                        out.events.push(lease::Event::Refused { cell, error });
                    }
                });
            }
            Effect::ReleaseLease => {
                self.with_host(now, acts, |host, now, out| host.release(now, cell, out));
            }
            Effect::HandOverLease { to } => self.with_host(now, acts, |host, now, out| {
                host.hand_over(now, cell, to.into(), out);
            }),
            Effect::SetFloor { epoch } => {
                if self.common.edit != Some(Edit::FloorForgotten) {
                    self.with_host(now, acts, |host, now, _| host.set_floor(now, cell, epoch));
                }
            }
            Effect::Behind { replicas } => {
                if let Some(slot) = self.slots.get_mut(&object) {
                    slot.behind = !replicas.is_empty();
                    self.recovery.note_behind(key, &replicas);
                }
            }
            Effect::Recovered { position } => self.recovery.brought_up(key, position),
            Effect::NotRecovered => self.recovery.put_back(key),
            Effect::Damaged { .. } | Effect::TakenAsFound { .. } => {}
            Effect::Deleted => {
                // Of what others keep this server may become a replica again.
                if !self.moved.remove(&object) {
                    self.tombstones.insert(object);
                }
                self.recovery.forget(key);
                self.drop_replica(object);
            }
        }
    }

    fn settle(&mut self, now: Instant, object: ObjectId) {
        let keep = self.common.replica.backup_idle_after;
        let Some(slot) = self.slots.get_mut(&object) else {
            return;
        };
        if slot.bringing_up && !slot.behind && slot.is_primary() {
            slot.bringing_up = false;
            self.recovery.note_behind(slot.key, &[]);
        }
        if slot.behind && !slot.is_primary() {
            slot.behind = false;
            self.recovery.note_left(slot.key);
        }
        slot.leave_at = slot.replica.is_idle().then(|| now + keep);
        if slot.leave_at.is_some() && self.stopping {
            return self.drop_replica(object);
        }
        let wakeups = [slot.replica.next_wakeup(), slot.leave_at];
        slot.alarm = wakeups.into_iter().flatten().min();
    }

    fn drop_replica(&mut self, object: ObjectId) {
        if let Some(slot) = self.slots.remove(&object) {
            self.store.close(slot.key);
        }
    }

    pub(crate) fn next_alarm(&self) -> Option<Instant> {
        self.slots.values().filter_map(|slot| slot.alarm).min()
    }

    pub(crate) fn ring_alarms(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let due = self.slots.iter().filter(|(_, slot)| {
            let alarm = slot.alarm;
            alarm.is_some_and(|at| at <= now)
        });
        let due: Vec<_> = due.map(|(object, _)| *object).collect();
        for object in due {
            let leave_at = self.slots.get(&object).and_then(|slot| slot.leave_at);
            match leave_at {
                Some(at) if at <= now => self.drop_replica(object),
                _ => self.step(now, object, Input::Tick, acts),
            }
        }
    }

    pub(crate) fn shut_down(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.stopping = true;
        self.step_all(now, |_| Some(Input::Shutdown), acts);
    }

    /// Every now and then, and whenever something happened that recovery wants to know.
    pub(crate) fn look(&mut self, now: Instant, acts: &mut Vec<Act>) {
        for (key, newest) in self.recovery.next_recoveries() {
            self.inbox.push_back(Item::Recover(key, newest));
        }
        for key in self.recovery.next_left(now) {
            self.inbox.push_back(Item::BringUp(key));
        }
        let grace = self.common.replica.trust_grace;
        let me = self.me;
        if self.common.edit != Some(Edit::SilenceIgnored) {
            self.recovery.miss_silent(now, grace, me, &self.map);
        }
        let mut recovery = std::mem::take(&mut self.recovery);
        let own = |group, compared| self.own(group, compared);
        if recovery.conclude(now, grace, (me, &self.map), own) {
            self.inbox.push_back(Item::Publish);
        }
        self.recovery = recovery;
        for group in self.recovery.alone(me, &self.map) {
            let ours = self.states(group, true);
            self.recovery.looked_at(group, &ours);
        }
        for (to, group, view) in self.recovery.next_asked(now, me, &self.map) {
            acts.push(Act::List { to, group, view });
        }
    }

    /// Whether the lease host may go on renewing for a cell.
    pub(crate) fn may_renew(&self, now: TrueNow) -> bool {
        let is_stuck = now.at < self.stuck_until;
        !is_stuck || now.stuck_for < self.common.lease.ttl
    }
}

/// The moment, and for how long the shard's thread has been stuck.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrueNow {
    pub(crate) at: crate::time::TrueTime,
    pub(crate) stuck_for: types::Duration,
}

fn reply(acts: &mut Vec<Act>, request: RequestId, result: Result<Done, Fault>) {
    acts.push(Act::Reply {
        request,
        result,
        valid_until: None,
    });
}
