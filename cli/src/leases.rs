//! Leases: only the object servers know them, so each is asked.

use proto::mrc::{VolumeList, request, response::Reply};
use proto::osd::{self, ObjectRef, request::Op};
use serde::Serialize;
use shell::admin::Admin;

use crate::lists::{odd, osds_known};
use crate::osds::{Osd, ask, ask_all, silent};
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

/// Leases in one answer of a server.
const PAGE: u32 = 1000;

#[derive(Debug, Serialize)]
struct Lease {
    volume: u64,
    inode: u64,
    column: u32,
    holder: u64,
    epoch: u64,
    remaining_ms: u64,
    told_by: u64,
    role: String,
}

impl Row for Lease {
    const HEADINGS: &'static [&'static str] =
        &["object", "holder", "epoch", "remaining", "told by", "as"];

    fn cells(&self) -> Vec<String> {
        vec![
            name(self.volume, self.inode, self.column),
            self.holder.to_string(),
            number_or_dash(self.epoch),
            render::millis(self.remaining_ms),
            self.told_by.to_string(),
            self.role.clone(),
        ]
    }
}

/// An object as it is written on the command line.
pub(crate) fn name(volume: u64, inode: u64, column: u32) -> String {
    match column {
        0 => format!("{volume}/{inode}"),
        column => format!("{volume}/{inode}.{column}"),
    }
}

fn number_or_dash(number: u64) -> String {
    match number {
        0 => "-".to_owned(),
        number => number.to_string(),
    }
}

pub(crate) async fn all_osds(admin: &Admin) -> Result<Vec<Osd>, Failure> {
    let known = osds_known(admin).await?.into_iter();
    let osds = known.map(|osd| Osd {
        id: osd.osd,
        address: osd.address,
    });
    Ok(osds.collect())
}

pub(crate) async fn list(admin: &Admin, limit: u32) -> Result<Done, Failure> {
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    let mut cut = false;
    for osd in all_osds(admin).await? {
        let (mut start, mut left) = (0, limit);
        while left > 0 {
            let page = Op::LeaseList(osd::LeaseList {
                limit: left.min(PAGE),
                start,
            });
            match ask(admin, &osd, None, page).await {
                Ok(answer) => {
                    left = left.saturating_sub(answer.leases.len() as u32);
                    rows.extend(answer.leases.iter().filter_map(|lease| row(osd.id, lease)));
                    start = answer.lease_next;
                }
                Err(error) => {
                    missing.push(silent(&osd, &error));
                    break;
                }
            }
            if start == 0 {
                break;
            }
        }
        cut |= start != 0 && left == 0;
    }
    rows.sort_by_key(|row| (row.volume, row.inode, row.column, row.told_by));
    let mut done = render::list(&rows);
    if cut {
        done.text
            .push_str(&format!("\n(more than {limit} of a server; raise --limit)"));
    }
    done.missing = missing;
    Ok(done)
}

fn row(told_by: u64, lease: &osd::Lease) -> Option<Lease> {
    let object = lease.object?;
    Some(Lease {
        volume: object.volume,
        inode: object.inode,
        column: object.column,
        holder: lease.holder,
        epoch: lease.epoch,
        remaining_ms: lease.remaining_ms,
        told_by,
        role: lease.role.clone(),
    })
}

/// What one server knows of a lease.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    pub(crate) osd: u64,
    pub(crate) state: String,
    holder: u64,
    pub(crate) epoch: u64,
    remaining_ms: u64,
    view: u64,
    pub(crate) members: Vec<u64>,
    promised_counter: u64,
    promised_member: u64,
    floor_epoch: u64,
    idle_ms: u64,
    asking_ms: u64,
    answered: u32,
}

impl Row for View {
    const HEADINGS: &'static [&'static str] = &[
        "osd",
        "state",
        "holder",
        "epoch",
        "remaining",
        "view",
        "members",
        "promised",
        "floor",
        "heard",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match self.state.as_str() {
            "asking" => format!(
                "asking for {}, {} answered",
                render::millis(self.asking_ms),
                self.answered
            ),
            other => other.to_owned(),
        };
        vec![
            self.osd.to_string(),
            state,
            number_or_dash(self.holder),
            number_or_dash(self.epoch),
            render::millis(self.remaining_ms),
            self.view.to_string(),
            render::numbers(&self.members),
            format!("{}.{}", self.promised_counter, self.promised_member),
            self.floor_epoch.to_string(),
            format!("{} ago", render::millis(self.idle_ms)),
        ]
    }
}

pub(crate) async fn show(admin: &Admin, object: &str) -> Result<Done, Failure> {
    let object = parse(admin, object).await?;
    let (views, missing) = views(admin, object).await?;
    let mut done = render::list(&views);
    done.missing = missing;
    Ok(done)
}

/// What all servers that know the lease say, and who did not answer.
pub(crate) async fn views(
    admin: &Admin,
    object: ObjectRef,
) -> Result<(Vec<View>, Vec<String>), Failure> {
    let osds = all_osds(admin).await?;
    let op = Op::LeaseShow(osd::LeaseShow {});
    let mut views = Vec::new();
    let mut missing = Vec::new();
    for (osd, answer) in ask_all(admin, &osds, Some(object), &op).await {
        match answer.map(|answer| answer.lease_detail) {
            Ok(Some(detail)) if detail.state == "unknown" => {}
            Ok(Some(detail)) => views.push(view(osd.id, detail)),
            Ok(None) => return Err(odd()),
            Err(error) => missing.push(silent(&osd, &error)),
        }
    }
    Ok((views, missing))
}

fn view(osd: u64, detail: osd::LeaseDetail) -> View {
    View {
        osd,
        state: detail.state,
        holder: detail.holder,
        epoch: detail.epoch,
        remaining_ms: detail.remaining_ms,
        view: detail.view,
        members: detail.members,
        promised_counter: detail.promised_counter,
        promised_member: detail.promised_member,
        floor_epoch: detail.floor_epoch,
        idle_ms: detail.idle_ms,
        asking_ms: detail.asking_ms,
        answered: detail.answered,
    }
}

#[derive(Debug, Serialize)]
struct Numbers {
    osd: u64,
    metrics: std::collections::BTreeMap<String, u64>,
}

pub(crate) async fn stats(admin: &Admin) -> Result<Done, Failure> {
    let osds = all_osds(admin).await?;
    let op = Op::LeaseStats(osd::LeaseStats {});
    let mut heard = Vec::new();
    let mut missing = Vec::new();
    for (osd, answer) in ask_all(admin, &osds, None, &op).await {
        match answer {
            Ok(answer) => heard.push((osd.id, answer.metrics)),
            Err(error) => missing.push(silent(&osd, &error)),
        }
    }
    let mut headings = vec!["metric".to_owned()];
    headings.extend(heard.iter().map(|(osd, _)| format!("osd {osd}")));
    // All in the order of the first, which is that of their meaning.
    let names = heard.first().map(|(_, metrics)| metrics.iter());
    let lines = names.into_iter().flatten().map(|named| {
        let values = heard.iter().map(|(_, metrics)| {
            let same = metrics.iter().find(|metric| metric.name == named.name);
            same.map_or_else(|| "-".to_owned(), |metric| metric.value.to_string())
        });
        std::iter::once(named.name.clone()).chain(values).collect()
    });
    let text = render::grid(&headings, lines);
    let rows: Vec<Numbers> = heard
        .iter()
        .map(|(osd, metrics)| Numbers {
            osd: *osd,
            metrics: metrics
                .iter()
                .map(|metric| (metric.name.clone(), metric.value))
                .collect(),
        })
        .collect();
    Ok(Done {
        text,
        json: render::json(&rows),
        missing,
    })
}

/// Understands `VOLUME/INODE[.COLUMN]`, the volume by name or number, or the 32 digits of a cell.
pub(crate) async fn parse(admin: &Admin, text: &str) -> Result<ObjectRef, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "{text:?} names no object; give VOLUME/INODE or VOLUME/INODE.COLUMN, the volume by name \
             or number, the inode as `ls -i` shows it, or the 32 digits of a lease cell"
        ))
    };
    if let Some(object) = cell(text) {
        return Ok(object);
    }
    let (volume, rest) = text.split_once('/').ok_or_else(wrong)?;
    let (inode, column) = rest.split_once('.').unwrap_or((rest, "0"));
    let inode = inode.parse().map_err(|_| wrong())?;
    let column = column.parse().map_err(|_| wrong())?;
    let volume = match volume.parse() {
        Ok(number) => number,
        Err(_) => volume_named(admin, volume).await?,
    };
    Ok(ObjectRef {
        volume,
        inode,
        column,
    })
}

fn cell(text: &str) -> Option<ObjectRef> {
    let digits = text.len() == 32 && text.is_ascii();
    let cell = u128::from_str_radix(text, 16).ok().filter(|_| digits)?;
    Some(types::ObjectId::of_cell(types::CellId(cell)).into())
}

async fn volume_named(admin: &Admin, name: &str) -> Result<u64, Failure> {
    let reply = admin
        .ask_leader(request::Op::VolumeList(VolumeList {}))
        .await?;
    let Reply::Volumes(volumes) = reply else {
        return Err(odd());
    };
    let mut volumes = volumes.volumes.iter();
    let found = volumes.find(|volume| volume.name == name);
    found.map(|volume| volume.volume).ok_or_else(|| {
        Failure::failed(format!(
            "there is no volume {name:?}; `xfs-admin volume list` shows those there are"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_name_their_object() {
        let object = types::ObjectId {
            volume: types::VolumeId(3),
            inode: types::Inode(77),
            column: 2,
        };

        let found = cell(&object.cell().to_string()).unwrap();

        assert_eq!((found.volume, found.inode, found.column), (3, 77, 2));
        assert_eq!(name(3, 77, 2), "3/77.2");
        assert!(cell("3/77.2").is_none());
    }
}
