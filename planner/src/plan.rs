//! One plan: all that is due now, in order.

use std::collections::BTreeMap;

use types::{Instant, OsdId, PgKey};

use crate::act::{Act, Reason};
use crate::begin::{Change, exchanged, members_after};
use crate::cluster::Cluster;
use crate::limits::Limits;
use crate::mutant::Mutant;
use crate::needs;
use crate::picture::{Group, Picture};
use crate::rebalance::{self, Movable};
use crate::report::{GroupState, Note, Report};
use crate::running::{self, Next};
use crate::spread::{self, Exchange};
use crate::tally::Tally;
use crate::why::Why;

/// What to do, and how things are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// What to do: ends first, then changes that need another aim, then new ones by urgency. At most
    /// one act per group.
    pub acts: Vec<Act>,
    /// How the groups are, before the acts.
    pub report: Report,
}

/// Plans what is due at `now`.
///
/// # Shape
///
/// Ends and retargets of what is under way; then new changes, as many as `limits` allow. What
/// an end of this plan sets free is used by the next one, because the leader may find that the end no
/// longer fits. Rebalancing begins only when nothing that is more urgent waits. While `limits` say that
/// changes are paused, those under way go on, and new ones begin only where one sound copy is left.
///
/// A server that comes back within the grace time finds everything as it was. If the replacement of
/// its replica has begun it goes on: it is one of the few under way, and the picture doesn't tell
/// whether the server was dead or is only too full. A change is given up (a retarget to `previous`)
/// if its new member is lost while the old one is sound, or has no better target; and at once if it
/// costs the group a majority that the set before has. A new member is lost if its server is gone, is to be
/// drained, has no room for the rest, takes no change or makes no progress.
///
/// Time grows with groups × servers: 10 000 groups on 300 servers take 0.2 s of one core, in a build
/// for tests.
#[must_use]
pub fn plan(picture: &Picture, now: Instant, limits: &Limits) -> Plan {
    let averaged = limits.has(Mutant::SizesIgnored).then(|| picture.averaged());
    let picture = averaged.as_ref().unwrap_or(picture);
    let cluster = Cluster::new(picture, now, limits);
    let mut planner = Planner {
        cluster: &cluster,
        tally: Tally::of(&cluster),
        ends: Vec::new(),
        acts: Vec::new(),
        notes: BTreeMap::new(),
    };
    planner.go_on();
    let (calm, waiting) = planner.serve_needs();
    if !limits.paused {
        let calm = planner.spread(calm);
        if limits.rebalance && !waiting {
            planner.rebalance(calm);
        }
    }
    let mut acts = planner.ends;
    acts.append(&mut planner.acts);
    Plan {
        acts,
        report: Report::of(&cluster, planner.notes),
    }
}

/// Groups that need nothing and whose members are all sound.
type Calm<'a> = BTreeMap<PgKey, &'a Group>;

struct Planner<'a> {
    cluster: &'a Cluster<'a>,
    tally: Tally,
    ends: Vec<Act>,
    /// All other acts.
    acts: Vec<Act>,
    notes: BTreeMap<PgKey, Note>,
}

impl<'a> Planner<'a> {
    /// Changes under way.
    fn go_on(&mut self) {
        let cluster = self.cluster;
        for (key, group) in &cluster.picture.groups {
            if !group.is_changing() {
                continue;
            }
            let view = group.view;
            let (state, why) = match running::next(cluster, &self.tally, group) {
                Next::Wait(state, why) => (state, why),
                Next::End => {
                    self.ends.push(Act::End { group: *key, view });
                    (GroupState::Changing, Why::Ending)
                }
                Next::Retarget(reason, members) => {
                    self.tally.retarget(cluster, (*key, group), &members);
                    self.acts.push(Act::Retarget {
                        group: *key,
                        view,
                        members,
                        reason,
                    });
                    (GroupState::Changing, Why::Planned(reason))
                }
            };
            self.note(*key, state, why);
        }
    }

    /// Rescue, drain and numbers of replicas. Returns the groups that need none of it, and whether
    /// some of it is begun or waits for its turn.
    fn serve_needs(&mut self) -> (Calm<'a>, bool) {
        let cluster = self.cluster;
        let mut calm = Calm::new();
        let mut due = Vec::new();
        for (key, group) in &cluster.picture.groups {
            if group.is_changing() {
                continue;
            }
            match needs::of(cluster, &self.tally, group) {
                Err(why) => self.note(*key, GroupState::Stuck, why),
                Ok(Some((reason, change))) => {
                    due.push((needs::urgency(cluster, group, reason), *key, group, change));
                }
                Ok(None) => {
                    if let Some(why) = needs::shortage(cluster, group) {
                        self.note(*key, GroupState::Below, why);
                    } else {
                        calm.insert(*key, group);
                    }
                }
            }
        }
        due.sort_by_key(|(urgency, key, ..)| (*urgency, *key));
        let mut waiting = false;
        for ((reason, _), key, group, change) in due {
            waiting |= self.serve(key, group, reason, change);
        }
        (calm, waiting)
    }

    /// Begins a change, or notes why it can't begin. Returns whether it is only a matter of time.
    fn serve(&mut self, key: PgKey, group: &Group, reason: Reason, change: Change) -> bool {
        let sound = group.members.iter();
        let sound = sound.filter(|osd| self.cluster.is_sound(group, **osd));
        let sound = sound.count();
        let urgent = sound <= 1 && matches!(reason, Reason::Rescue | Reason::Replicas);
        if self.cluster.limits.paused && !urgent {
            if sound < group.wanted() {
                self.note(key, GroupState::Below, Why::Paused);
            }
            return true;
        }
        let (why, possible) = match members_after(self.cluster, &self.tally, group, change) {
            Ok(members) => {
                self.begin(key, group, members, reason);
                (Why::Planned(reason), true)
            }
            Err(Why::Turn) => (Why::Turn, true),
            Err(why) => (why, false),
        };
        let is_below = sound < group.wanted();
        if !possible {
            self.note(key, GroupState::Stuck, why);
        } else if is_below {
            self.note(key, GroupState::Below, why);
        }
        possible
    }

    /// Groups whose members share fate. Returns those for which nothing was planned.
    fn spread(&mut self, mut calm: Calm<'a>) -> Calm<'a> {
        let cluster = self.cluster;
        calm.retain(|key, group| {
            match spread::find(cluster, &self.tally, group) {
                Ok(Some(exchange)) => self.exchange(*key, group, exchange, Reason::Spread),
                Ok(None) => return true,
                Err(Why::Turn) => {}
                Err(why) => {
                    self.note(*key, GroupState::Stuck, why);
                    return true;
                }
            }
            false
        });
        calm
    }

    /// Moves from full servers to empty ones.
    fn rebalance(&mut self, calm: Calm<'a>) {
        let cluster = self.cluster;
        let mut movable = Movable::of(calm.iter().map(|(key, group)| (*key, *group)));
        while !self.tally.is_full(cluster) {
            let Some((key, exchange)) = rebalance::find(cluster, &self.tally, &movable) else {
                return;
            };
            movable.remove(key);
            if let Some(group) = calm.get(&key) {
                self.exchange(key, group, exchange, Reason::Rebalance);
            }
        }
    }

    fn exchange(&mut self, key: PgKey, group: &Group, exchange: Exchange, reason: Reason) {
        let members = exchanged(self.cluster, &group.members, exchange.old, exchange.new);
        self.begin(key, group, members, reason);
    }

    fn begin(&mut self, key: PgKey, group: &Group, members: Vec<OsdId>, reason: Reason) {
        self.tally.begin(self.cluster, group, &members);
        self.acts.push(Act::Begin {
            group: key,
            view: group.view,
            members,
            reason,
        });
    }

    fn note(&mut self, key: PgKey, state: GroupState, why: Why) {
        self.notes.insert(key, Note { state, why });
    }
}
