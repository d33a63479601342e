//! Whole clusters in one thread: real cores, modelled network, clocks and crashes, one seed per run.
//!
//! A run is a function of its [`Options`]: it draws everything that happens from one generator, so
//! a seed repeats bit for bit, which [`Outcome::hash`] proves. Faults come first (safety phase: the
//! invariants hold after every step), then they stop (liveness phase: the system must become useful
//! again within a stated time).
//!
//! [`lease_world`] simulates lease hosts with a model of the layer above them; [`cluster`] simulates
//! replicas, leases, the metadata cluster's log and mounts together.

pub mod cluster;
pub mod faults;
mod lease_acts;
mod lease_fate;
pub mod lease_oracle;
pub mod lease_server;
pub mod lease_world;
pub mod network;
pub mod options;
pub mod sweep;
pub mod time;
pub mod trace;
mod views;

pub use lease_oracle::{Coverage, Violation};
pub use lease_world::{Outcome, run};
pub use options::Options;
