//! All cells of one server: the crate's door.

mod look;

use std::hash::{Hash, Hasher};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use types::{CellId, Duration, Instant, MemberId};

use crate::acceptor::Agreed;
use crate::cell::{Cell, Context};
use crate::cells::Cells;
use crate::config::Config;
use crate::members::place;
use crate::message::{Body, Held, Membership, Message, Out};
use crate::mutant::Mutant;
use crate::proposer::Phase;
use crate::saved::{Saved, SavedCell, SavedLease};
use crate::stats::Counters;
use crate::timers::Timers;

/// Why a request to the host cannot even be begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host has forgotten its votes and waits until no lease from before can run.
    #[error("this server started {} ms too recently to take leases; ask another replica", remaining.as_millis())]
    Quarantined {
        /// How much longer.
        remaining: Duration,
    },
    /// The host is not among the members.
    #[error("server {me} is no member of cell {cell}; refresh the replica set")]
    NotAMember {
        /// This host.
        me: MemberId,
        /// The cell.
        cell: CellId,
    },
    /// There are too many members, or none.
    #[error("a cell has 1 to {members_max} members, not {found}")]
    MemberCount {
        /// Members given.
        found: usize,
        /// Limit of the configuration.
        members_max: usize,
    },
    /// The host knows a newer view of the cell.
    #[error("view {given} is older than view {known}; refresh the replica set")]
    OldView {
        /// View given.
        given: u64,
        /// View known.
        known: u64,
    },
    /// `cells_max` cells are in memory.
    #[error("all {cells_max} lease cells are in use; try later or raise cells_max")]
    TooManyCells {
        /// Limit of the configuration.
        cells_max: usize,
    },
    /// The host was shut down.
    #[error("the lease host is shut down; ask another replica")]
    Stopped,
}

/// The lease host of one server.
///
/// Time comes in with every call and must never go backwards; messages and news go out through
/// [`Out`]; the shell calls [`Host::tick`] no later than [`Host::next_wakeup`]. Cloning is for
/// checkers that go back and try something else.
#[derive(Clone, Debug)]
pub struct Host {
    me: MemberId,
    config: Config,
    incarnation: u64,
    /// Nothing is answered and nothing proposed before this.
    silent_until: Instant,
    stopped: bool,
    cells: Cells,
    timers: Timers,
    rng: Xoshiro256PlusPlus,
    last_round: u64,
    /// Members that left a question unanswered and have not been heard since: asked last.
    silent: Vec<MemberId>,
    counters: Counters,
}

/// Hosts that will do the same when told the same have the same hash: counters and the generator of
/// back-off times are left out.
impl Hash for Host {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.me.hash(state);
        self.incarnation.hash(state);
        self.silent_until.hash(state);
        self.stopped.hash(state);
        self.last_round.hash(state);
        self.silent.hash(state);
        for cell in self.cells.sorted() {
            cell.hash(state);
        }
    }
}

/// Rounds are numbered within an incarnation; 2^40 of them last 3 years at 10,000 a second.
const ROUNDS_PER_INCARNATION: u64 = 1 << 40;

impl Host {
    /// A host that just started.
    ///
    /// `incarnation` is the durable boot counter, at least 1, higher at every start. Without what the
    /// incarnation before saved, the host is silent for [`Config::quarantine`].
    #[must_use]
    pub fn new(
        me: MemberId,
        config: Config,
        now: Instant,
        incarnation: u64,
        rng_seed: u64,
        saved: Option<Saved>,
    ) -> Self {
        let incarnation = incarnation.max(1);
        let saved = saved.filter(|saved| saved.incarnation.checked_add(1) == Some(incarnation));
        let silent_until = match saved {
            None if !config.has(Mutant::NoQuarantine) => now + config.quarantine(),
            None | Some(_) => now,
        };
        let mut host = Self {
            me,
            config,
            incarnation,
            silent_until,
            stopped: false,
            cells: Cells::default(),
            timers: Timers::default(),
            rng: Xoshiro256PlusPlus::seed_from_u64(rng_seed ^ me.0.rotate_left(32)),
            last_round: incarnation.wrapping_mul(ROUNDS_PER_INCARNATION),
            silent: Vec::new(),
            counters: Counters::default(),
        };
        for saved in saved.into_iter().flat_map(|saved| saved.cells) {
            host.restore(now, saved);
        }
        host
    }

    /// Asks for the lease of a cell, and keeps it until it is released or lost.
    ///
    /// Ends with exactly one of [`Event::Held`](crate::Event::Held),
    /// [`Event::HeldBy`](crate::Event::HeldBy), [`Event::NoQuorum`](crate::Event::NoQuorum) and
    /// [`Event::OldView`](crate::Event::OldView), maybe within this call. Asking again while the
    /// first wish is pending changes nothing; asking while the lease is held repeats `Held`.
    ///
    /// `floor_epoch` is the highest epoch the layer above has made durable here. `newborn` says that
    /// nothing of the cell exists as far as this server can know; if it is the first member, it may
    /// then take the lease in one round trip, with the incarnation as epoch.
    ///
    /// # Errors
    ///
    /// [`Error`] if the acquisition cannot begin; nothing has changed then.
    pub fn acquire(
        &mut self,
        now: Instant,
        cell: CellId,
        membership: &Membership,
        floor_epoch: u64,
        newborn: bool,
        out: &mut Out,
    ) -> Result<(), Error> {
        self.check_acquire(now, cell, membership)?;
        let view = membership.view;
        self.visit(now, cell, Some(view), out, |cell, context| {
            if cell.view < view {
                cell.adopt_view(context, view, Some(membership));
            } else if cell.members.is_none() {
                cell.know(membership);
            }
            cell.acceptor.raise_floor(floor_epoch);
            cell.acquire(context, newborn);
        });
        Ok(())
    }

    /// Gives a lease back, or ends the wish for it. The caller has stopped using it.
    pub fn release(&mut self, now: Instant, cell: CellId, out: &mut Out) {
        self.visit(now, cell, None, out, |cell, context| {
            cell.release(context, None)
        });
    }

    /// Gives a lease back in favour of `to`, which is told and preferred for a short time.
    pub fn hand_over(&mut self, now: Instant, cell: CellId, to: MemberId, out: &mut Out) {
        self.visit(now, cell, None, out, |cell, context| {
            cell.release(context, Some(to));
        });
    }

    /// Notes the highest epoch the layer above has promised for the cell. Kept while the cell is in
    /// memory; what the layer above has made durable fences after that.
    pub fn set_floor(&mut self, now: Instant, cell: CellId, epoch: u64) {
        let mut out = Out::new();
        self.visit(now, cell, Some(0), &mut out, |cell, context| {
            cell.heard_at = context.now;
            cell.acceptor.raise_floor(epoch);
        });
    }

    /// Takes a message of another member.
    pub fn message(&mut self, now: Instant, from: MemberId, message: Message, out: &mut Out) {
        let quarantined = self.is_quarantined(now);
        let is_question = matches!(message.body, Body::Prepare | Body::Accept { .. });
        let mutant = self.config.has(Mutant::ProposesInQuarantine);
        if self.stopped || (quarantined && (is_question || !mutant)) {
            self.counters.quarantined += 1;
            return;
        }
        let proposer = if is_question { from } else { self.me };
        if from == self.me || message.ballot.member != proposer {
            self.counters.malformed += 1;
            return;
        }
        self.silent.retain(|member| *member != from);
        let create = is_question.then_some(message.view);
        self.visit(now, message.cell, create, out, |cell, context| {
            if is_question {
                cell.question(context, from, &message);
            } else {
                cell.answered(context, from, &message);
            }
        });
    }

    /// Serves what is due. Call again while [`Host::next_wakeup`] is not in the future.
    pub fn tick(&mut self, now: Instant, out: &mut Out) {
        if self.stopped {
            return;
        }
        for _ in 0..self.config.timers_per_tick_max {
            let Some((at, id)) = self.timers.pop(now) else {
                break;
            };
            let Some(cell) = self.cells.get_mut(id) else {
                continue;
            };
            if !self.timers.fired(at, &mut cell.timer) {
                continue;
            }
            if cell.is_forgettable(now, &self.config) {
                self.cells.remove(id);
            } else {
                self.visit(now, id, None, out, |cell, context| cell.due(context));
            }
        }
        if self.timers.is_littered() {
            let cells = &self.cells;
            let timer_of = |id: CellId| cells.get(id).and_then(|cell| cell.timer);
            self.timers.sweep(|(at, id)| timer_of(*id) == Some(*at));
        }
    }

    /// When [`Host::tick`] has something to do.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.timers.next().filter(|_| !self.stopped)
    }

    /// The lease of the cell, if this host holds it at this moment.
    #[must_use]
    pub fn is_valid(&self, now: Instant, cell: CellId) -> Option<Held> {
        match self.cells.get(cell)?.proposer.phase {
            Phase::Holding { epoch, until, .. } if now < until && !self.stopped => {
                Some(Held { epoch, until })
            }
            _ => None,
        }
    }

    /// Notes a newer view of a cell. A lease or wish of the old view ends: the lease is released, and
    /// [`Event::Lost`](crate::Event::Lost) says so.
    ///
    /// The replica set of one view may differ from that of the next only while the view in between has
    /// both ([`Membership::changing`]); else leases of the old view would not be known to the new members.
    /// A cell that was idle for long is forgotten together with its view, so this is to be called again
    /// before a message of an older view reaches the host.
    pub fn view_changed(
        &mut self,
        now: Instant,
        cell: CellId,
        membership: &Membership,
        out: &mut Out,
    ) {
        let view = membership.view;
        self.visit(now, cell, Some(view), out, |cell, context| {
            cell.expire(context);
            if cell.view < view {
                cell.adopt_view(context, view, Some(membership));
            } else if cell.view == view && cell.members.is_none() {
                cell.know(membership);
            }
        });
    }

    /// Gives back every lease and ends every wish, as before a shutdown.
    pub fn release_all(&mut self, now: Instant, out: &mut Out) {
        let wished = self.cells.sorted();
        let wished = wished.filter(|cell| !matches!(cell.proposer.phase, Phase::Idle));
        let wished: Vec<CellId> = wished.map(|cell| cell.id).collect();
        for cell in wished {
            self.release(now, cell, out);
        }
    }

    /// Stops the host: it holds nothing, answers nothing and does nothing any more.
    ///
    /// The result lets the next incarnation skip the quarantine; see [`Saved`]. `None` if this
    /// host is still in quarantine itself, so that its votes say nothing.
    pub fn shutdown(&mut self, now: Instant) -> Option<Saved> {
        let worthless = self.is_quarantined(now) || self.stopped;
        self.stopped = true;
        (!worthless).then(|| Saved {
            incarnation: self.incarnation,
            cells: self.cells.sorted().map(|cell| save(cell, now)).collect(),
        })
    }

    fn is_quarantined(&self, now: Instant) -> bool {
        now < self.silent_until
    }

    fn check_acquire(
        &self,
        now: Instant,
        id: CellId,
        membership: &Membership,
    ) -> Result<(), Error> {
        let (found, members_max) = (membership.members.len(), self.config.members_max);
        if self.stopped {
            return Err(Error::Stopped);
        }
        if self.is_quarantined(now) && !self.config.has(Mutant::ProposesInQuarantine) {
            let remaining = self.silent_until.since(now);
            return Err(Error::Quarantined { remaining });
        }
        if found == 0 || found > members_max {
            return Err(Error::MemberCount { found, members_max });
        }
        if place(&membership.members, self.me).is_none() {
            let (me, cell) = (self.me, id);
            return Err(Error::NotAMember { me, cell });
        }
        match self.cells.get(id) {
            Some(cell) if cell.view > membership.view => Err(Error::OldView {
                given: membership.view,
                known: cell.view,
            }),
            None if self.cells.len() >= self.config.cells_max => Err(Error::TooManyCells {
                cells_max: self.config.cells_max,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Lets `act` work on a cell and sets the cell's timer afterwards. An unknown cell is made if
    /// `create` says in which view, else nothing happens.
    fn visit(
        &mut self,
        now: Instant,
        id: CellId,
        create: Option<u64>,
        out: &mut Out,
        act: impl FnOnce(&mut Cell, &mut Context<'_>),
    ) {
        if self.stopped {
            return;
        }
        let full = self.cells.len() >= self.config.cells_max;
        let cell = match create {
            // One search of the map instead of two, on the path of every message.
            Some(view) if !full => self.cells.get_or_insert(id, || Cell::new(id, view, now)),
            Some(_) | None => self.cells.get_mut(id),
        };
        let Some(cell) = cell else {
            self.counters.cells_full += u64::from(create.is_some());
            return;
        };
        let mut context = Context {
            now,
            me: self.me,
            incarnation: self.incarnation,
            config: &self.config,
            rng: &mut self.rng,
            last_round: &mut self.last_round,
            counters: &mut self.counters,
            out,
            silent: &mut self.silent,
        };
        act(cell, &mut context);
        let at = cell.next_wakeup(&self.config);
        self.timers.set(id, &mut cell.timer, at);
    }

    fn restore(&mut self, now: Instant, saved: SavedCell) {
        let new = || Cell::new(saved.cell, saved.view, now);
        let Some(cell) = self.cells.get_or_insert(saved.cell, new) else {
            return;
        };
        cell.acceptor.promised = saved.promised;
        cell.acceptor.promised_round = saved.promised_round;
        cell.acceptor.highest = saved.highest;
        cell.acceptor.floor = saved.floor;
        cell.acceptor.agreed = saved.agreed.map(|lease| Agreed {
            holder: lease.holder,
            epoch: lease.epoch,
            round: lease.round,
            expires: now + lease.remaining,
        });
        let at = cell.next_wakeup(&self.config);
        self.timers.set(cell.id, &mut cell.timer, at);
    }
}

fn save(cell: &Cell, now: Instant) -> SavedCell {
    let acceptor = &cell.acceptor;
    SavedCell {
        cell: cell.id,
        view: cell.view,
        promised: acceptor.promised,
        promised_round: acceptor.promised_round,
        agreed: acceptor.agreed.map(|agreed| SavedLease {
            holder: agreed.holder,
            epoch: agreed.epoch,
            round: agreed.round,
            remaining: agreed.expires.since(now),
        }),
        highest: acceptor.highest,
        floor: acceptor.floor,
    }
}
