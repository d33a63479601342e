//! The metadata core: the flat index and what every command does to it.
//!
//! Pure: no time, no randomness, no I/O but through the [`Index`] port. The shell (crate `mrc`)
//! replicates [`proto::index::Command`]s through Raft and calls [`apply`] with each, in order, on
//! every server; reads go through [`query`].
//!
//! - the index: [`Index`], [`Batch`], [`Overlay`], [`keys`], [`MemoryIndex`], [`contract`];
//! - changes: [`apply`], [`of_request`], and behind them sessions, volumes, the namespace;
//! - reads: [`query`] for clients, [`janitor`] for the leader's housekeeping, [`registration`] for
//!   heartbeats;
//! - what only the leader remembers: [`Readers`];
//! - [`dump`] turns the index into records that no program version owns, [`restore_plan`] decides what
//!   a new metadata cluster makes of them;
//! - room: [`Use`] and [`show_space`] of a volume with a quota, [`usable_bytes`] of the disks;
//! - [`check()`] tells whether an index is consistent.

mod attr;
mod command;
mod garbage;
mod groups;
mod index;
mod memory;
mod mutant;
mod namespace;
mod overlay;
mod quota;
mod readers;
mod records;
mod registry;
mod restore;
mod session;
mod space;
mod volume;

pub mod check;
pub mod config;
pub mod contract;
pub mod dump;
pub mod errno;
pub mod janitor;
pub mod keys;
pub mod placement;
pub mod query;
pub mod restore_plan;

pub use attr::{
    S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, of as attributes,
};
pub use check::{Problem, check};
pub use command::{Effects, Outcome, Reply, answered, apply, internal, of_request};
pub use groups::may_end as change_may_end;
pub use index::{Batch, Entries, Index, IndexError, IndexRead, Visit, Visitor};
pub use memory::MemoryIndex;
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use overlay::{Layered, Overlay};
pub use quota::{Use, show_space};
pub use readers::{Noted, Readers};
pub use registry::registration;
pub use restore::{is_restorer, unsettled as unsettled_by_restore};
pub use space::{FileSystem, usable_bytes};
pub use volume::ROOT;
