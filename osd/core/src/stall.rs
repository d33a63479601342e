//! What the requests of an object wait for, in words for people.

use std::fmt;

use types::{Duration, Instant, OsdId};

use crate::faults;
use crate::peer_state::{Peer, PeerState};
use crate::replica::{ObjectReplica, Step};
use crate::tenure::{Phase, Tenure};

/// Why nobody's lease can be had at the moment, although nobody is known to hold it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Obstacle {
    /// No majority of the replicas answered in time.
    NoMajority,
    /// This server has forgotten its votes and keeps silent until no lease from before can run.
    Quarantine {
        /// How much longer, when it was asked.
        remaining: Duration,
    },
    /// This server's replica set is out of date.
    OldView,
    /// This server has as many lease cells as it may have.
    TooManyCells,
    /// This server is stopping.
    Stopping,
}

/// What a request waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WaitsFor {
    /// The end of a lease: its holder is not connected, and may be dead.
    SilentHolder {
        /// Who holds it.
        holder: OsdId,
        /// How much longer, unless it is extended.
        remaining: Duration,
    },
    /// The answer to a question for the lease.
    Lease,
    /// A lease that can't be had.
    Obstacle(Obstacle),
    /// Replicas that have not said how far their copies go.
    Activation {
        /// Who is silent; this server itself if its disk has not done its part.
        silent: Vec<OsdId>,
    },
    /// The newest bytes, which are fetched from other replicas.
    NewestBytes,
    /// Replicas that must agree to what was changed, or make it stable.
    Quorum {
        /// Who is not up with this server, or has not made stable what it was asked to; this server itself
        /// if its disk has not.
        silent: Vec<OsdId>,
    },
}

/// Requests that are not done yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stall {
    /// Since when the oldest one waits, or since when what it waits for is missing.
    pub since: Instant,
    /// How many there are.
    pub requests: usize,
    /// What for.
    pub waits_for: WaitsFor,
}

impl WaitsFor {
    /// One word, for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SilentHolder { .. } => "holder",
            Self::Lease => "lease",
            Self::Obstacle(Obstacle::NoMajority) => "no_quorum",
            Self::Obstacle(Obstacle::Quarantine { .. }) => "quarantine",
            Self::Obstacle(Obstacle::OldView) => "old_view",
            Self::Obstacle(Obstacle::TooManyCells) => "too_many_leases",
            Self::Obstacle(Obstacle::Stopping) => "stopping",
            Self::Activation { .. } => "activation",
            Self::NewestBytes => "catch_up",
            Self::Quorum { .. } => "quorum",
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SilentHolder { holder, remaining } => write!(
                f,
                "object server {holder} holds the lease for another {} ms and is not connected",
                remaining.as_millis()
            ),
            Self::Lease => f.write_str("the other replicas are asked for the lease"),
            Self::Obstacle(obstacle) => obstacle.fmt(f),
            Self::Activation { silent } => {
                write!(
                    f,
                    "replicas have not said how far they are: {}",
                    names(silent)
                )
            }
            Self::NewestBytes => f.write_str("the newest bytes are fetched from other replicas"),
            Self::Quorum { silent } => {
                write!(
                    f,
                    "too few replicas have answered for the volume's quorum; missing: {}",
                    names(silent)
                )
            }
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMajority => f.write_str("no majority of the replicas answers for the lease"),
            Self::Quarantine { remaining } => write!(
                f,
                "this server started too recently to take leases; it may in {} ms",
                remaining.as_millis()
            ),
            Self::OldView => f.write_str("the replica set changed; the new one is being fetched"),
            Self::TooManyCells => f.write_str("this server has as many leases as it may have"),
            Self::Stopping => f.write_str("this server is stopping"),
        }
    }
}

fn names(osds: &[OsdId]) -> String {
    if osds.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = osds.iter().map(|osd| format!("osd {osd}")).collect();
    names.join(", ")
}

impl ObjectReplica {
    /// What requests here wait for; nothing if none waits.
    #[must_use]
    pub fn stall(&self, now: Instant) -> Option<Stall> {
        let timeout = self.config.request_timeout;
        let arrived = |deadline: Instant| deadline - timeout;
        let queued = self.waiting.front().map(|front| arrived(front.deadline));
        let Some(tenure) = self.tenure.as_ref() else {
            return Some(Stall {
                since: self.leasing.wanted_since(queued?),
                requests: self.waiting.len(),
                waits_for: self.leasing.waits_for(now),
            });
        };
        let changed = tenure
            .changes
            .iter()
            .filter(|change| change.request.is_some());
        let changes = changed.map(|change| change.deadline);
        let held = tenure.held.iter().map(|held| held.deadline);
        let deadlines = changes.chain(held).chain(tenure.syncs.deadline());
        let pending: Vec<Instant> = deadlines.collect();
        let oldest = pending.iter().copied().min().map(arrived);
        Some(Stall {
            since: [queued, oldest].into_iter().flatten().min()?,
            requests: self.waiting.len() + pending.len(),
            waits_for: self.tenure_waits_for(tenure),
        })
    }

    /// The answer to a request that waited in vain.
    pub(crate) fn waited_in_vain(&self, step: &Step<'_>) -> types::Fault {
        let waits_for = match &self.tenure {
            Some(tenure) => self.tenure_waits_for(tenure),
            None => self.leasing.waits_for(step.now),
        };
        faults::stalled(&waits_for)
    }
}

impl ObjectReplica {
    fn tenure_waits_for(&self, tenure: &Tenure) -> WaitsFor {
        let missing = |mine: bool, is_missing: &dyn Fn(&Peer) -> bool| {
            let peers = tenure.peers.iter().filter(|peer| is_missing(peer));
            let me = (mine && self.durable.busy_since().is_some()).then_some(self.me);
            me.into_iter().chain(peers.map(|peer| peer.id)).collect()
        };
        match &tenure.phase {
            Phase::Asking { own, .. } => WaitsFor::Activation {
                silent: missing(own.is_none(), &|peer| {
                    !matches!(peer.state, PeerState::Answered(_))
                }),
            },
            Phase::Fetching(_) => WaitsFor::NewestBytes,
            Phase::BringingUp { .. } | Phase::Serving | Phase::Closing { .. } => {
                let syncing = tenure.syncs.deadline().is_some();
                let at_disk = |peer: &Peer| peer.asked_sync > peer.durable;
                let silent = |peer: &Peer| !peer.is_joined() || peer.owing_since.is_some();
                WaitsFor::Quorum {
                    silent: match syncing {
                        true => missing(true, &|peer| silent(peer) || at_disk(peer)),
                        false => missing(false, &silent),
                    },
                }
            }
        }
    }
}
