//! Leases that are left to run out, because whoever uses them shows no sign of life.
//!
//! Renewing needs neither the user's thread nor its disk, so it would go on for ever if they
//! hang. Such a lease is not given back, which would need the user to have stopped; its renewals
//! are not sent any more, and it ends by itself where it counts: with the others.

use lease::{Body, Message};
use types::CellId;

/// Whether the user of a cell's lease lives; asked for each renewal, so it must be quick.
pub type MayRenew = Box<dyn Fn(CellId) -> bool + Send + Sync>;

/// Takes out the renewals that may not be, and says how many there were.
pub(crate) fn withhold(messages: &mut Vec<Message>, may_renew: &MayRenew) -> usize {
    let before = messages.len();
    messages.retain(|message| !is_renewal(message) || may_renew(message.cell));
    before - messages.len()
}

const fn is_renewal(message: &Message) -> bool {
    matches!(message.body, Body::Accept { renewal: true, ttl, .. } if ttl.as_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease::{Config, Event, Host, Membership, Out};
    use types::{Duration, Instant, MemberId};

    const CELL: CellId = CellId(9);

    /// Three hosts whose messages arrive at once.
    struct Bed {
        hosts: Vec<Host>,
        now: Instant,
        events: Vec<(usize, Event)>,
        /// The user of the first host's leases.
        first_lives: bool,
    }

    impl Bed {
        fn new() -> Self {
            let config = Config::default();
            let host = |id| Host::new(MemberId(id), config.clone(), Instant::ZERO, 1, id, None);
            Self {
                hosts: (1..=3).map(host).collect(),
                now: Instant::ZERO + config.quarantine() + config.ttl,
                events: Vec::new(),
                first_lives: true,
            }
        }

        fn run(&mut self, index: usize, work: &mut dyn FnMut(&mut Host, Instant, &mut Out)) {
            let mut out = Out::new();
            work(&mut self.hosts[index], self.now, &mut out);
            self.events
                .extend(out.events.iter().map(|event| (index, *event)));
            let lives = self.first_lives || index != 0;
            let may_renew: MayRenew = Box::new(move |_| lives);
            let from = MemberId(index as u64 + 1);
            for (to, messages) in &mut out.sends {
                withhold(messages, &may_renew);
                for message in messages.drain(..) {
                    self.run(to.0 as usize - 1, &mut |host, now, out| {
                        host.message(now, from, message, out);
                    });
                }
            }
        }

        fn acquire(&mut self, index: usize) {
            let membership = Membership::new(1, [1, 2, 3].map(MemberId));
            self.run(index, &mut |host, now, out| {
                host.acquire(now, CELL, &membership, 0, false, out).unwrap();
            });
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(10);
                for index in 0..self.hosts.len() {
                    self.run(index, &mut |host, now, out| host.tick(now, out));
                }
            }
        }

        fn holds(&self, index: usize) -> bool {
            self.hosts[index].is_valid(self.now, CELL).is_some()
        }
    }

    #[test]
    fn lease_whose_user_is_dead_runs_out_and_another_takes_it() {
        let ttl = Config::default().ttl;
        let mut bed = Bed::new();
        bed.acquire(0);
        bed.pass(ttl.scaled(3, 1));
        assert!(bed.holds(0), "{:?}", bed.events);

        bed.first_lives = false;
        bed.pass(ttl.scaled(2, 1));
        assert!(!bed.holds(0));
        bed.acquire(1);
        bed.pass(ttl);

        assert!(bed.holds(1), "{:?}", bed.events);
    }

    #[test]
    fn only_extensions_are_withheld() {
        let message = |renewal, ttl| Message {
            cell: CELL,
            view: 1,
            ballot: lease::Ballot {
                counter: 1,
                member: MemberId(1),
            },
            round: 1,
            body: Body::Accept {
                epoch: 1,
                ttl,
                renewal,
                successor: None,
            },
        };
        let second = Duration::from_secs(1);
        let mut messages = vec![
            message(true, second),
            message(false, second),
            message(true, Duration::ZERO),
        ];

        let nobody: MayRenew = Box::new(|_| false);
        assert_eq!(withhold(&mut messages, &nobody), 1);
        assert_eq!(messages.len(), 2);
    }
}
