//! Counting the answers to a proposal, and what follows from them.

use types::{Duration, Instant, MemberId};

use crate::cell::{Cell, Context};
use crate::config::Config;
use crate::members::place;
use crate::message::{Body, Event, Holder, Message};
use crate::mutant::Mutant;
use crate::proposer::Phase;

impl Cell {
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

    fn promised(&mut self, context: &mut Context<'_>, at: usize, round: u64, floor_epoch: u64) {
        let sets = self.sets;
        let Phase::Preparing(question) = &mut self.proposer.phase else {
            return;
        };
        if question.round != round && !context.config.has(Mutant::OldAnswersCount) {
            return;
        }
        question.yes.insert(at);
        self.proposer.floor = self.proposer.floor.max(floor_epoch);
        if !sets.is_quorum(question.yes, context.config) {
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
        let sets = self.sets;
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
        if sets.is_quorum(question.yes, config) && now < until {
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

    pub(crate) fn announce(&mut self, context: &mut Context<'_>, epoch: u64, until: Instant) {
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
        let Some(question) = proposer.question() else {
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
        let hopeless = !self.sets.can_do_without(question.no, context.config);
        match self.proposer.phase {
            Phase::Preparing(_) | Phase::Accepting(..) if news => self.finish(context, None),
            // One running lease is enough to stand back: the holder is likely alive.
            Phase::Preparing(_) if holder.is_some() => self.stand_back(context, question.blocker),
            Phase::Preparing(_) | Phase::Accepting(..) if hopeless => {
                self.stand_back(context, question.blocker);
            }
            // A holder that is refused goes on until its lease runs out.
            Phase::Holding { .. } | Phase::Preparing(_) | Phase::Accepting(..) => {
                self.widen(context);
            }
            Phase::Idle | Phase::Waiting { .. } => {}
        }
    }

    /// Ends a lost proposal: for good if somebody else holds the lease, for a random while if not.
    pub(crate) fn stand_back(&mut self, context: &mut Context<'_>, blocker: Option<Holder>) {
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

    pub(crate) fn try_again(&mut self, context: &mut Context<'_>) {
        self.proposer.phase = Phase::Idle;
        match self.acceptor.blocker(context.now, context.me) {
            Some(holder) => self.held_by(context, holder),
            None => self.prepare(context),
        }
    }

    pub(crate) fn held_by(&mut self, context: &mut Context<'_>, holder: Holder) {
        context.counters.held_by_others += 1;
        context.out.events.push(Event::HeldBy {
            cell: self.id,
            member: holder.member,
            remaining: holder.remaining,
        });
    }

    pub(crate) fn no_quorum(&mut self, context: &mut Context<'_>) {
        self.finish(context, None);
        context.counters.no_quorum += 1;
        context.out.events.push(Event::NoQuorum { cell: self.id });
    }
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
