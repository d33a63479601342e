//! The metadata core from outside: commands in, replies and a consistent index out.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod cluster;
mod consistency;
mod draw;
mod errnos;
mod groups;
mod housekeeping;
mod leftovers;
mod model;
#[cfg(feature = "mutants")]
mod mutants;
mod prop_namespace;
mod quotas;
mod registry;
mod restoring;
mod semantics;
mod sessions;
