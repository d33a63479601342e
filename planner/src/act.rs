//! What the leader is asked to do with a group.

use std::fmt;

use types::{OsdId, PgKey};

/// One change of a group's record. Each holds for the view it was planned for; a leader that finds
/// another one drops the act, and the next plan knows better.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Act {
    /// Begin a change: the view grows, the present members become `previous`, all of `members` have
    /// to declare.
    Begin {
        /// The group.
        group: PgKey,
        /// Its view as planned for.
        view: u64,
        /// The set wanted. Differs from the present one by one member exchanged in its place, added
        /// at the end or removed.
        members: Vec<OsdId>,
        /// Why.
        reason: Reason,
    },
    /// Give a change under way another aim: the view grows, `previous` stays, all of `members` have
    /// to declare. Equal to `previous` if the change is given up.
    Retarget {
        /// The group.
        group: PgKey,
        /// Its view as planned for.
        view: u64,
        /// The set wanted now.
        members: Vec<OsdId>,
        /// Why.
        reason: Reason,
    },
    /// End a change: the view grows, `previous` is emptied, servers that were only there delete
    /// their copies.
    End {
        /// The group.
        group: PgKey,
        /// Its view as planned for.
        view: u64,
    },
}

/// Why a replica set changes; the most urgent first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// A member is down for longer than the grace time.
    Rescue,
    /// A member is on a server to be drained.
    Drain,
    /// The volume wants more or fewer replicas.
    Replicas,
    /// Members share fate although they need not.
    Spread,
    /// A server is much fuller than another.
    Rebalance,
    /// The target of a change has no room for the rest, takes no change or makes no progress.
    Target,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rescue => "rescue",
            Self::Drain => "drain",
            Self::Replicas => "replicas",
            Self::Spread => "spread",
            Self::Rebalance => "rebalance",
            Self::Target => "another target",
        })
    }
}
