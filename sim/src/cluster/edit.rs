//! Deliberate wrong edits of what joins the cores together, each of which this world must find.

/// A wrong edit.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Edit {
    /// A new leader does not recognise changes that its predecessors have done.
    SlotsForgotten,
    /// A change is answered when it is proposed.
    AnsweredWhenProposed,
    /// Files are removed although somebody has them open for reading.
    ReadersIgnored,
    /// What mounts say of open files counts in the order in which it arrives.
    ReadersUnordered,
    /// A new leader removes files before mounts have told it what they have open.
    RegistrationIgnored,
    /// Deletions are believed to be done when they are asked for.
    DeletionBelieved,
    /// Deleted objects are made again for peers that have not deleted theirs yet.
    TombstonesIgnored,
    /// Servers do not ask for objects that came back after they had deleted them.
    LeftoversForgotten,
    /// Replicas' promises are not handed to the lease host.
    FloorForgotten,
    /// Replicas hear neither that they lost the lease nor who has it.
    LeaseNewsLost,
    /// Those left do not compare what they have when one of them stays away.
    SilenceIgnored,
    /// Servers forget with a crash which views they knew.
    MapForgotten,
    /// A server takes its new store for the one it had.
    WipeUnnoticed,
    /// Servers declare that they have everything without having compared.
    DeclaredUnseen,
    /// Copies of groups that others keep are not deleted.
    MovedKept,
    /// A copy that others keep is deleted as if its file were gone.
    MovedForGood,
    /// Servers do not hear which policy the volume has.
    PolicyUnheard,
    /// Object servers do not look at when a right ends.
    RightsForEver,
    /// What sessions had open for reading when they ended counts as open.
    ReadersOfTheDead,
}

impl Edit {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::SlotsForgotten,
        Self::AnsweredWhenProposed,
        Self::ReadersIgnored,
        Self::ReadersUnordered,
        Self::RegistrationIgnored,
        Self::DeletionBelieved,
        Self::TombstonesIgnored,
        Self::LeftoversForgotten,
        Self::FloorForgotten,
        Self::LeaseNewsLost,
        Self::SilenceIgnored,
        Self::MapForgotten,
        Self::WipeUnnoticed,
        Self::DeclaredUnseen,
        Self::MovedKept,
        Self::MovedForGood,
        Self::PolicyUnheard,
        Self::RightsForEver,
        Self::ReadersOfTheDead,
    ];

    /// The edit of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|edit| format!("{edit:?}") == name)
    }

    /// Whether servers do not ask for what is left over, which would mend what the edit breaks.
    pub(crate) const fn is_without_leftovers(self) -> bool {
        matches!(
            self,
            Self::LeftoversForgotten
                | Self::DeletionBelieved
                | Self::TombstonesIgnored
                | Self::MovedKept
        )
    }
}
