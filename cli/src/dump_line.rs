//! One line of a dump: a JSON object with named fields, whose `kind` says what it is.
//!
//! The names here are the format; docs/dump-format.md explains them. Nobody else decides on them: neither the
//! index nor what travels between programs.

use bytes::Bytes;
use proto::dump::{self, record::Kind};
use serde::{Deserialize, Serialize};

/// The format that this program writes, and the newest it reads.
pub(crate) const FORMAT: u64 = 1;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Line {
    Header(Header),
    Volume(Volume),
    Counters(Counters),
    Inode(Inode),
    Name(Name),
    Xattr(Xattr),
    Orphan(Orphan),
    Group(Group),
    ObjectServer(ObjectServer),
    Sequences(Sequences),
    Map(Map),
    Jobs(Jobs),
    Kept(Kept),
    End(End),
}

/// What the file is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) format: u64,
    pub(crate) cluster: String,
    /// Entry of the log that the dump is the state of.
    pub(crate) log_index: u64,
    /// Nanoseconds since 1970 UTC.
    pub(crate) time_ns: i64,
    /// Which release wrote it; for people.
    pub(crate) program: String,
}

/// That the file is whole.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    /// Lines between the first and this one.
    pub(crate) records: u64,
    /// Of all bytes before this line.
    pub(crate) sha256: String,
}

/// Bytes that are mostly text: a string if they are UTF-8, else `{"hex": "..."}`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Utf8(String),
    Other { hex: String },
}

impl From<Bytes> for Text {
    fn from(bytes: Bytes) -> Self {
        match String::from_utf8(bytes.to_vec()) {
            Ok(text) => Self::Utf8(text),
            Err(error) => Self::Other {
                hex: hex(error.as_bytes()),
            },
        }
    }
}

impl From<Text> for Bytes {
    fn from(text: Text) -> Self {
        match text {
            Text::Utf8(text) => text.into(),
            // It was looked at when it was read.
            Text::Other { hex } => of_hex(&hex).unwrap_or_default().into(),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self::Utf8(text)),
            serde_json::Value::Object(map) if map.len() == 1 => match map.get("hex") {
                Some(serde_json::Value::String(hex)) if of_hex(hex).is_some() => {
                    Ok(Self::Other { hex: hex.clone() })
                }
                _ => Err(D::Error::custom("bytes are a string or {\"hex\": \"...\"}")),
            },
            _ => Err(D::Error::custom("bytes are a string or {\"hex\": \"...\"}")),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _never = write!(text, "{byte:02x}");
        text
    })
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    digits
        .map(|two| u8::from_str_radix(two?, 16).ok())
        .collect()
}

/// Kind of an inode, as find(1) has it in words.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileType {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Character,
    Block,
    /// None of these: a damaged record of the index.
    Unknown,
}

const TYPES: [(FileType, u32); 7] = [
    (FileType::File, mrc_core::S_IFREG),
    (FileType::Directory, mrc_core::S_IFDIR),
    (FileType::Symlink, mrc_core::S_IFLNK),
    (FileType::Fifo, mrc_core::S_IFIFO),
    (FileType::Socket, mrc_core::S_IFSOCK),
    (FileType::Character, mrc_core::S_IFCHR),
    (FileType::Block, mrc_core::S_IFBLK),
];

impl From<u32> for FileType {
    fn from(bits: u32) -> Self {
        let found = TYPES.iter().find(|(_, known)| *known == bits);
        found.map_or(Self::Unknown, |(known, _)| *known)
    }
}

impl From<FileType> for u32 {
    fn from(of: FileType) -> Self {
        let found = TYPES.iter().find(|(known, _)| *known == of);
        found.map_or(0, |(_, bits)| *bits)
    }
}

/// A record whose fields have the same names on the wire.
macro_rules! records {
    ($($name:ident { $($field:ident: $type:ty),+ $(,)? })+) => {$(
        #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($field: $type),+
        }

        impl From<dump::$name> for $name {
            fn from(record: dump::$name) -> Self {
                Self { $($field: record.$field.into()),+ }
            }
        }

        impl From<$name> for dump::$name {
            fn from(record: $name) -> Self {
                Self { $($field: record.$field.into()),+ }
            }
        }
    )+};
}

records! {
    Volume {
        volume: u64,
        name: String,
        root_inode: u64,
        replicas: u32,
        groups: u32,
        write_policy: String,
        quorum: String,
        policy_version: u64,
        created_ns: i64,
        deleted: bool,
        quota_bytes: u64,
        quota_files: u64,
    }
    Counters {
        volume: u64,
        next_inode: u64,
        inode_count: u64,
        size_bytes: u64,
        groups: u32,
    }
    Inode {
        volume: u64,
        inode: u64,
        mode: u32,
        uid: u32,
        gid: u32,
        nlink: u32,
        size_bytes: u64,
        atime_ns: i64,
        mtime_ns: i64,
        ctime_ns: i64,
        rdev: u64,
        target: Text,
        group: u32,
        data_version: u64,
        parent: u64,
        xattr_names_bytes: u64,
        xattr_values_bytes: u64,
        has_object: bool,
        truncate_epoch: u64,
        content_lost: bool,
    }
    Name {
        volume: u64,
        parent: u64,
        name: Text,
        inode: u64,
        r#type: FileType,
    }
    Xattr {
        volume: u64,
        inode: u64,
        name: Text,
        value: Text,
    }
    Orphan {
        volume: u64,
        inode: u64,
        since_ns: i64,
    }
    Group {
        volume: u64,
        group: u32,
        view: u64,
        osds: Vec<u64>,
        incomplete: Vec<u64>,
        previous: Vec<u64>,
        settling: Vec<u64>,
    }
    ObjectServer {
        osd: u64,
        address: String,
        store_uuid: String,
        capacity_bytes: u64,
        dir: String,
        location: String,
        draining: bool,
    }
    Sequences {
        next_volume: u64,
        next_session: u64,
        next_garbage: u64,
    }
    Map {
        version: u64,
    }
    Jobs {
        paused: bool,
        limit_bytes_per_s: u64,
    }
}

/// Numbers whose objects are kept, each range as `[from, below]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    volume: u64,
    ranges: Vec<(u64, u64)>,
}

impl From<dump::Kept> for Kept {
    fn from(kept: dump::Kept) -> Self {
        let ranges = kept.ranges.iter().map(|range| (range.from, range.below));
        Self {
            volume: kept.volume,
            ranges: ranges.collect(),
        }
    }
}

impl From<Kept> for dump::Kept {
    fn from(kept: Kept) -> Self {
        let ranges = kept.ranges.into_iter();
        Self {
            volume: kept.volume,
            ranges: ranges
                .map(|(from, below)| dump::Range { from, below })
                .collect(),
        }
    }
}

impl Line {
    /// The line of a record; `None` if it is of a kind that this program does not know.
    pub(crate) fn of_record(record: dump::Record) -> Option<Self> {
        Some(match record.kind? {
            Kind::Volume(it) => Self::Volume(it.into()),
            Kind::Counters(it) => Self::Counters(it.into()),
            Kind::Inode(it) => Self::Inode(it.into()),
            Kind::Name(it) => Self::Name(it.into()),
            Kind::Xattr(it) => Self::Xattr(it.into()),
            Kind::Orphan(it) => Self::Orphan(it.into()),
            Kind::Group(it) => Self::Group(it.into()),
            Kind::ObjectServer(it) => Self::ObjectServer(it.into()),
            Kind::Sequences(it) => Self::Sequences(it.into()),
            Kind::Map(it) => Self::Map(it.into()),
            Kind::Jobs(it) => Self::Jobs(it.into()),
            Kind::Kept(it) => Self::Kept(it.into()),
        })
    }

    /// The record of a line; `None` of the first and the last.
    pub(crate) fn into_record(self) -> Option<dump::Record> {
        let kind = match self {
            Self::Header(_) | Self::End(_) => return None,
            Self::Volume(it) => Kind::Volume(it.into()),
            Self::Counters(it) => Kind::Counters(it.into()),
            Self::Inode(it) => Kind::Inode(it.into()),
            Self::Name(it) => Kind::Name(it.into()),
            Self::Xattr(it) => Kind::Xattr(it.into()),
            Self::Orphan(it) => Kind::Orphan(it.into()),
            Self::Group(it) => Kind::Group(it.into()),
            Self::ObjectServer(it) => Kind::ObjectServer(it.into()),
            Self::Sequences(it) => Kind::Sequences(it.into()),
            Self::Map(it) => Kind::Map(it.into()),
            Self::Jobs(it) => Kind::Jobs(it.into()),
            Self::Kept(it) => Kind::Kept(it.into()),
        };
        Some(dump::Record { kind: Some(kind) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(record: &dump::Record) -> String {
        let line = Line::of_record(record.clone()).unwrap();
        let text = serde_json::to_string(&line).unwrap();
        let read: Line = serde_json::from_str(&text).unwrap();
        assert_eq!(read, line, "{text}");
        assert_eq!(read.into_record().as_ref(), Some(record), "{text}");
        text
    }

    fn name(bytes: &[u8]) -> dump::Record {
        let name = dump::Name {
            volume: 1,
            parent: 2,
            name: Bytes::copy_from_slice(bytes),
            inode: u64::MAX,
            r#type: mrc_core::S_IFLNK,
        };
        dump::Record {
            kind: Some(Kind::Name(name)),
        }
    }

    #[test]
    fn names_of_any_bytes_survive() {
        for bytes in [
            &b"plain"[..],
            "gr\u{fc}n \u{1f600}".as_bytes(),
            b"\xff\xfe",
            b"half \xc3",
            b"\n\t\"\\\x01\x7f",
            b"{\"hex\": \"00\"}",
        ] {
            let text = round(&name(bytes));
            assert!(!text.contains('\n'), "one line: {text}");
        }
        let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        round(&name(&all));
    }

    #[test]
    fn line_is_as_the_documentation_shows_it() {
        assert_eq!(
            round(&name(b"a\xff")),
            r#"{"kind":"name","volume":1,"parent":2,"name":{"hex":"61ff"},"inode":18446744073709551615,"type":"symlink"}"#
        );
    }

    #[test]
    fn every_kind_survives() {
        let kinds = [
            Kind::Volume(dump::Volume {
                volume: 3,
                name: "home".to_owned(),
                created_ns: -1,
                deleted: true,
                quota_bytes: 1 << 40,
                quota_files: 1_000_000,
                ..dump::Volume::default()
            }),
            Kind::Counters(dump::Counters {
                next_inode: 9,
                ..dump::Counters::default()
            }),
            Kind::Inode(dump::Inode {
                mode: 0o100_644,
                target: Bytes::from_static(b"\x80"),
                content_lost: true,
                ..dump::Inode::default()
            }),
            Kind::Xattr(dump::Xattr {
                value: Bytes::from_static(&[0, 1, 255]),
                ..dump::Xattr::default()
            }),
            Kind::Orphan(dump::Orphan {
                since_ns: 5,
                ..dump::Orphan::default()
            }),
            Kind::Group(dump::Group {
                osds: vec![1, 2],
                previous: vec![3],
                ..dump::Group::default()
            }),
            Kind::ObjectServer(dump::ObjectServer {
                address: "a:1".to_owned(),
                draining: true,
                ..dump::ObjectServer::default()
            }),
            Kind::Sequences(dump::Sequences {
                next_volume: 2,
                next_session: 3,
                next_garbage: 4,
            }),
            Kind::Map(dump::Map { version: 7 }),
            Kind::Jobs(dump::Jobs {
                paused: true,
                limit_bytes_per_s: 1,
            }),
            Kind::Kept(dump::Kept {
                volume: 0,
                ranges: vec![dump::Range { from: 1, below: 9 }],
            }),
        ];
        for kind in kinds {
            round(&dump::Record { kind: Some(kind) });
        }
    }

    #[test]
    fn unknown_kinds_and_fields_missing_fields_and_odd_bytes_are_refused() {
        for (line, word) in [
            (r#"{"kind":"lock","volume":1}"#, "lock"),
            (r#"{"kind":"map","version":1,"colour":2}"#, "colour"),
            (
                r#"{"kind":"sequences","next_volume":1,"next_session":1}"#,
                "next_garbage",
            ),
            (r#"{"kind":"map","version":-1}"#, "-1"),
            (
                r#"{"kind":"xattr","volume":1,"inode":1,"name":{"hex":"0"},"value":""}"#,
                "hex",
            ),
            (
                r#"{"kind":"xattr","volume":1,"inode":1,"name":7,"value":""}"#,
                "string",
            ),
        ] {
            let error = serde_json::from_str::<Line>(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
