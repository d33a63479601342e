//! Capabilities: signed, expiring rights to do I/O on one file.
//!
//! The metadata cluster issues them, object servers verify them with the cluster's secret and
//! nothing else, so that I/O never waits for the metadata cluster.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::{ClusterId, Inode, PgId, SessionId, VolumeId};
use crate::time::UnixNanos;

/// What the holder may do with the file's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rights {
    /// Read only.
    Read,
    /// Read, write, truncate and sync.
    Write,
}

/// The cluster's shared secret. Its text form is 64 hexadecimal digits; it is never printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret([u8; 32]);

/// Text that is no secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the cluster secret is {length} characters long or not hexadecimal; it must be 64 hexadecimal digits"
)]
pub struct SecretError {
    /// Characters found.
    pub length: usize,
}

impl Secret {
    /// From 32 random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// From 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`SecretError`] for any other text.
    pub fn from_hex(text: &str) -> Result<Self, SecretError> {
        let error = SecretError { length: text.len() };
        if text.len() != 64 || !text.is_ascii() {
            return Err(error);
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte =
                u8::from_str_radix(text.get(at..at + 2).ok_or(error)?, 16).map_err(|_| error)?;
        }
        Ok(Self(bytes))
    }

    /// As 64 hexadecimal digits, for the secret's file.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// HMAC-SHA-256 (RFC 2104) of `message`, for capabilities and for proving membership.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 32] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Whether `tag` is the first bytes (at least 16) of `message`'s signature, in constant time.
    #[must_use]
    pub fn verify(&self, message: &[u8], tag: &[u8]) -> bool {
        tag.len() >= 16 && self.mac(message).verify_truncated_left(tag).is_ok()
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        // A 32-byte key is always accepted: RFC 2104 takes keys of any length.
        #[expect(clippy::expect_used, reason = "HMAC has no invalid key length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key length");
        mac.update(message);
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The right to do I/O on one file until a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capability {
    /// Cluster that issued it.
    pub cluster: ClusterId,
    /// Volume of the file.
    pub volume: VolumeId,
    /// The file.
    pub inode: Inode,
    /// Placement group its objects live in.
    pub pg: PgId,
    /// Session it was issued to.
    pub session: SessionId,
    /// What it allows.
    pub rights: Rights,
    /// When it ends, by the issuer's wall clock.
    pub expires: UnixNanos,
}

/// A capability that an object server refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// Not [`Capability::ENCODED_BYTES`] long or of an unknown version.
    #[error("capability of {length} bytes is malformed; ask the metadata cluster for a new one")]
    Malformed {
        /// Bytes found.
        length: usize,
    },
    /// The signature is not the cluster's.
    #[error(
        "capability is not signed with this cluster's secret; check that all servers share one secret"
    )]
    Forged,
    /// Its time is over.
    #[error("capability expired {ago_ms} ms ago; ask the metadata cluster for a new one")]
    Expired {
        /// Milliseconds since the end.
        ago_ms: u64,
    },
}

const VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 1 + 16 + 8 + 8 + 4 + 8 + 8;
const TAG_BYTES: usize = 16;

impl Capability {
    /// Length of every encoded capability.
    pub const ENCODED_BYTES: usize = BODY_BYTES + TAG_BYTES;

    /// Encodes and signs: version, rights, fields little-endian, then 16 bytes of HMAC-SHA-256.
    #[must_use]
    pub fn seal(&self, secret: &Secret) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::ENCODED_BYTES);
        bytes.push(VERSION);
        bytes.push(match self.rights {
            Rights::Read => 1,
            Rights::Write => 2,
        });
        bytes.extend_from_slice(&self.cluster.0.to_le_bytes());
        bytes.extend_from_slice(&self.volume.0.to_le_bytes());
        bytes.extend_from_slice(&self.inode.0.to_le_bytes());
        bytes.extend_from_slice(&self.pg.0.to_le_bytes());
        bytes.extend_from_slice(&self.session.0.to_le_bytes());
        bytes.extend_from_slice(&self.expires.0.to_le_bytes());
        let tag = secret.sign(&bytes);
        bytes.extend_from_slice(tag.get(..TAG_BYTES).unwrap_or(&tag));
        bytes
    }

    /// Checks the signature and the expiry of an encoded capability and decodes it.
    ///
    /// # Errors
    ///
    /// Each variant of [`CapabilityError`]; the signature is checked before anything is believed.
    pub fn open(bytes: &[u8], secret: &Secret, now: UnixNanos) -> Result<Self, CapabilityError> {
        let malformed = CapabilityError::Malformed {
            length: bytes.len(),
        };
        if bytes.len() != Self::ENCODED_BYTES {
            return Err(malformed);
        }
        let (body, tag) = bytes.split_at(BODY_BYTES);
        if !secret.verify(body, tag) {
            return Err(CapabilityError::Forged);
        }
        let capability = Self::decode(body).ok_or(malformed)?;
        if capability.expires <= now {
            let ago_ns = now.0.saturating_sub(capability.expires.0).unsigned_abs();
            return Err(CapabilityError::Expired {
                ago_ms: ago_ns / 1_000_000,
            });
        }
        Ok(capability)
    }

    /// The session an encoded capability was issued to, for its owner, who can't check and need not
    /// believe it.
    #[must_use]
    pub fn session_of(bytes: &[u8]) -> Option<SessionId> {
        let (body, _) = bytes.split_at_checked(BODY_BYTES)?;
        Some(Self::decode(body)?.session)
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
            let (head, rest) = from.split_first_chunk::<N>()?;
            *from = rest;
            Some(*head)
        }
        let [version, rights] = take::<2>(&mut body)?;
        let rights = match (version, rights) {
            (VERSION, 1) => Rights::Read,
            (VERSION, 2) => Rights::Write,
            _ => return None,
        };
        Some(Self {
            rights,
            cluster: ClusterId(u128::from_le_bytes(take(&mut body)?)),
            volume: VolumeId(u64::from_le_bytes(take(&mut body)?)),
            inode: Inode(u64::from_le_bytes(take(&mut body)?)),
            pg: PgId(u32::from_le_bytes(take(&mut body)?)),
            session: SessionId(u64::from_le_bytes(take(&mut body)?)),
            expires: UnixNanos(i64::from_le_bytes(take(&mut body)?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability() -> Capability {
        Capability {
            cluster: ClusterId(7),
            volume: VolumeId(1),
            inode: Inode(42),
            pg: PgId(3),
            session: SessionId(9),
            rights: Rights::Write,
            expires: UnixNanos(1_000_000_000),
        }
    }

    #[test]
    fn sealed_capability_opens_to_the_same_fields() {
        let secret = Secret::from_bytes([5; 32]);

        let sealed = capability().seal(&secret);

        assert_eq!(sealed.len(), Capability::ENCODED_BYTES);
        assert_eq!(
            Capability::open(&sealed, &secret, UnixNanos(0)),
            Ok(capability())
        );
    }

    #[test]
    fn every_flipped_bit_is_a_forgery() {
        let secret = Secret::from_bytes([5; 32]);
        let sealed = capability().seal(&secret);

        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let opened = Capability::open(&forged, &secret, UnixNanos(0));
            assert_eq!(opened, Err(CapabilityError::Forged), "bit {bit}");
        }
    }

    #[test]
    fn another_secret_a_late_clock_and_a_cut_are_refused() {
        let secret = Secret::from_bytes([5; 32]);
        let sealed = capability().seal(&secret);

        let other = Secret::from_bytes([6; 32]);
        assert_eq!(
            Capability::open(&sealed, &other, UnixNanos(0)),
            Err(CapabilityError::Forged)
        );
        assert_eq!(
            Capability::open(&sealed, &secret, UnixNanos(3_000_000_000)),
            Err(CapabilityError::Expired { ago_ms: 2_000 })
        );
        assert_eq!(
            Capability::open(&sealed[1..], &secret, UnixNanos(0)),
            Err(CapabilityError::Malformed {
                length: Capability::ENCODED_BYTES - 1
            })
        );
    }

    #[test]
    fn secret_round_trips_as_hex_and_hides_in_debug() {
        let secret = Secret::from_bytes([0xab; 32]);

        assert_eq!(Secret::from_hex(&secret.to_hex()), Ok(secret.clone()));
        assert_eq!(Secret::from_hex("abc"), Err(SecretError { length: 3 }));
        assert!(!format!("{secret:?}").contains("ab"));
    }
}
