//! The redundancy planner: which placement group changes its replica set next.
//!
//! It runs on the metadata leader. [`plan`] looks at a [`Picture`] of the cluster and says what to
//! do; the leader does it as far as it still fits (each act names the view it was planned for) and
//! asks again after every change and every few seconds. The planner remembers nothing: the next
//! leader goes on from the replicated records. The same picture gives the same plan.
//!
//! A replica set changes in two steps, as the configuration of Raft does (Ongaro and Ousterhout, *In
//! Search of an Understandable Consensus Algorithm*, USENIX ATC 2014, §6). [`Act::Begin`] installs new
//! members and keeps the set before them as `previous`: from then on a quorum is a majority of both.
//! Members fetch what they lack and declare. [`Act::End`] forgets `previous`, and only then do
//! servers that left delete their copies. One member is exchanged, added or removed at a time.
//!
//! Invariants, checked by the simulation after every step:
//!
//! - P-1: nothing is dropped before its replacement has declared: no act takes the last copy of what
//!   was acknowledged, and none makes a replica set smaller than the volume wants.
//! - P-2: no change begins for a group that couldn't go on with it: the old and the new set each
//!   have a majority that is up.
//! - P-3: no server has more changes begun on it than [`Limits::changes_per_server_max`], the cluster
//!   no more than [`Limits::changes_max`]; no server is planned below its reserve of free space.
//! - P-4: after faults stop, and if there are enough servers, every group gets the members it should
//!   have, drained servers hold nothing, and no more acts come; also if some servers stay dead, full or
//!   without progress.
//! - P-5: each move of data for the sake of balance leaves its source at least as full as its target, so
//!   that the sum of used² / capacity falls.
//!
//! # Examples
//!
//! ```
//! use std::collections::{BTreeMap, BTreeSet};
//!
//! use planner::{Act, Group, Limits, Picture, Reason, Server, State, Wish, plan};
//! use types::{Duration, Instant, OsdId, PgId, PgKey, VolumeId};
//!
//! let mut picture = Picture::default();
//! for osd in 1..=4 {
//!     picture.servers.insert(OsdId(osd), Server {
//!         location: format!("site/rack{osd}"),
//!         capacity_bytes: 1 << 40,
//!         free_bytes: 1 << 39,
//!         data_bytes: Some(1 << 30),
//!         idle_since: None,
//!         state: State::Up,
//!         wish: Wish::Keep,
//!     });
//! }
//! let key = PgKey { volume: VolumeId(1), pg: PgId(0) };
//! picture.groups.insert(key, Group {
//!     view: 7,
//!     members: vec![OsdId(1), OsdId(2), OsdId(3)],
//!     previous: Vec::new(),
//!     settling: BTreeSet::new(),
//!     incomplete: BTreeSet::new(),
//!     bytes: 1 << 30,
//!     held: BTreeMap::from([1, 2, 3].map(|osd| (OsdId(osd), 1 << 30))),
//!     idle_since: BTreeMap::new(),
//!     replicas: 3,
//! });
//! let limits = Limits::default();
//! let died = Instant::ZERO;
//! picture.servers.get_mut(&OsdId(2)).unwrap().state = State::Down { since: died };
//!
//! let early = plan(&picture, died + Duration::from_secs(200), &limits);
//! assert!(early.acts.is_empty());
//! let why = early.report.notes[&key].why.to_string();
//! assert_eq!(why, "waits for the grace time of server 2, 400 s left");
//!
//! let late = plan(&picture, died + limits.grace, &limits);
//! assert_eq!(late.acts, [Act::Begin {
//!     group: key,
//!     view: 7,
//!     members: vec![OsdId(1), OsdId(4), OsdId(3)],
//!     reason: Reason::Rescue,
//! }]);
//! ```

mod act;
mod begin;
mod cluster;
mod limits;
mod mutant;
mod needs;
mod picture;
mod place;
mod plan;
mod rebalance;
mod report;
mod running;
mod spread;
mod tally;
mod target;
mod why;

pub use act::{Act, Reason};
pub use limits::{Limits, LimitsError};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use picture::{Group, Picture, Server, State, Wish};
pub use plan::{Plan, plan};
pub use report::{GroupState, Note, Remaining, Report};
pub use why::Why;
