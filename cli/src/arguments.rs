//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use types::WritePolicy;

use crate::members::Server;

/// Heading of the options that every command has.
const GLOBAL: &str = "Which cluster, and how to print";

/// Administer an OxFS cluster.
///
/// The cluster is found by --dir (or OXFS_DIR) if it runs on this machine, else by --mrc (or
/// OXFS_MRC) with --cluster and --secret-file. Exit status: 0 done, 1 failed, 2 wrong usage,
/// 3 partly done.
#[derive(Debug, Parser)]
#[command(name = "xfs-admin", version)]
pub(crate) struct Arguments {
    /// Addresses of metadata servers, HOST:PORT; any of the cluster's will do.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "OXFS_MRC",
        value_name = "ADDR[,ADDR...]",
        value_delimiter = ','
    )]
    pub(crate) mrc: Vec<String>,
    /// Directory of a cluster on this machine.
    #[arg(long, global = true, help_heading = GLOBAL, env = "OXFS_DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Cluster id, if there is no --dir.
    #[arg(long, global = true, help_heading = GLOBAL, env = "OXFS_CLUSTER", value_name = "ID")]
    pub(crate) cluster: Option<String>,
    /// File with the cluster's secret, if there is no --dir.
    #[arg(long, global = true, help_heading = GLOBAL, env = "OXFS_SECRET_FILE", value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// How to print: a table for people, or JSON for programs.
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What everything waits for: requests without a lease or a quorum, and servers that are missing.
    Doctor,
    /// Every server and mount, all volumes, and how complete the replicas are.
    Status,
    /// What servers and mounts do now: operations, bytes, waiting times, queues, and what is left to be copied.
    ///
    /// Refreshed every second on a terminal; `q` ends it. Numbers of mounts are means over the ten seconds between
    /// two of their reports.
    Top {
        /// Print it once, over one second, and end; so it is without a terminal, too.
        #[arg(long)]
        once: bool,
    },
    /// Where each process serves its numbers to Prometheus; with --output json, for its `file_sd_configs`.
    Metrics,
    /// Volumes.
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Object servers.
    #[command(subcommand)]
    Osd(OsdVerb),
    /// Metadata servers.
    #[command(subcommand)]
    Mrc(MrcVerb),
    /// Placement groups.
    #[command(subcommand)]
    Pg(PgVerb),
    /// What the cluster does by itself about its replicas.
    #[command(subcommand)]
    Job(JobVerb),
    /// Leases of objects.
    #[command(subcommand)]
    Lease(LeaseVerb),
    /// Reading and comparing everything that is stored, and repairing what is damaged.
    #[command(subcommand)]
    Scrub(ScrubVerb),
    /// Sessions of mounts.
    #[command(subcommand)]
    Session(SessionVerb),
    /// Configuration files.
    #[command(subcommand)]
    Config(ConfigVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume.
    Create(VolumeCreate),
    /// All volumes.
    List,
    /// One volume.
    Show {
        /// Its name.
        name: String,
    },
    /// Change a volume's policy; files stay open. Waits until its object servers know it.
    Set(VolumeSet),
    /// Delete a volume with everything in it.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct VolumeCreate {
    /// Its name.
    pub(crate) name: String,
    /// Replicas of every object; default 3, or as many as there are object servers if fewer.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replicas: Option<u32>,
    /// When a change is acknowledged; default memsync. Whatever it is, fsync means on disk.
    #[arg(long, value_enum)]
    pub(crate) policy: Option<Policy>,
    /// How many of the replicas it takes; default majority. With `all`, a replica that is down stops
    /// writing until it is back.
    #[arg(long, value_enum)]
    pub(crate) quorum: Option<Quorum>,
    /// Placement groups; default 32.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pgs: Option<u32>,
    /// Permissions of the root directory, octal; default 755.
    #[arg(long, value_parser = octal, default_value = "0", hide_default_value = true)]
    pub(crate) mode: u32,
    /// Owner of the root directory.
    #[arg(long, default_value_t = 0)]
    pub(crate) uid: u32,
    /// Group of the root directory.
    #[arg(long, default_value_t = 0)]
    pub(crate) gid: u32,
}

#[derive(Args, Debug)]
pub(crate) struct VolumeSet {
    /// Its name.
    pub(crate) name: String,
    /// When a change is acknowledged.
    #[arg(long, value_enum, required_unless_present_any = ["quorum", "replicas"])]
    pub(crate) policy: Option<Policy>,
    /// How many of the replicas it takes.
    #[arg(long, value_enum)]
    pub(crate) quorum: Option<Quorum>,
    /// Replicas of every object. They are added or removed group by group; `pg list` shows how far it is.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replicas: Option<u32>,
}

/// When a change is acknowledged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Policy {
    /// When the quorum has it on disk.
    Fullsync,
    /// When the quorum has it in memory.
    Memsync,
    /// When the primary has it. What was not synced may be lost with the primary.
    Async,
}

/// How many replicas a change takes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Quorum {
    /// More than half.
    Majority,
    /// Each.
    All,
}

impl From<Policy> for WritePolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Fullsync => Self::Fullsync,
            Policy::Memsync => Self::Memsync,
            Policy::Async => Self::Async,
        }
    }
}

impl From<Quorum> for types::Quorum {
    fn from(quorum: Quorum) -> Self {
        match quorum {
            Quorum::Majority => Self::Majority,
            Quorum::All => Self::All,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum OsdVerb {
    /// All object servers.
    List,
    /// What is known of one: for a store on ZFS also its pool's state, errors and last scrub.
    Show {
        /// Its number.
        osd: u64,
    },
    /// Bring everything that a server holds to others. Waits until it holds nothing, unless --no-wait.
    Drain {
        /// Its number.
        osd: u64,
        /// Return at once; `osd list` shows how far it is.
        #[arg(long)]
        no_wait: bool,
    },
    /// Let a server hold replicas again.
    Undrain {
        /// Its number.
        osd: u64,
    },
    /// Forget a server that holds nothing.
    Remove {
        /// Its number.
        osd: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MrcVerb {
    /// All metadata servers: what each says of itself, and how far behind it is.
    #[command(visible_alias = "status")]
    List,
    /// Make running servers with empty directories voting members, several in one change.
    Add {
        /// Its number and where it listens.
        #[arg(value_name = "ID=HOST:PORT", required = true)]
        servers: Vec<Server>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Go on without some servers, which then end.
    Remove {
        /// Their numbers.
        #[arg(value_name = "ID", required = true)]
        servers: Vec<u64>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Put a running server with an empty directory into the place of another one, in one change.
    Replace {
        /// Number of the one to go.
        #[arg(value_name = "ID")]
        old: u64,
        /// Number and address of the other.
        #[arg(value_name = "ID=HOST:PORT")]
        new: Server,
        #[command(flatten)]
        patience: Patience,
    },
}

/// How long a change of the metadata servers is waited for.
#[derive(Args, Debug)]
pub(crate) struct Patience {
    /// Seconds to wait. What is not done by then goes on with the same command.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

impl Patience {
    pub(crate) const fn time(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.timeout)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PgVerb {
    /// Placement groups of a volume, or of all.
    List {
        /// Name of the volume.
        #[arg(long)]
        volume: Option<String>,
    },
    /// One placement group.
    Show {
        /// Name of the volume.
        volume: String,
        /// Number of the placement group in it.
        pg: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobVerb {
    /// Servers that are being drained, and placement groups that are not as they should be, with why.
    List,
    /// How far all of it is, how fast it goes, and how long it takes yet.
    Show,
    /// Begin no change of a replica set any more, and copy nothing more for those under way, unless only
    /// one copy is left.
    Pause,
    /// Go on with what was paused.
    Resume,
    /// Limit how much is copied. It holds at once, also for what is under way.
    Limit {
        /// Bytes per second of all object servers together, as 50MiB; `default` for 32 MiB of each.
        #[arg(value_name = "RATE", value_parser = crate::jobs::rate)]
        bytes_per_s: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseVerb {
    /// Leases that object servers hold now; each is asked.
    List {
        /// At most so many of each server.
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
    /// What each replica knows of one lease.
    Show {
        /// VOLUME/INODE[.COLUMN], or the 32 digits of a lease cell.
        object: String,
    },
    /// Make another server the primary of an object.
    HandOver {
        /// VOLUME/INODE[.COLUMN], or the 32 digits of a lease cell.
        object: String,
        /// Number of the object server; by default the one after the holder.
        #[arg(long)]
        to: Option<u64>,
    },
    /// Numbers about leases, of each server.
    Stats,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScrubVerb {
    /// Begin a round now; one that is under way goes on.
    Start {
        /// Only this object server.
        #[arg(long)]
        osd: Option<u64>,
    },
    /// How far each object server is, what it found, and what became of it.
    Status {
        /// Only this object server.
        #[arg(long)]
        osd: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionVerb {
    /// All sessions.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check a server's configuration file without starting it.
    Check {
        /// The file.
        file: PathBuf,
    },
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("{text:?} is no octal mode; give 755, 1777, ..."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn options_stand_before_or_after_the_nouns() {
        for line in [
            "xfs-admin --mrc a:1,b:2 --output json osd list",
            "xfs-admin osd list --output json --mrc a:1,b:2",
        ] {
            let arguments = parse(line).unwrap();
            assert_eq!(arguments.mrc, ["a:1", "b:2"]);
            assert_eq!(arguments.output, Output::Json);
            assert!(matches!(arguments.command, Command::Osd(OsdVerb::List)));
        }
    }

    #[test]
    fn every_promised_command_is_understood() {
        for line in [
            "status",
            "volume create v --replicas 2 --mode 1777",
            "volume create v --policy fullsync --quorum all",
            "volume set v --policy async",
            "volume set v --quorum majority",
            "volume list",
            "volume show v",
            "volume delete v",
            "osd list",
            "osd show 3",
            "osd drain 3",
            "osd drain 3 --no-wait",
            "osd undrain 3",
            "osd remove 3",
            "mrc list",
            "mrc status",
            "mrc add 4=10.0.0.4:7101",
            "mrc add 4=10.0.0.4:7101 5=10.0.0.5:7101 --timeout 60",
            "mrc remove 3",
            "mrc remove 3 4",
            "mrc replace 3 4=10.0.0.4:7101",
            "pg list",
            "pg list --volume v",
            "pg show v 3",
            "job list",
            "job show",
            "job pause",
            "job resume",
            "job limit 50MiB",
            "job limit default",
            "doctor",
            "top",
            "top --once",
            "metrics",
            "lease list",
            "lease list --limit 5",
            "lease show v/42.1",
            "lease hand-over 1/42 --to 3",
            "lease stats",
            "session list",
            "config check f",
        ] {
            assert!(parse(&format!("xfs-admin {line}")).is_ok(), "{line}");
        }
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "frobnicate",
            "volume",
            "volume create",
            "volume set v",
            "volume set v --policy sync",
            "volume create v --quorum most",
            "pg show v x",
            "job limit",
            "job limit fast",
            "mrc add",
            "mrc add 4",
            "mrc add 4=a",
            "mrc remove",
            "mrc replace 3",
            "volume create v --mode 9",
            "volume create v --replicas 0",
            "volume create v --pgs 0",
        ] {
            let error = parse(&format!("xfs-admin {line}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
