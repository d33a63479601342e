//! What a host that is stopped in order leaves behind, so that its successor needs no quarantine.
//!
//! The file must be used once: a shell reads it, removes it durably, and only then starts the host.
//! As a second fence, [`Saved`] names the incarnation that made it, and only the next one may use it.

use types::{CellId, Duration, MemberId};

use crate::message::Ballot;

/// All votes of a stopped host. Times are lengths: the next boot's clock has another origin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Saved {
    pub(crate) incarnation: u64,
    pub(crate) cells: Vec<SavedCell>,
}

/// One vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SavedCell {
    pub(crate) cell: CellId,
    pub(crate) view: u64,
    pub(crate) promised: Option<Ballot>,
    pub(crate) promised_round: u64,
    pub(crate) agreed: Option<SavedLease>,
    pub(crate) highest: Option<(u64, MemberId)>,
    pub(crate) floor: u64,
}

/// A lease voted for. The time between stop and start is not known, so all of it is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SavedLease {
    pub(crate) holder: MemberId,
    pub(crate) epoch: u64,
    pub(crate) round: u64,
    pub(crate) remaining: Duration,
}
