//! A metadata server without a network: an index in memory and the commands it was given.

use std::collections::BTreeMap;

use bytes::Bytes;
use mrc_core::{
    Index, IndexRead, MemoryIndex, Outcome, Overlay, Reply, Visit, apply, check, internal, query,
};
use proto::index::command::Op;
use proto::index::{self, Command};
use proto::mrc::{self, Attr, Owner, request, response};
use types::{UnixNanos, VolumeId};

/// The first volume of every cluster here.
pub(crate) const VOLUME: VolumeId = VolumeId(1);
/// Its root directory.
pub(crate) const ROOT: u64 = 1;
/// Who owns what the tests make.
pub(crate) const OWNER: Owner = Owner {
    uid: 1000,
    gid: 100,
};

pub(crate) struct Cluster {
    pub(crate) index: MemoryIndex,
    /// Time of the last command; each is one nanosecond later.
    pub(crate) now: i64,
    /// All commands so far.
    pub(crate) log: Vec<Command>,
    slots: BTreeMap<(u64, u32), u64>,
}

impl Cluster {
    /// No servers, no volume.
    pub(crate) fn empty() -> Self {
        Self {
            index: MemoryIndex::new(),
            now: 1_000_000,
            log: Vec::new(),
            slots: BTreeMap::new(),
        }
    }

    /// Three object servers, a volume, and one session in it.
    pub(crate) fn new() -> (Self, u64) {
        let mut cluster = Self::empty();
        for osd in 1..=3 {
            cluster.register(osd, &format!("uuid-{osd}")).unwrap();
        }
        cluster.create_volume("default").unwrap();
        let session = cluster.open_session(77);
        (cluster, session)
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let mut overlay = Overlay::new();
        let outcome = apply(&self.index, &mut overlay, &command).unwrap();
        self.index.apply(overlay.into_batch()).unwrap();
        self.log.push(command);
        outcome
    }

    /// Applies what no session's slot carries.
    pub(crate) fn internal(&mut self, op: Op) -> Outcome {
        self.now += 1;
        self.apply(internal(op, UnixNanos(self.now)))
    }

    /// The next command of a session's slot.
    pub(crate) fn command(&mut self, session: u64, slot: u32, op: Op) -> Command {
        self.now += 1;
        let seq = self.slots.entry((session, slot)).or_default();
        *seq += 1;
        Command {
            time_ns: self.now,
            session,
            slot,
            slot_seq: *seq,
            op: Some(op),
        }
    }

    /// Does something in slot 0.
    pub(crate) fn change(&mut self, session: u64, op: Op) -> Reply {
        let command = self.command(session, 0, op);
        self.apply(command).reply
    }

    pub(crate) fn ask(&self, op: &request::Op) -> Reply {
        query::answer(&self.index, VOLUME, op)
            .unwrap()
            .expect("a query")
    }

    pub(crate) fn register(&mut self, osd: u64, uuid: &str) -> Reply {
        self.internal(Op::RegisterOsd(index::RegisterOsd {
            osd,
            address: format!("127.0.0.1:{}", 7000 + osd),
            store_uuid: uuid.to_owned(),
            capacity_bytes: 1 << 40,
            pid: 1,
            dir: "/srv".to_owned(),
            location: String::new(),
        }))
        .reply
    }

    pub(crate) fn create_volume(&mut self, name: &str) -> Reply {
        self.internal(Op::VolumeCreate(index::VolumeCreate {
            request: Some(mrc::VolumeCreate {
                name: name.to_owned(),
                replicas: 0,
                pgs: 8,
                root_owner: Some(OWNER),
                root_mode: 0,
                nonce: 0,
                ..mrc::VolumeCreate::default()
            }),
            osds: Vec::new(),
        }))
        .reply
    }

    pub(crate) fn try_open_session(&mut self, volume: &str, nonce: u64) -> Reply {
        self.internal(Op::OpenSession(index::OpenSession {
            request: Some(mrc::OpenSession {
                volume: volume.to_owned(),
                client: "test".to_owned(),
                mount_point: "/mnt".to_owned(),
                pid: 1,
                nonce,
            }),
            timeout_ms: 30_000,
        }))
        .reply
    }

    pub(crate) fn open_session(&mut self, nonce: u64) -> u64 {
        match self.try_open_session("default", nonce).unwrap().reply {
            Some(response::Reply::SessionOpened(opened)) => opened.session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn entries(&self) -> Vec<(Bytes, Bytes)> {
        entries(&self.index)
    }

    pub(crate) fn assert_consistent(&self) {
        let problems = check(&self.index).unwrap();
        assert!(problems.is_empty(), "{problems:#?}");
    }

    pub(crate) fn attr(&self, inode: u64) -> Attr {
        attr_of(self.ask(&request::Op::GetAttr(mrc::GetAttr { inode })))
    }

    /// Names in a directory, read in pages of two.
    pub(crate) fn names(&self, inode: u64) -> Vec<Vec<u8>> {
        self.list(inode, false)
            .into_iter()
            .map(|entry| entry.name.to_vec())
            .collect()
    }

    pub(crate) fn list(&self, inode: u64, plus: bool) -> Vec<mrc::DirEntry> {
        let mut found: Vec<mrc::DirEntry> = Vec::new();
        loop {
            let after = found.last().map(|entry| entry.name.clone());
            let reply = self.ask(&request::Op::ReadDir(mrc::ReadDir {
                inode,
                after: after.unwrap_or_default(),
                limit: 2,
                plus,
            }));
            let Some(response::Reply::DirPage(page)) = reply.unwrap().reply else {
                panic!("no page");
            };
            assert!(page.entries.len() <= 2);
            found.extend(page.entries);
            if page.end {
                return found;
            }
        }
    }
}

/// All entries of an index.
pub(crate) fn entries(index: &dyn IndexRead) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    index
        .scan(&[], &[0xff], &mut |key, value| {
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            Visit::Continue
        })
        .unwrap();
    found
}

pub(crate) fn attr_of(reply: Reply) -> Attr {
    match reply.unwrap().reply {
        Some(response::Reply::Entry(entry)) => entry.attr.unwrap(),
        Some(response::Reply::Opened(opened)) => opened.attr.unwrap(),
        other => panic!("no attributes in {other:?}"),
    }
}

pub(crate) fn errno_of(reply: &Reply) -> i32 {
    reply.as_ref().err().map_or(0, |fault| fault.errno)
}

pub(crate) fn name(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

pub(crate) fn create(parent: u64, text: &str, write: bool) -> Op {
    Op::Create(mrc::Create {
        parent,
        name: name(text),
        mode: 0o644,
        owner: Some(OWNER),
        exclusive: true,
        write,
    })
}

pub(crate) fn mkdir(parent: u64, text: &str) -> Op {
    Op::MkDir(mrc::MkDir {
        parent,
        name: name(text),
        mode: 0o755,
        owner: Some(OWNER),
    })
}

pub(crate) fn unlink(parent: u64, text: &str) -> Op {
    Op::Unlink(mrc::Unlink {
        parent,
        name: name(text),
    })
}

pub(crate) fn rmdir(parent: u64, text: &str) -> Op {
    Op::RmDir(mrc::RmDir {
        parent,
        name: name(text),
    })
}

pub(crate) fn link(inode: u64, parent: u64, text: &str) -> Op {
    Op::Link(mrc::Link {
        inode,
        parent,
        name: name(text),
    })
}

pub(crate) fn symlink(parent: u64, text: &str, target: &[u8]) -> Op {
    Op::Symlink(mrc::Symlink {
        parent,
        name: name(text),
        target: name(target),
        owner: Some(OWNER),
    })
}

/// How a rename treats an existing target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    Replace,
    NoReplace,
    Exchange,
}

pub(crate) fn rename(parent: u64, text: &str, new_parent: u64, new: &str, how: How) -> Op {
    Op::Rename(mrc::Rename {
        parent,
        name: name(text),
        new_parent,
        new_name: name(new),
        no_replace: how == How::NoReplace,
        exchange: how == How::Exchange,
    })
}

pub(crate) fn lookup(parent: u64, text: &str) -> request::Op {
    request::Op::Lookup(mrc::Lookup {
        parent,
        name: name(text),
    })
}

pub(crate) fn set_xattr(inode: u64, text: &str, value: &[u8]) -> mrc::SetXattr {
    mrc::SetXattr {
        inode,
        name: name(text),
        value: name(value),
        create: false,
        replace: false,
    }
}

/// Forgets a session with its slots.
pub(crate) fn forget(session: u64) -> index::ForgetSession {
    index::ForgetSession {
        session,
        keep_slots: false,
    }
}
