//! What the planner looks at: servers and groups, as replicated records and heartbeats have them.

use std::collections::{BTreeMap, BTreeSet};

use types::{Instant, OsdId, PgKey};

/// The cluster at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Picture {
    /// Every server that is known. A member that is not among them counts as down for ever.
    pub servers: BTreeMap<OsdId, Server>,
    /// Every placement group of every volume.
    pub groups: BTreeMap<PgKey, Group>,
}

/// An object server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// What it shares fate with, coarsest first: `site/rack/host`, to any depth. Empty if unknown, and
    /// then it shares fate with nobody.
    pub location: String,
    /// Size of its store. 0 if it never said, and then nothing is planned onto it.
    pub capacity_bytes: u64,
    /// What is left of it, as the last heartbeat said.
    pub free_bytes: u64,
    /// Whether the leader hears from it.
    pub state: State,
    /// What the operator wants of it.
    pub wish: Wish,
}

/// Whether the leader hears from a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It does.
    Up,
    /// It doesn't.
    Down {
        /// When it was first missed, by the clock that also tells `now`. A new leader has not missed
        /// anybody before it came to power, so the grace time of a dead server begins anew.
        since: Instant,
    },
}

/// What the operator wants of a server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Wish {
    /// It serves.
    #[default]
    Keep,
    /// It should hold nothing in the end, because it is to be emptied or removed.
    Drain,
}

/// A placement group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// Grows with every change of the two sets.
    pub view: u64,
    /// The servers wanted, distinct; the first one is the natural first primary.
    pub members: Vec<OsdId>,
    /// The set before, while a change is under way; else empty.
    pub previous: Vec<OsdId>,
    /// Members that have not declared yet, in this view, that they hold everything. Without meaning
    /// while no change is under way.
    pub settling: BTreeSet<OsdId>,
    /// Servers of either set whose store is new. They do not vote until they were filled again.
    pub incomplete: BTreeSet<OsdId>,
    /// Estimate of the data of one replica.
    pub bytes: u64,
    /// Replicas its volume wants; 0 counts as 1.
    pub replicas: usize,
}

impl Group {
    /// Whether a change is under way.
    pub(crate) const fn is_changing(&self) -> bool {
        !self.previous.is_empty()
    }

    /// Replicas wanted, at least one.
    pub(crate) fn wanted(&self) -> usize {
        self.replicas.max(1)
    }

    /// Members the change under way adds.
    pub(crate) fn joining(&self) -> impl Iterator<Item = OsdId> {
        let changing = self.is_changing();
        let members = self.members.iter().copied();
        members.filter(move |osd| changing && !self.previous.contains(osd))
    }

    /// Servers the change under way removes.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = OsdId> {
        let previous = self.previous.iter().copied();
        previous.filter(|osd| !self.members.contains(osd))
    }

    /// Whether a member has declared and not lost its store since.
    pub(crate) fn has_declared(&self, osd: OsdId) -> bool {
        !self.settling.contains(&osd) && !self.incomplete.contains(&osd)
    }
}
