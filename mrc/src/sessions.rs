//! What the leader remembers of sessions: when they were heard, what they have open for reading.
//!
//! None of it is replicated. A new leader gives every session a full timeout and asks it for its
//! open files; until all have told them, or have ended, no orphan is reaped.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mrc_core::{IndexError, IndexRead, Noted, Readers, query};
use proto::mrc::MountNumbers;
use types::{Fault, Inode, SessionId, VolumeId};

use crate::consensus::LeaderId;
use crate::log_writer::lock;

/// Sessions as the leader knows them.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    leadership: Option<LeaderId>,
    sessions: HashMap<SessionId, Soft>,
    readers: Readers,
}

#[derive(Debug)]
struct Soft {
    volume: VolumeId,
    heard: Instant,
    /// Changes it waits for: a session that is kept waiting is not silent.
    waiting: u32,
    /// Addresses of metadata servers that it was told last.
    told: Vec<String>,
    /// What the mount said of itself last, and before, and when.
    numbers: Option<(Instant, MountNumbers)>,
    before: Option<(Instant, MountNumbers)>,
}

/// What administrators see of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity {
    pub idle: Duration,
    pub open_inodes: u64,
    /// What the mount said last, and how long ago.
    pub numbers: Option<(Duration, MountNumbers)>,
    /// What it said before, and how much earlier.
    pub before: Option<(Duration, MountNumbers)>,
}

impl Sessions {
    /// Begins anew if the leadership is another one than before.
    pub(crate) fn enter(&self, leader: LeaderId, index: &dyn IndexRead) -> Result<(), IndexError> {
        let mut table = lock(&self.0);
        if table.leadership == Some(leader) {
            return Ok(());
        }
        let now = Instant::now();
        let known = query::sessions(index)?;
        *table = Table {
            leadership: Some(leader),
            ..Table::default()
        };
        for (session, record) in known.into_iter().filter(|(_, record)| !record.ended) {
            let volume = VolumeId(record.volume);
            table.sessions.insert(session, Soft::new(volume, now));
            table.readers.enter(session, volume, false);
        }
        Ok(())
    }

    /// Its volume; hearing from it keeps it alive.
    pub(crate) fn touch(&self, session: SessionId) -> Result<VolumeId, Fault> {
        let mut table = lock(&self.0);
        match table.sessions.get_mut(&session) {
            Some(soft) => {
                soft.heard = Instant::now();
                Ok(soft.volume)
            }
            None => Err(unknown(session)),
        }
    }

    /// As [`touch`](Self::touch), for a change that is proposed now: [`changed`](Self::changed)
    /// must follow.
    pub(crate) fn changing(&self, session: SessionId) -> Result<VolumeId, Fault> {
        let mut table = lock(&self.0);
        let soft = table
            .sessions
            .get_mut(&session)
            .ok_or_else(|| unknown(session))?;
        soft.waiting += 1;
        Ok(soft.volume)
    }

    /// The change was applied or refused.
    pub(crate) fn changed(&self, session: SessionId) {
        let mut table = lock(&self.0);
        if let Some(soft) = table.sessions.get_mut(&session) {
            soft.heard = Instant::now();
            // Another leadership has forgotten what waited.
            soft.waiting = soft.waiting.saturating_sub(1);
        }
    }

    /// The session was told these addresses of metadata servers.
    pub(crate) fn told(&self, session: SessionId, addresses: &[String]) {
        if let Some(soft) = lock(&self.0).sessions.get_mut(&session) {
            addresses.clone_into(&mut soft.told);
        }
    }

    /// How many sessions were told others, or nothing yet by this leader.
    pub(crate) fn untold(&self, addresses: &[String]) -> usize {
        let table = lock(&self.0);
        let told = table.sessions.values().map(|soft| &soft.told);
        told.filter(|told| *told != addresses).count()
    }

    /// Gives all sessions their full time again: this server did not listen for a while.
    pub(crate) fn forgive(&self) {
        let now = Instant::now();
        for soft in lock(&self.0).sessions.values_mut() {
            soft.heard = now;
        }
    }

    pub(crate) fn opened(&self, session: SessionId, volume: VolumeId) {
        let mut table = lock(&self.0);
        let now = Instant::now();
        // A repeated request finds a session that may have files open already.
        let soft = table.sessions.entry(session);
        soft.or_insert_with(|| Soft::new(volume, now)).heard = now;
        table.readers.enter(session, volume, true);
    }

    pub(crate) fn ended(&self, session: SessionId) {
        let mut table = lock(&self.0);
        table.sessions.remove(&session);
        table.readers.leave(session);
    }

    /// Notes that the session has the file open for reading, before anybody looks whether there is
    /// such a file: from now on it stays. Returns whether the session had not opened it before; then
    /// [`undo`](Self::undo) undoes this.
    pub(crate) fn open(&self, session: SessionId, inode: Inode, order: u64) -> Result<bool, Fault> {
        match lock(&self.0).readers.open(session, inode, order) {
            Noted::First => Ok(true),
            Noted::Again => Ok(false),
            Noted::Late => Err(Fault::retry(
                "the session has said since that the file is closed; ask under a new number",
            )),
            Noted::Reaped => Err(Fault::surface(
                libc::ESTALE,
                "the file was removed; look its path up again",
            )),
            Noted::NoSession => Err(unknown(session)),
        }
    }

    /// There is no such file.
    pub(crate) fn undo(&self, session: SessionId, inode: Inode, order: u64) {
        lock(&self.0).readers.undo(session, inode, order);
    }

    /// Whether an orphan may be removed: nobody has it open for reading, and from now on nobody can,
    /// until [`reaped`](Self::reaped).
    pub(crate) fn reap(&self, volume: VolumeId, inode: Inode) -> bool {
        lock(&self.0).readers.reap(volume, inode)
    }

    /// The orphan is gone, or could not be removed.
    pub(crate) fn reaped(&self, volume: VolumeId, inode: Inode) {
        lock(&self.0).readers.reaped(volume, inode);
    }

    pub(crate) fn release(&self, session: SessionId, inode: Inode, order: u64) {
        lock(&self.0).readers.release(session, inode, order);
    }

    /// A keep-alive, with what is open if it is meant for this leader; returns whether the leader
    /// still lacks that.
    pub(crate) fn keep_alive(
        &self,
        session: SessionId,
        open: Option<Vec<Inode>>,
        order: u64,
    ) -> Result<bool, Fault> {
        let mut table = lock(&self.0);
        let soft = table
            .sessions
            .get_mut(&session)
            .ok_or_else(|| unknown(session))?;
        soft.heard = Instant::now();
        if let Some(open) = open {
            table.readers.list(session, &open, order);
        }
        Ok(!table.readers.has_listed(session))
    }

    /// The mount says how it does.
    pub(crate) fn says(&self, session: SessionId, numbers: MountNumbers) {
        if let Some(soft) = lock(&self.0).sessions.get_mut(&session) {
            soft.before = soft.numbers.replace((Instant::now(), numbers));
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).sessions.len()
    }

    /// Sessions that were silent for longer than `timeout`.
    pub(crate) fn expired(&self, timeout: Duration) -> Vec<SessionId> {
        let table = lock(&self.0);
        let silent = |soft: &Soft| soft.waiting == 0 && soft.heard.elapsed() > timeout;
        let sessions = table.sessions.iter();
        let silent = sessions.filter(|(_, soft)| silent(soft));
        silent.map(|(session, _)| *session).collect()
    }

    /// Whether every session has told this leader what it has open. One that does not has to end first: by
    /// the clock alone, a mount that comes back just before its session would end could lose a file that it has
    /// open.
    pub(crate) fn complete(&self) -> bool {
        lock(&self.0).readers.have_all_listed()
    }

    pub(crate) fn activity(&self, session: SessionId) -> Activity {
        let table = lock(&self.0);
        table
            .sessions
            .get(&session)
            .map_or_else(Activity::default, |soft| Activity {
                idle: soft.heard.elapsed(),
                open_inodes: table.readers.open_count(session) as u64,
                numbers: soft
                    .numbers
                    .as_ref()
                    .map(|(at, numbers)| (at.elapsed(), numbers.clone())),
                before: soft.before.as_ref().map(|(at, before)| {
                    let last = soft.numbers.as_ref().map_or(*at, |(at, _)| *at);
                    (last.duration_since(*at), before.clone())
                }),
            })
    }
}

impl Soft {
    fn new(volume: VolumeId, heard: Instant) -> Self {
        Self {
            volume,
            heard,
            waiting: 0,
            told: Vec::new(),
            numbers: None,
            before: None,
        }
    }
}

fn unknown(session: SessionId) -> Fault {
    Fault::refresh(format!(
        "session {session} is unknown or has ended; open a new one"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId(1);
    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);
    const FILE: Inode = Inode(5);

    #[test]
    fn new_leadership_knows_no_readers_until_sessions_register() {
        let index = mrc_core::MemoryIndex::new();
        let mut batch = mrc_core::Batch::new();
        let record = proto::index::SessionRecord {
            volume: VOLUME.0,
            ..Default::default()
        };
        batch.put(
            mrc_core::keys::session(ONE),
            prost::Message::encode_to_vec(&record),
        );
        mrc_core::Index::apply(&index, batch).unwrap();
        let sessions = Sessions::default();

        sessions
            .enter(
                LeaderId {
                    term: 2,
                    node_id: 1,
                },
                &index,
            )
            .unwrap();

        assert!(!sessions.complete());
        assert_eq!(sessions.keep_alive(ONE, None, 0), Ok(true));
        assert_eq!(sessions.keep_alive(ONE, Some(vec![FILE]), 1), Ok(false));
        assert!(sessions.complete());
        assert!(lock(&sessions.0).readers.is_read(VOLUME, FILE));
        assert_eq!(sessions.keep_alive(ONE, None, 0), Ok(false));

        sessions
            .enter(
                LeaderId {
                    term: 3,
                    node_id: 1,
                },
                &index,
            )
            .unwrap();
        assert!(!lock(&sessions.0).readers.is_read(VOLUME, FILE));
        assert!(!sessions.complete());
        assert_eq!(sessions.expired(Duration::ZERO), [ONE]);
        assert!(!sessions.complete(), "silent for long, and not ended");
        sessions.ended(ONE);
        assert!(sessions.complete());
    }

    #[test]
    fn numbers_of_a_mount_are_kept_with_those_before() {
        let sessions = Sessions::default();
        sessions.opened(ONE, VOLUME);
        let numbers = |operations| MountNumbers {
            operations,
            ..MountNumbers::default()
        };
        assert!(sessions.activity(ONE).numbers.is_none());

        sessions.says(ONE, numbers(1));
        sessions.says(ONE, numbers(5));
        sessions.says(TWO, numbers(7));

        let activity = sessions.activity(ONE);
        assert_eq!(activity.numbers.unwrap().1.operations, 5);
        assert_eq!(activity.before.unwrap().1.operations, 1);
        assert!(sessions.activity(TWO).numbers.is_none());
    }

    #[test]
    fn silent_session_expires_and_a_heard_one_does_not() {
        let sessions = Sessions::default();
        sessions.opened(ONE, VOLUME);

        assert_eq!(sessions.expired(Duration::from_secs(3600)), []);
        assert_eq!(sessions.expired(Duration::ZERO), [ONE]);
    }

    #[test]
    fn session_that_waits_for_its_change_is_not_silent() {
        let sessions = Sessions::default();
        sessions.opened(ONE, VOLUME);

        assert_eq!(sessions.changing(ONE), Ok(VOLUME));
        assert_eq!(sessions.expired(Duration::ZERO), []);
        sessions.changed(ONE);

        assert_eq!(sessions.expired(Duration::ZERO), [ONE]);
        assert!(sessions.changing(TWO).is_err());
    }
}
