//! Replica sets that change: what the metadata cluster records and each server knows of it, and how a
//! server finds out that it has everything in a view.
//!
//! The rules are those of `mrc/core/src/groups.rs` and `osd/src/recovery.rs`, for one object.

use std::collections::BTreeSet;

use osd_core::{Input, Membership, ReplicaSet};

use crate::faults::Fault;
use crate::lease_model::MS;
use crate::world::{Event, KEY, Target, World, osd};

/// The record of the placement group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Group {
    pub(crate) view: u64,
    pub(crate) members: Vec<usize>,
    /// The set before, while a change is under way.
    pub(crate) previous: Vec<usize>,
    /// Of either set, those that have not declared.
    pub(crate) settling: BTreeSet<usize>,
    /// Those whose store is new to the group.
    pub(crate) incomplete: BTreeSet<usize>,
}

impl Group {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            view: 1,
            members: (0..members).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn replicas(&self) -> ReplicaSet {
        let osds = |nodes: &[usize]| nodes.iter().copied().map(osd).collect::<Vec<_>>();
        ReplicaSet::changing(&osds(&self.members), &osds(&self.previous))
    }

    pub(crate) fn either(&self) -> BTreeSet<usize> {
        self.members.iter().chain(&self.previous).copied().collect()
    }

    /// Both sets, or the one there is.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &Vec<usize>> {
        let sets = [&self.members, &self.previous];
        sets.into_iter().filter(|set| !set.is_empty())
    }

    fn may_end(&self) -> bool {
        let declared = |node: &&usize| !self.settling.contains(node);
        self.new_have_declared()
            && self
                .sets()
                .all(|set| set.iter().filter(declared).count() > set.len() / 2)
    }

    fn new_have_declared(&self) -> bool {
        let mut new = self.members.iter();
        !self.previous.is_empty()
            && new.all(|node| self.previous.contains(node) || !self.settling.contains(node))
    }

    fn change(&mut self, members: Vec<usize>) {
        if self.previous.is_empty() {
            self.previous.clone_from(&self.members);
        }
        let known: BTreeSet<usize> = self.either();
        self.incomplete
            .extend(members.iter().filter(|node| !known.contains(node)));
        self.members = members;
        self.view += 1;
        self.settling = self.either();
        let either = self.either();
        self.incomplete.retain(|node| either.contains(node));
    }

    fn end(&mut self) {
        self.view += 1;
        self.previous.clear();
        self.settling.clear();
        let members = self.members.clone();
        self.incomplete.retain(|node| members.contains(node));
    }
}

/// How far a server has come in finding out that it has everything, in the view it goes by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Settling {
    #[default]
    Comparing,
    /// It lacks something, which it asked for.
    BringingUp,
    Done,
}

impl World {
    pub(crate) fn membership(&self, node: usize) -> Membership {
        let state = &self.nodes[node];
        Membership {
            view: state.known.view,
            replicas: state.known.replicas(),
            incomplete: state.incomplete || state.known.incomplete.contains(&node),
            recovered: state.recovered,
            policy: state.policy,
        }
    }

    /// An administrator, or a death, has the set changed; or a change gets another aim.
    pub(crate) fn change_set(&mut self) {
        if self.now >= self.faults_end {
            return;
        }
        let at = self.now + self.rng.between(200, 4_000) * MS;
        self.schedule(at, Target::World, Event::Inject(Fault::ChangeSet));
        if !self.group.previous.is_empty() && !self.rng.once_in(5) {
            return;
        }
        let mut members = self.group.members.clone();
        let others: Vec<usize> = (0..self.nodes.len())
            .filter(|node| !members.contains(node))
            .collect();
        let out = self.rng.below(members.len() as u64) as usize;
        let new = match others.len() as u64 {
            0 => None,
            count => Some(others[self.rng.below(count) as usize]),
        };
        match (self.rng.below(6), new) {
            (0, _) if members.len() > 1 => drop(members.remove(out)),
            (1, Some(new)) if members.len() < self.plan.replicas + 1 => members.push(new),
            (2, _) if !self.group.previous.is_empty() => members.clone_from(&self.group.previous),
            (_, Some(new)) => members[out] = new,
            _ => return,
        }
        if members != self.group.members {
            self.group.change(members);
        }
    }

    /// Another server takes the place of a member.
    pub(crate) fn drain(&mut self, node: usize) {
        let either = self.group.either();
        let spare = (0..self.nodes.len()).find(|other| !either.contains(other));
        let Some(spare) = spare.filter(|_| self.group.previous.is_empty()) else {
            return;
        };
        let mut members = self.group.members.clone();
        for member in members.iter_mut().filter(|member| **member == node) {
            *member = spare;
        }
        self.group.change(members);
    }

    /// A new store: the metadata cluster knows before anybody is asked.
    pub(crate) fn mark_incomplete(&mut self, node: usize) {
        if self.plan.spares > 0 && self.group.either().contains(&node) {
            self.group.incomplete.insert(node);
            if !self.group.previous.is_empty() {
                self.group.settling.insert(node);
            }
        }
    }

    /// What the shell of a server does about the view.
    pub(crate) fn settle(&mut self, node: usize) -> Result<(), String> {
        let soon = self.clients.stopping || !self.plan.fails();
        if self.nodes[node].known != self.group && (self.rng.once_in(8) || soon) {
            let new_view = self.nodes[node].known.view != self.group.view;
            self.nodes[node].known = self.group.clone();
            if new_view {
                self.nodes[node].settling = Settling::Comparing;
            }
            self.tell_membership(node);
        }
        let known = self.nodes[node].known.clone();
        if !known.either().contains(&node) {
            return self.delete_leftover(node);
        }
        if known.previous.is_empty() {
            // A store that was new has everything again.
            if !self.nodes[node].incomplete && known.view == self.group.view {
                self.group.incomplete.remove(&node);
            }
            return Ok(());
        }
        if self.nodes[node].settling != Settling::Comparing {
            return self.declare(node);
        }
        if self.plan.declared_unseen {
            self.nodes[node].settling = Settling::Done;
            return self.declare(node);
        }
        let Some(compared) = self.compared(node) else {
            return Ok(());
        };
        let mine = self.position(node);
        let newest = compared.iter().map(|other| self.position(*other)).max();
        // What is in memory only, the loss of power would take away after the others have deleted theirs.
        let doubtful = self.nodes[node].replica.as_ref().is_some_and(|replica| {
            match self.plan.declared_in_memory {
                true => !replica.status().trusted,
                false => !replica.status().clean,
            }
        });
        let exists = self.nodes[node].store.bytes(KEY).is_some();
        if newest > Some(mine) || exists && doubtful {
            self.nodes[node].settling = Settling::BringingUp;
            let newest = newest.unwrap_or_default().max(mine);
            self.nodes[node].wanted = newest;
            return self.step(node, Input::Recover { newest });
        }
        self.nodes[node].settling = Settling::Done;
        self.declare(node)
    }

    /// The servers that lost nothing and that this one has compared with, itself included, if every
    /// majority has one of them.
    fn compared(&self, node: usize) -> Option<Vec<usize>> {
        let known = &self.nodes[node].known;
        let reachable = self.reachable(node);
        let lost_nothing = |other: &usize| {
            let state = &self.nodes[*other];
            let trusted = state
                .replica
                .as_ref()
                .is_some_and(|replica| replica.status().trusted);
            trusted
                && state.recovered
                && !state.incomplete
                && !state.known.incomplete.contains(other)
                && !known.incomplete.contains(other)
                || self.plan.suspects_vouch
        };
        let seen = |other: &usize| {
            // Its list is of this view.
            let view = self.nodes[*other].known.view;
            let same = view == known.view || self.plan.compared_across_views;
            *other == node || reachable.contains(other) && same
        };
        let set = known.previous.iter().copied();
        let vouching: Vec<usize> = set.filter(|it| seen(it) && lost_nothing(it)).collect();
        let count = known.previous.len();
        let majority = count / 2 + 1;
        (vouching.len() + majority > count).then_some(vouching)
    }

    /// Where the copy of a server stands, as a list of its objects says.
    pub(crate) fn position(&self, node: usize) -> osd_core::Position {
        let replica = self.nodes[node].replica.as_ref();
        replica.map_or_else(Default::default, |replica| replica.status().position)
    }

    fn declare(&mut self, node: usize) -> Result<(), String> {
        let state = &self.nodes[node];
        if state.settling != Settling::Done || state.known.view != self.group.view {
            return Ok(());
        }
        self.group.settling.remove(&node);
        self.group.incomplete.remove(&node);
        let early = self.plan.ended_early && self.group.new_have_declared();
        if (self.group.may_end() || early) && (self.rng.once_in(4) || self.clients.stopping) {
            self.group.end();
        }
        Ok(())
    }

    fn delete_leftover(&mut self, node: usize) -> Result<(), String> {
        let there = self.nodes[node].store.bytes(KEY).is_some();
        if there && self.rng.once_in(30) {
            let request = u64::MAX;
            self.nodes[node].jobs.clear();
            self.step(node, Input::Delete { request })?;
            self.reopen(node);
        }
        Ok(())
    }
}
