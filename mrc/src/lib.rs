//! The metadata server: Raft, its log and index engine, and the door that mounts knock at.

mod consensus;
mod log_record;
