//! Limits of seeding, each with its reason.

use std::time::Duration;

/// Groups a server receives at a time. 2: as many as the planner lets change at one server.
pub(super) const RECEIVED_MAX: usize = 2;
/// Groups a server sends at a time, each with a snapshot of its own. 2: as many as it receives; whoever comes later
/// waits.
pub(super) const SENT_MAX: usize = 2;
/// Bytes of a stream asked for at once. 1 MiB: a round trip of 10 ms costs a fifth of the default rate at most, and a
/// slow rate is kept in steps of seconds.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// Pieces between the link and `zfs receive`. 2: one is written while the next one is asked for.
pub(super) const PIECES: usize = 2;
/// Increments that may follow a stream. 4: each brings what changed during the one before, which is less each time
/// unless programs write faster than streams are sent, and then no number would do.
pub(super) const INCREMENTS_MAX: u32 = 4;
/// How long a server may take to say what it has of a group, and to make a snapshot of it. 120 s: some commands, each
/// of which waits for a transaction group on a busy pool.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a piece may take. 300 s: at the lowest rate it waits for some windows of repairs that were before it.
pub(super) const PIECE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a sender may be out of reach before its stream is given up. 30 s: a link that broke is up again within two
/// seconds, and the same piece is asked for again.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// How long a stream that nobody asks for is kept. 60 s: twice as long as a receiver tries.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// Time between two looks whether a seeding should go on, and between two attempts. 500 ms.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// How long a group may be unable to go on without this server before the seeding is broken off. 3 s: as long as a
/// server that crashed is waited for; links need a moment after a start.
pub(super) const NEEDED: Duration = Duration::from_secs(3);
/// How long a seeding waits while changes are paused, or for its turn at the sender. 600 s: a snapshot keeps what is
/// overwritten meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// Part of the data of a group that must be free beyond it, in percent. 10: metadata, and what programs write.
pub(super) const ROOM_PERCENT: u64 = 10;
