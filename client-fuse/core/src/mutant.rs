//! Deliberate wrong edits of how a mount keeps a quota of bytes, each of which the simulation must find.
//!
//! Without the cargo feature `mutants` nothing can switch one on, and every check is a constant.

/// A wrong edit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    not(feature = "mutants"),
    expect(unreachable_pub, reason = "exported with the feature only")
)]
pub enum Mutant {
    /// What the cluster is being told of is not counted.
    ToldIgnored,
    /// What the cluster was not told of is not counted.
    UntoldIgnored,
    /// What the cluster was told of is counted no more until it is asked.
    ReportForgotten,
    /// What was reported since the question is taken to be in the answer.
    MeanwhileForgotten,
    /// Who may be counted twice is refused.
    UnclearRefused,
    /// One byte more than the quota fits.
    OneMore,
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    impl Mutant {
        /// Does something with the wrong edit switched on for this thread.
        pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
            ON.set(Some(self));
            let done = work();
            ON.set(None);
            done
        }
    }

    /// Whether the wrong edit is switched on.
    pub(crate) fn has(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub(crate) use switch::has;

/// Never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn has(_: Mutant) -> bool {
    false
}
