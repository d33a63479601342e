//! Requests of mounts that do not reach an object's primary, passed on to it by another replica.
//!
//! The mount names the primary; nothing is decided here. What is passed on names nobody, so it goes
//! no further, and the primary checks it as if it came from the mount itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use osd_core::ObjectKey;
use prost::Message as _;
use proto::osd::{self, request::Op as Wire};
use shell::link::{self, CallError, Identity, Link, LinkOptions, Responder, ServiceKind};
use types::{Fault, OsdId, PgId};

use crate::board::group_of;
use crate::config::FORWARD_TIMEOUT;
use crate::service::{OsdDoor, malformed};

/// Links to the other object servers as mounts have them.
#[derive(Debug)]
pub(crate) struct Forwarder {
    identity: Identity,
    /// At most one for each object server of the cluster.
    links: Mutex<BTreeMap<OsdId, Arc<Link>>>,
}

impl Forwarder {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            links: Mutex::default(),
        }
    }

    fn link(&self, osd: OsdId, address: &str) -> Arc<Link> {
        let open = || {
            Link::open(
                self.identity.clone(),
                ServiceKind::Osd,
                address.to_owned(),
                LinkOptions::default(),
            )
        };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(osd).or_insert_with(open);
        if link.address() != address {
            // The server has moved.
            *link = open();
        }
        Arc::clone(link)
    }
}

impl OsdDoor {
    /// Passes a request on to another member of the object's placement group.
    pub(crate) fn forward(
        &self,
        request: osd::Request,
        payload: link::Payload,
        responder: Responder,
    ) {
        let to = OsdId(request.forward_to);
        let link = match self.link_to(to, &request) {
            Ok(link) => link,
            Err(fault) => return responder.fault(fault),
        };
        let Some(share) = self.budget.take(payload.bytes.len()) else {
            return responder.fault(Fault::retry(
                "this object server has as many requests in memory as it may have; \
                 repeat the request later",
            ));
        };
        let request = osd::Request {
            forward_to: 0,
            ..request
        };
        link.send(&request, payload, FORWARD_TIMEOUT, move |outcome| {
            let _until_answered = share;
            answer(to, outcome, responder);
        });
    }

    fn link_to(&self, to: OsdId, request: &osd::Request) -> Result<Arc<Link>, Fault> {
        let object = request.object.ok_or_else(|| malformed("names no object"))?;
        if !is_about_bytes(request.op.as_ref()) {
            return Err(malformed("can't be passed on"));
        }
        let key = ObjectKey {
            pg: PgId(request.pg),
            object: object.into(),
        };
        let cluster = self.wall.newest();
        let member = cluster
            .group(group_of(key))
            .is_some_and(|pg| pg.replicas.is_current(to));
        let address = cluster.map.addresses.get(&to).filter(|_| member);
        let address = address.ok_or_else(|| {
            Fault::refresh(format!(
                "object servers {} and {to} are not replicas of {key} together; open the file again",
                self.me
            ))
        })?;
        Ok(self.forwarder.link(to, address))
    }
}

/// Whether the primary lets a mount do it only if it shows a capability.
const fn is_about_bytes(op: Option<&Wire>) -> bool {
    matches!(
        op,
        Some(
            Wire::Read(_)
                | Wire::Write(_)
                | Wire::Truncate(_)
                | Wire::Sync(_)
                | Wire::Stat(_)
                | Wire::Seek(_)
        )
    )
}

fn answer(
    from: OsdId,
    outcome: Result<(bytes::Bytes, link::Payload), CallError>,
    responder: Responder,
) {
    let (body, payload) = match outcome {
        Ok(answer) => answer,
        Err(CallError::Fault(fault)) => return responder.fault(fault),
        Err(error) => {
            return responder.fault(Fault::retry(format!(
                "object server {from} is not reached from here either: {error}"
            )));
        }
    };
    match osd::Response::decode(body) {
        Ok(response) => responder.ok(&response, payload),
        Err(_) => responder.fault(malformed("has an answer that can't be decoded")),
    }
}
