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
    /// What members still have to get, as estimated: those that a change adds or that lost their store,
    /// and those that a group lacks.
    pub left_bytes: u64,
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
            left_bytes: left_bytes(cluster),
            notes,
        }
    }
}

fn left_bytes(cluster: &Cluster<'_>) -> u64 {
    let groups = cluster.picture.groups.values();
    let left = groups.map(|group| {
        // Those that only have to say that they have it all lack nothing, but nobody knows.
        if group.is_changing() {
            let lacking = group.joining().filter(|osd| !group.has_declared(*osd));
            return lacking
                .map(|osd| group.missing_at(osd))
                .fold(0, u64::saturating_add);
        }
        let members = group.members.iter().copied();
        let sound = members
            .clone()
            .filter(|osd| cluster.is_sound(group, *osd))
            .count();
        let filling = members.filter(|osd| cluster.is_up(*osd) && group.incomplete.contains(osd));
        let filling: Vec<u64> = filling.map(|osd| group.missing_at(osd)).collect();
        let lacking = group.wanted().saturating_sub(sound);
        let lacking = lacking.saturating_sub(filling.len());
        let whole = group.bytes.saturating_mul(lacking as u64);
        filling.into_iter().fold(whole, u64::saturating_add)
    });
    left.fold(0, u64::saturating_add)
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
                remaining.bytes = remaining.bytes.saturating_add(group.held_by(osd));
            }
        }
    }
    draining
}
