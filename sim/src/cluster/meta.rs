//! The metadata cluster: the real state machine behind a modelled ordered log.
//!
//! The log promises what Raft does: what was committed stays and is applied in order; of what a
//! deposed leader had proposed, a prefix is applied and the rest is lost, and nobody hears of it
//! from that leader. The leader's own memory (who has what open for reading) begins anew with each
//! term; when it may remove files is by the rules of `mrc/src/janitor`, which are not part of the core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mrc_core::{
    IndexRead as _, MemoryIndex, Noted, Overlay, Readers, Reply, apply, internal, keys, query,
};
use prost::Message as _;
use proto::index::command::Op;
use proto::index::{Command, SlotRecord};
use proto::mrc::{self, request, response};
use types::{Duration, Fault, Inode, OsdId, PgId, PgKey, SessionId, UnixNanos, VolumeId};

use crate::cluster::edit::Edit;
use crate::cluster::names::Names;
use crate::time::TrueTime;

/// Metadata servers.
pub(crate) const MEMBERS: usize = 3;
/// How long a mount may keep silent towards a new leader about what it has open.
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
/// Orphans this young may be between somebody's look at the name and the open.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);

pub(crate) fn address(member: usize) -> String {
    format!("m{member}")
}

/// On whose behalf something is in the log.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Mount {
        mount: usize,
        call: u64,
        change: u64,
    },
    Reap(Vec<u64>),
    Nobody,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    command: Command,
    origin: Origin,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Nobody answers.
    Silence,
    Answered(Reply),
    /// It is answered when the entry is committed.
    Proposed(u64),
    /// As before, but answered already.
    ProposedAndAnswered(u64, Reply),
}

/// What was committed.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) origin: Origin,
    pub(crate) reply: Reply,
    /// Inodes that are no more.
    pub(crate) removed: Vec<u64>,
}

/// What only the leader remembers.
#[derive(Debug, Default)]
struct Soft {
    since: TrueTime,
    readers: Readers,
    /// Requests that said something of open files, for a wrong edit.
    arrivals: u64,
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) index: MemoryIndex,
    pub(crate) log: Vec<Command>,
    pub(crate) names: Names,
    pub(crate) volume: VolumeId,
    pub(crate) term: u64,
    pub(crate) leader: Option<usize>,
    /// It was the leader, and is cut off.
    pub(crate) away: Option<usize>,
    pub(crate) sessions: Vec<u64>,
    pending: VecDeque<Entry>,
    next_entry: u64,
    soft: Soft,
    /// In which term each slot got its answer, for a wrong edit.
    answered_in: BTreeMap<(u64, u32), u64>,
    edit: Option<Edit>,
}

impl Meta {
    pub(crate) fn new(osds: &[OsdId], replicas: u32, pgs: u32, edit: Option<Edit>) -> Self {
        let mut this = Self {
            index: MemoryIndex::new(),
            log: Vec::new(),
            names: Names::default(),
            volume: VolumeId(1),
            term: 1,
            leader: Some(0),
            away: None,
            sessions: Vec::new(),
            pending: VecDeque::new(),
            next_entry: 0,
            soft: Soft::default(),
            answered_in: BTreeMap::new(),
            edit,
        };
        for osd in osds {
            let register = proto::index::RegisterOsd {
                osd: osd.0,
                address: format!("o{osd}"),
                store_uuid: format!("s{osd}"),
                ..proto::index::RegisterOsd::default()
            };
            let _registered = this.at_once(Op::RegisterOsd(register));
        }
        let _made = this.at_once(Op::VolumeCreate(proto::index::VolumeCreate {
            request: Some(mrc::VolumeCreate {
                name: "v".to_owned(),
                replicas,
                pgs,
                root_owner: Some(mrc::Owner::default()),
                nonce: 1,
                ..mrc::VolumeCreate::default()
            }),
            osds: osds.iter().map(|osd| osd.0).collect(),
        }));
        this
    }

    fn at_once(&mut self, op: Op) -> Reply {
        let command = internal(op, UnixNanos(0));
        self.apply(&command)
            .unwrap_or_else(|error| Err(Fault::surface(0, error)))
    }

    pub(crate) fn open_session(&mut self, nonce: u64) -> u64 {
        let open = proto::index::OpenSession {
            request: Some(mrc::OpenSession {
                volume: "v".to_owned(),
                nonce,
                ..mrc::OpenSession::default()
            }),
            timeout_ms: 30_000,
        };
        let session = match self.at_once(Op::OpenSession(open)) {
            Ok(mrc::Response {
                reply: Some(response::Reply::SessionOpened(opened)),
            }) => opened.session,
            _ => 0,
        };
        self.sessions.push(session);
        let id = SessionId(session);
        self.soft.readers.enter(id, self.volume, true);
        session
    }

    /// The placement groups and their members.
    pub(crate) fn groups(&self) -> BTreeMap<PgKey, Vec<OsdId>> {
        let groups = query::pgs(&self.index, Some(self.volume)).unwrap_or_default();
        let member = |pg: mrc::Pg| {
            let key = PgKey {
                volume: VolumeId(pg.volume),
                pg: PgId(pg.pg),
            };
            (key, pg.osds.into_iter().map(OsdId).collect())
        };
        groups.into_iter().map(member).collect()
    }

    /// The placement group of a file.
    pub(crate) fn pg_of(&self, inode: u64) -> Option<PgId> {
        let record = query::inode(&self.index, self.volume, Inode(inode)).ok()??;
        Some(PgId(record.pg))
    }

    fn apply(&mut self, command: &Command) -> Result<Reply, String> {
        let mut overlay = Overlay::new();
        let outcome =
            apply(&self.index, &mut overlay, command).map_err(|error| error.to_string())?;
        mrc_core::Index::apply(&self.index, overlay.into_batch())
            .map_err(|error| error.to_string())?;
        self.log.push(command.clone());
        Ok(outcome.reply)
    }

    fn forget_slot(&mut self, command: &Command) {
        let slot = (command.session, command.slot);
        let answered = self.answered_in.insert(slot, self.term);
        if self.edit != Some(Edit::SlotsForgotten) || answered.is_none_or(|term| term == self.term)
        {
            return;
        }
        let key = keys::slot(SessionId(command.session), command.slot);
        if let Ok(Some(bytes)) = self.index.get(&key)
            && let Ok(mut record) = SlotRecord::decode(bytes)
            && record.seq == command.slot_seq
        {
            record.seq -= 1;
            let mut batch = mrc_core::Batch::new();
            batch.put(key, record.encode_to_vec());
            let _written = mrc_core::Index::apply(&self.index, batch);
        }
    }

    // ---- requests

    pub(crate) fn request(
        &mut self,
        now: TrueTime,
        member: usize,
        (mount, call, change): (usize, u64, u64),
        request: mrc::Request,
    ) -> Taken {
        if self.away == Some(member) {
            return Taken::Silence;
        }
        if self.leader != Some(member) {
            return Taken::Answered(Err(match self.leader {
                Some(leader) => Fault {
                    hint: Some(address(leader)),
                    ..Fault::new(types::Remedy::Redirect, 11, "another server leads")
                },
                None => Fault::retry("nobody leads"),
            }));
        }
        match mrc_core::of_request(request, unix(now)) {
            Ok(command) => {
                let origin = Origin::Mount {
                    mount,
                    call,
                    change,
                };
                let id = self.propose(command.clone(), origin);
                if self.edit != Some(Edit::AnsweredWhenProposed) {
                    return Taken::Proposed(id);
                }
                let mut overlay = Overlay::new();
                match apply(&self.index, &mut overlay, &command) {
                    Ok(outcome) => Taken::ProposedAndAnswered(id, outcome.reply),
                    Err(_) => Taken::Proposed(id),
                }
            }
            Err(read) => Taken::Answered(self.read(*read)),
        }
    }

    fn read(&mut self, request: mrc::Request) -> Reply {
        let session = SessionId(request.session);
        self.soft.arrivals += 1;
        let order = match self.edit {
            Some(Edit::ReadersUnordered) => self.soft.arrivals,
            _ => request.order,
        };
        let done = |reply| Ok(mrc::Response { reply: Some(reply) });
        match request.op {
            Some(request::Op::KeepAlive(keep)) => {
                if keep.complete && keep.registered_term == self.term {
                    let open = keep.open_inodes.iter().copied().map(Inode);
                    let open: Vec<Inode> = open.collect();
                    self.soft.readers.list(session, &open, order);
                }
                done(response::Reply::KeptAlive(mrc::KeptAlive {
                    term: self.term,
                    register: !self.soft.readers.has_listed(session),
                    mrcs: Vec::new(),
                }))
            }
            Some(request::Op::Release(release)) => {
                let inode = Inode(release.inode);
                self.soft.readers.release(session, inode, order);
                done(response::Reply::Done(mrc::Done {}))
            }
            Some(request::Op::Open(open)) => {
                let stale = || Fault::surface(super::shell::ESTALE, "the file is gone");
                let inode = Inode(open.inode);
                let noted = self.soft.readers.open(session, inode, order);
                match noted {
                    Noted::First | Noted::Again => {}
                    Noted::Late => return Err(Fault::retry("closed since")),
                    Noted::Reaped | Noted::NoSession => return Err(stale()),
                }
                let record = query::inode(&self.index, self.volume, inode);
                let Ok(Some(record)) = record else {
                    if noted == Noted::First {
                        self.soft.readers.undo(session, inode, order);
                    }
                    return Err(stale());
                };
                done(response::Reply::Opened(mrc::Opened {
                    attr: Some(mrc_core::attributes(inode, &record)),
                    grant: Some(mrc::Grant {
                        pg: record.pg,
                        ..mrc::Grant::default()
                    }),
                    existed: true,
                }))
            }
            Some(op) => match query::answer(&self.index, self.volume, &op) {
                Ok(Some(reply)) => reply,
                _ => Err(Fault::surface(71, "no read")),
            },
            None => Err(Fault::surface(71, "no operation")),
        }
    }

    // ---- the log

    pub(crate) fn propose(&mut self, command: Command, origin: Origin) -> u64 {
        self.next_entry += 1;
        let id = self.next_entry;
        self.pending.push_back(Entry {
            id,
            command,
            origin,
        });
        id
    }

    /// Commits the entry and all before it, unless they were lost or committed before.
    pub(crate) fn commit(&mut self, id: u64) -> Result<Vec<Committed>, String> {
        let mut done = Vec::new();
        while self.pending.front().is_some_and(|entry| entry.id <= id)
            && let Some(entry) = self.pending.pop_front()
        {
            done.push(self.commit_one(entry)?);
        }
        Ok(done)
    }

    fn commit_one(&mut self, entry: Entry) -> Result<Committed, String> {
        let Entry {
            command, origin, ..
        } = entry;
        if matches!(origin, Origin::Mount { .. }) {
            self.forget_slot(&command);
        }
        let before = self.inodes(&origin);
        let reply = self.apply(&command)?;
        if let (Origin::Mount { change, .. }, Some(op)) = (&origin, &command.op) {
            self.names.applied(*change, op, &reply)?;
        }
        let after = self.inodes(&origin);
        let removed: Vec<_> = before.difference(&after).copied().collect();
        for inode in &removed {
            self.names.reaped(*inode)?;
        }
        if let Origin::Reap(inodes) = &origin {
            for inode in inodes {
                self.soft.readers.reaped(self.volume, Inode(*inode));
            }
        }
        self.compare()?;
        Ok(Committed {
            origin,
            reply,
            removed,
        })
    }

    /// Those of a Reap that exist.
    fn inodes(&self, origin: &Origin) -> BTreeSet<u64> {
        let Origin::Reap(inodes) = origin else {
            return BTreeSet::new();
        };
        let inodes = inodes.iter().copied();
        inodes
            .filter(|inode| self.pg_of(*inode).is_some())
            .collect()
    }

    /// The tree must be the reference tree.
    fn compare(&self) -> Result<(), String> {
        let op = request::Op::ReadDir(mrc::ReadDir {
            inode: mrc_core::ROOT.0,
            limit: 1000,
            ..mrc::ReadDir::default()
        });
        let page = match query::answer(&self.index, self.volume, &op) {
            Ok(Some(Ok(mrc::Response {
                reply: Some(response::Reply::DirPage(page)),
            }))) => page,
            other => return Err(format!("the root can't be read: {other:?}")),
        };
        let entries = page.entries.into_iter();
        let entries: BTreeMap<_, _> = entries
            .map(|entry| (entry.name.to_vec(), entry.inode))
            .collect();
        match entries == self.names.names {
            true => Ok(()),
            false => Err(format!(
                "the tree is {entries:?} instead of {:?}",
                self.names.names
            )),
        }
    }

    /// The leader is cut off. Of what it proposed the first `kept` are committed, unheard of.
    pub(crate) fn depose(&mut self, kept: usize) -> Result<Vec<Committed>, String> {
        self.away = self.leader.take();
        let kept = kept.min(self.pending.len());
        let mut committed = Vec::new();
        for entry in self.pending.drain(..).take(kept).collect::<Vec<_>>() {
            committed.push(self.commit_one(entry)?);
        }
        Ok(committed)
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn elect(&mut self, now: TrueTime, member: usize) {
        self.term += 1;
        self.leader = Some(member);
        self.soft = Soft {
            since: now,
            ..Soft::default()
        };
        for session in &self.sessions {
            let session = SessionId(*session);
            self.soft.readers.enter(session, self.volume, false);
        }
    }

    // ---- housekeeping

    /// Files to remove.
    pub(crate) fn orphans(&mut self, now: TrueTime) -> Option<Command> {
        let complete =
            self.soft.readers.have_all_listed() || self.soft.since + SESSION_TIMEOUT < now;
        if !complete && self.edit != Some(Edit::RegistrationIgnored) {
            return None;
        }
        let orphans = mrc_core::janitor::orphans(&self.index, None).unwrap_or_default();
        let mut unused = Vec::new();
        for orphan in orphans {
            let inode = orphan.inode.0;
            let young = unix(now).0 - orphan.since.0 < unix(TrueTime(ORPHAN_GRACE.as_nanos())).0;
            let written =
                mrc_core::janitor::is_open_for_writing(&self.index, self.volume, orphan.inode);
            if young || written.unwrap_or(true) {
                continue;
            }
            let unused_by_readers = self.soft.readers.reap(self.volume, orphan.inode);
            if unused_by_readers || self.edit == Some(Edit::ReadersIgnored) {
                unused.push(inode);
            }
        }
        let reap = proto::index::Reap {
            volume: self.volume.0,
            inodes: unused,
        };
        (!reap.inodes.is_empty()).then(|| internal(Op::Reap(reap), unix(now)))
    }

    /// Objects a server should delete, and the numbers under which it is to be reported.
    pub(crate) fn garbage(&self, osd: OsdId) -> (Vec<u64>, Vec<proto::index::GarbageObject>) {
        let page = mrc_core::janitor::garbage(&self.index, osd, None).unwrap_or_default();
        let seqs = page.iter().map(|garbage| garbage.seq).collect();
        let objects = page.into_iter().flat_map(|garbage| garbage.record.objects);
        (seqs, objects.collect())
    }

    /// Which of a server's objects are of files that are gone.
    pub(crate) fn leftovers(&self, osd: OsdId, objects: &[mrc::HeldObject]) -> mrc::Leftovers {
        let find = mrc::FindLeftovers {
            osd: osd.0,
            objects: objects.to_vec(),
        };
        match query::leftovers(&self.index, &find) {
            Ok(Ok(mrc::Response {
                reply: Some(response::Reply::Leftovers(found)),
            })) => found,
            _ => mrc::Leftovers::default(),
        }
    }

    /// What the log makes of an empty index must be the index, and it must be consistent.
    pub(crate) fn replay(&self) -> Result<(), String> {
        let again = MemoryIndex::new();
        for command in &self.log {
            let mut overlay = Overlay::new();
            apply(&again, &mut overlay, command).map_err(|error| error.to_string())?;
            mrc_core::Index::apply(&again, overlay.into_batch())
                .map_err(|error| error.to_string())?;
        }
        // That wrong edit changes the index behind the log's back.
        let behind = self.edit == Some(Edit::SlotsForgotten);
        if !behind && entries(&again) != entries(&self.index) {
            return Err("the log gives another index the second time".to_owned());
        }
        let problems = mrc_core::check(&self.index).map_err(|error| error.to_string())?;
        match problems.first() {
            Some(problem) => Err(format!("the index is inconsistent: {problem:?}")),
            None => Ok(()),
        }
    }
}

fn entries(index: &MemoryIndex) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let _scanned = index.scan(&[], &[0xff; 64], &mut |key, value| {
        all.push((key.to_vec(), value.to_vec()));
        mrc_core::Visit::Continue
    });
    all
}

/// Time of day; runs begin in 1970.
pub(crate) const fn unix(now: TrueTime) -> UnixNanos {
    UnixNanos(now.0.cast_signed())
}
