//! What the cluster does by itself about replicas that are not where they should be.

use std::collections::HashMap;

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{JobList, JobSet, Jobs, VolumeList};
use serde::Serialize;
use shell::admin::Admin;

use crate::lists::{Seeding, odd};
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

#[derive(Debug, Serialize)]
struct Job {
    /// `osd 3`, or `VOLUME.PG`.
    subject: String,
    state: String,
    /// What is left to do, or why it is not done.
    text: String,
}

impl Row for Job {
    const HEADINGS: &'static [&'static str] = &["subject", "state", "what"];

    fn cells(&self) -> Vec<String> {
        vec![self.subject.clone(), self.state.clone(), self.text.clone()]
    }
}

pub(crate) async fn list(admin: &Admin) -> Result<Done, Failure> {
    let Reply::Volumes(volumes) = admin.ask_leader(Op::VolumeList(VolumeList {})).await? else {
        return Err(odd());
    };
    let volumes = volumes.volumes.into_iter();
    let names: HashMap<u64, String> = volumes.map(|volume| (volume.volume, volume.name)).collect();
    let jobs = ask(admin).await?;
    let draining = jobs.draining.iter().map(|draining| Job {
        subject: format!("osd {}", draining.osd),
        state: "draining".to_owned(),
        text: format!(
            "{} placement groups with about {} left",
            draining.pgs,
            render::bytes(draining.bytes)
        ),
    });
    let groups = jobs.notes.iter().map(|note| {
        let number = note.volume.to_string();
        let volume = names.get(&note.volume).unwrap_or(&number);
        Job {
            subject: format!("{volume}.{}", note.pg),
            state: note.state.clone(),
            text: note.why.clone(),
        }
    });
    let seedings = jobs.seedings.iter().map(|one| {
        let number = one.volume.to_string();
        let volume = names.get(&one.volume).unwrap_or(&number);
        Job {
            subject: format!("{volume}.{}", one.pg),
            state: "seeding".to_owned(),
            text: format!(
                "comes to object server {} as a whole, {}",
                one.osd,
                Seeding::from(one).progress()
            ),
        }
    });
    let rows: Vec<Job> = draining.chain(groups).chain(seedings).collect();
    let mut done = render::list(&rows);
    done.missing.extend(unknown(&jobs));
    if done.missing.is_empty() && rows.is_empty() {
        done.text = format!(
            "nothing to do: all {} placement groups are as they should be",
            jobs.pgs_healthy
        );
    }
    Ok(done)
}

/// What a program is told of all that is to be done.
#[derive(Debug, Serialize)]
struct Summary {
    paused: bool,
    /// Of the cluster; 0: the default, which is so much of each object server.
    limit_bytes_per_s: u64,
    default_bytes_per_s_each: u64,
    rate_bytes_per_s: u64,
    moved_bytes: u64,
    left_bytes: u64,
    /// None if nothing moves.
    remaining_s: Option<u64>,
    groups_healthy: u64,
    groups_changing: u64,
    groups_waiting: u64,
    groups_stuck: u64,
    /// Replicas that come as a whole, from a store on ZFS to another.
    seedings: Vec<Seeding>,
}

impl From<&Jobs> for Summary {
    fn from(jobs: &Jobs) -> Self {
        Self {
            paused: jobs.paused,
            limit_bytes_per_s: jobs.limit_bytes_per_s,
            default_bytes_per_s_each: jobs.default_bytes_per_s_each,
            rate_bytes_per_s: jobs.rate_bytes_per_s,
            moved_bytes: jobs.moved_bytes,
            left_bytes: jobs.left_bytes,
            remaining_s: remaining_s(jobs.left_bytes, jobs.rate_bytes_per_s),
            groups_healthy: jobs.pgs_healthy,
            groups_changing: jobs.pgs_changing,
            groups_waiting: jobs.pgs_below,
            groups_stuck: jobs.pgs_stuck,
            seedings: jobs.seedings.iter().map(Seeding::from).collect(),
        }
    }
}

impl Row for Summary {
    const HEADINGS: &'static [&'static str] = &[
        "changes",
        "limit",
        "rate",
        "moved",
        "left",
        "remaining",
        "healthy",
        "changing",
        "waiting",
        "stuck",
        "seeding",
    ];

    fn cells(&self) -> Vec<String> {
        let limit = match self.limit_bytes_per_s {
            0 => format!(
                "{}/s of each object server (the default)",
                render::bytes(self.default_bytes_per_s_each)
            ),
            limit => format!("{}/s of all object servers together", render::bytes(limit)),
        };
        vec![
            if self.paused { "paused" } else { "go on" }.to_owned(),
            limit,
            format!("{}/s", render::bytes(self.rate_bytes_per_s)),
            format!(
                "{} since this leader leads",
                render::bytes(self.moved_bytes)
            ),
            format!("about {}", render::bytes(self.left_bytes)),
            self.remaining_s.map_or_else(
                || "-".to_owned(),
                |seconds| format!("about {}", render::millis(seconds.saturating_mul(1000))),
            ),
            self.groups_healthy.to_string(),
            self.groups_changing.to_string(),
            self.groups_waiting.to_string(),
            self.groups_stuck.to_string(),
            self.seeding(),
        ]
    }
}

impl Summary {
    /// How far all replicas together are that come as a whole.
    fn seeding(&self) -> String {
        if self.seedings.is_empty() {
            return "-".to_owned();
        }
        let sum = |bytes: fn(&Seeding) -> u64| render::bytes(self.seedings.iter().map(bytes).sum());
        format!(
            "{}, {} of about {}",
            self.seedings.len(),
            sum(|one| one.done_bytes),
            sum(|one| one.total_bytes)
        )
    }
}

/// How long what is left takes at this rate; none if nothing is left, or nothing moves.
fn remaining_s(left_bytes: u64, bytes_per_s: u64) -> Option<u64> {
    match left_bytes {
        0 => None,
        left => left.checked_div(bytes_per_s).map(|seconds| seconds.max(1)),
    }
}

/// How far all of it is, and how fast it goes.
pub(crate) async fn show(admin: &Admin) -> Result<Done, Failure> {
    let jobs = ask(admin).await?;
    let mut done = render::one(&Summary::from(&jobs));
    done.missing.extend(unknown(&jobs));
    Ok(done)
}

/// Pauses or resumes changes, or limits how fast they copy.
pub(crate) async fn set(admin: &Admin, set: JobSet) -> Result<Done, Failure> {
    admin.ask_leader(Op::JobSet(set)).await?;
    let jobs = ask(admin).await?;
    Ok(render::one(&Summary::from(&jobs)))
}

pub(crate) async fn ask(admin: &Admin) -> Result<Jobs, Failure> {
    match admin.ask_leader(Op::JobList(JobList {})).await? {
        Reply::Jobs(jobs) => Ok(jobs),
        _ => Err(odd()),
    }
}

fn unknown(jobs: &Jobs) -> Option<String> {
    let text = "the metadata leader was elected a moment ago and has not looked yet; ask again in some \
                seconds";
    jobs.unknown.then(|| text.to_owned())
}

/// A rate as `64MiB`, in bytes per second; `default` is 0.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    if text == "default" {
        return Ok(0);
    }
    let wrong =
        || format!("{text:?} is no rate; give bytes per second as 50MiB or 1GiB, or `default`");
    crate::units::bytes(text).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_unit_and_nonsense_is_named() {
        assert_eq!(rate("default"), Ok(0));
        assert_eq!(rate("1048576"), Ok(1 << 20));
        assert_eq!(rate("50MiB"), Ok(50 << 20));
        assert_eq!(rate("2G"), Ok(2 << 30));
        for wrong in ["", "0", "MiB", "-1", "5X", "99999999999TiB", "1.5G"] {
            let error = rate(wrong).unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn remaining_time_is_told_only_while_something_moves() {
        assert_eq!(remaining_s(0, 5), None);
        assert_eq!(remaining_s(100, 0), None);
        assert_eq!(remaining_s(100, 10), Some(10));
        assert_eq!(remaining_s(1, 10), Some(1));
    }
}
