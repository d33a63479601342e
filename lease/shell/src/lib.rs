//! What a lease host needs to run: a clock, a thread for its timers, and links to the other members.
//!
//! The object server and the lease benchmark run the same one.

mod config;
#[cfg(test)]
mod door_tests;
#[cfg(test)]
mod fuzz;
mod metrics;
mod renewals;
mod shell;
mod traffic;
mod wire;

pub use metrics::metrics;
pub use renewals::MayRenew;
pub use shell::{Asking, LeaseDoor, LeaseShell, News};
pub use traffic::Traffic;
