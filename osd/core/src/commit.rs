//! When changes are acknowledged: the volume's write policy, decided anew with every answer.
//!
//! A change is answered under the policy that this primary knows at that moment. While a policy is
//! being changed, every acknowledgement therefore keeps what the old or the new one promises, and what
//! waits under the old one is judged by the new one as soon as it is known.

use types::{Instant, Quorum, WritePolicy};

use crate::event::RequestId;
use crate::event::{Done, OsdLag};
use crate::mutant::Mutant;
use crate::peer_state::Peer;
use crate::replica::{ObjectReplica, Step};
use crate::tenure::Pending;
use crate::unapplied::Unapplied;

impl ObjectReplica {
    /// Which replicas must have a change, or its bytes on disk.
    pub(crate) fn quorum(&self) -> Quorum {
        match self.config.has(Mutant::AllIsMajority) {
            true => Quorum::Majority,
            false => self.membership.policy.quorum,
        }
    }

    pub(crate) fn writes(&self, policy: WritePolicy) -> bool {
        self.membership.policy.write == policy
    }

    /// The newest change that a quorum has where the policy wants it. For `async` that is memory, too:
    /// how far it is away from the newest change is what the bound is about.
    fn committed(&self) -> Option<u64> {
        if self.writes(WritePolicy::Fullsync) && !self.config.has(Mutant::FullsyncInMemory) {
            return self.stable();
        }
        let own = self.copy.position.seq;
        if self.config.has(Mutant::QuorumOfOne) {
            return Some(own);
        }
        let applied = |peer: &Peer| peer.is_joined().then_some(peer.applied);
        let tenure = self.tenure.as_ref()?;
        tenure.reached(self.quorum(), Some(own), applied)
    }

    /// Answers whatever may be answered now.
    pub(crate) fn commit(&mut self, step: &mut Step<'_>) {
        let committed = self.committed();
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if !tenure.is_serving() || tenure.changes.is_empty() && tenure.held.is_empty() {
            return;
        }
        let until = tenure.until;
        let mut replies: Vec<(RequestId, Done)> = Vec::new();
        while let Some(mut change) = tenure
            .changes
            .pop_front_if(|change| Some(change.seq) <= committed)
        {
            replies.extend(change.answer());
        }
        let ready = tenure
            .held
            .extract_if(.., |held| Some(held.seq) <= committed);
        replies.extend(ready.map(|held| (held.request, held.done)));
        // While the set changes, this primary may be of no set when the change ends or is taken back: what it
        // alone had would be lost although nothing failed.
        let may_leave = !self.membership.replicas.previous().is_empty();
        if self.writes(WritePolicy::Async) && (!may_leave || self.config.has(Mutant::AsyncHasty)) {
            replies.extend(self.within_bound(step.now));
        }
        for (request, done) in replies {
            self.reply(step, request, done, until);
        }
    }

    /// Takes the answers of changes that no quorum has, as long as those are few and young. What is
    /// beyond waits for the quorum, which slows writers down to what the replicas can follow.
    fn within_bound(&mut self, now: Instant) -> Vec<(RequestId, Done)> {
        let quorum = self.quorum();
        let config = &self.config;
        let unbounded = config.has(Mutant::AsyncUnbounded);
        let Some(tenure) = self.tenure.as_mut() else {
            return Vec::new();
        };
        // How far the members of a quorum are behind at most: of those that are the least, this one
        // included.
        let least = |lag: &dyn Fn(&Unapplied) -> u64| {
            let near = |peer: &Peer| Some(u64::MAX - lag(&peer.unapplied));
            let near = tenure.reached(quorum, Some(u64::MAX), near);
            u64::MAX - near.unwrap_or(0)
        };
        let age = least(&|lag| lag.age(now).as_nanos());
        if age >= config.async_lag_max.as_nanos() && !unbounded {
            return Vec::new();
        }
        let mut bytes = least(&Unapplied::bytes);
        let beyond = tenure.changes.iter().rev().take_while(|change| {
            let is_beyond = bytes > config.async_lag_bytes_max && !unbounded;
            bytes = bytes.saturating_sub(change.bytes);
            is_beyond
        });
        let near = tenure.changes.len() - beyond.count();
        let near = tenure.changes.iter_mut().take(near);
        near.filter_map(Pending::answer).collect()
    }

    /// How far other replicas are behind this primary, those that are not left out. Of what one lacks
    /// from before this tenure nothing is known here.
    pub fn lags(&self) -> impl Iterator<Item = OsdLag> {
        let peers = self.tenure.iter().flat_map(|tenure| &tenure.peers);
        peers.filter_map(|peer| {
            let (since, bytes) = peer.unapplied.oldest_and_bytes()?;
            Some(OsdLag {
                osd: peer.id,
                since,
                bytes,
            })
        })
    }
}

impl Pending {
    /// What to answer, once.
    fn answer(&mut self) -> Option<(RequestId, Done)> {
        let request = self.request.take()?;
        // Nothing that was acknowledged is undone.
        self.undo = None;
        Some((request, std::mem::take(&mut self.done)))
    }
}
