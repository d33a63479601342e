//! The driver against real pools on files. Needs root and a ZFS that answers, or Debian's zfs-fuse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod cuts;
mod datasets;
mod health;
#[expect(dead_code, reason = "the store's tests use the rest")]
mod machine;
mod side;
mod streams;
