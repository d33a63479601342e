//! A damaged block of the primary's copy is replaced from a backup before anybody notices.
//!
//! Meanwhile no change is made, so a joined backup's block is as the primary's was. Any other replica
//! may have it, too: the checksum at rest tells.
//!
//! If power failed everywhere while a block was being changed, it may fit its checksum nowhere: the block
//! reached the disks and what says so did not. If the store can't tell it from one that was being changed,
//! it is taken as it is here and everywhere else, when a majority lost it or never had it. Replicas with
//! sound bytes of another state tell nothing: theirs may have been replaced by a change that was taken
//! back, and a replica that keeps quiet have the sound block. So all must have been asked then, or
//! enough time have passed.

use bytes::Bytes;
use types::{BLOCK_BYTES, Instant, OsdId, Quorum};

use crate::copy::Change;
use crate::event::{CallKind, Effect, Payload};
use crate::faults;
use crate::mutant::Mutant;
use crate::peer_state::Peer;
use crate::replica::{ObjectReplica, Step};
use crate::store::StoreError;
use crate::waiting::Queued;
use proto::peer;
use proto::peer::request::Op;

/// The block being replaced.
#[derive(Debug)]
pub(crate) struct Mend {
    block: u64,
    tried: Vec<OsdId>,
    asked: Option<OsdId>,
    /// Replicas that said that it is damaged there, too.
    damaged: usize,
    /// Replicas that have nothing there, or said that it is damaged.
    without: usize,
    /// Replicas with sound bytes of another state.
    elsewhere: usize,
    pub(crate) asked_at: Instant,
    /// The request that found the damage.
    pub(crate) culprit: Option<Queued>,
}

impl Mend {
    /// Whether nobody can have the block as it was, of so many members, as far as it can be known.
    fn is_lost(&self, members: usize) -> bool {
        let asked_all = 1 + self.without + self.elsewhere == members;
        asked_all || 1 + self.without >= Quorum::Majority.of(members)
    }
}

impl ObjectReplica {
    /// Replaces a block, then does the request again.
    pub(crate) fn mend(&mut self, step: &mut Step<'_>, block: u64, culprit: Option<Queued>) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        if tenure.mending.is_some() {
            if let Some(queued) = culprit {
                self.waiting.push_front(queued);
            }
            return;
        }
        let mend = Mend {
            block,
            tried: Vec::new(),
            asked: None,
            damaged: 0,
            without: 0,
            elsewhere: 0,
            asked_at: step.now,
            culprit,
        };
        if self.config.has(Mutant::DoubtedTaken) {
            self.give_up_mending(step, mend);
            return;
        }
        tenure.mending = Some(mend);
        self.mend_from_next(step);
    }

    pub(crate) fn is_mending(&self, from: OsdId, offset: u64) -> bool {
        let mend = self
            .tenure
            .as_ref()
            .and_then(|tenure| tenure.mending.as_ref());
        mend.is_some_and(|mend| mend.asked == Some(from) && mend.block * BLOCK_BYTES == offset)
    }

    pub(crate) fn mend_source_lost(&mut self, step: &mut Step<'_>, id: OsdId) {
        let mend = self
            .tenure
            .as_ref()
            .and_then(|tenure| tenure.mending.as_ref());
        if mend.is_some_and(|mend| mend.asked == Some(id)) {
            self.mend_from_next(step);
        }
    }

    /// The block is damaged at the backup that was asked.
    pub(crate) fn mend_refused(&mut self) {
        let mend = self
            .tenure
            .as_mut()
            .and_then(|tenure| tenure.mending.as_mut());
        if let Some(mend) = mend {
            mend.damaged += 1;
            mend.without += 1;
        }
    }

    /// The replica that was asked can't help: asks the next.
    fn mend_in_vain(&mut self, step: &mut Step<'_>, count: impl FnOnce(&mut Mend)) {
        let tenure = self.tenure.as_mut();
        if let Some(mend) = tenure.and_then(|tenure| tenure.mending.as_mut()) {
            count(mend);
        }
        self.mend_from_next(step);
    }

    /// Asks the next backup, or gives up.
    pub(crate) fn mend_from_next(&mut self, step: &mut Step<'_>) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let Some(mut mend) = tenure.mending.take() else {
            return;
        };
        let untried = || {
            tenure
                .peers
                .iter()
                .filter(|peer| !mend.tried.contains(&peer.id))
        };
        let next = untried()
            .find(|peer| peer.is_joined())
            .or_else(|| untried().find(|peer| !peer.is_behind()))
            .or_else(|| untried().find(|peer| peer.connected));
        let Some(peer) = next else {
            self.give_up_mending(step, mend);
            return;
        };
        mend.tried.push(peer.id);
        mend.asked = Some(peer.id);
        mend.asked_at = step.now;
        let offset = mend.block * BLOCK_BYTES;
        let fetch = peer::Fetch {
            offset,
            length_bytes: BLOCK_BYTES as u32,
        };
        let call = (CallKind::Fetch { offset }, Op::Fetch(fetch));
        let timeout = self.config.backup_timeout;
        tenure.send(peer, call, Payload::default(), timeout, step.effects);
        tenure.mending = Some(mend);
    }

    /// Whether nobody could mend a block the last time.
    pub(crate) fn is_given_up(&self, block: u64) -> bool {
        let tenure = self.tenure.as_ref();
        tenure.is_some_and(|tenure| tenure.given_up == Some(block))
    }

    fn give_up_mending(&mut self, step: &mut Step<'_>, mut mend: Mend) {
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let members = tenure.members();
        let since = *self.in_doubt_since.get_or_insert(step.now);
        let waited = step.now.since(since) >= self.config.doubt_wait;
        if self.config.has(Mutant::ElsewhereCounts) {
            mend.without += std::mem::take(&mut mend.elsewhere);
        }
        let lost = mend.is_lost(members) || waited || self.config.has(Mutant::DoubtedTaken);
        if lost && self.take_as_found(step, mend.block, &mut mend.culprit) {
            return;
        }
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        tenure.given_up = Some(mend.block);
        step.effects.push(Effect::Damaged {
            block: mend.block,
            mended_from: None,
        });
        if let Some(queued) = mend.culprit {
            let fault = match mend.damaged == tenure.peers.len() {
                true => faults::damaged(mend.block),
                // Somebody who has it may come back.
                false => faults::no_quorum(),
            };
            step.refuse(queued.request, fault);
        }
        // A replica that is being brought up may do without the block.
        self.pump_peers(step);
    }

    fn pump_peers(&mut self, step: &mut Step<'_>) {
        let peers = self.tenure.as_ref().map_or(0, |tenure| tenure.peers.len());
        for index in 0..peers {
            self.pump_peer(step, index);
        }
    }

    /// Takes a block as it is, if its checksum may be from before the newest change; false if it is not.
    /// That is a change like any other, so that the replicas stay equal.
    fn take_as_found(
        &mut self,
        step: &mut Step<'_>,
        block: u64,
        culprit: &mut Option<Queued>,
    ) -> bool {
        let Some(tenure) = self.tenure.as_ref() else {
            return false;
        };
        if !tenure.takes_changes() {
            if let Some(queued) = culprit.take() {
                self.waiting.push_front(queued);
                if tenure.is_serving() {
                    self.ask(step, false);
                }
            }
            return true;
        }
        match step.store.accept(self.key, block) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(_) => {
                self.fail(step);
                return false;
            }
        }
        let offset = block * BLOCK_BYTES;
        let Ok(data) = step.store.read(self.key, offset, BLOCK_BYTES as u32) else {
            self.fail(step);
            return false;
        };
        self.in_doubt_since = None;
        step.effects.push(Effect::TakenAsFound { block });
        let length = self.copy.length_bytes;
        self.share_done(step, Change::Write { offset, data }, length);
        if let Some(queued) = culprit.take() {
            self.waiting.push_front(queued);
        }
        self.pump_peers(step);
        true
    }

    /// A backup's block arrived.
    pub(crate) fn mended(&mut self, step: &mut Step<'_>, bytes: &Bytes) {
        let length = self.copy.length_bytes;
        let Some(tenure) = self.tenure.as_mut() else {
            return;
        };
        let Some(mend) = tenure.mending.as_ref() else {
            return;
        };
        let offset = mend.block * BLOCK_BYTES;
        let expected = length.saturating_sub(offset).min(BLOCK_BYTES);
        if bytes.len() as u64 != expected {
            self.mend_in_vain(step, |mend| mend.without += 1);
            return;
        }
        let source = tenure.peers.iter().find(|peer| Some(peer.id) == mend.asked);
        let same_state = source.is_some_and(Peer::is_joined);
        let mended = match step.store.mend(self.key, mend.block, bytes) {
            Ok(false) if !same_state => {
                self.mend_in_vain(step, |mend| mend.elsewhere += 1);
                return;
            }
            Ok(false) if expected > 0 => step.store.write(self.key, offset, bytes),
            other => other.map(|_| ()),
        };
        match mended {
            Ok(()) => {}
            Err(StoreError::NoSpace { .. }) => {
                // The others need no room for what they have.
                let culprit = tenure.mending.take().and_then(|mend| mend.culprit);
                if let Some(queued) = culprit {
                    step.refuse(queued.request, faults::elsewhere());
                }
                return;
            }
            Err(_) => {
                self.fail(step);
                return;
            }
        }
        self.in_doubt_since = None;
        if let Some(mend) = tenure.mending.take() {
            step.effects.push(Effect::Damaged {
                block: mend.block,
                mended_from: mend.asked,
            });
            if let Some(queued) = mend.culprit {
                self.waiting.push_front(queued);
            }
        }
        self.pump_peers(step);
    }
}
