//! The cores must not be able to do I/O: their normal dependency closures are searched for crates
//! that can.

use anyhow::{Result, bail};

use crate::run::{cargo_program, output};

const CORES: &[&str] = &[
    "types",
    "proto",
    "lease",
    "planner",
    "mrc-core",
    "osd-core",
    "client-core",
];

/// Whoever has one of these in its closure can await, open a socket or keep a database.
const IMPURE: &[&str] = &[
    "tokio",
    "tonic",
    "fuser",
    "mio",
    "socket2",
    "sled",
    "fjall",
    "redb",
    "hyper",
    "openraft",
    "nix",
    "libc",
    "getrandom",
];

/// # Errors
///
/// Names each core and the impure crates it would pull in.
pub(crate) fn purity() -> Result<()> {
    let mut found = Vec::new();
    for core in CORES {
        let tree = output(
            &cargo_program(),
            &[
                "tree", "-q", "-p", core, "--edges", "normal", "--prefix", "none", "--format",
                "{p}",
            ],
        )?;
        for line in tree.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if IMPURE.contains(&name) {
                found.push(format!("{core} depends on {name}"));
            }
        }
    }
    found.dedup();
    if !found.is_empty() {
        bail!("cores are not pure:\n  {}", found.join("\n  "));
    }
    println!(
        "purity: {} cores depend on nothing that performs I/O",
        CORES.len()
    );
    Ok(())
}
