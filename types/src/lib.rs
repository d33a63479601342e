//! The project's words: identifiers, time, layout arithmetic, capabilities and the machine shape.
//!
//! Every other crate speaks with these types. Nothing here performs I/O, reads a clock or draws a
//! random number.

mod capability;
mod fault;
mod ids;
mod layout;
mod machine;
mod policy;
mod time;

pub use capability::{Capability, CapabilityError, Rights, Secret, SecretError};
pub use fault::{Fault, Remedy};
pub use ids::{
    CellId, ClusterId, IdError, Inode, MemberId, ObjectId, OsdId, PgId, PgKey, SessionId, VolumeId,
};
pub use layout::{BLOCK_BYTES, FILE_BYTES_MAX, SUM_BYTES, blocks_of};
pub use machine::Machine;
pub use policy::{Policy, PolicyError, Quorum, WritePolicy};
pub use time::{Duration, Instant, UnixNanos};
