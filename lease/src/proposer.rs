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

use types::{Instant, MemberId};

use crate::cell::{Cell, Context};
use crate::config::Config;
use crate::members::Members;
use crate::message::{Ballot, Body, Event, Holder};
use crate::mutant::Mutant;

/// A question to other members and who has answered it.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Question {
    pub(crate) round: u64,
    pub(crate) sent_at: Instant,
    pub(crate) resend_at: Instant,
    /// How often it was sent again.
    resends: u8,
    /// To whom it was sent.
    pub(crate) asked: Members,
    pub(crate) yes: Members,
    pub(crate) no: Members,
    /// The last running lease of somebody else that an answer showed.
    pub(crate) blocker: Option<Holder>,
}

impl Question {
    fn has_answer_of(&self, at: usize) -> bool {
        self.yes.contains(at) || self.no.contains(at)
    }
}

/// How far the wish has come.
#[derive(Clone, Copy, Debug, Default, Hash)]
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
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Proposer {
    pub(crate) phase: Phase,
    pub(crate) ballot: Ballot,
    /// Highest counter seen in refusals.
    pub(crate) counter_seen: u64,
    /// Highest epoch seen in promises and refusals.
    pub(crate) floor: u64,
    pub(crate) losses: u32,
    pub(crate) started_at: Instant,
    pub(crate) view_seen: u64,
    /// To whom requests for the present lease were sent: who must be told of its end.
    pub(crate) told: Members,
}

impl Proposer {
    /// The question that waits for answers.
    pub(crate) const fn question(&mut self) -> Option<&mut Question> {
        match &mut self.phase {
            Phase::Preparing(question)
            | Phase::Accepting(question, _)
            | Phase::Holding {
                renewal: Some(question),
                ..
            } => Some(question),
            Phase::Idle | Phase::Waiting { .. } | Phase::Holding { renewal: None, .. } => None,
        }
    }

    /// How many members answered the question that waits.
    pub(crate) fn answered(&self) -> usize {
        match &self.phase {
            Phase::Preparing(question) | Phase::Accepting(question, _) => {
                question.yes.joined(question.no).len()
            }
            Phase::Idle | Phase::Waiting { .. } | Phase::Holding { .. } => 0,
        }
    }

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
            context.counters.handed_over += u64::from(successor.is_some());
        }
        self.finish(context, successor);
    }

    /// Ends whatever is going on; acceptors that agreed to something are told.
    pub(crate) fn finish(&mut self, context: &mut Context<'_>, successor: Option<MemberId>) {
        let mut phase = std::mem::take(&mut self.proposer.phase);
        if let Phase::Holding {
            until, renew_at, ..
        } = &mut phase
            && context.config.has(Mutant::UsesAfterRelease)
        {
            *renew_at = *until;
            self.proposer.phase = phase;
        }
        if let Phase::Accepting(_, epoch) | Phase::Holding { epoch, .. } = phase {
            self.tell_end(context, epoch, successor);
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

    pub(crate) fn prepare(&mut self, context: &mut Context<'_>) {
        self.proposer.ballot = self.next_ballot(context.me);
        let question = self.new_question(context);
        self.proposer.phase = Phase::Preparing(question);
        let message = self.message(question.round, Body::Prepare);
        let chosen = self.bare_quorum(context);
        self.ask(context, message, chosen);
    }

    pub(crate) fn accept(&mut self, context: &mut Context<'_>, epoch: u64) {
        // Those who promised will agree; without promises it is the shortcut, which asks anybody.
        let willing = match &self.proposer.phase {
            Phase::Preparing(question) => question.yes,
            _ => self.bare_quorum(context),
        };
        let question = self.new_question(context);
        self.proposer.told = Members::default();
        self.proposer.phase = Phase::Accepting(question, epoch);
        let body = accept_body(context.config, epoch, is_bold(context.config));
        let message = self.message(question.round, body);
        self.ask(context, message, willing);
    }

    fn renew(&mut self, context: &mut Context<'_>, held: u64) {
        let question = self.new_question(context);
        if let Phase::Holding { renewal, .. } = &mut self.proposer.phase {
            *renewal = Some(question);
        }
        let body = accept_body(context.config, held, true);
        let message = self.message(question.round, body);
        let chosen = self.bare_quorum(context);
        self.ask(context, message, chosen);
    }

    fn new_question(&self, context: &mut Context<'_>) -> Question {
        Question {
            round: context.round(),
            sent_at: context.now,
            resend_at: context.now + context.config.retransmit,
            ..Question::default()
        }
    }

    /// Sends the present question again to all who have not answered, whether they were asked or
    /// not. It stays the same question, counted from its first sending.
    fn resend(&mut self, context: &mut Context<'_>, body: Body) {
        let Some(question) = self.proposer.question() else {
            return;
        };
        question.resends = question.resends.saturating_add(1);
        // Twice as long each time: answers that are late because everybody is busy would be later still
        // if all that are busy asked again and again.
        let pause = 1_u32 << question.resends.min(RESEND_DOUBLINGS_MAX);
        question.resend_at = context.now + context.config.retransmit.scaled(pause, 1);
        let question = *question;
        let mut silent = Members::default();
        for (at, member) in self.members.iter().flat_map(|m| m.iter().enumerate()) {
            if question.has_answer_of(at) || *member == context.me {
                continue;
            }
            silent.insert(at);
            if question.asked.contains(at) && !context.silent.contains(member) {
                context.silent.push(*member);
            }
        }
        let message = self.message(question.round, body);
        self.send_to(context, &message, silent);
    }

    /// Somebody refused: asks those who were not asked yet.
    pub(crate) fn widen(&mut self, context: &mut Context<'_>) {
        let (round, asked, body) = match &self.proposer.phase {
            Phase::Preparing(question) => (question.round, question.asked, Body::Prepare),
            Phase::Accepting(question, epoch) => {
                let body = accept_body(context.config, *epoch, is_bold(context.config));
                (question.round, question.asked, body)
            }
            Phase::Holding {
                renewal: Some(question),
                epoch,
                ..
            } => {
                let body = accept_body(context.config, *epoch, true);
                (question.round, question.asked, body)
            }
            Phase::Idle | Phase::Waiting { .. } | Phase::Holding { renewal: None, .. } => return,
        };
        let members = self.members.as_ref().map_or(0, |members| members.len());
        let mut rest = Members::default();
        for at in (0..members).filter(|at| !asked.contains(*at)) {
            rest.insert(at);
        }
        let message = self.message(round, body);
        self.send_to(context, &message, rest);
    }

    fn may_shortcut(&self, context: &Context<'_>) -> bool {
        if context.config.has(Mutant::ShortcutForAnybody) {
            return true;
        }
        let first = self.members.as_ref().and_then(|members| members.first());
        first == Some(&context.me) && self.acceptor.is_newborn_for(context.me, false)
    }
}

/// How often the pause between two sendings doubles. 2: to 400 ms with the default of 100 ms, so that a
/// question about an extension is still sent four times before the lease ends.
const RESEND_DOUBLINGS_MAX: u8 = 2;

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
