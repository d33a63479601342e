//! File bytes and their checksum, as they travel.

use bytes::Bytes;
use types::Fault;

/// File bytes with the CRC-32C their first owner computed; checked where the bytes are used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Payload {
    /// The bytes.
    pub bytes: Bytes,
    /// Their CRC-32C (RFC 3720 appendix B.4); absent if both ends agreed not to check.
    pub crc32c: Option<u32>,
}

impl Payload {
    /// No bytes.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            bytes: Bytes::new(),
            crc32c: None,
        }
    }

    /// These bytes, with their checksum computed here.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        Self {
            crc32c: Some(crc32c::crc32c(&bytes)),
            bytes,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes, after checking them.
    ///
    /// # Errors
    ///
    /// A fault to retry if they changed on their way.
    pub fn verified(self) -> Result<Bytes, Fault> {
        if self.crc32c.is_none() {
            return Ok(self.bytes);
        }
        self.verified_with_sum().map(|(bytes, _)| bytes)
    }

    /// The bytes, after checking them, and their CRC-32C in any case.
    ///
    /// # Errors
    ///
    /// As [`verified`](Self::verified).
    pub fn verified_with_sum(self) -> Result<(Bytes, u32), Fault> {
        let found = crc32c::crc32c(&self.bytes);
        let expected = self.crc32c.unwrap_or(found);
        if found == expected {
            return Ok((self.bytes, found));
        }
        Err(Fault::retry(format!(
            "{} bytes changed on their way: their CRC-32C is {found:08x} instead of {:08x}; \
             if this repeats, check the memory and network of the two machines",
            self.bytes.len(),
            expected
        )))
    }
}
