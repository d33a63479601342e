//! Messages that travel between processes or rest in the metadata log and index.
//!
//! Pure data: encoding and decoding only, no transport. Unknown fields are ignored and absent ones
//! are zero (proto3), so whoever uses a message checks what it needs of it.

#![allow(
    missing_docs,
    reason = "generated code; the comments are in the .proto files"
)]
#![allow(
    clippy::large_enum_variant,
    reason = "heartbeats are the largest requests, and one of each server is under way at a time"
)]

/// Frames of the streams between processes.
pub mod link {
    include!(concat!(env!("OUT_DIR"), "/oxfs.link.rs"));
}

/// Metadata service.
pub mod mrc {
    include!(concat!(env!("OUT_DIR"), "/oxfs.mrc.rs"));
}

/// Object service for mounts.
pub mod osd {
    include!(concat!(env!("OUT_DIR"), "/oxfs.osd.rs"));
}

/// Between object servers.
pub mod peer {
    include!(concat!(env!("OUT_DIR"), "/oxfs.peer.rs"));
}

/// Between metadata servers.
pub mod raft {
    include!(concat!(env!("OUT_DIR"), "/oxfs.raft.rs"));
}

/// Records of a dump of the metadata.
pub mod dump {
    include!(concat!(env!("OUT_DIR"), "/oxfs.dump.rs"));
}

/// Stored metadata.
pub mod index {
    include!(concat!(env!("OUT_DIR"), "/oxfs.index.rs"));
}

mod convert;
