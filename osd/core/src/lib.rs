//! Replication of objects: the state machine of one object's replica, and the port to its store.
//!
//! [`ObjectReplica`] decides and [`ObjectStore`] keeps bytes; a shell around them owns threads,
//! sockets and clocks. A shell steps each replica with one [`Input`] at a time, performs the
//! [`Effect`]s in order before the next step, and steps it with [`Input::Tick`] when
//! [`ObjectReplica::next_wakeup`] has come.

pub mod config;
mod event;
mod position;
mod record;
mod replica;
mod store;

pub use config::Config;
pub use event::{
    AnswerId, Call, CallKind, Done, Effect, Input, LeaseEvent, Membership, Op, Payload,
    PeerFailure, RequestId,
};
pub use position::{NEWBORN_EPOCH_MAX, Position, Promise};
pub use record::{Mark, Record, RecordError};
pub use replica::{ObjectReplica, Role, Status, deleted_response, expired};
pub use store::{Header, ObjectKey, ObjectStore, StoreError, SyncJob};
