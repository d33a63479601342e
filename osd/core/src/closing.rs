//! The end of a quiet tenure: everybody records that nothing is missing, then the lease is released.
//!
//! A replica that is clean can be trusted after a crash, so objects at rest cost a restart nothing.

use types::Instant;

use crate::replica::{ObjectReplica, Step};
use crate::tenure::{Phase, Tenure};

impl ObjectReplica {
    /// When a tenure without work ends; none if there is work.
    pub(crate) fn closes_at(&self) -> Option<Instant> {
        let tenure = self.tenure.as_ref()?;
        let busy = !tenure.is_serving()
            || !self.waiting.is_empty()
            || !tenure.changes.is_empty()
            || !tenure.held.is_empty()
            || !tenure.syncs.is_empty()
            || tenure.mending.is_some()
            || tenure.peers.iter().any(|peer| peer.is_coming());
        if busy {
            return None;
        }
        Some(match tenure.last_used {
            _ if self.shutting_down => Instant::ZERO,
            Some(at) => at + self.config.idle_after,
            // Taken to bring others up: until all are, or for as long as a client would have it.
            None if tenure
                .peers
                .iter()
                .any(|peer| peer.is_behind() && peer.connected) =>
            {
                tenure.began_at + self.config.idle_after
            }
            None => Instant::ZERO,
        })
    }

    pub(crate) fn close_if_idle(&mut self, step: &mut Step<'_>) {
        if self.closes_at().is_none_or(|at| at > step.now) {
            return;
        }
        self.bring_up = false;
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let nothing_to_record = !self.copy.exists || self.copy.record.clean;
        if nothing_to_record && !tenure.writable {
            self.step_down(step, true);
            return;
        }
        tenure.phase = Phase::Closing { since: step.now };
        let seq = self.copy.position.seq;
        for index in 0..tenure.peers.len() {
            let tenure = self.tenure.as_ref();
            let peer = tenure.and_then(|tenure| tenure.peers.get(index));
            if peer.is_some_and(|peer| peer.is_joined()) {
                self.send_sync(step, index, (seq, true));
            }
        }
        self.want_clean();
        self.check_closed(step);
    }

    /// Releases the lease when everybody is clean, or has had its time.
    pub(crate) fn check_closed(&mut self, step: &mut Step<'_>) {
        let Some(tenure) = self.tenure.as_ref() else {
            return;
        };
        let Phase::Closing { since } = tenure.phase else {
            return;
        };
        let own = !self.copy.exists || self.copy.record.clean;
        let late = since + self.config.step_timeout <= step.now;
        if own && peers_are_clean(tenure) || late {
            self.step_down(step, true);
        }
    }

    /// A client came while the object was being closed: opens it again, in the same epoch.
    pub(crate) fn reopen(&mut self, step: &mut Step<'_>) {
        self.durable.forget_own();
        let reads = self.waiting.front().is_some_and(|front| !front.is_change());
        self.ask(step, reads);
    }

    /// When a backup that hears from no primary makes itself clean.
    pub(crate) fn cleans_itself_at(&self) -> Option<Instant> {
        let copy = &self.copy;
        let idle = self.tenure.is_none()
            && self.waiting.is_empty()
            && self.durable.is_idle()
            && !copy.failed
            && copy.exists
            && !copy.record.clean
            && copy.is_trusted(&self.membership);
        if !idle {
            return None;
        }
        let heard_at = self.following.heard_at.unwrap_or(Instant::ZERO);
        Some(match self.shutting_down {
            true => Instant::ZERO,
            false => heard_at + self.config.backup_idle_after,
        })
    }

    pub(crate) fn clean_self_if_idle(&mut self, step: &mut Step<'_>) {
        if self.cleans_itself_at().is_some_and(|at| at <= step.now) {
            self.following.leave();
            self.want_clean();
        }
    }
}

fn peers_are_clean(tenure: &Tenure) -> bool {
    let mut joined = tenure.peers.iter().filter(|peer| peer.is_joined());
    joined.all(|peer| peer.is_clean)
}
