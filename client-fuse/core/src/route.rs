//! Which object server to ask, and what to do when the answer is no.

use types::{Duration, OsdId};

use crate::config::{
    ROUTE_BACKOFF_MAX, ROUTE_BACKOFF_MIN, ROUTE_RENEW_AFTER, ROUTE_TRIES_SAME_SERVER,
};

/// Why a request was not done, as far as routing cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// Another server is the primary, perhaps this one.
    Redirect(Option<OsdId>),
    /// The server can't be reached or does not answer.
    Gone,
    /// The server asks for patience.
    Retry,
    /// Capability or view are out of date.
    Refresh,
    /// A change that was sent before is missing at the primary.
    OutOfOrder,
    /// Changes that were acknowledged are lost.
    Lost,
    /// Final: the errno for the program.
    Surface(i32),
}

/// What to do after a [`Failure`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Send again, to [`Route::target`], after this time (which may be zero).
    After(Duration),
    /// Fetch a new grant first, then send again.
    Renew,
    /// Tell the program.
    GiveUp(i32),
}

/// How a request gets to the [`Route::target`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// The server it is sent to.
    pub osd: OsdId,
    /// The server that one shall pass it on to, if it is not its own.
    pub forward_to: Option<OsdId>,
}

/// The replicas of an object in order, and which one is believed to be the primary.
#[derive(Clone, Debug)]
pub struct Route {
    members: Vec<OsdId>,
    target: usize,
    /// Who said that the target is the primary.
    hinted_by: Option<OsdId>,
    /// Failures since the last success.
    failures: u32,
    /// Failures of the current target.
    target_failures: u32,
}

impl Route {
    /// A route that tries the first member first: it is the natural first primary.
    #[must_use]
    pub fn new(members: Vec<OsdId>) -> Self {
        Self {
            members,
            target: 0,
            hinted_by: None,
            failures: 0,
            target_failures: 0,
        }
    }

    /// Takes over a new replica set; keeps the believed primary if it is still a member.
    pub fn replace(&mut self, members: Vec<OsdId>) {
        let target = self.target();
        self.target = members.iter().position(|m| Some(*m) == target).unwrap_or(0);
        self.members = members;
        self.hinted_by = self.hinted_by.filter(|osd| self.members.contains(osd));
    }

    /// The server to ask now; none if the replica set is empty.
    #[must_use]
    pub fn target(&self) -> Option<OsdId> {
        self.members.get(self.target).copied()
    }

    /// How to reach the target: through the replica that named it, if it can't be reached itself. One
    /// that nobody has just named may be dead: the others are asked themselves, one of them may be
    /// the primary by now.
    #[must_use]
    pub fn way(&self, is_reached: impl Fn(OsdId) -> bool) -> Option<Way> {
        let target = self.target()?;
        let through = self.hinted_by.filter(|osd| is_reached(*osd));
        Some(match through {
            Some(osd) if !is_reached(target) => Way {
                osd,
                forward_to: Some(target),
            },
            _ => Way {
                osd: target,
                forward_to: None,
            },
        })
    }

    /// Turns to a replica that is reached if the target is not and nobody has named it: whoever is asked
    /// then says whether it is still the primary.
    pub fn avoid(&mut self, is_reached: impl Fn(OsdId) -> bool) {
        let vain = |way: Way| way.forward_to.is_none() && !is_reached(way.osd);
        if self.way(&is_reached).is_some_and(vain) {
            let after = self.members.iter().enumerate().skip(self.target + 1);
            let before = self.members.iter().enumerate().take(self.target);
            let other = after.chain(before).find(|(_, osd)| is_reached(**osd));
            if let Some((index, _)) = other {
                self.aim(index);
            }
        }
    }

    /// Another replica, `by`, says that the target is the primary although it is silent.
    pub fn confirmed(&mut self, by: OsdId) {
        if Some(by) != self.target() {
            self.hinted_by = Some(by);
        }
    }

    /// The member after `osd` in order, another one if there is any.
    #[must_use]
    pub fn other_than(&self, osd: OsdId, round: usize) -> Option<OsdId> {
        let others: Vec<_> = self.members.iter().filter(|m| **m != osd).collect();
        let index = round.checked_rem(others.len())?;
        others.get(index).map(|m| **m)
    }

    /// The target did what it was asked to.
    pub const fn answered(&mut self) {
        self.failures = 0;
        self.target_failures = 0;
    }

    /// A server is known to be the primary.
    pub fn found(&mut self, primary: OsdId) -> bool {
        match self.members.iter().position(|m| *m == primary) {
            Some(index) => {
                self.aim(index);
                true
            }
            None => false,
        }
    }

    /// The target did not do what it was asked to.
    pub fn failed(&mut self, failure: Failure) -> Next {
        let wait = self.wait();
        self.failures = self.failures.saturating_add(1);
        self.target_failures = self.target_failures.saturating_add(1);
        let asked = self.target();
        let hinted_by = self.hinted_by.take();
        let in_vain = self.failures.is_multiple_of(ROUTE_RENEW_AFTER);
        match failure {
            Failure::Surface(errno) => return Next::GiveUp(errno),
            // 5: EIO, for whoever did not ask after earlier changes.
            Failure::Lost => return Next::GiveUp(5),
            Failure::Refresh => return Next::Renew,
            // All of them may have been replaced, and be gone.
            _ if in_vain => return Next::Renew,
            Failure::Redirect(Some(primary)) => {
                let repeated = Some(primary) == asked;
                if !self.found(primary) {
                    // A replica set we do not know yet.
                    return Next::Renew;
                }
                self.hinted_by = if repeated { hinted_by } else { asked };
                // Following a first hint costs no wait; servers that disagree do.
                if self.failures <= 2 && !repeated {
                    return Next::After(Duration::ZERO);
                }
            }
            Failure::Redirect(None) | Failure::Gone => {
                self.advance();
                // Each member is asked once before there is any wait.
                if (self.failures as usize) < self.members.len() {
                    return Next::After(Duration::ZERO);
                }
            }
            Failure::Retry | Failure::OutOfOrder => {
                if self.target_failures >= ROUTE_TRIES_SAME_SERVER {
                    self.advance();
                }
            }
        }
        Next::After(wait)
    }

    fn advance(&mut self) {
        let next = (self.target + 1).checked_rem(self.members.len());
        self.aim(next.unwrap_or(0));
    }

    fn aim(&mut self, index: usize) {
        if index != self.target {
            self.target = index;
            self.hinted_by = None;
            self.target_failures = 0;
        }
    }

    fn wait(&self) -> Duration {
        let doublings = self.failures.min(8);
        ROUTE_BACKOFF_MIN
            .scaled(1 << doublings, 1)
            .min(ROUTE_BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route::new(vec![OsdId(1), OsdId(2), OsdId(3)])
    }

    #[test]
    fn first_hint_is_followed_without_waiting() {
        let mut route = route();

        assert_eq!(
            route.failed(Failure::Redirect(Some(OsdId(3)))),
            Next::After(Duration::ZERO)
        );
        assert_eq!(route.target(), Some(OsdId(3)));
    }

    #[test]
    fn servers_that_point_at_each_other_are_asked_with_growing_waits() {
        let mut route = route();
        let mut waits = Vec::new();

        for hint in [2, 1, 2, 1, 2, 1, 2] {
            waits.push(route.failed(Failure::Redirect(Some(OsdId(hint)))));
        }

        assert_eq!(waits.last(), Some(&Next::After(ROUTE_BACKOFF_MAX)));
        route.answered();
        assert_eq!(
            route.failed(Failure::Redirect(Some(OsdId(1)))),
            Next::After(Duration::ZERO)
        );
    }

    #[test]
    fn every_member_is_asked_once_before_there_is_a_wait() {
        let mut route = route();

        let first = route.failed(Failure::Gone);
        let second = route.failed(Failure::Gone);
        let third = route.failed(Failure::Gone);

        assert_eq!(first, Next::After(Duration::ZERO));
        assert_eq!(second, Next::After(Duration::ZERO));
        assert!(matches!(third, Next::After(wait) if wait > Duration::ZERO));
        assert_eq!(route.target(), Some(OsdId(1)));
    }

    #[test]
    fn hint_outside_the_known_replica_set_asks_for_a_new_grant() {
        let mut route = route();

        assert_eq!(route.failed(Failure::Redirect(Some(OsdId(9)))), Next::Renew);
        route.replace(vec![OsdId(9), OsdId(1)]);
        assert_eq!(route.target(), Some(OsdId(1)));
    }

    #[test]
    fn members_that_are_all_gone_may_have_been_replaced() {
        let mut route = route();
        let renewals = |route: &mut Route, failures| {
            let next = (0..failures).map(|_| route.failed(Failure::Gone));
            next.filter(|next| *next == Next::Renew).count()
        };

        assert_eq!(renewals(&mut route, ROUTE_RENEW_AFTER - 1), 0);
        assert_eq!(renewals(&mut route, 1), 1);
        assert_eq!(renewals(&mut route, ROUTE_RENEW_AFTER), 1);
    }

    #[test]
    fn server_that_keeps_asking_for_patience_is_left() {
        let mut route = route();

        for _ in 0..ROUTE_TRIES_SAME_SERVER {
            route.failed(Failure::Retry);
        }

        assert_eq!(route.target(), Some(OsdId(2)));
    }

    fn directly(osd: u64) -> Way {
        Way {
            osd: OsdId(osd),
            forward_to: None,
        }
    }

    #[test]
    fn primary_that_is_not_reached_is_asked_through_whoever_named_it() {
        let mut route = route();
        let cut = |osd| osd != OsdId(1);
        assert_eq!(route.way(cut), Some(directly(1)), "nobody named it");

        route.failed(Failure::Gone);
        assert_eq!(route.way(cut), Some(directly(2)));
        let next = route.failed(Failure::Redirect(Some(OsdId(1))));

        assert_eq!(next, Next::After(Duration::ZERO));
        let through = Way {
            osd: OsdId(2),
            forward_to: Some(OsdId(1)),
        };
        assert_eq!(route.way(cut), Some(through));
        route.answered();
        assert_eq!(route.way(cut), Some(through), "as long as it is cut off");
        assert_eq!(route.way(|_| true), Some(directly(1)));
        assert_eq!(route.way(|_| false), Some(directly(1)), "no detour helps");
    }

    #[test]
    fn primary_that_is_not_reached_is_asked_for_elsewhere() {
        let mut route = route();
        route.found(OsdId(2));
        let cut = |osd| osd != OsdId(2);

        route.avoid(|_| true);
        assert_eq!(route.target(), Some(OsdId(2)));
        route.avoid(|_| false);
        assert_eq!(route.target(), Some(OsdId(2)), "nobody is better");
        route.avoid(cut);
        assert_eq!(route.target(), Some(OsdId(3)));
        route.failed(Failure::Redirect(Some(OsdId(2))));
        route.avoid(cut);

        let way = route.way(cut).unwrap();
        assert_eq!((way.osd, way.forward_to), (OsdId(3), Some(OsdId(2))));
    }

    #[test]
    fn detour_that_fails_is_left_for_the_replicas_themselves() {
        let is_cut = |osd| osd != OsdId(1);
        for failure in [Failure::Gone, Failure::Retry, Failure::Redirect(None)] {
            let mut route = route();
            route.failed(Failure::Gone);
            route.failed(Failure::Redirect(Some(OsdId(1))));

            route.failed(failure);

            let way = route.way(is_cut).unwrap();
            assert_eq!(way.forward_to, None, "{failure:?}");
        }
    }

    #[test]
    fn primary_named_through_a_detour_is_asked_directly() {
        let mut route = route();
        route.confirmed(OsdId(2));

        route.failed(Failure::Redirect(Some(OsdId(3))));

        assert_eq!(route.way(|osd| osd != OsdId(1)), Some(directly(3)));
    }
}
