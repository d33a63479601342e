//! What a change that is under way needs: nothing, another aim, or its end.

use types::{OsdId, Quorum};

use crate::act::Reason;
use crate::begin::{exchanged, without};
use crate::cluster::{Cluster, Standing};
use crate::mutant::Mutant;
use crate::needs::no_majority;
use crate::picture::Group;
use crate::report::GroupState;
use crate::tally::Tally;
use crate::target;
use crate::why::Why;

/// What is next for a change under way.
#[derive(Debug)]
pub(crate) enum Next {
    /// End it.
    End,
    /// Give it another aim.
    Retarget(Reason, Vec<OsdId>),
    /// Leave it alone.
    Wait(GroupState, Why),
}

/// What is next for a group with a change under way.
///
/// A change whose old server came back is not given up for that: at most
/// [`changes_max`](crate::Limits::changes_max) of them are under way, and the picture doesn't tell
/// whether the old server was dead or is only too full. It is given up
///
/// - if its new member is gone, or to be drained before it declared, and all servers it would have
///   removed are sound, so that nothing has to be copied; or if there is no better target;
/// - if the new set has no majority, but the old one has: the change must not cost a group the
///   service that it would have without.
pub(crate) fn next(cluster: &Cluster<'_>, tally: &Tally, group: &Group) -> Next {
    if may_end(cluster, group) {
        return Next::End;
    }
    if !cluster.has_majority(group, &group.previous) {
        let why = no_majority(cluster, group, &group.previous);
        return Next::Wait(GroupState::Stuck, why);
    }
    match new_aim(cluster, tally, group) {
        Ok((reason, members)) => Next::Retarget(reason, members),
        Err(why) => Next::Wait(GroupState::Changing, why),
    }
}

/// Whether the set before may be forgotten.
///
/// Each new member must be up and hold everything, or the change achieved nothing. Each member
/// that is up must hold everything, or it would have to copy from servers that are about to delete.
/// And those that are up and hold everything must be a majority, so that the new set alone can
/// serve and each of its majorities knows what was acknowledged. A majority of the set before must have declared,
/// too: it may not decide alone any more.
fn may_end(cluster: &Cluster<'_>, group: &Group) -> bool {
    let has_declared = |osd: OsdId| {
        let new = !group.previous.contains(&osd);
        let unchecked = (cluster.limits.has(Mutant::EndsEarly) && new)
            || (cluster.limits.has(Mutant::OthersIgnored) && !new);
        unchecked || group.has_declared(osd)
    };
    let mut up = group.members.iter().filter(|osd| cluster.is_up(**osd));
    let ready = up.clone().count() >= Quorum::Majority.of(group.members.len());
    let previous = group.previous.iter();
    let declared = previous.filter(|osd| has_declared(**osd)).count();
    let known = declared >= Quorum::Majority.of(group.previous.len());
    ready
        && known
        && up.all(|osd| has_declared(*osd))
        && group.joining().all(|osd| cluster.is_up(osd))
}

/// The members that the change should have instead.
///
/// # Errors
///
/// What the change waits for if they are right, or if another server can't be had yet.
fn new_aim(
    cluster: &Cluster<'_>,
    tally: &Tally,
    group: &Group,
) -> Result<(Reason, Vec<OsdId>), Why> {
    if group.members == group.previous || cluster.limits.has(Mutant::NeverRetargets) {
        return Err(waits_for(cluster, group));
    }
    if !cluster.has_majority(group, &group.members) {
        return Ok((Reason::Rescue, group.previous.clone()));
    }
    let Some((lost, reason)) = lost_target(cluster, group) else {
        return Err(waits_for(cluster, group));
    };
    if can_give_up(cluster, group, lost) {
        return Ok((reason, group.previous.clone()));
    }
    let kept = without(&group.members, lost);
    match target::choose(cluster, tally, group, &kept) {
        Ok(new) => Ok((reason, exchanged(cluster, &group.members, lost, new))),
        Err(Why::Turn) => Err(Why::Turn),
        Err(_) => Ok((reason, group.previous.clone())),
    }
}

/// A new member that will not do: it is gone, or to be drained and has nothing to lose yet. One that
/// has declared is drained once the change has ended.
fn lost_target(cluster: &Cluster<'_>, group: &Group) -> Option<(OsdId, Reason)> {
    group.joining().find_map(|osd| match cluster.standing(osd) {
        Standing::Gone => Some((osd, Reason::Rescue)),
        Standing::Up | Standing::Away { .. } => {
            let useless = cluster.is_draining(osd) && !group.has_declared(osd);
            useless.then_some((osd, Reason::Drain))
        }
    })
}

/// Whether the servers to be removed are sound and no new member other than `lost` has declared, so
/// that giving up costs nothing.
fn can_give_up(cluster: &Cluster<'_>, group: &Group, lost: OsdId) -> bool {
    let mut others = group.joining().filter(|osd| *osd != lost);
    let mut leaving = group.leaving().peekable();
    leaving.peek().is_some()
        && leaving.all(|osd| cluster.is_sound(group, osd))
        && !others.any(|osd| group.has_declared(osd))
}

fn waits_for(cluster: &Cluster<'_>, group: &Group) -> Why {
    let away = group
        .joining()
        .find_map(|server| match cluster.standing(server) {
            Standing::Away { left } => Some(Why::Grace { server, left }),
            Standing::Up | Standing::Gone => None,
        });
    if let Some(why) = away {
        return why;
    }
    let before = group.previous.iter();
    let before = before.filter(|osd| !group.members.contains(osd));
    let members = group.members.iter().chain(before).copied();
    let servers: Vec<OsdId> = members
        .filter(|osd| cluster.is_up(*osd) && !group.has_declared(*osd))
        .collect();
    if servers.is_empty() {
        return no_majority(cluster, group, &group.members);
    }
    Why::Settling { servers }
}
