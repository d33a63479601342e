//! Deliberate wrong edits of the rules of quotas, each of which a test must find.
//!
//! Without the cargo feature `mutants` nothing can switch one on, and every check is a constant.

/// A wrong edit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    not(feature = "mutants"),
    expect(unreachable_pub, reason = "exported with the feature only")
)]
pub enum Mutant {
    /// One file more than the quota allows is admitted.
    OneMore,
    /// The root directory counts as a file.
    RootCounted,
    /// What was removed counts until it is collected.
    DoomedCounted,
    /// What was removed does not count although somebody has it open for writing.
    WritersForgotten,
    /// What was removed does not count again when somebody opens it for writing.
    RevivalForgotten,
    /// What was removed and collected still counts as doomed, so something else does not count.
    CollectedKept,
    /// A size counts that nobody was told of any more: what shrinks is not given back.
    ShrinkingIgnored,
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
