//! What a pool says about its scrub or resilver.

use crate::numbers::{ctime_s, hundredths, rounded};

/// A scrub or resilver, present or last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scan {
    /// What it reads.
    pub kind: ScanKind,
    /// How far it is.
    pub phase: ScanPhase,
    /// All that the pool says about it, on one line. Times are UTC.
    pub text: String,
}

/// What a scan reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScanKind {
    /// Everything, to find errors.
    Scrub,
    /// What a new or returned disk lacks.
    Resilver,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScanPhase {
    /// It reads.
    Running {
        /// Hundredths of a percent done, if the pool knows.
        done_hundredths: Option<u32>,
        /// Bytes repaired so far, rounded to three digits, if the pool tells.
        repaired_bytes: Option<u64>,
    },
    /// It was paused and can go on.
    Paused,
    /// It was stopped before its end.
    Stopped,
    /// It read everything.
    Finished {
        /// Errors that could not be repaired.
        errors: u64,
        /// Bytes repaired, rounded to three digits, if the pool tells.
        repaired_bytes: Option<u64>,
        /// When, in seconds since 1970.
        ended_s: Option<u64>,
    },
    /// Words that this version doesn't know; they are in [`Scan::text`].
    Unknown,
}

impl Scan {
    /// Reads the words behind `scan:` or `scrub:`; none if nothing was ever scanned.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split_whitespace().collect();
        let text = words.join(" ");
        let kind = if text.starts_with("resilver") {
            ScanKind::Resilver
        } else if text.starts_with("scrub") {
            ScanKind::Scrub
        } else {
            return None;
        };
        Some(Self {
            kind,
            phase: phase(&text, &words),
            text,
        })
    }

    /// Whether it is under way.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self.phase, ScanPhase::Running { .. })
    }
}

fn phase(text: &str, words: &[&str]) -> ScanPhase {
    if text.contains("in progress") {
        return ScanPhase::Running {
            done_hundredths: words.iter().find_map(|word| hundredths(word)),
            repaired_bytes: repaired_bytes(words),
        };
    }
    if text.contains("paused") {
        return ScanPhase::Paused;
    }
    // `canceled on`, and before that `stopped after … with N errors on`.
    if text.contains("canceled") || text.contains("stopped") {
        return ScanPhase::Stopped;
    }
    let errors = words
        .windows(3)
        .find(|window| window[0] == "with" && window[2].starts_with("error"))
        .and_then(|window| rounded(window[1]));
    match errors {
        Some(errors) => ScanPhase::Finished {
            errors,
            repaired_bytes: repaired_bytes(words),
            ended_s: text.rsplit_once(" on ").and_then(|(_, time)| ctime_s(time)),
        },
        None => ScanPhase::Unknown,
    }
}

/// The number before or behind `repaired` or `resilvered`.
fn repaired_bytes(words: &[&str]) -> Option<u64> {
    let at = words
        .iter()
        .position(|word| matches!(word.trim_end_matches(','), "repaired" | "resilvered"))?;
    let behind = words.get(at + 1).and_then(|word| rounded(word));
    let before = at.checked_sub(1).and_then(|at| words.get(at));
    behind.or_else(|| before.and_then(|word| rounded(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(errors: u64, repaired_bytes: Option<u64>, ended_s: Option<u64>) -> ScanPhase {
        ScanPhase::Finished {
            errors,
            repaired_bytes,
            ended_s,
        }
    }

    #[test]
    fn words_of_old_and_new_versions_are_understood() {
        let at = Some(1_795_993_691);
        let cases = [
            // In the format of zfs-fuse 0.7.0 and its predecessors.
            (
                "scrub completed after 0h0m with 2 errors on Sun Nov 29 23:08:11 2026",
                finished(2, None, at),
            ),
            (
                "scrub repaired 128K in 0h0m with 0 errors on Sun Nov 29 23:08:11 2026",
                finished(0, Some(128 << 10), at),
            ),
            (
                "scrub in progress for 0h0m, 1.86% done, 0h3m to go",
                ScanPhase::Running {
                    done_hundredths: Some(186),
                    repaired_bytes: None,
                },
            ),
            (
                "scrub stopped after 0h0m with 0 errors on Sun Nov 29 23:08:11 2026",
                ScanPhase::Stopped,
            ),
            // In the format of OpenZFS 2.2.
            (
                "scrub repaired 1.50M in 00:00:01 with 0 errors on Sun Nov 29 23:08:11 2026",
                finished(0, Some(3 << 19), at),
            ),
            (
                "scrub in progress since Sun Nov 29 23:08:11 2026\n\t1.2G / 3G scanned at 100M/s, \
                 500M / 3G issued at 50M/s\n\t0B repaired, 16.20% done, 00:00:50 to go",
                ScanPhase::Running {
                    done_hundredths: Some(1620),
                    repaired_bytes: Some(0),
                },
            ),
            (
                "scrub paused since Sun Nov 29 23:08:11 2026\n\tscrub started on Sun Nov 29 23:00:00 2026",
                ScanPhase::Paused,
            ),
            (
                "scrub canceled on Sun Nov 29 23:08:11 2026",
                ScanPhase::Stopped,
            ),
            (
                "resilvered 4K in 00:00:00 with 0 errors on Sun Nov 29 23:08:11 2026",
                finished(0, Some(4096), at),
            ),
            ("scrub of another kind", ScanPhase::Unknown),
        ];
        for (text, phase) in cases {
            let scan = Scan::parse(text).unwrap();
            assert_eq!(scan.phase, phase, "{text}");
            assert_eq!(
                scan.kind == ScanKind::Resilver,
                text.starts_with("resilver")
            );
        }
        assert_eq!(Scan::parse("none requested"), None);
        assert_eq!(Scan::parse(""), None);
    }
}
