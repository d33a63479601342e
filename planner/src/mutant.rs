//! Deliberate wrong edits of the planner, each of which the simulation must find.
//!
//! Without the cargo feature `mutants` nothing can switch one on, and every check is a constant.

/// A wrong edit.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(
    not(feature = "mutants"),
    expect(unreachable_pub, reason = "exported with the feature only")
)]
pub enum Mutant {
    /// A change ends before its new member declared.
    EndsEarly,
    /// A change ends when its new member declared, whatever the others hold.
    OthersIgnored,
    /// A target is chosen whether it has room or not.
    RoomIgnored,
    /// A server that is down is replaced at once.
    GraceIgnored,
    /// A target is chosen wherever it stands.
    DomainsIgnored,
    /// A dying or draining member is removed first and replaced later.
    RemovesFirst,
    /// Changes begin although a majority is down.
    MajorityIgnored,
    /// Any number of changes is under way.
    LimitsIgnored,
    /// Groups move to emptier servers however little that gains.
    MovesForNothing,
    /// A change whose target died waits for it for ever.
    NeverRetargets,
    /// All groups count as equally large.
    SizesIgnored,
    /// What a server still has to get of other groups counts for nothing.
    PlannedIgnored,
    /// A change whose target has no room for the rest waits for ever.
    FullTargetKept,
    /// A member that makes no progress is waited for for ever.
    IllKept,
    /// A member that makes no progress is waited for no longer than one that does.
    Impatient,
    /// A replacement stands at the end, not in the place of the member it replaces.
    OrderLost,
}

impl crate::Limits {
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
