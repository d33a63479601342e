//! Members that share fate although they need not.

use std::cmp::Reverse;

use types::OsdId;

use crate::begin::{is_source_busy, without};
use crate::cluster::{Cluster, Node};
use crate::picture::Group;
use crate::place::Closeness;
use crate::tally::Tally;
use crate::target::{rank, strangers};
use crate::why::Why;

/// A member to exchange for another server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Exchange {
    pub(crate) old: OsdId,
    pub(crate) new: OsdId,
}

/// The exchange that makes the members of a sound group share the least fate, if one helps.
///
/// Every such exchange makes them strictly farther apart and rebalancing never brings them nearer, so
/// that the two do not undo each other's work.
///
/// # Errors
///
/// Why it has to wait.
pub(crate) fn find(
    cluster: &Cluster<'_>,
    tally: &Tally,
    group: &Group,
) -> Result<Option<Exchange>, Why> {
    let mut best: Vec<(OsdId, &Node<'_>)> = Vec::new();
    let mut best_gain: Closeness = 0;
    let mut crowded = None;
    for old in group.members.iter().copied() {
        let Some(node) = cluster.node(old) else {
            continue;
        };
        let places = cluster.places(&without(&group.members, old));
        let now = cluster.closeness(node, &places);
        if now == 0 {
            continue;
        }
        for new in strangers(cluster, group).filter(|node| !cluster.is_idle(node)) {
            let gain = now.saturating_sub(cluster.closeness(new, &places));
            if gain == 0 || gain < best_gain {
                continue;
            }
            if !tally.has_room(cluster, new, group.bytes) {
                crowded = crowded.or(Some(node));
                continue;
            }
            if gain > best_gain {
                best_gain = gain;
                best.clear();
            }
            best.push((old, new));
        }
    }
    if best.is_empty() {
        return crowded.map_or(Ok(None), |node| Err(crowded_why(node, group)));
    }
    if tally.is_full(cluster) || is_source_busy(cluster, tally, group) {
        return Err(Why::Turn);
    }
    choose(cluster, tally, group, &best).map(Some)
}

/// Among exchanges that gain the same: the least full server that is not busy, in the place of the
/// last member, since the first is the natural primary.
fn choose(
    cluster: &Cluster<'_>,
    tally: &Tally,
    group: &Group,
    best: &[(OsdId, &Node<'_>)],
) -> Result<Exchange, Why> {
    best.iter()
        .enumerate()
        .filter(|(_, (_, new))| !tally.is_busy(cluster, new.osd))
        .min_by_key(|(at, (_, new))| (rank(tally, new, group), new.osd, Reverse(*at)))
        .map(|(_, (old, new))| Exchange {
            old: *old,
            new: new.osd,
        })
        .ok_or(Why::Turn)
}

fn crowded_why(node: &Node<'_>, group: &Group) -> Why {
    Why::Crowded {
        server: node.osd,
        location: node.server.location.clone(),
        bytes: group.bytes,
    }
}
