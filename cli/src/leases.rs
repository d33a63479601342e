//! Leases: only the object servers know them, so each is asked.

use std::time::Duration;

use proto::osd;
use serde::Serialize;
use shell::admin::Admin;
use shell::link::{CallError, Link, LinkOptions, Payload, ServiceKind};

use crate::lists::osds_known;
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

/// How long an object server may take to list its leases.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

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
    const HEADINGS: &'static [&'static str] = &[
        "volume",
        "inode",
        "column",
        "holder",
        "epoch",
        "remaining",
        "told by",
        "as",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.volume.to_string(),
            self.inode.to_string(),
            self.column.to_string(),
            self.holder.to_string(),
            self.epoch.to_string(),
            render::millis(self.remaining_ms),
            self.told_by.to_string(),
            self.role.clone(),
        ]
    }
}

pub(crate) async fn list(admin: &Admin, limit: u32) -> Result<Done, Failure> {
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    for osd in osds_known(admin).await? {
        match ask(admin, &osd.address, limit).await {
            Ok(leases) => rows.extend(leases.iter().filter_map(|lease| row(osd.osd, lease))),
            Err(error) => missing.push(format!("osd {} ({}): {error}", osd.osd, osd.address)),
        }
    }
    rows.sort_by_key(|row| (row.volume, row.inode, row.column, row.told_by));
    let mut done = render::list(&rows);
    done.missing = missing;
    Ok(done)
}

async fn ask(admin: &Admin, address: &str, limit: u32) -> Result<Vec<osd::Lease>, CallError> {
    let link = Link::open(
        admin.identity().clone(),
        ServiceKind::Osd,
        address.to_owned(),
        LinkOptions::default(),
    );
    let request = osd::Request {
        op: Some(osd::request::Op::LeaseList(osd::LeaseList { limit })),
        ..osd::Request::default()
    };
    let (response, _) = link
        .call::<_, osd::Response>(&request, Payload::none(), ANSWER_TIMEOUT)
        .await?;
    Ok(response.leases)
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
