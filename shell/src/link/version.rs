//! Which version of the messages both ends of a link speak.
//!
//! The caller says the newest and the oldest one that it speaks, the server chooses the newest that both do. So
//! servers of two releases that follow each other talk while an upgrade is under way. Within a version, fields
//! and requests may be added: whoever does not know a field skips it, and says of a request that it is unknown.

use std::fmt;

use super::limits::{PROTOCOL_VERSION, PROTOCOL_VERSION_OLDEST};

/// Versions that a process speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Spoken {
    pub(crate) oldest: u32,
    pub(crate) newest: u32,
}

impl Spoken {
    /// By this release.
    pub(crate) const OURS: Self = Self {
        oldest: PROTOCOL_VERSION_OLDEST,
        newest: PROTOCOL_VERSION,
    };

    /// The newest version that both speak.
    pub(crate) fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_of_both_is_spoken_and_none_if_they_are_too_far_apart() {
        let spoken = |oldest, newest| Spoken { oldest, newest };

        assert_eq!(spoken(3, 4).common(spoken(4, 5)), Some(4));
        assert_eq!(spoken(4, 5).common(spoken(3, 4)), Some(4));
        assert_eq!(spoken(3, 3).common(spoken(3, 3)), Some(3));
        assert_eq!(spoken(3, 5).common(spoken(4, 4)), Some(4));
        assert_eq!(spoken(3, 3).common(spoken(4, 5)), None);
        assert_eq!(spoken(4, 5).common(spoken(2, 3)), None);
        // Nonsense from a wire.
        assert_eq!(spoken(3, 4).common(spoken(9, 2)), None);
        assert_eq!(spoken(3, 4).to_string(), "3 to 4");
        assert_eq!(spoken(3, 3).to_string(), "3");
    }
}
