//! Links: long-lived two-way streams of messages between two processes.
//!
//! A [`Link`] is the calling end, a [`Connection`] the called end of one gRPC stream on a TCP
//! connection of its own. Whatever is queued when the stream becomes writable leaves as one frame,
//! so the cost of a wake-up is shared by all that waits. Requests of one link leave in the order
//! of the calls and are handed to the [`Handler`] in that order. Every request is answered exactly
//! once at the caller: by the reply, a fault, its deadline or the end of the connection.
//!
//! Both ends prove that they know the cluster's secret when the stream is opened. The stream itself
//! is neither encrypted nor signed, so it belongs on loopback or a trusted network.

mod client;
pub(crate) mod codec;
mod counts;
mod dial;
mod encoding;
mod error;
mod handshake;
mod identity;
mod limits;
mod options;
mod outbox;
mod payload;
mod refusals;
mod served;
mod server;
#[cfg(test)]
mod tests;
mod version;

pub use client::{Link, Listener};
pub use counts::Counts;
pub use error::{CallError, LinkError};
pub use identity::{Caller, Identity, Role, ServiceKind};
pub use limits::{
    LinkOptions, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, PROTOCOL_VERSION_OLDEST, RESUME_MAX,
};
pub use options::{Checksum, Compression, Wire, WireError, WireOptions};
pub use payload::Payload;
pub use refusals::{Reason, Refusals};
pub use served::Served;
pub use server::{Connection, Handler, Responder, Server};

/// The generated client and server.
pub(crate) mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        missing_debug_implementations,
        elided_lifetimes_in_paths,
        clippy::all,
        clippy::disallowed_types,
        reason = "generated code"
    )]
    tonic::include_proto!("oxfs.link");
}

/// Locks, also after a panic elsewhere: every critical section here leaves its state consistent.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
