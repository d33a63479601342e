//! Whether an index is consistent: for tests, and for administrators who must know.
//!
//! Invariants, by number in the problems reported:
//! I-1 every key and value can be decoded and belongs to something that exists;
//! I-2 every entry has a directory and an inode of its kind;
//! I-3 links are counted right, directories have one name and know their parent;
//! I-4 every inode is reached from the root, or is an orphan without links;
//! I-5 counters of a volume are what they count;
//! I-6 replica sets are complete, of distinct and known servers;
//! I-7 sessions, slots, nonces and open files belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use prost::Message;
use proto::index::{
    CountersRecord, DentryRecord, InodeRecord, NonceRecord, OpenRecord, OsdRecord, PgRecord,
    SequencesRecord, SessionRecord, SlotRecord, VolumeRecord,
};
use types::{Inode, OsdId, SessionId, VolumeId};

use crate::attr;
use crate::config;
use crate::groups;
use crate::index::{IndexError, IndexRead, Visit};
use crate::keys::{self, Key};
use crate::records;
use crate::volume::ROOT;

/// Something in the index that can't be right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The invariant that is broken, 1 to 7.
    pub invariant: u8,
    /// The record.
    pub key: Vec<u8>,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I-{}: ", self.invariant)?;
        match Key::decode(&self.key) {
            Some(key) => write!(f, "{key:?}: {}", self.text),
            None => write!(f, "{:02x?}: {}", self.key, self.text),
        }
    }
}

/// Looks at everything and returns what is wrong, at most [`config::PROBLEMS_MAX`] problems.
///
/// Keeps some 200 bytes per inode of one volume in memory.
///
/// # Errors
///
/// [`IndexError`] if the index can't be read; damaged records are problems, not errors.
pub fn check(index: &dyn IndexRead) -> Result<Vec<Problem>, IndexError> {
    let mut checker = Checker {
        index,
        problems: Vec::new(),
        volumes: BTreeMap::new(),
        sessions: BTreeMap::new(),
        osds: BTreeSet::new(),
    };
    checker.registry()?;
    checker.belonging()?;
    checker.sessions()?;
    for (volume, record) in checker.volumes.clone() {
        if !record.deleted {
            checker.placement(volume, &record)?;
            checker.tree(volume, &record)?;
        }
    }
    Ok(checker.problems)
}

struct Checker<'a> {
    index: &'a dyn IndexRead,
    problems: Vec<Problem>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    sessions: BTreeMap<SessionId, SessionRecord>,
    osds: BTreeSet<OsdId>,
}

/// One volume's inodes with what its entries say of them.
struct Node {
    record: InodeRecord,
    /// Entries that lead to it.
    names: u32,
    /// Directories in it.
    subdirectories: u32,
    /// The directory of its last entry.
    parent: Inode,
    xattr_names_bytes: u64,
    xattr_values_bytes: u64,
    orphan: bool,
    /// A session has it open for writing.
    is_written: bool,
}

type Nodes = BTreeMap<Inode, Node>;

impl Checker<'_> {
    fn problem(&mut self, invariant: u8, key: Vec<u8>, text: impl Into<String>) {
        if self.problems.len() < config::PROBLEMS_MAX {
            self.problems.push(Problem {
                invariant,
                key,
                text: text.into(),
            });
        }
    }

    /// Calls `each` with every record of a range that can be decoded.
    fn each<M: Message + Default>(
        &mut self,
        range: std::ops::Range<Vec<u8>>,
        mut each: impl FnMut(&mut Self, Key, M),
    ) -> Result<(), IndexError> {
        let index = self.index;
        index.scan(&range.start, &range.end, &mut |key, value| {
            match (Key::decode(key), M::decode(value)) {
                (Some(key), Ok(record)) => each(self, key, record),
                // The pass over all keys reports keys it does not know.
                (None, _) => {}
                (_, Err(_)) => self.problem(1, key.to_vec(), "its value can't be decoded"),
            }
            Visit::Continue
        })
    }

    fn registry(&mut self) -> Result<(), IndexError> {
        self.each(keys::all(b'v'), |this, key, record: VolumeRecord| {
            if let Key::Volume(volume) = key {
                this.volumes.insert(volume, record);
            }
        })?;
        self.each(keys::all(b'o'), |this, key, _: OsdRecord| {
            if let Key::Osd(osd) = key {
                this.osds.insert(osd);
            }
        })?;
        let index = self.index;
        let range = keys::all(b's');
        index.scan(&range.start, &range.end, &mut |key, value| {
            let decodes = match Key::decode(key) {
                Some(Key::Session(session)) => SessionRecord::decode(value)
                    .map(|record| {
                        self.sessions.insert(session, record);
                    })
                    .is_ok(),
                Some(Key::Slot(..)) => SlotRecord::decode(value).is_ok(),
                _ => true,
            };
            if !decodes {
                self.problem(1, key.to_vec(), "its value can't be decoded");
            }
            Visit::Continue
        })
    }

    /// Reads a record; one that can't be decoded is a problem and counts as absent.
    fn read<M: Message + Default>(&mut self, key: &[u8]) -> Result<Option<M>, IndexError> {
        let record = self.index.get(key)?.map(M::decode);
        match record.transpose() {
            Ok(record) => Ok(record),
            Err(_) => {
                self.problem(1, key.to_vec(), "its value can't be decoded");
                Ok(None)
            }
        }
    }

    /// Every key is one of ours and its volume, session or server exists.
    fn belonging(&mut self) -> Result<(), IndexError> {
        let index = self.index;
        index.scan(&[], &[0xff], &mut |key, _| {
            let belongs = match Key::decode(key) {
                None => {
                    self.problem(1, key.to_vec(), "no key of this program");
                    return Visit::Continue;
                }
                Some(
                    Key::Dentry(volume, ..)
                    | Key::Open(volume, ..)
                    | Key::Inode(volume, _)
                    | Key::Counters(volume)
                    | Key::Pg(volume, _)
                    | Key::Orphan(volume, _)
                    | Key::Xattr(volume, ..),
                ) => self.volumes.contains_key(&volume),
                Some(Key::Slot(session, slot)) => {
                    self.sessions.contains_key(&session) && slot < config::SLOT_COUNT
                }
                Some(Key::Garbage(osd, _)) => self.osds.contains(&osd),
                Some(Key::Kept(volume)) => volume.0 == 0 || self.volumes.contains_key(&volume),
                Some(
                    Key::Applied
                    | Key::Jobs
                    | Key::Map
                    | Key::Restore
                    | Key::Sequences
                    | Key::Nonce(_)
                    | Key::Osd(_)
                    | Key::Session(_)
                    | Key::Volume(_),
                ) => true,
            };
            if !belongs {
                self.problem(1, key.to_vec(), "belongs to nothing that exists");
            }
            Visit::Continue
        })
    }

    fn sessions(&mut self) -> Result<(), IndexError> {
        let sequences: SequencesRecord = self.read(&keys::sequences())?.unwrap_or_default();
        let counted = self.sessions.values().filter(|session| !session.settled);
        let count = counted.count() as u64;
        if sequences.session_count != count {
            let text = format!(
                "counts {} sessions, there are {count}",
                sequences.session_count
            );
            self.problem(7, keys::sequences(), text);
        }
        for (session, record) in self.sessions.clone() {
            if session.0 >= sequences.next_session {
                self.problem(7, keys::session(session), "numbered beyond the counter");
            }
            if record.settled {
                // Only its answers are kept, whatever became of its volume.
                continue;
            }
            let nonce: Option<NonceRecord> = self.read(&keys::nonce(record.nonce))?;
            if nonce.is_none_or(|nonce| nonce.session != session.0) {
                self.problem(7, keys::session(session), "its nonce does not lead to it");
            }
            if !self.volumes.contains_key(&VolumeId(record.volume)) {
                self.problem(7, keys::session(session), "its volume does not exist");
            }
        }
        self.each(keys::all(b'k'), |this, key, record: NonceRecord| {
            if !this.sessions.contains_key(&SessionId(record.session)) {
                this.problem(7, key.encode(), "leads to no session");
            }
        })
    }

    fn placement(&mut self, volume: VolumeId, record: &VolumeRecord) -> Result<(), IndexError> {
        let mut count = 0;
        self.each(keys::of(b'p', volume.0), |this, key, pg: PgRecord| {
            count += 1;
            let members: BTreeSet<u64> = pg.osds.iter().copied().collect();
            let known = members.iter().all(|osd| this.osds.contains(&OsdId(*osd)));
            let counted = (1..=config::REPLICAS_MAX as usize).contains(&pg.osds.len());
            if members.len() != pg.osds.len() || !known || !counted || pg.view == 0 {
                this.problem(6, key.encode(), format!("can't be a replica set: {pg:?}"));
            }
            let either = groups::members(&pg);
            if !either.iter().all(|osd| this.osds.contains(&OsdId(*osd))) {
                this.problem(6, key.encode(), "a server of the set before is not known");
            }
            if !pg.incomplete.iter().all(|osd| either.contains(osd)) {
                this.problem(6, key.encode(), "a member is incomplete that is none");
            }
            if !pg.settling.iter().all(|osd| either.contains(osd))
                || (pg.previous.is_empty() && !pg.settling.is_empty())
            {
                this.problem(6, key.encode(), "a member settles that need not");
            }
        })?;
        if count != record.pgs {
            let text = format!("has {count} placement groups instead of {}", record.pgs);
            self.problem(6, keys::volume(volume), text);
        }
        Ok(())
    }

    fn tree(&mut self, volume: VolumeId, record: &VolumeRecord) -> Result<(), IndexError> {
        let mut nodes = Nodes::new();
        self.each(keys::of(b'i', volume.0), |_, key, record: InodeRecord| {
            if let Key::Inode(_, number) = key {
                nodes.insert(number, Node::new(record));
            }
        })?;
        self.entries(volume, &mut nodes)?;
        self.orphans(volume, &mut nodes)?;
        self.xattrs(volume, &mut nodes)?;
        self.opens(volume, &mut nodes)?;
        for (number, node) in &nodes {
            if let Some(text) = node.wrong(*number, record.pgs) {
                self.problem(3, keys::inode(volume, *number), text);
            }
        }
        self.reachable(volume, &nodes);
        self.counters(volume, record, &nodes)
    }

    fn entries(&mut self, volume: VolumeId, nodes: &mut Nodes) -> Result<(), IndexError> {
        self.each(
            keys::of(b'd', volume.0),
            |this, key, dentry: DentryRecord| {
                let encoded = key.encode();
                let Key::Dentry(_, parent, name) = key else {
                    return;
                };
                if !is_name(&name) {
                    this.problem(2, encoded.clone(), "can't be a name");
                }
                let is_directory = attr::is_directory(dentry.kind);
                match nodes.get_mut(&parent) {
                    Some(node) if attr::is_directory(node.record.mode) && node.record.nlink > 0 => {
                        node.subdirectories += u32::from(is_directory);
                    }
                    _ => this.problem(2, encoded.clone(), "its directory does not exist"),
                }
                match nodes.get_mut(&Inode(dentry.inode)) {
                    Some(node) if node.record.mode & attr::S_IFMT == dentry.kind => {
                        node.names += 1;
                        node.parent = parent;
                    }
                    Some(_) => this.problem(2, encoded, "its inode is of another kind"),
                    None => this.problem(2, encoded, "its inode does not exist"),
                }
            },
        )
    }

    fn orphans(&mut self, volume: VolumeId, nodes: &mut Nodes) -> Result<(), IndexError> {
        let range = keys::of(b'u', volume.0);
        for key in records::keys_of(self.index, &range, usize::MAX)? {
            let Some(Key::Orphan(_, number)) = Key::decode(&key) else {
                continue;
            };
            match nodes.get_mut(&number) {
                Some(node) => node.orphan = true,
                None => self.problem(4, key, "its inode does not exist"),
            }
        }
        Ok(())
    }

    fn xattrs(&mut self, volume: VolumeId, nodes: &mut Nodes) -> Result<(), IndexError> {
        let range = keys::of(b'x', volume.0);
        let index = self.index;
        index.scan(&range.start, &range.end, &mut |key, value| {
            if let Some(Key::Xattr(_, number, name)) = Key::decode(key) {
                match nodes.get_mut(&number) {
                    Some(node) => {
                        node.xattr_names_bytes += name.len() as u64 + 1;
                        node.xattr_values_bytes += value.len() as u64;
                    }
                    None => self.problem(1, key.to_vec(), "its inode does not exist"),
                }
            }
            Visit::Continue
        })
    }

    fn opens(&mut self, volume: VolumeId, nodes: &mut Nodes) -> Result<(), IndexError> {
        self.each(keys::of(b'f', volume.0), |this, key, _: OpenRecord| {
            let encoded = key.encode();
            let Key::Open(_, number, session) = key else {
                return;
            };
            let is_file = nodes.get_mut(&number).is_some_and(|node| {
                node.is_written = true;
                attr::is_regular(node.record.mode) && node.record.has_object
            });
            if !is_file {
                this.problem(7, encoded.clone(), "no file to write");
            }
            let of_volume = this
                .sessions
                .get(&session)
                .is_some_and(|record| record.volume == volume.0);
            if !of_volume {
                this.problem(7, encoded, "its session does not exist");
            }
        })
    }

    /// Every directory with links leads up to the root.
    fn reachable(&mut self, volume: VolumeId, nodes: &Nodes) {
        let mut reached = BTreeSet::from([ROOT]);
        for (number, node) in nodes {
            if !attr::is_directory(node.record.mode) || node.record.nlink == 0 {
                continue;
            }
            let mut path = BTreeSet::new();
            let mut at = *number;
            while !reached.contains(&at) && path.insert(at) {
                at = nodes.get(&at).map_or(at, |node| node.parent);
            }
            if reached.contains(&at) {
                reached.append(&mut path);
            } else {
                self.problem(4, keys::inode(volume, *number), "not reached from the root");
            }
        }
    }

    fn counters(
        &mut self,
        volume: VolumeId,
        record: &VolumeRecord,
        nodes: &Nodes,
    ) -> Result<(), IndexError> {
        let key = keys::counters(volume);
        let Some(counters) = self.read::<CountersRecord>(&key)? else {
            self.problem(5, key, "missing");
            return Ok(());
        };
        let doomed = || nodes.values().filter(|node| node.record.doomed);
        let session_count = self
            .sessions
            .values()
            .filter(|session| session.volume == volume.0 && !session.settled)
            .count() as u64;
        let counted = CountersRecord {
            next_inode: counters.next_inode,
            inode_count: nodes.len() as u64,
            size_bytes: sizes(nodes.values()),
            session_count,
            pgs: record.pgs,
            doomed_count: doomed().count() as u64,
            doomed_bytes: sizes(doomed()),
            quota_files: record.quota_files,
        };
        let last = nodes.last_key_value().map_or(0, |(number, _)| number.0);
        if counters != counted || last >= counters.next_inode {
            self.problem(5, key, format!("{counters:?} should be {counted:?}"));
        }
        Ok(())
    }
}

impl Node {
    fn new(record: InodeRecord) -> Self {
        Self {
            record,
            names: 0,
            subdirectories: 0,
            parent: Inode(0),
            xattr_names_bytes: 0,
            xattr_values_bytes: 0,
            orphan: false,
            is_written: false,
        }
    }

    /// Returns what is wrong with the inode, seen together with all that leads to it.
    fn wrong(&self, number: Inode, pgs: u32) -> Option<String> {
        let record = &self.record;
        if self.orphan != (record.nlink == 0) {
            return Some(format!("{} links, orphan: {}", record.nlink, self.orphan));
        }
        let links = if !attr::is_directory(record.mode) || record.nlink == 0 {
            self.names
        } else {
            2 + self.subdirectories
        };
        if record.nlink != links {
            return Some(format!("says {} links, has {links}", record.nlink));
        }
        if attr::is_directory(record.mode) && record.nlink > 0 {
            let (names, parent) = match number {
                ROOT => (0, ROOT),
                _ => (1, self.parent),
            };
            if self.names != names || record.parent != parent.0 {
                return Some(format!(
                    "directory with {} names and parent {} instead of {parent}",
                    self.names, record.parent
                ));
            }
        }
        // What was without links before that was noted is not marked, and goes soon.
        if record.doomed && (record.nlink > 0 || self.is_written) {
            return Some("marked as doomed, with links or open for writing".to_owned());
        }
        if attr::is_regular(record.mode) && record.pg >= pgs {
            return Some(format!("in placement group {} of {pgs}", record.pg));
        }
        let xattrs = (self.xattr_names_bytes, self.xattr_values_bytes);
        if xattrs != (record.xattr_names_bytes, record.xattr_values_bytes) {
            return Some("its xattrs are counted wrong".to_owned());
        }
        None
    }
}

/// Sizes of the regular files among these, added up as counters are.
fn sizes<'a>(nodes: impl Iterator<Item = &'a Node>) -> u64 {
    nodes
        .filter(|node| attr::is_regular(node.record.mode))
        .fold(0, |sum, node| sum.wrapping_add(node.record.size_bytes))
}

fn is_name(name: &Bytes) -> bool {
    (1..=config::NAME_BYTES_MAX).contains(&name.len())
        && !name.contains(&0)
        && !name.contains(&b'/')
        && &name[..] != b"."
        && &name[..] != b".."
}
