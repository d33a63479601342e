//! The lease host of this server: its clock, its timer thread and its links.
//!
//! Every call does its little work at once on the caller's thread, so a lease never waits for a
//! queue, for data or for a disk. What a call wants sent leaves on the peers' lease links, whose
//! queues put all messages that wait into one frame.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use lease::{Event, Host, Membership, Out};
use prost::Message as _;
use proto::peer;
use shell::clock::boottime;
use shell::link::{Connection, Handler, Link, Payload, Responder};
use types::{CellId, Fault, Instant, MemberId};

use crate::config::LEASE_MESSAGES_MAX;
use crate::lease_wire::{decode, encode};

/// What hears the news; called with the host locked, so it must only pass them on.
pub(crate) type News = Box<dyn Fn(Event) + Send + Sync>;

/// The lease host with everything it needs.
pub(crate) struct LeaseShell {
    state: Mutex<State>,
    wake: Condvar,
    news: News,
    /// Messages that were not believable.
    refused: AtomicU64,
}

struct State {
    host: Host,
    out: Out,
    links: HashMap<MemberId, Arc<Link>>,
    /// When the timer thread looks next.
    alarm: Option<Instant>,
    stopped: bool,
}

impl std::fmt::Debug for LeaseShell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseShell").finish_non_exhaustive()
    }
}

impl LeaseShell {
    /// Starts the host and its timer thread.
    pub(crate) fn start(host: Host, news: News) -> io::Result<(Arc<Self>, thread::JoinHandle<()>)> {
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
            refused: AtomicU64::new(0),
        });
        let timer = Arc::clone(&shell);
        let thread = thread::Builder::new()
            .name("leases".to_owned())
            .spawn(move || timer.serve_timers())?;
        Ok((shell, thread))
    }

    /// Replaces the links to the other members.
    pub(crate) fn set_links(&self, links: HashMap<MemberId, Arc<Link>>) {
        let old = std::mem::replace(&mut self.lock().links, links);
        drop(old);
    }

    /// Asks for a lease; the answer comes as news, also if asking is impossible just now.
    pub(crate) fn acquire(
        &self,
        cell: CellId,
        membership: &Membership,
        floor_epoch: u64,
        newborn: bool,
    ) {
        self.with(|now, host, out| {
            if let Err(error) = host.acquire(now, cell, membership, floor_epoch, newborn, out) {
                tracing::debug!(%cell, %error, "lease not asked for");
                out.events.push(Event::NoQuorum { cell });
            }
        });
    }

    /// Gives up a lease, or the attempt to get it.
    pub(crate) fn release(&self, cell: CellId) {
        self.with(|now, host, out| host.release(now, cell, out));
    }

    /// Notes what the replica promised.
    pub(crate) fn set_floor(&self, cell: CellId, epoch: u64) {
        self.with(|now, host, _| host.set_floor(now, cell, epoch));
    }

    /// Everything the host knows, for people.
    pub(crate) fn list(&self) -> Vec<lease::CellInfo> {
        self.lock().host.list(boottime())
    }

    /// Gives every lease back and stops; what is returned spares the next start its silence.
    pub(crate) fn stop(&self) -> Option<lease::Saved> {
        self.with(|now, host, out| host.release_all(now, out));
        let mut state = self.lock();
        state.stopped = true;
        self.wake.notify_all();
        state.host.shutdown(boottime())
    }

    fn serve_timers(&self) {
        let mut state = self.lock();
        while !state.stopped {
            let now = boottime();
            let State { host, out, .. } = &mut *state;
            host.tick(now, out);
            self.flush(&mut state);
            state.alarm = state.host.next_wakeup();
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
        let next = state.host.next_wakeup();
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
        for (member, messages) in std::mem::take(&mut state.out.sends) {
            let Some(link) = state.links.get(&member) else {
                continue;
            };
            for chunk in messages.chunks(LEASE_MESSAGES_MAX) {
                let messages = chunk.iter().map(encode).collect();
                // A lost frame is repeated by the protocol.
                link.push(&peer::LeaseFrame { messages });
            }
        }
        for event in state.out.events.drain(..) {
            (self.news)(event);
        }
    }

    /// Also after a panic elsewhere: the host is consistent whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The called end of the other members' lease links.
#[derive(Debug)]
pub(crate) struct LeaseDoor(pub(crate) Arc<LeaseShell>);

impl Handler for LeaseDoor {
    fn request(&self, _: &Arc<Connection>, _: Bytes, _: Payload, responder: Responder) {
        responder.fault(Fault::surface(
            libc::EPROTO,
            "lease messages are pushed, not asked; run the same release on all servers",
        ));
    }

    fn push(&self, from: &Arc<Connection>, body: Bytes, _: Payload) {
        let member = MemberId(from.caller().id);
        let frame = match peer::LeaseFrame::decode(body) {
            Ok(frame) if frame.messages.len() <= LEASE_MESSAGES_MAX => frame,
            Ok(_) | Err(_) => {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        self.0.with(|now, host, out| {
            for wire in &frame.messages {
                match decode(wire) {
                    Some(message) => host.message(now, member, message, out),
                    None => {
                        self.0.refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
    }
}
