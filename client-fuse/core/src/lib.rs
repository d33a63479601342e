//! What a mount decides: gathering and ordering of writes, reading ahead, routes, slots, quotas.
//!
//! Plain structs: time and numbers come in as arguments, what must happen comes out as effects.
//! The crate `client-fuse` performs them.

mod changes;
mod config;
mod gather;
mod leader;
mod mutant;
mod order;
mod read_ahead;
mod room;
mod route;
mod slots;

pub use changes::{Answer, Change, Changes, Effect, IdSource, ProbeAnswer, SendOrder, Version};
pub use config::{
    CUT_PATIENCE, ChangeLimits, ROUTE_BACKOFF_MAX, ROUTE_BACKOFF_MIN, ROUTE_TRIES_SAME_SERVER,
    ReadAheadLimits,
};
pub use leader::{Leader, Via};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use order::is_ordered;
pub use read_ahead::{Fetch, ReadAhead, Served};
pub use room::{Growth, Question, Room, Verdict, Volume, inodes};
pub use route::{Failure, Next, Route, Way};
pub use slots::{Slot, Slots};
