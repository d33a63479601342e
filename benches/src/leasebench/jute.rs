//! The few messages of ZooKeeper's protocol that a lease needs, in its encoding ("jute"): integers
//! big-endian, strings and buffers behind their length, each message behind its length.

use anyhow::{Result, bail};

/// Protocol numbers of ZooKeeper's operations (`ZooDefs.OpCode`).
const CREATE: i32 = 1;
const DELETE: i32 = 2;
const PING: i32 = 11;
const CLOSE: i32 = -11;
/// The request number of pings, which ZooKeeper reserves.
pub(crate) const PING_XID: i32 = -2;
/// `CreateMode.EPHEMERAL`.
const EPHEMERAL: i32 = 1;
/// `ZooDefs.Perms.ALL`.
const ALL: i32 = 31;
/// Whatever the version of the node.
const ANY_VERSION: i32 = -1;
/// Largest message believed. Ours are answered by far smaller ones.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Appends messages to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// Asks for a new session of this length.
    pub(crate) fn connect(&mut self, timeout_ms: i32) {
        self.message(|w| {
            // Protocol version, last transaction seen, time, session id, password, read-only.
            w.int(0);
            w.long(0);
            w.int(timeout_ms);
            w.long(0);
            w.buffer(&[0; 16]);
            w.bytes.push(0);
        });
    }

    /// Creates an ephemeral node that anybody may use.
    pub(crate) fn create(&mut self, xid: i32, path: &str) {
        self.message(|w| {
            w.int(xid);
            w.int(CREATE);
            w.buffer(path.as_bytes());
            w.buffer(&[]);
            w.int(1);
            w.int(ALL);
            w.buffer(b"world");
            w.buffer(b"anyone");
            w.int(EPHEMERAL);
        });
    }

    pub(crate) fn delete(&mut self, xid: i32, path: &str) {
        self.message(|w| {
            w.int(xid);
            w.int(DELETE);
            w.buffer(path.as_bytes());
            w.int(ANY_VERSION);
        });
    }

    pub(crate) fn ping(&mut self) {
        self.message(|w| {
            w.int(PING_XID);
            w.int(PING);
        });
    }

    pub(crate) fn close(&mut self, xid: i32) {
        self.message(|w| {
            w.int(xid);
            w.int(CLOSE);
        });
    }

    fn message(&mut self, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.int(0);
        fill(self);
        let length = (self.bytes.len() - start - 4) as i32;
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    fn int(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn long(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn buffer(&mut self, bytes: &[u8]) {
        self.int(bytes.len() as i32);
        self.bytes.extend_from_slice(bytes);
    }
}

/// The head of a reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Reply {
    pub(crate) xid: i32,
    /// 0, or one of ZooKeeper's error codes.
    pub(crate) error: i32,
}

/// Takes the next whole message off the front of what was received.
pub(crate) fn split<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        bail!("ZooKeeper sent a message of {length} bytes");
    }
    let Some((message, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    *bytes = rest;
    Ok(Some(message))
}

/// Reads the head of a reply: number, transaction, error.
pub(crate) fn reply(message: &[u8]) -> Result<Reply> {
    match (int(message, 0), int(message, 12)) {
        (Some(xid), Some(error)) => Ok(Reply { xid, error }),
        _ => bail!("ZooKeeper sent a reply of {} bytes", message.len()),
    }
}

/// Reads the length of the session that was granted; 0 means refused.
pub(crate) fn connected(message: &[u8]) -> Result<i32> {
    match int(message, 4) {
        Some(timeout_ms) => Ok(timeout_ms),
        None => bail!(
            "ZooKeeper answered a connection with {} bytes",
            message.len()
        ),
    }
}

fn int(message: &[u8], at: usize) -> Option<i32> {
    let bytes = message.get(at..at + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_is_encoded_as_the_java_client_does() {
        let mut writer = Writer::default();

        writer.create(7, "/a");

        let mut expected = vec![0, 0, 0, 56];
        expected.extend([0, 0, 0, 7, 0, 0, 0, 1]);
        expected.extend([0, 0, 0, 2, b'/', b'a']);
        expected.extend([0, 0, 0, 0]);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 31]);
        expected.extend([0, 0, 0, 5]);
        expected.extend(b"world");
        expected.extend([0, 0, 0, 6]);
        expected.extend(b"anyone");
        expected.extend([0, 0, 0, 1]);
        expected[3] = (expected.len() - 4) as u8;
        assert_eq!(writer.bytes, expected);
    }

    #[test]
    fn messages_follow_each_other_and_split_again() {
        let mut writer = Writer::default();
        writer.ping();
        writer.delete(8, "/a");
        let whole = writer.bytes.clone();

        let mut rest = whole.as_slice();
        assert_eq!(split(&mut rest).unwrap().map(<[u8]>::len), Some(8));
        assert_eq!(split(&mut rest).unwrap().map(<[u8]>::len), Some(18));
        assert_eq!(split(&mut rest).unwrap(), None);
        assert!(rest.is_empty());
    }

    #[test]
    fn part_of_a_message_waits_for_the_rest_and_absurd_lengths_are_refused() {
        let mut writer = Writer::default();
        writer.connect(4000);
        for cut in 0..writer.bytes.len() {
            let mut part = &writer.bytes[..cut];
            assert_eq!(split(&mut part).unwrap(), None);
            assert_eq!(part.len(), cut);
        }

        assert!(split(&mut [0x7f, 0xff, 0xff, 0xff, 0].as_slice()).is_err());
        assert!(split(&mut [0xff, 0xff, 0xff, 0xff, 0].as_slice()).is_err());
    }

    #[test]
    fn replies_give_number_and_error() {
        let mut message = vec![0, 0, 0, 9];
        message.extend([0; 8]);
        message.extend((-110_i32).to_be_bytes());

        let read = reply(&message).unwrap();

        assert_eq!((read.xid, read.error), (9, -110));
        assert!(reply(&message[..15]).is_err());
        assert_eq!(connected(&[0, 0, 0, 0, 0, 0, 0x0f, 0xa0]).unwrap(), 4000);
    }
}
