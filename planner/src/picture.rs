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
    /// What replicas take of it, by the same heartbeat: those of all groups that it holds, and those that
    /// it is about to delete. None if it has not counted all of them; then it is made up from the groups.
    pub data_bytes: Option<u64>,
    /// Since when it has made no progress with what it had to copy, compare or declare; none if it had
    /// nothing to do, or was restarted since.
    pub idle_since: Option<Instant>,
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
    /// It answers, but a write to its disk failed: it takes no change until it is restarted.
    Failed {
        /// When it was first told, by the same clock. A new leader begins anew.
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
    /// What one replica takes: of those that are complete and were counted the largest; else an estimate.
    pub bytes: u64,
    /// What servers have said that they hold of it. A server that is not in here has not counted it, or
    /// holds nothing yet.
    pub held: BTreeMap<OsdId, u64>,
    /// Servers of either set that are up and don't hold everything, and since when they made no progress.
    pub idle_since: BTreeMap<OsdId, Instant>,
    /// Replicas its volume wants; 0 counts as 1.
    pub replicas: usize,
}

impl Picture {
    /// The same, but for sizes: every group is as large as the average. A deliberate wrong edit.
    pub(crate) fn averaged(&self) -> Self {
        let total: u64 = self.groups.values().map(|group| group.bytes).sum();
        let bytes = total.checked_div(self.groups.len() as u64).unwrap_or(0);
        let mut averaged = self.clone();
        for group in averaged.groups.values_mut() {
            group.bytes = bytes;
            group.held.values_mut().for_each(|held| *held = bytes);
        }
        for server in averaged.servers.values_mut() {
            server.data_bytes = None;
        }
        averaged
    }
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

    /// What a server still has to get of it.
    pub(crate) fn missing_at(&self, osd: OsdId) -> u64 {
        let held = self.held.get(&osd).copied().unwrap_or(0);
        self.bytes.saturating_sub(held)
    }

    /// What a server holds of it, as far as known.
    pub(crate) fn held_by(&self, osd: OsdId) -> u64 {
        self.held.get(&osd).copied().unwrap_or(self.bytes)
    }

    /// Whether its size is known, not estimated.
    pub(crate) fn is_counted(&self) -> bool {
        self.members.iter().all(|osd| self.held.contains_key(osd))
    }

    /// Whether a member has declared and not lost its store since.
    pub(crate) fn has_declared(&self, osd: OsdId) -> bool {
        !self.settling.contains(&osd) && !self.incomplete.contains(&osd)
    }
}
