//! What is planned onto and off each server, the changes under way included.

use std::collections::BTreeMap;

use types::OsdId;

use crate::cluster::{Cluster, Node};
use crate::mutant::Mutant;
use crate::picture::Group;

const MILLION: u128 = 1_000_000;

/// What is planned for one server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Bytes of groups that it joins. All of them, however much it has copied already: too much
    /// caution for a while, where too little would fill it up.
    pub(crate) incoming_bytes: u64,
    /// Bytes of groups that it leaves.
    pub(crate) outgoing_bytes: u64,
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
}

impl Tally {
    /// Counts what is under way.
    pub(crate) fn of(cluster: &Cluster<'_>) -> Self {
        let mut tally = Self::default();
        for group in cluster.picture.groups.values() {
            for osd in &group.members {
                tally.join(*osd);
            }
            if group.is_changing() {
                // A change that can't go on copies nothing; if it counted, the groups of one dead
                // rack could use up what the rescue of all others needs.
                let counts = cluster.has_majority(group, &group.previous);
                tally.add(cluster, group, &group.previous, &group.members, counts);
            }
        }
        tally
    }

    /// Counts a change that is being begun.
    pub(crate) fn begin(&mut self, cluster: &Cluster<'_>, group: &Group, members: &[OsdId]) {
        self.add(cluster, group, &group.members, members, true);
        self.renumber(&group.members, members);
    }

    /// Counts a change that gets another aim: what is new of it instead of what was given up.
    pub(crate) fn retarget(&mut self, group: &Group, members: &[OsdId]) {
        let bytes = group.bytes;
        for osd in group.joining().filter(|osd| !members.contains(osd)) {
            let load = self.loads.entry(osd).or_default();
            load.incoming_bytes = load.incoming_bytes.saturating_sub(bytes);
            load.changes = load.changes.saturating_sub(1);
        }
        for osd in group.leaving().filter(|osd| members.contains(osd)) {
            let load = self.loads.entry(osd).or_default();
            load.outgoing_bytes = load.outgoing_bytes.saturating_sub(bytes);
        }
        for osd in members {
            if !group.previous.contains(osd) && !group.members.contains(osd) {
                let load = self.loads.entry(*osd).or_default();
                load.incoming_bytes = load.incoming_bytes.saturating_add(bytes);
                load.changes = load.changes.saturating_add(1);
            }
        }
        self.renumber(&group.members, members);
    }

    fn add(
        &mut self,
        cluster: &Cluster<'_>,
        group: &Group,
        from: &[OsdId],
        to: &[OsdId],
        counts: bool,
    ) {
        let mut copies = false;
        for osd in to.iter().filter(|osd| !from.contains(osd)) {
            let load = self.loads.entry(*osd).or_default();
            load.incoming_bytes = load.incoming_bytes.saturating_add(group.bytes);
            load.changes = load.changes.saturating_add(u32::from(counts));
            copies = true;
        }
        for osd in from.iter().filter(|osd| !to.contains(osd)) {
            let load = self.loads.entry(*osd).or_default();
            load.outgoing_bytes = load.outgoing_bytes.saturating_add(group.bytes);
        }
        if let Some(source) = cluster.source(group, from).filter(|_| copies) {
            let load = self.loads.entry(source).or_default();
            load.changes = load.changes.saturating_add(u32::from(counts));
        }
        self.changes = self.changes.saturating_add(usize::from(counts));
    }

    fn join(&mut self, osd: OsdId) {
        let load = self.loads.entry(osd).or_default();
        load.groups = load.groups.saturating_add(1);
    }

    fn renumber(&mut self, from: &[OsdId], to: &[OsdId]) {
        for osd in from {
            let load = self.loads.entry(*osd).or_default();
            load.groups = load.groups.saturating_sub(1);
        }
        for osd in to {
            self.join(*osd);
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
        let planned = self.load(node.osd).incoming_bytes.saturating_add(bytes);
        let left = u128::from(node.server.free_bytes.saturating_sub(planned));
        let reserve = u128::from(node.server.capacity_bytes)
            .saturating_mul(u128::from(cluster.limits.reserve_percent));
        node.server.free_bytes >= planned && left.saturating_mul(100) >= reserve
    }

    /// How full the server is going to be with `bytes` more, in millionths of its capacity. What it
    /// leaves counts as gone, although it is deleted only after the change.
    pub(crate) fn fill_ppm(&self, node: &Node<'_>, bytes: u64) -> u64 {
        let server = node.server;
        let load = self.load(node.osd);
        let used = u128::from(server.capacity_bytes.saturating_sub(server.free_bytes))
            .saturating_add(u128::from(load.incoming_bytes))
            .saturating_add(u128::from(bytes))
            .saturating_sub(u128::from(load.outgoing_bytes));
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
