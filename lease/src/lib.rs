//! Decentralized leases: at most one holder per cell, with no coordinator and no disk.
//!
//! A *cell* is one resource, in this system one replicated object. Any member may ask for the
//! cell's *lease*; a majority of members must agree. A lease ends by the clock, so a holder that
//! vanishes blocks nobody for longer than [`Config::ttl`], stretched by [`Config::max_drift_ppm`].
//!
//! The crate is pure: [`Host`] takes the time, requests and messages as arguments and returns
//! messages to send and news. It reads no clock, opens no socket and writes no disk.
//!
//! Source: Kolbeck, Högqvist, Stender, Hupfeld, *Flease: Lease Coordination Without a Lock Server*,
//! IPDPS 2011, with the relative timers of PaxosLease in place of synchronized clocks. Where we
//! differ:
//!
//! - An acceptor refuses everybody else while its own timer for a lease runs, whatever the ballot.
//!   That alone makes leases exclusive; ballots order the epochs and the losers' retries.
//! - A refusal because of a running lease promises nothing, so asking who holds a lease never
//!   hinders its extension.
//! - The first member of a brand-new cell may begin with the second phase (ballot 0).
//! - Every lease has an *epoch*, higher than any its majority knows of; the layer above makes it
//!   durable at a majority before it uses the lease, and so fences off every holder before.
//!
//! Invariants, all checked by the simulator after every step:
//!
//! - L-1: no two members hold the lease of one cell at one moment of true time, while no clock gains
//!   or loses more than `max_drift_ppm`.
//! - L-2: the epochs that are used for a cell grow from holder to holder.
//! - L-3: an epoch belongs to one holder.
//! - L-4: after faults stop, somebody who asks gets the lease within a bounded time.
//!
//! # Examples
//!
//! One member is its own majority; a cell of three works the same with messages in between.
//!
//! ```
//! use lease::{Config, Event, Host, Membership, Out};
//! use types::{CellId, Instant, MemberId};
//!
//! let config = Config::default();
//! let started = Instant::ZERO;
//! let mut host = Host::new(MemberId(1), config.clone(), started, 1, 42, None);
//!
//! let now = started + config.quarantine();
//! let membership = Membership::new(1, [MemberId(1)]);
//! let mut out = Out::new();
//! host.acquire(now, CellId(7), &membership, 0, true, &mut out)?;
//!
//! assert!(matches!(out.events[0], Event::Held { epoch: 1, newborn: true, .. }));
//! assert!(host.is_valid(now, CellId(7)).is_some());
//! assert!(host.is_valid(now + config.ttl, CellId(7)).is_none());
//! # Ok::<(), lease::Error>(())
//! ```

mod acceptor;
mod answers;
mod cell;
mod cells;
mod config;
mod host;
mod members;
mod message;
mod mutant;
mod proposer;
mod saved;
mod stats;
mod timers;

pub use config::{Config, ConfigError};
pub use host::{Error, Host};
pub use message::{Ballot, Body, Event, Held, Holder, Membership, Message, Out};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use saved::{Saved, SavedError};
pub use stats::{CellDetail, CellInfo, CellState, Counters, Page, Stats};
