//! One cell as one member sees it: its vote, its own proposal, and when to look again.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use types::{CellId, Duration, Instant, MemberId};

use crate::acceptor::{Acceptor, Grant};
use crate::config::Config;
use crate::members::{Members, Sets, place};
use crate::message::{Ballot, Body, Event, Membership, Message, Out};
use crate::mutant::Mutant;
use crate::proposer::{Phase, Proposer};
use crate::stats::Counters;

/// What a cell borrows from its host for one step.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) me: MemberId,
    pub(crate) incarnation: u64,
    pub(crate) config: &'a Config,
    pub(crate) rng: &'a mut Xoshiro256PlusPlus,
    pub(crate) last_round: &'a mut u64,
    pub(crate) counters: &'a mut Counters,
    pub(crate) out: &'a mut Out,
    /// Members that left a question unanswered and have not been heard since.
    pub(crate) silent: &'a mut Vec<MemberId>,
}

impl Context<'_> {
    /// A number no question of this host ever had.
    pub(crate) fn round(&mut self) -> u64 {
        *self.last_round += 1;
        *self.last_round
    }

    /// A random length of time in `[0, below)`.
    pub(crate) fn jitter(&mut self, below: Duration) -> Duration {
        Duration::from_nanos(self.rng.random_range(0..below.as_nanos().max(1)))
    }
}

/// One lease.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Cell {
    pub(crate) id: CellId,
    pub(crate) view: u64,
    /// Known once the layer above acquires the cell or announces a view.
    pub(crate) members: Option<Arc<[MemberId]>>,
    /// Which of them decide.
    pub(crate) sets: Sets,
    pub(crate) acceptor: Acceptor,
    pub(crate) proposer: Proposer,
    /// When the vote last mattered; the cell may be forgotten one quarantine later.
    pub(crate) heard_at: Instant,
    /// The entry of this cell in the host's timers.
    pub(crate) timer: Option<Instant>,
}

impl Cell {
    pub(crate) fn new(id: CellId, view: u64, now: Instant) -> Self {
        Self {
            id,
            view,
            members: None,
            sets: Sets::default(),
            acceptor: Acceptor::default(),
            proposer: Proposer::default(),
            heard_at: now,
            timer: None,
        }
    }

    /// Whether nothing would be lost by forgetting the cell: every lease it could have voted for is
    /// over, and what fences delayed requests is durable above.
    pub(crate) fn is_forgettable(&self, now: Instant, config: &Config) -> bool {
        matches!(self.proposer.phase, Phase::Idle) && self.heard_at + config.quarantine() <= now
    }

    /// When the cell wants to be looked at.
    pub(crate) fn next_wakeup(&self, config: &Config) -> Instant {
        let idle = self.heard_at + config.quarantine();
        self.proposer.next_wakeup(config).unwrap_or(idle)
    }

    /// Takes a question or an end from another member.
    pub(crate) fn question(
        &mut self,
        context: &mut Context<'_>,
        from: MemberId,
        message: &Message,
    ) {
        self.expire(context);
        if let Body::Accept { ttl, .. } = message.body
            && ttl == Duration::ZERO
        {
            self.end(context, message);
            return;
        }
        let ignored = context.config.has(Mutant::ViewIgnored);
        if message.view < self.view && !ignored {
            context.counters.old_views += 1;
            let body = self.acceptor.reject(self.view, None);
            context.out.send(from, self.answer(message, body));
            return;
        }
        if message.view > self.view && !ignored {
            self.adopt_view(context, message.view, None);
        }
        if let Some(body) = self.vote(context, message) {
            context.out.send(from, self.answer(message, body));
        }
    }

    /// Votes on a question, whoever asks.
    pub(crate) fn vote(&mut self, context: &mut Context<'_>, message: &Message) -> Option<Body> {
        self.heard_at = context.now;
        let (ballot, round) = (message.ballot, message.round);
        let answer = match message.body {
            Body::Prepare => {
                let (asked, config) = ((ballot, round), context.config);
                Some(self.acceptor.prepare(context.now, asked, self.view, config))
            }
            Body::Accept {
                epoch,
                ttl,
                renewal,
                ..
            } => {
                let first = self.members.as_ref().and_then(|members| members.first());
                let grant = Grant {
                    ballot,
                    round,
                    epoch,
                    ttl,
                    renewal,
                    first: first.copied(),
                };
                self.acceptor
                    .grant(context.now, grant, self.view, context.config)
            }
            Body::Promise { .. } | Body::Accepted { .. } | Body::Reject { .. } => None,
        };
        if let Some(Body::Reject {
            promised, holder, ..
        }) = answer
        {
            let counter = match holder {
                Some(_) => &mut context.counters.refused_held,
                None if promised > ballot => &mut context.counters.refused_ballot,
                None => &mut context.counters.refused_epoch,
            };
            *counter += 1;
        }
        answer
    }

    /// Takes the end of somebody's lease.
    fn end(&mut self, context: &mut Context<'_>, message: &Message) {
        let Body::Accept {
            epoch, successor, ..
        } = message.body
        else {
            return;
        };
        self.heard_at = context.now;
        let grace = context.now + context.config.successor_grace;
        let preferred = successor.map(|member| (member, grace));
        let ended = (message.ballot, message.round, epoch);
        self.acceptor.end(context.now, ended, preferred);
        if successor == Some(context.me) && message.ballot.member != context.me {
            context.out.events.push(Event::Offered {
                cell: self.id,
                from: message.ballot.member,
            });
        }
    }

    /// Moves to a newer view: votes stay, since leases of the old view still run; proposals end,
    /// since they counted the old members.
    pub(crate) fn adopt_view(
        &mut self,
        context: &mut Context<'_>,
        view: u64,
        membership: Option<&Membership>,
    ) {
        match self.proposer.phase {
            Phase::Idle => {}
            Phase::Holding { epoch, .. } => {
                self.finish(context, None);
                context.counters.lost += 1;
                let cell = self.id;
                context.out.events.push(Event::Lost { cell, epoch });
            }
            Phase::Waiting { .. } | Phase::Preparing(_) | Phase::Accepting(..) => {
                self.finish(context, None);
                let cell = self.id;
                context.out.events.push(Event::OldView { cell, view });
            }
        }
        self.members = None;
        self.sets = Sets::default();
        if let Some(membership) = membership {
            self.know(membership);
        }
        self.view = view;
        self.heard_at = context.now;
    }

    /// Learns who the members are.
    pub(crate) fn know(&mut self, membership: &Membership) {
        self.members = Some(membership.members.clone());
        self.sets = membership.sets;
    }

    /// Asks some others and this member itself. The rest are asked if one of those refuses or is
    /// silent: see [`Cell::widen`] and [`Cell::resend`].
    pub(crate) fn ask(&mut self, context: &mut Context<'_>, message: Message, chosen: Members) {
        self.send_to(context, &message, chosen);
        if let Some(body) = self.vote(context, &message) {
            let answer = self.answer(&message, body);
            let me = context.me;
            self.answered(context, me, &answer);
        }
    }

    /// As many others as make a quorum with this member: those after it in the list, so that the
    /// work is spread, and preferably those who answered last time.
    pub(crate) fn bare_quorum(&self, context: &Context<'_>) -> Members {
        let mut chosen = Members::default();
        let Some(members) = &self.members else {
            return chosen;
        };
        let me = place(members, context.me).unwrap_or(0);
        chosen.insert(me);
        for silent in [false, true] {
            let others = (1..members.len()).map(|step| (me + step) % members.len());
            for at in others {
                let member = members.get(at).copied().unwrap_or_default();
                if self.sets.lacks(chosen, at, context.config)
                    && context.silent.contains(&member) == silent
                {
                    chosen.insert(at);
                }
            }
        }
        chosen
    }

    /// Sends a question to some of the other members and notes whom.
    pub(crate) fn send_to(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
        places: Members,
    ) {
        for (at, member) in self.members.iter().flat_map(|m| m.iter().enumerate()) {
            if places.contains(at) && *member != context.me {
                context.out.send(*member, *message);
            }
        }
        if matches!(message.body, Body::Accept { .. }) {
            self.proposer.told.join(places);
        }
        if let Some(question) = self.proposer.question() {
            question.asked.join(places);
        }
    }

    /// Sends the end of this member's own lease (or of its failed proposal) to all who were asked to
    /// agree to it; a successor is made known to everybody.
    pub(crate) fn tell_end(
        &mut self,
        context: &mut Context<'_>,
        epoch: u64,
        successor: Option<MemberId>,
    ) {
        let round = context.round();
        let body = Body::Accept {
            epoch,
            ttl: Duration::ZERO,
            renewal: false,
            successor,
        };
        let message = self.message(round, body);
        let told = self.proposer.told;
        for (at, member) in self.members.iter().flat_map(|m| m.iter().enumerate()) {
            if *member != context.me && (told.contains(at) || successor.is_some()) {
                context.out.send(*member, message);
            }
        }
        self.end(context, &message);
    }

    /// A question in this member's present ballot.
    pub(crate) fn message(&self, round: u64, body: Body) -> Message {
        Message {
            cell: self.id,
            view: self.view,
            ballot: self.proposer.ballot,
            round,
            body,
        }
    }

    /// The ballot after everything this member knows of.
    pub(crate) fn next_ballot(&self, me: MemberId) -> Ballot {
        let promised = self.acceptor.promised.map_or(0, |ballot| ballot.counter);
        let known = promised.max(self.proposer.counter_seen);
        Ballot {
            counter: known.max(self.proposer.ballot.counter).saturating_add(1),
            member: me,
        }
    }

    fn answer(&self, question: &Message, body: Body) -> Message {
        Message {
            view: self.view,
            body,
            ..*question
        }
    }
}
