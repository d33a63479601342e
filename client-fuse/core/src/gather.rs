//! The buffer in which small writes that touch each other become one.

use bytes::{Bytes, BytesMut};
use types::Instant;

/// Bytes not sent yet, contiguous in the file.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) offset: u64,
    pub(crate) since: Instant,
    bytes: BytesMut,
}

impl Gather {
    /// `expected_bytes`: how much will come, as far as one can guess.
    pub(crate) fn new(now: Instant, offset: u64, expected_bytes: usize) -> Self {
        Self {
            offset,
            since: now,
            bytes: BytesMut::with_capacity(expected_bytes),
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether bytes at `offset` overwrite or continue what is here.
    pub(crate) fn touches(&self, offset: u64) -> bool {
        (self.offset..=self.end()).contains(&offset)
    }

    /// Takes bytes that [`Gather::touches`].
    pub(crate) fn put(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset - self.offset).unwrap_or(usize::MAX);
        let over = data.len().min(self.bytes.len().saturating_sub(at));
        let (overwriting, continuing) = data.split_at(over);
        if let Some(old) = self.bytes.get_mut(at..at + over) {
            old.copy_from_slice(overwriting);
        }
        self.bytes.extend_from_slice(continuing);
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}
