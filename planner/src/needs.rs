//! What a group in which no change is under way needs: rescue, drain, more or fewer replicas.

use types::{Duration, OsdId};

use crate::act::Reason;
use crate::begin::{Change, without};
use crate::cluster::{Cluster, Standing};
use crate::mutant::Mutant;
use crate::picture::Group;
use crate::tally::Tally;
use crate::why::Why;

/// What the group needs most, if anything.
///
/// A member that is down within the grace time, or up and being filled, needs nothing: it comes back
/// by itself, unless it makes no progress. Surplus members go before others are replaced, so that nothing is copied that would be
/// removed.
///
/// # Errors
///
/// Why nothing may begin: what changes must be able to go on afterwards.
pub(crate) fn of(
    cluster: &Cluster<'_>,
    tally: &Tally,
    group: &Group,
) -> Result<Option<(Reason, Change)>, Why> {
    if group.members.is_empty() {
        return Err(Why::NoMembers);
    }
    if !cluster.has_majority(group, &group.members) && !cluster.limits.has(Mutant::MajorityIgnored)
    {
        return Err(no_majority(cluster, group, &group.members));
    }
    if group.members.len() > group.wanted() {
        let surplus = surplus(cluster, tally, group);
        return Ok(surplus.map(|osd| (Reason::Replicas, Change::Remove(osd))));
    }
    let member = |wrong: &dyn Fn(OsdId) -> bool| {
        let mut members = group.members.iter().copied();
        members.find(|osd| wrong(*osd))
    };
    let replace = |osd| {
        if cluster.limits.has(Mutant::RemovesFirst) && group.members.len() > 1 {
            return Change::Remove(osd);
        }
        Change::Exchange(osd)
    };
    if let Some(gone) = member(&|osd| cluster.standing(osd) == Standing::Gone) {
        return Ok(Some((Reason::Rescue, replace(gone))));
    }
    // One at a time: if several make no progress, the reason may be elsewhere, and the others are needed.
    let ill = |osd| cluster.is_ill(group, osd);
    let well = |osd: &&OsdId| cluster.votes(group, **osd) && !ill(**osd);
    let enough = group.members.iter().filter(well).count() + 1 >= group.members.len();
    if let Some(ill) = member(&ill).filter(|_| enough && group.members.len() > 1) {
        return Ok(Some((Reason::Rescue, replace(ill))));
    }
    if let Some(leaver) = member(&|osd| cluster.is_draining(osd)) {
        return Ok(Some((Reason::Drain, replace(leaver))));
    }
    if group.members.len() < group.wanted() {
        return Ok(Some((Reason::Replicas, Change::Add)));
    }
    Ok(None)
}

/// The member to remove: one that is down before one without data or progress, before one to be drained; then the
/// one that shares most fate with the others; then the fullest; then the last, since the first is
/// the natural primary.
fn surplus(cluster: &Cluster<'_>, tally: &Tally, group: &Group) -> Option<OsdId> {
    let lags = |osd| {
        let idle = cluster.node(osd).is_some_and(|node| cluster.is_idle(node));
        idle || cluster.is_ill(group, osd)
    };
    let burden = |(at, osd): (usize, OsdId)| {
        let worth = match cluster.standing(osd) {
            Standing::Gone => 4,
            Standing::Away { .. } => 3,
            Standing::Up if group.incomplete.contains(&osd) || lags(osd) => 2,
            Standing::Up if cluster.is_draining(osd) => 1,
            Standing::Up => 0,
        };
        let others = cluster.places(&without(&group.members, osd));
        let node = cluster.node(osd);
        let closeness = node.map_or(0, |node| cluster.closeness(node, &others));
        let fill_ppm = node.map_or(0, |node| tally.fill_ppm(node, 0));
        (worth, closeness, fill_ppm, at)
    };
    let members = group.members.iter().copied().enumerate();
    members
        .max_by_key(|member| burden(*member))
        .map(|(_, osd)| osd)
}

/// Says which of `set` are missing for a majority.
pub(crate) fn no_majority(cluster: &Cluster<'_>, group: &Group, set: &[OsdId]) -> Why {
    let (up, down): (Vec<OsdId>, Vec<OsdId>) = set.iter().partition(|osd| cluster.is_up(**osd));
    let (failed, down) = down.into_iter().partition(|osd| cluster.has_failed(*osd));
    let up = up.into_iter();
    Why::NoMajority {
        members: set.len(),
        down,
        failed,
        incomplete: up.filter(|osd| !cluster.votes(group, *osd)).collect(),
    }
}

/// Why a group that needs nothing has fewer sound members than wanted, if it has.
pub(crate) fn shortage(cluster: &Cluster<'_>, group: &Group) -> Option<Why> {
    let sound = group.members.iter();
    let sound = sound.filter(|osd| cluster.is_sound(group, **osd)).count();
    if sound >= group.wanted() {
        return None;
    }
    let members = group.members.iter().copied();
    let away = members
        .clone()
        .filter_map(|server| match cluster.standing(server) {
            Standing::Away { left } => Some((left, server)),
            Standing::Up | Standing::Gone => None,
        });
    let grace = away
        .min()
        .map(|(left, server)| grace(cluster, server, left));
    let ill = ill(cluster, group, members.clone());
    let mut filling = members.filter(|osd| group.incomplete.contains(osd));
    grace
        .or(ill)
        .or_else(|| filling.next().map(|server| Why::Filling { server }))
}

/// A server is expected back.
pub(crate) fn grace(cluster: &Cluster<'_>, server: OsdId, left: Duration) -> Why {
    match cluster.has_failed(server) {
        true => Why::Failed { server, left },
        false => Why::Grace { server, left },
    }
}

/// Says which of these make no progress, if any.
pub(crate) fn ill(
    cluster: &Cluster<'_>,
    group: &Group,
    servers: impl Iterator<Item = OsdId>,
) -> Option<Why> {
    let ill: Vec<OsdId> = servers.filter(|osd| cluster.is_ill(group, *osd)).collect();
    let longest = ill.iter().map(|osd| cluster.idle_for(group, *osd)).max()?;
    Some(Why::Ill {
        servers: ill,
        idle: longest,
    })
}

/// Order of work: by reason, then the groups with the fewest members that are up and complete.
pub(crate) fn urgency(cluster: &Cluster<'_>, group: &Group, reason: Reason) -> (Reason, usize) {
    let holders = group.members.iter();
    let holders = holders.filter(|osd| cluster.votes(group, **osd));
    (reason, holders.count())
}
