//! Lease benchmark: the lease servers of this system against ZooKeeper and etcd.
//!
//! All are real processes on this machine and do the same work. `leasebench node` is one lease
//! server; it is started by the benchmark.

mod ask;
mod client;
mod contention;
mod control;
mod etcd;
mod etcd_api;
mod etcd_load;
mod fail_over;
mod hold;
mod jobs;
mod jute;
mod loaded;
mod memory;
mod node;
mod oxfs;
mod pairs;
mod peer_hold;
mod peers;
mod plan;
mod report;
mod row;
mod stats;
mod suite;
mod svg;
mod worker;
mod zk_load;
mod zk_session;
mod zookeeper;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::plan::Plan;

/// Measures leases: throughput, latency, contention and fail-over.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// A few minutes instead of an hour.
    #[arg(long)]
    quick: bool,
    /// Writes all numbers as JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these systems.
    #[arg(long, value_delimiter = ',', default_value = "oxfs,zookeeper,etcd")]
    systems: Vec<String>,
    /// Only these works.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "acquire_release,hold,contention,fail_over"
    )]
    works: Vec<String>,
    /// Only these numbers of lease servers.
    #[arg(long, value_delimiter = ',')]
    members: Vec<usize>,
    /// Only these numbers of acquisitions under way at a time.
    #[arg(long, value_delimiter = ',')]
    outstanding: Vec<usize>,
    /// Draws the throughput as SVG into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Puts the tables into this Markdown file, between their marks.
    #[arg(long)]
    docs: Option<PathBuf>,
    /// Threads of each lease server that read and write sockets. One by default: all servers and
    /// clients share this machine's processors.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs one lease server.
    Node(node::NodeOptions),
    /// A host full of leases, without a network.
    Memory(memory::MemoryOptions),
}

fn main() -> Result<()> {
    let options = Options::parse();
    match &options.verb {
        Some(Verb::Node(node)) => return node::run(node),
        Some(Verb::Memory(memory)) => return memory::run(memory),
        None => {}
    }
    let mut plan = if options.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    if !options.members.is_empty() {
        plan.members.clone_from(&options.members);
    }
    if !options.outstanding.is_empty() {
        plan.outstanding.clone_from(&options.outstanding);
    }
    std::thread::spawn(benches::process::end_on_signal);
    let (report, outcome) = suite::run(&options, &plan)?;
    if let Some(path) = &options.json {
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &options.svg {
        write(path, &report.plot())?;
    }
    if let Some(path) = &options.docs {
        let before = std::fs::read_to_string(path).unwrap_or_else(|_| "# Performance\n".to_owned());
        write(path, &report::insert(&before, &report.markdown()))?;
    }
    println!("\n{}", report.markdown());
    outcome
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
