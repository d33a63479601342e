//! The metadata server: Raft, its log and index engine, and the door that mounts knock at.

mod config;
mod consensus;
mod log_dir;
mod log_record;
mod log_store;
mod log_writer;
mod checkpoint;
mod index_redb;
mod raft_link;
mod state_machine;

/// Draws a number that nobody else draws.
pub(crate) fn draw() -> u64 {
    rand::random()
}
#[cfg(test)]
mod log_tests;
