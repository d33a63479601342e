//! Which object servers hold which placement group of a new volume.
//!
//! A planner: the same servers give the same plan. Free space plays no part: groups are many and
//! files spread over them evenly.

use types::OsdId;

/// An object server to place on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// The server.
    pub osd: OsdId,
    /// What it shares fate with (site, rack, host); empty if unknown, and then only with itself.
    pub location: String,
}

/// Plans the replica sets of `pgs` placement groups.
///
/// # Shape
///
/// `pgs` replica sets of `min(replicas, candidates)` distinct servers each. First members, who do
/// most of the work, come in turn, beginning at `start`; those after a given first one change from
/// round to round, so that after a death its work falls to all. Members are at distinct locations
/// as long as there are enough.
///
/// # Examples
///
/// ```
/// use mrc_core::placement::{Candidate, plan};
/// use types::OsdId;
///
/// let three = [1, 2, 3].map(|osd| Candidate { osd: OsdId(osd), location: String::new() });
/// let sets = plan(&three, 2, 4, 0);
/// assert_eq!(sets[0], [OsdId(1), OsdId(2)]);
/// assert_eq!(sets[1], [OsdId(2), OsdId(3)]);
/// assert_eq!(sets[2], [OsdId(3), OsdId(1)]);
/// assert_eq!(sets[3], [OsdId(1), OsdId(3)]);
/// ```
#[must_use]
pub fn plan(
    candidates: &[Candidate],
    replicas: usize,
    pgs: usize,
    start: usize,
) -> Vec<Vec<OsdId>> {
    let count = candidates.len();
    if count == 0 {
        return vec![Vec::new(); pgs];
    }
    (0..pgs)
        .map(|pg| {
            replica_set(
                candidates,
                replicas,
                (start % count + pg) % count,
                pg / count,
            )
        })
        .collect()
}

fn replica_set(
    candidates: &[Candidate],
    replicas: usize,
    first: usize,
    round: usize,
) -> Vec<OsdId> {
    let count = candidates.len();
    // The others follow the first one at a distance that changes with the round.
    let others = count - 1;
    let order: Vec<&Candidate> = std::iter::once(first)
        .chain((0..others).map(|step| (first + 1 + (round + step) % others) % count))
        .filter_map(|at| candidates.get(at))
        .collect();
    let mut chosen: Vec<&Candidate> = Vec::with_capacity(replicas);
    for candidate in &order {
        let apart = candidate.location.is_empty()
            || chosen
                .iter()
                .all(|other| other.location != candidate.location);
        if apart && chosen.len() < replicas {
            chosen.push(candidate);
        }
    }
    // Too few locations: better two replicas in one place than one replica less.
    for candidate in &order {
        if chosen.len() < replicas && chosen.iter().all(|other| other.osd != candidate.osd) {
            chosen.push(candidate);
        }
    }
    chosen.iter().map(|candidate| candidate.osd).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn candidates(locations: &[&str]) -> Vec<Candidate> {
        (1..)
            .zip(locations)
            .map(|(osd, location)| Candidate {
                osd: OsdId(osd),
                location: (*location).to_owned(),
            })
            .collect()
    }

    #[test]
    fn first_members_and_memberships_are_spread_evenly() {
        for count in 1..8_usize {
            for replicas in 1..=count {
                let sets = plan(&candidates(&vec![""; count]), replicas, 8 * count, 3);

                let mut firsts = BTreeMap::new();
                let mut members = BTreeMap::new();
                for set in &sets {
                    assert_eq!(set.iter().collect::<BTreeSet<_>>().len(), replicas);
                    *firsts.entry(set[0]).or_insert(0) += 1;
                    for osd in set {
                        *members.entry(*osd).or_insert(0) += 1;
                    }
                }
                assert!(firsts.len() == count && firsts.values().all(|n| *n == 8));
                assert!(members.values().all(|n| *n == 8 * replicas));
            }
        }
    }

    #[test]
    fn work_of_a_first_member_falls_to_all_others() {
        let sets = plan(&candidates(&[""; 5]), 3, 32, 0);

        let seconds: BTreeSet<_> = sets
            .iter()
            .filter(|set| set[0] == OsdId(1))
            .map(|set| set[1])
            .collect();

        assert_eq!(seconds.len(), 4);
    }

    #[test]
    fn members_are_at_distinct_locations_while_there_are_enough() {
        let servers = candidates(&["a", "a", "b", "b", "c", "c"]);
        let location = |osd: &OsdId| &servers[osd.0 as usize - 1].location;

        for set in plan(&servers, 3, 50, 1) {
            assert_eq!(set.iter().map(location).collect::<BTreeSet<_>>().len(), 3);
        }
        for set in plan(&servers[..4], 3, 50, 1) {
            assert_eq!(set.len(), 3);
            assert_eq!(set.iter().map(location).collect::<BTreeSet<_>>().len(), 2);
        }
    }

    #[test]
    fn too_few_servers_give_smaller_sets() {
        assert_eq!(plan(&candidates(&["a"]), 3, 2, 0), [[OsdId(1)], [OsdId(1)]]);
        assert_eq!(plan(&[], 3, 1, 0), [Vec::<OsdId>::new()]);
    }
}
