//! Which server gets a further replica of a group.

use types::OsdId;

use crate::cluster::{Cluster, Node};
use crate::picture::Group;
use crate::place::Closeness;
use crate::tally::Tally;
use crate::why::Why;

/// Chooses a server for a replica of `group` next to the members in `kept`.
///
/// Of the servers with room those count that make progress with what they were given, if there are any; of
/// these those that share least fate with `kept`; of these the one that
/// will be the least full, then the one with the fewest groups (which matters while groups are
/// empty), then the one with the lowest id. If all that are well placed are busy the group waits:
/// a copy in a worse place would have to be moved again.
///
/// # Errors
///
/// Why there is none: no server, none with room, or none whose turn it is.
pub(crate) fn choose(
    cluster: &Cluster<'_>,
    tally: &Tally,
    group: &Group,
    kept: &[OsdId],
) -> Result<OsdId, Why> {
    let others: Vec<&Node<'_>> = strangers(cluster, group).collect();
    let places = cluster.places(kept);
    let suits = |node: &Node<'_>| -> (bool, Closeness) {
        (cluster.is_idle(node), cluster.closeness(node, &places))
    };
    let roomy: Vec<((bool, Closeness), &Node<'_>)> = others
        .iter()
        .filter(|node| tally.has_room(cluster, node, group.bytes))
        .map(|node| (suits(node), *node))
        .collect();
    let Some(best) = roomy.iter().map(|(suits, _)| *suits).min() else {
        return Err(if others.is_empty() {
            Why::NoServer
        } else {
            Why::NoRoom {
                bytes: group.bytes,
                servers: others.len(),
            }
        });
    };
    roomy
        .iter()
        .filter(|(suits, node)| *suits == best && !tally.is_busy(cluster, node.osd))
        .map(|(_, node)| (rank(tally, node, group), node.osd))
        .min()
        .map(|(_, osd)| osd)
        .ok_or(Why::Turn)
}

/// Servers that could take a replica of the group, if they have room.
pub(crate) fn strangers<'a, 'b: 'a>(
    cluster: &'a Cluster<'b>,
    group: &'a Group,
) -> impl Iterator<Item = &'a Node<'b>> {
    cluster.takers().filter(move |node| {
        !group.members.contains(&node.osd) && !group.previous.contains(&node.osd)
    })
}

/// Order of equally well placed servers: the lowest is chosen.
pub(crate) fn rank(tally: &Tally, node: &Node<'_>, group: &Group) -> (u64, u32) {
    (
        tally.fill_ppm(node, group.bytes),
        tally.load(node.osd).groups,
    )
}
