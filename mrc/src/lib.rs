//! The metadata server: Raft, its log and index engine, and the door that mounts knock at.

mod config;
mod consensus;
mod files;
mod log_dir;
mod log_record;
mod log_store;
mod log_writer;
