//! The metadata server: Raft, its log and index engine, and the door that mounts knock at.

mod admin;
mod checkpoint;
mod config;
mod consensus;
mod cushion;
mod damage;
mod disk;
mod door;
mod dumps;
mod farewell;
mod forward;
mod grants;
mod heartbeats;
mod index_buffer;
mod index_file;
mod index_redb;
#[cfg(test)]
mod index_rot_tests;
mod janitor;
mod log_dir;
mod log_record;
mod log_store;
#[cfg(test)]
mod log_tests;
mod log_writer;
mod member_change;
mod members;
mod membership;
mod metrics;
mod node;
mod osd_links;
mod osds;
mod pacing;
mod page_sums;
mod progress;
mod promises;
mod raft_door;
mod raft_link;
mod redundancy;
mod restored;
mod server;
mod sessions;
mod slow_disk;
mod slowness;
mod spare;
mod state_machine;
mod write_pace;

pub use config::{Config, ConfigError, MemberAddress, MemberPart};
pub use disk::{Space, SpaceProbe};
pub use log_dir::LogError;
pub use server::{Error, run, run_on, run_on_disk};

/// Draws a number that nobody else draws.
pub(crate) fn draw() -> u64 {
    rand::random()
}
