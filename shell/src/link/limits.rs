//! Limits of links, each with its reason.

use std::time::Duration;

/// Newest version of the messages that this release speaks.
pub const PROTOCOL_VERSION: u32 = 3;

/// Oldest version of the messages that this release still speaks. A release that raises
/// [`PROTOCOL_VERSION`] keeps the one before, so that servers can be upgraded one after the other; 3 is the first
/// that was ever upgraded from.
pub const PROTOCOL_VERSION_OLDEST: u32 = 3;

/// Largest body and payload of a message together: 4 MiB of file bytes, the largest read or write
/// that is sent as one, and room for everything around them.
pub const MESSAGE_BYTES_MAX: usize = 5 << 20;

/// What a message takes besides its body and payload, at most: eight field headers and a SHA-256.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 96;

/// Smaller payloads are not compressed. 1 KiB: those fit into one packet in any case.
pub(crate) const COMPRESS_BYTES_MIN: usize = 1024;

/// Grain in which zeros are looked for. 512: a sector; a run costs 8 bytes.
pub(crate) const HOLE_BLOCK_BYTES: usize = 512;

/// Zstandard's level. 1: the next ones cost twice the time for a few percent.
pub(crate) const ZSTD_LEVEL: i32 = 1;

/// How long requests are held back so that those before them are answered, when a connection is
/// replaced by one with other options. 500 ms: many times what answers take; those that take
/// longer are waited for in the background.
pub(crate) const HAND_OVER_PATIENCE: Duration = Duration::from_millis(500);

/// How often a connection that was replaced is looked at, and how long its end may take after its last
/// answer. 1 s: nobody waits for it.
pub(crate) const RETIRED_LOOK: Duration = Duration::from_secs(1);

/// Frames are filled up to this size; beyond it larger frames save nothing and delay the first
/// message in them. A larger message travels alone.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;

/// Frames are filled up to this many messages: at 256 the cost of a frame is shared well enough.
pub(crate) const FRAME_MESSAGES_MAX: usize = 256;

/// Largest encoded frame that is decoded: one largest message alone.
pub(crate) const FRAME_DECODE_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 4096;

/// HTTP/2 flow-control window of a stream: more than a largest message, so that none waits for a
/// window update in its middle.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// HTTP/2 flow-control window of a connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// HTTP/2 frame size: at the protocol's default of 16 KiB a 1 MiB payload is cut into 64 pieces.
pub(crate) const HTTP2_FRAME_BYTES: u32 = 1 << 20;

/// Deadlines are looked at this often at most, so they fire at most this late.
pub(crate) const DEADLINE_GRAIN: Duration = Duration::from_millis(5);

/// How long after the end of a cut, of whatever length, a link with default options is of use again
/// at most, on machines that are not overloaded. 2 s: an attempt to connect (half a second), the
/// pause before it, the handshake, and as much again for what is lost on the way.
pub const RESUME_MAX: Duration = Duration::from_secs(2);

/// How long a link rests after a refusal (wrong cluster, version or secret), which only an
/// operator can change.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// A connection that lived this long was a good one: the next attempt follows it at once.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Unanswered requests of one connection at the called end; more are refused with a retry. Twice
/// what a link of ours ever sends, so only a broken caller meets it.
pub(crate) const SERVER_IN_PROGRESS_MAX: usize = 32_768;

/// Bytes waiting to be written to one caller; a caller that does not read its replies is cut off.
pub(crate) const SERVER_QUEUE_BYTES_MAX: usize = 128 << 20;

/// How long a stopping server waits for its connections to end.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Settings of one link.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Unanswered requests at most; more fail with [`CallError::Full`](super::CallError::Full).
    /// Default 16,384: what a server needs to be busy, with room for bursts.
    pub in_flight_max: usize,
    /// Bytes queued for writing at most; more fail with `Full`. Default 64 MiB: a tenth of a
    /// second of a fast network.
    pub queue_bytes_max: usize,
    /// Time between the first two attempts to connect, doubled with each. Default 20 ms.
    pub backoff_min: Duration,
    /// Longest time between two attempts to connect. Default 500 ms: a restarted server is found
    /// within half a second, a dead one costs two attempts per second.
    pub backoff_max: Duration,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            in_flight_max: 16_384,
            queue_bytes_max: 64 << 20,
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
        }
    }
}
