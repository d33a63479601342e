//! Drives ZFS through the programs that come with it, `zfs` and `zpool`.
//!
//! [`Tools`] finds them and asks what they can do, from zfs-fuse (pool version 23) to present OpenZFS.
//! A [`Tree`] is what one cluster has in a pool: its datasets, their snapshots, and streams of them
//! between pools. A [`Pool`] tells about health and room.
//!
//! Everything blocks and belongs on a thread that may; every command has a time limit. No shell is
//! involved, and names are checked before any program sees them.
//!
//! The promise: a dataset that does not carry the cluster's mark on itself is never changed, whatever its
//! name.

mod error;
mod name;
mod numbers;
mod pool;
mod process;
mod properties;
mod receive;
mod scan;
mod seeds;
mod send;
mod snapshots;
mod status;
mod store;
mod stream;
mod tools;
mod tree;
mod usage;

pub use error::Error;
pub use name::{BookmarkName, DatasetName, PoolName, SnapshotName};
pub use pool::{Pool, PoolFeatures, PoolSpace};
pub use receive::{Changes, Receiving, Remains};
pub use scan::{Scan, ScanKind, ScanPhase};
pub use seeds::Tidied;
pub use send::{Base, Sending};
pub use snapshots::{Bookmark, Snapshot, newest_shared};
pub use status::{DataErrors, PoolStatus, Role, State, Vdev};
pub use store::{Group, Room};
pub use stream::{ResumeToken, StreamOptions, TransferHandle};
pub use tools::Tools;
pub use tree::{Compression, DatasetInfo, NewDataset, Tree};
pub use usage::Abilities;
