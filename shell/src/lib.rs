//! What every OxFS process needs around its core: links to other processes, configuration, state
//! directories, clocks, signals, metrics and logging.

/// Release of this program, as `xfs-admin status` compares it.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

pub mod admin;
pub mod clock;
pub mod config;
pub mod link;
pub mod listen;
pub mod local;
pub mod metrics;
pub mod reload;
pub mod signals;
pub mod statedir;
pub mod telemetry;
pub mod times;
