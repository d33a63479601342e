//! The picture with what follows from it for single servers: who counts as up, gone or close.

use std::collections::BTreeMap;

use types::{Duration, Instant, OsdId, Quorum};

use crate::limits::Limits;
use crate::mutant::Mutant;
use crate::picture::{Group, Picture, Server, State, Wish};
use crate::place::{Closeness, Places};

/// What the planner thinks of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// It serves.
    Up,
    /// It is down or takes no change, but is expected back.
    Away {
        /// What is left of the grace time.
        left: Duration,
    },
    /// It is so for longer than the grace time, or unknown.
    Gone,
}

/// A server with what follows from its record.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) osd: OsdId,
    pub(crate) server: &'a Server,
    standing: Standing,
    place: usize,
}

/// The picture, and what follows from it.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    pub(crate) picture: &'a Picture,
    pub(crate) limits: &'a Limits,
    now: Instant,
    nodes: BTreeMap<OsdId, Node<'a>>,
    places: Places,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(picture: &'a Picture, now: Instant, limits: &'a Limits) -> Self {
        let locations = picture.servers.values();
        let (places, numbers) = Places::of(locations.map(|server| server.location.as_str()));
        let nodes = picture
            .servers
            .iter()
            .zip(numbers)
            .map(|((osd, server), place)| {
                let standing = standing(server, now, limits);
                let node = Node {
                    osd: *osd,
                    server,
                    standing,
                    place,
                };
                (*osd, node)
            })
            .collect();
        Self {
            picture,
            limits,
            now,
            nodes,
            places,
        }
    }

    pub(crate) fn node(&self, osd: OsdId) -> Option<&Node<'a>> {
        self.nodes.get(&osd)
    }

    pub(crate) fn standing(&self, osd: OsdId) -> Standing {
        self.node(osd).map_or(Standing::Gone, |node| node.standing)
    }

    pub(crate) fn is_up(&self, osd: OsdId) -> bool {
        self.standing(osd) == Standing::Up
    }

    /// Whether a write to its disk failed, so that it takes no change.
    pub(crate) fn has_failed(&self, osd: OsdId) -> bool {
        self.node(osd)
            .is_some_and(|node| matches!(node.server.state, State::Failed { .. }))
    }

    /// Whether a server lacks something of the group, although it is up, and has made no progress for
    /// so long that it isn't waited for any more.
    pub(crate) fn is_ill(&self, group: &Group, osd: OsdId) -> bool {
        let since = group.idle_since.get(&osd);
        self.is_up(osd) && since.is_some_and(|since| self.is_too_long(*since))
    }

    fn is_too_long(&self, since: Instant) -> bool {
        let patience = match self.limits.has(Mutant::Impatient) {
            true => Duration::ZERO,
            false => self.limits.patience,
        };
        self.now.since(since) >= patience && !self.limits.has(Mutant::IllKept)
    }

    /// For how long a server has made no progress.
    pub(crate) fn idle_for(&self, group: &Group, osd: OsdId) -> Duration {
        let since = group.idle_since.get(&osd);
        since.map_or(Duration::ZERO, |since| self.now.since(*since))
    }

    pub(crate) fn is_draining(&self, osd: OsdId) -> bool {
        self.node(osd)
            .is_some_and(|node| node.server.wish == Wish::Drain)
    }

    /// Servers that take new replicas, ascending.
    pub(crate) fn takers(&self) -> impl Iterator<Item = &Node<'a>> {
        self.nodes.values().filter(|node| {
            node.standing == Standing::Up
                && node.server.wish == Wish::Keep
                && node.server.capacity_bytes > 0
        })
    }

    /// Whether a server has made no progress for too long with anything that it was given: it gets more only
    /// if there is no other.
    pub(crate) fn is_idle(&self, node: &Node<'_>) -> bool {
        let since = node.server.idle_since;
        since.is_some_and(|since| self.is_too_long(since))
    }

    /// Whether a member is all that it should be: up, to be kept, with all data.
    pub(crate) fn is_sound(&self, group: &Group, osd: OsdId) -> bool {
        self.is_up(osd)
            && !self.is_draining(osd)
            && !group.incomplete.contains(&osd)
            && !self.is_ill(group, osd)
    }

    /// Whether a server of one of the group's sets takes part in its quorums. One that a change
    /// adds does so before it has the data, since the set before answers for the data.
    pub(crate) fn votes(&self, group: &Group, osd: OsdId) -> bool {
        let new = group.is_changing() && !group.previous.contains(&osd);
        self.is_up(osd) && (new || !group.incomplete.contains(&osd))
    }

    /// Whether a majority of `set` takes part.
    pub(crate) fn has_majority(&self, group: &Group, set: &[OsdId]) -> bool {
        let voting = set.iter().filter(|osd| self.votes(group, **osd)).count();
        voting >= Quorum::Majority.of(set.len())
    }

    /// Where servers stand; unknown ones stand nowhere.
    pub(crate) fn places(&self, servers: &[OsdId]) -> Vec<usize> {
        let known = servers.iter().filter_map(|osd| self.node(*osd));
        known.map(|node| node.place).collect()
    }

    /// How much of its fate a server shares with those that stand at `places`.
    pub(crate) fn closeness(&self, node: &Node<'_>, places: &[usize]) -> Closeness {
        if self.limits.has(Mutant::DomainsIgnored) {
            return 0;
        }
        places
            .iter()
            .map(|place| self.places.closeness(node.place, *place))
            .fold(0, Closeness::saturating_add)
    }

    /// The server that members without data most likely copy from: the first one that is up and has
    /// everything, since it is the likely primary.
    pub(crate) fn source(&self, group: &Group, set: &[OsdId]) -> Option<OsdId> {
        set.iter()
            .copied()
            .find(|osd| self.is_up(*osd) && !group.incomplete.contains(osd))
    }
}

fn standing(server: &Server, now: Instant, limits: &Limits) -> Standing {
    let since = match server.state {
        State::Up => return Standing::Up,
        State::Down { since } | State::Failed { since } => since,
    };
    let left = limits.grace.saturating_sub(now.since(since));
    if left == Duration::ZERO || limits.has(Mutant::GraceIgnored) {
        return Standing::Gone;
    }
    Standing::Away { left }
}
