//! File system benchmark of any mounted directory, and of several in one run.
//!
//! Every row does the same work on each directory, one directory after the other, so that ratios
//! hold on a noisy machine. Numbers are operations per second unless the row says otherwise.

mod counts;
mod measure;
mod peers;
mod rows;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::counts::Counting;
use crate::peers::{Peer, System};

/// Measures file system operations in one or more directories.
#[derive(Debug, Parser)]
struct Options {
    /// Directory to measure; repeat it to compare. The first one is the base of the ratios.
    #[arg(long, required = true)]
    mount: Vec<PathBuf>,
    /// Systems that are started on this machine, with three replicas, and measured beside: columns
    /// after the first directory.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    peers: Vec<System>,
    /// Writes all numbers as JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A tenth of the work.
    #[arg(long)]
    quick: bool,
    /// Names of processes whose CPU time counts as the file system's.
    #[arg(
        long,
        default_value = "oxfs,mfsmaster,mfschunkserver,mfsmount,glusterfs,glusterfsd,glusterd",
        value_delimiter = ','
    )]
    processes: Vec<String>,
    /// Where the mount of the last directory serves its numbers (mount option metrics_listen): counts
    /// the messages of each operation.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<String>,
    /// Counts the syncs of all processes with perf(1).
    #[arg(long)]
    syncs: bool,
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    for mount in &options.mount {
        ensure!(
            mount.is_dir(),
            "{} is no directory; mount the file system there first",
            mount.display()
        );
    }
    peers::installed(&options.peers)?;
    std::thread::spawn(benches::process::end_on_signal);
    let peers: Vec<Peer> = options
        .peers
        .iter()
        .map(|system| Peer::start(*system))
        .collect::<Result<_>>()?;
    let mut mounts = options.mount.clone();
    mounts.splice(1..1, peers.iter().map(Peer::mount));
    let scale = if options.quick { 10 } else { 1 };
    let mut results = Vec::new();
    let last = mounts.last();
    for row in rows::rows(scale) {
        if options
            .only
            .as_ref()
            .is_some_and(|only| !row.name.contains(only.as_str()))
        {
            continue;
        }
        for mount in &mounts {
            let counting = Counting {
                metrics: options.metrics.clone().filter(|_| Some(mount) == last),
                syncs: options.syncs,
            };
            let result = measure::measure(&row, mount, &options.processes, &counting)
                .with_context(|| format!("{} in {}", row.name, mount.display()))?;
            results.push(result);
        }
        table::print_row(&results, mounts.len());
    }
    table::print(&mounts, &results);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&table::report(&mounts, &results))?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
