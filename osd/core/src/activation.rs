//! From "the lease is held" to "a quorum has the newest state".
//!
//! Every replica is asked where it is. With answers of so many trusted replicas that every majority has
//! one of them, the newest history among them holds every acknowledged change. This copy is brought to its end, then enough others are, and only then anything is served.

use types::{Instant, OsdId, WritePolicy};

use crate::copy::Answer;
use crate::durable::{Need, Who};
use crate::event::Effect;
use crate::fetch::{Fetching, Source};
use crate::marks::Marks;
use crate::mutant::Mutant;
use crate::peer_state::{Peer, PeerState};
use crate::position::{NEWBORN_EPOCH_MAX, Position};
use crate::replica::{ObjectReplica, Step};
use crate::store::StoreError;
use crate::tenure::{Phase, Tenure};
use proto::peer;

impl ObjectReplica {
    pub(crate) fn begin_tenure(&mut self, step: &mut Step<'_>, tenure: Tenure, newborn: bool) {
        let promise = tenure.promise;
        self.promise(step, promise);
        self.following.leave();
        self.tenure = Some(tenure);
        // The shell has forgotten by whom it was told.
        self.behind_reported.clear();
        if newborn {
            self.begin_newborn(step);
            return;
        }
        // What only reads needs no promise on disk: reading changes nothing that could get lost.
        let reads = self.waiting.front().is_some_and(|front| !front.is_change());
        self.ask(step, reads && !self.bring_up);
    }

    /// The object is new: changes travel right behind the announcement.
    fn begin_newborn(&mut self, step: &mut Step<'_>) {
        if self
            .copy
            .create(true, &self.membership, &mut *step.store)
            .is_err()
        {
            // Let the long way tell what is wrong with the store.
            self.leasing.raise_floor(NEWBORN_EPOCH_MAX);
            self.step_down(step, true);
            return;
        }
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        self.copy.relabel(tenure.position(0));
        tenure.newborn = true;
        tenure.writable = true;
        tenure.phase = Phase::BringingUp { reading: false };
        let activate = peer::Activate {
            newborn: true,
            ..peer::Activate::default()
        };
        for index in 0..tenure.peers.len() {
            tenure.attempt(step.now, index, activate, &self.config, step.effects);
        }
        self.check_quorum(step);
    }

    /// Asks everybody, this server included, where they are.
    pub(crate) fn ask(&mut self, step: &mut Step<'_>, reading: bool) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        tenure.writable = false;
        tenure.syncs.abandon_round();
        tenure.phase = Phase::Asking {
            reading,
            grace_until: step.now + self.config.trust_grace,
            heard_until: step.now + self.config.backup_timeout,
            own: None,
        };
        let activate = peer::Activate {
            newborn: false,
            reading,
            position: self.copy.known_position(&self.membership).map(Into::into),
        };
        for index in 0..tenure.peers.len() {
            tenure.attempt(step.now, index, activate, &self.config, step.effects);
        }
        if reading {
            self.answer_myself(step);
            return;
        }
        match self.copy.create(false, &self.membership, &mut *step.store) {
            Ok(()) => {}
            Err(StoreError::NoSpace { .. }) => {
                self.note_full();
                return;
            }
            Err(_) => {
                self.fail(step);
                return;
            }
        }
        if self.is_writable() {
            self.answer_myself(step);
        } else {
            self.durable
                .want(Need::Promise(self.copy.promised), Who::Own);
        }
    }

    /// This copy's own answer counts once its promise is as durable as that of the others must be.
    pub(crate) fn answer_myself(&mut self, step: &mut Step<'_>) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if let Phase::Asking { own, .. } = &mut tenure.phase
            && own.is_none()
        {
            *own = Some(self.copy.answer(&self.membership, None));
            self.try_decide(step);
        }
    }

    /// A peer answered Activate.
    pub(crate) fn activated(&mut self, step: &mut Step<'_>, index: usize, answer: Answer) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let newborn_position = tenure.position(0);
        let Some(peer) = tenure.peers.get_mut(index) else {
            return;
        };
        let PeerState::Asked { newborn } = peer.state else {
            return;
        };
        let retry_at = step.now + self.config.catch_up_retry;
        if newborn {
            // Only who knows that there was nothing can confirm it.
            match answer.is_trusted() && answer.position == newborn_position {
                true => peer.state = PeerState::Joined,
                false => peer.leave_behind(retry_at),
            }
            self.check_quorum(step);
            return;
        }
        match tenure.phase {
            Phase::Asking { .. } => {
                peer.state = PeerState::Answered(answer);
                self.try_decide(step);
            }
            Phase::Fetching(_) => peer.state = PeerState::Answered(answer),
            Phase::BringingUp { .. } if tenure.newborn && !answer.is_trusted() => {
                peer.leave_behind(retry_at);
            }
            Phase::BringingUp { .. } | Phase::Serving => self.place(step, index, answer),
            Phase::Closing { .. } => peer.leave_behind(retry_at),
        }
    }

    /// Decides which history is the object's, if enough is known.
    pub(crate) fn try_decide(&mut self, step: &mut Step<'_>) {
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        if must_write(tenure) {
            // Somebody has to be brought up, which changes its bytes: no use in waiting first.
            self.ask(step, false);
            return;
        }
        if self.waits_for_all(tenure, step.now) {
            return;
        }
        let Some((newest, sources)) = decide(tenure, step.now, &self.config) else {
            return;
        };
        let Phase::Asking {
            reading,
            own: Some(own),
            ..
        } = &tenure.phase
        else {
            return;
        };
        let here = own.is_trusted() && own.position == newest;
        if *reading && !(here && all_equal(tenure, newest)) {
            self.ask(step, false);
            return;
        }
        let reading = *reading;
        // A copy that crashed may keep its bytes if nobody has better ones.
        let best = here || !own.is_trusted() && !own.incomplete && own.position == newest;
        if here || best && sources.iter().all(|source| !source.trusted) {
            self.settle(step, newest, None, reading);
        } else {
            self.start_fetching(step, newest, sources);
        }
    }

    /// With `async`, what was acknowledged may be at the primary before alone, which lives if it only handed
    /// over or the replica set changed. Whoever is connected is therefore heard, within a limit.
    fn waits_for_all(&self, tenure: &Tenure, now: Instant) -> bool {
        let Phase::Asking { heard_until, .. } = tenure.phase else {
            return false;
        };
        let mut peers = tenure.peers.iter();
        self.writes(WritePolicy::Async)
            && !self.config.has(Mutant::AsyncHasty)
            && now < heard_until
            && peers.any(|peer| peer.connected && !matches!(peer.state, PeerState::Answered(_)))
    }

    /// This copy is at the end of the newest history: from here on it is this epoch's.
    pub(crate) fn settle(
        &mut self,
        step: &mut Step<'_>,
        newest: Position,
        marks: Option<Marks>,
        reading: bool,
    ) {
        let trusted = self.copy.is_trusted(&self.membership);
        if !trusted && self.copy.fall_back(&mut *step.store).is_err() {
            self.fail(step);
            return;
        }
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        // A copy that was being brought up has heard of changes beyond what it is taken for.
        self.copy.marks = marks.unwrap_or_else(|| self.copy.vouched_marks(trusted));
        tenure.base = newest;
        tenure.base_length_bytes = self.copy.length_bytes;
        tenure.base_marks = self.copy.marks.clone();
        if self.copy.position != newest || !trusted {
            self.copy.relabel(newest);
        }
        self.copy.relabel(tenure.position(newest.seq));
        tenure.phase = Phase::BringingUp { reading };
        let served_early = self.config.has(Mutant::ServesBeforeQuorum);
        if served_early {
            tenure.writable = !reading;
            tenure.phase = Phase::Serving;
        }
        for index in 0..tenure.peers.len() {
            self.place_answered(step, index);
        }
        self.check_quorum(step);
    }

    fn place_answered(&mut self, step: &mut Step<'_>, index: usize) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let Some(peer) = tenure.peers.get_mut(index) else {
            return;
        };
        if matches!(peer.state, PeerState::Answered(_)) {
            let retry_at = step.now;
            let behind = PeerState::Behind { retry_at };
            if let PeerState::Answered(answer) = std::mem::replace(&mut peer.state, behind) {
                self.place(step, index, answer);
            }
        }
    }

    /// Serves if a quorum has everything.
    pub(crate) fn check_quorum(&mut self, step: &mut Step<'_>) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if let Phase::BringingUp { reading } = tenure.phase
            && tenure.has_majority(Peer::is_joined)
        {
            tenure.writable = !reading;
            // Confirmed: from now on it is an epoch like any other.
            tenure.newborn = false;
            tenure.phase = Phase::Serving;
            self.recovered(step);
        }
        self.commit(step);
        self.sync_peers(step);
    }

    /// A new object's epoch is not confirmed in time: take the long way, which works with crashed and
    /// with absent replicas, too.
    pub(crate) fn check_newborn(&mut self, step: &mut Step<'_>) {
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        let waiting = tenure.newborn && matches!(tenure.phase, Phase::BringingUp { .. });
        let hopeless = !tenure.peers.iter().any(|peer| peer.is_coming());
        let late = tenure.began_at + self.config.newborn_patience <= step.now;
        if waiting && (late || hopeless) {
            self.outdated(step, NEWBORN_EPOCH_MAX);
        }
    }

    /// Reports who is behind, if that changed.
    pub(crate) fn report_behind(&mut self, step: &mut Step<'_>) {
        if let Some(tenure) = self.tenure.as_ref().filter(|tenure| tenure.is_serving()) {
            let behind = tenure.peers.iter().filter(|peer| !peer.is_joined());
            let behind: Vec<_> = behind.map(|peer| peer.id).collect();
            self.report(step, behind);
        }
    }

    /// Reports who lacks something at the end of a tenure.
    pub(crate) fn report_left_behind(&mut self, step: &mut Step<'_>, tenure: &Tenure) {
        if tenure.writable {
            let seq = self.copy.position.seq;
            let peers = tenure.peers.iter();
            let behind = peers.filter(|peer| !peer.is_joined() || peer.applied < seq);
            let behind: Vec<_> = behind.map(|peer| peer.id).collect();
            self.report(step, behind);
        }
    }

    fn report(&mut self, step: &mut Step<'_>, behind: Vec<OsdId>) {
        if behind != self.behind_reported {
            step.effects.push(Effect::Behind {
                replicas: behind.clone(),
            });
            self.behind_reported = behind;
        }
    }
}

/// Whether this is an activation for reading, and somebody can't be believed as it is.
fn must_write(tenure: &Tenure) -> bool {
    let Phase::Asking {
        reading: true, own, ..
    } = &tenure.phase
    else {
        return false;
    };
    let peers = tenure.peers.iter().filter_map(|peer| match &peer.state {
        PeerState::Answered(answer) => Some(answer),
        _ => None,
    });
    peers.chain(own).any(|answer| !answer.is_trusted())
}

/// Whether all that answered are where the newest history ends.
fn all_equal(tenure: &Tenure, newest: Position) -> bool {
    tenure.peers.iter().all(|peer| match &peer.state {
        PeerState::Answered(answer) => answer.is_trusted() && answer.position == newest,
        _ => true,
    })
}

/// The newest history, and the replicas at its end, trusted ones first.
fn decide(
    tenure: &Tenure,
    now: Instant,
    config: &crate::Config,
) -> Option<(Position, Vec<Source>)> {
    let Phase::Asking {
        grace_until,
        own: Some(own),
        ..
    } = &tenure.phase
    else {
        return None;
    };
    let peers = tenure.peers.iter().filter_map(|peer| match &peer.state {
        PeerState::Answered(answer) => Some((peer.id, answer)),
        _ => None,
    });
    let answers: Vec<(OsdId, &Answer)> = peers.chain([(tenure.promise.holder, own)]).collect();
    let voters = |trusted: bool| {
        let answers = answers.iter();
        answers.filter(move |(_, answer)| !answer.incomplete && (answer.is_trusted() || !trusted))
    };
    // What any majority acknowledged, one of these voters has.
    let covers = |trusted| {
        let voters: Vec<OsdId> = voters(trusted).map(|(id, _)| *id).collect();
        tenure.replicas.covers(|osd| voters.contains(&osd))
    };
    let only_trusted = covers(true);
    if !only_trusted {
        let incomplete = answers.iter().filter(|(_, answer)| answer.incomplete);
        let everybody = voters(false).count() + incomplete.count() == tenure.members();
        let waited = *grace_until <= now || config.has(Mutant::NoTrustGrace);
        if !covers(false) || !(everybody || waited) {
            return None;
        }
    }
    let newest = voters(only_trusted)
        .map(|(_, answer)| answer.position)
        .max()?;
    let ends_there = |(_, answer): &&(OsdId, &Answer)| answer.position == newest;
    let mut sources: Vec<_> = voters(only_trusted)
        .filter(ends_there)
        .filter(|(id, _)| *id != tenure.promise.holder)
        .map(|(id, answer)| Source {
            id: *id,
            trusted: answer.is_trusted(),
            length_bytes: answer.length_bytes,
            marks: Marks::from(answer.marks.clone()),
            changed: answer.changed.clone(),
        })
        .collect();
    sources.sort_by_key(|source| !source.trusted);
    Some((newest, sources))
}

/// What a tenure needs to begin fetching.
impl ObjectReplica {
    fn start_fetching(&mut self, step: &mut Step<'_>, newest: Position, sources: Vec<Source>) {
        let fetching = Fetching::new(step.now, newest, sources);
        if let Some(tenure) = self.tenure.as_mut() {
            tenure.phase = Phase::Fetching(fetching);
        }
        self.fetch_from_next_source(step);
    }
}
