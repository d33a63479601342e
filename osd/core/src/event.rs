//! What goes into a replica and what comes out of it.

use bytes::Bytes;
use types::{Duration, Fault, Instant, OsdId, Policy, SessionId};

use crate::position::Position;
use crate::quorum::ReplicaSet;
use crate::stall::Obstacle;
use crate::store::{StoreError, SyncJob};
use proto::peer;

/// File bytes with the CRC-32C that travels with them from client to store.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Payload {
    /// The bytes; shared, never copied.
    pub bytes: Bytes,
    /// Their CRC-32C. Whoever makes an input has verified it.
    pub crc32c: u32,
}

impl Payload {
    /// Of bytes whose checksum is not known yet.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        let crc32c = crc32c::crc32c(&bytes);
        Self { bytes, crc32c }
    }
}

/// The shell's name for a client's request; comes back in [`Effect::Reply`].
pub type RequestId = u64;

/// The shell's name for a peer's request; comes back in [`Effect::AnswerPeer`].
pub type AnswerId = u64;

/// Where a change stands among those that its session made of the object.
///
/// Every attempt to have a change done has an id of its own, and so has the change: that of its first attempt. Both
/// grow in the order in which they are sent, also from one session of a mount to the next.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ChangeOrder {
    /// This attempt. Must be newer than the newest that was applied.
    pub change_id: u64,
    /// The change. One that was applied is not applied again.
    pub first_id: u64,
    /// The session of the first attempt: that of this attempt (or 0), or an earlier one of the same mount.
    pub first_session: SessionId,
    /// The change before it, if that was not answered when this one was sent; 0: it was, or there is none. Must have
    /// been applied, so that what is applied of a session is always a beginning of what it sent.
    pub after: u64,
    /// The newest change that was acknowledged; 0: none.
    pub follows: u64,
}

impl ChangeOrder {
    /// Of a first attempt with nothing else under way and nothing known to be acknowledged.
    #[must_use]
    pub const fn first(change_id: u64) -> Self {
        Self {
            change_id,
            first_id: change_id,
            first_session: SessionId(0),
            after: 0,
            follows: 0,
        }
    }
}

/// What a client may ask of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Op {
    /// Bytes, fewer if the object ends.
    Read {
        /// First byte.
        offset: u64,
        /// At most [`READ_BYTES_MAX`](crate::config::READ_BYTES_MAX).
        length_bytes: u32,
    },
    /// New bytes.
    Write {
        /// First byte; not used by an append.
        offset: u64,
        /// The bytes.
        data: Payload,
        /// Write at the end instead. A session has one append under way at a time, and nothing else.
        append: bool,
        /// Whether it comes in turn.
        order: ChangeOrder,
    },
    /// A new length.
    Truncate {
        /// The length.
        length_bytes: u64,
        /// As in a write.
        order: ChangeOrder,
    },
    /// Everything acknowledged before becomes stable on a quorum.
    Sync {
        /// The session's newest change that was acknowledged; 0: none.
        follows: u64,
    },
    /// Length and position.
    Stat,
    /// Where data or a hole begins; comes as the offset, or [`u64::MAX`].
    Seek {
        /// At or after this one.
        offset: u64,
        /// Look for a hole.
        hole: bool,
    },
}

impl Op {
    /// The newest change that its sender knows to be acknowledged; 0: none.
    pub(crate) const fn follows(&self) -> u64 {
        match self {
            Self::Write { order, .. } | Self::Truncate { order, .. } => order.follows,
            Self::Sync { follows } => *follows,
            Self::Read { .. } | Self::Stat | Self::Seek { .. } => 0,
        }
    }
}

/// A request that was done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Done {
    /// Epoch of the primary.
    pub epoch: u64,
    /// Newest change the answer includes.
    pub seq: u64,
    /// Length of the object after it.
    pub length_bytes: u64,
    /// Where a write went.
    pub offset: u64,
    /// Bytes read.
    pub payload: Bytes,
}

/// How far another replica is behind the primary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OsdLag {
    /// Whose replica.
    pub osd: OsdId,
    /// When the oldest change was made that it has not applied.
    pub since: Instant,
    /// Bytes of those changes.
    pub bytes: u64,
}

/// News about the object's lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeaseEvent {
    /// This server holds it; comes again with each renewal.
    Held {
        /// Its epoch.
        epoch: u64,
        /// Its end by this server's clock.
        until: Instant,
        /// It was taken by the shortcut for new objects.
        newborn: bool,
    },
    /// Somebody else holds it; the attempt to acquire it is over.
    HeldBy {
        /// The holder.
        member: OsdId,
        /// Time until it ends unless renewed.
        remaining: Duration,
    },
    /// It can't be had now; the attempt to acquire it is over.
    Denied(Obstacle),
    /// The holder gave it up in favour of this server, which should take it.
    Offered,
    /// This server does not hold it any more.
    Lost {
        /// Epoch that ended.
        epoch: u64,
    },
}

/// The replica set of the object's placement group, and what this server is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// Grows with every change.
    pub view: u64,
    /// The object servers, first one preferred.
    pub replicas: ReplicaSet,
    /// This server's store is new to the group: absent objects mean nothing, it does not vote.
    pub incomplete: bool,
    /// Absent objects are known to be absent: this server did not crash, or has compared the group
    /// with *all* other members that are not incomplete.
    pub recovered: bool,
    /// When a change is acknowledged. It may differ between members while it is being changed, and
    /// between two pictures of one view: what counts is what the primary knows when it answers.
    pub policy: Policy,
}

/// What a request to a peer was, so that its answer needs no table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call {
    /// The lease of the primary that asks; what answers an earlier lease's request is ignored, however
    /// late it comes. 0: asked by somebody who is no primary.
    pub epoch: u64,
    /// Attempt of this primary with the peer; answers of older ones are ignored.
    pub attempt: u64,
    /// What was asked.
    pub kind: CallKind,
}

/// Kinds of requests to peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallKind {
    /// Activate.
    Activate,
    /// Replicate of one change.
    Replicate {
        /// Its number.
        seq: u64,
    },
    /// Sync of all changes up to `seq`.
    Sync {
        /// The newest one.
        seq: u64,
        /// The last of the tenure.
        clean: bool,
    },
    /// Sums of blocks from `first`.
    Sums {
        /// First block.
        first: u64,
    },
    /// Fetch from `offset`.
    Fetch {
        /// First byte.
        offset: u64,
    },
    /// BeginCatchUp.
    Begin,
    /// Repair of the block at `offset`.
    Repair {
        /// First byte.
        offset: u64,
    },
    /// Adopt.
    Adopt,
    /// WantCatchUp.
    WantCatchUp,
}

/// Why a peer did not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerFailure {
    /// Not connected, or the connection broke: nobody knows what arrived.
    Disconnected,
    /// No answer in the time given with the effect.
    Timeout,
    /// The queue to the peer is full; nothing was sent.
    Full,
    /// It answered with a fault instead of a response.
    Fault,
}

/// What may happen to a replica.
#[derive(Debug)]
pub enum Input {
    /// A client's request, its capability and checksum verified.
    Client {
        /// Comes back with the reply.
        request: RequestId,
        /// Who asks.
        session: SessionId,
        /// What.
        op: Op,
    },
    /// The metadata cluster says that the object is garbage.
    Delete {
        /// Comes back with the reply.
        request: RequestId,
    },
    /// News of the lease.
    Lease(LeaseEvent),
    /// A peer asks; its payload is verified.
    PeerRequest {
        /// Who; from the connection, not from the message.
        from: OsdId,
        /// Comes back with the answer.
        answer: AnswerId,
        /// The message.
        message: peer::Request,
        /// Bytes that came with it.
        payload: Payload,
    },
    /// A peer answered, or will not.
    PeerReply {
        /// Who.
        from: OsdId,
        /// As in the effect.
        call: Call,
        /// The answer and its bytes.
        reply: Result<(peer::Response, Payload), PeerFailure>,
    },
    /// The connection to a peer broke.
    PeerLost(OsdId),
    /// A peer is connected (again).
    PeerUp(OsdId),
    /// A job of [`Effect::Sync`] is done.
    StoreDone {
        /// As in the effect.
        ticket: u64,
        /// Its outcome.
        result: Result<(), StoreError>,
    },
    /// The replica set or this server's place in it changed.
    Membership(Membership),
    /// This copy may be behind, suspect, or in memory only: ask the others, if need be, until it was brought up, and
    /// have it written to disk.
    Recover {
        /// The newest change that another replica was seen to have.
        newest: Position,
    },
    /// Another replica at rest is at this newer position, and nobody brought this copy there: its disk lost what it
    /// vouches for. Comes before [`Input::Recover`].
    Outdated(Position),
    /// Bring all other replicas up, as if a client had asked.
    BringUp,
    /// An administrator wants another server to be primary.
    HandOver {
        /// Comes back with the reply.
        request: RequestId,
        /// Who.
        to: OsdId,
    },
    /// The server wants to stop: become clean and release the lease soon.
    Shutdown,
    /// The time of [`next_wakeup`](crate::ObjectReplica::next_wakeup) has come.
    Tick,
}

/// What a replica asks its shell to do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Answer a client. If the clock at the moment of sending is not before `valid_until`, answer
    /// [`expired`](crate::expired) instead: the lease ran out while the answer was being made.
    Reply {
        /// The request.
        request: RequestId,
        /// Its outcome.
        result: Result<Done, Fault>,
        /// The end of the lease the outcome rests on, if it does.
        valid_until: Option<Instant>,
    },
    /// Answer a peer.
    AnswerPeer {
        /// The request.
        answer: AnswerId,
        /// The answer.
        response: peer::Response,
        /// Bytes that go with it.
        payload: Payload,
    },
    /// Ask a peer. Requests to one peer leave in order, on one stream while it lives.
    Send {
        /// Whom.
        to: OsdId,
        /// Comes back with the reply.
        call: Call,
        /// What; its `object`, `pg` and `view` are set.
        message: peer::Request,
        /// Bytes that go with it.
        payload: Payload,
        /// When to give up waiting.
        timeout: Duration,
    },
    /// Run a job on any thread and report it with [`Input::StoreDone`]. Not for the shard's thread:
    /// it waits for the disk.
    Sync {
        /// Comes back with the outcome.
        ticket: u64,
        /// The job.
        job: Box<dyn SyncJob>,
        /// Nobody waits for it: it may be done together with many others.
        lazy: bool,
    },
    /// Acquire the lease (again and again the same as once).
    AcquireLease {
        /// The object is new and this server is the first of its set: ballot 0 and epoch = boot
        /// counter.
        newborn: bool,
        /// The epoch must be greater.
        floor: u64,
    },
    /// Give up the lease, or the attempt to get it.
    ReleaseLease,
    /// Give up the lease in favour of another member.
    HandOverLease {
        /// Who.
        to: OsdId,
    },
    /// This replica refuses epochs below; the lease layer should not offer them.
    SetFloor {
        /// The promised epoch.
        epoch: u64,
    },
    /// The set of replicas that this primary knows to be behind changed; empty when all are up.
    Behind {
        /// Who is behind.
        replicas: Vec<OsdId>,
    },
    /// A block of this copy was found damaged at rest: somebody should look at the disk.
    Damaged {
        /// The block of [`types::BLOCK_BYTES`].
        block: u64,
        /// Whose copy has replaced it; none if no other replica could help.
        mended_from: Option<OsdId>,
    },
    /// A block that fitted its checksum on no replica is taken as it was found here: the power failed
    /// while it was being changed.
    TakenAsFound {
        /// The block of [`types::BLOCK_BYTES`].
        block: u64,
    },
    /// [`Input::Recover`] is done: this copy was brought up, at this position.
    Recovered {
        /// Where it is now.
        position: Position,
    },
    /// [`Input::Recover`] ended without success: this copy has to be brought up later.
    NotRecovered,
    /// The object is deleted: drop the replica, remember a tombstone, answer peers with
    /// [`deleted_response`](crate::deleted_response).
    Deleted,
}
