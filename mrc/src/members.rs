//! Which step of a change of the metadata servers comes next: decisions only, no Raft and no network.
//!
//! A change goes in this order: who is to be a voter becomes a learner and is brought up to date; the
//! leader gives up its part if it is to go; mounts and object servers hear whom they can ask besides
//! those that go; then one joint change of the membership. Each step may be the last one that is done:
//! planned again, for the same wish, the change goes on where it was, whoever leads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Metadata servers that count for majorities. 7: five, and two more while they are being replaced.
pub(crate) const VOTERS_MAX: usize = 7;

/// Log entries that a server may lack when it becomes a voter. 1000: replicated in a moment.
pub(crate) const JOIN_LAG_ENTRIES_MAX: u64 = 1000;

/// What an administrator, or a server that lost its disk, wants.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Wish {
    /// Ids of servers that should be voters, with their addresses.
    pub add: BTreeMap<u64, String>,
    /// Ids whose members should go, but for those of `add`.
    pub remove: BTreeSet<u64>,
}

/// A member as the leader knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Known {
    pub id: u64,
    pub address: String,
    /// It answered within the last two leases, or is the leader.
    pub heard: bool,
    /// Log entries that it is not known to have; `None`: nothing is known.
    pub lag: Option<u64>,
}

/// What a server that is to be added says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Newcomer {
    /// Number in Raft, drawn when its log was made.
    pub number: u64,
    pub id: u64,
    /// It has never been a voter, as far as its log goes.
    pub fresh: bool,
}

/// What is known when a step is planned. Members go by their numbers in Raft.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    /// The leader, which plans.
    pub me: u64,
    pub voters: BTreeSet<u64>,
    /// A change is half done: voters of before and after are needed.
    pub joint: bool,
    /// Voters and learners.
    pub nodes: BTreeMap<u64, Known>,
    /// Who answers at the addresses of [`Wish::add`], by the id wished for.
    pub newcomers: BTreeMap<u64, Newcomer>,
    /// Mounts and object servers that have not heard yet who all voters are.
    pub untold: usize,
    /// The leader leads for too short a time to have heard from everybody.
    pub new_leader: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing: all is as wished.
    Done,
    /// Plan again later.
    Wait(Wait),
    /// Make it a learner.
    Learn {
        number: u64,
        id: u64,
        address: String,
    },
    /// These learners are members no more.
    Forget(BTreeSet<u64>),
    /// Let this voter lead.
    HandOver(u64),
    /// These are the voters.
    Vote(BTreeSet<u64>),
    /// It can't be done.
    Refuse(Refusal),
}

/// What a change waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    Change,
    Server { id: u64, address: String },
    Copy { id: u64, lag: Option<u64> },
    Told(usize),
    NewLeader,
    Leadership,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change => f.write_str("an earlier change of the members, to end"),
            Self::Server { id, address } => write!(
                f,
                "metadata server {id}, to answer at {address}; start it with an empty directory, \
                 and with running metadata servers and itself in `members`"
            ),
            Self::Copy { id, lag: Some(lag) } => write!(
                f,
                "metadata server {id}, to be brought up to date: it lacks {lag} entries of the log"
            ),
            Self::Copy { id, lag: None } => write!(
                f,
                "metadata server {id}, to be brought up to date: it gets the index first"
            ),
            Self::Told(count) => write!(
                f,
                "{count} mounts or object servers, to hear of the metadata servers that stay"
            ),
            Self::NewLeader => f.write_str("the new leader, to hear from the others"),
            Self::Leadership => f.write_str("another metadata server, to take over the lead"),
        }
    }
}

/// Why a change can't be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    Nobody,
    TooMany(usize),
    OtherId {
        id: u64,
        address: String,
        found: u64,
    },
    Used {
        id: u64,
        address: String,
    },
    Alive {
        id: u64,
        address: String,
    },
    AddressTaken {
        id: u64,
        address: String,
        by: u64,
    },
    NoMajority {
        silent: Vec<u64>,
        left: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str(
                "no metadata server would be left; add another one first, or stop the cluster instead",
            ),
            Self::TooMany(count) => write!(
                f,
                "there would be {count} metadata servers, more than {VOTERS_MAX}; each change waits for \
                 a majority of them, so remove some"
            ),
            Self::OtherId { id, address, found } => write!(
                f,
                "metadata server {found} answers at {address}, not {id}; give its own id or the address \
                 of {id}"
            ),
            Self::Used { id, address } => write!(
                f,
                "the directory of metadata server {id} at {address} is that of a member that was removed, \
                 or of a cluster of its own; stop it, remove its directory, list running metadata servers \
                 in its `members`, and start it again"
            ),
            Self::Alive { id, address } => write!(
                f,
                "metadata server {id} is a member already, and answers at {address}; give the new one \
                 another id, or use `xfs-admin mrc replace {id} {id}=ADDRESS`"
            ),
            Self::AddressTaken { id, address, by } => write!(
                f,
                "{address} is the address of metadata server {by}; give that of {id}"
            ),
            Self::NoMajority { silent, left } => write!(
                f,
                "of the {left} metadata servers that would be left, {} did not answer lately, and the \
                 rest is no majority: nothing could be changed any more; start these first, or remove \
                 them instead",
                numbers(silent)
            ),
        }
    }
}

fn numbers(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    ids.join(" and ")
}

/// The next step towards the wish.
pub(crate) fn plan(picture: &Picture, wish: &Wish) -> Step {
    if picture.joint {
        return Step::Wait(Wait::Change);
    }
    let mut wanted = BTreeSet::new();
    for (id, address) in &wish.add {
        match find(picture, wish, *id, address) {
            Ok(number) => wanted.insert(number),
            Err(step) => return step,
        };
    }
    let goes = |number: &u64| {
        let known = picture.nodes.get(number);
        let replaced =
            |known: &Known| wish.remove.contains(&known.id) || wish.add.contains_key(&known.id);
        !wanted.contains(number) && known.is_some_and(replaced)
    };
    let stay = picture.voters.iter().copied().filter(|voter| !goes(voter));
    let target: BTreeSet<u64> = stay.chain(wanted.iter().copied()).collect();
    if target.is_empty() {
        return Step::Refuse(Refusal::Nobody);
    }
    if target.len() > VOTERS_MAX {
        return Step::Refuse(Refusal::TooMany(target.len()));
    }
    if let Some(step) = bring_up(picture, wish, &wanted) {
        return step;
    }
    if target == picture.voters {
        let learners = picture.nodes.keys().copied();
        let gone: BTreeSet<u64> = learners
            .filter(|number| !picture.voters.contains(number) && goes(number))
            .collect();
        return match gone.is_empty() {
            true => Step::Done,
            false => Step::Forget(gone),
        };
    }
    change(picture, target)
}

/// The number of a server that is to be a voter.
fn find(picture: &Picture, wish: &Wish, id: u64, address: &str) -> Result<u64, Step> {
    let same = |known: &Known| known.id == id && known.address == address;
    let Some(newcomer) = picture.newcomers.get(&id) else {
        // It may be down: it is a member nevertheless.
        let member = picture
            .voters
            .iter()
            .find(|number| picture.nodes.get(number).is_some_and(same));
        return member.copied().ok_or_else(|| {
            let address = address.to_owned();
            Step::Wait(Wait::Server { id, address })
        });
    };
    let address = address.to_owned();
    if newcomer.id != id {
        let found = newcomer.id;
        return Err(Step::Refuse(Refusal::OtherId { id, address, found }));
    }
    if picture.nodes.contains_key(&newcomer.number) {
        return Ok(newcomer.number);
    }
    if !newcomer.fresh {
        return Err(Step::Refuse(Refusal::Used { id, address }));
    }
    let taken = picture.nodes.values().find(|known| {
        known.address == address && known.id != id && !wish.remove.contains(&known.id)
    });
    if let Some(by) = taken.map(|known| known.id) {
        return Err(Step::Refuse(Refusal::AddressTaken { id, address, by }));
    }
    let alive = picture
        .nodes
        .iter()
        .find(|(number, known)| known.id == id && known.heard && picture.voters.contains(number));
    match alive {
        Some((_, known)) if !wish.remove.contains(&id) => {
            let address = known.address.clone();
            Err(Step::Refuse(Refusal::Alive { id, address }))
        }
        _ if picture.new_leader && picture.nodes.values().any(|known| known.id == id) => {
            Err(Step::Wait(Wait::NewLeader))
        }
        _ => Ok(newcomer.number),
    }
}

/// What is to be done before those wanted can vote.
fn bring_up(picture: &Picture, wish: &Wish, wanted: &BTreeSet<u64>) -> Option<Step> {
    for (id, newcomer) in &picture.newcomers {
        let number = newcomer.number;
        if wanted.contains(&number) && !picture.nodes.contains_key(&number) {
            let (id, address) = (*id, wish.add.get(id).cloned().unwrap_or_default());
            return Some(Step::Learn {
                number,
                id,
                address,
            });
        }
    }
    for number in wanted.difference(&picture.voters) {
        let Some(known) = picture.nodes.get(number) else {
            continue;
        };
        if known.lag.is_none_or(|lag| lag > JOIN_LAG_ENTRIES_MAX) {
            let (id, lag) = (known.id, known.lag);
            return Some(Step::Wait(Wait::Copy { id, lag }));
        }
    }
    None
}

/// The way from the voters there are to others, all of which are members.
fn change(picture: &Picture, target: BTreeSet<u64>) -> Step {
    let heard = |number: &u64| {
        let known = picture.nodes.get(number);
        *number == picture.me || known.is_some_and(|known| known.heard)
    };
    let (there, silent): (Vec<u64>, Vec<u64>) = target.iter().copied().partition(heard);
    if there.len() * 2 <= target.len() {
        if picture.new_leader {
            return Step::Wait(Wait::NewLeader);
        }
        let ids = silent.iter().filter_map(|number| picture.nodes.get(number));
        return Step::Refuse(Refusal::NoMajority {
            silent: ids.map(|known| known.id).collect(),
            left: target.len(),
        });
    }
    if target.is_superset(&picture.voters) {
        return Step::Vote(target);
    }
    if target.is_disjoint(&picture.voters) {
        // Nobody would know whom to ask: all together first.
        return Step::Vote(target.union(&picture.voters).copied().collect());
    }
    if !target.contains(&picture.me) {
        let next = there
            .iter()
            .filter(|number| picture.voters.contains(number));
        let lag = |number: &&u64| {
            let known = picture.nodes.get(number);
            known.and_then(|known| known.lag).unwrap_or(u64::MAX)
        };
        return match next.min_by_key(lag) {
            Some(next) => Step::HandOver(*next),
            None => Step::Wait(Wait::NewLeader),
        };
    }
    let addresses = |numbers: &BTreeSet<u64>| -> BTreeSet<String> {
        let known = numbers
            .iter()
            .filter_map(|number| picture.nodes.get(number));
        known.map(|known| known.address.clone()).collect()
    };
    let lost = !addresses(&target).is_superset(&addresses(&picture.voters));
    if lost && picture.untold > 0 {
        return Step::Wait(Wait::Told(picture.untold));
    }
    Step::Vote(target)
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
