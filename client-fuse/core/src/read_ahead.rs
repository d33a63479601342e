//! Reading ahead of a program that reads a file from front to back.
//!
//! Bytes are handed out once and only in order: a read that goes back, jumps, or finds the bytes
//! too old asks the primary. So what another mount wrote can be missed only by a read that
//! continues the one before it on the same descriptor, and for no longer than the age limit.

use std::collections::VecDeque;

use bytes::Bytes;
use types::Instant;

use crate::config::ReadAheadLimits;

/// A range to fetch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fetch {
    /// Where it begins; also its name in reports.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// What a read finds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Served {
    /// These bytes, in order; fewer than asked for means that the file ends there.
    Bytes(Bytes),
    /// The fetch that begins at this offset is on its way: wait for it, then ask again.
    Wait(u64),
    /// Ask the primary.
    Miss,
}

#[derive(Debug)]
struct Window {
    offset: u64,
    length: u64,
    asked: Instant,
    bytes: Option<Bytes>,
}

/// The state of one descriptor.
#[derive(Debug)]
pub struct ReadAhead {
    limits: ReadAheadLimits,
    /// Where the next read begins if the program reads on.
    expected: Option<u64>,
    /// Reads in a row that continued the one before.
    streak: u32,
    windows: VecDeque<Window>,
    /// The file ended here when it was read, and when that was.
    end: Option<(u64, Instant)>,
}

impl ReadAhead {
    /// Nothing read yet.
    #[must_use]
    pub const fn new(limits: ReadAheadLimits) -> Self {
        Self {
            limits,
            expected: None,
            streak: 0,
            windows: VecDeque::new(),
            end: None,
        }
    }

    /// Looks for the bytes of a read.
    pub fn read(&mut self, now: Instant, offset: u64, length: u64) -> Served {
        if self.expected != Some(offset) {
            self.forget();
            return Served::Miss;
        }
        // The end is told once: a program that follows a growing file asks again and again.
        if let Some((end, when)) = self.end.take()
            && end == offset
            && now.since(when) <= self.limits.age_max
        {
            return Served::Bytes(Bytes::new());
        }
        while self
            .windows
            .front()
            .is_some_and(|w| w.offset + w.length <= offset)
        {
            self.windows.pop_front();
        }
        let Some(front) = self.windows.front() else {
            return Served::Miss;
        };
        if front.offset > offset || now.since(front.asked) > self.limits.age_max {
            self.windows.clear();
            return Served::Miss;
        }
        let Some(bytes) = &front.bytes else {
            return Served::Wait(front.offset);
        };
        let from = usize::try_from(offset - front.offset).unwrap_or(usize::MAX);
        let want = usize::try_from(length).unwrap_or(usize::MAX);
        let to = from.saturating_add(want).min(bytes.len());
        let short = (bytes.len() as u64) < front.length;
        if from >= bytes.len() || (from == to && !short) {
            self.windows.clear();
            return Served::Miss;
        }
        // A read that spans windows gets the first part only if the file ends there; the rest is
        // worth a round trip less than a short read that a program may take for the end.
        if !short && ((to - from) as u64) < length {
            return self.span(now, offset, want);
        }
        let served = bytes.slice(from..to);
        if short && to == bytes.len() {
            self.end = Some((front.offset + bytes.len() as u64, front.asked));
        }
        self.advance(offset, served.len() as u64);
        Served::Bytes(served)
    }

    /// Joins the bytes of several windows.
    fn span(&mut self, now: Instant, offset: u64, want: usize) -> Served {
        let mut joined = Vec::with_capacity(want);
        let mut at = offset;
        for window in &self.windows {
            if window.offset > at || now.since(window.asked) > self.limits.age_max {
                break;
            }
            let Some(bytes) = &window.bytes else {
                return Served::Wait(window.offset);
            };
            let from = usize::try_from(at - window.offset).unwrap_or(usize::MAX);
            let rest = bytes.get(from..).unwrap_or_default();
            let take = rest.len().min(want - joined.len());
            joined.extend_from_slice(rest.get(..take).unwrap_or_default());
            at += take as u64;
            let short = (bytes.len() as u64) < window.length;
            if joined.len() == want || short {
                self.advance(offset, joined.len() as u64);
                return Served::Bytes(joined.into());
            }
        }
        self.windows.clear();
        Served::Miss
    }

    /// A read was answered by the primary.
    pub fn missed(&mut self, now: Instant, offset: u64, asked: u64, got: u64) {
        let continued = self.expected == Some(offset);
        if got < asked {
            self.end = Some((offset + got, now));
        }
        if continued || offset == 0 {
            self.advance(offset, got);
        } else {
            self.streak = 0;
            self.expected = Some(offset + got);
        }
    }

    /// What to fetch now. `size`: length of the file as far as known.
    pub fn plan(&mut self, now: Instant, size: u64) -> Vec<Fetch> {
        let Some(expected) = self.expected else {
            return Vec::new();
        };
        // The first read only says where the program is, the second one that it reads on.
        if self.streak < 2 || self.end.is_some() {
            return Vec::new();
        }
        let depth = (self.streak as usize - 1).min(self.limits.windows_max);
        let mut next = self
            .windows
            .back()
            .map_or(expected, |w| w.offset + w.length);
        let mut fetches = Vec::new();
        while self.windows.len() < depth && next < size {
            // Windows end at multiples of their size; servers read aligned ranges best.
            let window = self.limits.window_bytes;
            let length = window - next % window;
            self.windows.push_back(Window {
                offset: next,
                length,
                asked: now,
                bytes: None,
            });
            fetches.push(Fetch {
                offset: next,
                length,
            });
            next += length;
        }
        fetches
    }

    /// A fetch came back; nothing if it failed.
    pub fn fetched(&mut self, fetch: Fetch, bytes: Option<Bytes>) {
        match bytes {
            Some(bytes) => {
                let window = self
                    .windows
                    .iter_mut()
                    .find(|w| w.offset == fetch.offset && w.length == fetch.length);
                if let Some(window) = window {
                    window.bytes = Some(bytes);
                }
            }
            None => self.windows.clear(),
        }
    }

    /// Drops everything fetched: this mount changed the file, or the program jumped.
    pub fn forget(&mut self) {
        self.windows.clear();
        self.end = None;
        self.streak = 0;
        self.expected = None;
    }

    /// Whether there is nothing to drop.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.end.is_none()
    }

    fn advance(&mut self, offset: u64, got: u64) {
        self.streak = self.streak.saturating_add(1);
        self.expected = Some(offset + got);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Duration;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

    fn limits() -> ReadAheadLimits {
        ReadAheadLimits {
            window_bytes: 100,
            windows_max: 4,
            age_max: Duration::from_millis(100),
        }
    }

    fn file(length: u64) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    fn fetch_all(ahead: &mut ReadAhead, content: &[u8], now: Instant) -> usize {
        let fetches = ahead.plan(now, content.len() as u64);
        for fetch in &fetches {
            let from = (fetch.offset as usize).min(content.len());
            let to = ((fetch.offset + fetch.length) as usize).min(content.len());
            ahead.fetched(*fetch, Some(Bytes::copy_from_slice(&content[from..to])));
        }
        fetches.len()
    }

    /// Reads like a program; returns the bytes and how many reads asked the primary.
    fn read_through(ahead: &mut ReadAhead, content: &[u8], step: u64) -> (Vec<u8>, usize) {
        let mut got = Vec::new();
        let mut misses = 0;
        loop {
            let offset = got.len() as u64;
            let bytes = match ahead.read(NOW, offset, step) {
                Served::Bytes(bytes) => bytes,
                Served::Wait(_) => unreachable!("everything is fetched at once"),
                Served::Miss => {
                    misses += 1;
                    let from = got.len().min(content.len());
                    let to = (from + step as usize).min(content.len());
                    ahead.missed(NOW, offset, step, (to - from) as u64);
                    Bytes::copy_from_slice(&content[from..to])
                }
            };
            if bytes.is_empty() {
                return (got, misses);
            }
            got.extend_from_slice(&bytes);
            fetch_all(ahead, content, NOW);
        }
    }

    #[test]
    fn program_that_reads_on_gets_every_byte_and_rarely_waits() {
        for (length, step) in [(1000, 10), (1000, 30), (999, 64), (1001, 100), (1000, 250)] {
            let content = file(length);
            let mut ahead = ReadAhead::new(limits());

            let (got, misses) = read_through(&mut ahead, &content, step);

            assert_eq!(got, content, "length {length} step {step}");
            if step <= 100 {
                assert!(misses <= 3, "length {length} step {step}: {misses} misses");
            }
        }
    }

    #[test]
    fn small_file_costs_one_request_although_programs_read_until_nothing_comes() {
        let content = file(40);

        let (got, misses) = read_through(&mut ReadAhead::new(limits()), &content, 64);

        assert_eq!(got, content);
        assert_eq!(misses, 1);
    }

    #[test]
    fn end_is_told_from_memory_once_only() {
        let mut ahead = ReadAhead::new(limits());
        ahead.missed(NOW, 0, 64, 10);

        assert_eq!(ahead.read(NOW, 10, 64), Served::Bytes(Bytes::new()));
        assert_eq!(ahead.read(NOW, 10, 64), Served::Miss);
    }

    #[test]
    fn bytes_that_are_too_old_are_not_handed_out() {
        let content = file(1000);
        let mut ahead = ReadAhead::new(limits());
        ahead.missed(NOW, 0, 10, 10);
        ahead.missed(NOW, 10, 10, 10);
        assert!(fetch_all(&mut ahead, &content, NOW) > 0);

        let late = NOW + Duration::from_millis(101);

        assert_eq!(ahead.read(late, 20, 10), Served::Miss);
    }

    #[test]
    fn bytes_are_not_handed_out_to_a_read_that_goes_back() {
        let content = file(1000);
        let mut ahead = ReadAhead::new(limits());
        ahead.missed(NOW, 0, 10, 10);
        ahead.missed(NOW, 10, 10, 10);
        fetch_all(&mut ahead, &content, NOW);
        assert!(matches!(ahead.read(NOW, 20, 10), Served::Bytes(_)));

        assert_eq!(ahead.read(NOW, 20, 10), Served::Miss);
        assert_eq!(ahead.read(NOW, 30, 10), Served::Miss);
    }

    #[test]
    fn depth_grows_to_its_limit_and_not_beyond_the_file() {
        let mut ahead = ReadAhead::new(limits());
        for step in 0..3 {
            ahead.missed(NOW, step * 10, 10, 10);
        }

        assert_eq!(ahead.plan(NOW, 10_000).len(), 2);
        assert_eq!(ahead.plan(NOW, 10_000).len(), 0);
        for step in 3..9 {
            ahead.missed(NOW, step * 10, 10, 10);
        }
        assert_eq!(ahead.plan(NOW, 10_000).len(), 2);

        let mut small = ReadAhead::new(limits());
        for step in 0..9 {
            small.missed(NOW, step * 10, 10, 10);
        }
        assert_eq!(small.plan(NOW, 120).len(), 2);
    }
}
