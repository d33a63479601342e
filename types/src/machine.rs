//! The shape of everything that has state and timers.

use crate::time::Instant;

/// A protocol core: inputs and time go in, effects come out, nothing else happens.
///
/// Effects of one step are performed in order. A completion of an effect comes back as an input;
/// an effect that may never complete is covered by a deadline inside the machine.
pub trait Machine {
    /// What may happen to the machine.
    type Input;
    /// What the machine asks its shell to do.
    type Effect;

    /// Takes one step at `now` and appends what must follow to `effects`, oldest first.
    fn step(&mut self, now: Instant, input: Self::Input, effects: &mut Vec<Self::Effect>);

    /// Returns when the machine wants to be stepped next even if nothing happens.
    fn next_wakeup(&self) -> Option<Instant>;
}
