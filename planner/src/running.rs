//! What a change that is under way needs: nothing, another aim, or its end.

use types::{OsdId, Quorum};

use crate::act::Reason;
use crate::begin::{exchanged, without};
use crate::cluster::{Cluster, Standing};
use crate::mutant::Mutant;
use crate::needs::{grace, ill, no_majority};
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
/// - if its new member is lost and all servers it would have removed are sound, so that nothing has to be
///   copied; or if there is no better target, and what was copied is of no use;
/// - if the new set has no majority, but the old one has: the change must not cost a group the
///   service that it would have without;
/// - if the new set can't do without members that make no progress, but the old one can.
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
        Err(why @ (Why::Unfit { .. } | Why::Ill { .. })) => Next::Wait(GroupState::Stuck, why),
        Err(why) => Next::Wait(GroupState::Changing, why),
    }
}

/// Whether the set before may be forgotten.
///
/// Each new member must be up and hold everything, or the change achieved nothing. Each member
/// that is up must hold everything, or it would have to copy from servers that are about to delete. A
/// member of both sets that makes no progress is not waited for for ever: those that hold everything are a
/// majority of the new set without it, and it can copy from them.
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
    let passed_over = |osd: OsdId| group.previous.contains(&osd) && cluster.is_ill(group, osd);
    let mut up = group.members.iter().filter(|osd| cluster.is_up(**osd));
    let ready = up.clone().filter(|osd| has_declared(**osd)).count();
    let previous = group.previous.iter();
    let known = previous.filter(|osd| has_declared(**osd)).count();
    ready >= Quorum::Majority.of(group.members.len())
        && known >= Quorum::Majority.of(group.previous.len())
        && up.all(|osd| has_declared(*osd) || passed_over(*osd))
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
    let Some((lost, loss)) = lost_target(cluster, tally, group) else {
        // As long as those that make no progress are needed in the new set, but not in the one before.
        let hopeless = !can_settle(cluster, group, &group.members);
        if hopeless && can_settle(cluster, group, &group.previous) {
            return Ok((Reason::Target, group.previous.clone()));
        }
        return Err(waits_for(cluster, group));
    };
    let reason = loss.reason();
    if can_give_up(cluster, group, lost) {
        return Ok((reason, group.previous.clone()));
    }
    let kept = without(&group.members, lost);
    match target::choose(cluster, tally, group, &kept) {
        Ok(new) => Ok((reason, exchanged(cluster, &group.members, lost, new))),
        Err(Why::Turn) => Err(Why::Turn),
        Err(_) if is_of_use(cluster, group, loss) => Err(Why::Unfit {
            server: lost,
            bytes: group.missing_at(lost),
            full: loss == Loss::Full,
        }),
        Err(_) => Ok((reason, group.previous.clone())),
    }
}

/// Why a new member will not do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Loss {
    /// It is gone.
    Gone,
    /// It is to be drained, and has nothing to lose yet.
    Draining,
    /// There is no room for the rest.
    Full,
    /// It takes no change.
    Failed,
    /// It makes no progress.
    Ill,
}

impl Loss {
    const fn reason(self) -> Reason {
        match self {
            Self::Gone => Reason::Rescue,
            Self::Draining => Reason::Drain,
            Self::Full | Self::Failed | Self::Ill => Reason::Target,
        }
    }
}

/// A new member that will not do. One that has declared, and is not gone, will: it is drained or
/// replaced once the change has ended.
fn lost_target(cluster: &Cluster<'_>, tally: &Tally, group: &Group) -> Option<(OsdId, Loss)> {
    group.joining().find_map(|osd| {
        let has_declared = group.has_declared(osd);
        let loss = match cluster.standing(osd) {
            Standing::Gone => Loss::Gone,
            _ if has_declared => return None,
            Standing::Up | Standing::Away { .. } if cluster.is_draining(osd) => Loss::Draining,
            Standing::Away { .. } if cluster.has_failed(osd) => Loss::Failed,
            // What was never told of may be there.
            Standing::Up if group.held.contains_key(&osd) && tally.is_overfull(cluster, osd) => {
                Loss::Full
            }
            // If others get nowhere either, the reason may be with them: with something that none has whole.
            Standing::Up if cluster.is_ill(group, osd) && others_well(cluster, group, osd) => {
                Loss::Ill
            }
            Standing::Up | Standing::Away { .. } => return None,
        };
        Some((osd, loss))
    })
}

/// Whether a majority of `set` takes part and makes progress with what it lacks.
fn can_settle(cluster: &Cluster<'_>, group: &Group, set: &[OsdId]) -> bool {
    let well = |osd: &&OsdId| cluster.votes(group, **osd) && !cluster.is_ill(group, **osd);
    set.iter().filter(well).count() >= Quorum::Majority.of(set.len())
}

fn others_well(cluster: &Cluster<'_>, group: &Group, osd: OsdId) -> bool {
    let mut others = group.members.iter().chain(&group.previous);
    others.all(|other| *other == osd || !cluster.is_ill(group, *other))
}

/// Whether what the new member has got so far is worth keeping although it can't get the rest now: some
/// of the servers it would take the place of can't serve any more.
fn is_of_use(cluster: &Cluster<'_>, group: &Group, loss: Loss) -> bool {
    let hopeful = matches!(loss, Loss::Full | Loss::Failed | Loss::Ill);
    let served = |osd| cluster.votes(group, osd);
    let replaced = group.leaving().next().is_some() && group.leaving().all(served);
    hopeful && !replaced
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
            Standing::Away { left } => Some(grace(cluster, server, left)),
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
    // While others get on they are waited for: then the change may end without those that don't.
    let stuck = servers.iter().all(|osd| cluster.is_ill(group, *osd));
    let ill = ill(cluster, group, servers.iter().copied()).filter(|_| stuck);
    ill.unwrap_or(Why::Settling { servers })
}
