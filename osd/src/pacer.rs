//! How fast this server brings copies of others up: as the metadata leader says.
//!
//! What is sent is charged at once. Answers of replicas that have more sent to them (sums of a window of
//! blocks, and that a repair was done) wait, in the order of their arrival, until what was charged before
//! has had its time. So no more than a window of an object leaves ahead of its time.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::mrc;
use shell::metrics::Metric;
use tokio::sync::Notify;
use types::{PgId, PgKey, VolumeId};

use crate::config::REPAIR_BYTES_PER_S;

type Release = Box<dyn FnOnce() + Send>;

/// Clones pace together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pacer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// As told; none: nobody has told yet.
    bytes_per_s: Option<u64>,
    /// Groups of which nothing more is begun.
    held: BTreeSet<PgKey>,
    sent_bytes: u64,
    /// The server stops: nothing is held back any more.
    let_go: bool,
    /// Sent, but not counted into when the next answer is due.
    charged_bytes: u64,
    /// Answers whose time has not come, with what they cost; at most those that primaries wait for.
    queue: VecDeque<(u64, Release)>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("bytes_per_s", &self.bytes_per_s)
            .field("held", &self.held)
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl Pacer {
    /// Goes by what the leader said from now on.
    pub(crate) fn told(&self, pace: &mrc::Pace) {
        let held = pace.held.iter().map(|group| PgKey {
            volume: VolumeId(group.volume),
            pg: PgId(group.pg),
        });
        let mut state = self.lock();
        state.bytes_per_s = Some(pace.bytes_per_s.max(1));
        state.held = held.collect();
        drop(state);
        self.0.changed.notify_one();
    }

    /// Holds nothing back any more, whatever is told: a server that stops waits for what is under way.
    pub(crate) fn let_go(&self) {
        self.lock().let_go = true;
        self.0.changed.notify_one();
    }

    /// Whether nothing more of a group is to be begun.
    pub(crate) fn holds(&self, group: PgKey) -> bool {
        self.lock().held.contains(&group)
    }

    /// Counts a repair; what comes later waits for it if it is `paced`.
    pub(crate) fn sent(&self, bytes: u64, paced: bool) {
        let mut state = self.lock();
        state.sent_bytes = state.sent_bytes.saturating_add(bytes);
        if paced {
            state.charged_bytes = state.charged_bytes.saturating_add(bytes);
        }
    }

    /// Bytes of all repairs since the start.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.lock().sent_bytes
    }

    /// For collectors.
    pub(crate) fn metrics(&self) -> [Metric; 2] {
        let state = self.lock();
        [
            Metric::counter(
                "oxfs_osd_recovery_sent_bytes",
                "Bytes sent to bring copies of others up",
                state.sent_bytes,
            ),
            Metric::gauge(
                "oxfs_osd_recovery_limit_bytes",
                "Bytes per second that may be sent to bring copies of others up",
                state.bytes_per_s.unwrap_or(REPAIR_BYTES_PER_S),
            ),
        ]
    }

    /// Calls `release` when what was sent before has had its time, and work like so many bytes.
    pub(crate) fn submit(&self, bytes: u64, release: impl FnOnce() + Send + 'static) {
        self.lock().queue.push_back((bytes, Box::new(release)));
        self.0.changed.notify_one();
    }

    /// Releases what was submitted, for ever.
    pub(crate) async fn run(self) {
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            let next = {
                let mut state = self.lock();
                let rate = match state.let_go {
                    true => u64::MAX,
                    false => state.bytes_per_s.unwrap_or(REPAIR_BYTES_PER_S),
                };
                if state.let_go {
                    due = now;
                }
                let charged = std::mem::take(&mut state.charged_bytes);
                if charged > 0 {
                    due = due_after(due, now, time_of(charged, rate));
                }
                match state.queue.front() {
                    None => Next::Idle,
                    Some((bytes, _)) => match due_after(due, now, time_of(*bytes, rate)) {
                        at if at <= now => {
                            due = at;
                            Next::Release(state.queue.pop_front())
                        }
                        at => Next::Wait(at),
                    },
                }
            };
            match next {
                Next::Idle => self.0.changed.notified().await,
                // Another rate makes another time of it.
                Next::Wait(at) => {
                    let changed = self.0.changed.notified();
                    let _ = tokio::time::timeout_at(at.into(), changed).await;
                }
                Next::Release(released) => {
                    if let Some((_, release)) = released {
                        release();
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Next {
    Idle,
    Wait(Instant),
    Release(Option<(u64, Release)>),
}

/// How long so many bytes take.
fn time_of(bytes: u64, bytes_per_s: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// When work is done that follows what was done at `last`: what was not used is not saved up.
fn due_after(last: Instant, now: Instant, time: Duration) -> Instant {
    let begin = last.max(now.checked_sub(time).unwrap_or(now));
    begin.checked_add(time).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn repairs_follow_each_other_at_the_rate_and_idle_time_is_not_saved_up() {
        let now = Instant::now() + 100 * SECOND;
        assert_eq!(time_of(3 << 20, 1 << 20), 3 * SECOND);
        // Long idle: at once, and the next one a second later.
        let first = due_after(now - 50 * SECOND, now, SECOND);
        assert_eq!(first, now);
        assert_eq!(due_after(first, now, SECOND), now + SECOND);
        assert_eq!(time_of(u64::MAX, 0), Duration::from_nanos(u64::MAX));
    }

    fn pace(bytes_per_s: u64) -> mrc::Pace {
        mrc::Pace {
            bytes_per_s,
            held: Vec::new(),
        }
    }

    #[tokio::test]
    async fn another_rate_counts_for_what_waits_already() {
        let pacer = Pacer::default();
        let done = Arc::new(AtomicU64::new(0));
        pacer.told(&pace(1));
        for _ in 0..10 {
            let done = Arc::clone(&done);
            pacer.submit(1 << 20, move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        tokio::spawn(pacer.clone().run());
        tokio::task::yield_now().await;
        assert_eq!(
            done.load(Ordering::Relaxed),
            0,
            "a megabyte takes twelve days"
        );

        pacer.told(&pace(u64::MAX));
        let deadline = Instant::now() + 60 * SECOND;
        while done.load(Ordering::Relaxed) < 10 {
            assert!(Instant::now() < deadline, "{pacer:?}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn server_that_stops_holds_nothing_back() {
        let pacer = Pacer::default();
        pacer.told(&pace(1));
        pacer.sent(1 << 30, true);
        let (release, released) = tokio::sync::oneshot::channel();
        pacer.submit(1 << 30, move || release.send(()).unwrap());
        let running = tokio::spawn(pacer.clone().run());

        pacer.let_go();
        pacer.told(&pace(1));

        tokio::time::timeout(60 * SECOND, released)
            .await
            .unwrap()
            .unwrap();
        running.abort();
    }

    #[test]
    fn groups_are_held_until_it_is_said_otherwise() {
        let pacer = Pacer::default();
        let (volume, pg) = (VolumeId(1), PgId(2));
        let group = PgKey { volume, pg };
        assert!(!pacer.holds(group));
        pacer.told(&mrc::Pace {
            held: vec![mrc::HeldGroup { volume: 1, pg: 2 }],
            ..pace(1)
        });
        assert!(pacer.holds(group));
        pacer.told(&pace(1));
        assert!(!pacer.holds(group));
    }
}
