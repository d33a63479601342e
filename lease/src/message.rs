//! What lease hosts say to each other, and what a host says to the layer above.

use std::collections::BTreeMap;
use std::sync::Arc;

use types::{CellId, Duration, Instant, MemberId};

use crate::config::Config;
use crate::members::{Members, Sets};

/// Order of proposals: the counter decides, the member breaks ties.
///
/// Counter 0 is reserved for the first member of the replica set and a brand-new cell.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ballot {
    /// Grows with every attempt.
    pub counter: u64,
    /// Who proposes; also whom it proposes.
    pub member: MemberId,
}

/// The members of a cell, and which version of that list this is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// Grows with every change of the members.
    pub view: u64,
    /// All members, in the replica set's order: the first may take a brand-new cell at once. While the
    /// set is being changed, members of the set before that are not in it follow.
    pub members: Arc<[MemberId]>,
    pub(crate) sets: Sets,
}

impl Membership {
    /// One replica set.
    #[must_use]
    pub fn new(view: u64, members: impl Into<Arc<[MemberId]>>) -> Self {
        let members = members.into();
        let sets = Sets::new(members.len(), members.len(), |_| false);
        Self {
            view,
            members,
            sets,
        }
    }

    /// A replica set that takes the place of `previous`: while that is under way, a majority of either
    /// has to agree to a lease. With no `previous`, the same as [`new`](Self::new).
    ///
    /// Members may go from one view to the next only: the view after this one may be put into force
    /// when so many know this one as are a quorum of it ([`is_quorum`](Self::is_quorum)).
    #[must_use]
    pub fn changing(view: u64, members: &[MemberId], previous: &[MemberId]) -> Self {
        let gone = previous.iter().filter(|member| !members.contains(member));
        let all: Arc<[MemberId]> = members.iter().chain(gone).copied().collect();
        let was = |place: usize| all.get(place).is_some_and(|it| previous.contains(it));
        let sets = Sets::new(all.len(), members.len(), was);
        Self {
            view,
            members: all,
            sets,
        }
    }

    /// Whether these members can decide.
    pub fn is_quorum(&self, chosen: impl Fn(MemberId) -> bool) -> bool {
        let mut set = Members::default();
        for (place, member) in self.members.iter().enumerate() {
            if chosen(*member) {
                set.insert(place);
            }
        }
        self.sets.is_quorum(set, &Config::default())
    }
}

/// One message about one cell.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Message {
    /// The cell.
    pub cell: CellId,
    /// The sender's view of the cell.
    pub view: u64,
    /// The proposal that the message makes or answers.
    pub ballot: Ballot,
    /// Drawn by the proposer for each question, growing, never used twice, echoed by the answers: an
    /// answer counts for its own question only.
    pub round: u64,
    /// What it says.
    pub body: Body,
}

/// What a [`Message`] says.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Body {
    /// "May I propose?"
    Prepare,
    /// "Yes: nobody else's lease runs here, and I refuse lower ballots from now on."
    Promise {
        /// Highest epoch the acceptor knows.
        floor_epoch: u64,
    },
    /// "I hold the lease from when I sent this."
    Accept {
        /// Fencing number of the lease.
        epoch: u64,
        /// How long it lasts; zero ends it and is not answered.
        ttl: Duration,
        /// The sender holds the lease already and extends it.
        renewal: bool,
        /// With `ttl` zero: the member to prefer for a while.
        successor: Option<MemberId>,
    },
    /// "Agreed."
    Accepted {
        /// The epoch agreed to.
        epoch: u64,
    },
    /// "No, because of one of these."
    Reject {
        /// Highest ballot promised.
        promised: Ballot,
        /// View the acceptor knows.
        view: u64,
        /// Highest epoch the acceptor knows.
        floor_epoch: u64,
        /// A lease that runs at the acceptor, or the successor it prefers.
        holder: Option<Holder>,
    },
}

/// Somebody's running lease as an acceptor sees it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Holder {
    /// Who.
    pub member: MemberId,
    /// For how much longer, by the acceptor's clock.
    pub remaining: Duration,
}

/// A lease this host holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// Fencing number.
    pub epoch: u64,
    /// End by this host's own clock, already shortened for drift. The lease is valid while
    /// `now < until`.
    pub until: Instant,
}

/// News for the layer above.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// This host holds the lease (again, if it was extended) until `until`.
    Held {
        /// The cell.
        cell: CellId,
        /// Fencing number.
        epoch: u64,
        /// End by this host's clock.
        until: Instant,
        /// The lease was taken by the shortcut for brand-new cells: `epoch` is the incarnation, and
        /// nothing has to be durable before it is used.
        newborn: bool,
    },
    /// The acquisition ended: somebody else has the lease, or is preferred for it.
    HeldBy {
        /// The cell.
        cell: CellId,
        /// Who.
        member: MemberId,
        /// When it is worth asking again.
        remaining: Duration,
    },
    /// The acquisition ended: no majority answered in time.
    NoQuorum {
        /// The cell.
        cell: CellId,
    },
    /// The acquisition could not begin. [`Host::acquire`](crate::Host::acquire) returns such errors;
    /// shells whose callers wait for news report them with this.
    Refused {
        /// The cell.
        cell: CellId,
        /// Why.
        error: crate::Error,
    },
    /// The lease ended without being released.
    Lost {
        /// The cell.
        cell: CellId,
        /// Fencing number it had.
        epoch: u64,
    },
    /// The acquisition ended: a member knows a newer view. Fetch it, then acquire again.
    OldView {
        /// The cell.
        cell: CellId,
        /// The newer view.
        view: u64,
    },
    /// The holder hands the cell over to this host, which should acquire it now.
    Offered {
        /// The cell.
        cell: CellId,
        /// The member that gave it up.
        from: MemberId,
    },
}

/// What a call of the host wants done: messages to send, news to act on.
///
/// One `Out` serves many calls; the shell drains it when it sends.
#[derive(Debug, Default)]
pub struct Out {
    /// Messages for each peer, oldest first. Losing, repeating and reordering them is harmless.
    pub sends: BTreeMap<MemberId, Vec<Message>>,
    /// News, oldest first.
    pub events: Vec<Event>,
}

impl Out {
    /// Nothing to do.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.sends.values().all(Vec::is_empty)
    }

    pub(crate) fn send(&mut self, to: MemberId, message: Message) {
        self.sends.entry(to).or_default().push(message);
    }
}
