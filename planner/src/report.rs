//! What operators are told: how the groups are, and why.

use std::collections::BTreeMap;

use types::{OsdId, PgKey};

use crate::cluster::Cluster;
use crate::why::Why;

/// The state of the redundancy of the cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Groups with all the members wanted, each up and with all data.
    pub healthy_count: usize,
    /// Groups with fewer.
    pub below_count: usize,
    /// Groups with a change under way.
    pub changing_count: usize,
    /// Groups for which nothing can be done without an operator, or without a server coming back.
    pub stuck_count: usize,
    /// Why, for every group that is not healthy.
    pub notes: BTreeMap<PgKey, Note>,
    /// What is still on each server that is to be drained.
    pub draining: BTreeMap<OsdId, Remaining>,
}

/// Why a group is not healthy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// How it is.
    pub state: GroupState,
    /// Why it is so.
    pub why: Why,
}

/// How a group is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GroupState {
    /// It has fewer members that are up, complete and to be kept than its volume wants.
    Below,
    /// A change is under way.
    Changing,
    /// It is below the number wanted, badly spread or in the middle of a change, and nothing can be
    /// done without an operator, or without a server coming back.
    Stuck,
}

/// What is still on a server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Remaining {
    /// Groups of which it holds a replica.
    pub groups_count: usize,
    /// Their bytes, as estimated.
    pub bytes: u64,
}

impl Report {
    /// Counts what the notes say; all other groups are healthy.
    pub(crate) fn of(cluster: &Cluster<'_>, notes: BTreeMap<PgKey, Note>) -> Self {
        let count = |state| notes.values().filter(|note| note.state == state).count();
        let groups = cluster.picture.groups.len();
        Self {
            healthy_count: groups.saturating_sub(notes.len()),
            below_count: count(GroupState::Below),
            changing_count: count(GroupState::Changing),
            stuck_count: count(GroupState::Stuck),
            draining: draining(cluster),
            notes,
        }
    }
}

fn draining(cluster: &Cluster<'_>) -> BTreeMap<OsdId, Remaining> {
    let servers = cluster.picture.servers.keys().copied();
    let mut draining: BTreeMap<OsdId, Remaining> = servers
        .filter(|osd| cluster.is_draining(*osd))
        .map(|osd| (osd, Remaining::default()))
        .collect();
    for group in cluster.picture.groups.values() {
        for osd in group.members.iter().copied().chain(group.leaving()) {
            if let Some(remaining) = draining.get_mut(&osd) {
                remaining.groups_count = remaining.groups_count.saturating_add(1);
                remaining.bytes = remaining.bytes.saturating_add(group.bytes);
            }
        }
    }
    draining
}
