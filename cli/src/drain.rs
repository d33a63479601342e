//! Emptying, keeping and forgetting object servers.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use proto::mrc::request::Op;
use proto::mrc::{self, OsdRemove, OsdSet};
use serde_json::json;
use shell::admin::Admin;
use shell::local::LocalCluster;

use crate::find::Found;
use crate::jobs;
use crate::lists::osds_known;
use crate::outcome::{Done, Failure};

/// Between two looks at how far a drain is. 500 ms: as often as object servers report.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long a server that is to be removed may still count as up. 10 s: with most settings of `osd_timeout_ms` one
/// that was just stopped is missed by then.
const SILENCE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Brings what a server holds to others; if `wait`, until nothing is left.
pub(crate) async fn drain(admin: &Admin, osd: u64, wait: bool) -> Result<Done, Failure> {
    let draining = true;
    admin
        .ask_leader(Op::OsdSet(OsdSet { osd, draining }))
        .await?;
    let mut left = find(admin, osd).await?.pgs;
    let all = left;
    let mut told = String::new();
    while wait && left > 0 {
        if let Some(obstacle) = obstacle(&jobs::ask(admin).await?)
            && obstacle != told
        {
            eprintln!("\r{obstacle}");
            told = obstacle;
        }
        if io::stderr().is_terminal() {
            eprint!("\r{} of {all} placement groups left ", left);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        let found = find(admin, osd).await?;
        if !found.draining {
            return Err(Failure::failed(format!(
                "somebody said meanwhile that object server {osd} is to be kept"
            )));
        }
        left = found.pgs;
    }
    if wait && io::stderr().is_terminal() {
        eprintln!();
    }
    let text = match left {
        0 => format!(
            "object server {osd} holds nothing any more; `xfs-admin osd remove {osd}` forgets it"
        ),
        left => format!(
            "object server {osd} is being drained, {left} placement groups are left; `xfs-admin osd \
             list` shows how far it is"
        ),
    };
    Ok(done(
        text,
        json!({ "osd": osd, "draining": true, "placement_groups_left": left }),
    ))
}

/// Why nothing goes on, if so.
fn obstacle(jobs: &mrc::Jobs) -> Option<String> {
    if jobs.paused {
        return Some("copying is paused: `xfs-admin job resume`".to_owned());
    }
    let stuck = jobs.notes.iter().find(|note| note.state == "stuck")?;
    Some(format!(
        "volume {}, placement group {}: {} (`xfs-admin job list` shows all)",
        stuck.volume, stuck.pg, stuck.why
    ))
}

/// Lets a server hold replicas again.
pub(crate) async fn undrain(admin: &Admin, osd: u64) -> Result<Done, Failure> {
    let draining = false;
    admin
        .ask_leader(Op::OsdSet(OsdSet { osd, draining }))
        .await?;
    let text = format!("object server {osd} may hold replicas again");
    Ok(done(text, json!({ "osd": osd, "draining": false })))
}

/// Forgets a server that holds nothing.
pub(crate) async fn remove(admin: &Admin, found: &Found, osd: u64) -> Result<Done, Failure> {
    let give_up = Instant::now() + SILENCE_WAIT_MAX;
    while find(admin, osd).await?.state != "down" {
        if Instant::now() >= give_up {
            return Err(Failure::failed(format!(
                "object server {osd} counts as running and would come back at once; stop it first, and try again when `osd_timeout_ms` is over"
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    admin.ask_leader(Op::OsdRemove(OsdRemove { osd })).await?;
    if let Some(local) = &found.local {
        // Or `oxfs up` would start it again.
        LocalCluster::open(local.dir())?.remove_osd(osd)?;
    }
    let text = format!("object server {osd} is forgotten; its directory stays");
    Ok(done(text, json!({ "removed": osd })))
}

async fn find(admin: &Admin, osd: u64) -> Result<mrc::Osd, Failure> {
    let mut known = osds_known(admin).await?.into_iter();
    known.find(|known| known.osd == osd).ok_or_else(|| {
        Failure::failed(format!(
            "there is no object server {osd}; `xfs-admin osd list` shows those there are"
        ))
    })
}

fn done(text: String, json: serde_json::Value) -> Done {
    Done {
        text,
        json: json.to_string(),
        missing: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_says_what_keeps_it_from_going_on() {
        let note = |state: &str, why: &str| mrc::PgNote {
            volume: 1,
            pg: 3,
            state: state.to_owned(),
            why: why.to_owned(),
            ..mrc::PgNote::default()
        };
        let mut jobs = mrc::Jobs {
            notes: vec![note("changing", "waits for server 2 to hold everything")],
            ..mrc::Jobs::default()
        };
        assert_eq!(obstacle(&jobs), None);

        jobs.notes.push(note("stuck", "no server has room"));
        let text = obstacle(&jobs).unwrap();
        assert!(
            text.contains("placement group 3: no server has room"),
            "{text}"
        );

        jobs.paused = true;
        assert!(obstacle(&jobs).unwrap().contains("job resume"));
    }
}
