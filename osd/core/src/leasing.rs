//! Getting, keeping and losing the lease.

use types::{Instant, OsdId};

use crate::config::DENIAL_REMEMBERED;
use crate::event::{Effect, LeaseEvent, RequestId};
use crate::faults;
use crate::mutant::Mutant;
use crate::position::NEWBORN_EPOCH_MAX;
use crate::quorum::ReplicaSet;
use crate::replica::{ObjectReplica, Step};
use crate::stall::{Obstacle, WaitsFor};
use crate::tenure::Tenure;
use proto::peer;

/// What is known of the lease while this server does not hold it.
#[derive(Debug, Default)]
pub(crate) struct Leasing {
    asking: bool,
    retry_at: Option<Instant>,
    /// Somebody else holds it, and until when that is taken for granted.
    holder: Option<(OsdId, Instant)>,
    /// The holder's connection is broken: it may be dead, so requests wait here for the lease's end.
    holder_lost: bool,
    /// Members whose connections are broken.
    lost: Vec<OsdId>,
    /// When the holder's lease would end if it were never renewed again.
    holder_ends: Instant,
    /// Epochs up to this one were refused by some replica.
    floor: u64,
    /// The shortcut for new objects was refused.
    newborn_refused: bool,
    /// Why it could not be had.
    obstacle: Option<Denial>,
    /// It was handed over to this server, which keeps it as if a client had asked.
    offered: bool,
}

/// Answers that the lease can't be had, one after the other.
#[derive(Clone, Copy, Debug)]
struct Denial {
    /// The newest.
    obstacle: Obstacle,
    first: Instant,
    last: Instant,
}

impl Leasing {
    pub(crate) const fn is_asking(&self) -> bool {
        self.asking
    }

    pub(crate) fn stop_asking(&mut self) -> bool {
        std::mem::take(&mut self.asking)
    }

    /// The holder to send requests to.
    pub(crate) fn holder(&self, now: Instant) -> Option<OsdId> {
        let (holder, until) = self.holder?;
        (now < until && !self.holder_lost).then_some(holder)
    }

    pub(crate) fn forget_holder(&mut self) {
        self.holder = None;
    }

    pub(crate) fn lost_peer(&mut self, peer: OsdId) {
        if !self.lost.contains(&peer) {
            self.lost.push(peer);
        }
        if self.holder.is_some_and(|(holder, _)| holder == peer) {
            self.holder_lost = true;
        }
    }

    pub(crate) fn found_peer(&mut self, peer: OsdId) {
        self.lost.retain(|lost| *lost != peer);
        if self.holder.is_some_and(|(holder, _)| holder == peer) {
            self.holder_lost = false;
        }
    }

    /// Forgets whose connections are broken but those of members.
    pub(crate) fn keep_lost(&mut self, replicas: &ReplicaSet) {
        self.lost.retain(|lost| replicas.contains(*lost));
    }

    /// Refuses to hold epochs up to this one from now on.
    pub(crate) fn raise_floor(&mut self, epoch: u64) {
        self.floor = self.floor.max(epoch);
        self.newborn_refused = true;
    }

    /// What keeps this server from having the lease.
    pub(crate) fn waits_for(&self, now: Instant) -> WaitsFor {
        match (self.holder, self.obstacle) {
            (Some((holder, _)), _) if self.holder_lost => WaitsFor::SilentHolder {
                holder,
                remaining: self.holder_ends.since(now),
            },
            (_, Some(denial)) => WaitsFor::Obstacle(denial.obstacle),
            (_, None) => WaitsFor::Lease,
        }
    }

    /// Since when a request that arrived at `arrived` can't be done. Requests are answered after a
    /// while and come again, so what stands in their way may be older.
    pub(crate) fn wanted_since(&self, arrived: Instant) -> Instant {
        let first = self.recent_denial(arrived).map(|denial| denial.first);
        first.map_or(arrived, |first| first.min(arrived))
    }

    fn denied(&mut self, now: Instant, obstacle: Obstacle) {
        let first = self.recent_denial(now).map_or(now, |denial| denial.first);
        self.obstacle = Some(Denial {
            obstacle,
            first,
            last: now,
        });
    }

    fn recent_denial(&self, now: Instant) -> Option<Denial> {
        self.obstacle
            .filter(|denial| now.since(denial.last) < DENIAL_REMEMBERED)
    }

    pub(crate) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}

/// Greater than any epoch in use for as long as the universe lasts; a peer that claims more is wrong.
const EPOCH_MAX: u64 = 1 << 62;

impl ObjectReplica {
    /// Ends the tenure if the lease is over by the clock, whatever else is on its way.
    pub(crate) fn check_lease(&mut self, step: &mut Step<'_>) {
        if self
            .tenure
            .as_ref()
            .is_some_and(|tenure| tenure.until <= step.now)
        {
            self.step_down(step, false);
        }
    }

    /// Whether somebody needs the lease and this server may ask for it.
    pub(crate) fn needs_lease(&self) -> bool {
        (self.bring_up || !self.waiting.is_empty())
            && self.tenure.is_none()
            && !self.leasing.asking
            && !self.copy.failed
            && !self.is_disk_slow(self.last_step)
            // Also of the set before: it may be the only one that can tell what the others lack.
            && self.membership.replicas.contains(self.me)
    }

    /// Asks for the lease if somebody needs it.
    pub(crate) fn want_lease(&mut self, step: &mut Step<'_>) {
        if !self.needs_lease() || self.leasing.retry_at.is_some_and(|at| at > step.now) {
            return;
        }
        let newborn = self.is_newborn();
        let floor = match newborn {
            true => 0,
            false => NEWBORN_EPOCH_MAX
                .max(self.leasing.floor)
                .max(self.copy.promised.epoch),
        };
        self.leasing.asking = true;
        self.leasing.retry_at = None;
        step.effects.push(Effect::AcquireLease { newborn, floor });
    }

    /// Whether this server may take the shortcut: nothing can be known of the object anywhere.
    fn is_newborn(&self) -> bool {
        let first = self.membership.replicas.current().first() == Some(&self.me);
        let changes = self.waiting.front().is_some_and(|front| front.is_change());
        first
            && changes
            && !self.copy.exists
            && self.copy.promised.epoch == 0
            && !self.leasing.newborn_refused
            && self.membership.recovered
            && !self.membership.incomplete
    }

    pub(crate) fn lease_event(&mut self, step: &mut Step<'_>, event: LeaseEvent) {
        match event {
            LeaseEvent::Held {
                epoch,
                until,
                newborn,
            } => self.lease_held(step, (epoch, until), newborn),
            LeaseEvent::HeldBy { member, remaining } => {
                self.leasing.asking = false;
                self.leasing.obstacle = None;
                self.leasing.offered = false;
                let now = step.now;
                if member == self.me || self.tenure.is_some() {
                    self.leasing.retry_at = Some(now + self.config.acquire_retry);
                    return;
                }
                let known = remaining.min(self.config.hint_max);
                let same = self
                    .leasing
                    .holder
                    .is_some_and(|(holder, _)| holder == member);
                let ends = now + remaining;
                // A lease that was renewed since has a living holder, connected to us or not.
                let renewed = ends > self.leasing.holder_ends + self.config.acquire_retry;
                self.leasing.holder_lost = match same {
                    true => self.leasing.holder_lost && !renewed,
                    false => self.leasing.lost.contains(&member),
                };
                self.leasing.holder = Some((member, now + known));
                self.leasing.holder_ends = ends;
                if self.leasing.holder_lost {
                    self.leasing.retry_at = Some(now + known.max(self.config.acquire_retry));
                    return;
                }
                self.bring_up = false;
                while let Some(queued) = self.waiting.pop() {
                    step.refuse(queued.request, faults::redirect(member));
                }
            }
            LeaseEvent::Denied(obstacle) => {
                self.leasing.asking = false;
                self.leasing.denied(step.now, obstacle);
                self.leasing.retry_at = Some(step.now + self.config.acquire_retry);
            }
            LeaseEvent::Offered => {
                let member = self.membership.replicas.contains(self.me);
                if member && !self.is_out_of_service() {
                    self.bring_up = true;
                    self.leasing.offered = true;
                    self.leasing.retry_at = None;
                }
            }
            LeaseEvent::Lost { epoch } => {
                let mine = self.tenure.as_ref();
                if mine.is_some_and(|tenure| tenure.promise.epoch == epoch) {
                    self.step_down(step, false);
                }
            }
        }
    }

    fn lease_held(&mut self, step: &mut Step<'_>, held: (u64, Instant), newborn: bool) {
        let (epoch, until) = held;
        if let Some(tenure) = self.tenure.as_mut()
            && tenure.promise.epoch == epoch
        {
            tenure.until = tenure.until.max(until);
            return;
        }
        self.step_down(step, false);
        self.leasing.asking = false;
        let usable = match newborn {
            // Asked for when nothing was known; a request of a peer may have come between.
            true => self.is_newborn_still() && epoch <= NEWBORN_EPOCH_MAX,
            false => epoch > NEWBORN_EPOCH_MAX.max(self.copy.promised.epoch),
        };
        let wanted = !self.waiting.is_empty() || self.bring_up;
        let useless = self.copy.failed || self.is_disk_slow(step.now);
        if !usable || !wanted || useless || until <= step.now || epoch > EPOCH_MAX {
            if !usable {
                self.leasing
                    .raise_floor(self.copy.promised.epoch.max(epoch.min(EPOCH_MAX)));
            }
            step.effects.push(Effect::ReleaseLease);
            self.leasing.retry_at = Some(step.now + self.config.acquire_retry);
            return;
        }
        self.leasing.holder = None;
        self.leasing.holder_lost = false;
        self.leasing.obstacle = None;
        let offered = std::mem::take(&mut self.leasing.offered);
        let mut membership = self.membership.clone();
        if self.config.has(Mutant::PreviousSetIgnored) {
            membership.replicas = ReplicaSet::new(membership.replicas.current());
        }
        let mut tenure = Tenure::new(step.now, self.me, self.key, &membership, held);
        if !self.waiting.is_empty() || offered {
            tenure.last_used = Some(step.now);
        }
        self.begin_tenure(step, tenure, newborn);
    }

    fn is_newborn_still(&self) -> bool {
        !self.copy.exists && self.copy.promised.epoch == 0 && self.copy.is_trusted(&self.membership)
    }

    /// Ends the tenure: whatever is not done is to be repeated, what was not begun stays queued.
    pub(crate) fn step_down(&mut self, step: &mut Step<'_>, release: bool) {
        let Some(tenure) = self.tenure.take() else {
            return;
        };
        self.report_left_behind(step, &tenure);
        let changes = tenure
            .changes
            .into_iter()
            .filter_map(|change| change.request);
        let held = tenure.held.into_iter().map(|held| held.request);
        for request in changes.chain(held).chain(tenure.syncs.into_requests()) {
            step.refuse(request, faults::lease_lost());
        }
        if let Some(queued) = tenure.mending.and_then(|mend| mend.culprit) {
            self.waiting.push_front(queued);
        }
        self.durable.forget_own();
        self.following.leave();
        self.following.heard_at = Some(step.now);
        if release {
            step.effects.push(Effect::ReleaseLease);
        }
        self.leasing.retry_at = Some(step.now + self.config.acquire_retry);
    }

    /// Gives the lease to another replica: what is under way here is to be repeated there.
    pub(crate) fn hand_over(&mut self, step: &mut Step<'_>, request: RequestId, to: OsdId) {
        let fault = match self.tenure.as_ref() {
            None => Some(faults::not_the_holder()),
            Some(_) if to == self.me => None,
            Some(_) if !self.membership.replicas.is_current(to) => {
                Some(faults::no_replica(to, self.membership.view))
            }
            Some(tenure) if !tenure.is_serving() => Some(faults::not_ready()),
            Some(tenure) => {
                let mut peers = tenure.peers.iter();
                let up = peers.any(|peer| peer.id == to && peer.connected && !peer.is_behind());
                (!up).then(|| faults::not_up(to))
            }
        };
        if let Some(fault) = fault {
            step.refuse(request, fault);
            return;
        }
        if to != self.me {
            self.step_down(step, false);
            self.bring_up = false;
            step.effects.push(Effect::HandOverLease { to });
        }
        step.effects.push(Effect::Reply {
            request,
            result: Ok(crate::Done::default()),
            valid_until: None,
        });
    }

    /// Some replica promised a newer epoch: gives up the lease and asks for one above it.
    pub(crate) fn outdated(&mut self, step: &mut Step<'_>, promised_epoch: u64) {
        if promised_epoch > EPOCH_MAX {
            self.malformed += 1;
            return;
        }
        self.leasing.raise_floor(promised_epoch);
        step.effects.push(Effect::SetFloor {
            epoch: promised_epoch,
        });
        self.step_down(step, true);
        self.leasing.retry_at = None;
    }

    /// Takes a new promise: from now on everything older is refused.
    pub(crate) fn promise(&mut self, step: &mut Step<'_>, promise: crate::Promise) {
        if promise == self.copy.promised {
            return;
        }
        self.copy.promised = promise;
        step.effects.push(Effect::SetFloor {
            epoch: promise.epoch,
        });
        for who in self.durable.take_peers() {
            self.refuse_durable(step, who, peer::Refusal::OldEpoch);
        }
    }
}
