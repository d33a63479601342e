//! The plan of faults of a run: a function of the seed and the length alone.
//!
//! At any time at most one server of each kind is taken away, and at most one cut between servers
//! of different kinds or to a mount is made, so up to three faults last at once; only
//! [`Fault::KillAll`] takes everything, and then nothing else is wrong.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fault::{Fault, Part, Planned};
use crate::node::{Kind, MOUNTS, Node, SERVERS_PER_KIND};

/// Before the first fault: the clients find their files.
const FIRST_MS: u64 = 2000;

/// Between the beginnings of two faults.
const PAUSE_MS: std::ops::Range<u64> = 1200..4500;

/// How long a fault lasts. Shorter than a session of a mount (30 s) by far, or a mount that was cut
/// off could not say what became of its last change.
const LENGTH_MS: std::ops::Range<u64> = 500..7000;

/// How much longer a server is drained: its groups are to have gone by then.
const DRAIN_MS: u64 = 8000;

/// After a fault, nothing happens to its kind of server for so long: it finds its place again.
const REST_MS: u64 = 1500;

/// The same after everything was killed: starting takes longer.
const REST_AFTER_ALL_MS: u64 = 8000;

/// Before the end of the run no fault begins, so that most end in it.
const LAST_MS: u64 = 3000;

/// The seed's choices that hold for a whole run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Victims {
    /// The only object server whose files are changed behind its back: other copies stay good.
    pub(crate) rotten: Node,
    /// The only metadata server whose files are: the others are always a majority whose disks are good,
    /// though what rotted may be found much later.
    pub(crate) rotten_mrc: Node,
    /// The servers with small disks, which are filled.
    pub(crate) small_disks: [Node; 2],
}

/// Who is the victim of faults that only one server per run may suffer.
pub(crate) fn victims(seed: u64) -> Victims {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0076_6963_7469_6d73);
    let rotten = one_of(&mut rng, Kind::Osd);
    let small_disks = [one_of(&mut rng, Kind::Mrc), one_of(&mut rng, Kind::Osd)];
    Victims {
        rotten,
        small_disks,
        rotten_mrc: one_of(&mut rng, Kind::Mrc),
    }
}

/// What happens in a run besides what always does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extras {
    /// Bytes on disks are changed.
    pub(crate) rot: bool,
    /// There is a spare object server, and replica sets change.
    pub(crate) moves: bool,
    /// The volume's policy changes.
    pub(crate) policies: bool,
}

/// All faults of a run, by beginning.
pub(crate) fn schedule(seed: u64, length_ms: u64, extras: Extras) -> Vec<Planned> {
    let victims = victims(seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bag = Vec::new();
    let mut free_at = FreeAt::default();
    let mut plan = Vec::new();
    let mut now = FIRST_MS;
    while now + LAST_MS < length_ms {
        if bag.is_empty() {
            bag = full_bag(extras);
        }
        // The first that may begin now, from a random place on: no choice waits for ever.
        let start = rng.random_range(0..bag.len());
        let drawn: Vec<usize> = (0..bag.len()).map(|at| (start + at) % bag.len()).collect();
        let length = rng.random_range(LENGTH_MS);
        for at in drawn {
            let fault = make(bag[at], &victims, &mut rng);
            if free_at.is_free(&fault, now) {
                bag.swap_remove(at);
                let until_ms = now + own_length(&fault, length);
                free_at.take(&fault, until_ms);
                plan.push(Planned {
                    fault,
                    from_ms: now,
                    until_ms,
                });
                break;
            }
        }
        now += rng.random_range(PAUSE_MS);
    }
    plan
}

/// A choice that is not yet aimed at anyone.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Kill(Kind),
    KillAll,
    Freeze(Kind),
    Isolate(Kind),
    Cut(Kind, Kind),
    CutOneWay(Kind, Kind),
    Loss(Kind),
    Full(usize),
    SlowSync(Kind),
    Rot,
    RotStopped(Part),
    Drain,
    Policy(&'static str, &'static str),
}

/// Each round draws every choice of this list once, so that a few minutes see all of them.
fn full_bag(extras: Extras) -> Vec<Choice> {
    use Kind::{Mount, Mrc, Osd};
    let mut bag = vec![
        Choice::Kill(Osd),
        Choice::Kill(Osd),
        Choice::Kill(Mrc),
        Choice::Kill(Mrc),
        Choice::KillAll,
        Choice::Freeze(Osd),
        Choice::Freeze(Osd),
        Choice::Freeze(Mrc),
        Choice::Isolate(Osd),
        Choice::Isolate(Mrc),
        Choice::Isolate(Mount),
        Choice::Cut(Osd, Osd),
        Choice::Cut(Mrc, Mrc),
        Choice::Cut(Mount, Osd),
        Choice::Cut(Mount, Mrc),
        Choice::Cut(Osd, Mrc),
        Choice::CutOneWay(Osd, Osd),
        Choice::CutOneWay(Mrc, Mrc),
        Choice::CutOneWay(Mount, Osd),
        Choice::CutOneWay(Osd, Mount),
        Choice::CutOneWay(Mount, Mrc),
        Choice::Loss(Osd),
        Choice::Loss(Mrc),
        Choice::Loss(Mount),
        Choice::Full(0),
        Choice::Full(1),
        Choice::SlowSync(Osd),
        Choice::SlowSync(Mrc),
    ];
    if extras.rot {
        bag.extend([Choice::Rot, Choice::Rot]);
        let parts = [Part::Index, Part::Index, Part::Log];
        bag.extend(parts.map(Choice::RotStopped));
    }
    if extras.moves {
        bag.extend([Choice::Drain; 6]);
    }
    if extras.policies {
        let stronger = [
            ("fullsync", "majority"),
            ("fullsync", "all"),
            ("memsync", "all"),
        ];
        bag.extend(stronger.map(|(policy, quorum)| Choice::Policy(policy, quorum)));
    }
    bag
}

fn make(choice: Choice, victims: &Victims, rng: &mut ChaCha8Rng) -> Fault {
    match choice {
        Choice::Kill(kind) => Fault::Kill(one_of(rng, kind)),
        Choice::KillAll => Fault::KillAll,
        Choice::Freeze(kind) => Fault::Freeze(one_of(rng, kind)),
        Choice::Isolate(kind) => Fault::Isolate(one_of(rng, kind)),
        Choice::Cut(one, other) => {
            let (one, other) = two_of(rng, one, other);
            Fault::Cut(one, other)
        }
        Choice::CutOneWay(from, to) => {
            let (from, to) = two_of(rng, from, to);
            Fault::CutOneWay(from, to)
        }
        Choice::Loss(kind) => {
            let node = one_of(rng, kind);
            Fault::Loss(node, rng.random_range(5..40))
        }
        Choice::Full(which) => Fault::Full(victims.small_disks[which]),
        Choice::SlowSync(kind) => {
            let node = one_of(rng, kind);
            // Metadata servers give up the lead from a second on.
            let most_ms = if kind == Kind::Mrc { 3000 } else { 800 };
            Fault::SlowSync(node, rng.random_range(50..most_ms))
        }
        Choice::Rot => Fault::Rot(victims.rotten, rng.random_range(1..4)),
        Choice::RotStopped(part) => {
            Fault::RotStopped(victims.rotten_mrc, part, rng.random_range(1..20))
        }
        Choice::Policy(policy, quorum) => Fault::Policy(policy, quorum),
        Choice::Drain => Fault::Drain(Node::osd(rng.random_range(1..=Node::SPARE.number))),
    }
}

fn own_length(fault: &Fault, length_ms: u64) -> u64 {
    match fault {
        // Done at once; the time is for what the servers make of it before another one is hit.
        Fault::Rot(..) => 4000,
        Fault::KillAll => length_ms / 4,
        Fault::Drain(_) => length_ms + DRAIN_MS,
        _ => length_ms,
    }
}

fn one_of(rng: &mut ChaCha8Rng, kind: Kind) -> Node {
    let count = match kind {
        Kind::Mount => MOUNTS,
        Kind::Mrc | Kind::Osd => SERVERS_PER_KIND,
    };
    let number = rng.random_range(1..=count);
    Node { kind, number }
}

fn two_of(rng: &mut ChaCha8Rng, one: Kind, other: Kind) -> (Node, Node) {
    loop {
        let pair = (one_of(rng, one), one_of(rng, other));
        if pair.0 != pair.1 {
            return pair;
        }
    }
}

/// When the next fault of each kind may begin.
#[derive(Debug, Default)]
struct FreeAt {
    mrc: u64,
    osd: u64,
    mount: u64,
    drain: u64,
    policy: u64,
}

impl FreeAt {
    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Mrc => &mut self.mrc,
            Kind::Osd => &mut self.osd,
            Kind::Mount => &mut self.mount,
        }
    }

    fn is_free(&mut self, fault: &Fault, now: u64) -> bool {
        if *fault == Fault::KillAll && *self.of(Kind::Mount) > now {
            return false;
        }
        match fault {
            Fault::Drain(_) => return self.drain <= now,
            Fault::Policy(..) => return self.policy <= now,
            _ => {}
        }
        fault.takes().into_iter().all(|kind| *self.of(kind) <= now)
    }

    fn take(&mut self, fault: &Fault, until_ms: u64) {
        if *fault == Fault::KillAll {
            for kind in [Kind::Mrc, Kind::Osd, Kind::Mount] {
                *self.of(kind) = until_ms + REST_AFTER_ALL_MS;
            }
            return;
        }
        match fault {
            Fault::Drain(_) => self.drain = until_ms + REST_MS,
            Fault::Policy(..) => self.policy = until_ms + REST_MS,
            _ => {}
        }
        for kind in fault.takes() {
            *self.of(kind) = until_ms + REST_MS;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALL: Extras = Extras {
        rot: true,
        moves: true,
        policies: true,
    };

    #[test]
    fn same_seed_gives_the_same_faults_and_another_seed_others() {
        assert_eq!(schedule(1, 60_000, ALL), schedule(1, 60_000, ALL));
        assert_ne!(schedule(1, 60_000, ALL), schedule(2, 60_000, ALL));
    }

    #[test]
    fn longer_run_begins_like_the_shorter_one() {
        let short = schedule(3, 60_000, ALL);
        let long = schedule(3, 120_000, ALL);

        assert_eq!(long[..short.len()], short);
    }

    #[test]
    fn no_majority_of_a_kind_is_taken_away() {
        for seed in 0..50 {
            let plan = schedule(seed, 300_000, ALL);
            for (at, one) in plan.iter().enumerate() {
                for other in &plan[at + 1..] {
                    let together = other.from_ms < one.until_ms && one.from_ms < other.until_ms;
                    let same = one
                        .fault
                        .takes()
                        .iter()
                        .any(|kind| other.fault.takes().contains(kind));
                    assert!(!(together && same), "seed {seed}: {one:?} and {other:?}");
                }
            }
        }
    }

    #[test]
    fn few_minutes_see_every_fault() {
        let plan = schedule(7, 240_000, ALL);
        let names: BTreeSet<String> = plan.iter().map(|it| it.fault.name()).collect();

        assert!(names.len() >= 24, "{names:?}");
        assert!(names.contains("kill-all"), "{names:?}");
        assert!(plan.len() > 50, "{}", plan.len());
    }

    #[test]
    fn one_server_at_a_time_is_drained() {
        let plan = schedule(9, 900_000, ALL);
        let drains: Vec<&Planned> = plan
            .iter()
            .filter(|it| matches!(it.fault, Fault::Drain(_)))
            .collect();

        assert!(drains.len() > 20, "{}", drains.len());
        for pair in drains.windows(2) {
            assert!(pair[0].until_ms < pair[1].from_ms, "{pair:?}");
        }
    }

    #[test]
    fn only_one_server_of_each_kind_has_files_that_rot() {
        let rotten: BTreeSet<Node> = schedule(5, 900_000, ALL)
            .into_iter()
            .filter_map(|it| match it.fault {
                Fault::Rot(node, _) => Some(node),
                _ => None,
            })
            .collect();

        assert_eq!(rotten.len(), 1);
        let rotten: BTreeSet<Node> = schedule(5, 900_000, ALL)
            .into_iter()
            .filter_map(|it| match it.fault {
                Fault::RotStopped(node, ..) => Some(node),
                _ => None,
            })
            .collect();
        assert_eq!(rotten.len(), 1, "of the others a majority is good");
    }
}
