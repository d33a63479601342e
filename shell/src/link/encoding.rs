//! How payloads look on the wire: compressed, summed, or as they are.
//!
//! The caller's options hold for both directions of a connection; they are told in the handshake,
//! and a value the server does not know is refused there. Every message says by itself how it is
//! encoded, so a message queued under other options than its connection's is read all the same.

use std::cell::RefCell;

use bytes::{BufMut as _, Bytes, BytesMut};
use proto::link::{Encoding, Message};
use sha2::{Digest as _, Sha256};
use types::Fault;

use super::limits::{COMPRESS_BYTES_MIN, HOLE_BLOCK_BYTES, MESSAGE_BYTES_MAX, ZSTD_LEVEL};
use super::options::{Checksum, Compression};
use super::payload::Payload;

/// What both ends of a connection have agreed on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Agreed {
    pub(crate) compression: Compression,
    pub(crate) checksum: Checksum,
}

/// A payload as it travels.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    bytes: Bytes,
    crc32c: u32,
    encoding: Encoding,
    plain_bytes: u32,
    sha256: Bytes,
}

thread_local! {
    /// Where compressors write before the result's size is known.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Encodes a payload as agreed; one that would not become smaller stays as it is.
pub(crate) fn pack(payload: Payload, agreed: Agreed) -> Packed {
    if payload.bytes.is_empty() {
        return Packed::default();
    }
    // The sum of plain bytes travels in any case: who has no use for it does not look at it.
    let crc32c = payload
        .crc32c
        .unwrap_or_else(|| crc32c::crc32c(&payload.bytes));
    let plain = payload.bytes;
    let plain_bytes = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    let (bytes, encoding) = match compressed(&plain, agreed.compression) {
        Some((smaller, encoding)) => (smaller, encoding),
        None => (plain, Encoding::Plain),
    };
    let sha256 = match agreed.checksum {
        Checksum::Sha256 => Bytes::copy_from_slice(&Sha256::digest(&bytes)),
        Checksum::Crc32c | Checksum::None => Bytes::new(),
    };
    Packed {
        bytes,
        crc32c,
        encoding,
        plain_bytes,
        sha256,
    }
}

impl Packed {
    /// Puts it into a message.
    pub(crate) fn into_message(self, message: &mut Message) {
        message.payload_encoding = self.encoding.into();
        if self.encoding != Encoding::Plain {
            message.payload_plain_bytes = self.plain_bytes;
        }
        message.payload = self.bytes;
        message.payload_crc32c = self.crc32c;
        message.payload_sha256 = self.sha256;
    }
}

/// Takes the payload out of a message: checks what travelled and decodes it.
///
/// # Errors
///
/// A fault to retry if it changed on its way; one to surface if it is encoded in an unknown way.
pub(crate) fn unpack(message: &mut Message, agreed: Agreed) -> Result<Payload, Fault> {
    let bytes = std::mem::take(&mut message.payload);
    if bytes.is_empty() {
        return Ok(Payload::none());
    }
    if !message.payload_sha256.is_empty()
        && Sha256::digest(&bytes)[..] != message.payload_sha256[..]
    {
        return Err(Fault::retry(format!(
            "{} bytes changed on their way: their SHA-256 is another; if this repeats, check the \
             memory and network of the two machines",
            bytes.len()
        )));
    }
    let plain_bytes = usize::try_from(message.payload_plain_bytes).unwrap_or(usize::MAX);
    let plain = match Encoding::try_from(message.payload_encoding) {
        Ok(Encoding::Plain) => Some(bytes),
        Ok(_) if plain_bytes > MESSAGE_BYTES_MAX => None,
        Ok(Encoding::Hole) => holes_filled(&bytes, plain_bytes),
        Ok(Encoding::Lz4) => lz4_flex::block::decompress(&bytes, plain_bytes)
            .ok()
            .map(Bytes::from),
        Ok(Encoding::Zstd) => zstd::bulk::decompress(&bytes, plain_bytes)
            .ok()
            .map(Bytes::from),
        Err(_) => {
            // 71: EPROTO.
            return Err(Fault::surface(
                71,
                format!(
                    "a payload is encoded in the unknown way {}; run the same release on both \
                     machines",
                    message.payload_encoding
                ),
            ));
        }
    };
    let plain = plain.filter(|plain| {
        message.payload_encoding == i32::from(Encoding::Plain) || plain.len() == plain_bytes
    });
    let Some(bytes) = plain else {
        return Err(Fault::retry(
            "a compressed payload changed on its way and can't be decoded; if this repeats, check \
             the memory and network of the two machines",
        ));
    };
    let crc32c = match agreed.checksum {
        Checksum::None => None,
        Checksum::Crc32c | Checksum::Sha256 => Some(message.payload_crc32c),
    };
    Ok(Payload { bytes, crc32c })
}

/// The bytes in fewer bytes, if that is wanted, worth it and possible.
fn compressed(plain: &[u8], compression: Compression) -> Option<(Bytes, Encoding)> {
    if plain.len() < COMPRESS_BYTES_MIN {
        return None;
    }
    match compression {
        Compression::None => None,
        Compression::Hole => Some((without_holes(plain)?, Encoding::Hole)),
        Compression::Lz4 => {
            let room = lz4_flex::block::get_maximum_output_size(plain.len());
            let smaller = smaller_than(plain, room, |scratch| {
                lz4_flex::block::compress_into(plain, scratch).ok()
            })?;
            Some((smaller, Encoding::Lz4))
        }
        Compression::Zstd => {
            // Less room than the plain bytes take: the compressor gives up by itself.
            let smaller = smaller_than(plain, plain.len() - 1, |scratch| {
                zstd::bulk::compress_to_buffer(plain, scratch, ZSTD_LEVEL).ok()
            })?;
            Some((smaller, Encoding::Zstd))
        }
    }
}

fn smaller_than(
    plain: &[u8],
    room: usize,
    compress: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Option<Bytes> {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < room {
            scratch.resize(room, 0);
        }
        let size = compress(scratch.get_mut(..room)?)?;
        if size >= plain.len() {
            return None;
        }
        scratch.get(..size).map(Bytes::copy_from_slice)
    })
}

/// Bytes before each run that is not zero: how long the zeros before it are, and it itself.
const RUN_HEADER_BYTES: usize = 8;

/// Runs of `(zeros: u32, length: u32, bytes)`, little-endian; zeros at the end are left to the
/// plain length. `None` if that would save nothing.
fn without_holes(plain: &[u8]) -> Option<Bytes> {
    let mut out = BytesMut::new();
    let (mut zeros, mut run) = (0_u32, 0_usize..0_usize);
    let flush = |zeros: u32, run: &std::ops::Range<usize>, out: &mut BytesMut| {
        let bytes = plain.get(run.clone())?;
        if out.len() + RUN_HEADER_BYTES + bytes.len() >= plain.len() {
            return None;
        }
        out.put_u32_le(zeros);
        out.put_u32_le(u32::try_from(bytes.len()).ok()?);
        out.put_slice(bytes);
        Some(())
    };
    for (number, block) in plain.chunks(HOLE_BLOCK_BYTES).enumerate() {
        let begin = number * HOLE_BLOCK_BYTES;
        if is_zero(block) {
            if !run.is_empty() {
                flush(zeros, &run, &mut out)?;
                zeros = 0;
            }
            run = 0..0;
            zeros += u32::try_from(block.len()).ok()?;
        } else if run.is_empty() {
            run = begin..begin + block.len();
        } else {
            run.end = begin + block.len();
        }
    }
    if !run.is_empty() {
        flush(zeros, &run, &mut out)?;
    }
    // A message without bytes says that there are none.
    if out.is_empty() {
        flush(0, &(0..0), &mut out)?;
    }
    Some(out.freeze())
}

/// The other direction. `None` if it is not of the form [`without_holes`] writes.
fn holes_filled(mut encoded: &[u8], plain_bytes: usize) -> Option<Bytes> {
    let mut plain = BytesMut::zeroed(plain_bytes);
    let mut at = 0_usize;
    while !encoded.is_empty() {
        let (zeros, rest) = encoded.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let bytes = rest.get(..length)?;
        at = at.checked_add(u32::from_le_bytes(*zeros) as usize)?;
        let end = at.checked_add(length)?;
        plain.get_mut(at..end)?.copy_from_slice(bytes);
        at = end;
        encoded = rest.get(length..)?;
    }
    Some(plain.freeze())
}

/// Whether all bytes are zero; looks at many at once.
fn is_zero(block: &[u8]) -> bool {
    block
        .chunks(64)
        .all(|part| part.iter().fold(0, |any, byte| any | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(plain: &[u8], compression: Compression, checksum: Checksum) -> (Message, Agreed) {
        let agreed = Agreed {
            compression,
            checksum,
        };
        let mut message = Message::default();
        pack(Payload::of(Bytes::copy_from_slice(plain)), agreed).into_message(&mut message);
        (message, agreed)
    }

    /// Text, zeros, holes in between, and bytes without any order.
    fn samples() -> Vec<Vec<u8>> {
        let text = "the quick brown fox jumps over the lazy dog\n".repeat(2000);
        let noise: Vec<u8> = (0..100_000).map(|_| rand::random()).collect();
        let mut holes = vec![0; 200_000];
        holes[5_000..9_100].fill(7);
        holes[70_000..70_001].fill(1);
        holes[199_999] = 9;
        let mut end = noise.clone();
        end.extend([0; 10_000]);
        vec![
            text.into_bytes(),
            noise,
            holes,
            end,
            vec![0; 1 << 20],
            vec![0; COMPRESS_BYTES_MIN + 1],
            vec![3; COMPRESS_BYTES_MIN - 1],
            vec![1],
            Vec::new(),
        ]
    }

    #[test]
    fn every_encoding_gives_back_the_bytes_and_none_grows() {
        for compression in Compression::ALL {
            for checksum in Checksum::ALL {
                for plain in samples() {
                    let (mut message, agreed) = message(&plain, compression, checksum);
                    assert!(message.payload.len() <= plain.len(), "{compression} grew");

                    let payload = unpack(&mut message, agreed).unwrap();

                    let name = format!("{compression} {checksum} {}", plain.len());
                    let unsummed = checksum == Checksum::None || plain.is_empty();
                    assert_eq!(payload.crc32c.is_none(), unsummed, "{name}");
                    assert!(payload.verified().unwrap() == plain, "{name}");
                }
            }
        }
    }

    #[test]
    fn zeros_and_text_become_small_and_noise_and_little_messages_are_left_alone() {
        for compression in [Compression::Hole, Compression::Lz4, Compression::Zstd] {
            let (zeros, _) = message(&[0; 1 << 20], compression, Checksum::Crc32c);
            assert!(
                zeros.payload.len() < 8192,
                "{compression}: {}",
                zeros.payload.len()
            );
            let (small, _) = message(&[0; COMPRESS_BYTES_MIN - 1], compression, Checksum::Crc32c);
            assert_eq!(
                small.payload_encoding,
                i32::from(Encoding::Plain),
                "{compression}"
            );
            let (noise, _) = message(&samples()[1], compression, Checksum::Crc32c);
            assert_eq!(
                noise.payload_encoding,
                i32::from(Encoding::Plain),
                "{compression}"
            );
        }
        for compression in [Compression::Lz4, Compression::Zstd] {
            let text = &samples()[0];
            let (packed, _) = message(text, compression, Checksum::Crc32c);
            assert!(packed.payload.len() * 10 < text.len(), "{compression}");
        }
    }

    #[test]
    fn changed_bytes_are_noticed_under_every_checksum_but_none() {
        let plain = samples().swap_remove(1);
        for checksum in Checksum::ALL {
            let (mut message, agreed) = message(&plain, Compression::None, checksum);
            let mut bytes = message.payload.to_vec();
            bytes[70_000] ^= 1;
            message.payload = bytes.into();

            let outcome = unpack(&mut message, agreed).and_then(Payload::verified);

            assert_eq!(outcome.is_ok(), checksum == Checksum::None, "{checksum}");
        }
    }

    #[test]
    fn broken_encodings_are_faults_and_take_no_more_memory_than_a_message() {
        for compression in [Compression::Hole, Compression::Lz4, Compression::Zstd] {
            let (good, agreed) = message(&samples()[2], compression, Checksum::Crc32c);
            for cut in [1, good.payload.len() / 2, good.payload.len() - 1] {
                let mut broken = good.clone();
                broken.payload = good.payload.slice(..cut);
                let outcome = unpack(&mut broken, agreed).and_then(Payload::verified);
                assert!(outcome.is_err(), "{compression} {cut}");
            }
            for size in [u32::MAX, 1] {
                let mut broken = good.clone();
                broken.payload_plain_bytes = size;
                assert!(unpack(&mut broken, agreed).is_err(), "{compression} {size}");
            }
        }
        let mut unknown = Message {
            payload: Bytes::from_static(b"x"),
            payload_encoding: 99,
            ..Message::default()
        };
        let fault = unpack(&mut unknown, Agreed::default()).unwrap_err();
        assert!(
            fault.message.contains("unknown way 99"),
            "{}",
            fault.message
        );
    }
}
