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
                incomplete,
            } => no_majority(f, *members, down, incomplete),
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
    down: &[OsdId],
    incomplete: &[OsdId],
) -> fmt::Result {
    if !down.is_empty() {
        let count = down.len();
        let verb = if count == 1 { "is" } else { "are" };
        write!(
            f,
            "{count} of {members} members {verb} down ({})",
            Names(down)
        )?;
    }
    if !incomplete.is_empty() {
        let joint = if down.is_empty() { "" } else { " and " };
        let verb = if incomplete.len() == 1 { "has" } else { "have" };
        write!(f, "{joint}{} {verb} lost its data", Names(incomplete))?;
    }
    match down {
        [] => f.write_str(": what the others hold needs an operator"),
        [only] => write!(f, ": start server {only}"),
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
            incomplete: Vec::new(),
        };
        assert_eq!(
            why.to_string(),
            "2 of 3 members are down (servers 2, 3): start one of them"
        );

        let why = Why::NoMajority {
            members: 3,
            down: vec![OsdId(2)],
            incomplete: vec![OsdId(1)],
        };
        assert_eq!(
            why.to_string(),
            "1 of 3 members is down (server 2) and server 1 has lost its data: start server 2"
        );

        let left = Duration::from_millis(211_001);
        let server = OsdId(3);
        assert_eq!(
            Why::Grace { server, left }.to_string(),
            "waits for the grace time of server 3, 212 s left"
        );
    }
}
