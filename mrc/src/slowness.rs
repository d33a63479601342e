//! Whether a metadata server's disk is slow, and whether a leader gives up the lead for it.
//!
//! A leader whose disk hangs goes on sending heartbeats, so nobody stands against it. Its log needs its
//! own disk only if not enough others have theirs, but its index and its checkpoints do, and what it has
//! not written it must keep in memory. So the lead goes to a server whose disk is better, if there is one
//! and the others can do without this one. If all disks are slow nothing is gained, and nothing changes.

use std::time::{Duration, Instant};

use crate::members::JOIN_LAG_ENTRIES_MAX;
use crate::write_pace::Writes;

/// How long one write of the log, synced, may take. 1 s: a busy disk takes a tenth of that, and mounts
/// begin to look for another server after this time.
pub(crate) const SLOW_WRITE: Duration = Duration::from_secs(1);

/// How long every write must have been slow until the lead is given up. 3 s: one long sync, of a disk that
/// wakes up or that another program fills, is over by then.
pub(crate) const SLOW_FOR: Duration = Duration::from_secs(3);

/// How many times as long as a follower's append the leader's write must take. 4: on disks that are alike
/// they differ by less, and an append has the way there and back in it.
const SLOWER_FACTOR: u32 = 4;

/// How long after the last slow write a disk counts as slow though nothing was written. 10 s: a slow disk
/// with little to do is still slow at the next change.
const QUIET_FORGETS: Duration = Duration::from_secs(10);

/// For how long it counts what a follower took for an append. 10 s: as long as what was seen of this
/// server's own disk; the two are of the same entries.
pub(crate) const APPEND_LATELY: Duration = QUIET_FORGETS;

/// How long a server must have led before it gives up the lead. 5 s: what was measured is its own then, and
/// elections have settled; also what keeps a cluster from passing the lead on faster.
const LEADS_LEAST: Duration = Duration::from_secs(5);

/// How long after it gave up the lead a server keeps it if it gets it again. 60 s: however disks change,
/// each server gives it up once in this time at most, so three of them at most three times.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(60);

/// A voter that could lead instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Follower {
    pub number: u64,
    /// It answered within the lease.
    pub heard: bool,
    /// Entries of the log that it lacks, if that is known.
    pub lag: Option<u64>,
    /// How long it took to store the newest entries it answered for, if that was lately.
    pub append: Option<Duration>,
}

/// What a leader does about its disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// The disk is not slow, or not for long enough.
    Fine,
    /// It is slow, but a majority without this server has no better ones, or the lead was given up lately.
    Stays,
    /// Another server has the better disk.
    GivesUp,
}

/// How slow the disk is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Slow {
    /// For how long every write has been slow.
    pub lasted: Duration,
    /// What the newest write took, or has taken until now.
    pub write: Duration,
}

/// What is remembered of looks at the log's writer.
#[derive(Debug, Default)]
pub(crate) struct Slowness {
    /// When the first of the slow writes in a row began.
    since: Option<Instant>,
    /// The newest slow write.
    write: Duration,
    seen: Option<Instant>,
    gave_up: Option<Instant>,
}

impl Slowness {
    /// Takes what was seen at `now`.
    pub(crate) fn look(&mut self, now: Instant, writes: &Writes) {
        if writes
            .quickest
            .is_some_and(|quickest| quickest < SLOW_WRITE)
        {
            self.since = None;
        }
        let longest = writes.slowest.max(writes.going_on);
        match longest.filter(|longest| *longest >= SLOW_WRITE) {
            Some(write) if writes.quickest.is_none_or(|it| it >= SLOW_WRITE) => {
                self.since = self.since.or_else(|| now.checked_sub(write));
                (self.write, self.seen) = (write, Some(now));
            }
            // Quick ones came in between: only what goes on now counts.
            Some(_) => {
                let going_on = writes.going_on.filter(|it| *it >= SLOW_WRITE);
                self.since = going_on.and_then(|it| now.checked_sub(it));
                (self.write, self.seen) = (going_on.unwrap_or_default(), Some(now));
            }
            None => {
                let quiet = self.seen.map(|seen| now.saturating_duration_since(seen));
                self.since = self
                    .since
                    .filter(|_| quiet.is_some_and(|quiet| quiet < QUIET_FORGETS));
            }
        }
    }

    /// How slow the disk is, if every write has been slow for long enough.
    pub(crate) fn slow(&self) -> Option<Slow> {
        // Up to the newest of them: one slow write and nothing after it is not for long.
        let lasted = self.seen?.saturating_duration_since(self.since?);
        (lasted >= SLOW_FOR).then_some(Slow {
            lasted,
            write: self.write,
        })
    }

    /// What a leader of `leads_for` does, whose majority has `majority` voters.
    pub(crate) fn judge(
        &self,
        now: Instant,
        leads_for: Duration,
        (followers, majority): (&[Follower], usize),
    ) -> Verdict {
        let Some(slow) = self.slow() else {
            return Verdict::Fine;
        };
        let better = followers.iter().filter(|it| it.is_better(slow.write));
        let paused = self
            .gave_up
            .is_some_and(|at| now.saturating_duration_since(at) < GIVE_UP_PAUSE);
        if paused || leads_for < LEADS_LEAST || better.count() < majority {
            return Verdict::Stays;
        }
        Verdict::GivesUp
    }

    /// The lead was given up.
    pub(crate) fn gave_up(&mut self, now: Instant) {
        self.gave_up = Some(now);
    }
}

impl Follower {
    /// What it took to store the newest entries, for a log line.
    pub(crate) fn append_ms(&self) -> Option<(u64, u128)> {
        self.append.map(|append| (self.number, append.as_millis()))
    }

    /// Whether its disk takes far less than a write here, and it could lead at once.
    fn is_better(&self, write: Duration) -> bool {
        let quick = self
            .append
            .is_some_and(|append| append.saturating_mul(SLOWER_FACTOR) <= write);
        let lacks_little = self.lag.is_some_and(|lag| lag <= JOIN_LAG_ENTRIES_MAX);
        self.heard && lacks_little && quick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(100);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn hangs(for_time: Duration) -> Writes {
        Writes {
            going_on: Some(for_time),
            ..Writes::default()
        }
    }

    fn ended(quickest: Duration, slowest: Duration) -> Writes {
        Writes {
            going_on: None,
            quickest: Some(quickest),
            slowest: Some(slowest),
        }
    }

    fn follower(number: u64) -> Follower {
        Follower {
            number,
            heard: true,
            lag: Some(0),
            append: Some(Duration::from_millis(10)),
        }
    }

    /// Of three servers.
    fn judge(slowness: &Slowness, now: Instant, followers: &[Follower]) -> Verdict {
        slowness.judge(now, LONG, (followers, 2))
    }

    #[test]
    fn hung_disk_gives_up_the_lead_after_its_time_and_not_before() {
        let start = Instant::now();
        let both = [follower(2), follower(3)];
        let mut slowness = Slowness::default();

        slowness.look(start + secs(2), &hangs(secs(2)));
        let early = judge(&slowness, start + secs(2), &both);
        slowness.look(start + secs(3), &hangs(secs(3)));
        let late = judge(&slowness, start + secs(3), &both);

        assert_eq!((early, late), (Verdict::Fine, Verdict::GivesUp));
    }

    #[test]
    fn writes_that_are_slow_one_after_the_other_count_together_and_one_quick_one_ends_it() {
        let start = Instant::now();
        let mut slowness = Slowness::default();
        for second in 1..=3 {
            slowness.look(start + secs(second), &ended(secs(1), secs(1)));
        }
        assert!(slowness.slow().is_some());

        slowness.look(start + secs(4), &ended(Duration::from_millis(5), secs(1)));
        assert_eq!(slowness.slow(), None);
        slowness.look(start + secs(5), &ended(secs(1), secs(1)));
        slowness.look(start + secs(9), &Writes::default());
        assert_eq!(slowness.slow(), None, "one slow write is not for long");
    }

    #[test]
    fn quick_round_before_one_that_hangs_does_not_hide_it() {
        let start = Instant::now();
        let mut slowness = Slowness::default();
        let writes = Writes {
            going_on: Some(secs(4)),
            ..ended(Duration::from_millis(5), Duration::from_millis(5))
        };

        slowness.look(start + secs(9), &writes);

        let slow = slowness.slow().unwrap();
        assert_eq!((slow.lasted, slow.write), (secs(4), secs(4)));
    }

    #[test]
    fn slow_disk_with_little_to_do_is_remembered_for_a_while() {
        let start = Instant::now();
        let mut slowness = Slowness::default();
        slowness.look(start + secs(4), &ended(secs(4), secs(4)));

        slowness.look(start + secs(13), &Writes::default());
        assert!(slowness.slow().is_some());
        slowness.look(start + secs(14), &Writes::default());
        assert_eq!(slowness.slow(), None);
    }

    #[test]
    fn lead_stays_where_the_others_cannot_do_without_this_disk_or_have_none_better() {
        let start = Instant::now();
        let mut slowness = Slowness::default();
        slowness.look(start + secs(4), &hangs(secs(4)));
        let now = start + secs(4);
        let slow_too = Follower {
            append: Some(Duration::from_millis(1001)),
            ..follower(3)
        };
        let silent = Follower {
            heard: false,
            ..follower(3)
        };
        let behind = Follower {
            lag: Some(JOIN_LAG_ENTRIES_MAX + 1),
            ..follower(3)
        };
        let unknown = Follower {
            append: None,
            ..follower(3)
        };

        for other in [slow_too, silent, behind, unknown] {
            let verdict = judge(&slowness, now, &[follower(2), other]);
            assert_eq!(verdict, Verdict::Stays, "{other:?}");
        }
        assert_eq!(judge(&slowness, now, &[follower(2)]), Verdict::Stays);
        assert_eq!(judge(&slowness, now, &[]), Verdict::Stays);
        let just_quick_enough = Follower {
            append: Some(secs(1)),
            ..follower(3)
        };
        let verdict = judge(&slowness, now, &[follower(2), just_quick_enough]);
        assert_eq!(verdict, Verdict::GivesUp);
    }

    #[test]
    fn lead_is_not_passed_around() {
        let start = Instant::now();
        let both = [follower(2), follower(3)];
        let mut slowness = Slowness::default();
        let mut given_up = Vec::new();

        for second in 4..200 {
            let now = start + secs(second);
            slowness.look(now, &hangs(secs(4)));
            if judge(&slowness, now, &both) == Verdict::GivesUp {
                slowness.gave_up(now);
                given_up.push(second);
            }
        }

        assert_eq!(given_up, [4, 64, 124, 184]);
        slowness.look(start + secs(999), &hangs(secs(4)));
        let new = slowness.judge(start + secs(999), secs(4), (&both, 2));
        assert_eq!(new, Verdict::Stays, "it leads since a moment ago");
    }
}
