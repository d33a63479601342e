//! A handful of hosts on one clock, with messages carried by hand.

use std::collections::VecDeque;
use std::sync::Arc;

use lease::{Body, Config, Event, Host, Membership, Message, Out};
use types::{CellId, Duration, Instant, MemberId};

pub(crate) const CELL: CellId = CellId(77);

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letter {
    pub(crate) from: MemberId,
    pub(crate) to: MemberId,
    pub(crate) message: Message,
}

/// Hosts 1 to n, all past their quarantine.
pub(crate) struct Table {
    pub(crate) now: Instant,
    pub(crate) config: Config,
    pub(crate) hosts: Vec<Host>,
    pub(crate) letters: VecDeque<Letter>,
    pub(crate) events: Vec<(MemberId, Event)>,
    pub(crate) membership: Membership,
    /// Messages ever sent.
    pub(crate) sent: usize,
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn member(number: u64) -> MemberId {
    MemberId(number)
}

pub(crate) fn view(view: u64, members: &[u64]) -> Membership {
    let members: Arc<[MemberId]> = members.iter().map(|n| MemberId(*n)).collect();
    Membership::new(view, members)
}

impl Table {
    pub(crate) fn new(members: u64) -> Self {
        Self::with(members, Config::default())
    }

    pub(crate) fn with(members: u64, config: Config) -> Self {
        let numbers: Vec<u64> = (1..=members).collect();
        let host = |n: &u64| Host::new(MemberId(*n), config.clone(), Instant::ZERO, 1, *n, None);
        Self {
            now: Instant::ZERO + config.quarantine(),
            hosts: numbers.iter().map(host).collect(),
            letters: VecDeque::new(),
            events: Vec::new(),
            membership: view(1, &numbers),
            config,
            sent: 0,
        }
    }

    pub(crate) fn host(&mut self, number: u64) -> &mut Host {
        &mut self.hosts[number as usize - 1]
    }

    /// Lets a host do something and collects what comes out.
    pub(crate) fn act(&mut self, number: u64, act: impl FnOnce(&mut Host, Instant, &mut Out)) {
        let mut out = Out::new();
        let now = self.now;
        act(self.host(number), now, &mut out);
        let from = MemberId(number);
        for (to, messages) in out.sends {
            self.sent += messages.len();
            let letters = messages
                .into_iter()
                .map(|message| Letter { from, to, message });
            self.letters.extend(letters);
        }
        self.events
            .extend(out.events.into_iter().map(|event| (from, event)));
    }

    pub(crate) fn acquire(&mut self, number: u64) {
        self.acquire_with(number, 0, false);
    }

    pub(crate) fn acquire_with(&mut self, number: u64, floor: u64, newborn: bool) {
        let membership = self.membership.clone();
        self.act(number, |host, now, out| {
            let begun = host.acquire(now, CELL, &membership, floor, newborn, out);
            assert_eq!(begun, Ok(()));
        });
    }

    pub(crate) fn release(&mut self, number: u64) {
        self.act(number, |host, now, out| host.release(now, CELL, out));
    }

    pub(crate) fn deliver_letter(&mut self, letter: Letter) {
        self.act(letter.to.0, |host, now, out| {
            host.message(now, letter.from, letter.message, out);
        });
    }

    /// Delivers everything, answers included, except what `lose` says.
    pub(crate) fn deliver_except(&mut self, lose: impl Fn(&Letter) -> bool) {
        while let Some(letter) = self.letters.pop_front() {
            if !lose(&letter) {
                self.deliver_letter(letter);
            }
        }
    }

    pub(crate) fn deliver(&mut self) {
        self.deliver_except(|_| false);
    }

    /// Lets time pass at all hosts, waking them when they ask, with a working network.
    pub(crate) fn run(&mut self, duration: Duration) {
        self.run_except(duration, |_| false);
    }

    /// Lets time pass; messages that `lose` names are lost.
    pub(crate) fn run_except(&mut self, duration: Duration, lose: impl Fn(&Letter) -> bool) {
        let end = self.now + duration;
        loop {
            self.deliver_except(&lose);
            let wakeups = self.hosts.iter().filter_map(Host::next_wakeup);
            let Some(next) = wakeups.min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            // Descending, so that of equal counters the higher ballot comes first: the harder order.
            for number in (1..=self.hosts.len() as u64).rev() {
                self.act(number, |host, now, out| host.tick(now, out));
            }
        }
        self.now = end;
    }

    /// Lets time pass without anybody noticing.
    pub(crate) fn sleep(&mut self, duration: Duration) {
        self.now += duration;
    }

    pub(crate) fn holders(&self) -> Vec<u64> {
        let valid = |n: &u64| {
            self.hosts[*n as usize - 1]
                .is_valid(self.now, CELL)
                .is_some()
        };
        (1..=self.hosts.len() as u64).filter(valid).collect()
    }

    pub(crate) fn epoch(&self, number: u64) -> Option<u64> {
        let held = self.hosts[number as usize - 1].is_valid(self.now, CELL)?;
        Some(held.epoch)
    }

    pub(crate) fn take_events(&mut self) -> Vec<(MemberId, Event)> {
        std::mem::take(&mut self.events)
    }

    /// The letters on their way that `pick` names, taken out.
    pub(crate) fn take(&mut self, pick: impl Fn(&Letter) -> bool) -> Vec<Letter> {
        let (taken, kept) = self.letters.drain(..).partition(|letter| pick(letter));
        self.letters = kept;
        taken.into()
    }
}

pub(crate) fn is_prepare(letter: &Letter) -> bool {
    letter.message.body == Body::Prepare
}

pub(crate) fn is_accept(letter: &Letter) -> bool {
    matches!(letter.message.body, Body::Accept { ttl, .. } if ttl > Duration::ZERO)
}

pub(crate) fn is_accepted(letter: &Letter) -> bool {
    matches!(letter.message.body, Body::Accepted { .. })
}
