//! Object server: keeps replicas of file data and serves them to mounts and to each other.

mod config;
mod file_layout;
mod header;
mod identity;
mod object_file;
mod sums;

pub use config::{Config, ConfigError};
pub use identity::StoreError;
