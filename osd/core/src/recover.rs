//! A copy that may be behind asks to be brought up; others are asked and see to it.

use types::{Instant, OsdId};

use crate::backup::{Outcome, Refused, plain};
use crate::copy::Trust;
use crate::durable::{Need, Who};
use crate::event::{Call, CallKind, Effect, Payload, PeerFailure};
use crate::mutant::Mutant;
use crate::position::Position;
use crate::replica::{ObjectReplica, Step};
use crate::tenure::Tenure;
use proto::peer;
use proto::peer::Refusal;
use proto::peer::request::Op;
use proto::peer::response::Reply;

/// Asking the others in turn.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// The newest change that another replica was seen to have.
    newest: Position,
    pub(crate) ask_at: Instant,
    turn: usize,
    /// Who was said to be primary.
    primary: Option<OsdId>,
    /// The copy is brought up, its disk is waited for.
    settling: bool,
}

impl ObjectReplica {
    /// Has this copy brought up to `newest` at least.
    pub(crate) fn start_recovery(&mut self, step: &mut Step<'_>, newest: Position) {
        if self.is_out_of_service() {
            step.effects.push(Effect::NotRecovered);
            return;
        }
        let recovery = self.recovery.get_or_insert(Recovery {
            newest,
            ask_at: step.now,
            turn: 0,
            primary: None,
            settling: false,
        });
        recovery.newest = recovery.newest.max(newest);
        let there = self.copy.position >= recovery.newest;
        let serving = |tenure: &Tenure| tenure.is_serving() && step.now < tenure.until;
        // A primary that serves has whatever was acknowledged.
        if self.copy.is_trusted(&self.membership) && there
            || self.tenure.as_ref().is_some_and(serving)
        {
            self.recovered(step);
        }
        self.ask_for_catch_up(step);
    }

    /// A copy at rest that turns out to be older than another has lost what a majority may have counted on, so it vouches
    /// for nothing any more. Otherwise two such copies could outvote the one that lost nothing.
    pub(crate) fn distrust_outdated(&mut self, newest: Position) {
        let unused = self.tenure.is_none() && !self.following.is_followed();
        let at_rest = self.is_at_rest() || (!self.copy.exists && self.durable.is_idle());
        if unused
            && at_rest
            && self.copy.position < newest
            && !self.config.has(Mutant::OutdatedTrusted)
        {
            self.copy.trust = Trust::CatchingUp;
        }
    }

    /// When a copy whose repair was broken off asks for it by itself: whoever began it may be gone.
    pub(crate) fn recovers_itself_at(&self) -> Option<Instant> {
        let abandoned = self.copy.trust == Trust::CatchingUp
            && self.tenure.is_none()
            && self.recovery.is_none()
            && !self.copy.failed
            && !self.shutting_down;
        let heard_at = self.following.heard_at.unwrap_or(Instant::ZERO);
        abandoned.then(|| heard_at + self.config.backup_idle_after)
    }

    pub(crate) fn recover_if_abandoned(&mut self, step: &mut Step<'_>) {
        if self.recovers_itself_at().is_some_and(|at| at <= step.now) {
            self.start_recovery(step, Position::default());
        }
    }

    /// Asks the primary, or whoever's turn it is, if it is time to.
    pub(crate) fn ask_for_catch_up(&mut self, step: &mut Step<'_>) {
        let retry = self.config.recover_retry;
        let Some(recovery) = self.recovery.as_mut() else {
            return;
        };
        if recovery.ask_at > step.now {
            return;
        }
        recovery.ask_at = step.now + retry;
        if recovery.settling && self.copy.is_trusted(&self.membership) {
            return;
        }
        if std::mem::take(&mut recovery.settling) {
            self.durable.forget_recovery();
        }
        if self.tenure.is_some() {
            return;
        }
        let me = self.me;
        let others: Vec<_> = self
            .membership
            .replicas
            .current()
            .iter()
            .copied()
            .filter(|member| *member != me)
            .collect();
        let turn = recovery.turn;
        recovery.turn += 1;
        let primary = recovery.primary.take();
        if turn >= others.len() {
            // Nobody else does it.
            recovery.turn = 0;
            self.bring_up = true;
        }
        let Some(to) = primary.or_else(|| others.get(turn % others.len().max(1)).copied()) else {
            return;
        };
        let position = self
            .copy
            .is_trusted(&self.membership)
            .then(|| self.copy.position.into());
        step.effects.push(Effect::Send {
            to,
            call: Call {
                epoch: 0,
                attempt: 0,
                kind: CallKind::WantCatchUp,
            },
            message: peer::Request {
                object: Some(self.key.object.into()),
                pg: self.key.pg.0,
                view: self.membership.view,
                op: Some(Op::WantCatchUp(peer::WantCatchUp { position })),
                ..peer::Request::default()
            },
            payload: Payload::default(),
            timeout: self.config.step_timeout,
        });
    }

    /// What somebody asked for catch-up said.
    pub(crate) fn catch_up_answered(
        &mut self,
        step: &mut Step<'_>,
        from: OsdId,
        reply: Result<(peer::Response, Payload), PeerFailure>,
    ) {
        let Some(recovery) = self.recovery.as_mut() else {
            return;
        };
        let Ok((response, _)) = reply else {
            return;
        };
        let Some(Reply::Refused(refused)) = response.reply else {
            return;
        };
        let primary = OsdId(response.promised_holder);
        match refused.refusal() {
            // What was seen there is gone, too.
            Refusal::Deleted => {
                let newest = recovery.newest;
                self.end_recovery(step, newest);
            }
            Refusal::NotPrimary
                if primary != from
                    && primary != self.me
                    && self.membership.replicas.contains(primary) =>
            {
                recovery.primary = Some(primary);
                recovery.ask_at = step.now;
                self.ask_for_catch_up(step);
            }
            _ => {}
        }
    }

    /// This copy can't be brought up by this replica any more.
    pub(crate) fn give_up_recovery(&mut self, step: &mut Step<'_>) {
        if self.recovery.take().is_some() {
            self.durable.forget_recovery();
            step.effects.push(Effect::NotRecovered);
        }
    }

    /// This copy is as new as any. It counts as brought up when that is on disk: until then the loss of power
    /// would take it away again, and of what was synced there would be a copy less than is believed.
    pub(crate) fn recovered(&mut self, step: &mut Step<'_>) {
        let Some(recovery) = self.recovery.as_mut() else {
            return;
        };
        let need = Need::BroughtUp(self.copy.vouched(&self.membership));
        let in_memory = self.copy.exists && !self.copy.failed && !need.is_served(&self.copy);
        if !in_memory || self.config.has(Mutant::RecoveredInMemory) {
            self.finish_recovery(step);
        } else if !std::mem::replace(&mut recovery.settling, true) {
            self.durable.want(need, Who::Recovery);
        }
    }

    pub(crate) fn finish_recovery(&mut self, step: &mut Step<'_>) {
        let position = self.copy.vouched(&self.membership);
        self.end_recovery(step, position);
    }

    fn end_recovery(&mut self, step: &mut Step<'_>, position: Position) {
        self.durable.forget_recovery();
        if self.recovery.take().is_some() {
            step.effects.push(Effect::Recovered { position });
        }
    }

    /// A peer wants to be brought up.
    pub(crate) fn want_catch_up(&mut self, step: &mut Step<'_>, from: OsdId) -> Outcome {
        if self.is_out_of_service() {
            return Err(Refused(Refusal::Busy));
        }
        let accepted = plain(Reply::CaughtUp(peer::CaughtUp { seq: 0 }));
        let Some(tenure) = self.tenure.as_mut() else {
            return match self.leasing.holder(step.now) {
                Some(holder) if holder != from => Err(Refused(Refusal::NotPrimary)),
                _ => {
                    self.bring_up = true;
                    accepted
                }
            };
        };
        let pause = self.config.catch_up_retry;
        let peer = tenure.peers.iter_mut().find(|peer| peer.id == from);
        if let Some(peer) = peer
            && !peer.is_coming()
        {
            // It may have restarted unnoticed: start over with it.
            peer.connected = true;
            peer.leave_behind(step.now.max(peer.attempted_at + pause));
            self.retry_peers(step);
        }
        accepted
    }
}
