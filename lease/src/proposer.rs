//! One member's own wish for one cell: asking, holding, extending, giving back.
//!
//! A proposal has two phases, as in a round-based register: `Prepare` learns from a majority what
//! is known, `Accept` makes a majority start its timers. The holder counts the lease from the
//! instant it *sent* `Accept`, acceptors from the instant they *received* it, so every acceptor's
//! timer ends after the holder's and no two clocks are compared.
//!
//! Source: Boichat, Dutta, Frølund, Guerraoui, *Deconstructing Paxos*, 2003, for the register;
//! PaxosLease (Trencseni, Gazso, Reinhardt, 2012) for relative timers; Flease (Kolbeck et al., 2011)
//! for the whole.

use types::{Duration, Instant, MemberId};

use crate::cell::{Cell, Context};
use crate::config::Config;
use crate::members::{Members, majority, place};
use crate::message::{Ballot, Body, Event, Holder, Message};
use crate::mutant::Mutant;

/// A question to all members and who has answered it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Question {
    pub(crate) round: u64,
    pub(crate) sent_at: Instant,
    resend_at: Instant,
    yes: Members,
    no: Members,
    /// The last running lease of somebody else that an answer showed.
    blocker: Option<Holder>,
}

/// How far the wish has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Phase {
    /// No wish.
    #[default]
    Idle,
    /// Lost against a higher ballot; tries again at the given time.
    Waiting { until: Instant },
    /// Sent `Prepare`.
    Preparing(Question),
    /// Sent `Accept` with this epoch.
    Accepting(Question, u64),
    /// Holds the lease.
    Holding {
        epoch: u64,
        until: Instant,
        /// When the next extension is due.
        renew_at: Instant,
        renewal: Option<Question>,
    },
}

/// The proposing half of a cell.
#[derive(Debug, Default)]
pub(crate) struct Proposer {
    pub(crate) phase: Phase,
    pub(crate) ballot: Ballot,
    /// Highest counter seen in refusals.
    pub(crate) counter_seen: u64,
    /// Highest epoch seen in promises and refusals.
    floor: u64,
    losses: u32,
    started_at: Instant,
    view_seen: u64,
}

impl Proposer {
    /// When something is due; `None` if there is no wish.
    pub(crate) fn next_wakeup(&self, config: &Config) -> Option<Instant> {
        let deadline = self.started_at + config.acquire_max;
        match &self.phase {
            Phase::Idle => None,
            Phase::Waiting { until } => Some((*until).min(deadline)),
            Phase::Preparing(question) | Phase::Accepting(question, _) => {
                Some(question.resend_at.min(deadline))
            }
            Phase::Holding {
                until,
                renew_at,
                renewal,
                ..
            } => {
                let due = renewal
                    .as_ref()
                    .map_or(*renew_at, |question| question.resend_at);
                Some(due.min(*until))
            }
        }
    }

    /// Whether the shortcut for brand-new cells made the present lease.
    pub(crate) const fn is_newborn(&self) -> bool {
        self.ballot.counter == 0
    }
}

impl Cell {
    /// Starts an acquisition, unless one is pending or the lease is held.
    pub(crate) fn acquire(&mut self, context: &mut Context<'_>, newborn: bool) {
        self.expire(context);
        self.heard_at = context.now;
        match self.proposer.phase {
            Phase::Holding { epoch, until, .. } => self.announce(context, epoch, until),
            Phase::Waiting { .. } | Phase::Preparing(_) | Phase::Accepting(..) => {}
            Phase::Idle => {
                self.proposer.started_at = context.now;
                self.proposer.losses = 0;
                self.proposer.view_seen = self.view;
                if let Some(holder) = self.acceptor.blocker(context.now, context.me) {
                    self.held_by(context, holder);
                } else if newborn && self.may_shortcut(context) {
                    let (counter, member) = (0, context.me);
                    self.proposer.ballot = Ballot { counter, member };
                    self.accept(context, context.incarnation);
                } else if context.config.has(Mutant::RenewalChangesHolder)
                    && self.proposer.ballot.counter > 0
                {
                    self.proposer.ballot = self.next_ballot(context.me);
                    let epoch = self.acceptor.floor_epoch().max(1);
                    self.accept(context, epoch);
                } else {
                    self.prepare(context);
                }
            }
        }
    }

    /// Gives the lease back, or ends the wish for it.
    pub(crate) fn release(&mut self, context: &mut Context<'_>, successor: Option<MemberId>) {
        self.expire(context);
        if matches!(self.proposer.phase, Phase::Holding { .. }) {
            context.counters.released += 1;
        }
        self.finish(context, successor);
    }

    /// Ends whatever is going on; acceptors that agreed to something are told.
    pub(crate) fn finish(&mut self, context: &mut Context<'_>, successor: Option<MemberId>) {
        let phase = std::mem::take(&mut self.proposer.phase);
        if let Phase::Accepting(_, epoch) | Phase::Holding { epoch, .. } = phase {
            self.tell_end(context, epoch, successor);
        }
    }

    /// Takes an answer, its own included.
    pub(crate) fn answered(
        &mut self,
        context: &mut Context<'_>,
        from: MemberId,
        message: &Message,
    ) {
        self.expire(context);
        let Some(at) = self
            .members
            .as_ref()
            .and_then(|members| place(members, from))
        else {
            return;
        };
        if message.ballot != self.proposer.ballot {
            return;
        }
        match message.body {
            Body::Promise { floor_epoch } => self.promised(context, at, message.round, floor_epoch),
            Body::Accepted { epoch } => self.accepted(context, at, message.round, epoch),
            Body::Reject { .. } => self.rejected(context, at, message),
            Body::Prepare | Body::Accept { .. } => {}
        }
    }

    /// Does what is due.
    pub(crate) fn due(&mut self, context: &mut Context<'_>) {
        self.expire(context);
        let now = context.now;
        let gave_up = self.proposer.started_at + context.config.acquire_max <= now;
        match self.proposer.phase {
            Phase::Idle => {}
            Phase::Waiting { .. } | Phase::Preparing(_) | Phase::Accepting(..) if gave_up => {
                self.no_quorum(context);
            }
            Phase::Waiting { until } if until <= now => self.try_again(context),
            // Somebody refused, and those who could still make a majority are silent: they may be
            // dead, but a higher ballot may win those who refused.
            Phase::Preparing(question) | Phase::Accepting(question, _)
                if question.resend_at <= now && question.no.count(context.config) > 0 =>
            {
                self.stand_back(context, question.blocker);
            }
            Phase::Preparing(question) if question.resend_at <= now => {
                if question.sent_at + context.config.phase_max <= now {
                    self.prepare(context);
                } else {
                    self.resend(context, Body::Prepare);
                }
            }
            Phase::Accepting(question, epoch) if question.resend_at <= now => {
                if question.sent_at + context.config.usable() <= now {
                    self.finish(context, None);
                    self.prepare(context);
                } else {
                    self.resend(context, accept_body(context.config, epoch, false));
                }
            }
            Phase::Holding {
                epoch,
                renew_at,
                renewal,
                ..
            } => match renewal {
                Some(question) if question.resend_at <= now => {
                    self.resend(context, accept_body(context.config, epoch, true));
                }
                None if renew_at <= now => self.renew(context, epoch),
                Some(_) | None => {}
            },
            Phase::Waiting { .. } | Phase::Preparing(_) | Phase::Accepting(..) => {}
        }
    }

    /// Notices that the lease has run out. Called before anything else is done with the cell, so
    /// that a host that slept does not act on a lease it lost meanwhile.
    pub(crate) fn expire(&mut self, context: &mut Context<'_>) {
        if let Phase::Holding { epoch, until, .. } = self.proposer.phase
            && until <= context.now
        {
            self.proposer.phase = Phase::Idle;
            self.heard_at = context.now;
            context.counters.lost += 1;
            let cell = self.id;
            context.out.events.push(Event::Lost { cell, epoch });
        }
    }

    fn prepare(&mut self, context: &mut Context<'_>) {
        self.proposer.ballot = self.next_ballot(context.me);
        let question = self.new_question(context);
        self.proposer.phase = Phase::Preparing(question);
        let message = self.message(question.round, Body::Prepare);
        self.ask(context, message);
    }

    fn accept(&mut self, context: &mut Context<'_>, epoch: u64) {
        let question = self.new_question(context);
        self.proposer.phase = Phase::Accepting(question, epoch);
        let body = accept_body(context.config, epoch, is_bold(context.config));
        let message = self.message(question.round, body);
        self.ask(context, message);
    }

    fn renew(&mut self, context: &mut Context<'_>, held: u64) {
        let question = self.new_question(context);
        if let Phase::Holding { renewal, .. } = &mut self.proposer.phase {
            *renewal = Some(question);
        }
        let body = accept_body(context.config, held, true);
        let message = self.message(question.round, body);
        self.ask(context, message);
    }

    fn new_question(&self, context: &mut Context<'_>) -> Question {
        Question {
            round: context.round(),
            sent_at: context.now,
            resend_at: context.now + context.config.retransmit,
            ..Question::default()
        }
    }

    /// Sends the present question again to those who have not answered. It stays the same question,
    /// counted from its first sending.
    fn resend(&mut self, context: &mut Context<'_>, body: Body) {
        let (Phase::Preparing(question)
        | Phase::Accepting(question, _)
        | Phase::Holding {
            renewal: Some(question),
            ..
        }) = &mut self.proposer.phase
        else {
            return;
        };
        question.resend_at = context.now + context.config.retransmit;
        let question = *question;
        let message = self.message(question.round, body);
        for (at, member) in self
            .members
            .iter()
            .flat_map(|members| members.iter().enumerate())
        {
            let answered = question.yes.contains(at) || question.no.contains(at);
            if *member != context.me && !answered {
                context.out.send(*member, message);
            }
        }
    }

    fn promised(&mut self, context: &mut Context<'_>, at: usize, round: u64, floor_epoch: u64) {
        let majority = self.majority(context.config);
        let Phase::Preparing(question) = &mut self.proposer.phase else {
            return;
        };
        if question.round != round && !context.config.has(Mutant::OldAnswersCount) {
            return;
        }
        question.yes.insert(at);
        self.proposer.floor = self.proposer.floor.max(floor_epoch);
        if question.yes.count(context.config) < majority {
            return;
        }
        if question.sent_at + context.config.phase_max <= context.now {
            // An acceptor may have forgotten its promise meanwhile, and another member may have been
            // given the epoch that would come out here.
            context.counters.too_slow += 1;
            self.prepare(context);
            return;
        }
        let known = self.proposer.floor.max(self.acceptor.floor_epoch());
        // 2 at least: 1 can only be the incarnation of a shortcut.
        let epoch = match context.config.has(Mutant::EpochNotRaised) {
            true => known.max(2),
            false => known.saturating_add(1).max(2),
        };
        self.accept(context, epoch);
    }

    fn accepted(&mut self, context: &mut Context<'_>, at: usize, round: u64, epoch: u64) {
        let (config, now) = (context.config, context.now);
        let majority = self.majority(config);
        let (question, agreed) = match &mut self.proposer.phase {
            Phase::Accepting(question, agreed) => (question, *agreed),
            Phase::Holding {
                renewal: Some(question),
                epoch: agreed,
                ..
            } => (question, *agreed),
            Phase::Idle | Phase::Waiting { .. } | Phase::Preparing(_) | Phase::Holding { .. } => {
                return;
            }
        };
        let current = question.round == round || config.has(Mutant::OldAnswersCount);
        if !current || agreed != epoch {
            return;
        }
        question.yes.insert(at);
        let from = match config.has(Mutant::HolderCountsFromAnswer) {
            true => now,
            false => question.sent_at,
        };
        let until = from + self::usable(config);
        // An acceptance that came after our own timer ran out makes no holder: others may have moved
        // on. The timer of the phase will start a new proposal.
        if question.yes.count(config) >= majority && now < until {
            self.hold(context, epoch, until);
        }
    }

    fn hold(&mut self, context: &mut Context<'_>, epoch: u64, until: Instant) {
        let gained = !matches!(self.proposer.phase, Phase::Holding { .. });
        context.counters.gained += u64::from(gained);
        context.counters.shortcuts += u64::from(gained && self.proposer.is_newborn());
        context.counters.renewals += u64::from(!gained);
        let spread = context.jitter(context.config.ttl.scaled(1, 6));
        let started = until - self::usable(context.config);
        let renew_at = started + context.config.renewal_after() + spread;
        self.proposer.phase = Phase::Holding {
            epoch,
            until,
            renew_at: round_up(renew_at, context.config.renewal_slot),
            renewal: None,
        };
        self.announce(context, epoch, until);
    }

    fn announce(&mut self, context: &mut Context<'_>, epoch: u64, until: Instant) {
        context.out.events.push(Event::Held {
            cell: self.id,
            epoch,
            until,
            newborn: self.proposer.is_newborn(),
        });
    }

    fn rejected(&mut self, context: &mut Context<'_>, at: usize, message: &Message) {
        let Body::Reject {
            promised,
            view,
            floor_epoch,
            holder,
        } = message.body
        else {
            return;
        };
        let proposer = &mut self.proposer;
        proposer.counter_seen = proposer.counter_seen.max(promised.counter);
        proposer.floor = proposer.floor.max(floor_epoch);
        let news = view > self.view && view > proposer.view_seen;
        proposer.view_seen = proposer.view_seen.max(view);
        let (Phase::Preparing(question)
        | Phase::Accepting(question, _)
        | Phase::Holding {
            renewal: Some(question),
            ..
        }) = &mut proposer.phase
        else {
            return;
        };
        if question.round != message.round {
            return;
        }
        question.no.insert(at);
        let holder = holder.filter(|holder| holder.member != context.me);
        question.blocker = holder.or(question.blocker);
        let (question, cell) = (*question, self.id);
        if news {
            context.out.events.push(Event::OldView { cell, view });
        }
        let others = self.members.as_ref().map_or(0, |members| members.len());
        let hopeless =
            others - question.no.count(context.config).min(others) < self.majority(context.config);
        match self.proposer.phase {
            Phase::Preparing(_) | Phase::Accepting(..) if news => self.finish(context, None),
            // One running lease is enough to stand back: the holder is likely alive.
            Phase::Preparing(_) if holder.is_some() => self.stand_back(context, question.blocker),
            Phase::Preparing(_) | Phase::Accepting(..) if hopeless => {
                self.stand_back(context, question.blocker);
            }
            // A holder that is refused goes on until its lease runs out.
            Phase::Holding { .. } | Phase::Preparing(_) | Phase::Accepting(..) => {}
            Phase::Idle | Phase::Waiting { .. } => {}
        }
    }

    /// Ends a lost proposal: for good if somebody else holds the lease, for a random while if not.
    fn stand_back(&mut self, context: &mut Context<'_>, blocker: Option<Holder>) {
        self.finish(context, None);
        if let Some(holder) = blocker {
            self.held_by(context, holder);
            return;
        }
        context.counters.preempted += 1;
        let config = context.config;
        let doubled = 1_u32 << self.proposer.losses.min(16);
        let longest = config
            .backoff_min
            .scaled(doubled, 1)
            .min(config.backoff_max);
        self.proposer.losses += 1;
        let delay = longest.scaled(1, 2) + context.jitter(longest);
        let until = context.now + delay;
        self.proposer.phase = Phase::Waiting { until };
    }

    fn try_again(&mut self, context: &mut Context<'_>) {
        self.proposer.phase = Phase::Idle;
        match self.acceptor.blocker(context.now, context.me) {
            Some(holder) => self.held_by(context, holder),
            None => self.prepare(context),
        }
    }

    fn held_by(&mut self, context: &mut Context<'_>, holder: Holder) {
        context.counters.held_by_others += 1;
        context.out.events.push(Event::HeldBy {
            cell: self.id,
            member: holder.member,
            remaining: holder.remaining,
        });
    }

    fn no_quorum(&mut self, context: &mut Context<'_>) {
        self.finish(context, None);
        context.counters.no_quorum += 1;
        context.out.events.push(Event::NoQuorum { cell: self.id });
    }

    fn may_shortcut(&self, context: &Context<'_>) -> bool {
        if context.config.has(Mutant::ShortcutForAnybody) {
            return true;
        }
        let first = self.members.as_ref().and_then(|members| members.first());
        first == Some(&context.me) && self.acceptor.is_newborn_for(context.me, false)
    }

    fn majority(&self, config: &Config) -> usize {
        majority(
            self.members.as_ref().map_or(0, |members| members.len()),
            config,
        )
    }
}

/// The request for a lease.
const fn accept_body(config: &Config, epoch: u64, renewal: bool) -> Body {
    Body::Accept {
        epoch,
        ttl: config.ttl,
        renewal,
        successor: None,
    }
}

/// Whether first requests pretend to be extensions; only a mutant's do.
fn is_bold(config: &Config) -> bool {
    config.has(Mutant::RenewalChangesHolder)
}

/// How long the holder uses a lease, by its own clock.
fn usable(config: &Config) -> Duration {
    if config.has(Mutant::HolderTimerLonger) {
        return config.ttl + (config.ttl.saturating_sub(config.usable()));
    }
    config.usable()
}

/// The first multiple of `slot` at or after `at`.
fn round_up(at: Instant, slot: Duration) -> Instant {
    let slot = slot.as_nanos().max(1);
    Instant::from_nanos(at.as_nanos().div_ceil(slot).saturating_mul(slot))
}
