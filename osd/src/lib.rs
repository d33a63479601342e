//! Object server: keeps replicas of file data and serves them to mounts and to each other.

mod boot;
mod config;
mod file_layout;
mod gate;
mod header;
mod inbox;
mod lease_shell;
mod lease_wire;
mod map;
mod metadata;
mod object_file;
mod store_dir;
mod store_root;
mod store_sync;
mod sums;

pub use boot::BootError;
pub use config::{Config, ConfigError};
