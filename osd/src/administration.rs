//! What administrators ask an object server: leases, and what requests wait for.

use proto::osd::{self, request::Op as Wire};
use shell::clock::boottime;
use shell::link::{self, Responder};
use types::{Fault, Instant, ObjectId, OsdId};

use crate::config::{LEASE_LIST_MAX, STALLS_MAX};
use crate::service::{OsdDoor, malformed};
use crate::shard_item::Item;

/// A question or order, understood.
pub(crate) enum Administration {
    List { start: usize, limit: usize },
    Show(ObjectId),
    HandOver { object: ObjectId, to: OsdId },
    Stats,
    Stalls,
    ScrubStart,
    ScrubStatus,
}

/// What is asked, if it is an administrator's question.
pub(crate) fn administration(
    wire: &Wire,
    object: Option<ObjectId>,
) -> Option<Result<Administration, Fault>> {
    let named = || object.ok_or_else(|| malformed("names no object"));
    Some(match wire {
        Wire::LeaseList(list) => Ok(Administration::List {
            start: usize::try_from(list.start).unwrap_or(usize::MAX),
            limit: match list.limit as usize {
                0 => LEASE_LIST_MAX,
                limit => limit.min(LEASE_LIST_MAX),
            },
        }),
        Wire::LeaseShow(osd::LeaseShow {}) => named().map(Administration::Show),
        Wire::LeaseHandOver(order) => named().map(|object| Administration::HandOver {
            object,
            to: OsdId(order.to),
        }),
        Wire::LeaseStats(osd::LeaseStats {}) => Ok(Administration::Stats),
        Wire::Stalls(osd::Stalls {}) => Ok(Administration::Stalls),
        Wire::ScrubStart(osd::ScrubStart {}) => Ok(Administration::ScrubStart),
        Wire::ScrubStatus(osd::ScrubStatus {}) => Ok(Administration::ScrubStatus),
        _ => return None,
    })
}

impl OsdDoor {
    pub(crate) fn administer(&self, work: Administration, responder: Responder) {
        let response = match work {
            Administration::HandOver { object, to } => {
                let item = Item::HandOver {
                    object,
                    to,
                    responder,
                };
                return self.shards.deliver(object, item);
            }
            Administration::Stalls => return self.shards.stalls(STALLS_MAX, responder),
            Administration::List { start, limit } => self.lease_list(start, limit),
            Administration::Show(object) => osd::Response {
                lease_detail: Some(self.lease_detail(object)),
                ..osd::Response::default()
            },
            Administration::ScrubStart => osd::Response {
                scrub: Some(self.scrub.start()),
                ..osd::Response::default()
            },
            Administration::ScrubStatus => osd::Response {
                scrub: Some(self.scrub.status()),
                ..osd::Response::default()
            },
            Administration::Stats => osd::Response {
                metrics: (self.metrics)().iter().flat_map(to_wire).collect(),
                release: shell::RELEASE.to_owned(),
                wall_ns: shell::clock::wall().0,
                metrics_address: self.metrics_address.clone(),
                ..osd::Response::default()
            },
        };
        responder.ok(&response, link::Payload::none());
    }

    /// Leases that run here, from place `start` on, until there are `limit` of them or no more.
    fn lease_list(&self, start: usize, limit: usize) -> osd::Response {
        let now = boottime();
        let mut leases = Vec::new();
        let mut next = Some(start);
        while let Some(start) = next.filter(|_| leases.len() < limit) {
            let page = self.leases.list(start, limit - leases.len());
            let running = page.cells.iter();
            leases.extend(running.filter_map(|info| self.lease_to_wire(now, info)));
            next = page.next;
        }
        osd::Response {
            leases,
            lease_next: next.map_or(0, |next| next as u64),
            ..osd::Response::default()
        }
    }

    fn lease_to_wire(&self, now: Instant, info: &lease::CellInfo) -> Option<osd::Lease> {
        let (role, epoch, holder, until) = match info.state {
            lease::CellState::Held { epoch, until } => ("holder", epoch, self.me.0, until),
            lease::CellState::HeldBy { member, until } => ("acceptor", 0, member.0, until),
            lease::CellState::Proposing { .. } | lease::CellState::Free => return None,
        };
        Some(osd::Lease {
            object: Some(ObjectId::of_cell(info.cell).into()),
            epoch,
            holder,
            remaining_ms: until.since(now).as_millis(),
            role: role.to_owned(),
        })
    }

    fn lease_detail(&self, object: ObjectId) -> osd::LeaseDetail {
        let now = boottime();
        let Some(detail) = self.leases.show(object.cell()) else {
            return osd::LeaseDetail {
                state: "unknown".to_owned(),
                ..osd::LeaseDetail::default()
            };
        };
        let promised = detail.promised.unwrap_or_default();
        let members = detail.members.iter().flat_map(|members| members.iter());
        let common = osd::LeaseDetail {
            holder: detail.running.map_or(0, |holder| holder.member.0),
            remaining_ms: detail
                .running
                .map_or(0, |holder| holder.remaining.as_millis()),
            view: detail.info.view,
            members: members.map(|member| member.0).collect(),
            promised_counter: promised.counter,
            promised_member: promised.member.0,
            floor_epoch: detail.floor_epoch,
            idle_ms: detail.idle.as_millis(),
            ..osd::LeaseDetail::default()
        };
        match detail.info.state {
            lease::CellState::Held { epoch, until } => osd::LeaseDetail {
                state: "held".to_owned(),
                epoch,
                holder: self.me.0,
                remaining_ms: until.since(now).as_millis(),
                ..common
            },
            lease::CellState::Proposing {
                since, answered, ..
            } => osd::LeaseDetail {
                state: "asking".to_owned(),
                asking_ms: now.since(since).as_millis(),
                answered: u32::try_from(answered).unwrap_or(u32::MAX),
                ..common
            },
            lease::CellState::HeldBy { member, until } => osd::LeaseDetail {
                state: "voted".to_owned(),
                holder: member.0,
                remaining_ms: until.since(now).as_millis(),
                ..common
            },
            lease::CellState::Free => osd::LeaseDetail {
                state: "free".to_owned(),
                ..common
            },
        }
    }
}

fn to_wire(metric: &shell::metrics::Metric) -> impl Iterator<Item = osd::Metric> + use<> {
    metric.numbers().into_iter().map(|number| osd::Metric {
        name: number.name,
        value: number.value,
        gauge: number.gauge,
        help: number.help.to_owned(),
    })
}
