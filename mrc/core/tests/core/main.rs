//! The metadata core from outside: commands in, replies and a consistent index out.

mod cluster;
mod errnos;
mod housekeeping;
mod model;
mod prop_namespace;
mod registry;
mod semantics;
mod sessions;
