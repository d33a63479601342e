//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// OxFS: a replicated file system.
#[derive(Debug, Parser)]
#[command(name = "oxfs", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine and mount it; Ctrl-C ends it.
    Up(UpArguments),
    /// End the cluster that `up` started.
    Down(DirArguments),
    /// Start one server of a cluster that `up` made, after it died or was repaired; or a further one.
    Start(StartArguments),
    /// Run one metadata server in the foreground; SIGTERM ends it.
    Mrc(ConfigArguments),
    /// Run one object server in the foreground; SIGTERM ends it.
    Osd(ConfigArguments),
    /// Mount a volume of a running cluster; `umount MNT` ends it.
    Mount(MountArguments),
    /// Print name, length and checksum of every object in a stopped object server's directory.
    StoreSums {
        /// The object server's directory.
        dir: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct UpArguments {
    /// Directory of the cluster; made if it is missing. What is in it is kept and found again.
    #[arg(long, env = "OXFS_DIR")]
    pub(crate) dir: PathBuf,
    /// Empty directory to mount the volume `default` on.
    #[arg(long, required_unless_present = "restart")]
    pub(crate) mount: Option<PathBuf>,
    /// One metadata server and one object server instead of three each; only matters when DIR is
    /// made.
    #[arg(long)]
    pub(crate) single: bool,
    /// Start servers and the mount again when they die. If the cluster is running already: start
    /// what is dead, and return.
    #[arg(long)]
    pub(crate) restart: bool,
    /// What object servers keep files in: `dir`, plain directories in DIR, or `zfs`, datasets below
    /// --zfs-dataset. Only matters when DIR is made. Default: dir.
    #[arg(long, value_enum)]
    pub(crate) store: Option<Store>,
    /// Dataset below which each object server makes one of its own, such as tank/oxfs. It is made if
    /// it is missing; its pool must be there.
    #[arg(
        long,
        value_name = "POOL/DS",
        required_if_eq("store", "zfs"),
        requires = "store"
    )]
    pub(crate) zfs_dataset: Option<String>,
}

impl UpArguments {
    /// What was asked for: none if nothing was, else the dataset, or none for directories.
    pub(crate) fn store(&self) -> anyhow::Result<Option<Option<&str>>> {
        match (self.store, &self.zfs_dataset) {
            (None, _) => Ok(None),
            (Some(Store::Dir), None) => Ok(Some(None)),
            (Some(Store::Dir), Some(dataset)) => {
                anyhow::bail!("--zfs-dataset {dataset} needs --store zfs")
            }
            (Some(Store::Zfs), dataset) => Ok(Some(dataset.as_deref())),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Store {
    /// Plain directories.
    Dir,
    /// ZFS datasets.
    Zfs,
}

#[derive(Args, Debug)]
pub(crate) struct DirArguments {
    /// Directory of the cluster.
    #[arg(long, env = "OXFS_DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct StartArguments {
    /// Directory of the cluster.
    #[arg(long, env = "OXFS_DIR")]
    pub(crate) dir: PathBuf,
    /// The server: mrc-1, osd-2, ...
    #[arg(value_name = "ID", required_unless_present_any = ["new_osd", "new_mrc"])]
    pub(crate) server: Option<String>,
    /// Add a further object server to the cluster.
    #[arg(long, conflicts_with = "server")]
    pub(crate) new_osd: bool,
    /// Start a further metadata server, which `xfs-admin mrc add` then makes a member.
    #[arg(long, conflicts_with_all = ["server", "new_osd"])]
    pub(crate) new_mrc: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArguments {
    /// TOML file with the server's settings.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct MountArguments {
    /// MRC[,MRC...]/VOLUME: addresses of metadata servers and name of the volume. With --dir the
    /// volume alone is enough.
    #[arg(value_name = "MRC/VOLUME")]
    pub(crate) what: String,
    /// Empty directory to mount on.
    #[arg(value_name = "MNT")]
    pub(crate) point: PathBuf,
    /// Mount options, separated by commas: soft=SECONDS (programs get EIO after waiting so long;
    /// default: they wait for ever), ro, allow_other (default if root mounts), dev, suid, noexec,
    /// max_background=COUNT, read_ahead_age_ms=MILLISECONDS, metrics_listen=IP:PORT, cluster=ID,
    /// secret_file=PATH.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Stay in the foreground, with the log on standard error; SIGTERM unmounts. Default: return
    /// when the volume is mounted, and go on in the background.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Directory of a local cluster, which has its id and secret.
    #[arg(long, env = "OXFS_DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// File with the cluster's secret, if there is no --dir.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Cluster id, if there is no --dir.
    #[arg(long, value_name = "ID")]
    pub(crate) cluster: Option<String>,
    /// File for the log of a mount in the background; default DIR/logs/mount.log, or
    /// oxfs-mount-PID.log in the directory for temporary files.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
}
