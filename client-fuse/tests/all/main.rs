//! The library and mounts against servers in this process.

mod common;
mod faults;
mod mounted;
mod random;
