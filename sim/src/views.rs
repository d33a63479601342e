//! The metadata cluster's part: who the members of each cell are, and how that changes.
//!
//! A change goes through a view in which the old and the new set decide together, which is in force at
//! once. When so many know it as can decide, what the old members promised is copied to the new ones,
//! and the view of the new set alone begins.

use std::collections::{BTreeMap, BTreeSet};

use lease::Membership;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use types::{CellId, Duration, MemberId};

/// What has to happen next because of a view change.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Step {
    /// Tell a server the newest members of a cell.
    Tell(CellId, MemberId),
    /// End the change of a cell: the new set is alone from now on.
    End(CellId),
}

/// A change that begins.
#[derive(Debug)]
pub(crate) struct Change {
    /// What has to happen, and when.
    pub(crate) steps: Vec<(Duration, Step)>,
    /// The member that has to go, unless only the order changes.
    pub(crate) gone: Option<MemberId>,
    /// The old members that stay.
    pub(crate) stay: Vec<MemberId>,
}

/// The truth about one cell.
#[derive(Debug)]
struct Truth {
    newest: Membership,
    /// The members of the newest set.
    members: Vec<MemberId>,
    /// Those of the set before.
    old: Vec<MemberId>,
    /// While a change is under way: who knows of it.
    changing: Option<BTreeSet<MemberId>>,
}

/// The truth about all cells.
#[derive(Debug, Default)]
pub(crate) struct Views {
    cells: BTreeMap<CellId, Truth>,
}

impl Views {
    /// Adds a cell with its first members.
    pub(crate) fn add(&mut self, cell: CellId, members: &[MemberId]) {
        let truth = Truth {
            newest: Membership::new(1, members),
            members: members.to_vec(),
            old: members.to_vec(),
            changing: None,
        };
        self.cells.insert(cell, truth);
    }

    /// What the metadata cluster answers to a server that asks.
    pub(crate) fn known(&self, cell: CellId) -> Option<Membership> {
        Some(self.cells.get(&cell)?.newest.clone())
    }

    /// Begins a change of a random cell, unless one is under way there.
    pub(crate) fn change(&mut self, rng: &mut ChaCha8Rng, servers: &[MemberId]) -> Option<Change> {
        let cell = CellId(rng.random_range(0..self.cells.len() as u128));
        let truth = self.cells.get_mut(&cell);
        let truth = truth.filter(|truth| truth.changing.is_none())?;
        let old = truth.members.clone();
        let members = draw_members(rng, servers, &old);
        let gone = old.iter().find(|member| !members.contains(member)).copied();
        truth.newest = Membership::changing(truth.newest.view + 1, &members, &old);
        truth.members = members;
        truth.changing = Some(BTreeSet::new());
        truth.old.clone_from(&old);
        let mut tell = |member: &MemberId| {
            // Whoever has to go is often hard to reach, too.
            let longest = if Some(*member) == gone { 8000 } else { 1500 };
            let delay = Duration::from_millis(rng.random_range(0..longest));
            (delay, Step::Tell(cell, *member))
        };
        Some(Change {
            steps: truth.newest.members.iter().map(&mut tell).collect(),
            gone,
            stay: old
                .iter()
                .filter(|member| Some(**member) != gone)
                .copied()
                .collect(),
        })
    }

    /// Notes that a server knows the newest view of a cell. Returns whether the change can end now.
    pub(crate) fn told(&mut self, cell: CellId, server: MemberId) -> bool {
        let Some(truth) = self.cells.get_mut(&cell) else {
            return false;
        };
        let Some(told) = &mut truth.changing else {
            return false;
        };
        let before = truth.newest.is_quorum(|member| told.contains(&member));
        told.insert(server);
        !before && truth.newest.is_quorum(|member| told.contains(&member))
    }

    /// Whose promises must be copied to whom before the change ends: from the old members that know of
    /// it, who promise nothing in the old view any more, to all of the new set.
    pub(crate) fn transfer(&self, cell: CellId) -> (Vec<MemberId>, Vec<MemberId>) {
        let Some(truth) = self.cells.get(&cell) else {
            return (Vec::new(), Vec::new());
        };
        let told = truth.changing.iter().flatten();
        let old = told.filter(|member| truth.old.contains(member));
        (old.copied().collect(), truth.members.clone())
    }

    /// Ends the change; everybody concerned is told soon.
    pub(crate) fn end(
        &mut self,
        cell: CellId,
        rng: &mut ChaCha8Rng,
        delay_max: Duration,
    ) -> Vec<(Duration, Step)> {
        let Some(truth) = self.cells.get_mut(&cell) else {
            return Vec::new();
        };
        truth.changing = None;
        truth.newest = Membership::new(truth.newest.view + 1, &*truth.members);
        let members = truth.members.iter().chain(&truth.old);
        let concerned: BTreeSet<MemberId> = members.copied().collect();
        let tell = |member| {
            let delay = Duration::from_nanos(rng.random_range(0..=delay_max.as_nanos()));
            (delay, Step::Tell(cell, member))
        };
        concerned.into_iter().map(tell).collect()
    }

    /// What is left to tell, at once.
    pub(crate) fn hurry(&self) -> Vec<Step> {
        let tell = |(cell, truth): (&CellId, &Truth)| {
            let members = truth.members.iter().chain(&truth.old);
            let members: BTreeSet<MemberId> = members.copied().collect();
            let cell = *cell;
            members
                .into_iter()
                .map(move |member| Step::Tell(cell, member))
        };
        self.cells.iter().flat_map(tell).collect()
    }
}

/// Draws the first members of a cell: three or five of the servers, in any order.
pub(crate) fn first_members(rng: &mut ChaCha8Rng, servers: &[MemberId]) -> Vec<MemberId> {
    let wanted = [3, 3, 5][rng.random_range(0..3)].min(servers.len());
    let mut left = servers.to_vec();
    (0..wanted)
        .map(|_| left.swap_remove(rng.random_range(0..left.len())))
        .collect()
}

/// One member replaced by a server that is none, or, without such a server, the order changed.
fn draw_members(rng: &mut ChaCha8Rng, servers: &[MemberId], old: &[MemberId]) -> Vec<MemberId> {
    let spare: Vec<MemberId> = servers
        .iter()
        .filter(|server| !old.contains(server))
        .copied()
        .collect();
    let mut members = old.to_vec();
    let at = rng.random_range(0..members.len());
    match spare.is_empty() {
        true => members.rotate_left(at),
        false => members[at] = spare[rng.random_range(0..spare.len())],
    }
    members
}
