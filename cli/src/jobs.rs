//! What the cluster does by itself about replicas that are not where they should be.

use std::collections::HashMap;

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{JobList, VolumeList};
use serde::Serialize;
use shell::admin::Admin;

use crate::lists::odd;
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
    let Reply::Jobs(jobs) = admin.ask_leader(Op::JobList(JobList {})).await? else {
        return Err(odd());
    };
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
    let rows: Vec<Job> = draining.chain(groups).collect();
    let mut done = render::list(&rows);
    if jobs.unknown {
        done.missing.push(
            "the metadata leader was elected a moment ago and has not looked yet; ask again in some \
             seconds"
                .to_owned(),
        );
    } else if rows.is_empty() {
        done.text = format!(
            "nothing to do: all {} placement groups are as they should be",
            jobs.pgs_healthy
        );
    }
    Ok(done)
}
