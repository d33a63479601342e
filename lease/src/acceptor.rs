//! One member's vote on one cell, in memory only.
//!
//! Invariant L-1 rests on this file: while an acceptor's own timer for a lease runs, it agrees to
//! nobody else's. Two leases that are valid at one moment would need majorities that share an
//! acceptor, whose timer for the first one had ended before the first holder's.

use types::{Duration, Instant, MemberId};

use crate::config::Config;
use crate::message::{Ballot, Body, Holder};
use crate::mutant::Mutant;

/// A lease this acceptor agreed to, running or over.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Agreed {
    pub(crate) holder: MemberId,
    pub(crate) epoch: u64,
    /// Round of the newest Accept; older ones arrive late and change nothing.
    pub(crate) round: u64,
    /// By the acceptor's own clock, counted from receipt.
    pub(crate) expires: Instant,
}

/// What one member remembers of a cell.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Acceptor {
    pub(crate) promised: Option<Ballot>,
    pub(crate) promised_round: u64,
    pub(crate) agreed: Option<Agreed>,
    /// Highest epoch ever agreed to, and whose it is.
    pub(crate) highest: Option<(u64, MemberId)>,
    /// Highest epoch that the layer above knows to be durable.
    pub(crate) floor: u64,
    /// Member to prefer, and until when.
    pub(crate) successor: Option<(MemberId, Instant)>,
}

/// The fields of an Accept that grants or extends a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) ballot: Ballot,
    pub(crate) round: u64,
    pub(crate) epoch: u64,
    pub(crate) ttl: Duration,
    pub(crate) renewal: bool,
    /// The first member of the replica set, if this host knows the set.
    pub(crate) first: Option<MemberId>,
}

impl Acceptor {
    /// The highest epoch known: agreed to, or durable above.
    pub(crate) fn floor_epoch(&self) -> u64 {
        self.floor.max(self.highest.map_or(0, |(epoch, _)| epoch))
    }

    /// Raises what the layer above has made durable.
    pub(crate) fn raise_floor(&mut self, epoch: u64) {
        self.floor = self.floor.max(epoch);
    }

    /// The lease of somebody else than `asker` that runs here, or the successor preferred to `asker`.
    pub(crate) fn blocker(&self, now: Instant, asker: MemberId) -> Option<Holder> {
        let running = self.agreed.filter(|agreed| agreed.expires > now);
        let running = running.map(|agreed| (agreed.holder, agreed.expires));
        let preferred = self.successor.filter(|(_, until)| *until > now);
        let (member, until) = running.or(preferred)?;
        (member != asker).then(|| Holder {
            member,
            remaining: until.since(now),
        })
    }

    /// The lease that runs here.
    pub(crate) fn running(&self, now: Instant) -> Option<Holder> {
        let agreed = self.agreed.filter(|agreed| agreed.expires > now)?;
        Some(Holder {
            member: agreed.holder,
            remaining: agreed.expires.since(now),
        })
    }

    /// Answers "may I propose?". A refusal binds nobody, so asking disturbs no running lease.
    pub(crate) fn prepare(
        &mut self,
        now: Instant,
        (ballot, round): (Ballot, u64),
        view: u64,
        config: &Config,
    ) -> Body {
        if let Some(holder) = self.blocker(now, ballot.member)
            && !config.has(Mutant::RunningLeaseIgnored)
        {
            return self.reject(view, Some(holder));
        }
        let repeated = self.promised == Some(ballot) && self.promised_round == round;
        if !repeated && self.promised.is_some_and(|promised| ballot <= promised) {
            return self.reject(view, None);
        }
        self.promised = Some(ballot);
        self.promised_round = round;
        Body::Promise {
            floor_epoch: self.floor_epoch(),
        }
    }

    /// Agrees to a lease or its extension, or says why not; silent to what arrives late.
    pub(crate) fn grant(
        &mut self,
        now: Instant,
        grant: Grant,
        view: u64,
        config: &Config,
    ) -> Option<Body> {
        let holder = grant.ballot.member;
        if let Some(agreed) = self.agreed.filter(|agreed| agreed.holder == holder) {
            if grant.round < agreed.round {
                return None;
            }
            if grant.round == agreed.round {
                // The timer is not started again: it counts from the first receipt.
                let epoch = agreed.epoch;
                return (agreed.expires > now).then_some(Body::Accepted { epoch });
            }
        }
        if let Some(running) = self.running(now) {
            let replaced = config.has(Mutant::RunningLeaseIgnored)
                || (config.has(Mutant::RenewalChangesHolder) && grant.renewal)
                || (config.has(Mutant::ShortcutForAnybody) && grant.ballot.counter == 0);
            if running.member != holder && !replaced {
                return Some(self.reject(view, Some(running)));
            }
        }
        if grant.ttl > config.ttl || !self.may_grant(&grant, config) {
            return Some(self.reject(view, None));
        }
        if self.promised < Some(grant.ballot) {
            self.promised = Some(grant.ballot);
            self.promised_round = grant.round;
        }
        self.agreed = Some(Agreed {
            holder,
            epoch: grant.epoch,
            round: grant.round,
            expires: now + grant.ttl,
        });
        let highest = (grant.epoch, holder);
        self.highest = self.highest.max(Some(highest));
        self.successor = None;
        let epoch = grant.epoch;
        Some(Body::Accepted { epoch })
    }

    /// Notes that `ballot.member` gave its lease up, if the message is not older than what is known.
    /// Ending one's own lease is harmless in any ballot and view.
    pub(crate) fn end(
        &mut self,
        now: Instant,
        (ballot, round, epoch): (Ballot, u64, u64),
        successor: Option<(MemberId, Instant)>,
    ) {
        let holder = ballot.member;
        let known = match self.agreed {
            Some(agreed) if agreed.holder == holder => agreed.round < round,
            Some(agreed) => agreed.expires <= now,
            None => true,
        };
        if !known {
            return;
        }
        // Kept although it is over, so that an Accept that was overtaken does not revive it.
        self.agreed = Some(Agreed {
            holder,
            epoch,
            round,
            expires: now,
        });
        self.successor = successor.filter(|(member, _)| *member != holder);
    }

    /// Whether ballot and epoch are high enough (rules 4, 6 and 9).
    fn may_grant(&self, grant: &Grant, config: &Config) -> bool {
        let holder = grant.ballot.member;
        if grant.ballot.counter == 0 && config.has(Mutant::ShortcutForAnybody) {
            return true;
        }
        if self
            .promised
            .is_some_and(|promised| grant.ballot < promised)
        {
            return false;
        }
        if grant.ballot.counter == 0 {
            // An acceptor that missed the beginning learned the epoch from the activation.
            let newborn = self.is_newborn_for(holder, grant.renewal);
            if !newborn || grant.first.is_some_and(|first| first != holder) {
                return false;
            }
        }
        if config.has(Mutant::EpochNotRaised) {
            return true;
        }
        let above_floor = match grant.renewal {
            // The holder's own activation has raised the floor to the epoch it extends.
            true => grant.epoch >= self.floor,
            false => grant.epoch > self.floor,
        };
        let above_others = match self.highest {
            Some((epoch, member)) if member == holder => grant.epoch >= epoch,
            Some((epoch, _)) => grant.epoch > epoch,
            None => true,
        };
        above_floor && above_others
    }

    /// Whether nobody but `member` has been promised or granted anything here, as far as known; a
    /// floor of unknown origin counts as somebody else's unless `floor_is_own`.
    pub(crate) fn is_newborn_for(&self, member: MemberId, floor_is_own: bool) -> bool {
        let zero = Ballot { counter: 0, member };
        self.promised.is_none_or(|promised| promised == zero)
            && match self.highest {
                Some((_, holder)) => holder == member,
                None => self.floor == 0 || floor_is_own,
            }
    }

    /// A refusal that says all this acceptor knows.
    pub(crate) fn reject(&self, view: u64, holder: Option<Holder>) -> Body {
        Body::Reject {
            promised: self.promised.unwrap_or_default(),
            view,
            floor_epoch: self.floor_epoch(),
            holder,
        }
    }
}
