//! Keys of the flat index: a tag byte, then big-endian numbers, then a name.
//!
//! Big-endian numbers sort as numbers, so all entries of a volume, a directory or an inode stand
//! together and one scan of a prefix finds them.
//!
//! | tag | key | record |
//! |---|---|---|
//! | `a` | | position in the log, written by the shell with each batch |
//! | `d` | volume, parent inode, name | dentry |
//! | `f` | volume, inode, session | open for writing |
//! | `g` | osd, seq | garbage, per object server: each collects at its own pace, and one that is away for long is not in the way of the others |
//! | `i` | volume, inode | inode |
//! | `j` | | how replicas are brought to where they should be |
//! | `k` | nonce | session opened with it |
//! | `m` | | version of the OSD map |
//! | `n` | volume, 0 for the cluster | counters |
//! | `o` | osd | object server |
//! | `p` | volume, pg | placement group |
//! | `q` | | that the index was restored from a dump |
//! | `r` | volume, 0 for volumes | numbers whose objects are kept |
//! | `s` | session \[, slot\] | session, slot |
//! | `u` | volume, inode | orphan |
//! | `v` | volume | volume |
//! | `x` | volume, inode, name | xattr |
//!
//! `h` (history) and `l` (locks) are kept free for what will need them.

use std::ops::Range;

use bytes::Bytes;
use types::{Inode, OsdId, PgId, SessionId, VolumeId};

/// Where the shell keeps the position in the log that the index has reached.
pub const APPLIED: &[u8] = b"a";

/// How replicas are brought to where they should be.
pub const JOBS: &[u8] = b"j";

/// That the index was restored from a dump, and how far that is.
pub const RESTORE: &[u8] = b"q";

/// Version of the OSD map.
pub const MAP: &[u8] = b"m";

/// A key, taken apart.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Key {
    /// Position in the log.
    Applied,
    /// Entry of a directory.
    Dentry(VolumeId, Inode, Bytes),
    /// A session has an inode open for writing.
    Open(VolumeId, Inode, SessionId),
    /// Objects an object server should delete.
    Garbage(OsdId, u64),
    /// Inode.
    Inode(VolumeId, Inode),
    /// Session opened with a nonce.
    Nonce(u64),
    /// How replicas are brought to where they should be.
    Jobs,
    /// Version of the OSD map.
    Map,
    /// Counters of the cluster.
    Sequences,
    /// Counters of a volume.
    Counters(VolumeId),
    /// Object server.
    Osd(OsdId),
    /// Placement group.
    Pg(VolumeId, PgId),
    /// The index was restored from a dump.
    Restore,
    /// Numbers whose objects are kept; of volumes with the number 0.
    Kept(VolumeId),
    /// Session.
    Session(SessionId),
    /// Slot of a session.
    Slot(SessionId, u32),
    /// Inode without links.
    Orphan(VolumeId, Inode),
    /// Volume.
    Volume(VolumeId),
    /// Extended attribute.
    Xattr(VolumeId, Inode, Bytes),
}

impl Key {
    /// Puts a key together.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Applied => APPLIED.to_vec(),
            Self::Dentry(volume, parent, name) => dentry(*volume, *parent, name),
            Self::Open(volume, inode, session) => open(*volume, *inode, *session),
            Self::Garbage(osd, seq) => garbage(*osd, *seq),
            Self::Inode(volume, number) => inode(*volume, *number),
            Self::Nonce(number) => nonce(*number),
            Self::Jobs => JOBS.to_vec(),
            Self::Map => MAP.to_vec(),
            Self::Sequences => sequences(),
            Self::Counters(volume) => counters(*volume),
            Self::Osd(id) => osd(*id),
            Self::Pg(volume, id) => pg(*volume, *id),
            Self::Restore => RESTORE.to_vec(),
            Self::Kept(volume) => kept(*volume),
            Self::Session(id) => session(*id),
            Self::Slot(id, number) => slot(*id, *number),
            Self::Orphan(volume, number) => orphan(*volume, *number),
            Self::Volume(id) => volume(*id),
            Self::Xattr(volume, number, name) => xattr(*volume, *number, name),
        }
    }

    /// Takes a key apart; `None` if this program does not write such keys.
    #[must_use]
    pub fn decode(key: &[u8]) -> Option<Self> {
        let (tag, mut rest) = key.split_first()?;
        let decoded = match tag {
            b'a' => Self::Applied,
            b'j' => Self::Jobs,
            b'm' => Self::Map,
            b'q' => Self::Restore,
            b'd' => {
                let (volume, parent) = (VolumeId(number(&mut rest)?), Inode(number(&mut rest)?));
                return Some(Self::Dentry(volume, parent, Bytes::copy_from_slice(rest)));
            }
            b'x' => {
                let (volume, inode) = (VolumeId(number(&mut rest)?), Inode(number(&mut rest)?));
                return Some(Self::Xattr(volume, inode, Bytes::copy_from_slice(rest)));
            }
            b'f' => Self::Open(
                VolumeId(number(&mut rest)?),
                Inode(number(&mut rest)?),
                SessionId(number(&mut rest)?),
            ),
            b'g' => Self::Garbage(OsdId(number(&mut rest)?), number(&mut rest)?),
            b'i' => Self::Inode(VolumeId(number(&mut rest)?), Inode(number(&mut rest)?)),
            b'k' => Self::Nonce(number(&mut rest)?),
            b'n' => match number(&mut rest)? {
                0 => Self::Sequences,
                volume => Self::Counters(VolumeId(volume)),
            },
            b'o' => Self::Osd(OsdId(number(&mut rest)?)),
            b'p' => Self::Pg(VolumeId(number(&mut rest)?), PgId(small(&mut rest)?)),
            b'r' => Self::Kept(VolumeId(number(&mut rest)?)),
            b's' => {
                let session = SessionId(number(&mut rest)?);
                if rest.is_empty() {
                    Self::Session(session)
                } else {
                    Self::Slot(session, small(&mut rest)?)
                }
            }
            b'u' => Self::Orphan(VolumeId(number(&mut rest)?), Inode(number(&mut rest)?)),
            b'v' => Self::Volume(VolumeId(number(&mut rest)?)),
            _ => return None,
        };
        rest.is_empty().then_some(decoded)
    }
}

/// Key of a volume.
#[must_use]
pub fn volume(volume: VolumeId) -> Vec<u8> {
    key(b'v', &[volume.0], 0)
}

/// Key of an inode.
#[must_use]
pub fn inode(volume: VolumeId, inode: Inode) -> Vec<u8> {
    key(b'i', &[volume.0, inode.0], 0)
}

/// Key of a directory entry.
#[must_use]
pub fn dentry(volume: VolumeId, parent: Inode, name: &[u8]) -> Vec<u8> {
    let mut key = key(b'd', &[volume.0, parent.0], name.len());
    key.extend_from_slice(name);
    key
}

/// Key of an extended attribute.
#[must_use]
pub fn xattr(volume: VolumeId, inode: Inode, name: &[u8]) -> Vec<u8> {
    let mut key = key(b'x', &[volume.0, inode.0], name.len());
    key.extend_from_slice(name);
    key
}

/// Key of a placement group.
#[must_use]
pub fn pg(volume: VolumeId, pg: PgId) -> Vec<u8> {
    let mut key = key(b'p', &[volume.0], 4);
    key.extend_from_slice(&pg.0.to_be_bytes());
    key
}

/// Key of the numbers of a volume's inodes, or of volumes, whose objects are kept.
#[must_use]
pub fn kept(volume: VolumeId) -> Vec<u8> {
    key(b'r', &[volume.0], 0)
}

/// Key of an object server.
#[must_use]
pub fn osd(osd: OsdId) -> Vec<u8> {
    key(b'o', &[osd.0], 0)
}

/// Key of a session.
#[must_use]
pub fn session(session: SessionId) -> Vec<u8> {
    key(b's', &[session.0], 0)
}

/// Key of a session's slot.
#[must_use]
pub fn slot(session: SessionId, slot: u32) -> Vec<u8> {
    let mut key = key(b's', &[session.0], 4);
    key.extend_from_slice(&slot.to_be_bytes());
    key
}

/// Key of a session having an inode open for writing.
#[must_use]
pub fn open(volume: VolumeId, inode: Inode, session: SessionId) -> Vec<u8> {
    key(b'f', &[volume.0, inode.0, session.0], 0)
}

/// Key of one object server's garbage.
#[must_use]
pub fn garbage(osd: OsdId, seq: u64) -> Vec<u8> {
    key(b'g', &[osd.0, seq], 0)
}

/// Key of an orphan.
#[must_use]
pub fn orphan(volume: VolumeId, inode: Inode) -> Vec<u8> {
    key(b'u', &[volume.0, inode.0], 0)
}

/// Key of a volume's counters.
#[must_use]
pub fn counters(volume: VolumeId) -> Vec<u8> {
    key(b'n', &[volume.0], 0)
}

/// Key of the cluster's counters.
#[must_use]
pub fn sequences() -> Vec<u8> {
    // No volume has the number 0.
    key(b'n', &[0], 0)
}

/// Key that finds a session by its nonce.
#[must_use]
pub fn nonce(nonce: u64) -> Vec<u8> {
    key(b'k', &[nonce], 0)
}

/// All keys with a tag.
#[must_use]
pub fn all(tag: u8) -> Range<Vec<u8>> {
    prefix(vec![tag])
}

/// All keys with a tag and a first number: of a volume, a session, an object server.
#[must_use]
pub fn of(tag: u8, first: u64) -> Range<Vec<u8>> {
    prefix(key(tag, &[first], 0))
}

/// All keys with a tag and two numbers: of a directory, an inode.
#[must_use]
pub fn of_inode(tag: u8, volume: VolumeId, inode: Inode) -> Range<Vec<u8>> {
    prefix(key(tag, &[volume.0, inode.0], 0))
}

/// The first key greater than `key`.
#[must_use]
pub fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// All keys that begin with `prefix`.
fn prefix(prefix: Vec<u8>) -> Range<Vec<u8>> {
    let mut end = prefix.clone();
    // The tag is a letter, so some byte can always be raised.
    while let Some(last) = end.pop() {
        if let Some(raised) = last.checked_add(1) {
            end.push(raised);
            break;
        }
    }
    prefix..end
}

fn key(tag: u8, numbers: &[u64], more_bytes: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 8 * numbers.len() + more_bytes);
    key.push(tag);
    for number in numbers {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u64::from_be_bytes(*bytes))
}

fn small(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Key> {
        let (v, i, s) = (VolumeId(3), Inode(0x0102_0304_0506_0708), SessionId(9));
        let name = Bytes::from_static(b"\xff\x01name");
        vec![
            Key::Applied,
            Key::Dentry(v, i, name.clone()),
            Key::Open(v, i, s),
            Key::Garbage(OsdId(4), 77),
            Key::Inode(v, i),
            Key::Nonce(u64::MAX),
            Key::Jobs,
            Key::Map,
            Key::Sequences,
            Key::Counters(v),
            Key::Osd(OsdId(4)),
            Key::Pg(v, PgId(31)),
            Key::Restore,
            Key::Kept(VolumeId(0)),
            Key::Session(s),
            Key::Slot(s, 63),
            Key::Orphan(v, i),
            Key::Volume(v),
            Key::Xattr(v, i, name),
        ]
    }

    #[test]
    fn keys_round_trip_and_none_equals_another() {
        let mut encoded: Vec<_> = samples().iter().map(Key::encode).collect();

        for (key, bytes) in samples().iter().zip(&encoded) {
            assert_eq!(Key::decode(bytes).as_ref(), Some(key));
        }
        encoded.sort();
        encoded.dedup();
        assert_eq!(encoded.len(), samples().len());
    }

    #[test]
    fn foreign_and_truncated_keys_are_refused() {
        assert_eq!(Key::decode(b""), None);
        assert_eq!(Key::decode(b"z12345678"), None);
        for key in samples() {
            let bytes = key.encode();
            if bytes.len() > 1 {
                assert_ne!(Key::decode(&bytes[..bytes.len() - 1]), Some(key.clone()));
                assert_eq!(Key::decode(&bytes[..2]), None, "{key:?}");
            }
        }
        assert_eq!(Key::decode(b"i1234567812345678x"), None);
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let mut keys: Vec<_> = [0, 1, 255, 256, 65_536, u64::MAX]
            .map(|n| inode(VolumeId(1), Inode(n)))
            .into();
        let sorted = keys.clone();

        keys.sort();

        assert_eq!(keys, sorted);
    }

    #[test]
    fn prefix_covers_its_keys_and_no_others() {
        let range = of_inode(b'd', VolumeId(1), Inode(u64::MAX));

        assert!(range.contains(&dentry(VolumeId(1), Inode(u64::MAX), b"\xff\xff")));
        assert!(range.contains(&dentry(VolumeId(1), Inode(u64::MAX), b"")));
        assert!(!range.contains(&dentry(VolumeId(2), Inode(0), b"a")));
        assert!(!range.contains(&dentry(VolumeId(1), Inode(u64::MAX - 1), b"\xff")));
        assert!(all(b's').contains(&slot(SessionId(u64::MAX), u32::MAX)));
    }
}
