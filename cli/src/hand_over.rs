//! `lease hand-over`: another replica becomes primary.

use std::time::{Duration, Instant};

use proto::osd::{self, ObjectRef, request::Op};
use serde::Serialize;
use shell::admin::Admin;

use crate::leases::{all_osds, name, parse, views};
use crate::lists::odd;
use crate::osds::{Osd, ask, silent};
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

/// How long a successor may take to take the lease over.
const TAKE_OVER_TIME: Duration = Duration::from_secs(5);
/// Pause before it is asked again whether it has.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(20);

/// A lease that changed hands.
#[derive(Debug, Serialize)]
struct HandedOver {
    object: String,
    from: u64,
    to: u64,
    epoch: u64,
    took_ms: u64,
}

impl Row for HandedOver {
    const HEADINGS: &'static [&'static str] = &["object", "from", "to", "epoch", "took"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.object.clone(),
            self.from.to_string(),
            self.to.to_string(),
            self.epoch.to_string(),
            render::millis(self.took_ms),
        ]
    }
}

pub(crate) async fn run(admin: &Admin, object: &str, to: Option<u64>) -> Result<Done, Failure> {
    let object = parse(admin, object).await?;
    let text = name(object.volume, object.inode, object.column);
    let (views, missing) = views(admin, object).await?;
    let Some(held) = views.iter().find(|view| view.state == "held") else {
        let said = missing.join("; ");
        return Err(Failure::failed(match said.is_empty() {
            true => format!("nobody holds the lease of {text}; it is taken when the file is used"),
            false => format!("nobody who answers holds the lease of {text} ({said})"),
        }));
    };
    let (from, old_epoch) = (held.osd, held.epoch);
    let to = match to {
        Some(to) => to,
        None => successor(&held.members, from).ok_or_else(|| {
            Failure::failed(format!(
                "{text} has one replica; nobody could take the lease"
            ))
        })?,
    };
    let osds = all_osds(admin).await?;
    let find = |id| {
        let found = osds.iter().find(|osd| osd.id == id);
        found.ok_or_else(|| {
            Failure::failed(format!(
                "there is no object server {id}; `xfs-admin osd list` shows those there are"
            ))
        })
    };
    let (holder, heir) = (find(from)?, find(to)?);
    let begun = Instant::now();
    let order = Op::LeaseHandOver(osd::LeaseHandOver { to });
    ask(admin, holder, Some(object), order)
        .await
        .map_err(|error| Failure::failed(silent(holder, &error)))?;
    let epoch = match from == to {
        true => old_epoch,
        false => taken_over(admin, heir, object).await?,
    };
    Ok(render::one(&HandedOver {
        object: text,
        from,
        to,
        epoch,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}

/// The member after the holder.
fn successor(members: &[u64], holder: u64) -> Option<u64> {
    let at = members.iter().position(|member| *member == holder)?;
    let next = members.get((at + 1) % members.len()).copied()?;
    (next != holder).then_some(next)
}

/// Waits until the successor holds the lease; the result is its epoch.
async fn taken_over(admin: &Admin, heir: &Osd, object: ObjectRef) -> Result<u64, Failure> {
    let begun = Instant::now();
    loop {
        let op = Op::LeaseShow(osd::LeaseShow {});
        let answer = ask(admin, heir, Some(object), op).await;
        let detail = answer
            .map_err(|error| Failure::failed(silent(heir, &error)))?
            .lease_detail
            .ok_or_else(odd)?;
        if detail.state == "held" {
            return Ok(detail.epoch);
        }
        if begun.elapsed() > TAKE_OVER_TIME {
            return Err(Failure::failed(format!(
                "the lease was given up, but osd {} has not taken it; its state there: {}",
                heir.id, detail.state
            )));
        }
        tokio::time::sleep(TAKE_OVER_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_the_member_after_the_holder() {
        assert_eq!(successor(&[4, 7, 9], 4), Some(7));
        assert_eq!(successor(&[4, 7, 9], 9), Some(4));
        assert_eq!(successor(&[4], 4), None);
        assert_eq!(successor(&[4, 7], 5), None);
    }
}
