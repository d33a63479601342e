//! This server's copy of an object: its bytes in the store, and what they are worth.

use bytes::Bytes;
use types::{SUM_BYTES, blocks_of};

use crate::config::{Config, OBJECT_BYTES_MAX};
use crate::event::Membership;
use crate::marks::Marks;
use crate::mutant::Mutant;
use crate::position::{Position, Promise};
use crate::recent::{Recent, Span};
use crate::record::{Mark, Marked, Record};
use crate::store::{ObjectKey, ObjectStore, StoreError};
use proto::peer;

/// Whether the bytes are the history up to the copy's position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trust {
    /// They are.
    Trusted,
    /// There was no object when the replica was opened; the membership says what that means.
    Absent,
    /// The server crashed after changes: some may be missing, or torn.
    Suspect,
    /// A primary (perhaps this one) is replacing blocks.
    CatchingUp,
}

/// A change of an object's bytes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { offset: u64, data: Bytes },
    Truncate { length_bytes: u64 },
}

impl Change {
    /// Bytes whose value may differ afterwards, given the length before.
    pub(crate) fn span(&self, length_before: u64) -> Span {
        match self {
            Self::Write { offset, data } => {
                (length_before.min(*offset), offset + data.len() as u64)
            }
            Self::Truncate { length_bytes } => (
                length_before.min(*length_bytes),
                length_before.max(*length_bytes),
            ),
        }
    }

    /// Bytes that travel with it.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Write { data, .. } => data.len() as u64,
            Self::Truncate { .. } => 0,
        }
    }

    /// Whether the object would stay below its largest size.
    pub(crate) fn fits(&self) -> bool {
        let end = match self {
            Self::Write { offset, data } => offset.checked_add(data.len() as u64),
            Self::Truncate { length_bytes } => Some(*length_bytes),
        };
        end.is_some_and(|end| end <= OBJECT_BYTES_MAX)
    }
}

/// What a copy was at a position.
#[derive(Clone, Debug)]
struct Kept {
    position: Position,
    marks: Marks,
    length_bytes: u64,
}

/// The copy.
#[derive(Debug)]
pub(crate) struct LocalCopy {
    pub(crate) key: ObjectKey,
    pub(crate) exists: bool,
    /// The newest record known to be written: stable, but for a newborn object's first one.
    pub(crate) record: Record,
    pub(crate) promised: Promise,
    /// Newest change applied; worth nothing unless trusted.
    pub(crate) position: Position,
    pub(crate) length_bytes: u64,
    pub(crate) trust: Trust,
    pub(crate) marks: Marks,
    pub(crate) recent: Recent,
    /// What it was when its bytes began to be replaced by those of later changes. Until it is where it is
    /// brought to, it still has everything up to there.
    kept: Option<Kept>,
    /// What the record is to tell at most, when it is taken back.
    pub(crate) taken_back: Option<(Position, Marks)>,
    /// The store failed: no changes, no votes.
    pub(crate) failed: bool,
}

impl LocalCopy {
    pub(crate) fn open(
        key: ObjectKey,
        config: &Config,
        store: &mut dyn ObjectStore,
    ) -> Result<Self, StoreError> {
        let header = store.open(key)?;
        let exists = header.is_some();
        let header = header.unwrap_or_default();
        let record = header.record;
        let trusted = record.clean || config.has(Mutant::SuspectsTrusted);
        let mut recent = Recent::default();
        recent.reset(record.position);
        Ok(Self {
            key,
            exists,
            promised: record.promised,
            position: record.position,
            length_bytes: header.length_bytes,
            trust: match (exists, trusted) {
                (false, _) => Trust::Absent,
                (true, true) => Trust::Trusted,
                (true, false) => Trust::Suspect,
            },
            marks: Marks::from(record.marks.clone()),
            recent,
            kept: None,
            taken_back: None,
            failed: false,
            record,
        })
    }

    pub(crate) fn is_trusted(&self, membership: &Membership) -> bool {
        match self.trust {
            Trust::Trusted => true,
            Trust::Absent => membership.recovered && !membership.incomplete,
            Trust::Suspect | Trust::CatchingUp => false,
        }
    }

    /// Where the copy is or was in memory, so that others can tell what has changed since.
    pub(crate) fn known_position(&self, membership: &Membership) -> Option<Position> {
        match self.is_trusted(membership) {
            true => Some(self.position),
            false => self.kept.as_ref().map(|kept| kept.position),
        }
    }

    /// The newest change this copy vouches for.
    pub(crate) fn vouched(&self, membership: &Membership) -> Position {
        match (self.is_trusted(membership), &self.kept) {
            (true, _) => self.position,
            (false, Some(kept)) => kept.position.max(self.record.position),
            (false, None) => self.record.position,
        }
    }

    /// The newest changes up to the position that the copy vouches for.
    pub(crate) fn vouched_marks(&self, trusted: bool) -> Marks {
        match (trusted, &self.kept) {
            (true, _) => self.marks.clone(),
            (false, Some(kept)) if kept.position >= self.record.position => kept.marks.clone(),
            (false, _) => Marks::from(self.record.marks.clone()),
        }
    }

    /// Whether changes may be made under the promise: it is on disk (or of a newborn object), and the
    /// disk does not say that there are none.
    pub(crate) fn is_writable(&self) -> bool {
        self.exists && self.record.promised == self.promised && !self.record.clean
    }

    /// What a new primary learns of this copy.
    pub(crate) fn answer(&self, membership: &Membership, asker: Option<Position>) -> Answer {
        let trusted = self.is_trusted(membership);
        let position = self.vouched(membership);
        let beyond = self
            .kept
            .as_ref()
            .filter(|kept| !trusted && kept.position >= self.record.position);
        // What the copy has beyond is of the later history.
        let length_bytes = beyond.map_or(self.length_bytes, |kept| {
            kept.length_bytes.min(self.length_bytes)
        });
        let never_adopted = !trusted && position == Position::default();
        let incomplete = membership.incomplete && never_adopted;
        let changed = asker.filter(|_| trusted);
        Answer {
            position,
            suspect: !trusted && !incomplete,
            incomplete,
            exists: self.exists,
            length_bytes,
            marks: self.vouched_marks(trusted).to_vec(),
            changed: changed.and_then(|position| self.recent.since(position)),
        }
    }

    /// Makes the object if there is none. Its first record is not stable, so it says nothing of the
    /// promise unless the object is newborn, whose promise need not be.
    pub(crate) fn create(
        &mut self,
        newborn: bool,
        membership: &Membership,
        store: &mut dyn ObjectStore,
    ) -> Result<(), StoreError> {
        if self.exists {
            return Ok(());
        }
        let mut record = Record::default();
        if newborn {
            record.promised = self.promised;
        }
        store.create(self.key, &record)?;
        if self.trust == Trust::Absent {
            self.trust = match self.is_trusted(membership) {
                true => Trust::Trusted,
                false => Trust::Suspect,
            };
        }
        self.record = record;
        self.exists = true;
        Ok(())
    }

    /// Declares the copy to be at `position`, with the bytes it has.
    pub(crate) fn relabel(&mut self, position: Position) {
        if self.trust == Trust::CatchingUp || self.trust == Trust::Suspect {
            self.recent.reset(position);
        } else {
            self.recent.push(position, (0, 0));
        }
        self.position = position;
        self.trust_again();
    }

    /// The bytes are the history up to the position.
    pub(crate) fn trust_again(&mut self) {
        self.trust = Trust::Trusted;
        self.kept = None;
    }

    /// Stops vouching for the bytes: they are being replaced, or half a change is there. What it vouched for goes
    /// on to count if what comes `extends` that, if only like a copy that crashed: it may hold parts of later
    /// changes.
    pub(crate) fn lose_trust(&mut self, config: &Config, extends: bool) {
        let extends =
            (extends || config.has(Mutant::KeptOfAnyHistory)) && !config.has(Mutant::KeptForgotten);
        let kept = match self.trust {
            Trust::Trusted => Some(Kept {
                position: self.position,
                marks: self.marks.clone(),
                length_bytes: self.length_bytes,
            }),
            Trust::CatchingUp => self.kept.take(),
            Trust::Absent | Trust::Suspect => None,
        };
        self.kept = kept.filter(|_| extends);
        self.trust = Trust::CatchingUp;
    }

    /// Has the record tell of nothing that the history of `base` has not: of the newest position until there where
    /// this copy was, and of the changes that both have. The copy need not have all that is there at `base`.
    pub(crate) fn take_back(
        &mut self,
        config: &Config,
        (base, base_length_bytes): (Position, u64),
        base_marks: &Marks,
    ) {
        let recorded = self.record.position;
        let mut position = match (recorded.epoch, recorded.holder) == (base.epoch, base.holder) {
            // One primary's changes are one history.
            true => base,
            false => self.recent.newest_until(base).unwrap_or_default(),
        };
        let mut marks = Marks::from(self.record.marks.clone()).common(base_marks);
        if position == base {
            // What is longer is of changes that are taken back.
            self.kept = Some(Kept {
                position,
                marks: marks.clone(),
                length_bytes: base_length_bytes,
            });
        }
        if config.has(Mutant::TakenBackToBase) {
            (position, marks) = (base, base_marks.clone());
        }
        self.taken_back = Some((position, marks));
    }

    /// Makes the object so long as it is to become, but cuts nothing off that the copy still vouches for.
    pub(crate) fn make_room_for(
        &mut self,
        length_bytes: u64,
        store: &mut dyn ObjectStore,
    ) -> Result<(), StoreError> {
        let kept_bytes = self.kept.as_ref().map_or(0, |kept| kept.length_bytes);
        self.set_length(length_bytes.max(kept_bytes.min(self.length_bytes)), store)
    }

    /// Takes the copy as it was when it began to be replaced, with what came since in its bytes.
    pub(crate) fn fall_back(&mut self, store: &mut dyn ObjectStore) -> Result<(), StoreError> {
        match &self.kept {
            Some(kept) if kept.position >= self.record.position => {
                self.set_length(self.length_bytes.min(kept.length_bytes), store)
            }
            _ => Ok(()),
        }
    }

    /// Applies the next change of the history.
    pub(crate) fn apply(
        &mut self,
        position: Position,
        change: &Change,
        marked: Marked,
        store: &mut dyn ObjectStore,
    ) -> Result<(), StoreError> {
        let span = change.span(self.length_bytes);
        match change {
            Change::Write { offset, data } => {
                let written = store.write(self.key, *offset, data);
                self.length_bytes = store.length(self.key);
                written?;
            }
            Change::Truncate { length_bytes } => self.set_length(*length_bytes, store)?,
        }
        self.position = position;
        self.recent.push(position, span);
        self.marks.note_all(marked);
        Ok(())
    }

    pub(crate) fn set_length(
        &mut self,
        length_bytes: u64,
        store: &mut dyn ObjectStore,
    ) -> Result<(), StoreError> {
        if self.length_bytes != length_bytes {
            let done = store.truncate(self.key, length_bytes);
            self.length_bytes = store.length(self.key);
            done?;
        }
        Ok(())
    }

    /// Cuts off what a write without room has added. False if it had replaced something before, or that can't be
    /// done.
    pub(crate) fn cut_back(
        &mut self,
        change: &Change,
        (before, written_bytes): (u64, u64),
        store: &mut dyn ObjectStore,
    ) -> bool {
        let Change::Write { offset, .. } = change else {
            return false;
        };
        let replaces = before > *offset && written_bytes > 0;
        self.set_length(before, store).is_ok() && !replaces
    }

    /// Number of blocks from `first` on that are known to hold nothing but zeros.
    pub(crate) fn zero_blocks(&self, first: u64, store: &mut dyn ObjectStore) -> u64 {
        let offset = first.saturating_mul(SUM_BYTES);
        let end = match store.seek(self.key, offset, false) {
            Ok(Some(data)) => blocks_of(data, 1, SUM_BYTES).start,
            Ok(None) => blocks_of(0, store.length(self.key), SUM_BYTES).end,
            Err(_) => 0,
        };
        end.saturating_sub(first)
    }

    /// Puts a block as another replica has it; `zero_bytes` stands for that many zeros.
    pub(crate) fn repair(
        &mut self,
        offset: u64,
        data: &Bytes,
        zero_bytes: u64,
        store: &mut dyn ObjectStore,
    ) -> Result<(), StoreError> {
        let done = match data.is_empty() {
            true => store.write_zeros(self.key, offset, zero_bytes),
            false => store.write(self.key, offset, data),
        };
        self.length_bytes = store.length(self.key);
        done
    }
}

/// What a replica vouches for, as a new primary sees it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) position: Position,
    pub(crate) suspect: bool,
    pub(crate) incomplete: bool,
    pub(crate) exists: bool,
    pub(crate) length_bytes: u64,
    pub(crate) marks: Vec<Mark>,
    /// Bytes that changed from the asker's position to `position`, if that is known.
    pub(crate) changed: Option<Vec<Span>>,
}

impl Answer {
    pub(crate) const fn is_trusted(&self) -> bool {
        !self.suspect && !self.incomplete
    }

    pub(crate) fn to_message(&self, durable: Position) -> peer::Activated {
        let changed = self.changed.iter().flatten();
        peer::Activated {
            position: Some(self.position.into()),
            durable: Some(durable.into()),
            suspect: self.suspect,
            incomplete: self.incomplete,
            exists: self.exists,
            length_bytes: self.length_bytes,
            marks: self.marks.iter().map(|mark| (*mark).into()).collect(),
            changed_known: self.changed.is_some(),
            changed: changed
                .map(|(start, end)| peer::Range {
                    offset: *start,
                    length_bytes: end - start,
                })
                .collect(),
        }
    }

    pub(crate) fn from_message(message: peer::Activated) -> Self {
        let changed = message.changed.iter();
        let changed = changed.map(|range| {
            (
                range.offset,
                range.offset.saturating_add(range.length_bytes),
            )
        });
        Self {
            position: message.position.unwrap_or_default().into(),
            suspect: message.suspect,
            incomplete: message.incomplete,
            exists: message.exists,
            length_bytes: message.length_bytes.min(OBJECT_BYTES_MAX),
            changed: message.changed_known.then(|| changed.collect()),
            marks: message.marks.into_iter().map(Into::into).collect(),
        }
    }
}
