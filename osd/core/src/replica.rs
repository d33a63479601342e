//! One object's replica on one server: backup until it holds the lease, then primary.

use types::{Duration, Instant, OsdId};

use crate::backup::Following;
use crate::config::Config;
use crate::copy::{LocalCopy, Trust};
use crate::durable::{Durable, Need, Who};
use crate::event::{Effect, Input, Membership, Op, RequestId};
use crate::faults;
use crate::leasing::Leasing;
use crate::mutant::Mutant;
use crate::position::{Position, Promise};
use crate::recover::Recovery;
use crate::store::{ObjectKey, ObjectStore, StoreError};
use crate::tenure::{Phase, Tenure};
use crate::waiting::{Queued, Waiting};
use proto::peer;

/// What a replica does at present.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Follows whoever holds the lease.
    Backup,
    /// Asks for the lease.
    Acquiring,
    /// Holds the lease, and asks the others where they are.
    Activating,
    /// Serves.
    Primary,
    /// Becomes clean before it gives up the lease.
    Closing,
}

/// A look at a replica, for administration and recovery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// What it does.
    pub role: Role,
    /// What it promised.
    pub promised: Promise,
    /// Where it is; the durable position if it is not trusted.
    pub position: Position,
    /// Its bytes are the history up to `position`.
    pub trusted: bool,
    /// Everything is stable and recorded as such.
    pub clean: bool,
    /// Length of its object.
    pub length_bytes: u64,
    /// Messages of peers that made no sense, since the replica was opened.
    pub malformed: u64,
}

impl Status {
    /// Whether that server has asked this one to follow it, and nobody else has since. Then it is primary, or
    /// was, and knows by itself who is behind. Of who only holds the lease, as one it was handed to and has not
    /// heard of it yet, that is not so.
    #[must_use]
    pub fn follows(&self, osd: OsdId) -> bool {
        self.promised.holder == osd
    }
}

/// One object's replica on one server.
///
/// Invariants (docs/invariants.md): O-1 to O-10.
#[derive(Debug)]
pub struct ObjectReplica {
    pub(crate) me: OsdId,
    pub(crate) key: ObjectKey,
    pub(crate) config: Config,
    pub(crate) membership: Membership,
    pub(crate) copy: LocalCopy,
    pub(crate) durable: Durable,
    pub(crate) following: Following,
    pub(crate) leasing: Leasing,
    pub(crate) tenure: Option<Tenure>,
    pub(crate) waiting: Waiting,
    pub(crate) recovery: Option<Recovery>,
    /// The lease is wanted although no client asks.
    pub(crate) bring_up: bool,
    /// How long the disk may take for the promise of a new primary.
    pub(crate) disk_patience: Duration,
    /// When the job began that took longer.
    pub(crate) slow_job: Option<Instant>,
    /// Since when a block has been waiting for a replica that may have it and keeps quiet.
    pub(crate) in_doubt_since: Option<Instant>,
    pub(crate) shutting_down: bool,
    pub(crate) malformed: u64,
    pub(crate) behind_reported: Vec<OsdId>,
    /// Time of the newest step.
    pub(crate) last_step: Instant,
}

/// What one step works with.
pub(crate) struct Step<'a> {
    pub(crate) now: Instant,
    pub(crate) store: &'a mut dyn ObjectStore,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Step<'_> {
    pub(crate) fn refuse(&mut self, request: RequestId, fault: types::Fault) {
        self.effects.push(Effect::Reply {
            request,
            result: Err(fault),
            valid_until: None,
        });
    }
}

impl ObjectReplica {
    /// Opens the object in the store, if it exists there.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::open`].
    pub fn open(
        me: OsdId,
        key: ObjectKey,
        membership: Membership,
        config: Config,
        store: &mut dyn ObjectStore,
    ) -> Result<Self, StoreError> {
        let disk_patience = config.backup_timeout;
        Ok(Self {
            me,
            key,
            copy: LocalCopy::open(key, &config, store)?,
            config,
            membership,
            durable: Durable::default(),
            following: Following::default(),
            leasing: Leasing::default(),
            tenure: None,
            waiting: Waiting::default(),
            recovery: None,
            bring_up: false,
            disk_patience,
            slow_job: None,
            in_doubt_since: None,
            shutting_down: false,
            malformed: 0,
            behind_reported: Vec::new(),
            last_step: Instant::ZERO,
        })
    }

    /// Takes one step at `now` and appends what must follow to `effects`, oldest first.
    pub fn step(
        &mut self,
        now: Instant,
        input: Input,
        store: &mut dyn ObjectStore,
        effects: &mut Vec<Effect>,
    ) {
        let step = &mut Step {
            now,
            store,
            effects,
        };
        self.last_step = now;
        self.check_lease(step);
        match input {
            Input::Client {
                request,
                session,
                op,
            } => self.client(step, request, session, op),
            Input::Delete { request } => {
                self.delete(step, request);
                return;
            }
            Input::Lease(event) => self.lease_event(step, event),
            Input::PeerRequest {
                from,
                answer,
                message,
                payload,
            } => self.peer_request(step, (from, answer), message, payload),
            Input::PeerReply { from, call, reply } => self.peer_reply(step, from, call, reply),
            Input::PeerLost(peer) => self.peer_lost(step, peer),
            Input::PeerUp(peer) => self.peer_up(step, peer),
            Input::StoreDone { ticket, result } => self.store_done(step, ticket, result),
            Input::Membership(membership) => self.membership_changed(step, membership),
            Input::Recover { newest } => self.start_recovery(step, newest),
            Input::Outdated(newest) => self.distrust_outdated(newest),
            Input::BringUp => self.bring_up |= !self.is_out_of_service(),
            Input::HandOver { request, to } => self.hand_over(step, request, to),
            Input::Shutdown => self.shut_down(step),
            Input::Tick => self.tick(step),
        }
        self.follow_up(step);
    }

    /// Whether it wants the lease in order to bring up the others.
    #[must_use]
    pub fn is_bringing_up(&self) -> bool {
        self.bring_up
    }

    /// How many other replicas this primary knows to have everything that it has.
    #[must_use]
    pub fn complete_peers(&self) -> usize {
        let tenure = self.tenure.iter();
        let peers = tenure.flat_map(|tenure| tenure.peers.iter());
        peers.filter(|peer| peer.is_joined()).count()
    }

    /// What the object's record and memory say.
    #[must_use]
    pub fn status(&self) -> Status {
        let role = match self.tenure.as_ref().map(|tenure| &tenure.phase) {
            None if self.leasing.is_asking() => Role::Acquiring,
            None => Role::Backup,
            Some(Phase::Serving) => Role::Primary,
            Some(Phase::Closing { .. }) => Role::Closing,
            Some(Phase::Asking { .. } | Phase::Fetching(_) | Phase::BringingUp { .. }) => {
                Role::Activating
            }
        };
        Status {
            role,
            promised: self.copy.promised,
            position: self.copy.vouched(&self.membership),
            trusted: self.copy.is_trusted(&self.membership),
            clean: self.copy.exists && self.copy.record.clean,
            length_bytes: self.copy.length_bytes,
            malformed: self.malformed,
        }
    }

    /// The replica's line in an answer to `ListObjects`. Suspect also means "not clean": whoever asks
    /// can't tell by the position alone that its own copy is as new.
    #[must_use]
    pub fn object_state(&self) -> peer::ObjectState {
        let status = self.status();
        peer::ObjectState {
            object: Some(self.key.object.into()),
            position: Some(status.position.into()),
            suspect: !status.clean,
            length_bytes: status.length_bytes,
        }
    }

    /// Whether nothing is lost if the shell drops it and opens it again later: nothing waits, no
    /// lease is held, and the store knows all there is to know.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tenure.is_none()
            && self.waiting.is_empty()
            && self.durable.is_idle()
            && self.recovery.is_none()
            && !self.leasing.is_asking()
            && !self.bring_up
            && (!self.copy.exists || self.copy.record.clean || self.is_forgettably_suspect())
    }

    /// Whether the store knows all there is to know and nothing may be changed before it is told otherwise: there may be
    /// readers.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.copy.exists
            && self.copy.record.clean
            && self.durable.is_idle()
            && self.copy.is_trusted(&self.membership)
    }

    /// A copy that was suspect when it was opened, and nobody is working on: opening it again finds
    /// it the same.
    fn is_forgettably_suspect(&self) -> bool {
        self.copy.trust == Trust::Suspect && !self.following.is_followed()
    }

    /// Whether changes may be made here under the promise: the disk says so, and nothing is on its way
    /// to it that says otherwise.
    pub(crate) fn is_writable(&self) -> bool {
        self.copy.is_writable() && !self.durable.is_cleaning()
    }

    /// What must happen after any input.
    pub(crate) fn follow_up(&mut self, step: &mut Step<'_>) {
        self.leave_for_room(step);
        self.drain(step);
        self.leave_for_room(step);
        self.report_behind(step);
        self.start_round(step);
        self.close_if_idle(step);
        self.pump_durable(step);
        self.want_lease(step);
    }

    pub(crate) fn pump_durable(&mut self, step: &mut Step<'_>) {
        if self.copy.failed {
            return;
        }
        let started = self
            .durable
            .pump(step.now, &self.copy, &mut *step.store, step.effects);
        if started.is_err() {
            self.fail(step);
        }
    }

    fn store_done(&mut self, step: &mut Step<'_>, ticket: u64, result: Result<(), StoreError>) {
        let Some(record) = self.durable.done(ticket) else {
            return;
        };
        if result.is_err() {
            self.fail(step);
            return;
        }
        self.copy.record = record;
        for who in self.durable.take_served(&self.copy) {
            self.answer_durable(step, who);
        }
        self.own_record_changed(step);
    }

    /// The store failed: this server changes nothing any more and leaves the object to others.
    pub(crate) fn fail(&mut self, step: &mut Step<'_>) {
        self.copy.failed = true;
        for who in self.durable.take_peers() {
            self.refuse_durable(step, who, peer::Refusal::StoreFailed);
        }
        self.step_down(step, true);
        self.bring_up = false;
        self.give_up_recovery(step);
        while let Some(queued) = self.waiting.pop() {
            step.refuse(queued.request, faults::elsewhere());
        }
    }

    /// Whether it takes no work any more: others have to do it.
    pub(crate) const fn is_out_of_service(&self) -> bool {
        self.copy.failed || self.shutting_down
    }

    fn client(
        &mut self,
        step: &mut Step<'_>,
        request: RequestId,
        session: types::SessionId,
        op: Op,
    ) {
        if !self.membership.replicas.is_current(self.me) {
            step.refuse(request, faults::not_a_member(self.membership.view));
            return;
        }
        let idle = self.tenure.is_none() && self.is_disk_slow(step.now);
        if self.is_out_of_service() || idle || self.is_disk_stuck(step.now) {
            step.refuse(request, faults::elsewhere());
            return;
        }
        let queued = Queued {
            request,
            session,
            op,
            deadline: step.now + self.config.request_timeout,
        };
        match self.tenure.as_mut() {
            Some(tenure) => tenure.last_used = Some(step.now),
            None => {
                if let Some(holder) = self.leasing.holder(step.now) {
                    step.refuse(request, faults::redirect(holder));
                    return;
                }
            }
        }
        if let Err(queued) = self.waiting.push(queued) {
            step.refuse(queued.request, faults::busy());
        }
    }

    fn delete(&mut self, step: &mut Step<'_>, request: RequestId) {
        step.store.close(self.key);
        if step.store.delete(self.key).is_err() {
            step.refuse(request, faults::elsewhere());
            return;
        }
        for who in self.durable.take_peers() {
            self.refuse_durable(step, who, peer::Refusal::Deleted);
        }
        self.step_down(step, true);
        if self.leasing.stop_asking() {
            step.effects.push(Effect::ReleaseLease);
        }
        while let Some(queued) = self.waiting.pop() {
            step.refuse(queued.request, faults::deleted());
        }
        step.effects.push(Effect::Reply {
            request,
            result: Ok(crate::Done::default()),
            valid_until: None,
        });
        step.effects.push(Effect::Deleted);
    }

    fn membership_changed(&mut self, step: &mut Step<'_>, membership: Membership) {
        let same = membership.view == self.membership.view;
        if membership.view < self.membership.view {
            return;
        }
        let policy = self.membership.policy;
        self.membership = membership;
        if self.tenure.is_some() && self.config.has(Mutant::PolicyKept) {
            self.membership.policy = policy;
        }
        if same {
            // What waits for the old policy may be all the new one asks for.
            self.answer_synced(step);
            self.commit(step);
            return;
        }
        self.leasing.keep_lost(&self.membership.replicas);
        // Those of the old view may have been counted: start over with those of the new one.
        self.step_down(step, true);
        self.following.leave();
        for who in self.durable.take_peers() {
            self.refuse_durable(step, who, peer::Refusal::OldView);
        }
        self.leasing.forget_holder();
        if !self.membership.replicas.is_current(self.me) {
            self.bring_up = false;
            // What is not its to keep needs no bringing up.
            self.recovered(step);
            while let Some(queued) = self.waiting.pop() {
                step.refuse(queued.request, faults::not_a_member(self.membership.view));
            }
        }
    }

    fn shut_down(&mut self, step: &mut Step<'_>) {
        self.shutting_down = true;
        self.bring_up = false;
        self.give_up_recovery(step);
        while let Some(queued) = self.waiting.pop() {
            step.refuse(queued.request, faults::elsewhere());
        }
        let serving = self
            .tenure
            .as_ref()
            .is_some_and(|tenure| tenure.is_serving());
        if !serving {
            self.step_down(step, true);
        }
        self.clean_self_if_idle(step);
    }

    /// Records that the copy is complete, if it is.
    pub(crate) fn want_clean(&mut self) {
        let copy = &self.copy;
        if copy.exists && !copy.record.clean && copy.is_trusted(&self.membership) {
            self.durable.want(Need::Clean(copy.position), Who::Own);
        }
    }
}
