//! Comparing the copies of a placement group with those of other members: what is missing here, and
//! whether so many were compared that nothing that was acknowledged can have been overlooked.
//!
//! - A server that crashed has lost at most what was not synced. It is done when it has compared with
//!   every other member; those that stay silent are not waited for for ever, if a majority is compared.
//! - A server whose store is new has lost everything. In a set of `n` with majority `q`, each
//!   acknowledged object is at `q - 1` of the others at least, so it is done when it has compared
//!   with `n - q + 1` of them, silent or not.
//! - What a server declares to the metadata cluster is more: that it has everything that was ever
//!   acknowledged, however many others crash now. That takes members that lost nothing, so many that every
//!   majority has one of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::peer;
use types::{ObjectId, OsdId, PgKey, Quorum};

use crate::position::Position;
use crate::quorum::ReplicaSet;
use crate::store::ObjectKey;

/// Whether comparing with these members has shown every object that a majority acknowledged: while the
/// set is being changed, one of the set before.
#[must_use]
pub fn is_enough(
    me: OsdId,
    (replicas, incomplete): (&ReplicaSet, &[OsdId]),
    compared: &BTreeSet<OsdId>,
    wiped: bool,
    silent: impl Fn(&OsdId) -> bool,
) -> bool {
    let set = match replicas.previous() {
        [] => replicas.current(),
        previous => previous,
    };
    let count = set.len();
    let majority = Quorum::Majority.of(count);
    // What a member with a new store has or has not says nothing.
    let vouching = set.iter().filter(|osd| **osd != me);
    let vouching = vouching.filter(|osd| !incomplete.contains(osd));
    let (seen, unseen): (Vec<_>, Vec<_>) = vouching.partition(|osd| compared.contains(osd));
    if wiped || !set.contains(&me) {
        return seen.len() > count - majority;
    }
    unseen.is_empty() || (seen.len() + 1 >= majority && unseen.into_iter().all(silent))
}

/// Whether these members, and this server if it vouches for what it has, have everything among them that
/// a majority ever acknowledged: while the set is being changed, one of the set before.
#[must_use]
pub fn has_seen_all(
    me: OsdId,
    (replicas, incomplete): (&ReplicaSet, &[OsdId]),
    vouching: &BTreeSet<OsdId>,
    vouches: bool,
) -> bool {
    let set = match replicas.previous() {
        [] => replicas.current(),
        previous => previous,
    };
    let counts = |osd: &&OsdId| match **osd == me {
        true => vouches,
        false => vouching.contains(osd) && !incomplete.contains(osd),
    };
    set.iter().filter(counts).count() + Quorum::Majority.of(set.len()) > set.len()
}

/// Whether a change of the set is under way and nobody else has a say: a change was given up that began
/// with this server alone. There is nobody to compare with, but what it has in memory only is to be written
/// before it declares, as in any other change.
#[must_use]
pub fn is_changing_alone(me: OsdId, replicas: &ReplicaSet) -> bool {
    !replicas.previous().is_empty() && replicas.all() == [me]
}

/// Objects of which our copy can be trusted and is newer than the other's.
#[must_use]
pub fn behind(
    group: PgKey,
    ours: &[peer::ObjectState],
    theirs: &[peer::ObjectState],
) -> Vec<ObjectKey> {
    let trusted: Vec<_> = ours.iter().filter(|our| !our.suspect).copied().collect();
    let known: Vec<_> = theirs
        .iter()
        .map(|their| peer::ObjectState {
            suspect: false,
            ..*their
        })
        .collect();
    missing(group, &known, &trusted).into_keys().collect()
}

/// Objects of which the other's copy is newer than ours, or ours can't be trusted, and the newest change of either.
#[must_use]
pub fn missing(
    group: PgKey,
    ours: &[peer::ObjectState],
    theirs: &[peer::ObjectState],
) -> BTreeMap<ObjectKey, Position> {
    let positions = |states: &[peer::ObjectState]| -> HashMap<ObjectId, Position> {
        let states = states.iter();
        let known = states.filter_map(|state| {
            let position = state.position.unwrap_or_default();
            Some((state.object?.into(), position.into()))
        });
        known.collect()
    };
    let (have, their) = (positions(ours), positions(theirs));
    let behind = their
        .iter()
        .filter(|(object, position)| have.get(object).is_none_or(|have| have < position))
        .map(|(object, position)| (*object, *position));
    let suspect = ours
        .iter()
        .filter(|our| our.suspect)
        .filter_map(|our| our.object.map(ObjectId::from))
        .map(|object| {
            let newest = have.get(&object).max(their.get(&object));
            (object, newest.copied().unwrap_or_default())
        });
    behind
        .chain(suspect)
        .filter(|(object, _)| object.volume == group.volume)
        .map(|(object, newest)| {
            let key = ObjectKey {
                pg: group.pg,
                object,
            };
            (key, newest)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, PgId, VolumeId};

    const GROUP: PgKey = PgKey {
        volume: VolumeId(1),
        pg: PgId(2),
    };

    /// The sets of a group, and its members with new stores.
    type Pg = (ReplicaSet, Vec<OsdId>);

    fn changing(osds: &[u64], previous: &[u64], incomplete: &[u64]) -> Pg {
        let servers = |osds: &[u64]| osds.iter().copied().map(OsdId).collect::<Vec<_>>();
        let replicas = ReplicaSet::changing(&servers(osds), &servers(previous));
        (replicas, servers(incomplete))
    }

    fn pg(osds: u64, incomplete: &[u64]) -> Pg {
        let osds: Vec<u64> = (1..=osds).collect();
        changing(&osds, &[], incomplete)
    }

    fn enough(pg: &Pg, compared: &[u64], wiped: bool, silent: &[u64]) -> bool {
        let compared = compared.iter().copied().map(OsdId).collect();
        is_enough(OsdId(1), (&pg.0, &pg.1), &compared, wiped, |osd| {
            silent.contains(&osd.0)
        })
    }

    #[test]
    fn crashed_server_waits_for_all_but_the_silent_and_needs_a_majority() {
        let three = pg(3, &[]);

        assert!(enough(&three, &[2, 3], false, &[]));
        assert!(!enough(&three, &[2], false, &[]));
        assert!(enough(&three, &[2], false, &[3]));
        assert!(!enough(&three, &[], false, &[2, 3]));
        assert!(enough(&pg(1, &[]), &[], false, &[]));
        let five = pg(5, &[]);
        assert!(!enough(&five, &[2], false, &[3, 4, 5]));
        assert!(enough(&five, &[2, 4], false, &[3, 5]));
    }

    #[test]
    fn wiped_server_needs_so_many_that_no_majority_is_missed() {
        let three = pg(3, &[1]);

        assert!(!enough(&three, &[2], true, &[3]));
        assert!(enough(&three, &[2, 3], true, &[]));
        assert!(enough(&pg(5, &[1]), &[2, 3, 4], true, &[5]));
        assert!(!enough(&pg(5, &[1]), &[2, 3], true, &[4, 5]));
        assert!(enough(&pg(2, &[1]), &[2], true, &[]));
    }

    /// 4 takes the place of 3.
    #[test]
    fn new_member_needs_so_many_of_the_set_before_that_no_majority_of_it_is_missed() {
        let changing = changing(&[1, 2, 4], &[1, 2, 3], &[4]);
        let enough = |me, compared: &[u64], silent: &[u64]| {
            let compared = compared.iter().copied().map(OsdId).collect();
            is_enough(
                OsdId(me),
                (&changing.0, &changing.1),
                &compared,
                false,
                |osd| silent.contains(&osd.0),
            )
        };

        assert!(enough(4, &[1, 2], &[]) && enough(4, &[2, 3], &[]));
        assert!(
            !enough(4, &[1], &[2, 3]),
            "2 and 3 may have acknowledged alone"
        );
        assert!(enough(1, &[2], &[3]), "3 is dead, and a majority is left");
        assert!(!enough(1, &[4], &[2, 3]));

        let seen = |me, vouching: &[u64], vouches| {
            let vouching = vouching.iter().copied().map(OsdId).collect();
            has_seen_all(OsdId(me), (&changing.0, &changing.1), &vouching, vouches)
        };
        assert!(seen(4, &[1, 2], false) && seen(1, &[2], true) && seen(1, &[2, 3], false));
        assert!(!seen(4, &[1], true), "it was not in the set before");
        assert!(!seen(1, &[], true) && !seen(1, &[4], true));
        assert!(!seen(1, &[2], false), "it has crashed itself");
    }

    #[test]
    fn member_with_a_new_store_is_neither_counted_nor_waited_for() {
        assert!(!enough(&pg(3, &[1, 3]), &[2, 3], true, &[]));
        assert!(enough(&pg(3, &[3]), &[2], false, &[]));
        assert!(!enough(&pg(3, &[3]), &[3], false, &[2]));
    }

    #[test]
    fn change_that_a_single_server_gives_up_has_nobody_to_compare_with() {
        let alone = |osds: &[u64], previous: &[u64]| {
            is_changing_alone(OsdId(1), &changing(osds, previous, &[]).0)
        };

        assert!(alone(&[1], &[1]));
        assert!(!alone(&[1], &[]), "nothing changes");
        assert!(!alone(&[1, 2], &[1]) && !alone(&[2], &[1]) && !alone(&[1], &[1, 2]));
    }

    #[test]
    fn older_absent_and_suspect_copies_are_missing_and_newer_ones_are_not() {
        let state = |inode, seq, suspect| peer::ObjectState {
            object: Some(
                ObjectId {
                    volume: VolumeId(1),
                    inode: Inode(inode),
                    column: 0,
                }
                .into(),
            ),
            position: Some(peer::Position {
                epoch: 5,
                holder: 1,
                seq,
            }),
            suspect,
            length_bytes: 0,
        };
        let ours = [
            state(1, 4, false),
            state(2, 4, false),
            state(3, 9, false),
            state(4, 9, true),
            state(6, 1, false),
        ];
        let theirs = [
            state(1, 4, false),
            state(2, 5, false),
            state(3, 8, false),
            state(4, 1, false),
            state(5, 1, true),
        ];

        let missing: Vec<_> = missing(GROUP, &ours, &theirs)
            .into_iter()
            .map(|(key, newest)| (key.object.inode.0, newest.seq))
            .collect();

        assert_eq!(missing, [(2, 5), (4, 9), (5, 1)]);
        let behind: Vec<_> = behind(GROUP, &ours, &theirs)
            .into_iter()
            .map(|key| key.object.inode.0)
            .collect();
        assert_eq!(behind, [3, 6]);
    }
}
