//! Why a group is not as it should be, in words for operators.

use std::fmt;

use types::{Duration, OsdId};

use crate::act::Reason;

/// Why a group is not as it should be, and what it takes.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Why {
    /// It has no members at all.
    NoMembers,
    /// No change can begin, go on or take effect without a majority.
    NoMajority {
        /// Members of the set in question.
        members: usize,
        /// Those of them that are down.
        down: Vec<OsdId>,
        /// Those of them that take no change, since a write to their disk failed.
        failed: Vec<OsdId>,
        /// Those of them that are up, but lost their data.
        incomplete: Vec<OsdId>,
    },
    /// Every server that is up and not to be drained is a member already.
    NoServer,
    /// The servers that could take a replica have no room for it.
    NoRoom {
        /// Size of the replica.
        bytes: u64,
        /// How many servers there are.
        servers: usize,
    },
    /// Members share fate, and the servers that are farther away have no room.
    Crowded {
        /// The member that should be elsewhere.
        server: OsdId,
        /// Where it is.
        location: String,
        /// Size of the replica.
        bytes: u64,
    },
    /// A server is down, but not for long enough to be replaced.
    Grace {
        /// The server.
        server: OsdId,
        /// What is left of the time.
        left: Duration,
    },
    /// A write to a server's disk failed, but it may be restarted yet.
    Failed {
        /// The server.
        server: OsdId,
        /// What is left of the grace time.
        left: Duration,
    },
    /// Servers are up, but lack something and make no progress.
    Ill {
        /// The servers.
        servers: Vec<OsdId>,
        /// For how long, the longest.
        idle: Duration,
    },
    /// The new member of a change can't take the rest, and no other server can have its part.
    Unfit {
        /// The new member.
        server: OsdId,
        /// What it still has to get of the group.
        bytes: u64,
        /// It has no room for it.
        full: bool,
    },
    /// A member whose store is new is being filled.
    Filling {
        /// The member.
        server: OsdId,
    },
    /// Other changes have to end first.
    Turn,
    /// An administrator has paused changes.
    Paused,
    /// A change, or another aim of the one under way, is part of this plan.
    Planned(Reason),
    /// The end of its change is part of this plan.
    Ending,
    /// Members have not declared yet that they hold everything.
    Settling {
        /// The members.
        servers: Vec<OsdId>,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMembers => f.write_str("has no members: its volume has no data anywhere"),
            Self::NoMajority {
                members,
                down,
                failed,
                incomplete,
            } => no_majority(f, *members, (down, failed), incomplete),
            Self::NoServer => f.write_str(
                "every server that is up and not draining is a member already: add a server",
            ),
            Self::NoRoom { bytes, servers } => write!(
                f,
                "no server with room for {bytes} bytes above its reserve among {servers} further \
                 ones: add a server or free space"
            ),
            Self::Crowded {
                server,
                location,
                bytes,
            } => write!(
                f,
                "server {server} in {location:?} is too near to other members: no server with \
                 enough room ({bytes} bytes) is in another location"
            ),
            Self::Grace { server, left } => write!(
                f,
                "waits for the grace time of server {server}, {} s left",
                left.as_millis().div_ceil(1000)
            ),
            Self::Failed { server, left } => write!(
                f,
                "a write to the disk of server {server} failed: check the disk and restart the server; \
                 it is replaced in {} s",
                left.as_millis().div_ceil(1000)
            ),
            Self::Ill { servers, idle } => write!(
                f,
                "waits for {}, up without progress for {} s: see the log there and `xfs-admin doctor`, \
                 then restart",
                Names(servers),
                idle.as_millis().div_ceil(1000)
            ),
            Self::Unfit {
                server,
                bytes,
                full: true,
            } => write!(
                f,
                "server {server} has no room for the other {bytes} bytes, nor has another one: add a \
                 server or free space; what was copied stays"
            ),
            Self::Unfit { server, .. } => write!(
                f,
                "server {server} can't take the rest, and no other one can have its part: check its \
                 disk and its log and restart it, or add a server"
            ),
            Self::Filling { server } => {
                write!(f, "server {server} has a new store and is being filled")
            }
            Self::Paused => f.write_str("paused: `xfs-admin job resume` goes on"),
            Self::Turn => f.write_str("waits until other changes have ended"),
            Self::Planned(reason) => write!(f, "its members are about to change: {reason}"),
            Self::Ending => f.write_str("its change is about to end"),
            Self::Settling { servers } => {
                write!(f, "waits for {} to hold everything", Names(servers))
            }
        }
    }
}

fn no_majority(
    f: &mut fmt::Formatter<'_>,
    members: usize,
    (down, failed): (&[OsdId], &[OsdId]),
    incomplete: &[OsdId],
) -> fmt::Result {
    let mut joint = "";
    if !down.is_empty() {
        let count = down.len();
        let verb = if count == 1 { "is" } else { "are" };
        write!(
            f,
            "{count} of {members} members {verb} down ({})",
            Names(down)
        )?;
        joint = " and ";
    }
    if !failed.is_empty() {
        let verb = if failed.len() == 1 { "takes" } else { "take" };
        write!(
            f,
            "{joint}{} {verb} no changes since a write to the disk failed",
            Names(failed)
        )?;
        joint = " and ";
    }
    if !incomplete.is_empty() {
        let verb = if incomplete.len() == 1 { "has" } else { "have" };
        write!(f, "{joint}{} {verb} lost its data", Names(incomplete))?;
    }
    match (down, failed) {
        ([], []) => f.write_str(": what the others hold needs an operator"),
        ([], [failed, ..]) => write!(f, ": check the disk of server {failed} and restart it"),
        ([only], _) => write!(f, ": start server {only}"),
        _ => f.write_str(": start one of them"),
    }
}

/// "server 3", "servers 3, 4".
struct Names<'a>(&'a [OsdId]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 {
            "server"
        } else {
            "servers"
        })?;
        for (at, osd) in self.0.iter().enumerate() {
            write!(f, "{} {osd}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_name_servers_and_what_to_do() {
        let why = Why::NoMajority {
            members: 3,
            down: vec![OsdId(2), OsdId(3)],
            failed: Vec::new(),
            incomplete: Vec::new(),
        };
        assert_eq!(
            why.to_string(),
            "2 of 3 members are down (servers 2, 3): start one of them"
        );

        let why = Why::NoMajority {
            members: 3,
            down: vec![OsdId(2)],
            failed: Vec::new(),
            incomplete: vec![OsdId(1)],
        };
        assert_eq!(
            why.to_string(),
            "1 of 3 members is down (server 2) and server 1 has lost its data: start server 2"
        );

        let why = Why::NoMajority {
            members: 3,
            down: Vec::new(),
            failed: vec![OsdId(2), OsdId(3)],
            incomplete: Vec::new(),
        };
        assert_eq!(
            why.to_string(),
            "servers 2, 3 take no changes since a write to the disk failed: check the disk of server \
             2 and restart it"
        );

        let left = Duration::from_millis(211_001);
        let server = OsdId(3);
        assert_eq!(
            Why::Grace { server, left }.to_string(),
            "waits for the grace time of server 3, 212 s left"
        );
    }
}
