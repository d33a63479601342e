//! Between object servers: the called end, and the links to the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use osd_core::{Membership, ObjectKey, Payload, PeerFailure};
use prost::Message as _;
use proto::peer::{self, request::Op};
use shell::link::{
    self, CallError, Connection, Handler, Identity, Link, LinkOptions, Listener, Responder,
    ServiceKind,
};
use tokio::sync::Notify;
use types::{Fault, MemberId, OsdId, PgId, PgKey, VolumeId};

use crate::board::group_of;
use crate::cluster::Wall;
use crate::config::{PEER_IN_FLIGHT_MAX, PEER_QUEUE_BYTES_MAX};
use crate::listing::Lister;
use crate::recovery::Recovery;
use crate::scrub;
use crate::seeding::Senders;
use crate::shard_item::Item;
use crate::shards::Shards;

/// The called end of the other object servers' links.
#[derive(Debug)]
pub(crate) struct PeerDoor {
    pub(crate) shards: Shards,
    pub(crate) wall: Arc<Wall>,
    /// Somebody knows a newer map than this server.
    pub(crate) map_wanted: Arc<Notify>,
    pub(crate) lister: Arc<Lister>,
    pub(crate) scrub: scrub::Answers,
    pub(crate) seeds: Arc<Senders>,
    pub(crate) runtime: tokio::runtime::Handle,
}

impl Handler for PeerDoor {
    fn request(
        &self,
        from: &Arc<Connection>,
        body: Bytes,
        payload: link::Payload,
        responder: Responder,
    ) {
        let from = OsdId(from.caller().id);
        let bytes = payload.bytes.len();
        let (message, key, payload) = match admit(body, payload) {
            Ok(admitted) => admitted,
            Err(fault) => return responder.fault(fault),
        };
        if let Some(Op::Inspect(ask)) = &message.op {
            return match self.membership(group_of(key), message.view) {
                Ok(_) => self
                    .scrub
                    .give(&self.runtime, key, (message.view, *ask), responder),
                Err(fault) => responder.fault(fault),
            };
        }
        if let Some(Op::ListObjects(list)) = &message.op {
            let group = group_of(key);
            let membership = match self.membership(group, message.view) {
                Ok(membership) => membership,
                Err(fault) => return responder.fault(fault),
            };
            let incomplete = membership.incomplete || !membership.recovered;
            let lister = Arc::clone(&self.lister);
            let (after, limit) = (list.after.map(Into::into), list.limit);
            self.runtime.spawn(async move {
                match lister.page(group, after, limit as usize).await {
                    Ok(objects) => responder.ok(
                        &peer::Response {
                            reply: Some(peer::response::Reply::Objects(peer::Objects {
                                incomplete,
                                ..objects
                            })),
                            ..peer::Response::default()
                        },
                        link::Payload::none(),
                    ),
                    Err(error) => responder.fault(Fault::retry(error.to_string())),
                }
            });
            return;
        }
        if let Some(op @ (Op::SeedOpen(_) | Op::SeedRead(_) | Op::SeedClose(_))) = message.op {
            let group = group_of(key);
            // A stream that was opened is given whatever becomes of the view.
            let opens = matches!(op, Op::SeedOpen(_));
            if opens && let Err(fault) = self.membership(group, message.view) {
                return responder.fault(fault);
            }
            let seeds = Arc::clone(&self.seeds);
            self.runtime
                .spawn(seeds.answer((from, group), op, responder));
            return;
        }
        let item = Item::Peer {
            key,
            from,
            message,
            payload,
            responder,
        };
        if !self.shards.offer(key.object, item, bytes) {
            tracing::debug!(%key, %from, "too busy for a peer's request");
        }
    }
}

impl PeerDoor {
    /// What this server is in a group, if it goes by the view of whoever asks.
    fn membership(&self, group: PgKey, view: u64) -> Result<Membership, Fault> {
        let cluster = self.wall.newest();
        let known = cluster.memberships.get(&group);
        if known.is_none_or(|known| known.view < view) {
            self.map_wanted.notify_one();
        }
        known
            .filter(|known| known.view == view)
            .cloned()
            .ok_or_else(|| {
                Fault::retry(format!(
                    "this server does not go by view {view} of placement group {group}"
                ))
            })
    }
}

fn admit(
    body: Bytes,
    payload: link::Payload,
) -> Result<(peer::Request, ObjectKey, Payload), Fault> {
    let malformed = || {
        Fault::surface(
            libc::EPROTO,
            "request without object or operation; run the same release on all servers",
        )
    };
    let message = peer::Request::decode(body).map_err(|_| malformed())?;
    let object = match (&message.object, &message.op) {
        // Of a listing only the volume matters.
        (Some(object), Some(_)) => *object,
        _ => return Err(malformed()),
    };
    let (bytes, crc32c) = payload.verified_with_sum()?;
    let key = ObjectKey {
        pg: PgId(message.pg),
        object: object.into(),
    };
    Ok((message, key, Payload { bytes, crc32c }))
}

/// What a peer's answer means to the replica that asked.
pub(crate) fn reply(
    outcome: Result<(Bytes, link::Payload), CallError>,
) -> Result<(peer::Response, Payload), PeerFailure> {
    let (body, payload) = outcome.map_err(|error| failure(&error))?;
    let response = peer::Response::decode(body).map_err(|_| PeerFailure::Fault)?;
    let (bytes, crc32c) = payload
        .verified_with_sum()
        .map_err(|_| PeerFailure::Fault)?;
    Ok((response, Payload { bytes, crc32c }))
}

const fn failure(error: &CallError) -> PeerFailure {
    match error {
        CallError::Fault(_) => PeerFailure::Fault,
        CallError::Timeout => PeerFailure::Timeout,
        CallError::Full => PeerFailure::Full,
        _ => PeerFailure::Disconnected,
    }
}

/// Tells everybody concerned when a link to a peer comes or goes.
#[derive(Debug)]
struct Watch {
    osd: OsdId,
    standing: Mutex<Standing>,
    shards: Shards,
    recovery: Arc<Recovery>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Down,
    Up,
    /// Another link took its place: what becomes of this one is no news of the peer.
    Replaced,
}

impl Watch {
    /// Whatever is told of one link comes before what is told of the one after it.
    fn replace(&self) {
        let mut standing = self.lock();
        if *standing == Standing::Up {
            self.lost("its address changed");
        }
        *standing = Standing::Replaced;
    }

    fn lost(&self, reason: &str) {
        tracing::warn!(osd = %self.osd, reason, "peer lost");
        self.shards.tell_all(|| Item::PeerLost(self.osd));
        self.recovery.peer_lost(self.osd);
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Watch {
    fn connected(&self) {
        let mut standing = self.lock();
        if *standing == Standing::Replaced {
            return;
        }
        *standing = Standing::Up;
        tracing::info!(osd = %self.osd, "peer connected");
        self.shards.tell_all(|| Item::PeerUp(self.osd));
        self.recovery.peer_up(self.osd);
    }

    fn disconnected(&self, reason: &str) {
        let mut standing = self.lock();
        match *standing {
            Standing::Up => {
                *standing = Standing::Down;
                self.lost(reason);
            }
            // Failed attempts to connect are no news to the shards.
            Standing::Down => self.recovery.peer_lost(self.osd),
            Standing::Replaced => {}
        }
    }
}

/// Makes and keeps the links to the other object servers.
#[derive(Debug)]
pub(crate) struct Peers {
    me: OsdId,
    identity: Identity,
    shards: Shards,
    recovery: Arc<Recovery>,
    data: BTreeMap<OsdId, Arc<Link>>,
    /// Of the links for data.
    watches: BTreeMap<OsdId, Arc<Watch>>,
    leases: BTreeMap<OsdId, Arc<Link>>,
}

impl Peers {
    pub(crate) fn new(
        me: OsdId,
        identity: Identity,
        shards: Shards,
        recovery: Arc<Recovery>,
    ) -> Self {
        Self {
            me,
            identity,
            shards,
            recovery,
            data: BTreeMap::new(),
            watches: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }

    /// Opens links to servers that are new or have moved, and closes those to servers that are gone.
    pub(crate) fn follow(&mut self, addresses: &BTreeMap<OsdId, String>) {
        for links in [&mut self.data, &mut self.leases] {
            links.retain(|osd, link| {
                addresses
                    .get(osd)
                    .is_some_and(|address| address == link.address())
            });
        }
        let data = &self.data;
        self.watches.retain(|osd, watch| {
            let kept = data.contains_key(osd);
            if !kept {
                watch.replace();
            }
            kept
        });
        for (osd, address) in addresses {
            if *osd == self.me || self.data.contains_key(osd) {
                continue;
            }
            let data = self.open_data(*osd, address);
            self.data.insert(*osd, data);
            let leases = Link::open(
                self.identity.clone(),
                ServiceKind::Lease,
                address.clone(),
                LinkOptions::default(),
            );
            leases.push(&peer::LeaseFrame::default());
            self.leases.insert(*osd, leases);
        }
    }

    /// Links for data, by server.
    pub(crate) fn data(&self) -> BTreeMap<OsdId, Arc<Link>> {
        self.data.clone()
    }

    /// Links for leases, by member.
    pub(crate) fn leases(&self) -> std::collections::HashMap<MemberId, Arc<Link>> {
        self.leases
            .iter()
            .map(|(osd, link)| (MemberId(osd.0), Arc::clone(link)))
            .collect()
    }

    fn open_data(&mut self, osd: OsdId, address: &str) -> Arc<Link> {
        let watch = Arc::new(Watch {
            osd,
            standing: Mutex::new(Standing::Down),
            shards: self.shards.clone(),
            recovery: Arc::clone(&self.recovery),
        });
        self.watches.insert(osd, Arc::clone(&watch));
        let options = LinkOptions {
            in_flight_max: PEER_IN_FLIGHT_MAX,
            queue_bytes_max: PEER_QUEUE_BYTES_MAX,
            ..LinkOptions::default()
        };
        let link = Link::open_with(
            self.identity.clone(),
            ServiceKind::Peer,
            address.to_owned(),
            options,
            watch,
        );
        // Links connect with their first message; this one says nothing and is ignored.
        link.push(&peer::Request::default());
        link
    }
}

/// The object reference that stands for a whole placement group in a listing.
pub(crate) const fn any_object(volume: VolumeId) -> peer::ObjectRef {
    peer::ObjectRef {
        volume: volume.0,
        inode: 0,
        column: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Duration;

    const PEER: OsdId = OsdId(2);

    #[test]
    fn late_end_of_a_link_that_was_replaced_is_no_news_of_the_peer() {
        let recovery = Recovery::new(
            OsdId(1),
            Duration::from_secs(1),
            Arc::default(),
            crate::pacer::Pacer::default(),
        );
        let watch = || Watch {
            osd: PEER,
            standing: Mutex::new(Standing::Down),
            shards: Shards::new(1),
            recovery: Arc::clone(&recovery),
        };
        let (before, after) = (watch(), watch());
        before.connected();
        assert!(recovery.is_up(PEER));

        before.replace();
        assert!(!recovery.is_up(PEER));
        after.connected();
        before.disconnected("closed");
        assert!(recovery.is_up(PEER));

        after.disconnected("broken");
        assert!(!recovery.is_up(PEER));
    }
}
