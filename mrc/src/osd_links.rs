//! What the janitor asks object servers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proto::mrc::Replica;
use proto::osd::{Delete, ObjectInPg, Request, Response, request};
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, ServiceKind};
use types::Remedy;

use crate::config::{OSD_LINKS_MAX, OSD_TIMEOUT};
use crate::log_writer::lock;

/// Links to object servers, one per address.
#[derive(Debug)]
pub(crate) struct OsdLinks {
    identity: Identity,
    links: Mutex<BTreeMap<String, Arc<Link>>>,
}

impl OsdLinks {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            links: Mutex::default(),
        }
    }

    /// Asks the replicas of an object until its primary answers.
    pub(crate) async fn ask_primary(
        &self,
        replicas: &[Replica],
        request: &Request,
    ) -> Result<Response, String> {
        let mut reason = "the placement group has no replicas".to_owned();
        let mut hint = None;
        let mut others = replicas.iter();
        // Each replica once, and each may know better once.
        for _ in 0..2 * replicas.len() {
            let Some(replica) = hint.take().or_else(|| others.next()) else {
                break;
            };
            match self.ask(&replica.address, request).await {
                Ok(response) => return Ok(response),
                Err(CallError::Fault(fault)) => {
                    if fault.remedy == Remedy::Redirect {
                        let holder = fault.osd_hint;
                        hint = replicas
                            .iter()
                            .find(|replica| holder.is_some_and(|osd| osd.0 == replica.osd));
                    }
                    reason = fault.message;
                }
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }

    /// Has one server delete objects.
    pub(crate) async fn delete(
        &self,
        address: &str,
        objects: Vec<ObjectInPg>,
    ) -> Result<(), CallError> {
        let request = Request {
            op: Some(request::Op::Delete(Delete { objects })),
            ..Request::default()
        };
        self.ask(address, &request).await.map(|_| ())
    }

    async fn ask(&self, address: &str, request: &Request) -> Result<Response, CallError> {
        let link = self.link(address);
        let (response, _) = link.call(request, Payload::none(), OSD_TIMEOUT).await?;
        Ok(response)
    }

    fn link(&self, address: &str) -> Arc<Link> {
        let mut links = lock(&self.links);
        // Addresses of servers that moved away.
        if links.len() >= OSD_LINKS_MAX && !links.contains_key(address) {
            links.clear();
        }
        let link = links.entry(address.to_owned()).or_insert_with(|| {
            Link::open(
                self.identity.clone(),
                ServiceKind::Osd,
                address.to_owned(),
                LinkOptions::default(),
            )
        });
        Arc::clone(link)
    }
}
