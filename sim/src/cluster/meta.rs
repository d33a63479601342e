//! The metadata cluster: the real state machine behind a modelled ordered log.
//!
//! The log promises what Raft does: what was committed stays and is applied in order; of what a
//! deposed leader had proposed, a prefix is applied and the rest is lost, and nobody hears of it
//! from that leader. The leader's own memory (who has what open for reading) begins anew with each
//! term; when it may remove files is by the rules of `mrc/src/janitor`, which are not part of the core.

mod housekeeping;
mod serving;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mrc_core::{
    IndexRead as _, MemoryIndex, Overlay, Readers, Reply, apply, internal, keys, query,
};
use prost::Message as _;
use proto::index::command::Op;
use proto::index::{Command, SlotRecord};
use proto::mrc::{self, request, response};
use types::{
    ClusterId, Duration, Fault, Inode, OsdId, PgId, Remedy, Secret, SessionId, UnixNanos, VolumeId,
};

use crate::cluster::edit::Edit;
use crate::cluster::names::Names;
use crate::cluster::plan::Plan;
use crate::time::TrueTime;

/// Metadata servers.
pub(crate) const MEMBERS: usize = 3;
/// The cluster's name.
pub(crate) const CLUSTER: ClusterId = ClusterId(7);

/// What its servers share.
pub(crate) const fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

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
    /// On whose behalf it was asked, 0: nobody's.
    pub(crate) session: u64,
    pub(crate) origin: Origin,
    pub(crate) reply: Reply,
    /// Inodes that are no more.
    pub(crate) removed: Vec<u64>,
}

/// What only the leader remembers.
#[derive(Debug, Default)]
struct Soft {
    readers: Readers,
    /// When each session was heard, and how many of its changes are under way.
    sessions: BTreeMap<u64, (TrueTime, u32)>,
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
    session_timeout: Duration,
    right_lifetime: Duration,
    /// When sessions ended.
    ended: BTreeMap<SessionId, TrueTime>,
    pending: VecDeque<Entry>,
    next_entry: u64,
    soft: Soft,
    /// In which term each slot got its answer, for a wrong edit.
    answered_in: BTreeMap<(u64, u32), u64>,
    edit: Option<Edit>,
}

impl Meta {
    pub(crate) fn new(osds: &[OsdId], plan: &Plan, edit: Option<Edit>) -> Self {
        let mut this = Self {
            index: MemoryIndex::new(),
            log: Vec::new(),
            names: Names::default(),
            volume: VolumeId(1),
            term: 1,
            leader: Some(0),
            away: None,
            session_timeout: plan.session_timeout,
            right_lifetime: plan.right_lifetime,
            ended: BTreeMap::new(),
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
                store_uuid: format!("s{osd}.1"),
                ..proto::index::RegisterOsd::default()
            };
            let _registered = this.at_once(Op::RegisterOsd(register));
        }
        let policy = plan.policies.first().copied().unwrap_or_default();
        let _made = this.at_once(Op::VolumeCreate(proto::index::VolumeCreate {
            request: Some(mrc::VolumeCreate {
                name: "v".to_owned(),
                replicas: plan.replicas,
                pgs: plan.groups,
                write_policy: policy.write.to_string(),
                quorum: policy.quorum.to_string(),
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
            timeout_ms: self.session_timeout.as_millis(),
        };
        let session = match self.at_once(Op::OpenSession(open)) {
            Ok(mrc::Response {
                reply: Some(response::Reply::SessionOpened(opened)),
            }) => opened.session,
            _ => 0,
        };
        self.enter(TrueTime::default(), session, true);
        session
    }

    /// A session that may tell what it has open; `listed` if it is new and has nothing.
    fn enter(&mut self, now: TrueTime, session: u64, listed: bool) {
        let id = SessionId(session);
        self.soft.readers.enter(id, self.volume, listed);
        self.soft.sessions.entry(session).or_insert((now, 0)).0 = now;
    }

    /// Whether a session has not ended.
    pub(crate) fn is_alive(&self, session: u64) -> bool {
        let record = query::session(&self.index, SessionId(session));
        record.is_ok_and(|record| record.is_some_and(|record| !record.ended))
    }

    pub(crate) fn ended_at(&self, session: SessionId) -> Option<TrueTime> {
        self.ended.get(&session).copied()
    }

    /// The placement groups as they are recorded.
    pub(crate) fn pgs(&self) -> Vec<mrc::Pg> {
        query::pgs(&self.index, Some(self.volume)).unwrap_or_default()
    }

    /// Whether a server has a say in a group and has had all of it.
    pub(crate) fn keeps(&self, osd: OsdId, group: types::PgKey) -> bool {
        let pg = query::pg(&self.index, group.volume, group.pg);
        pg.is_ok_and(|pg| {
            pg.is_some_and(|pg| {
                let is_member = pg.osds.contains(&osd.0) || pg.previous.contains(&osd.0);
                is_member && !pg.incomplete.contains(&osd.0)
            })
        })
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
    pub(crate) fn commit(&mut self, now: TrueTime, id: u64) -> Result<Vec<Committed>, String> {
        let mut done = Vec::new();
        while self.pending.front().is_some_and(|entry| entry.id <= id)
            && let Some(entry) = self.pending.pop_front()
        {
            done.push(self.commit_one(now, entry)?);
        }
        Ok(done)
    }

    fn commit_one(&mut self, now: TrueTime, entry: Entry) -> Result<Committed, String> {
        let Entry {
            command, origin, ..
        } = entry;
        if matches!(origin, Origin::Mount { .. }) {
            self.forget_slot(&command);
        }
        let before = self.inodes(&origin);
        let reply = self.apply(&command)?;
        // What a session that has ended asks is not done, now or later.
        let refused = reply
            .as_ref()
            .is_err_and(|fault| fault.remedy == Remedy::Refresh);
        if let (Origin::Mount { change, .. }, Some(op), false) = (&origin, &command.op, refused) {
            self.names.applied(*change, op, &reply)?;
        }
        self.note_session(now, &command, &reply);
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
            session: command.session,
            origin,
            reply,
            removed,
        })
    }

    /// A session begins, ends, or was answered.
    fn note_session(&mut self, now: TrueTime, command: &Command, reply: &Reply) {
        match (&command.op, reply) {
            (
                Some(Op::OpenSession(_)),
                Ok(mrc::Response {
                    reply: Some(response::Reply::SessionOpened(opened)),
                }),
            ) => self.enter(now, opened.session, true),
            (Some(Op::ExpireSession(expire)), Ok(_)) => {
                let session = SessionId(expire.session);
                self.ended.entry(session).or_insert(now);
                self.soft.sessions.remove(&expire.session);
                if self.edit != Some(Edit::ReadersOfTheDead) {
                    self.soft.readers.leave(session);
                }
            }
            _ => {
                if let Some((heard, waiting)) = self.soft.sessions.get_mut(&command.session) {
                    *heard = now;
                    // Another leader has forgotten what waited.
                    *waiting = waiting.saturating_sub(1);
                }
            }
        }
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
    pub(crate) fn depose(&mut self, now: TrueTime, kept: usize) -> Result<Vec<Committed>, String> {
        self.away = self.leader.take();
        let kept = kept.min(self.pending.len());
        let mut committed = Vec::new();
        for entry in self.pending.drain(..).take(kept).collect::<Vec<_>>() {
            committed.push(self.commit_one(now, entry)?);
        }
        Ok(committed)
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn elect(&mut self, now: TrueTime, member: usize) {
        self.term += 1;
        self.leader = Some(member);
        self.soft = Soft::default();
        let known = query::sessions(&self.index).unwrap_or_default();
        for (session, record) in known {
            if !record.ended {
                self.enter(now, session.0, false);
            }
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
