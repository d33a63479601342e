//! One operation of a client on the file system, with its times and what came of it.

use serde::{Deserialize, Serialize};

/// What a client does. Keys, logs and directories name files below the mount.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Operation {
    /// Sets a register; returns when it is on stable storage.
    Write { key: String, value: u64 },
    /// Reads a register.
    Read { key: String },
    /// Adds a record to a log; `synced` when it returns only after a sync.
    Append {
        log: String,
        writer: u32,
        number: u32,
        synced: bool,
    },
    /// Syncs a log.
    Sync { log: String },
    /// Reads a whole log.
    ReadLog { log: String },
    /// Creates a file that must not exist.
    Create { dir: String, name: u8 },
    /// Removes a file.
    Unlink { dir: String, name: u8 },
    /// Renames a file to a name that must not exist.
    Rename { dir: String, from: u8, to: u8 },
    /// Asks which file has a name.
    Look { dir: String, name: u8 },
}

/// What came of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It was done and says no more.
    Done,
    /// The register's value.
    Value(u64),
    /// The register holds what nobody wrote: words of several values, or a wrong length.
    Torn(String),
    /// The inode that was created or looked at.
    Inode(u64),
    /// There is no such file.
    Absent,
    /// There is such a file already.
    Exists,
    /// The log's length, and a sum of all its bytes.
    Log { bytes: u64, sum: u64 },
    /// Any other error: it may have been done or not.
    Failed { errno: i32, during: String },
    /// It never returned.
    Hanging,
}

/// A line of the history. Times are nanoseconds of one monotonic clock.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Record {
    /// Which client, over all mounts.
    pub(crate) client: u32,
    /// Its mount.
    pub(crate) mount: u8,
    /// Before the first system call.
    pub(crate) began_ns: u64,
    /// After the last one.
    pub(crate) ended_ns: u64,
    /// When the descriptor it went through was opened or used before, if that one stays open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held_ns: Option<u64>,
    /// What.
    #[serde(flatten)]
    pub(crate) operation: Operation,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

impl Record {
    /// Whether it is not known if it took effect.
    pub(crate) const fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. } | Outcome::Hanging)
    }

    /// Since when its descriptor was not used by another operation.
    pub(crate) fn descriptor_ns(&self) -> u64 {
        self.held_ns.unwrap_or(self.began_ns)
    }

    /// Whether any part of it happened between two moments.
    pub(crate) const fn overlaps(&self, from_ns: u64, until_ns: u64) -> bool {
        self.began_ns < until_ns && from_ns < self.ended_ns
    }
}

impl Operation {
    /// Its kind, for counting.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Read { .. } => "read",
            Self::Append { synced: true, .. } => "append+sync",
            Self::Append { synced: false, .. } => "append",
            Self::Sync { .. } => "sync",
            Self::ReadLog { .. } => "read-log",
            Self::Create { .. } => "create",
            Self::Unlink { .. } => "unlink",
            Self::Rename { .. } => "rename",
            Self::Look { .. } => "look",
        }
    }
}
