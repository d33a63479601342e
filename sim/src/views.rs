//! The metadata cluster's part: who the members of each cell are, and how that changes.
//!
//! A new view is told to a majority of the old members first; when no lease of the old view can run
//! any more, what they promised is copied to the new members, and it comes into force.

use std::collections::{BTreeMap, BTreeSet};

use lease::{Config, Membership};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use types::{CellId, Duration, MemberId};

use crate::lease_server::Known;

/// What has to happen next because of a view change.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Step {
    /// Tell a server the newest members of a cell.
    Tell(CellId, MemberId),
    /// Put the newest view of a cell into force.
    Enforce(CellId),
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
    in_force: bool,
    /// Members before the newest view.
    old: Vec<MemberId>,
    told: BTreeSet<MemberId>,
}

/// The truth about all cells.
#[derive(Debug, Default)]
pub(crate) struct Views {
    cells: BTreeMap<CellId, Truth>,
}

impl Views {
    /// Adds a cell with its first members.
    pub(crate) fn add(&mut self, cell: CellId, members: &[MemberId]) {
        let newest = Membership {
            view: 1,
            members: members.into(),
        };
        let truth = Truth {
            newest,
            in_force: true,
            old: members.to_vec(),
            told: BTreeSet::new(),
        };
        self.cells.insert(cell, truth);
    }

    /// What the metadata cluster answers to a server that asks.
    pub(crate) fn known(&self, cell: CellId) -> Option<Known> {
        let truth = self.cells.get(&cell)?;
        Some(Known {
            membership: truth.newest.clone(),
            in_force: truth.in_force,
        })
    }

    /// Begins a change of a random cell, unless one is under way there.
    pub(crate) fn change(&mut self, rng: &mut ChaCha8Rng, servers: &[MemberId]) -> Option<Change> {
        let cell = CellId(rng.random_range(0..self.cells.len() as u128));
        let truth = self.cells.get_mut(&cell).filter(|truth| truth.in_force)?;
        let old = truth.newest.members.to_vec();
        let members = draw_members(rng, servers, &old);
        let gone = old.iter().find(|member| !members.contains(member)).copied();
        truth.newest = Membership {
            view: truth.newest.view + 1,
            members: members.into(),
        };
        truth.in_force = false;
        truth.told.clear();
        truth.old.clone_from(&old);
        let mut tell = |member: &MemberId| {
            // Whoever has to go is often hard to reach, too.
            let longest = if Some(*member) == gone { 8000 } else { 1500 };
            let delay = Duration::from_millis(rng.random_range(0..longest));
            (delay, Step::Tell(cell, *member))
        };
        Some(Change {
            steps: old.iter().map(&mut tell).collect(),
            gone,
            stay: old
                .iter()
                .filter(|member| Some(**member) != gone)
                .copied()
                .collect(),
        })
    }

    /// Notes that a server knows the newest view of a cell.
    pub(crate) fn told(
        &mut self,
        cell: CellId,
        server: MemberId,
        config: &Config,
    ) -> Option<(Duration, Step)> {
        let truth = self.cells.get_mut(&cell)?;
        let majority = truth.old.len() / 2 + 1;
        let is_news = truth.old.contains(&server) && truth.told.insert(server);
        let enough = is_news && truth.told.len() == majority && !truth.in_force;
        enough.then(|| (config.quarantine(), Step::Enforce(cell)))
    }

    /// Whose promises must be copied to whom before the newest view comes into force: from the old
    /// members that know of it, who promise nothing in the old view any more, to the new ones.
    pub(crate) fn transfer(&self, cell: CellId) -> (Vec<MemberId>, Vec<MemberId>) {
        let Some(truth) = self.cells.get(&cell) else {
            return (Vec::new(), Vec::new());
        };
        let members = truth.newest.members.iter();
        let new = members.filter(|member| !truth.old.contains(member));
        (truth.told.iter().copied().collect(), new.copied().collect())
    }

    /// Puts the newest view into force; everybody concerned is told soon.
    pub(crate) fn enforce(
        &mut self,
        cell: CellId,
        rng: &mut ChaCha8Rng,
        delay_max: Duration,
    ) -> Vec<(Duration, Step)> {
        let Some(truth) = self.cells.get_mut(&cell) else {
            return Vec::new();
        };
        truth.in_force = true;
        let members = truth.newest.members.iter().chain(&truth.old);
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
            let members: BTreeSet<MemberId> = truth
                .newest
                .members
                .iter()
                .chain(&truth.old)
                .copied()
                .collect();
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
