//! Changes of one member: what each does to the list of members, and who the new one is.

use types::OsdId;

use crate::cluster::Cluster;
use crate::mutant::Mutant;
use crate::picture::Group;
use crate::tally::Tally;
use crate::target;
use crate::why::Why;

/// A change of one member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// Put another server in the place of this one.
    Exchange(OsdId),
    /// Add a server at the end.
    Add,
    /// Remove this one.
    Remove(OsdId),
}

/// The members that `group`, in which no change is under way, gets by `change`.
///
/// A group whose majority takes part has one afterwards, too: an added member counts at once, and
/// members are removed only when they don't take part or when all do.
///
/// # Errors
///
/// Why it has to wait.
pub(crate) fn members_after(
    cluster: &Cluster<'_>,
    tally: &Tally,
    group: &Group,
    change: Change,
) -> Result<Vec<OsdId>, Why> {
    if tally.is_full(cluster) {
        return Err(Why::Turn);
    }
    let mut members = match change {
        Change::Remove(old) => return Ok(without(&group.members, old)),
        Change::Exchange(old) => without(&group.members, old),
        Change::Add => group.members.clone(),
    };
    let new = target::choose(cluster, tally, group, &members)?;
    if is_source_busy(cluster, tally, group) {
        return Err(Why::Turn);
    }
    match change {
        Change::Exchange(old) => Ok(exchanged(cluster, &group.members, old, new)),
        Change::Add | Change::Remove(_) => {
            members.push(new);
            Ok(members)
        }
    }
}

/// Whether the server a new member would copy from has enough to do.
pub(crate) fn is_source_busy(cluster: &Cluster<'_>, tally: &Tally, group: &Group) -> bool {
    cluster
        .source(group, &group.members)
        .is_some_and(|source| tally.is_busy(cluster, source))
}

/// `members` with `new` in the place of `old`, so that the work of a first member falls to the one
/// that takes its place.
pub(crate) fn exchanged(
    cluster: &Cluster<'_>,
    members: &[OsdId],
    old: OsdId,
    new: OsdId,
) -> Vec<OsdId> {
    if cluster.limits.has(Mutant::OrderLost) {
        let mut changed = without(members, old);
        changed.push(new);
        return changed;
    }
    let replace = |osd: &OsdId| if *osd == old { new } else { *osd };
    members.iter().map(replace).collect()
}

/// `members` without `old`.
pub(crate) fn without(members: &[OsdId], old: OsdId) -> Vec<OsdId> {
    let others = members.iter().copied();
    others.filter(|osd| *osd != old).collect()
}
