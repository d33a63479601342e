//! What the leader remembers of sessions: when they were heard, what they have open for reading.
//!
//! None of it is replicated. A new leader gives every session a full timeout and asks it for its
//! open files; until all have told them, or their time is over, no orphan is reaped.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mrc_core::{IndexError, IndexRead, query};
use types::{Fault, Inode, SessionId, VolumeId};

use crate::consensus::LeaderId;
use crate::log_writer::lock;

/// Sessions as the leader knows them.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    leadership: Option<LeaderId>,
    since: Option<Instant>,
    sessions: HashMap<SessionId, Soft>,
    /// Who has a file open for reading.
    readers: HashMap<(VolumeId, Inode), HashSet<SessionId>>,
    /// Orphans that are being removed: nobody may open them any more.
    reaping: HashSet<(VolumeId, Inode)>,
}

#[derive(Debug)]
struct Soft {
    volume: VolumeId,
    heard: Instant,
    /// Changes it waits for: a session that is kept waiting is not silent.
    waiting: u32,
    /// It told this leader what it has open.
    registered: bool,
    open: HashSet<Inode>,
}

/// What administrators see of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activity {
    pub idle: Duration,
    pub open_inodes: u64,
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
            since: Some(now),
            sessions: known
                .into_iter()
                .filter(|(_, record)| !record.ended)
                .map(|(session, record)| (session, Soft::new(VolumeId(record.volume), now, false)))
                .collect(),
            ..Table::default()
        };
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
        table
            .sessions
            .entry(session)
            .or_insert_with(|| Soft::new(volume, now, true))
            .heard = now;
    }

    pub(crate) fn ended(&self, session: SessionId) {
        let mut table = lock(&self.0);
        if let Some(soft) = table.sessions.remove(&session) {
            for inode in soft.open {
                table.close(session, (soft.volume, inode));
            }
        }
    }

    /// Notes that the session has the file open for reading, before anybody looks whether there is
    /// such a file: from now on it stays. Returns whether the session had not opened it before; then
    /// [`release`](Self::release) undoes this.
    pub(crate) fn open(&self, session: SessionId, inode: Inode) -> Result<bool, Fault> {
        let mut table = lock(&self.0);
        let Some(soft) = table.sessions.get(&session) else {
            return Err(unknown(session));
        };
        let volume = soft.volume;
        if table.reaping.contains(&(volume, inode)) {
            return Err(Fault::surface(
                libc::ESTALE,
                "the file was removed; look its path up again",
            ));
        }
        table
            .readers
            .entry((volume, inode))
            .or_default()
            .insert(session);
        let soft = table.sessions.get_mut(&session);
        Ok(soft.is_some_and(|soft| soft.open.insert(inode)))
    }

    /// Whether an orphan may be removed: nobody has it open for reading, and from now on nobody can,
    /// until [`reaped`](Self::reaped).
    pub(crate) fn reap(&self, volume: VolumeId, inode: Inode) -> bool {
        let mut table = lock(&self.0);
        let unused = !table.readers.contains_key(&(volume, inode));
        if unused {
            table.reaping.insert((volume, inode));
        }
        unused
    }

    /// The orphan is gone, or could not be removed.
    pub(crate) fn reaped(&self, volume: VolumeId, inode: Inode) {
        lock(&self.0).reaping.remove(&(volume, inode));
    }

    pub(crate) fn release(&self, session: SessionId, inode: Inode) {
        let mut table = lock(&self.0);
        if let Some(soft) = table.sessions.get_mut(&session) {
            soft.open.remove(&inode);
            let volume = soft.volume;
            table.close(session, (volume, inode));
        }
    }

    #[cfg(test)]
    fn has_readers(&self, volume: VolumeId, inode: Inode) -> bool {
        lock(&self.0).readers.contains_key(&(volume, inode))
    }

    /// A keep-alive; returns whether the leader still lacks what the session has open.
    pub(crate) fn keep_alive(
        &self,
        session: SessionId,
        open: Option<Vec<Inode>>,
    ) -> Result<bool, Fault> {
        let mut table = lock(&self.0);
        let soft = table
            .sessions
            .get_mut(&session)
            .ok_or_else(|| unknown(session))?;
        soft.heard = Instant::now();
        let volume = soft.volume;
        if let Some(open) = open {
            soft.registered = true;
            soft.open.extend(open.iter().copied());
            for inode in open {
                table
                    .readers
                    .entry((volume, inode))
                    .or_default()
                    .insert(session);
            }
            return Ok(false);
        }
        Ok(!soft.registered)
    }

    /// Sessions that were silent for longer than `timeout`.
    pub(crate) fn expired(&self, timeout: Duration) -> Vec<SessionId> {
        let table = lock(&self.0);
        let silent = |soft: &Soft| soft.waiting == 0 && soft.heard.elapsed() > timeout;
        let sessions = table.sessions.iter();
        let silent = sessions.filter(|(_, soft)| silent(soft));
        silent.map(|(session, _)| *session).collect()
    }

    /// Whether every session has told this leader what it has open, or had the time to.
    pub(crate) fn complete(&self, timeout: Duration) -> bool {
        let table = lock(&self.0);
        table.since.is_some_and(|since| since.elapsed() > timeout)
            || table.sessions.values().all(|soft| soft.registered)
    }

    pub(crate) fn activity(&self, session: SessionId) -> Activity {
        let table = lock(&self.0);
        table
            .sessions
            .get(&session)
            .map_or_else(Activity::default, |soft| Activity {
                idle: soft.heard.elapsed(),
                open_inodes: soft.open.len() as u64,
            })
    }
}

impl Soft {
    fn new(volume: VolumeId, heard: Instant, registered: bool) -> Self {
        Self {
            volume,
            heard,
            waiting: 0,
            registered,
            open: HashSet::new(),
        }
    }
}

impl Table {
    fn close(&mut self, session: SessionId, file: (VolumeId, Inode)) {
        if let Some(readers) = self.readers.get_mut(&file) {
            readers.remove(&session);
            if readers.is_empty() {
                self.readers.remove(&file);
            }
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
    fn file_has_readers_until_the_last_of_them_is_gone() {
        let sessions = Sessions::default();
        sessions.opened(ONE, VOLUME);
        sessions.opened(TWO, VOLUME);
        sessions.open(ONE, FILE).unwrap();
        sessions.open(TWO, FILE).unwrap();

        sessions.release(ONE, FILE);
        assert!(sessions.has_readers(VOLUME, FILE));
        sessions.ended(TWO);

        assert!(!sessions.has_readers(VOLUME, FILE));
        assert!(sessions.open(TWO, FILE).is_err());
    }

    #[test]
    fn orphan_is_removed_or_opened_and_never_both() {
        let sessions = Sessions::default();
        sessions.opened(ONE, VOLUME);

        assert_eq!(sessions.open(ONE, FILE), Ok(true));
        assert_eq!(sessions.open(ONE, FILE), Ok(false));
        assert!(!sessions.reap(VOLUME, FILE), "it is open");
        sessions.release(ONE, FILE);
        assert!(sessions.reap(VOLUME, FILE));
        let late = sessions.open(ONE, FILE).unwrap_err();
        sessions.reaped(VOLUME, FILE);

        assert_eq!(late.errno, libc::ESTALE);
        assert!(!sessions.has_readers(VOLUME, FILE));
        assert_eq!(sessions.open(ONE, FILE), Ok(true));
    }

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
        let hour = Duration::from_secs(3600);

        sessions
            .enter(
                LeaderId {
                    term: 2,
                    node_id: 1,
                },
                &index,
            )
            .unwrap();

        assert!(!sessions.complete(hour));
        assert_eq!(sessions.keep_alive(ONE, None), Ok(true));
        assert_eq!(sessions.keep_alive(ONE, Some(vec![FILE])), Ok(false));
        assert!(sessions.complete(hour));
        assert!(sessions.has_readers(VOLUME, FILE));
        assert_eq!(sessions.keep_alive(ONE, None), Ok(false));

        sessions
            .enter(
                LeaderId {
                    term: 3,
                    node_id: 1,
                },
                &index,
            )
            .unwrap();
        assert!(!sessions.has_readers(VOLUME, FILE));
        assert!(!sessions.complete(hour));
        assert!(sessions.complete(Duration::ZERO));
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
