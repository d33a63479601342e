//! One object's replica on one server: backup until it holds the lease, then primary.

use types::{Fault, Instant, OsdId};

use crate::config::Config;
use crate::event::{Effect, Input, Membership};
use crate::position::{Position, Promise};
use crate::store::{ObjectKey, ObjectStore, StoreError};
use proto::peer;

/// What a replica does at present.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Follows whoever holds the lease.
    Backup,
    /// Asks for the lease.
    Acquiring,
    /// Holds the lease, and asks the others where they are.
    Activating,
    /// Serves.
    Primary,
    /// Becomes clean before it gives up the lease.
    Closing,
}

/// A look at a replica, for administration and recovery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// What it does.
    pub role: Role,
    /// What it promised.
    pub promised: Promise,
    /// Where it is; the durable position if it is not trusted.
    pub position: Position,
    /// Its bytes are the history up to `position`.
    pub trusted: bool,
    /// Everything is stable and recorded as such.
    pub clean: bool,
    /// Length of its object.
    pub length_bytes: u64,
    /// Refused messages of peers that made no sense.
    pub malformed: u64,
}

/// One object's replica on one server.
#[derive(Debug)]
pub struct ObjectReplica {
    me: OsdId,
    key: ObjectKey,
    config: Config,
    membership: Membership,
}

impl ObjectReplica {
    /// Opens the object in the store, if it exists there.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::open`].
    pub fn open(
        me: OsdId,
        key: ObjectKey,
        membership: Membership,
        config: Config,
        store: &mut dyn ObjectStore,
    ) -> Result<Self, StoreError> {
        store.open(key)?;
        Ok(Self {
            me,
            key,
            config,
            membership,
        })
    }

    /// Takes one step at `now` and appends what must follow to `effects`, oldest first.
    pub fn step(
        &mut self,
        now: Instant,
        input: Input,
        store: &mut dyn ObjectStore,
        effects: &mut Vec<Effect>,
    ) {
        let _ = (now, input, store, effects);
    }

    /// When it wants to be stepped next even if nothing happens.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        None
    }

    /// Whether nothing is lost if the shell drops it and opens it again later: nothing waits, no
    /// lease is held, and the store knows all there is to know.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let _ = (&self.me, &self.config, &self.membership);
        false
    }

    /// What the object's record and memory say.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            role: Role::Backup,
            promised: Promise::default(),
            position: Position::default(),
            trusted: false,
            clean: false,
            length_bytes: 0,
            malformed: 0,
        }
    }

    /// The replica's line in an answer to `ListObjects`.
    #[must_use]
    pub fn object_state(&self) -> peer::ObjectState {
        let status = self.status();
        peer::ObjectState {
            object: Some(self.key.object.into()),
            position: Some(status.position.into()),
            suspect: !status.trusted,
            length_bytes: status.length_bytes,
        }
    }
}

/// What a shell sends instead of a reply whose lease ran out.
#[must_use]
pub fn expired() -> Fault {
    Fault::retry("the lease ran out before the answer could be sent; repeat the request")
}

/// What a shell answers peers that ask for an object it has a tombstone of.
#[must_use]
pub fn deleted_response(view: u64) -> peer::Response {
    peer::Response {
        view,
        reply: Some(peer::response::Reply::Refused(peer::Refused {
            refusal: peer::Refusal::Deleted.into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}
