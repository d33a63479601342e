//! The types Raft is instantiated with: who the members are, what an entry carries, what it answers.

use std::fmt;

use bytes::Bytes;
use openraft::alias::{
    CommittedLeaderIdOf, EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf,
};
use openraft::raft::responder::Responder;
use serde::{Deserialize, Serialize};

/// Raft as the metadata servers use it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Outcome;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Payload>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = Answer<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Position of an entry in the log.
pub(crate) type LogId = LogIdOf<TypeConfig>;
/// A leader as log positions name it.
pub(crate) type LeaderId = CommittedLeaderIdOf<TypeConfig>;
/// An entry of the log.
pub(crate) type Entry = EntryOf<TypeConfig>;
/// What a member has promised to whom.
pub(crate) type Vote = VoteOf<TypeConfig>;
/// A membership and the entry it came from.
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
/// What a checkpoint contains.
pub(crate) type CheckpointMeta = SnapshotMetaOf<TypeConfig>;
/// A set of members as an entry carries it.
pub(crate) type Membership = openraft::Membership<u64, Member>;
/// What an entry carries.
pub(crate) type Payload = openraft::EntryPayload<Proposal, u64, Member>;

/// A metadata server as the replicated membership knows it.
///
/// Raft's own number for it is drawn anew with every fresh directory, because a member that lost
/// its disk has forgotten its votes and must not be taken for the one that gave them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Member {
    /// Number of the server in the configuration files.
    pub id: u64,
    /// Where it listens.
    pub address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.id, self.address)
    }
}

/// An encoded `index::Command`.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Proposal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Proposal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Proposal, E> {
                Ok(Proposal(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// What applying an entry answered; of interest only where the entry was proposed.
#[derive(Clone, Debug)]
pub(crate) struct Outcome(pub Result<proto::mrc::Response, types::Fault>);

impl Outcome {
    /// The answer to entries that are no commands.
    #[must_use]
    pub(crate) fn done() -> Self {
        Self(Ok(proto::mrc::Response {
            reply: Some(proto::mrc::response::Reply::Done(proto::mrc::Done {})),
        }))
    }
}

// Raft requires the bounds for forwarding writes between members, which this project never does.
impl Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("outcomes stay on the server"))
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("outcomes stay on the server"))
    }
}

/// Calls back from where an entry was applied, without another task in between.
pub(crate) struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    /// Calls `on_complete` once; not at all if Raft stops before the entry is decided.
    pub(crate) fn new(on_complete: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(on_complete))
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Answer<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
