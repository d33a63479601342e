//! The way to the metadata cluster's leader, whoever it is.

use std::sync::Arc;

use proto::mrc;
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, ServiceKind};
use types::Remedy;

use crate::config::{MRC_ADDRESSES_MAX, MRC_TIMEOUT};

/// Asks the metadata servers in turn, and the one that a redirection names first. Clones share links.
#[derive(Clone, Debug)]
pub(crate) struct MetadataClient {
    identity: Identity,
    links: Vec<Arc<Link>>,
    current: usize,
}

impl MetadataClient {
    pub(crate) fn new(identity: Identity, addresses: &[String]) -> Self {
        let mut client = Self {
            identity,
            links: Vec::new(),
            current: 0,
        };
        for address in addresses.iter().take(MRC_ADDRESSES_MAX) {
            client.link_to(address);
        }
        client
    }

    /// Asks until somebody answers, each address twice at most.
    ///
    /// # Errors
    ///
    /// What the last one asked said.
    pub(crate) async fn ask(&mut self, request: &mrc::Request) -> Result<mrc::Response, CallError> {
        let mut last = CallError::Timeout;
        for _ in 0..2 * self.links.len() {
            let Some(link) = self.links.get(self.current).map(Arc::clone) else {
                break;
            };
            match link.call(request, Payload::none(), MRC_TIMEOUT).await {
                Ok((response, _)) => return Ok(response),
                // Nobody else says anything else.
                Err(CallError::Fault(fault)) if fault.remedy == Remedy::Surface => {
                    return Err(CallError::Fault(fault));
                }
                Err(error) => {
                    self.turn(&error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// After an error: on to the leader, if the one asked knows it, else to the next.
    fn turn(&mut self, error: &CallError) {
        if let CallError::Fault(fault) = error
            && fault.remedy == Remedy::Redirect
            && let Some(address) = &fault.hint
            && let Some(index) = self.link_to(address)
            && index != self.current
        {
            self.current = index;
            return;
        }
        self.current = (self.current + 1) % self.links.len().max(1);
    }

    fn link_to(&mut self, address: &str) -> Option<usize> {
        let known = self.links.iter().position(|link| link.address() == address);
        if known.is_some() || self.links.len() >= MRC_ADDRESSES_MAX {
            return known;
        }
        self.links.push(Link::open(
            self.identity.clone(),
            ServiceKind::Mrc,
            address.to_owned(),
            LinkOptions::default(),
        ));
        Some(self.links.len() - 1)
    }
}
