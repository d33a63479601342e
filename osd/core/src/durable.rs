//! What waits for the disk, and the one job under way for it.
//!
//! There is at most one job per object. What comes meanwhile waits for the next, which serves all
//! of it at once.

use types::{Instant, OsdId};

use crate::copy::{LocalCopy, Trust};
use crate::event::{AnswerId, Effect};
use crate::position::{Position, Promise};
use crate::record::Record;
use crate::store::{ObjectStore, StoreError};

/// What must be on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Need {
    /// The promise, and that changes may follow.
    Promise(Promise),
    /// All changes up to this one.
    Position(Position),
    /// The same, and that none follow.
    Clean(Position),
    /// A copy that was brought up at this position, or what became of it since.
    BroughtUp(Position),
    /// Nothing beyond this position.
    TakenBack(Position),
}

impl Need {
    /// Whether the record on disk says so.
    pub(crate) fn is_served(&self, copy: &LocalCopy) -> bool {
        let record = &copy.record;
        match self {
            Self::Promise(promise) => record.promised == *promise && !record.clean,
            Self::Position(position) => {
                record.position.epoch == position.epoch
                    && record.position.holder == position.holder
                    && record.position.seq >= position.seq
            }
            Self::Clean(position) => record.clean && record.position == *position,
            Self::BroughtUp(position) => record.position >= *position,
            Self::TakenBack(position) => record.position <= *position,
        }
    }
}

/// Who waits for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// A primary that activates this replica.
    Activate {
        answer: AnswerId,
        from: OsdId,
        asker: Option<Position>,
    },
    /// A primary that syncs.
    Sync { answer: AnswerId },
    /// This server as primary; it looks at the record itself.
    Own,
    /// Whoever had this copy brought up.
    Recovery,
}

#[derive(Debug)]
struct Job {
    ticket: u64,
    since: Instant,
    record: Record,
}

/// Needs and the job under way.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    waiting: Vec<(Need, Who)>,
    job: Option<Job>,
    last_ticket: u64,
}

impl Durable {
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.job.is_none()
    }

    /// Since when the disk has been at the present job.
    pub(crate) fn busy_since(&self) -> Option<Instant> {
        self.job.as_ref().map(|job| job.since)
    }

    /// Whether a record that says "clean" is on its way to the disk.
    pub(crate) fn is_cleaning(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.record.clean)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether this waits already.
    pub(crate) fn wants(&self, need: Need) -> bool {
        self.waiting.iter().any(|(waits, _)| *waits == need)
    }

    pub(crate) fn want(&mut self, need: Need, who: Who) {
        self.waiting.push((need, who));
    }

    /// Drops all that waits on behalf of peers and returns whom to tell.
    pub(crate) fn take_peers(&mut self) -> Vec<Who> {
        let (own, peers) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, who)| matches!(who, Who::Own | Who::Recovery));
        self.waiting = own;
        peers.into_iter().map(|(_, who): (Need, Who)| who).collect()
    }

    /// Drops what this server itself waited for.
    pub(crate) fn forget_own(&mut self) {
        self.waiting.retain(|(_, who)| *who != Who::Own);
    }

    /// Drops what the recovery of this copy waited for.
    pub(crate) fn forget_recovery(&mut self) {
        self.waiting.retain(|(_, who)| *who != Who::Recovery);
    }

    /// Starts a job if something waits and none is under way.
    pub(crate) fn pump(
        &mut self,
        now: Instant,
        copy: &LocalCopy,
        store: &mut dyn ObjectStore,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        // A copy that moved on is not clean; whoever wanted that has other plans by now.
        let moved =
            |need: &Need| matches!(need, Need::Clean(position) if *position != copy.position);
        // Nor is one that has become part of the history beyond it.
        let trusted = copy.trust == Trust::Trusted;
        let joined = |need: &Need| trusted && matches!(need, Need::TakenBack(_));
        self.waiting
            .retain(|(need, _)| !moved(need) && !joined(need));
        if self.job.is_some() || self.waiting.is_empty() {
            return Ok(());
        }
        let needs = || self.waiting.iter().map(|(need, _)| need);
        let promise = needs().any(|need| matches!(need, Need::Promise(_)));
        let taken_back = needs().any(|need| matches!(need, Need::TakenBack(_)));
        if !promise && !taken_back && copy.trust != Trust::Trusted {
            // Its bytes are not what anybody waits for, and a job would only be followed by the same.
            return Ok(());
        }
        let clean = !promise && needs().any(|need| matches!(need, Need::Clean(_)));
        let in_no_hurry = clean || needs().all(|need| matches!(need, Need::BroughtUp(_)));
        let data = copy.trust == Trust::Trusted
            && needs().any(|need| !matches!(need, Need::Promise(_) | Need::TakenBack(_)));
        let record = match data {
            true => Record {
                promised: copy.promised,
                position: copy.position,
                length_bytes: copy.length_bytes,
                clean,
                marks: copy.marks.to_vec(),
            },
            // What was stable stays what is known to be stable, but for what is taken back.
            false => {
                let (position, marks) = match copy.taken_back.as_ref().filter(|_| taken_back) {
                    Some((position, marks)) => (*position, marks.to_vec()),
                    None => (copy.record.position, copy.record.marks.clone()),
                };
                Record {
                    promised: copy.promised,
                    clean: false,
                    position,
                    marks,
                    ..copy.record.clone()
                }
            }
        };
        let job = store.sync(copy.key, data, &record)?;
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.job = Some(Job {
            ticket,
            since: now,
            record,
        });
        effects.push(Effect::Sync {
            ticket,
            job,
            lazy: in_no_hurry,
        });
        Ok(())
    }

    /// Takes the end of a job: what the record now says, if the ticket is that of the job.
    pub(crate) fn done(&mut self, ticket: u64) -> Option<Record> {
        let job = self.job.take_if(|job| job.ticket == ticket)?;
        Some(job.record)
    }

    /// Takes those whose need the record on disk serves.
    pub(crate) fn take_served(&mut self, copy: &LocalCopy) -> Vec<Who> {
        let (done, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(need, _)| need.is_served(copy));
        self.waiting = rest;
        done.into_iter().map(|(_, who): (Need, Who)| who).collect()
    }
}
