//! The way to the metadata cluster's leader, whoever it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::mrc;
use shell::config::is_host_and_port;
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, ServiceKind};
use shell::statedir::replace_file;
use types::Remedy;

use crate::config::{MRC_ADDRESSES_MAX, MRC_TIMEOUT};

/// File of a store with the addresses of metadata servers that the server was told last, one per line:
/// those of the configuration may all have been replaced since it was written.
const FILE: &str = "metadata-servers";

/// Asks the metadata servers in turn, and the one that a redirection names first. Clones share links.
#[derive(Clone, Debug)]
pub(crate) struct MetadataClient {
    identity: Identity,
    configured: Vec<String>,
    /// Where the last ones told are kept.
    file: Option<PathBuf>,
    known: Arc<Mutex<Known>>,
    current: usize,
}

/// Whom to ask; clones of a client share it.
#[derive(Debug, Default)]
struct Known {
    told: Vec<String>,
    links: Vec<Arc<Link>>,
}

impl MetadataClient {
    pub(crate) fn new(identity: Identity, addresses: &[String]) -> Self {
        let client = Self {
            identity,
            configured: addresses.to_vec(),
            file: None,
            known: Arc::default(),
            current: 0,
        };
        for address in addresses {
            client.link_to(address);
        }
        client
    }

    /// The same, with those that were told before the last start, which are also kept from now on.
    pub(crate) fn kept_in(mut self, dir: &Path) -> Self {
        let file = dir.join(FILE);
        if let Ok(text) = std::fs::read_to_string(&file) {
            let told = text.lines().filter(|line| is_host_and_port(line));
            let told: Vec<String> = told.take(MRC_ADDRESSES_MAX).map(str::to_owned).collect();
            self.follow(&told);
        }
        self.file = Some(file);
        self
    }

    /// These are all metadata servers that can lead now.
    pub(crate) fn told(&self, addresses: &[String]) {
        if addresses.is_empty() || lock(&self.known).told == addresses {
            return;
        }
        self.follow(addresses);
        tracing::info!(?addresses, "metadata servers that can lead");
        let text: String = addresses.iter().flat_map(|it| [it, "\n"]).collect();
        let kept = self
            .file
            .as_ref()
            .map(|file| replace_file(file, text.as_bytes()));
        if let Some(Err(error)) = kept {
            tracing::warn!(%error, "can't keep the addresses of the metadata servers in the store");
        }
    }

    /// Asks these and the configured ones, and nobody else any more.
    fn follow(&self, addresses: &[String]) {
        let mut known = lock(&self.known);
        addresses.clone_into(&mut known.told);
        known.links.retain(|link| {
            let address = link.address().to_owned();
            addresses.contains(&address) || self.configured.contains(&address)
        });
        drop(known);
        for address in addresses {
            self.link_to(address);
        }
    }

    /// Asks until somebody answers, each address twice at most.
    ///
    /// # Errors
    ///
    /// What the last one asked said.
    pub(crate) async fn ask(&mut self, request: &mrc::Request) -> Result<mrc::Response, CallError> {
        let mut last = CallError::Timeout;
        let count = lock(&self.known).links.len();
        for _ in 0..2 * count {
            let link = {
                let known = lock(&self.known);
                let link = known.links.get(self.current).or(known.links.first());
                link.map(Arc::clone)
            };
            let Some(link) = link else {
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
        self.current = (self.current + 1) % lock(&self.known).links.len().max(1);
    }

    fn link_to(&self, address: &str) -> Option<usize> {
        let mut known = lock(&self.known);
        let links = &mut known.links;
        let found = links.iter().position(|link| link.address() == address);
        if found.is_some() || links.len() >= MRC_ADDRESSES_MAX {
            return found;
        }
        links.push(Link::open(
            self.identity.clone(),
            ServiceKind::Mrc,
            address.to_owned(),
            LinkOptions::default(),
        ));
        Some(links.len() - 1)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use shell::link::Role;
    use types::{ClusterId, Secret};

    use super::*;

    fn client(dir: &Path) -> MetadataClient {
        let identity = Identity {
            cluster: ClusterId(1),
            secret: Secret::from_bytes([1; 32]),
            role: Role::Osd,
            id: 1,
            wire: shell::link::Wire::default(),
        };
        MetadataClient::new(identity, &["127.0.0.1:1".to_owned()]).kept_in(dir)
    }

    fn asked(client: &MetadataClient) -> Vec<String> {
        let links = &lock(&client.known).links;
        links.iter().map(|link| link.address().to_owned()).collect()
    }

    #[tokio::test]
    async fn servers_told_are_asked_after_a_restart_and_those_of_before_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = client(dir.path());
        let clone = first.clone();
        first.told(&["127.0.0.1:2".to_owned()]);
        first.told(&[]);
        first.told(&["127.0.0.1:3".to_owned(), "127.0.0.1:4".to_owned()]);

        let expected = ["127.0.0.1:1", "127.0.0.1:3", "127.0.0.1:4"];
        assert_eq!(asked(&first), expected);
        assert_eq!(asked(&clone), expected, "clones hear of it");
        assert_eq!(asked(&client(dir.path())), expected);
    }

    #[tokio::test]
    async fn kept_nonsense_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "\u{0}x\n127.0.0.1:9\n").unwrap();
        assert_eq!(asked(&client(dir.path())), ["127.0.0.1:1", "127.0.0.1:9"]);
    }
}
