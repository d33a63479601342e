//! What happened in a run: a hash to compare runs by, and lines to read.

use std::hash::{Hash, Hasher};

use crate::time::TrueTime;

/// FNV-1a, 64 bit, over everything that happens. Its output is fixed, unlike the standard hasher's.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    /// Lines for people, if somebody wants them.
    lines: Option<Vec<String>>,
}

#[derive(Debug)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Trace {
    /// A trace of nothing; with lines only if `readable`, because they take most of the time.
    #[must_use]
    pub fn new(readable: bool) -> Self {
        Self {
            hash: Fnv(0xcbf2_9ce4_8422_2325),
            lines: readable.then(Vec::new),
        }
    }

    /// Notes that something happened.
    pub fn note(&mut self, now: TrueTime, what: &(impl Hash + std::fmt::Debug)) {
        now.hash(&mut self.hash);
        what.hash(&mut self.hash);
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>16} {what:?}", now.since_start().to_string()));
        }
    }

    /// Adds a line for people, if somebody reads along; not part of the hash.
    pub fn tell(&mut self, now: TrueTime, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!(
                "{:>16}   {}",
                now.since_start().to_string(),
                what()
            ));
        }
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The lines, if there are any.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        hasher.write(b"foobar");

        assert_eq!(hasher.finish(), 0x8594_4171_f739_67e8);
    }
}
