//! Asking a metadata cluster as an administrator: finds the leader and says what is wrong if none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use proto::mrc::{ClusterStatus, Request, Response, Status, request::Op, response::Reply};
use tokio::time::Instant;
use types::{Fault, Remedy};

use crate::link::{CallError, Identity, Link, LinkOptions, Payload, ServiceKind, lock};

/// How long a leader is looked for while somebody answers: an election takes a second or two.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// How long is tried while nobody answers.
const SILENCE_PATIENCE: Duration = Duration::from_millis(1500);

/// How long one server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before everyone is asked again.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// Redirects followed in a row before the next round.
const REDIRECTS_MAX: u32 = 3;

/// Connections to the metadata servers of a cluster, for administration.
#[derive(Debug)]
pub struct Admin {
    identity: Identity,
    addresses: Vec<String>,
    links: Mutex<HashMap<String, Arc<Link>>>,
    leader: Mutex<Option<String>>,
}

/// A request that could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The cluster said no.
    #[error("{0}")]
    Fault(Fault),
    /// None of the servers answers.
    #[error("no metadata server answers ({said}); start the cluster, or check the addresses")]
    Silence {
        /// What happened at each address.
        said: String,
    },
    /// Servers answer, but none of them leads.
    #[error("no metadata server leads the cluster ({said}); a majority of them must run")]
    NoLeader {
        /// What happened at each address.
        said: String,
    },
    /// A server does not talk to us.
    #[error("{0}")]
    Refused(String),
    /// The answer has nothing in it, or something else than asked for.
    #[error("{address} gave an answer to another question; run the same release everywhere")]
    Odd {
        /// Who.
        address: String,
    },
}

impl Admin {
    /// For the metadata servers at these addresses; connects when asked to ask.
    #[must_use]
    pub fn new(identity: Identity, addresses: Vec<String>) -> Self {
        Self {
            identity,
            addresses,
            links: Mutex::default(),
            leader: Mutex::default(),
        }
    }

    /// The addresses it was made with.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Who we are.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Asks one server.
    ///
    /// # Errors
    ///
    /// As [`Link::call`].
    pub async fn ask(
        &self,
        address: &str,
        op: Op,
        timeout: Duration,
    ) -> Result<Option<Reply>, CallError> {
        let link = self.link(address);
        let request = Request {
            op: Some(op),
            ..Request::default()
        };
        let (response, _) = link
            .call::<Request, Response>(&request, Payload::none(), timeout)
            .await?;
        Ok(response.reply)
    }

    /// Asks each of these servers what it knows of the cluster, all at once.
    pub async fn statuses(
        &self,
        addresses: &[String],
        timeout: Duration,
    ) -> Vec<(String, Result<ClusterStatus, CallError>)> {
        join_all(addresses.iter().map(async |address| {
            let answer = match self.ask(address, Op::Status(Status {}), timeout).await {
                Ok(Some(Reply::ClusterStatus(status))) => Ok(status),
                Ok(_) => Err(CallError::Fault(Fault::surface(
                    71, // EPROTO
                    format!("{address} gave an answer to another question"),
                ))),
                Err(error) => Err(error),
            };
            (address.clone(), answer)
        }))
        .await
    }

    /// Asks the leader, whoever it is, and waits for an election if need be. A change that may
    /// have been done is asked for again, so the answer can be that it is done already.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn ask_leader(&self, op: Op) -> Result<Reply, AdminError> {
        let started = Instant::now();
        loop {
            let mut said: Vec<(String, Said)> = Vec::new();
            let first = lock(&self.leader).take().into_iter();
            for address in first.chain(self.addresses.clone()).collect::<Vec<_>>() {
                if said.iter().any(|(other, _)| *other == address) {
                    continue;
                }
                match self.follow(address, &op, &mut said).await {
                    Some(result) => return result,
                    None => continue,
                }
            }
            let silent = said
                .iter()
                .all(|(_, said)| matches!(said, Said::Nothing(_)));
            let patience = if silent {
                SILENCE_PATIENCE
            } else {
                LEADER_PATIENCE
            };
            if started.elapsed() >= patience {
                return Err(give_up(silent, &said));
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// Asks one server and whom it names; a result is final.
    async fn follow(
        &self,
        mut address: String,
        op: &Op,
        said: &mut Vec<(String, Said)>,
    ) -> Option<Result<Reply, AdminError>> {
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.ask(&address, op.clone(), ANSWER_TIMEOUT).await;
            let next = match answer {
                Ok(Some(reply)) => {
                    *lock(&self.leader) = Some(address);
                    return Some(Ok(reply));
                }
                Ok(None) => return Some(Err(AdminError::Odd { address })),
                Err(CallError::Refused(why)) => return Some(Err(AdminError::Refused(why))),
                Err(CallError::Fault(fault)) => match fault.remedy {
                    Remedy::Surface | Remedy::Refresh => {
                        return Some(Err(AdminError::Fault(fault)));
                    }
                    Remedy::Redirect => {
                        said.push((address.clone(), Said::Words(fault.message)));
                        fault.hint.filter(|hint| *hint != address)
                    }
                    Remedy::Retry => {
                        said.push((address.clone(), Said::Words(fault.message)));
                        None
                    }
                },
                Err(silence) => {
                    said.push((address.clone(), Said::Nothing(silence.to_string())));
                    None
                }
            };
            address = next?;
        }
        None
    }

    fn link(&self, address: &str) -> Arc<Link> {
        let identity = &self.identity;
        let open = || {
            let options = LinkOptions::default();
            Link::open(
                identity.clone(),
                ServiceKind::Mrc,
                address.to_owned(),
                options,
            )
        };
        lock(&self.links)
            .entry(address.to_owned())
            .or_insert_with(open)
            .clone()
    }
}

/// What came from a server that did not do it.
enum Said {
    Words(String),
    Nothing(String),
}

fn give_up(silent: bool, said: &[(String, Said)]) -> AdminError {
    let said: Vec<String> = said
        .iter()
        .map(|(address, said)| match said {
            Said::Words(words) => format!("{address}: {words}"),
            // These texts name the address themselves, except for a timeout's.
            Said::Nothing(why) if why.contains(address.as_str()) => why.clone(),
            Said::Nothing(why) => format!("{address}: {why}"),
        })
        .collect();
    let said = said.join("; ");
    if silent {
        AdminError::Silence { said }
    } else {
        AdminError::NoLeader { said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Connection, Handler, Responder, Role, Server};
    use bytes::Bytes;
    use proto::mrc::{Done, VolumeDelete, Volumes};
    use types::{ClusterId, Secret};

    fn identity(role: Role) -> Identity {
        Identity {
            cluster: ClusterId(1),
            secret: Secret::from_bytes([1; 32]),
            role,
            id: 1,
            wire: crate::link::Wire::default(),
        }
    }

    /// Redirects to the leader, or is it.
    struct Voice {
        leader: Option<String>,
    }

    impl Handler for Voice {
        fn request(&self, _: &Arc<Connection>, body: Bytes, payload: Payload, to: Responder) {
            if let Some(leader) = &self.leader {
                let mut fault = Fault::new(Remedy::Redirect, 11, "I follow");
                fault.hint = Some(leader.clone());
                return to.fault(fault);
            }
            let request = <Request as prost::Message>::decode(body).unwrap();
            let reply = match request.op {
                Some(Op::VolumeList(_)) => Reply::Volumes(Volumes::default()),
                Some(Op::VolumeDelete(delete)) => {
                    return to.fault(Fault::surface(2, format!("no volume {:?}", delete.name)));
                }
                _ => Reply::Done(Done {}),
            };
            let reply = Some(reply);
            to.ok(&Response { reply }, payload);
        }
    }

    async fn server(leader: Option<String>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server =
            Server::new(identity(Role::Mrc)).service(ServiceKind::Mrc, Arc::new(Voice { leader }));
        tokio::spawn(server.serve(listener, std::future::pending()));
        address
    }

    #[tokio::test]
    async fn redirect_is_followed_to_a_leader_nobody_named_before() {
        let leader = server(None).await;
        let follower = server(Some(leader)).await;
        let admin = Admin::new(identity(Role::Admin), vec![follower]);

        let reply = admin.ask_leader(Op::Status(Status {})).await.unwrap();

        assert!(matches!(reply, Reply::Done(_)));
    }

    #[tokio::test]
    async fn final_fault_is_told_at_once() {
        let admin = Admin::new(identity(Role::Admin), vec![server(None).await]);
        let op = Op::VolumeDelete(VolumeDelete {
            name: "x".to_owned(),
            nonce: 0,
        });

        let error = admin.ask_leader(op).await.unwrap_err();

        assert_eq!(error.to_string(), "no volume \"x\"");
    }

    #[tokio::test]
    async fn silence_names_every_address() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let admin = Admin::new(identity(Role::Admin), vec![address.clone()]);

        let error = admin.ask_leader(Op::Status(Status {})).await.unwrap_err();

        assert!(matches!(error, AdminError::Silence { .. }));
        assert!(error.to_string().contains(&address), "{error}");
    }
}
