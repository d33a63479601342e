//! What must be true of every act and of the data after it, said in another way than the planner does.

use std::collections::BTreeSet;

use planner::{Act, Group, Limits, Picture, Plan, Reason, Server, State, Why, Wish};
use types::{Instant, OsdId, PgKey, Quorum};

use crate::apply::apply;
use crate::limits;
use crate::world::Data;

/// The set that answers for the data.
pub(crate) fn servers_of(record: &Group) -> &[OsdId] {
    if record.previous.is_empty() {
        &record.members
    } else {
        &record.previous
    }
}

pub(crate) fn majority_of(set: &[OsdId]) -> usize {
    Quorum::Majority.of(set.len())
}

/// No majority of the set that answers for the data may miss what was acknowledged, and somebody
/// must hold it.
pub(crate) fn data(key: PgKey, record: &Group, data: &Data) -> Result<(), String> {
    let set = servers_of(record);
    let ignorant = set
        .iter()
        .filter(|osd| !data.is_current(**osd) && !data.blank.contains(osd));
    if ignorant.count() >= majority_of(set) {
        return Err(format!(
            "{key}: a majority of {set:?} may miss what was acknowledged"
        ));
    }
    if !data.copies.keys().any(|osd| data.is_current(*osd)) {
        return Err(format!("{key}: nobody holds what was acknowledged"));
    }
    Ok(())
}

/// A picture and what it says about servers.
struct Scene<'a> {
    picture: Picture,
    now: Instant,
    limits: &'a Limits,
}

/// Checks each act as if those before it had been done.
pub(crate) fn plan(
    picture: &Picture,
    now: Instant,
    limits: &Limits,
    plan: &Plan,
) -> Result<(), String> {
    let mut scene = Scene {
        picture: picture.clone(),
        now,
        limits,
    };
    let up = picture.servers.keys().filter(|osd| scene.is_up(**osd));
    let overfull: BTreeSet<OsdId> = up
        .filter(|osd| picture.servers[osd].free_bytes < scene.coming(**osd))
        .copied()
        .collect();
    let mut seen = BTreeSet::new();
    for act in &plan.acts {
        let (Act::Begin { group, .. } | Act::Retarget { group, .. } | Act::End { group, .. }) = act;
        if !seen.insert(*group) {
            return Err(format!("{group} gets two acts at once"));
        }
        let record = scene.picture.groups.get(group).ok_or("unknown group")?;
        scene
            .check(record, act)
            .map_err(|why| format!("{why}: {act:?} for {record:?}"))?;
        // What an end sets free is no part of the same plan.
        if !matches!(act, Act::End { .. }) {
            apply(&mut scene.picture, act);
        }
        limits::check(&scene.picture, &overfull, limits, act)
            .map_err(|why| format!("{why}: {act:?}"))?;
    }
    for (key, record) in &scene.picture.groups {
        let why = plan.report.notes.get(key).map(|note| &note.why);
        let told = matches!(
            why,
            Some(Why::Unfit { .. } | Why::Turn | Why::NoMajority { .. })
        );
        if !seen.contains(key) && !told && scene.has_full_target(record) {
            return Err(format!(
                "{key} waits for a full target: {record:?}, {why:?}"
            ));
        }
    }
    Ok(())
}

fn ensure(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn minus(one: &[OsdId], other: &[OsdId]) -> Vec<OsdId> {
    let mut left = one.to_vec();
    left.retain(|osd| !other.contains(osd));
    left
}

impl Scene<'_> {
    fn server(&self, osd: OsdId) -> Option<&Server> {
        self.picture.servers.get(&osd)
    }

    fn is_up(&self, osd: OsdId) -> bool {
        self.server(osd)
            .is_some_and(|server| server.state == State::Up)
    }

    fn is_gone(&self, osd: OsdId) -> bool {
        self.server(osd).is_none_or(|server| match server.state {
            State::Up => false,
            State::Down { since } | State::Failed { since } => {
                since + self.limits.grace <= self.now
            }
        })
    }

    fn is_draining(&self, osd: OsdId) -> bool {
        self.server(osd)
            .is_some_and(|server| server.wish == Wish::Drain)
    }

    fn check(&self, record: &Group, act: &Act) -> Result<(), String> {
        match act {
            Act::Begin {
                view,
                members,
                reason,
                ..
            } => {
                ensure(*view == record.view, "planned for another view")?;
                ensure(record.previous.is_empty(), "begins a second change")?;
                self.check_shape(&record.members, members)?;
                self.check_majorities(record, members)?;
                self.check_new(record, &record.members, members, *reason)?;
                if *reason == Reason::Rebalance {
                    self.check_balance(record, members)?;
                }
                self.check_reason(record, members, *reason)
            }
            Act::Retarget { view, members, .. } => {
                ensure(*view == record.view, "planned for another view")?;
                ensure(!record.previous.is_empty(), "retargets no change")?;
                self.check_shape(&record.previous, members)?;
                self.check_majorities(record, members)?;
                self.check_new(record, &record.members, members, Reason::Rescue)?;
                self.check_retarget(record)
            }
            Act::End { view, .. } => {
                ensure(*view == record.view, "planned for another view")?;
                ensure(!record.previous.is_empty(), "ends no change")?;
                self.check_end(record)
            }
        }
    }

    /// One member exchanged in its place, added at the end or removed; or nothing.
    fn check_shape(&self, old: &[OsdId], new: &[OsdId]) -> Result<(), String> {
        let distinct: BTreeSet<_> = new.iter().collect();
        ensure(distinct.len() == new.len(), "members are not distinct")?;
        ensure(!new.is_empty(), "no member is left")?;
        let (gone, come) = (minus(old, new), minus(new, old));
        let expected: Vec<OsdId> = match (&gone[..], &come[..]) {
            ([], []) => old.to_vec(),
            ([], [added]) => [old, &[*added]].concat(),
            ([removed], []) => minus(old, &[*removed]),
            ([removed], [added]) => old
                .iter()
                .map(|osd| if osd == removed { *added } else { *osd })
                .collect(),
            _ => return Err("more than one member changes".to_owned()),
        };
        ensure(expected == new, "the order of members changes")
    }

    fn check_majorities(&self, record: &Group, members: &[OsdId]) -> Result<(), String> {
        let old = servers_of(record);
        let votes = |osd: &&OsdId| self.is_up(**osd) && !record.incomplete.contains(osd);
        let voting = old.iter().filter(votes).count();
        ensure(voting >= majority_of(old), "the set before has no majority")?;
        let up = |osd: &&OsdId| votes(osd) || (self.is_up(**osd) && !old.contains(osd));
        let voting = members.iter().filter(up).count();
        ensure(
            voting >= majority_of(members),
            "the new set has no majority",
        )
    }

    /// A server that joins: fit, with room and as far away as can be.
    fn check_new(
        &self,
        record: &Group,
        old: &[OsdId],
        new: &[OsdId],
        reason: Reason,
    ) -> Result<(), String> {
        let held = [&record.members[..], &record.previous[..]].concat();
        let Some(added) = minus(new, &held).first().copied() else {
            return Ok(());
        };
        let kept = minus(new, &[added]);
        ensure(
            self.is_up(added) && !self.is_draining(added),
            "the target is down or draining",
        )?;
        ensure(self.has_room(added, record.bytes), "the target has no room")?;
        let distance = self.nearness(added, &kept);
        if let (Reason::Spread | Reason::Rebalance, Some(removed)) =
            (reason, minus(old, new).first())
        {
            let before = self.nearness(*removed, &kept);
            ensure(!self.is_idle(added), "the target makes no progress")?;
            let worse = distance > before || (reason == Reason::Spread && distance == before);
            return ensure(!worse, "members are not farther apart");
        }
        let better = self.picture.servers.keys().find(|osd| {
            let fit = self.is_up(**osd) && !self.is_draining(**osd) && !held.contains(osd);
            let suits = (self.is_idle(**osd), self.nearness(**osd, &kept));
            fit && self.has_room(**osd, record.bytes)
                && suits < (self.is_idle(added), distance.clone())
        });
        ensure(better.is_none(), "there is a farther target")
    }

    /// Levels shared with each of `others`, the most first.
    fn nearness(&self, osd: OsdId, others: &[OsdId]) -> Vec<usize> {
        let location = |osd| self.server(osd).map_or("", |server| &server.location);
        let mine = location(osd);
        let mut shared: Vec<usize> = others
            .iter()
            .map(|other| match location(*other) {
                "" => 0,
                same if same == mine => usize::MAX,
                theirs => {
                    let levels = mine.split('/').zip(theirs.split('/'));
                    levels.take_while(|(a, b)| a == b).count()
                }
            })
            .collect();
        shared.sort_unstable_by(|a, b| b.cmp(a));
        shared
    }

    /// What a server still has to get: of groups that it joins, or of which it lost its copy.
    fn coming(&self, osd: OsdId) -> u64 {
        let groups = self.picture.groups.values();
        let coming = groups.filter(|group| {
            let joins = !group.previous.is_empty() && !group.previous.contains(&osd);
            group.members.contains(&osd) && (joins || group.incomplete.contains(&osd))
        });
        let missing = coming.map(|group| {
            let held = group.held.get(&osd).copied().unwrap_or(0);
            group.bytes.saturating_sub(held)
        });
        missing.sum()
    }

    /// Whether the reserve stays, if all that is being copied there arrives.
    fn has_room(&self, osd: OsdId, bytes: u64) -> bool {
        let server = self.server(osd).unwrap();
        let planned = self.coming(osd) + bytes;
        let reserve = server.capacity_bytes * u64::from(self.limits.reserve_percent);
        server.free_bytes >= planned && (server.free_bytes - planned) * 100 >= reserve
    }

    /// Whether a new member that has told what it holds has no room for the rest.
    fn has_full_target(&self, record: &Group) -> bool {
        let joining = minus(&record.members, &record.previous);
        let full = |osd: &OsdId| {
            let declared = !record.settling.contains(osd) && !record.incomplete.contains(osd);
            let told = record.held.contains_key(osd);
            self.is_up(*osd) && told && !declared && self.free(*osd) < self.coming(*osd)
        };
        !record.previous.is_empty() && joining.iter().any(full)
    }

    fn free(&self, osd: OsdId) -> u64 {
        self.server(osd).map_or(0, |server| server.free_bytes)
    }

    /// Whether a server lacks something of a group and has made no progress for too long.
    fn is_ill(&self, record: &Group, osd: OsdId) -> bool {
        let since = record.idle_since.get(&osd);
        self.is_up(osd) && since.is_some_and(|since| *since + self.limits.patience <= self.now)
    }

    /// Whether a server makes no progress with anything.
    fn is_idle(&self, osd: OsdId) -> bool {
        let since = self.server(osd).and_then(|server| server.idle_since);
        since.is_some_and(|since| since + self.limits.patience <= self.now)
    }

    /// Bytes on a server in the end: what others use, and all groups that it is to hold.
    fn in_the_end(&self, osd: OsdId) -> Option<u64> {
        let server = self.server(osd)?;
        let used = server.capacity_bytes - server.free_bytes;
        let groups = self.picture.groups.values();
        let wanted = groups.filter(|group| group.members.contains(&osd));
        let wanted: u64 = wanted.map(|group| group.bytes).sum();
        Some(used.saturating_sub(server.data_bytes?) + wanted)
    }

    /// A move for balance leaves its source at least as full as its target: so the sum of used² / capacity
    /// gets smaller.
    fn check_balance(&self, record: &Group, new: &[OsdId]) -> Result<(), String> {
        let (from, to) = (minus(&record.members, new), minus(new, &record.members));
        let ([from], [to]) = (&from[..], &to[..]) else {
            return Err("a move for balance moves nothing".to_owned());
        };
        if record.bytes == 0 {
            return Ok(());
        }
        let both = self.in_the_end(*from).zip(self.in_the_end(*to));
        let (here, there) = both.ok_or("moves what nobody has counted")?;
        let capacity = |osd| u128::from(self.server(osd).map_or(1, |it| it.capacity_bytes));
        let here = u128::from(here.saturating_sub(record.bytes)) * capacity(*to);
        let there = u128::from(there + record.bytes) * capacity(*from);
        // The planner reckons in millionths.
        let slack = capacity(*from) * capacity(*to) / 250_000;
        ensure(here + slack >= there, "a move for balance goes too far")
    }

    fn check_reason(&self, record: &Group, new: &[OsdId], reason: Reason) -> Result<(), String> {
        let old = &record.members;
        let removed = minus(old, new).first().copied();
        let added = minus(new, old).first().copied();
        let wanted = record.replicas;
        match (removed, added) {
            (Some(removed), None) => {
                ensure(old.len() > wanted, "drops a member without replacing it")?;
                let down = old.iter().any(|osd| !self.is_up(*osd));
                ensure(
                    !down || !self.is_up(removed),
                    "drops a live member, not a dead one",
                )?;
            }
            (None, Some(_)) => ensure(old.len() < wanted, "adds more than wanted")?,
            (Some(_), Some(_)) => ensure(old.len() <= wanted, "copies what is surplus")?,
            (None, None) => return Err("changes nothing".to_owned()),
        }
        let holds = match (reason, removed) {
            (Reason::Rescue, Some(removed)) => {
                self.is_gone(removed) || self.is_ill(record, removed)
            }
            (Reason::Drain, Some(removed)) => self.is_draining(removed),
            (Reason::Replicas, _) => old.len() != wanted,
            (Reason::Spread | Reason::Rebalance, Some(_)) => old.iter().all(|osd| {
                self.is_up(*osd) && !self.is_draining(*osd) && !record.incomplete.contains(osd)
            }),
            (Reason::Rescue | Reason::Drain | Reason::Spread | Reason::Rebalance, None)
            | (Reason::Target, _) => false,
        };
        ensure(holds, "the reason doesn't hold")
    }

    /// A change gets another aim only if its target is lost or it costs the group its service.
    fn check_retarget(&self, record: &Group) -> Result<(), String> {
        let joining = minus(&record.members, &record.previous);
        let lost = joining.iter().any(|osd| {
            let server = self.server(*osd);
            let failed = server.is_some_and(|it| matches!(it.state, State::Failed { .. }));
            let full = server.is_some_and(|it| it.free_bytes < self.coming(*osd));
            let unfit = failed || full || self.is_ill(record, *osd);
            self.is_gone(*osd) || self.is_draining(*osd) || unfit
        });
        let served = self.check_majorities(record, &record.members).is_ok();
        let hopeless = record.members.iter().any(|osd| self.is_ill(record, *osd));
        ensure(
            lost || hopeless || !served,
            "retargets a change that goes on",
        )
    }

    fn check_end(&self, record: &Group) -> Result<(), String> {
        let mut joining = minus(&record.members, &record.previous).into_iter();
        ensure(joining.all(|osd| self.is_up(osd)), "its new member is down")?;
        let up = record.members.iter().filter(|osd| self.is_up(**osd));
        let count = up.clone().count();
        ensure(count >= majority_of(&record.members), "no majority is up")?;
        let has_declared =
            |osd: &OsdId| !record.settling.contains(osd) && !record.incomplete.contains(osd);
        let passed_over = |osd: &OsdId| record.previous.contains(osd) && self.is_ill(record, *osd);
        let mut members = up.into_iter();
        ensure(
            members.all(|osd| has_declared(osd) || passed_over(osd)),
            "a member has not declared",
        )?;
        for set in [&record.members, &record.previous] {
            let declared = set.iter().filter(|osd| has_declared(osd)).count();
            ensure(declared >= majority_of(set), "no majority has declared")?;
        }
        Ok(())
    }
}
