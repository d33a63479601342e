//! Everything that happens because time passed.

use types::{Instant, WritePolicy};

use crate::faults;
use crate::mutant::Mutant;
use crate::peer_state::{Peer, PeerState};
use crate::replica::{ObjectReplica, Step};
use crate::tenure::{Phase, Tenure};
use proto::peer;

impl ObjectReplica {
    /// When it wants to be stepped next even if nothing happens.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let queue = self.waiting.front().map(|queued| queued.deadline);
        let recovery = self.recovery.as_ref().map(|recovery| recovery.ask_at);
        let lease = self.leasing.retry_at().filter(|_| self.needs_lease());
        let tenure = self.tenure.as_ref().and_then(|tenure| {
            let own = self.tenure_wakeups(tenure).into_iter().flatten();
            let peers = tenure.peers.iter();
            let peers = peers.filter_map(|peer| self.peer_wakeup(tenure, peer));
            own.chain(peers).chain([tenure.until]).min()
        });
        let clean = self.cleans_itself_at();
        let abandoned = self.recovers_itself_at();
        let stuck = self.gives_up_on_disk_at();
        [queue, recovery, lease, tenure, clean, abandoned, stuck]
            .into_iter()
            .flatten()
            .min()
    }

    fn tenure_wakeups(&self, tenure: &Tenure) -> [Option<Instant>; 6] {
        let waiting = tenure
            .changes
            .iter()
            .find(|change| change.request.is_some());
        let phase = match &tenure.phase {
            Phase::Asking {
                grace_until,
                heard_until,
                ..
            } => [*heard_until, *grace_until]
                .into_iter()
                .filter(|at| *at > self.last_step)
                .min(),
            Phase::Fetching(fetching) => Some(fetching.progress_at + self.config.step_timeout),
            Phase::BringingUp { .. } if tenure.newborn => {
                Some(tenure.began_at + self.config.newborn_patience)
            }
            Phase::Closing { since } => Some(*since + self.config.step_timeout),
            Phase::BringingUp { .. } | Phase::Serving => None,
        };
        let mend = tenure.mending.as_ref();
        [
            waiting.map(|change| change.deadline),
            tenure.held.iter().map(|held| held.deadline).min(),
            tenure.syncs.deadline(),
            phase,
            mend.map(|mend| mend.asked_at + self.config.backup_timeout),
            self.closes_at().or_else(|| self.abandons_at()),
        ]
    }

    fn peer_wakeup(&self, tenure: &Tenure, peer: &Peer) -> Option<Instant> {
        match peer.state {
            PeerState::Behind { .. } if matches!(tenure.phase, Phase::Closing { .. }) => None,
            PeerState::Behind { retry_at } => Some(retry_at),
            _ => peer
                .owing_since
                .map(|since| since + self.config.backup_timeout),
        }
    }

    /// When an activation nobody waits for any more is given up.
    fn abandons_at(&self) -> Option<Instant> {
        let tenure = self.tenure.as_ref()?;
        let activating = matches!(
            tenure.phase,
            Phase::Asking { .. } | Phase::Fetching(_) | Phase::BringingUp { .. }
        );
        let used = tenure.last_used.unwrap_or(tenure.began_at);
        (activating && self.waiting.is_empty()).then(|| used + self.config.idle_after)
    }

    pub(crate) fn tick(&mut self, step: &mut Step<'_>) {
        self.leave_if_disk_is_stuck(step);
        self.expire_requests(step);
        self.drop_silent_peers(step);
        self.check_newborn(step);
        self.try_decide(step);
        self.check_stalled(step);
        self.check_closed(step);
        self.retry_peers(step);
        self.ask_for_catch_up(step);
        self.clean_self_if_idle(step);
        self.recover_if_abandoned(step);
    }

    /// Whether the disk has been at one job for so long that it is as good as dead.
    pub(crate) fn is_disk_stuck(&self, now: Instant) -> bool {
        let since = self.durable.busy_since();
        since.is_some_and(|since| since + self.config.step_timeout <= now)
    }

    /// Whether the disk has been at one job for so long that somebody else had better become primary.
    pub(crate) fn is_disk_slow(&self, now: Instant) -> bool {
        let since = self.durable.busy_since();
        since.is_some_and(|since| self.slow_job == Some(since) || since + self.disk_patience <= now)
    }

    /// Whether nothing goes on until this server's promise is on its disk.
    fn waits_for_own_promise(&self) -> bool {
        let tenure = self.tenure.as_ref();
        tenure.is_some_and(|tenure| matches!(tenure.phase, Phase::Asking { own: None, .. }))
    }

    fn gives_up_on_disk_at(&self) -> Option<Instant> {
        let needed = self.tenure.is_some() || !self.waiting.is_empty();
        let patience = match self.waits_for_own_promise() {
            true => self.disk_patience,
            false => self.config.step_timeout,
        };
        let at = self.durable.busy_since()? + patience;
        (needed && at > self.last_step).then_some(at)
    }

    /// Nothing that needs this server's disk would end: the others have to do it. If their disks are no
    /// faster, this one gets twice the time when its turn comes again.
    fn leave_if_disk_is_stuck(&mut self, step: &mut Step<'_>) {
        let needed = self.tenure.is_some() || !self.waiting.is_empty();
        let slow = self.waits_for_own_promise() && self.is_disk_slow(step.now);
        if !needed || !slow && !self.is_disk_stuck(step.now) {
            return;
        }
        if slow {
            self.slow_job = self.durable.busy_since();
            self.disk_patience = self
                .config
                .step_timeout
                .min(self.disk_patience + self.disk_patience);
        }
        self.step_down(step, true);
        self.bring_up = false;
        while let Some(queued) = self.waiting.pop() {
            step.refuse(queued.request, faults::elsewhere());
        }
    }

    fn expire_requests(&mut self, step: &mut Step<'_>) {
        let quorum = self.quorum();
        let tenure = self.tenure.as_ref();
        let full = tenure.is_some_and(|tenure| tenure.lacks_room(quorum));
        while let Some(queued) = self.waiting.pop_expired(step.now) {
            let fault = match full && queued.is_change() {
                true => faults::no_space(),
                false => self.waited_in_vain(step),
            };
            step.refuse(queued.request, fault);
        }
        let now = step.now;
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let fault = match full {
            true => faults::no_space,
            false => faults::no_quorum,
        };
        let late = tenure
            .changes
            .iter_mut()
            .filter(|change| change.deadline <= now);
        let mut requests: Vec<_> = late.filter_map(|change| change.request.take()).collect();
        let held = tenure.held.extract_if(.., |held| held.deadline <= now);
        requests.extend(held.map(|held| held.request));
        requests.extend(tenure.syncs.take_expired(now));
        for request in requests {
            step.refuse(request, fault());
        }
    }

    /// Writes go on without a backup that keeps quiet.
    fn drop_silent_peers(&mut self, step: &mut Step<'_>) {
        let timeout = self.config.backup_timeout;
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        let silent = |peer: &Peer| {
            peer.owing_since
                .is_some_and(|since| since + timeout <= step.now)
                && !peer.is_behind()
        };
        let indexes: Vec<_> = (0..tenure.peers.len())
            .filter(|index| tenure.peers.get(*index).is_some_and(silent))
            .collect();
        for index in indexes {
            self.leave_behind(step, index);
        }
    }

    fn check_stalled(&mut self, step: &mut Step<'_>) {
        let now = step.now;
        let config = &self.config;
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        let mend = tenure.mending.as_ref();
        if mend.is_some_and(|mend| mend.asked_at + config.backup_timeout <= now) {
            self.mend_from_next(step);
            return;
        }
        if let Phase::Fetching(fetching) = &tenure.phase
            && fetching.progress_at + config.step_timeout <= now
        {
            self.fetch_from_next_source(step);
            return;
        }
        if self.abandons_at().is_some_and(|at| at <= now) {
            self.bring_up = false;
            self.step_down(step, true);
        }
    }

    /// Starts over with those whose time has come.
    pub(crate) fn retry_peers(&mut self, step: &mut Step<'_>) {
        let position = self
            .copy
            .is_trusted(&self.membership)
            .then(|| self.copy.position.into());
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let reading = match tenure.phase {
            Phase::Asking { reading, .. } | Phase::BringingUp { reading } => reading,
            Phase::Fetching(_) => false,
            Phase::Serving => !tenure.writable,
            Phase::Closing { .. } => return,
        };
        let activate = peer::Activate {
            newborn: false,
            reading,
            position,
        };
        for index in 0..tenure.peers.len() {
            let peer = tenure.peers.get(index);
            let due = peer.is_some_and(|peer| match peer.state {
                PeerState::Behind { retry_at } => retry_at <= step.now,
                _ => false,
            });
            let forgotten = self.membership.policy.write == WritePolicy::Async
                && peer.is_some_and(|peer| peer.attempt > 0)
                && self.config.has(Mutant::AsyncForgetsLagging);
            if due && !forgotten {
                tenure.attempt(step.now, index, activate, &self.config, step.effects);
            }
        }
    }
}
