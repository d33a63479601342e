//! What can go wrong when ZFS is driven: each error names the command, what it said, and what to do.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use types::ClusterId;

/// Something that was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the turn for too long, or nobody can have it.
    #[error(
        "can't get the turn to mount, a lock on {}; look whether another `zfs mount` hangs (`fuser -v` on it)",
        .path.display()
    )]
    NoTurn {
        /// The locked file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A program is missing.
    #[error(
        "the program {program} is in none of {places}; install it with `apt-get install zfsutils-linux` \
         (kernel module) or `apt-get install zfs-fuse`"
    )]
    NotInstalled {
        /// `zfs` or `zpool`.
        program: &'static str,
        /// Directories that were searched, divided by colons.
        places: String,
    },

    /// The programs are there, the module or the daemon behind them is not.
    #[error(
        "ZFS does not answer: `{command}` said: {said}; load the module with `modprobe zfs` or start the \
         daemon `zfs-fuse`, and run this server as root"
    )]
    NoAnswer {
        /// The command.
        command: String,
        /// Its standard error.
        said: String,
    },

    /// The operating system could not start a program or talk to it.
    #[error("`{command}` could not be run; look for missing memory, processes or rights")]
    Run {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },

    /// A command ended with an error. What it had done by then is not known unless the caller says so.
    #[error("`{command}` failed ({status}): {said}; {remedy}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its standard error.
        said: String,
        /// What to do.
        remedy: &'static str,
    },

    /// A command was stopped because it took too long; whether it took effect is not known.
    #[error(
        "`{command}` did not finish within {limit:?}{}, and had said: {said:?}; `zpool status` tells whether the \
         pool hangs",
        stuck(.is_stuck)
    )]
    TimedOut {
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
        /// Its standard error so far.
        said: String,
        /// Whether it was still there after it was killed: the kernel holds it.
        is_stuck: bool,
    },

    /// A command printed what this version of the driver does not understand.
    #[error("`{command}` printed something unknown: {what}; run it by hand and report its output")]
    Unreadable {
        /// The command.
        command: String,
        /// What is wrong with it.
        what: &'static str,
    },

    /// The programs or the pool are too old for something.
    #[error("{what} can't be done here: {remedy}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },

    /// A name with other characters than letters, digits and `_.:-`, or with an empty part.
    #[error(
        "{name:?} is no name; the parts between slashes are letters, digits and `_.:-`, and begin with \
         neither `-` nor `.`"
    )]
    BadName {
        /// The name.
        name: String,
    },

    /// A name that is too long.
    #[error(
        "{name:?} is longer than {bytes_max} bytes; choose a shorter pool, prefix or snapshot name"
    )]
    LongName {
        /// The name.
        name: String,
        /// Bytes it may have.
        bytes_max: usize,
    },

    /// A path that a mount point can't be.
    #[error(
        "{path:?} is no mount point; give an absolute path in UTF-8 without control characters"
    )]
    BadMountpoint {
        /// The path.
        path: std::path::PathBuf,
    },

    /// There is no such dataset or snapshot.
    #[error("{name} does not exist; `zfs list -t all` shows what does")]
    Missing {
        /// The name.
        name: String,
    },

    /// A dataset that does not carry the cluster's mark itself; it was not touched.
    #[error(
        "{dataset} is not of this cluster: its oxfs:cluster is {}, not {ours}; it was not touched. Choose \
         another pool or prefix, or, if all of it may be lost to the cluster, run `zfs set \
         oxfs:cluster={ours} {dataset}`",
        .mark.as_deref().unwrap_or("not set on it")
    )]
    Foreign {
        /// The dataset.
        dataset: String,
        /// The mark it carries itself; an inherited one doesn't count.
        mark: Option<String>,
        /// The cluster that asked.
        ours: ClusterId,
    },

    /// A dataset of the cluster that holds the store of another server, or none; it was not touched.
    #[error(
        "{dataset} holds {}, not that of this server ({ours}); give this server a dataset of its own, or \
         the directory that belongs to this one, or, if what it holds is lost to the cluster already, run \
         `zfs destroy -r {dataset}`",
        .store.as_deref().map_or_else(|| "no store".to_owned(), |store| format!("the store {store}"))
    )]
    OtherStore {
        /// The dataset.
        dataset: String,
        /// The store it holds.
        store: Option<String>,
        /// The store that asked.
        ours: String,
    },

    /// Writes to the dataset are called stable before they are.
    #[error(
        "{dataset} has sync=disabled, so that a loss of power loses what was synced; run `zfs set \
         sync=standard {dataset}`"
    )]
    NotSynced {
        /// The dataset.
        dataset: String,
    },

    /// A dataset outside the part of the pool that the cluster uses; it was not touched.
    #[error(
        "{dataset} is not below {root}, which is all that the cluster uses; choose another name"
    )]
    Outside {
        /// The dataset.
        dataset: String,
        /// Where the cluster's datasets lie.
        root: String,
    },

    /// A dataset that has others below it; it was not touched.
    #[error("{dataset} has datasets below it, {child} for one; move or destroy them first")]
    HasChildren {
        /// The dataset.
        dataset: String,
        /// One of those below.
        child: String,
    },

    /// There is something already where a full stream should be received; it was not touched.
    #[error(
        "{dataset} has snapshots, {snapshot} for one, so no full stream can be received into it; send an \
         increment, or destroy the dataset first"
    )]
    HasSnapshots {
        /// The dataset.
        dataset: String,
        /// One of its snapshots.
        snapshot: String,
    },

    /// The receiving dataset doesn't have the snapshot that an increment builds upon; it was not touched.
    #[error(
        "{dataset} has no snapshot with guid {guid}; send the whole, or an increment from a snapshot that \
         both have"
    )]
    NoBase {
        /// The dataset.
        dataset: String,
        /// The identity of the snapshot asked for.
        guid: u64,
    },

    /// The receiving dataset has snapshots newer than the one that an increment builds upon; it was not
    /// touched.
    #[error(
        "{dataset} has snapshots newer than {base}, {newest} for one: it has a history of its own since; \
         keep it elsewhere or destroy those snapshots first"
    )]
    Diverged {
        /// The dataset.
        dataset: String,
        /// The snapshot that the increment builds upon.
        base: String,
        /// The newest snapshot.
        newest: String,
    },

    /// Programs could be writing to the receiving dataset; it was not touched.
    #[error("{dataset} is mounted and writable; unmount it or set it read-only before it receives")]
    InUse {
        /// The dataset.
        dataset: String,
    },

    /// A transfer was cancelled by its owner.
    #[error("`{command}` was cancelled")]
    Cancelled {
        /// The command.
        command: String,
    },
}

impl Error {
    /// Whether the cause is that a dataset, snapshot or pool is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::Failed { said, .. } => {
                said.contains("does not exist") || said.contains("no such pool")
            }
            _ => false,
        }
    }

    /// The error of a command that ended badly.
    pub(crate) fn failed(command: &str, status: ExitStatus, said: String) -> Self {
        Self::Failed {
            command: command.to_owned(),
            status,
            remedy: remedy(&said),
            said: if said.is_empty() {
                "nothing".to_owned()
            } else {
                said
            },
        }
    }
}

fn stuck(is_stuck: &bool) -> &'static str {
    if *is_stuck {
        " and can't be killed"
    } else {
        ""
    }
}

/// What to do about what a command said, in the words of every version since zfs-fuse.
fn remedy(said: &str) -> &'static str {
    const REMEDIES: &[(&str, &str)] = &[
        (
            "ermission denied",
            "run as root, or allow it with `zfs allow`",
        ),
        (
            "must be superuser",
            "run as root, or allow it with `zfs allow`",
        ),
        ("out of space", "free space or add a disk with `zpool add`"),
        (
            "no such pool",
            "`zpool import` lists the pools that can be brought in",
        ),
        ("does not exist", "`zfs list -t all` shows what does"),
        (
            "already exists",
            "choose another name or destroy the old one",
        ),
        (
            "partially-complete state",
            "go on with its token, or forget it with `zfs receive -A`",
        ),
        (
            "is busy",
            "`fuser -vm` on its mount point shows who uses it",
        ),
        (
            "has dependent clones",
            "destroy or promote the clones first",
        ),
        (
            "I/O is currently suspended",
            "bring the disks back, then run `zpool clear`",
        ),
        ("I/O error", "`zpool status -v` shows the disk that failed"),
        (
            "has been modified",
            "the changes since its newest snapshot are in the way: discard them",
        ),
        (
            "does not match incremental source",
            "send an increment from a snapshot that both have",
        ),
        (
            "invalid backup stream",
            "the stream was cut or damaged: send it again",
        ),
        (
            "invalid stream",
            "the stream was cut or damaged: send it again",
        ),
        ("incomplete", "the stream was cut: send it again"),
        ("zfs-fuse daemon", "start the daemon `zfs-fuse`"),
        ("modules are not loaded", "run `modprobe zfs`"),
    ];
    REMEDIES
        .iter()
        .find(|(phrase, _)| said.contains(phrase))
        .map_or(
            "`zpool status -v` shows the pool's health",
            |(_, remedy)| remedy,
        )
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn failures_name_the_command_what_it_said_and_the_remedy() {
        let said = "cannot destroy 'tank/a': dataset is busy".to_owned();

        let error = Error::failed("zfs destroy tank/a", ExitStatus::from_raw(256), said);

        let text = error.to_string();
        for part in [
            "zfs destroy tank/a",
            "exit status: 1",
            "dataset is busy",
            "fuser",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!error.is_missing());
    }

    #[test]
    fn what_is_not_there_is_told_from_other_failures() {
        for said in [
            "cannot open 'tank/x': dataset does not exist",
            "cannot open 'nope': no such pool",
        ] {
            let error = Error::failed("zfs get", ExitStatus::from_raw(256), said.to_owned());
            assert!(error.is_missing());
        }
    }
}
