//! Harness of the tests that run real processes and real mounts.
//!
//! Everything is done as a user's script would: through `oxfs`, `xfs-admin` and signals.

mod cable;
mod cluster;
mod inputs;
mod linked;
mod probe;
mod program;
mod sockets;
mod store;
mod tree;

pub use cable::{Cable, Cut, End};
pub use cluster::{Cluster, Server, kill, send, wait_gone};
pub use inputs::{dependency_sources, make_git_repository, make_sparse_and_odd_files};
pub use linked::with_link;
pub use probe::{Probe, Stall};
pub use program::{binary, run, shell};
pub use sockets::{Socket, sockets};
pub use store::replicas_differ;
pub use tree::{Entry, Tree};
