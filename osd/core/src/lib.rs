//! Replication of objects: the state machine of one object's replica, and the port to its store.
//!
//! [`ObjectReplica`] decides and [`ObjectStore`] keeps bytes; a shell around them owns threads,
//! sockets and clocks. A shell steps each replica with one [`Input`] at a time, performs the
//! [`Effect`]s in order before the next step, and steps it with [`Input::Tick`] when
//! [`ObjectReplica::next_wakeup`] has come.

mod activation;
mod answers;
mod backup;
mod block_plan;
mod catch_up;
mod closing;
mod commit;
pub mod comparing;
pub mod config;
pub mod contract;
mod copy;
mod durable;
mod event;
mod faults;
mod fetch;
pub mod gate;
mod leasing;
mod marks;
mod memory;
mod memory_job;
mod memory_rot;
mod mend;
mod mutant;
mod peer_state;
mod position;
mod primary;
mod quorum;
mod recent;
mod record;
mod recover;
mod replica;
mod replies;
mod room;
pub mod scrub;
mod stall;
mod store;
mod sync_round;
mod tenure;
mod timers;
mod unapplied;
mod waiting;

pub use answers::deleted_response;
pub use config::Config;
pub use event::{
    AnswerId, Call, CallKind, ChangeOrder, Done, Effect, Input, LeaseEvent, Membership, Op, OsdLag,
    Payload, PeerFailure, RequestId,
};
pub use faults::expired;
pub use memory::MemoryStore;
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use position::{NEWBORN_EPOCH_MAX, Position, Promise};
pub use quorum::ReplicaSet;
pub use record::{Mark, Record, RecordError};
pub use replica::{ObjectReplica, Role, Status};
pub use stall::{Obstacle, Stall, WaitsFor};
pub use store::{Header, ObjectKey, ObjectStore, StoreError, SyncJob};
