//! Who has which file open for reading, as far as one leader was told. A leader keeps this in memory
//! only: a new one asks every session for a list of what it has open.
//!
//! What a session says of a file counts in the order in which the session said it, not in which it
//! arrives: a request that was lost on one way and repeated on another can arrive long after its
//! successors. So each sending of an Open, a Release or a list carries a number that the session
//! drew for it, growing from sending to sending, and a copy with a lower number than what is known of
//! the file changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use types::{Inode, SessionId, VolumeId};

use crate::config::RELEASES_MAX;

type File = (VolumeId, Inode);

/// What became of a session's wish to have a file open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Noted {
    /// It is open from now on.
    First,
    /// It was open before.
    Again,
    /// The session said since that it is closed: nobody waits for this.
    Late,
    /// The file is being removed.
    Reaped,
    /// There is no such session.
    NoSession,
}

/// The files that sessions have open for reading, and those that are being removed.
#[derive(Clone, Debug, Default)]
pub struct Readers {
    sessions: BTreeMap<SessionId, Told>,
    files: BTreeMap<File, BTreeSet<SessionId>>,
    /// Orphans that are being removed: nobody may open them any more.
    reaping: BTreeSet<File>,
}

/// What one session told.
#[derive(Clone, Debug)]
struct Told {
    volume: VolumeId,
    /// It gave a list.
    listed: bool,
    /// The number under which each open file was last said to be open.
    open: BTreeMap<Inode, u64>,
    /// The number under which each closed file was last said to be closed; the other way round below.
    closed: BTreeMap<Inode, u64>,
    closed_by_order: BTreeSet<(u64, Inode)>,
    /// Below it nothing is known of files that are not open, so nothing below it opens one.
    floor: u64,
}

impl Readers {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A session that may tell what it has open; `listed` if it is new and has nothing. Does nothing
    /// if it is here already.
    pub fn enter(&mut self, session: SessionId, volume: VolumeId, listed: bool) {
        self.sessions.entry(session).or_insert_with(|| Told {
            volume,
            listed,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            closed_by_order: BTreeSet::new(),
            floor: 0,
        });
    }

    /// The session has ended.
    pub fn leave(&mut self, session: SessionId) {
        if let Some(told) = self.sessions.remove(&session) {
            for inode in told.open.into_keys() {
                self.unread(session, (told.volume, inode));
            }
        }
    }

    /// Notes that the session has the file open, before anybody looks whether there is such a file: from
    /// now on it stays. [`undo`](Self::undo) takes back what was noted first.
    pub fn open(&mut self, session: SessionId, inode: Inode, order: u64) -> Noted {
        let Some(told) = self.sessions.get_mut(&session) else {
            return Noted::NoSession;
        };
        let file = (told.volume, inode);
        if self.reaping.contains(&file) {
            return Noted::Reaped;
        }
        if let Some(known) = told.open.get_mut(&inode) {
            *known = order.max(*known);
            return Noted::Again;
        }
        let closed = told.closed.get(&inode).copied();
        if order < closed.unwrap_or(told.floor) {
            return Noted::Late;
        }
        told.is_open(inode, order);
        self.files.entry(file).or_default().insert(session);
        Noted::First
    }

    /// There is no such file: nobody has it open, unless it was opened once more.
    pub fn undo(&mut self, session: SessionId, inode: Inode, order: u64) {
        let Some(told) = self.sessions.get_mut(&session) else {
            return;
        };
        if told.open.get(&inode) == Some(&order) {
            told.open.remove(&inode);
            let file = (told.volume, inode);
            self.unread(session, file);
        }
    }

    /// The session has the file open no more.
    pub fn release(&mut self, session: SessionId, inode: Inode, order: u64) {
        let Some(told) = self.sessions.get_mut(&session) else {
            return;
        };
        let known = told.open.get(&inode).or_else(|| told.closed.get(&inode));
        if known.is_some_and(|known| order < *known) {
            return;
        }
        told.is_closed(inode, order);
        let file = (told.volume, inode);
        self.unread(session, file);
    }

    /// All that the session has open. Returns whether that counts; if not, it is older than what is
    /// known, and another list is needed.
    pub fn list(&mut self, session: SessionId, inodes: &[Inode], order: u64) -> bool {
        let Some(told) = self.sessions.get_mut(&session) else {
            return false;
        };
        if order < told.floor {
            return false;
        }
        told.listed = true;
        told.floor = order;
        let listed: BTreeSet<Inode> = inodes.iter().copied().collect();
        let volume = told.volume;
        let open = told.open.iter();
        let gone = open.filter(|(inode, known)| **known < order && !listed.contains(inode));
        let gone: Vec<Inode> = gone.map(|(inode, _)| *inode).collect();
        for inode in &gone {
            told.open.remove(inode);
        }
        for inode in listed {
            if told.closed.get(&inode).is_none_or(|closed| *closed < order) {
                told.is_open(inode, order);
                let readers = self.files.entry((volume, inode)).or_default();
                readers.insert(session);
            }
        }
        told.forget_closed_below(order);
        for inode in gone {
            self.unread(session, (volume, inode));
        }
        true
    }

    /// Whether the session has told what it has open.
    pub fn has_listed(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|told| told.listed)
    }

    /// Whether all sessions have.
    pub fn have_all_listed(&self) -> bool {
        self.sessions.values().all(|told| told.listed)
    }

    /// How many files the session has open for reading.
    pub fn open_count(&self, session: SessionId) -> usize {
        let told = self.sessions.get(&session);
        told.map_or(0, |told| told.open.len())
    }

    /// Whether anybody has the file open for reading.
    pub fn is_read(&self, volume: VolumeId, inode: Inode) -> bool {
        self.files.contains_key(&(volume, inode))
    }

    /// Whether an orphan may be removed: nobody has it open for reading, and from now on nobody can,
    /// until [`reaped`](Self::reaped).
    pub fn reap(&mut self, volume: VolumeId, inode: Inode) -> bool {
        let unused = !self.is_read(volume, inode);
        if unused {
            self.reaping.insert((volume, inode));
        }
        unused
    }

    /// The orphan is gone, or could not be removed.
    pub fn reaped(&mut self, volume: VolumeId, inode: Inode) {
        self.reaping.remove(&(volume, inode));
    }

    fn unread(&mut self, session: SessionId, file: File) {
        if let Some(readers) = self.files.get_mut(&file) {
            readers.remove(&session);
            if readers.is_empty() {
                self.files.remove(&file);
            }
        }
    }
}

impl Told {
    fn is_open(&mut self, inode: Inode, order: u64) {
        if let Some(closed) = self.closed.remove(&inode) {
            self.closed_by_order.remove(&(closed, inode));
        }
        let known = self.open.entry(inode).or_default();
        *known = order.max(*known);
    }

    fn is_closed(&mut self, inode: Inode, order: u64) {
        self.open.remove(&inode);
        if let Some(closed) = self.closed.insert(inode, order) {
            self.closed_by_order.remove(&(closed, inode));
        }
        self.closed_by_order.insert((order, inode));
        if self.closed.len() > RELEASES_MAX
            && let Some((oldest, inode)) = self.closed_by_order.pop_first()
        {
            self.closed.remove(&inode);
            // An Open from before it would not be recognised: its session is asked to draw anew.
            self.floor = self.floor.max(oldest);
        }
    }

    fn forget_closed_below(&mut self, order: u64) {
        let newer = self.closed_by_order.split_off(&(order, Inode(0)));
        for (_, inode) in std::mem::replace(&mut self.closed_by_order, newer) {
            self.closed.remove(&inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId(1);
    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);
    const FILE: Inode = Inode(5);
    const OTHER: Inode = Inode(6);

    fn readers() -> Readers {
        let mut readers = Readers::new();
        readers.enter(ONE, VOLUME, false);
        readers.enter(TWO, VOLUME, false);
        readers
    }

    #[test]
    fn file_is_read_until_the_last_session_has_closed_it_or_ended() {
        let mut readers = readers();
        readers.open(ONE, FILE, 1);
        readers.open(TWO, FILE, 1);

        readers.release(ONE, FILE, 2);
        assert!(readers.is_read(VOLUME, FILE));
        readers.leave(TWO);

        assert!(!readers.is_read(VOLUME, FILE));
        assert_eq!(readers.open(TWO, FILE, 3), Noted::NoSession);
    }

    #[test]
    fn orphan_is_removed_or_opened_and_never_both() {
        let mut readers = readers();

        assert_eq!(readers.open(ONE, FILE, 1), Noted::First);
        assert_eq!(readers.open(ONE, FILE, 2), Noted::Again);
        assert!(!readers.reap(VOLUME, FILE), "it is open");
        readers.release(ONE, FILE, 3);
        assert!(readers.reap(VOLUME, FILE));
        assert_eq!(readers.open(ONE, FILE, 4), Noted::Reaped);
        readers.reaped(VOLUME, FILE);

        assert!(!readers.is_read(VOLUME, FILE));
        assert_eq!(readers.open(ONE, FILE, 5), Noted::First);
    }

    #[test]
    fn late_copies_neither_open_nor_close() {
        let mut readers = readers();
        readers.open(ONE, FILE, 1);
        readers.release(ONE, FILE, 2);

        assert_eq!(readers.open(ONE, FILE, 1), Noted::Late);
        assert!(!readers.is_read(VOLUME, FILE));
        assert_eq!(readers.open(ONE, FILE, 3), Noted::First);
        readers.release(ONE, FILE, 2);
        assert!(readers.is_read(VOLUME, FILE), "closed before, not now");
        readers.release(ONE, FILE, 4);
        readers.release(ONE, FILE, 2);
        assert_eq!(readers.open(ONE, FILE, 3), Noted::Late);
    }

    #[test]
    fn list_says_all_that_was_open_when_it_was_made_and_nothing_of_later() {
        let mut readers = readers();
        readers.open(ONE, FILE, 1);
        readers.open(ONE, Inode(7), 12);
        readers.release(ONE, Inode(8), 13);

        assert!(readers.list(ONE, &[OTHER, Inode(8)], 10));

        assert!(!readers.is_read(VOLUME, FILE), "closed before the list");
        assert!(readers.is_read(VOLUME, OTHER));
        assert!(readers.is_read(VOLUME, Inode(7)), "opened after the list");
        assert!(!readers.is_read(VOLUME, Inode(8)), "closed after the list");
        assert_eq!(
            readers.open(ONE, FILE, 9),
            Noted::Late,
            "closed by the list"
        );
        assert!(!readers.list(ONE, &[FILE], 9), "an older list");
        assert!(!readers.is_read(VOLUME, FILE));
        assert!(readers.has_listed(ONE) && !readers.has_listed(TWO));
        assert_eq!(readers.open_count(ONE), 2);
    }

    #[test]
    fn release_from_before_the_list_closes_nothing_of_it() {
        let mut readers = readers();
        readers.release(ONE, FILE, 3);
        readers.list(ONE, &[FILE], 10);
        readers.release(ONE, FILE, 4);

        assert!(readers.is_read(VOLUME, FILE));
        readers.release(ONE, FILE, 11);
        assert!(!readers.is_read(VOLUME, FILE));
    }

    #[test]
    fn what_was_noted_for_a_file_that_is_gone_is_undone_unless_opened_again() {
        let mut readers = readers();
        readers.open(ONE, FILE, 1);
        readers.undo(ONE, FILE, 1);
        assert!(!readers.is_read(VOLUME, FILE));

        readers.open(ONE, FILE, 2);
        readers.open(ONE, FILE, 3);
        readers.undo(ONE, FILE, 2);
        assert!(readers.is_read(VOLUME, FILE));
    }

    #[test]
    fn closed_files_are_remembered_up_to_a_limit_and_forgotten_ones_open_with_a_new_number() {
        let mut readers = readers();
        for order in 1..=RELEASES_MAX as u64 + 1 {
            readers.open(ONE, Inode(order + 100), 2 * order);
            readers.release(ONE, Inode(order + 100), 2 * order + 1);
        }

        // The first was forgotten, the second not.
        assert_eq!(readers.open(ONE, Inode(101), 2), Noted::Late);
        assert_eq!(readers.open(ONE, Inode(102), 4), Noted::Late);
        assert_eq!(readers.open(ONE, FILE, 2), Noted::Late);
        assert_eq!(readers.open(ONE, FILE, u64::MAX), Noted::First);
        assert_eq!(readers.sessions[&ONE].closed.len(), RELEASES_MAX);
        assert_eq!(readers.sessions[&ONE].closed_by_order.len(), RELEASES_MAX);
    }
}
