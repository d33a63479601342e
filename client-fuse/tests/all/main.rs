//! The library and mounts against servers in this process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what must not happen in a test ends it"
)]

mod common;
mod faults;
mod mounted;
mod own_writes;
mod quotas;
mod random;
mod registration;
mod two_mounts;
