//! Which of a link's streams may send: one at a time, while others wait for their turn or for answers.

use std::task::Waker;

/// What a stream is to do with its turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// Send what waits.
    Send,
    /// Stay open.
    Wait,
    /// End.
    Over,
}

/// Numbers for streams, in the order of their making.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The newest number given out.
    last: u64,
    /// The stream that sends.
    current: u64,
    /// Nobody sends for a moment.
    held: bool,
    /// A stream whose last requests are still to be answered.
    retiring: Option<u64>,
    /// Streams that wait: to be woken when anything changes here.
    waiting: Vec<Waker>,
}

impl Turns {
    /// A number for a new stream, which waits until it is made the current one.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn of(&self, stream: u64) -> Turn {
        if stream == self.current {
            if self.held { Turn::Wait } else { Turn::Send }
        } else if stream > self.current || self.retiring == Some(stream) {
            Turn::Wait
        } else {
            Turn::Over
        }
    }

    /// Wakes a stream whose turn is [`Turn::Wait`] at the next change.
    pub(super) fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|other| other.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// The stream sends from now on; others are over.
    pub(super) fn begin(&mut self, stream: u64) {
        self.current = stream;
        self.held = false;
        self.wake_all();
    }

    /// Another stream takes over, but sends nothing yet; the current one stays open.
    pub(super) fn hold_for(&mut self, stream: u64) {
        self.retiring = Some(self.current);
        self.current = stream;
        self.held = true;
        self.wake_all();
    }

    /// The stream that stayed open ends.
    pub(super) fn retired(&mut self) {
        self.retiring = None;
        self.wake_all();
    }

    /// The stream that took over sends.
    pub(super) fn release(&mut self) {
        self.held = false;
        self.wake_all();
    }

    /// All streams so far are over.
    pub(super) fn end_all(&mut self) {
        self.last += 1;
        self.current = self.last;
        self.held = false;
        self.retiring = None;
        self.wake_all();
    }

    /// Wakers only note that a task is to run, so this may be done under the link's lock.
    fn wake_all(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_that_takes_over_waits_until_the_other_has_its_answers() {
        let mut turns = Turns::default();
        let old = turns.next();
        assert_eq!(turns.of(old), Turn::Wait);
        turns.begin(old);
        let new = turns.next();
        assert_eq!((turns.of(old), turns.of(new)), (Turn::Send, Turn::Wait));

        turns.hold_for(new);
        assert_eq!((turns.of(old), turns.of(new)), (Turn::Wait, Turn::Wait));
        turns.retired();
        assert_eq!((turns.of(old), turns.of(new)), (Turn::Over, Turn::Wait));
        turns.release();
        assert_eq!((turns.of(old), turns.of(new)), (Turn::Over, Turn::Send));

        let never = turns.next();
        turns.end_all();
        assert_eq!((turns.of(new), turns.of(never)), (Turn::Over, Turn::Over));
    }
}
