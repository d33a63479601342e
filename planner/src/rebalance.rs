//! Moves of groups from full servers to empty ones.
//!
//! A move of data is made if the fills differ by more than the threshold, and never past the point
//! where both servers are equally full. So each move makes the sum of used² / capacity over all
//! servers smaller, a move is never worth undoing, and the moves come to an end: with `b` bytes moved
//! from fill `f` to fill `g`, the sum changes by `b (b/c + b/d - 2 (f - g))`, and `b/c + b/d` is at most `f - g`.
//! That takes real sizes. Groups that were not counted, and servers that have not counted theirs, wait.
//!
//! Groups that hold nothing change no fill. They are dealt out by their number instead, in
//! proportion to capacity, so that a new server takes part in what will be written: each of these
//! moves makes the sum of groups² / capacity smaller and leaves the other sum as it is.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use types::{OsdId, PgKey};

use crate::begin::{is_source_busy, without};
use crate::cluster::{Cluster, Node};
use crate::mutant::Mutant;
use crate::picture::Group;
use crate::spread::Exchange;
use crate::tally::{Tally, share_ppm};

/// Sound groups by the servers that hold them.
#[derive(Debug, Default)]
pub(crate) struct Movable<'a> {
    groups: BTreeMap<OsdId, BTreeMap<PgKey, &'a Group>>,
}

impl<'a> Movable<'a> {
    pub(crate) fn of(groups: impl Iterator<Item = (PgKey, &'a Group)>) -> Self {
        let mut movable = Self::default();
        for (key, group) in groups.filter(|(_, group)| group.is_counted()) {
            for osd in &group.members {
                let held = movable.groups.entry(*osd).or_default();
                held.insert(key, group);
            }
        }
        movable
    }

    /// Leaves a group out from now on.
    pub(crate) fn remove(&mut self, key: PgKey) {
        for held in self.groups.values_mut() {
            held.remove(&key);
        }
    }

    fn held_by(&self, osd: OsdId) -> impl Iterator<Item = (PgKey, &'a Group)> {
        let held = self.groups.get(&osd).into_iter().flatten();
        held.map(|(key, group)| (*key, *group))
    }
}

/// The next move, if one is worth it.
pub(crate) fn find(
    cluster: &Cluster<'_>,
    tally: &Tally,
    movable: &Movable<'_>,
) -> Option<(PgKey, Exchange)> {
    by_fill(cluster, tally, movable).or_else(|| by_number(cluster, tally, movable))
}

/// The largest group that evens out the fill of two servers.
fn by_fill(
    cluster: &Cluster<'_>,
    tally: &Tally,
    movable: &Movable<'_>,
) -> Option<(PgKey, Exchange)> {
    let any = cluster.limits.has(Mutant::MovesForNothing);
    let threshold_ppm = if any { 0 } else { threshold_ppm(cluster) };
    let counted = |node: &&Node<'_>| node.server.data_bytes.is_some();
    let mut servers: Vec<&Node<'_>> = cluster.takers().filter(counted).collect();
    servers.sort_by_key(|node| (tally.fill_ppm(node, 0), node.osd));
    pairs(&servers).find_map(|(from, to)| {
        let gap_ppm = tally
            .fill_ppm(from, 0)
            .saturating_sub(tally.fill_ppm(to, 0));
        if gap_ppm <= threshold_ppm {
            return None;
        }
        let evened_ppm = |group: &Group| {
            let bytes = u128::from(group.bytes);
            share_ppm(bytes, from.server.capacity_bytes)
                .saturating_add(share_ppm(bytes, to.server.capacity_bytes))
        };
        movable
            .held_by(from.osd)
            .filter(|(_, group)| group.bytes > 0 && (any || evened_ppm(group) <= gap_ppm))
            .filter(|(_, group)| fits(cluster, tally, group, from, to))
            .max_by_key(|(key, group)| (group.bytes, Reverse(*key)))
            .map(|(key, _)| (key, exchange(from, to)))
    })
}

/// An empty group that evens out the number of groups of two servers.
fn by_number(
    cluster: &Cluster<'_>,
    tally: &Tally,
    movable: &Movable<'_>,
) -> Option<(PgKey, Exchange)> {
    let mut servers: Vec<&Node<'_>> = cluster.takers().collect();
    servers.sort_by_key(|node| (density(tally, node), node.osd));
    pairs(&servers).find_map(|(from, to)| {
        let fill_ppm = tally.fill_ppm(from, 0);
        let fuller = tally.fill_ppm(to, 0) > fill_ppm.saturating_add(threshold_ppm(cluster));
        if fuller || !evens_out(cluster, tally, from, to) {
            return None;
        }
        movable
            .held_by(from.osd)
            .filter(|(_, group)| group.bytes == 0)
            .find(|(_, group)| fits(cluster, tally, group, from, to))
            .map(|(key, _)| (key, exchange(from, to)))
    })
}

/// Groups per capacity, as a number that compares.
fn density(tally: &Tally, node: &Node<'_>) -> u128 {
    let groups = u128::from(tally.load(node.osd).groups) << 64;
    let density = groups.checked_div(u128::from(node.server.capacity_bytes));
    density.unwrap_or(u128::MAX)
}

/// Whether `from` has more groups per capacity than `to` by the threshold even after one has moved.
fn evens_out(cluster: &Cluster<'_>, tally: &Tally, from: &Node<'_>, to: &Node<'_>) -> bool {
    let (there, here) = (tally.load(from.osd).groups, tally.load(to.osd).groups);
    let least = u128::from(cluster.limits.rebalance_percent).saturating_add(100);
    let after = |groups: u32, other: &Node<'_>, factor: u128| {
        u128::from(groups)
            .saturating_mul(u128::from(other.server.capacity_bytes))
            .saturating_mul(factor)
    };
    after(there.saturating_sub(1), to, 100) >= after(here.saturating_add(1), from, least)
}

/// Pairs of servers to move between, the best ones first: from the fullest to each, then from each to
/// the emptiest. Others would even out less than these.
fn pairs<'n, 'a>(
    ascending: &'n [&'n Node<'a>],
) -> impl Iterator<Item = (&'n Node<'a>, &'n Node<'a>)> {
    let fullest = ascending.last().into_iter();
    let emptiest = ascending.first().into_iter();
    let from_fullest = fullest.flat_map(|from| ascending.iter().map(|to| (*from, *to)));
    let to_emptiest = emptiest.flat_map(|to| ascending.iter().rev().map(|from| (*from, *to)));
    from_fullest
        .chain(to_emptiest)
        .filter(|(from, to)| from.osd != to.osd)
}

/// Whether a group can move without breaking another rule.
fn fits(
    cluster: &Cluster<'_>,
    tally: &Tally,
    group: &Group,
    from: &Node<'_>,
    to: &Node<'_>,
) -> bool {
    if group.members.contains(&to.osd)
        || cluster.is_idle(to)
        || tally.is_busy(cluster, to.osd)
        || is_source_busy(cluster, tally, group)
        || !tally.has_room(cluster, to, group.bytes)
    {
        return false;
    }
    let places = cluster.places(&without(&group.members, from.osd));
    cluster.closeness(to, &places) <= cluster.closeness(from, &places)
}

fn exchange(from: &Node<'_>, to: &Node<'_>) -> Exchange {
    Exchange {
        old: from.osd,
        new: to.osd,
    }
}

/// The difference of fill that is worth a move, in millionths.
fn threshold_ppm(cluster: &Cluster<'_>) -> u64 {
    u64::from(cluster.limits.rebalance_percent).saturating_mul(10_000)
}
