//! Deliberate wrong edits of the protocol, each of which the simulator must find.
//!
//! Without the cargo feature `mutants` nothing can switch one on, and every check is a constant.

/// A wrong edit.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(
    not(feature = "mutants"),
    expect(unreachable_pub, reason = "exported with the feature only")
)]
pub enum Mutant {
    /// A member in quarantine proposes and counts its own empty acceptor.
    ProposesInQuarantine,
    /// A member answers at once after it lost its memory.
    NoQuarantine,
    /// One member less than a majority decides.
    MajorityMinusOne,
    /// The holder's timer is lengthened for drift where it must be shortened.
    HolderTimerLonger,
    /// The holder counts the lease from the answer, not from the question.
    HolderCountsFromAnswer,
    /// The epoch of a new lease is the highest one known, not one more; acceptors agree.
    EpochNotRaised,
    /// A former holder extends "its" lease without asking first, and acceptors let it replace another.
    RenewalChangesHolder,
    /// A repeated answer counts as another member's.
    DuplicatesCount,
    /// An answer to an earlier question counts for the present one.
    OldAnswersCount,
    /// Any member takes the shortcut for brand-new cells, and acceptors agree to it whatever they
    /// know, because nothing can have been promised below ballot 0.
    ShortcutForAnybody,
    /// A holder that gave its lease back goes on using it until it would have run out.
    UsesAfterRelease,
    /// Messages of old views are answered.
    ViewIgnored,
    /// Acceptors promise and agree while another lease runs.
    RunningLeaseIgnored,
    /// While the replica set changes, a majority of the new one decides alone.
    PreviousSetIgnored,
}

impl crate::Config {
    /// Whether the wrong edit is switched on.
    #[cfg(feature = "mutants")]
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Never.
    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn has(&self, _: Mutant) -> bool {
        false
    }
}
