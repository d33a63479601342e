//! Write policies: what must be true of a change when it is acknowledged.

use std::fmt;
use std::str::FromStr;

/// Where a change must be when it is acknowledged.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum WritePolicy {
    /// On stable storage of the quorum.
    Fullsync,
    /// In the memory of the quorum.
    #[default]
    Memsync,
    /// In the memory of the primary, while the quorum is no further behind than a bound.
    Async,
}

/// How many replicas of a set must have something.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Quorum {
    /// More than half of them.
    #[default]
    Majority,
    /// Each.
    All,
}

/// A volume's write policy and quorum.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Policy {
    /// Where a change must be.
    pub write: WritePolicy,
    /// On how many replicas.
    pub quorum: Quorum,
}

/// A word that names no policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{found:?} is no {what}; choose {choices}")]
pub struct PolicyError {
    found: String,
    what: &'static str,
    choices: &'static str,
}

impl Quorum {
    /// Members of a set of `members` that it takes. Any two such groups share one.
    #[must_use]
    pub const fn of(self, members: usize) -> usize {
        match self {
            Self::Majority => members / 2 + 1,
            Self::All => members,
        }
    }
}

impl Policy {
    /// From the words of a map. No words are those of a release that knew no others than the
    /// default; a word that is not understood is taken for the strictest, which breaks no promise.
    #[must_use]
    pub fn of_words(write: &str, quorum: &str) -> Self {
        Self {
            write: match write {
                "" => WritePolicy::default(),
                word => word.parse().unwrap_or(WritePolicy::Fullsync),
            },
            quorum: match quorum {
                "" => Quorum::default(),
                word => word.parse().unwrap_or(Quorum::All),
            },
        }
    }
}

impl fmt::Display for WritePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fullsync => "fullsync",
            Self::Memsync => "memsync",
            Self::Async => "async",
        })
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Majority => "majority",
            Self::All => "all",
        })
    }
}

impl FromStr for WritePolicy {
    type Err = PolicyError;

    fn from_str(word: &str) -> Result<Self, PolicyError> {
        match word {
            "fullsync" => Ok(Self::Fullsync),
            "memsync" => Ok(Self::Memsync),
            "async" => Ok(Self::Async),
            _ => Err(PolicyError {
                found: word.to_owned(),
                what: "write policy",
                choices: "fullsync, memsync or async",
            }),
        }
    }
}

impl FromStr for Quorum {
    type Err = PolicyError;

    fn from_str(word: &str) -> Result<Self, PolicyError> {
        match word {
            "majority" => Ok(Self::Majority),
            "all" => Ok(Self::All),
            _ => Err(PolicyError {
                found: word.to_owned(),
                what: "quorum",
                choices: "majority or all",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_quorums_of_one_to_seven_share_a_member() {
        for members in 1..=7 {
            for (one, other) in [
                (Quorum::Majority, Quorum::Majority),
                (Quorum::Majority, Quorum::All),
            ] {
                assert!(one.of(members) + other.of(members) > members, "{members}");
            }
            assert!(Quorum::Majority.of(members) <= members);
            assert_eq!(Quorum::All.of(members), members);
        }
    }

    #[test]
    fn words_are_those_that_are_printed_and_unknown_ones_are_the_strictest() {
        for write in [
            WritePolicy::Fullsync,
            WritePolicy::Memsync,
            WritePolicy::Async,
        ] {
            for quorum in [Quorum::Majority, Quorum::All] {
                let policy = Policy { write, quorum };
                let words = (write.to_string(), quorum.to_string());
                assert_eq!(Policy::of_words(&words.0, &words.1), policy);
            }
        }
        assert_eq!(Policy::of_words("", ""), Policy::default());
        let strictest = Policy {
            write: WritePolicy::Fullsync,
            quorum: Quorum::All,
        };
        assert_eq!(Policy::of_words("new", "odd"), strictest);
        assert!("".parse::<WritePolicy>().is_err());
    }
}
