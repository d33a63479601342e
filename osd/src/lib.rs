//! Object server: keeps replicas of file data and serves them to mounts and to each other.
//!
//! Decisions about an object are made by `osd_core::ObjectReplica`, about leases by `lease::Host`;
//! this crate is what they need to run: threads, sockets, clocks, and files on disk.
//!
//! A write's way: `service` (decoded, capability, view and checksum verified) to the object's
//! `shard` (decided by its replica), to the store (one positional write) and in parallel to the
//! backups over `peer` links, and back.

mod administration;
mod at_rest;
mod block_set;
mod board;
mod boot;
mod budget;
mod cluster;
mod cluster_clock;
#[cfg(test)]
mod cluster_tests;
mod config;
mod file_io;
mod file_layout;
mod forward;
mod header;
#[cfg(test)]
mod heartbeat_tests;
mod heartbeats;
mod inbox;
mod inspect;
mod lagging;
mod lags;
mod leftovers;
mod limits;
mod listing;
mod map;
mod map_keeper;
mod metadata;
mod moved;
mod note;
mod object_file;
mod pacer;
mod peer;
mod pool_watch;
mod quarantine;
mod reaper;
mod recovery;
mod scrub;
mod seeding;
mod server;
mod service;
mod shard;
mod shard_item;
mod shards;
mod size_counter;
mod stalls;
mod store_dir;
mod store_root;
mod store_sync;
#[cfg(test)]
mod store_tests;
mod sums;
mod sync_pool;
mod tombstones;
mod worker;

pub use boot::BootError;
pub use config::{Config, ConfigError, StoreKind};
pub use inspect::store_sums;
pub use server::{Error, run};
