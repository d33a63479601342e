//! What is planned onto and off each server, the changes under way included.
//!
//! Room and fill are two questions. Whether something *fits* is asked of what is free now, less what is
//! still to come; what is to be deleted is not counted on. How *full* a server is going to be is what
//! others use of it now and all groups that it is to hold in the end: that does not depend on how
//! far copies and deletions have got, nor on how old the newest heartbeat is.

use std::collections::{BTreeMap, BTreeSet};

use types::{OsdId, PgKey};

use crate::cluster::{Cluster, Node};
use crate::mutant::Mutant;
use crate::picture::Group;

const MILLION: u128 = 1_000_000;

/// What is planned for one server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// What it still has to get of groups that it joins, or of which it lost its copy.
    pub(crate) incoming_bytes: u64,
    /// What its groups take once all changes have ended.
    wanted_bytes: u64,
    /// What it has of groups, as far as they are known to be there.
    present_bytes: u64,
    /// Changes that copy to it or, most likely, from it.
    changes: u32,
    /// Groups of whose wanted set it is a member.
    pub(crate) groups: u32,
}

/// What is planned for all servers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    loads: BTreeMap<OsdId, Load>,
    changes: usize,
    /// Groups whose change copies nothing, and counts as none.
    stuck: BTreeSet<PgKey>,
}

impl Tally {
    /// Counts what is under way.
    pub(crate) fn of(cluster: &Cluster<'_>) -> Self {
        let mut tally = Self::default();
        for group in cluster.picture.groups.values() {
            for osd in &group.members {
                tally.join(*osd, group);
                if group.incomplete.contains(osd) || group.joining().any(|new| new == *osd) {
                    tally.expect(*osd, group);
                } else {
                    tally.find(*osd, group.held_by(*osd));
                }
            }
            for osd in group.leaving() {
                tally.find(osd, group.held_by(osd));
            }
        }
        for (key, group) in &cluster.picture.groups {
            // A change that can't go on copies nothing; if it counted, the groups of one dead rack, or of
            // one full disk, could use up what the rescue of all others needs.
            let full = group.joining().any(|osd| tally.is_overfull(cluster, osd));
            if !group.is_changing() {
                continue;
            }
            if full || !cluster.has_majority(group, &group.previous) {
                tally.stuck.insert(*key);
            } else {
                tally.count(cluster, group, &group.previous, &group.members);
            }
        }
        tally
    }

    /// Counts a change that is being begun.
    pub(crate) fn begin(&mut self, cluster: &Cluster<'_>, group: &Group, members: &[OsdId]) {
        self.count(cluster, group, &group.members, members);
        for osd in members.iter().filter(|osd| !group.members.contains(osd)) {
            self.expect(*osd, group);
        }
        self.renumber(group, members);
    }

    /// Counts a change that gets another aim: what is new of it instead of what was given up.
    pub(crate) fn retarget(
        &mut self,
        cluster: &Cluster<'_>,
        (key, group): (PgKey, &Group),
        members: &[OsdId],
    ) {
        let was_stuck = self.stuck.remove(&key);
        for osd in group.joining().filter(|osd| !members.contains(osd)) {
            let load = self.loads.entry(osd).or_default();
            load.incoming_bytes = load.incoming_bytes.saturating_sub(group.missing_at(osd));
            load.changes = load.changes.saturating_sub(u32::from(!was_stuck));
        }
        for osd in members {
            if !group.previous.contains(osd) && !group.members.contains(osd) {
                self.expect(*osd, group);
                let load = self.loads.entry(*osd).or_default();
                load.changes = load.changes.saturating_add(u32::from(!was_stuck));
            }
        }
        if was_stuck {
            self.count(cluster, group, &group.previous, members);
        }
        self.renumber(group, members);
    }

    /// Counts a change as one that copies.
    fn count(&mut self, cluster: &Cluster<'_>, group: &Group, from: &[OsdId], to: &[OsdId]) {
        let mut copies = false;
        for osd in to.iter().filter(|osd| !from.contains(osd)) {
            let load = self.loads.entry(*osd).or_default();
            load.changes = load.changes.saturating_add(1);
            copies = true;
        }
        if let Some(source) = cluster.source(group, from).filter(|_| copies) {
            let load = self.loads.entry(source).or_default();
            load.changes = load.changes.saturating_add(1);
        }
        self.changes = self.changes.saturating_add(1);
    }

    /// A server still has to get something of a group.
    fn expect(&mut self, osd: OsdId, group: &Group) {
        let load = self.loads.entry(osd).or_default();
        load.incoming_bytes = load.incoming_bytes.saturating_add(group.missing_at(osd));
    }

    /// A server has so much of a group.
    fn find(&mut self, osd: OsdId, bytes: u64) {
        let load = self.loads.entry(osd).or_default();
        load.present_bytes = load.present_bytes.saturating_add(bytes);
    }

    fn join(&mut self, osd: OsdId, group: &Group) {
        let load = self.loads.entry(osd).or_default();
        load.groups = load.groups.saturating_add(1);
        load.wanted_bytes = load.wanted_bytes.saturating_add(group.bytes);
    }

    fn renumber(&mut self, group: &Group, to: &[OsdId]) {
        for osd in &group.members {
            let load = self.loads.entry(*osd).or_default();
            load.groups = load.groups.saturating_sub(1);
            load.wanted_bytes = load.wanted_bytes.saturating_sub(group.bytes);
        }
        for osd in to {
            self.join(*osd, group);
        }
    }

    pub(crate) fn load(&self, osd: OsdId) -> Load {
        self.loads.get(&osd).copied().unwrap_or_default()
    }

    /// Whether no further change may begin anywhere.
    pub(crate) fn is_full(&self, cluster: &Cluster<'_>) -> bool {
        self.changes >= cluster.limits.changes_max && !cluster.limits.has(Mutant::LimitsIgnored)
    }

    /// Whether no further change may copy to or from the server.
    pub(crate) fn is_busy(&self, cluster: &Cluster<'_>, osd: OsdId) -> bool {
        self.load(osd).changes >= cluster.limits.changes_per_server_max
            && !cluster.limits.has(Mutant::LimitsIgnored)
    }

    /// Whether the server keeps its reserve with `bytes` more.
    pub(crate) fn has_room(&self, cluster: &Cluster<'_>, node: &Node<'_>, bytes: u64) -> bool {
        if cluster.limits.has(Mutant::RoomIgnored) {
            return true;
        }
        let planned = match cluster.limits.has(Mutant::PlannedIgnored) {
            true => bytes,
            false => self.load(node.osd).incoming_bytes.saturating_add(bytes),
        };
        let left = u128::from(node.server.free_bytes.saturating_sub(planned));
        let reserve = u128::from(node.server.capacity_bytes)
            .saturating_mul(u128::from(cluster.limits.reserve_percent));
        node.server.free_bytes >= planned && left.saturating_mul(100) >= reserve
    }

    /// Whether the server has no room for what it still has to get, not even in its reserve.
    pub(crate) fn is_overfull(&self, cluster: &Cluster<'_>, osd: OsdId) -> bool {
        let incoming = self.load(osd).incoming_bytes;
        let node = cluster.node(osd).filter(|_| cluster.is_up(osd));
        node.is_some_and(|node| node.server.free_bytes < incoming)
            && !cluster.limits.has(Mutant::FullTargetKept)
    }

    /// How full the server is going to be with `bytes` more, in millionths of its capacity.
    pub(crate) fn fill_ppm(&self, node: &Node<'_>, bytes: u64) -> u64 {
        let server = node.server;
        let load = self.load(node.osd);
        let used = u128::from(server.capacity_bytes.saturating_sub(server.free_bytes));
        let data = server.data_bytes.unwrap_or(load.present_bytes);
        let of_others = used.saturating_sub(u128::from(data));
        let used = of_others
            .saturating_add(u128::from(load.wanted_bytes))
            .saturating_add(u128::from(bytes));
        share_ppm(used, server.capacity_bytes)
    }
}

/// `bytes` in millionths of `capacity_bytes`; nothing fits into a capacity of zero.
pub(crate) fn share_ppm(bytes: u128, capacity_bytes: u64) -> u64 {
    bytes
        .saturating_mul(MILLION)
        .checked_div(u128::from(capacity_bytes))
        .map_or(u64::MAX, |share| u64::try_from(share).unwrap_or(u64::MAX))
}
