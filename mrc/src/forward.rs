//! Requests of mounts that do not reach the leader, passed on to it by a follower.
//!
//! What is passed on does not ask for it again, so it goes no further: a server that does not lead
//! any more says who does, and the mount is told that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prost::Message as _;
use proto::mrc::request::Op;
use proto::mrc::{Request, Response};
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, Responder, Role, ServiceKind};
use types::Fault;

use crate::config::{FORWARD_LINKS_MAX, FORWARD_TIMEOUT};
use crate::log_writer::lock;

/// Links to the other metadata servers as mounts have them, one per address.
#[derive(Debug)]
pub(crate) struct Forwarder {
    identity: Identity,
    links: Mutex<BTreeMap<String, Arc<Link>>>,
}

impl Forwarder {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            links: Mutex::default(),
        }
    }

    /// Passes a request on, or says who leads: to whoever did not ask for it, or is no mount.
    pub(crate) fn pass_on(
        &self,
        role: Role,
        elsewhere: Fault,
        mut request: Request,
        responder: Responder,
    ) {
        let leader = elsewhere.hint.as_ref();
        let wanted = request.forward && role == Role::Mount && is_of_a_session(&request);
        let Some(leader) = leader.filter(|_| wanted).cloned() else {
            return responder.fault(elsewhere);
        };
        request.forward = false;
        let link = self.link(&leader);
        link.send(
            &request,
            Payload::none(),
            FORWARD_TIMEOUT,
            move |outcome| match outcome.map(|(body, _)| Response::decode(body)) {
                Ok(Ok(response)) => responder.ok(&response, Payload::none()),
                Ok(Err(error)) => {
                    responder.fault(Fault::surface(libc::EPROTO, error.to_string()));
                }
                Err(CallError::Fault(fault)) => responder.fault(fault),
                Err(error) => responder.fault(Fault::retry(format!(
                    "the leader at {leader} is not reached from here either: {error}"
                ))),
            },
        );
    }

    fn link(&self, address: &str) -> Arc<Link> {
        let mut links = lock(&self.links);
        // Addresses of servers that moved away.
        if links.len() >= FORWARD_LINKS_MAX && !links.contains_key(address) {
            links.clear();
        }
        let link = links.entry(address.to_owned()).or_insert_with(|| {
            Link::open(
                self.identity.clone(),
                ServiceKind::Mrc,
                address.to_owned(),
                LinkOptions::default(),
            )
        });
        Arc::clone(link)
    }
}

/// Whether it is one of the requests that a mount has to make.
const fn is_of_a_session(request: &Request) -> bool {
    request.session != 0 || matches!(request.op, Some(Op::OpenSession(_)))
}
