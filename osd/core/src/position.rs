//! Promises and positions: whose history a replica follows, and how far it has come.

use types::OsdId;

use proto::peer;

/// Elected epochs are greater than this, newborn ones (boot counters) at most this.
///
/// A newborn object's primary announces its epoch and sends changes in one go, so a replica may hold
/// changes of a primary that a majority then refused. Such a history must never outrank one that was
/// activated by a majority: it can't, because its epoch is always the smaller number.
pub const NEWBORN_EPOCH_MAX: u64 = u32::MAX as u64;

/// The newest epoch a replica follows, and whose it is. Compared epoch first.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Promise {
    /// Epoch of a lease.
    pub epoch: u64,
    /// Its holder.
    pub holder: OsdId,
}

/// The newest change of a history; names the state of an object that has applied all up to it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Epoch under which the change was made or adopted.
    pub epoch: u64,
    /// Number of the change.
    pub seq: u64,
    /// Who was primary; makes the epoch unambiguous.
    pub holder: OsdId,
}

impl From<Position> for peer::Position {
    fn from(position: Position) -> Self {
        Self {
            epoch: position.epoch,
            holder: position.holder.0,
            seq: position.seq,
        }
    }
}

impl From<peer::Position> for Position {
    fn from(position: peer::Position) -> Self {
        Self {
            epoch: position.epoch,
            holder: OsdId(position.holder),
            seq: position.seq,
        }
    }
}
