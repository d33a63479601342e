//! What can be done to the cluster, and for how long.

use serde::Serialize;

use crate::node::{Kind, Node};

/// One kind of harm.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// kill -9; started again at the end.
    Kill(Node),
    /// kill -9 of all servers at once; started again at the end.
    KillAll,
    /// Power fails everywhere at once: what was not synced is lost.
    Power,
    /// SIGSTOP; SIGCONT at the end.
    Freeze(Node),
    /// Nothing reaches it, nothing leaves it.
    Isolate(Node),
    /// Two nodes don't hear each other.
    Cut(Node, Node),
    /// The second does not hear the first.
    CutOneWay(Node, Node),
    /// This percentage of the packets from and to it is lost.
    Loss(Node, u8),
    /// No byte is left on its disk.
    Full(Node),
    /// Every fsync takes this many milliseconds longer.
    SlowSync(Node, u32),
    /// Everything it holds is brought to others; at the end it may hold replicas again.
    Drain(Node),
    /// The volume gets this policy and quorum; at the end it gets the usual ones again.
    Policy(&'static str, &'static str),
    /// One byte in each of some files of objects is changed.
    Rot(Node, u8),
    /// kill -9, and some bits of what a metadata server stored are flipped; started again at the end.
    RotStopped(Node, Part, u8),
}

/// What of a metadata server's files.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// The index.
    Index,
    /// The Raft log.
    Log,
}

impl Fault {
    /// Its name in reports; faults of one name are counted together.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Kill(node) => format!("kill-{}", node.kind),
            Self::KillAll => "kill-all".to_owned(),
            Self::Power => "power".to_owned(),
            Self::Freeze(node) => format!("freeze-{}", node.kind),
            Self::Isolate(node) => format!("isolate-{}", node.kind),
            Self::Cut(one, other) => format!("cut-{}-{}", one.kind, other.kind),
            Self::CutOneWay(from, to) => format!("one-way-{}-{}", from.kind, to.kind),
            Self::Loss(node, _) => format!("loss-{}", node.kind),
            Self::Full(node) => format!("full-{}", node.kind),
            Self::SlowSync(node, _) => format!("slow-sync-{}", node.kind),
            Self::Drain(node) => format!("drain-{}", node.kind),
            Self::Policy(policy, quorum) => format!("{policy}-{quorum}"),
            Self::Rot(node, _) => format!("rot-{}", node.kind),
            Self::RotStopped(_, Part::Index, _) => "rot-index".to_owned(),
            Self::RotStopped(_, Part::Log, _) => "rot-log".to_owned(),
        }
    }

    /// The kinds of servers of which one may be missing to the others while it lasts: no other
    /// fault may take a second one of that kind away meanwhile.
    pub(crate) fn takes(&self) -> Vec<Kind> {
        match self {
            Self::KillAll | Self::Power => vec![Kind::Mrc, Kind::Osd],
            Self::Kill(node)
            | Self::Freeze(node)
            | Self::Isolate(node)
            | Self::Loss(node, _)
            | Self::Full(node)
            | Self::SlowSync(node, _)
            | Self::Rot(node, _)
            | Self::RotStopped(node, ..) => vec![node.kind],
            // Nobody is missed.
            Self::Drain(_) | Self::Policy(..) => Vec::new(),
            Self::Cut(one, other) | Self::CutOneWay(one, other) if one.kind == other.kind => {
                vec![one.kind]
            }
            // A mount without one server, or an object server without one metadata server, leaves
            // each kind its majority.
            Self::Cut(..) | Self::CutOneWay(..) => vec![Kind::Mount],
        }
    }

    /// Those of the servers whose processes it kills.
    pub(crate) fn kills(&self, servers: &[Node]) -> Vec<Node> {
        match self {
            Self::Kill(node) | Self::RotStopped(node, ..) => vec![*node],
            Self::KillAll | Self::Power => servers.to_vec(),
            _ => Vec::new(),
        }
    }
}

/// A fault in the plan of a run; times count from the start of the run's work.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Planned {
    /// What.
    pub(crate) fault: Fault,
    /// Begins.
    pub(crate) from_ms: u64,
    /// Ends.
    pub(crate) until_ms: u64,
}

/// A fault as it happened; nanoseconds of the history's clock.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Happened {
    /// What.
    pub(crate) fault: Fault,
    /// Its name.
    pub(crate) name: String,
    /// Began.
    pub(crate) began_ns: u64,
    /// Was healed.
    pub(crate) healed_ns: u64,
}
