//! Who talks to whom about what.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use types::{ClusterId, Secret};

use super::options::Wire;

/// What a stream is for. Each has its own stream and TCP connection, so none queues behind another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ServiceKind {
    /// Metadata: `proto::mrc`.
    Mrc,
    /// Objects: `proto::osd`.
    Osd,
    /// Replication between object servers: `proto::peer`.
    Peer,
    /// Leases between object servers: `proto::peer`.
    Lease,
    /// Raft between metadata servers.
    Raft,
}

impl ServiceKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Mrc, Self::Osd, Self::Peer, Self::Lease, Self::Raft];

    /// Name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mrc => "mrc",
            Self::Osd => "osd",
            Self::Peer => "peer",
            Self::Lease => "lease",
            Self::Raft => "raft",
        }
    }

    /// Whether its messages carry payloads.
    #[must_use]
    pub const fn has_payloads(self) -> bool {
        match self {
            Self::Osd | Self::Peer | Self::Raft => true,
            Self::Mrc | Self::Lease => false,
        }
    }

    /// Whether processes of `role` may use the service.
    #[must_use]
    pub const fn admits(self, role: Role) -> bool {
        match self {
            Self::Mrc | Self::Osd => true,
            Self::Peer | Self::Lease => matches!(role, Role::Osd),
            Self::Raft => matches!(role, Role::Mrc),
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ServiceKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or(())
    }
}

/// What a process is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Metadata server.
    Mrc,
    /// Object server.
    Osd,
    /// Mount.
    Mount,
    /// Administrator's tool.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mrc, Self::Osd, Self::Mount, Self::Admin];

    /// Name on the wire, in files and in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mrc => "mrc",
            Self::Osd => "osd",
            Self::Mount => "mount",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or(())
    }
}

/// Who this process is to others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The cluster's secret.
    pub secret: Secret,
    /// What it is.
    pub role: Role,
    /// Its number among those of its role; the process id for mounts and tools.
    pub id: u64,
    /// How its links behave.
    pub wire: Wire,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller {
    /// What it is.
    pub role: Role,
    /// Its number.
    pub id: u64,
    /// Where it connected from.
    pub address: Option<SocketAddr>,
}
