//! Which groups this server may wait for as a whole, from whom, and for how long: decided without doing anything.

use osd_core::Membership;
use types::{OsdId, Quorum};

use crate::map::Pg;

/// Whether this server has lost nothing of a group that it could have acknowledged, or vouches for nothing of it, and
/// the others can go on without it while it comes as a whole.
///
/// One that was in the set before the present change, and whose store is not new to the group, is neither: what it
/// has not got it may well have acknowledged.
pub(super) fn may_be_seeded(me: OsdId, pg: &Pg, membership: &Membership) -> bool {
    let previous = pg.replicas.previous();
    let is_new = !previous.is_empty() && !previous.contains(&me);
    pg.replicas.is_current(me)
        && (is_new || membership.incomplete)
        && can_do_without(me, pg, membership.policy.quorum, |_| true)
}

/// Whether the others that are up are enough to acknowledge what programs change.
pub(super) fn can_do_without(
    me: OsdId,
    pg: &Pg,
    quorum: Quorum,
    is_up: impl Fn(OsdId) -> bool,
) -> bool {
    pg.replicas.is_quorum(quorum, |osd| osd != me && is_up(osd))
}

/// Whom to ask, in this order: those that stay first, since those that go are emptied next, and none whose store is
/// new to the group itself.
pub(super) fn sources(me: OsdId, pg: &Pg) -> Vec<OsdId> {
    let all = pg.replicas.all().iter().copied();
    let usable = all.filter(|osd| *osd != me && !pg.incomplete.contains(osd));
    let had_it = |osd: &OsdId| {
        let previous = pg.replicas.previous();
        previous.is_empty() || previous.contains(osd)
    };
    let (mut stay, mut go): (Vec<_>, Vec<_>) = usable
        .filter(had_it)
        .partition(|osd| pg.replicas.is_current(*osd));
    stay.sort_unstable();
    go.sort_unstable();
    stay.extend(go);
    stay
}

#[cfg(test)]
mod tests {
    use types::Policy;

    use super::*;

    const ME: OsdId = OsdId(4);

    fn membership(incomplete: bool, quorum: Quorum) -> Membership {
        Membership {
            view: 2,
            replicas: osd_core::ReplicaSet::new(Vec::new()),
            incomplete,
            recovered: true,
            policy: Policy {
                quorum,
                ..Policy::default()
            },
        }
    }

    fn may(pg: &Pg, incomplete: bool, quorum: Quorum) -> bool {
        may_be_seeded(ME, pg, &membership(incomplete, quorum))
    }

    #[test]
    fn only_a_member_that_is_new_or_whose_store_is_new_waits_for_a_group_as_a_whole() {
        let majority = Quorum::Majority;
        let joins = Pg::new(2, &[1, 2, 4], &[1, 2, 3], &[]);
        let stays = Pg::new(2, &[1, 2, 4], &[1, 4, 3], &[]);
        let goes = Pg::new(2, &[1, 2, 3], &[1, 2, 4], &[]);
        let settled = Pg::new(2, &[1, 2, 4], &[], &[]);

        assert!(may(&joins, false, majority) && may(&joins, true, majority));
        assert!(!may(&stays, false, majority) && !may(&settled, false, majority));
        assert!(!may(&goes, false, majority) && !may(&goes, true, majority));
        assert!(may(&settled, true, majority) && may(&stays, true, majority));
    }

    #[test]
    fn nobody_waits_for_a_group_that_can_not_go_on_without_this_server() {
        let may = |osds: &[u64], previous: &[u64], quorum| {
            may(&Pg::new(2, osds, previous, &[]), false, quorum)
        };

        assert!(may(&[1, 2, 4], &[1, 2, 3], Quorum::Majority));
        assert!(!may(&[1, 2, 4], &[1, 2, 3], Quorum::All));
        assert!(!may(&[1, 4], &[1, 3], Quorum::Majority));
        assert!(!may(&[4], &[3], Quorum::Majority));
        assert!(!may(&[4, 1], &[1], Quorum::Majority), "a second replica");
        assert!(may(&[4, 1, 2], &[1, 2], Quorum::Majority), "a third one");

        let pg = Pg::new(2, &[1, 2, 4], &[1, 2, 3], &[]);
        let can = |up: &[u64]| can_do_without(ME, &pg, Quorum::Majority, |osd| up.contains(&osd.0));
        assert!(can(&[1, 2]) && can(&[1, 2, 3, 4]));
        assert!(!can(&[1, 3, 4]), "2 is dead: the set needs this server");
        assert!(!can(&[]));
    }

    #[test]
    fn those_that_stay_are_asked_first_and_those_with_new_stores_never() {
        let asked = |osds: &[u64], previous: &[u64], incomplete: &[u64]| {
            let asked = sources(ME, &Pg::new(2, osds, previous, incomplete));
            asked.into_iter().map(|osd| osd.0).collect::<Vec<_>>()
        };

        assert_eq!(asked(&[4, 2, 1], &[1, 2, 3], &[]), [1, 2, 3]);
        assert_eq!(asked(&[4, 5, 3], &[1, 2, 3], &[2]), [3, 1]);
        assert_eq!(asked(&[4, 2, 1], &[], &[4, 1]), [2]);
    }
}
