//! Who takes part: servers and mounts, each with a network namespace and an address of its own.

use std::fmt;

use serde::Serialize;

/// Servers of each kind: the least that survives the loss of one.
pub(crate) const SERVERS_PER_KIND: u8 = 3;

/// Mounts of the volume.
pub(crate) const MOUNTS: u8 = 3;

/// What a node is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Metadata server.
    Mrc,
    /// Object server.
    Osd,
    /// Mount.
    Mount,
}

/// One participant.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String")]
pub(crate) struct Node {
    /// What it is.
    pub(crate) kind: Kind,
    /// From 1.
    pub(crate) number: u8,
}

impl Node {
    /// The metadata server of this number.
    pub(crate) const fn mrc(number: u8) -> Self {
        let kind = Kind::Mrc;
        Self { kind, number }
    }

    /// The object server of this number.
    pub(crate) const fn osd(number: u8) -> Self {
        let kind = Kind::Osd;
        Self { kind, number }
    }

    /// The mount of this number.
    pub(crate) const fn mount(number: u8) -> Self {
        let kind = Kind::Mount;
        Self { kind, number }
    }

    /// The object server that has nothing to do until another one is drained.
    pub(crate) const SPARE: Self = Self::osd(SERVERS_PER_KIND + 1);

    /// All servers but the spare one, metadata servers first.
    pub(crate) fn servers() -> Vec<Self> {
        let mrcs = (1..=SERVERS_PER_KIND).map(Self::mrc);
        mrcs.chain((1..=SERVERS_PER_KIND).map(Self::osd)).collect()
    }

    /// All mounts.
    pub(crate) fn mounts() -> Vec<Self> {
        (1..=MOUNTS).map(Self::mount).collect()
    }

    /// Servers and mounts.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Self::servers();
        all.push(Self::SPARE);
        all.extend(Self::mounts());
        all
    }

    /// Its address. Namespaces keep clusters apart, so every run has the same ones.
    pub(crate) fn ip(self) -> String {
        let base = match self.kind {
            Kind::Mrc => 10,
            Kind::Osd => 20,
            Kind::Mount => 30,
        };
        format!("10.77.0.{}", base + self.number)
    }

    /// Where a server listens.
    pub(crate) fn address(self) -> String {
        format!("{}:{SERVER_PORT}", self.ip())
    }
}

/// Port of every server: each has an address of its own.
const SERVER_PORT: u16 = 7000;

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mrc => "mrc",
            Self::Osd => "osd",
            Self::Mount => "mount",
        })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.number)
    }
}

impl From<Node> for String {
    fn from(node: Node) -> Self {
        node.to_string()
    }
}
