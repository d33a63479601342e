//! The process of the clients of one mount.
//!
//! Clients are no threads of the process that breaks the cluster: whoever starts a program closes
//! copies of all its open files on the way, and a close waits for a mount that is cut off.

use std::fs::{self, File};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

use crate::client::Client;
use crate::history::now_ns;
use crate::operation::{Operation, Outcome, Record};
use crate::workload::{CLIENTS_PER_MOUNT, LOGS, Manner, Plan};

/// The client that makes the first files and reads everything at the end.
const OTHER_CLIENT: u32 = 1000;

/// What the process of a mount's clients does. It tells of every operation on standard output.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Work {
    /// Makes the files that clients expect.
    SetUp {
        /// Mount point.
        root: PathBuf,
    },
    /// Works after its plans until standard input ends.
    Plans {
        /// Mount point.
        root: PathBuf,
        /// Number of the mount, from 1.
        mount: u8,
        /// Seed of the plans.
        plans: u64,
    },
    /// Performs the operations that it is told on standard input, and keeps the logs that it reads.
    Told {
        /// Mount point.
        root: PathBuf,
        /// Where logs are kept.
        logs: PathBuf,
    },
    /// Reads everything and keeps a list of the files, then makes, syncs, renames and removes one.
    Walk {
        /// Mount point.
        root: PathBuf,
        /// Where the list is kept.
        list: PathBuf,
    },
}

/// Works in this process.
///
/// # Errors
///
/// If nobody listens, or what it is told can't be understood.
pub(crate) fn work(work: &Work) -> Result<()> {
    match work {
        Work::SetUp { root } => {
            let mut client = Client::new(root.clone(), OTHER_CLIENT);
            client.set_up(&LOGS).context("making the first files")
        }
        Work::Plans {
            root,
            mount,
            plans: seed,
        } => {
            plans(root, *mount, *seed);
            Ok(())
        }
        Work::Told { root, logs } => told(root, logs),
        Work::Walk { root, list } => walk(root, list),
    }
}

fn walk(root: &Path, list: &Path) -> Result<()> {
    let mut inodes = String::new();
    for path in tests::Tree::read(root)?.paths() {
        let inode = fs::symlink_metadata(root.join(path))?.ino();
        inodes.push_str(&format!("{inode:x}\n"));
    }
    fs::write(found_inodes(list), inodes)?;
    let [made, renamed] = ["walk", "walk-renamed"].map(|name| root.join(name));
    let mut file = File::create_new(&made)?;
    file.write_all(b"after")?;
    file.sync_all()?;
    fs::rename(&made, &renamed)?;
    ensure!(fs::read(&renamed)? == b"after", "a new file was changed");
    fs::remove_file(&renamed)?;
    Ok(())
}

fn plans(root: &Path, mount: u8, seed: u64) {
    let end = Arc::new(AtomicBool::new(false));
    let first = u32::from(mount - 1) * CLIENTS_PER_MOUNT;
    let clients: Vec<_> = (first..first + CLIENTS_PER_MOUNT)
        .map(|number| {
            let mut client = Client::new(root.to_owned(), number);
            let end = Arc::clone(&end);
            thread::spawn(move || {
                for step in Plan::new(seed, number) {
                    let told = perform(&mut client, mount, number, step.operation, step.manner);
                    if told.is_err() || end.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(step.pause_ms));
                }
            })
        })
        .collect();
    // Whoever started us says so, or is gone.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    end.store(true, Ordering::Relaxed);
    for client in clients {
        // One that panicked has said so; its operation stays without an end.
        let _ = client.join();
    }
}

fn told(root: &Path, keep: &Path) -> Result<()> {
    let mut client = Client::new(root.to_owned(), OTHER_CLIENT);
    let manner = Manner {
        held: false,
        direct: false,
        o_sync: false,
    };
    for line in io::stdin().lock().lines() {
        let operation: Operation = serde_json::from_str(&line?)?;
        let log = match &operation {
            Operation::ReadLog { log } => Some(log.clone()),
            _ => None,
        };
        perform(&mut client, 1, OTHER_CLIENT, operation, manner)?;
        if let Some(log) = log {
            fs::write(final_log(keep, &log), client.last_log())?;
        }
    }
    Ok(())
}

/// Where the inode numbers of all files are kept, hexadecimal, one in each line.
pub(crate) fn found_inodes(keep: &Path) -> PathBuf {
    keep.join("final-inodes")
}

/// Where the content of a log is kept.
pub(crate) fn final_log(keep: &Path, log: &str) -> PathBuf {
    keep.join(format!("final-{log}"))
}

/// Performs an operation between two looks at the clock, and tells of its beginning and its end.
fn perform(
    client: &mut Client,
    mount: u8,
    number: u32,
    operation: Operation,
    manner: Manner,
) -> io::Result<()> {
    let mut record = Record {
        client: number,
        mount,
        began_ns: now_ns(),
        ended_ns: u64::MAX,
        held_ns: None,
        operation,
        outcome: Outcome::Hanging,
    };
    tell(&record)?;
    record.outcome = client.perform(&record.operation, manner);
    record.ended_ns = now_ns();
    record.held_ns = client.held_ns();
    tell(&record)
}

fn tell(record: &Record) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
