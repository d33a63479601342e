//! Reading ahead of a program that reads a file from front to back.
//!
//! Bytes are handed out once and only in order: a read that goes back, jumps, or finds the bytes
//! too old asks the primary. So what another mount wrote can be missed only by a read that
//! continues the one before it on the same descriptor, and for no longer than the age limit.
//!
//! What this mount wrote is never missed. Every call gets the [`Version`] of the content, read at that
//! moment; there is none while a change is gathered or under way. Bytes are asked for ahead only at a
//! version, because without one the primary still has the old ones, and handed out only while that
//! very version lasts.

use std::collections::VecDeque;

use bytes::Bytes;
use types::Instant;

use crate::changes::Version;
use crate::config::ReadAheadLimits;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

/// A range to fetch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fetch {
    /// Where it begins; also its name in reports.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// The content when it was asked for.
    version: Version,
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
    /// Of everything below.
    version: Option<Version>,
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
            version: None,
            expected: None,
            streak: 0,
            windows: VecDeque::new(),
            end: None,
        }
    }

    /// Looks for the bytes of a read.
    pub fn read(
        &mut self,
        now: Instant,
        version: Option<Version>,
        offset: u64,
        length: u64,
    ) -> Served {
        self.renew(version);
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

    /// A read that was begun at `now` and `version` was answered by the primary.
    pub fn missed(
        &mut self,
        now: Instant,
        version: Option<Version>,
        offset: u64,
        asked: u64,
        got: u64,
    ) {
        self.renew(version);
        let continued = self.expected == Some(offset);
        if got < asked && version.is_some() {
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
    pub fn plan(&mut self, now: Instant, version: Option<Version>, size: u64) -> Vec<Fetch> {
        self.renew(version);
        let (Some(version), Some(expected)) = (version, self.expected) else {
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
                version,
            });
            next += length;
        }
        fetches
    }

    /// A fetch came back; nothing if it failed.
    pub fn fetched(&mut self, fetch: Fetch, bytes: Option<Bytes>) {
        if self.version != Some(fetch.version) {
            return;
        }
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

    /// What belongs to another version than the present one is void.
    fn renew(&mut self, version: Option<Version>) {
        if self.version != version {
            self.forget();
            self.version = version;
        }
    }

    /// Drops everything fetched: this mount changed the file, or the program jumped.
    fn forget(&mut self) {
        self.windows.clear();
        self.end = None;
        self.streak = 0;
        self.expected = None;
    }

    fn advance(&mut self, offset: u64, got: u64) {
        self.streak = self.streak.saturating_add(1);
        self.expected = Some(offset + got);
    }
}
