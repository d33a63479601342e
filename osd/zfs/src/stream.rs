//! How a stream between two pools is written, and the handle by which others watch and cancel it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::process::Killer;

/// How long a transfer may stand still because of ZFS. 600 s: freeing what an increment deleted, or a
/// pool under a resilver, makes it silent for minutes.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(600);

/// Bytes of a piece of a stream. 128 KiB: the largest block that all versions have.
pub(crate) const CHUNK_BYTES: usize = 128 << 10;

/// Pieces between the caller and the program. 4: enough that neither waits for the other's every step.
pub(crate) const CHUNKS: usize = 4;

/// How a stream is written. Both ends must be able to read it: see [`StreamOptions::shared`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StreamOptions {
    /// Blocks larger than 128 KiB travel whole.
    pub large_blocks: bool,
    /// Blocks travel compressed as they are stored.
    pub compressed: bool,
}

impl StreamOptions {
    /// What both of two pools can do.
    #[must_use]
    pub const fn shared(self, other: Self) -> Self {
        Self {
            large_blocks: self.large_blocks && other.large_blocks,
            compressed: self.compressed && other.compressed,
        }
    }

    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        let large = self.large_blocks.then_some("-L");
        large.into_iter().chain(self.compressed.then_some("-c"))
    }
}

/// Where a receive that was cut can go on; made by the receiver, used by the sender.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResumeToken(String);

impl ResumeToken {
    /// Checks a token that came from elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] if it has other characters than letters, digits and `-`, or begins with `-`.
    pub fn new(token: &str) -> Result<Self, Error> {
        // 64 KiB: tokens have some hundred bytes, more with redaction lists.
        let is_token = (1..=64 << 10).contains(&token.len())
            && !token.starts_with('-')
            && token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_token {
            return Err(Error::BadName {
                name: token.chars().take(80).collect(),
            });
        }
        Ok(Self(token.to_owned()))
    }

    /// The token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Watches a transfer and cancels it, from any thread.
#[derive(Clone)]
pub struct TransferHandle {
    shared: Arc<Shared>,
    killer: Killer,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    is_cancelled: AtomicBool,
}

impl TransferHandle {
    pub(crate) fn new(killer: Killer) -> Self {
        Self {
            shared: Arc::default(),
            killer,
        }
    }

    /// Bytes that the sender's program has given, or that the receiver's has taken.
    #[must_use]
    pub fn transferred_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Kills the program. The transfer's owner gets [`Error::Cancelled`] from what it does next; a
    /// receiver should then call [`crate::Receiving::cancel`], which removes what is left.
    pub fn cancel(&self) {
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
        self.killer.kill();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.shared.is_cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.shared.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for TransferHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_ends_can_is_used() {
        let all = StreamOptions {
            large_blocks: true,
            compressed: true,
        };
        let large = StreamOptions {
            compressed: false,
            ..all
        };

        assert_eq!(all.shared(large), large);
        assert_eq!(all.words().collect::<Vec<_>>(), ["-L", "-c"]);
        assert_eq!(StreamOptions::default().words().count(), 0);
    }

    #[test]
    fn tokens_can_not_be_options() {
        assert!(ResumeToken::new("1-bf31b879a-b8-789c636064000310a500c4").is_ok());
        for token in ["", "-n", "1-b f", "1;x"] {
            assert!(ResumeToken::new(token).is_err(), "{token}");
        }
    }
}
