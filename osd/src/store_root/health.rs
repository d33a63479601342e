//! How the pool of a store on ZFS is, as last seen, and whether the store can go on.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shell::metrics::Metric;
use types::PgKey;
use zfs_driver::{DataErrors, Error, Pool, PoolStatus, Room, State, Tree};

use crate::config::POOL_SILENCE;

/// How the pool is, in words for people.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct PoolHealth {
    /// The dataset of the store.
    pub(crate) dataset: String,
    /// `online`, `degraded` and so on.
    pub(crate) state: String,
    /// Nothing is wrong with it.
    pub(crate) is_healthy: bool,
    /// What is wrong, if anything is.
    pub(crate) problem: String,
    /// The present or last scrub or resilver, in the pool's words; empty if there was none.
    pub(crate) scan: String,
}

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    pool: PoolHealth,
    room: Room,
    at: Option<Instant>,
}

impl Health {
    /// Looks at the pool; returns why the store can't go on, if it can't. `lost` is a group that is not
    /// mounted any more.
    pub(super) fn look(
        &self,
        pool: &Pool,
        tree: &Tree,
        lost: Option<&(PgKey, io::Error)>,
    ) -> Option<String> {
        let status = pool.status();
        let (mut health, failure) = judge(&status, lost);
        health.dataset = tree.root().to_string();
        let known = self.room();
        // As large as before, and nothing free.
        let none = Room {
            used_bytes: known.used_bytes.saturating_add(known.available_bytes),
            available_bytes: 0,
        };
        let room = match &status {
            // It would wait for the same.
            Err(_) => none,
            Ok(_) => tree.room().unwrap_or_else(|error| {
                health.is_healthy = false;
                health.problem = error.to_string();
                none
            }),
        };
        let mut seen = self.lock();
        if seen.pool.problem != health.problem && !health.problem.is_empty() {
            tracing::error!(pool = %pool.name(), problem = health.problem, "the pool has a problem");
        }
        *seen = Seen {
            pool: health,
            room,
            at: Some(Instant::now()),
        };
        failure
    }

    /// What was seen last.
    pub(super) fn last(&self) -> PoolHealth {
        let seen = self.lock();
        let age = seen.at.map_or(Duration::ZERO, |at| at.elapsed());
        after_silence(seen.pool.clone(), age)
    }

    /// Room as seen last; nothing is free after a look that failed.
    pub(super) fn room(&self) -> Room {
        self.lock().room
    }

    /// For collectors; none if nothing was ever seen.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let seen = self.lock();
        if seen.pool.dataset.is_empty() {
            return Vec::new();
        }
        let help = "1 while nothing is wrong with the pool of the store";
        let age = seen.at.map_or(Duration::ZERO, |at| at.elapsed());
        let healthy = u64::from(after_silence(seen.pool.clone(), age).is_healthy);
        vec![Metric::gauge("oxfs_osd_pool_healthy", help, healthy)]
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the pool is, if the newest look is so old. One that does not end says that the pool or its daemon hangs.
fn after_silence(pool: PoolHealth, age: Duration) -> PoolHealth {
    if age < POOL_SILENCE {
        return pool;
    }
    let seconds = age.as_secs();
    PoolHealth {
        state: "unknown".to_owned(),
        is_healthy: false,
        problem: format!(
            "it has not answered for {seconds} s; `zpool status` tells whether it hangs"
        ),
        ..pool
    }
}

/// How the pool is, and why the store can't go on, if it can't: what was not synced may be lost then, and what
/// comes back may be older than what the server remembers.
fn judge(
    status: &Result<PoolStatus, Error>,
    lost: Option<&(PgKey, io::Error)>,
) -> (PoolHealth, Option<String>) {
    let lost = lost.map(|(group, error)| format!("placement group {group}: {error}"));
    let mut health = match status {
        Ok(status) => of_status(status),
        Err(error) => PoolHealth {
            state: "unknown".to_owned(),
            problem: error.to_string(),
            ..PoolHealth::default()
        },
    };
    let failed = matches!(
        status.as_ref().map(|status| status.state),
        Ok(State::Faulted | State::Unavailable | State::Suspended)
    );
    let failure = lost.or_else(|| failed.then(|| health.problem.clone()));
    if let Some(failure) = &failure {
        health.is_healthy = false;
        health.problem.clone_from(failure);
    }
    (health, failure)
}

fn of_status(status: &PoolStatus) -> PoolHealth {
    let is_healthy = status.is_healthy();
    let mut problems = Vec::new();
    if !is_healthy {
        for vdev in &status.vdevs {
            let errors = [vdev.read_errors, vdev.write_errors, vdev.checksum_errors];
            if errors != [0; 3] || !matches!(vdev.state, State::Online | State::Spare) {
                let [read, write, checksum] = errors;
                problems.push(format!(
                    "{} is {}: {read} read, {write} write, {checksum} checksum errors",
                    vdev.name,
                    word(vdev.state)
                ));
            }
        }
        if let DataErrors::Some(count) = status.data_errors {
            problems.push(format!("{count} damaged blocks can't be repaired"));
        }
        problems.extend(status.problem.clone());
    }
    PoolHealth {
        state: word(status.state).to_owned(),
        is_healthy,
        problem: problems.join("; "),
        scan: status
            .scan
            .as_ref()
            .map_or_else(String::new, |scan| scan.text.clone()),
        dataset: String::new(),
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Online => "online",
        State::Degraded => "degraded",
        State::Faulted => "faulted",
        State::Offline => "offline",
        State::Unavailable => "unavailable",
        State::Removed => "removed",
        State::Suspended => "suspended",
        State::Spare => "spare",
        State::InUse => "in use",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use types::{PgId, VolumeId};
    use zfs_driver::{Role, Vdev};

    use super::*;

    fn status(state: State, checksum_errors: u64) -> PoolStatus {
        let vdev = Vdev {
            name: "sda".to_owned(),
            depth: 1,
            role: Role::Data,
            state,
            read_errors: 0,
            write_errors: 0,
            checksum_errors,
            note: String::new(),
        };
        PoolStatus {
            state,
            problem: (state != State::Online).then(|| "a device is gone".to_owned()),
            action: None,
            scan: None,
            vdevs: vec![vdev],
            data_errors: DataErrors::None,
        }
    }

    #[test]
    fn pool_that_only_has_errors_is_reported_and_the_store_goes_on() {
        assert_eq!(judge(&Ok(status(State::Online, 0)), None).0.problem, "");

        let (health, failure) = judge(&Ok(status(State::Degraded, 3)), None);

        assert_eq!(failure, None);
        assert!(!health.is_healthy);
        let problem = "sda is degraded: 0 read, 0 write, 3 checksum errors; a device is gone";
        assert_eq!(health.problem, problem);
    }

    #[test]
    fn pool_or_dataset_that_is_gone_fails_the_store() {
        for state in [State::Faulted, State::Unavailable, State::Suspended] {
            let (health, failure) = judge(&Ok(status(state, 0)), None);
            assert!(failure.is_some() && !health.is_healthy, "{state:?}");
        }
        let group = PgKey {
            volume: VolumeId(1),
            pg: PgId(2),
        };
        let lost = (group, io::Error::from_raw_os_error(libc::ENOTCONN));
        let (health, failure) = judge(&Ok(status(State::Online, 0)), Some(&lost));
        assert!(failure.unwrap().contains("1.2"));
        assert!(!health.is_healthy);
    }

    #[test]
    fn pool_that_does_not_answer_is_not_called_healthy_for_ever() {
        let (healthy, _) = judge(&Ok(status(State::Online, 0)), None);

        assert_eq!(
            after_silence(healthy.clone(), Duration::from_secs(5)),
            healthy
        );
        let silent = after_silence(healthy, POOL_SILENCE);
        assert!(
            !silent.is_healthy && silent.problem.contains("60 s"),
            "{silent:?}"
        );
    }

    /// A busy pool may be slow to answer.
    #[test]
    fn silence_alone_fails_nothing() {
        let silence = Error::TimedOut {
            command: "zpool status tank".to_owned(),
            limit: std::time::Duration::from_secs(60),
            said: String::new(),
            is_stuck: false,
        };

        let (health, failure) = judge(&Err(silence), None);

        assert_eq!(failure, None);
        assert!(!health.is_healthy && health.problem.contains("zpool status"));
    }
}
