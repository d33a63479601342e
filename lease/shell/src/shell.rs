//! The lease host of this server: its clock, its timer thread and its links.
//!
//! Every call does its little work at once on the caller's thread, so a lease never waits for a
//! queue, for data or for a disk. What a call wants sent leaves on the peers' lease links, whose
//! queues put all messages that wait into one frame.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use lease::{Event, Host, Membership, Out};
use shell::clock::boottime;
use shell::link::{Connection, Handler, Link, Payload, Responder};
use types::{CellId, Duration, Fault, Instant, MemberId};

use crate::config::{LEASE_MESSAGES_MAX, LIST_AT_ONCE_MAX, TIMER_GRAIN};
use crate::renewals::{MayRenew, withhold};
use crate::traffic::{Meter, Traffic};
use crate::wire::{decode_frame, encode_frame};

/// What hears the news, oldest first; called with the host locked, so it must only pass them on.
pub type News = Box<dyn Fn(&[Event]) + Send + Sync>;

/// Requests to the host that leave together: one lock, one frame to each peer.
pub struct Asking<'a> {
    now: Instant,
    host: &'a mut Host,
    out: &'a mut Out,
}

impl fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}

impl Asking<'_> {
    /// Asks for a lease; the answer comes as news, also if asking is impossible just now.
    pub fn acquire(
        &mut self,
        cell: CellId,
        membership: &Membership,
        floor_epoch: u64,
        newborn: bool,
    ) {
        let Self { now, host, out } = self;
        if let Err(error) = host.acquire(*now, cell, membership, floor_epoch, newborn, out) {
            tracing::debug!(%cell, %error, "lease not asked for");
            out.events.push(Event::Refused { cell, error });
        }
    }

    /// Gives up a lease, or the attempt to get it.
    pub fn release(&mut self, cell: CellId) {
        self.host.release(self.now, cell, self.out);
    }

    /// Gives up a lease in favour of another member.
    pub fn hand_over(&mut self, cell: CellId, to: MemberId) {
        self.host.hand_over(self.now, cell, to, self.out);
    }

    /// Notes what the layer above promised.
    pub fn set_floor(&mut self, cell: CellId, epoch: u64) {
        self.host.set_floor(self.now, cell, epoch);
    }
}

/// The lease host with everything it needs.
pub struct LeaseShell {
    state: Mutex<State>,
    wake: Condvar,
    news: News,
    may_renew: MayRenew,
    meter: Meter,
}

struct State {
    host: Host,
    out: Out,
    links: HashMap<MemberId, Arc<Link>>,
    /// When the timer thread looks next.
    alarm: Option<Instant>,
    stopped: bool,
}

impl fmt::Debug for LeaseShell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseShell").finish_non_exhaustive()
    }
}

impl LeaseShell {
    /// Starts the host and its timer thread.
    ///
    /// # Errors
    ///
    /// If the thread can't be started.
    pub fn start(host: Host, news: News) -> io::Result<(Arc<Self>, thread::JoinHandle<()>)> {
        Self::start_watched(host, news, Box::new(|_| true))
    }

    /// The same; leases whose users don't live any more are left to run out.
    ///
    /// # Errors
    ///
    /// If the thread can't be started.
    pub fn start_watched(
        host: Host,
        news: News,
        may_renew: MayRenew,
    ) -> io::Result<(Arc<Self>, thread::JoinHandle<()>)> {
        let shell = Arc::new(Self {
            state: Mutex::new(State {
                host,
                out: Out::new(),
                links: HashMap::new(),
                alarm: None,
                stopped: false,
            }),
            wake: Condvar::new(),
            news,
            may_renew,
            meter: Meter::default(),
        });
        let timer = Arc::clone(&shell);
        let thread = thread::Builder::new()
            .name("leases".to_owned())
            .spawn(move || timer.serve_timers())?;
        Ok((shell, thread))
    }

    /// Replaces the links to the other members.
    pub fn set_links(&self, links: HashMap<MemberId, Arc<Link>>) {
        let old = std::mem::replace(&mut self.lock().links, links);
        drop(old);
    }

    /// Asks for a lease; the answer comes as news, also if asking is impossible just now.
    pub fn acquire(&self, cell: CellId, membership: &Membership, floor_epoch: u64, newborn: bool) {
        self.ask(|asking| asking.acquire(cell, membership, floor_epoch, newborn));
    }

    /// Gives up a lease, or the attempt to get it.
    pub fn release(&self, cell: CellId) {
        self.ask(|asking| asking.release(cell));
    }

    /// Gives up a lease in favour of another member.
    pub fn hand_over(&self, cell: CellId, to: MemberId) {
        self.ask(|asking| asking.hand_over(cell, to));
    }

    /// Notes what the layer above promised.
    pub fn set_floor(&self, cell: CellId, epoch: u64) {
        self.ask(|asking| asking.set_floor(cell, epoch));
    }

    /// Makes several requests at once.
    pub fn ask(&self, work: impl FnOnce(&mut Asking<'_>)) {
        self.with(|now, host, out| work(&mut Asking { now, host, out }));
    }

    /// The lease of the cell, if this server holds it at this moment.
    pub fn is_valid(&self, cell: CellId) -> Option<lease::Held> {
        let state = self.lock();
        state.host.is_valid(boottime(), cell)
    }

    /// Numbers of the host, for metrics.
    pub fn stats(&self) -> lease::Stats {
        self.lock().host.stats()
    }

    /// Numbers of the wire, for metrics.
    pub fn traffic(&self) -> Traffic {
        self.meter.read()
    }

    /// How long the host stays silent, if it does.
    pub fn quarantine_remaining(&self) -> Option<Duration> {
        self.lock().host.quarantine_remaining(boottime())
    }

    /// Cells the host knows, from `start` (0, or the end of the page before) on, for people. Looks at
    /// `limit` cells at most: leases wait meanwhile.
    pub fn list(&self, start: usize, limit: usize) -> lease::Page {
        let limit = limit.min(LIST_AT_ONCE_MAX);
        self.lock().host.list(boottime(), start, limit)
    }

    /// Everything the host knows of a cell, for people.
    pub fn show(&self, cell: CellId) -> Option<lease::CellDetail> {
        self.lock().host.show(boottime(), cell)
    }

    /// Gives every lease back and stops; what is returned spares the next start its silence.
    pub fn stop(&self) -> Option<lease::Saved> {
        self.with(|now, host, out| host.release_all(now, out));
        let mut state = self.lock();
        state.stopped = true;
        self.wake.notify_all();
        state.host.shutdown(boottime())
    }

    /// Stops at once, as in a crash: nothing is released, nothing is sent.
    pub fn halt(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let _ = state.host.shutdown(boottime());
        drop(state);
        self.wake.notify_all();
    }

    fn serve_timers(&self) {
        let mut state = self.lock();
        while !state.stopped {
            let now = boottime();
            let State { host, out, .. } = &mut *state;
            host.tick(now, out);
            self.flush(&mut state);
            state.alarm = state.host.next_wakeup().map(coalesced);
            let wait = state.alarm.map(|alarm| alarm.since(boottime()).to_std());
            state = match wait {
                Some(wait) => {
                    self.wake
                        .wait_timeout(state, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn with(&self, work: impl FnOnce(Instant, &mut Host, &mut Out)) {
        let mut state = self.lock();
        let State { host, out, .. } = &mut *state;
        work(boottime(), host, out);
        self.flush(&mut state);
        let next = state.host.next_wakeup().map(coalesced);
        let earlier = match (next, state.alarm) {
            (Some(next), Some(alarm)) => next < alarm,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if earlier {
            state.alarm = next;
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Sends what must be sent and tells the news, in order, because the host is still locked.
    fn flush(&self, state: &mut State) {
        for (member, messages) in &mut state.out.sends {
            let withheld = withhold(messages, &self.may_renew);
            if withheld > 0 {
                self.meter.withheld(withheld);
            }
            let link = state.links.get(member);
            for chunk in messages.chunks(LEASE_MESSAGES_MAX) {
                let frame = encode_frame(chunk);
                let bytes = frame.len();
                // A lost frame is repeated by the protocol.
                if link.is_some_and(|link| link.push_encoded(frame.into())) {
                    self.meter.sent(chunk.len(), bytes);
                } else {
                    self.meter.dropped();
                }
            }
            messages.clear();
            messages.shrink_to(LEASE_MESSAGES_MAX);
        }
        if !state.out.events.is_empty() {
            (self.news)(&state.out.events);
            state.out.events.clear();
        }
    }

    /// Also after a panic elsewhere: the host is consistent whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the timer thread wakes for a timer: at the end of its grain, with all others in it.
fn coalesced(timer: Instant) -> Instant {
    let grain = TIMER_GRAIN.as_nanos();
    Instant::from_nanos(
        (timer.as_nanos() / grain)
            .saturating_add(1)
            .saturating_mul(grain),
    )
}

/// The called end of the other members' lease links.
#[derive(Debug)]
pub struct LeaseDoor(pub Arc<LeaseShell>);

impl Handler for LeaseDoor {
    fn request(&self, _: &Arc<Connection>, _: Bytes, _: Payload, responder: Responder) {
        responder.fault(Fault::surface(
            libc::EPROTO,
            "lease messages are pushed, not asked; run the same release on all servers",
        ));
    }

    fn push(&self, from: &Arc<Connection>, body: Bytes, _: Payload) {
        let member = MemberId(from.caller().id);
        let heard = match decode_frame(body) {
            Ok(heard) => heard,
            Err(error) => {
                tracing::debug!(%member, %error, "lease frame dropped");
                self.0.meter.bad_frame(error);
                return;
            }
        };
        self.0.meter.received(heard.messages.len());
        self.0.meter.refused(heard.refused);
        self.0.with(|now, host, out| {
            for message in heard.messages {
                host.message(now, member, message, out);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_of_one_grain_share_a_wake_up_that_is_never_early() {
        let grain = TIMER_GRAIN.as_nanos();
        for nanos in [0, 1, grain - 1, grain, 10 * grain + 7] {
            let timer = Instant::from_nanos(nanos);
            let wake = coalesced(timer);

            assert!(wake > timer && wake.since(timer) <= TIMER_GRAIN);
            assert_eq!(wake.as_nanos() % grain, 0);
        }
        assert_eq!(
            coalesced(Instant::from_nanos(grain)),
            coalesced(Instant::from_nanos(2 * grain - 1))
        );
    }
}
