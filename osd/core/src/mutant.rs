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
    /// A change is acknowledged when the primary has it.
    QuorumOfOne,
    /// A sync is acknowledged when it is stable at the primary.
    SyncOfOne,
    /// A replica compares epochs with what was written, not with what it promised.
    WrittenNotPromised,
    /// Copies that were changed before a crash are trusted.
    SuspectsTrusted,
    /// A new primary serves as soon as it has the newest state itself.
    ServesBeforeQuorum,
    /// The lease is checked before the work only.
    LeaseCheckedBefore,
    /// Crashed replicas count as much as the others in the choice of the newest history.
    NoTrustGrace,
    /// A read is answered although it includes changes that no quorum has.
    ReadsUncommitted,
    /// Changes are taken however old they are.
    DelayedChanges,
    /// A change that was done is done again when it is repeated.
    RepeatedChanges,
    /// What was done in an earlier session is done again.
    EarlierSessionIgnored,
    /// A change is taken although the one sent before it is missing.
    ChangesOutOfOrder,
    /// A replica takes changes without having been brought to the primary's state.
    GapsAllowed,
    /// A replica that misses nothing but bytes is taken as brought up without comparing.
    CatchUpSkipped,
    /// A copy counts as brought up when it is in memory.
    RecoveredInMemory,
    /// A block that may have been torn by a loss of power is taken as it is without asking for a sound one.
    DoubtedTaken,
    /// The same when a majority was asked, whatever they have, while a replica that may have it keeps quiet.
    ElsewhereCounts,
    /// A backup answers an activation before its promise is on disk.
    PromiseForgotten,
    /// A backup obeys a primary that goes by another view.
    ViewIgnored,
    /// A new primary takes a source that fails for one that has sent everything.
    FetchErrorsIgnored,
    /// A new primary of a volume with `async` decides with a majority, whoever else would answer.
    AsyncHasty,
    /// What was added stays although the program was told that there is no room for it.
    RefusedStays,
    /// Nobody looks whether acknowledged changes are still there.
    LossesUnnoticed,
    /// With `fullsync` a change is acknowledged when a quorum has it in memory.
    FullsyncInMemory,
    /// A quorum of all replicas is taken for one of their majority.
    AllIsMajority,
    /// With `async` a replica that was left behind is not tried again.
    AsyncForgetsLagging,
    /// With `async` changes are acknowledged however far the replicas are behind.
    AsyncUnbounded,
    /// A policy that changed counts for what is asked from then on only.
    PolicyKept,
    /// The record of a copy goes on to tell of changes that are being replaced.
    RecordKept,
    /// A record that is taken back tells of all that the primary began with.
    TakenBackToBase,
    /// A copy that is being brought up no longer counts for what it had.
    KeptForgotten,
    /// A copy that is being brought up counts for what it had, although what it is brought to has it not.
    KeptOfAnyHistory,
    /// While the replica set changes, the new one decides alone.
    PreviousSetIgnored,
    /// A scrub takes a copy for right that does not fit its own checksum.
    ScrubBelievesDamaged,
    /// A scrub takes zeros for as good as bytes.
    ScrubBelievesZeros,
    /// A scrub has an older copy brought up without distrusting it first.
    OutdatedTrusted,
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
